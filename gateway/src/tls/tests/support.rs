//! Certificates, manifests, a server and clients for tests of TLS.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RevokedCertParams, RsaKeySize,
    SerialNumber, date_time_ymd,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    compile::{self, Compiled, allocate::Allocations, objects::Objects, settings::Settings},
    snapshot::Snapshot,
    tls::{AcceptError, Accepted, Acceptor, Terminated, TlsTable, limits::TlsLimits, provider},
};

/// A PEM chain and its PEM key.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

pub(crate) struct Ca {
    params: CertificateParams,
    key: KeyPair,
    /// Its own certificate, as PEM.
    pub(crate) pem: String,
}

pub(crate) fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

impl Ca {
    pub(crate) fn new(common: &str) -> Self {
        let params = Self::params(common);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// A CA that this one has issued a certificate for.
    pub(crate) fn intermediate(&self, common: &str) -> Self {
        let (params, key) = (Self::params(common), KeyPair::generate().unwrap());
        let pem = params.signed_by(&key, &self.issuer()).unwrap().pem();
        Self { params, key, pem }
    }

    fn params(common: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(common);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = date_time_ymd(2100, 1, 1);
        params
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    pub(crate) fn leaf(&self, names: &[&str]) -> Pair {
        self.leaf_with(names, |_| {})
    }

    /// A certificate with changes of the test's own.
    pub(crate) fn leaf_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        self.issue(names, &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), change)
    }

    pub(crate) fn rsa_leaf(&self, names: &[&str]) -> Pair {
        self.issue(names, &KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(), |_| {})
    }

    fn issue(&self, names: &[&str], key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = name(names.first().unwrap_or(&""));
        params.not_after = date_time_ymd(2100, 1, 1);
        change(&mut params);
        Pair { chain: params.signed_by(key, &self.issuer()).unwrap().pem(), key: key.serialize_pem() }
    }

    /// A revocation list with these serial numbers, as PEM.
    pub(crate) fn crl(&self, revoked: &[u64], until: i32) -> String {
        let revoked = revoked.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }
}

/// The manifest of a Secret.
pub(crate) fn secret(name: &str, entries: &[(&str, &str)]) -> String {
    let mut text = format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n");
    for (key, value) in entries {
        text.push_str(&format!("  {key}: |\n"));
        value.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}

pub(crate) fn tls_secret(name: &str, pair: &Pair) -> String {
    secret(name, &[("tls.crt", &pair.chain), ("tls.key", &pair.key)])
}

/// The manifest of an Ingress with a rule for each host; `tls` is the list of `spec.tls`, as JSON.
pub(crate) fn ingress(name: &str, annotations: &[(&str, &str)], tls: &str, hosts: &[&str]) -> String {
    let mut text = format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n");
    text.push_str("  annotations:\n    a: b\n");
    for (short, value) in annotations {
        text.push_str(&format!("    nginx.ingress.kubernetes.io/{short}: {value:?}\n"));
    }
    text.push_str(&format!("spec:\n  tls: {tls}\n  rules:\n"));
    for host in hosts {
        let host = if host.is_empty() { String::new() } else { format!("host: {host:?}, ") };
        text.push_str(&format!(
            "  - {{{host}http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}\n"
        ));
    }
    text
}

/// The Service that the Ingresses name.
pub(crate) const SERVICE: &str =
    "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n";

/// Manifests, compiled one change after the other, at a time when the certificates of tests are good.
pub(crate) struct World {
    objects: Objects,
    settings: Settings,
    compiled: Option<Compiled>,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut objects = Objects::default();
        objects.now = Some(1_800_000_000);
        Self { objects, settings, compiled: None }
    }

    pub(crate) fn apply(&mut self, manifests: &str) -> Arc<Snapshot> {
        let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), &format!("{SERVICE}{manifests}"));
        assert_eq!(parsed.problems, []);
        for document in parsed.documents {
            self.objects.apply(document);
        }
        let compiled =
            compile::compile(&self.objects, &self.settings, &[], &Allocations::default(), self.compiled.as_ref());
        self.compiled.insert(compiled).snapshot.clone()
    }
}

pub(crate) fn snapshot(manifests: &str) -> Arc<Snapshot> {
    World::new(Settings::default()).apply(manifests)
}

/// Accepts connections one after the other, and greets who gets in.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    table: Arc<Mutex<Arc<TlsTable>>>,
    outcomes: mpsc::UnboundedReceiver<Result<Accepted, AcceptError>>,
}

impl Server {
    pub(crate) async fn start(snapshot: &Snapshot) -> Self {
        Self::start_with(snapshot, TlsLimits::default()).await
    }

    pub(crate) async fn start_with(snapshot: &Snapshot, limits: TlsLimits) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let table = Arc::new(Mutex::new(snapshot.tls.clone()));
        let (sender, outcomes) = mpsc::unbounded_channel();
        let shared = table.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (table, sender) = (shared.lock().unwrap().clone(), sender.clone());
                tokio::spawn(async move {
                    let mut outcome = Acceptor::new(limits).accept(&table, stream).await;
                    if let Ok(Accepted::Terminated(terminated)) = &mut outcome {
                        // The client reads it, and with it the tickets that come after a handshake of TLS 1.3.
                        drop(terminated.stream.write_all(b"hi").await);
                        drop(terminated.stream.flush().await);
                    }
                    drop(sender.send(outcome));
                });
            }
        });
        Self { addr, table, outcomes }
    }

    /// Serves another configuration from now on.
    pub(crate) fn publish(&self, snapshot: &Snapshot) {
        *self.table.lock().unwrap() = snapshot.tls.clone();
    }

    pub(crate) fn table(&self) -> Arc<TlsTable> {
        self.table.lock().unwrap().clone()
    }

    pub(crate) async fn outcome(&mut self) -> Result<Accepted, AcceptError> {
        self.outcomes.recv().await.unwrap()
    }

    pub(crate) async fn terminated(&mut self) -> Box<Terminated> {
        match self.outcome().await {
            Ok(Accepted::Terminated(terminated)) => terminated,
            other => panic!("{other:?}"),
        }
    }

    /// A client gets in; both sides of its connection.
    pub(crate) async fn meet(&mut self, client: &Client, sni: &str) -> (Met, Box<Terminated>) {
        let met = client.connect(self.addr, sni).await.unwrap();
        (met, self.terminated().await)
    }
}

/// A client, and what it remembers.
#[derive(Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    staple: Arc<Mutex<Vec<u8>>>,
}

/// What a client came to know.
pub(crate) struct Met {
    pub(crate) stream: TlsStream<TcpStream>,
    /// The common name or first alternative name of the certificate it was shown.
    pub(crate) shown: String,
    /// The certificate's kind of key.
    pub(crate) key: &'static str,
    pub(crate) resumed: bool,
}

pub(crate) fn version(tls12: bool) -> &'static SupportedProtocolVersion {
    if tls12 { &TLS12 } else { &TLS13 }
}

impl Client {
    pub(crate) fn new() -> Self {
        Self::with(&[&TLS13, &TLS12], None, |_| true)
    }

    pub(crate) fn of_version(version: &'static SupportedProtocolVersion) -> Self {
        Self::with(&[version], None, |_| true)
    }

    /// A client with a certificate of its own.
    pub(crate) fn showing(pair: &Pair, version: &'static SupportedProtocolVersion) -> Self {
        Self::with(&[version], Some(pair), |_| true)
    }

    pub(crate) fn with(
        versions: &[&'static SupportedProtocolVersion],
        pair: Option<&Pair>,
        knows: impl Fn(&SignatureScheme) -> bool,
    ) -> Self {
        let schemes = provider().signature_verification_algorithms.supported_schemes();
        let staple = Arc::new(Mutex::new(Vec::new()));
        let verifier = Curious { schemes: schemes.into_iter().filter(knows).collect(), staple: staple.clone() };
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match pair {
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(Result::unwrap).collect();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        Self { config: Arc::new(config), staple }
    }

    pub(crate) fn offering(mut self, protocols: &[&str]) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        self
    }

    /// The OCSP response it was shown last.
    pub(crate) fn staple(&self) -> Vec<u8> {
        self.staple.lock().unwrap().clone()
    }

    /// An empty `sni` sends none.
    pub(crate) async fn connect(&self, addr: SocketAddr, sni: &str) -> io::Result<Met> {
        let name =
            if sni.is_empty() { ServerName::from(addr.ip()) } else { ServerName::try_from(sni.to_owned()).unwrap() };
        let tcp = TcpStream::connect(addr).await?;
        let mut stream = TlsConnector::from(self.config.clone()).connect(name, tcp).await?;
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting).await?;
        let session = stream.get_ref().1;
        let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let (_, certificate) = x509_parser::parse_x509_certificate(&session.peer_certificates().unwrap()[0]).unwrap();
        let shown = certificate.subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned();
        let key = match certificate.public_key().parsed().unwrap() {
            x509_parser::public_key::PublicKey::RSA(_) => "RSA",
            x509_parser::public_key::PublicKey::EC(_) => "ECDSA",
            _ => "other",
        };
        Ok(Met { stream, shown, key, resumed })
    }
}

/// Believes everything, and notes the OCSP response.
#[derive(Debug)]
struct Curious {
    schemes: Vec<SignatureScheme>,
    staple: Arc<Mutex<Vec<u8>>>,
}

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.staple.lock().unwrap() = ocsp.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
