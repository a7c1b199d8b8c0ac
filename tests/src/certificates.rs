//! CAs and certificates of a test's own, and both ends of TLS with them.

use std::{io, net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::Client;

/// A PEM chain and its PEM key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, and those between it and its CA.
    pub chain: String,
    /// Its key.
    pub key: String,
}

/// Who issues certificates.
#[derive(Debug)]
pub struct Ca {
    params: CertificateParams,
    key: KeyPair,
    /// Its own certificate, and those above it but for the topmost.
    chain: String,
    /// Its own certificate, as PEM.
    pub pem: String,
}

impl Ca {
    /// One that nobody stands above.
    ///
    /// # Panics
    /// Never, with a name that is one.
    pub fn new(name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().expect("a key"));
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { params, key, chain: String::new(), pem }
    }

    /// One that this one has issued a certificate for.
    ///
    /// # Panics
    /// Never, with a name that is one.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().expect("a key"));
        let pem = params.signed_by(&key, &self.issuer()).expect("a certificate").pem();
        Self { params, key, chain: format!("{pem}{}", self.chain), pem }
    }

    /// A certificate for these names, of which the first is its subject, too.
    ///
    /// # Panics
    /// If they are no names.
    pub fn leaf(&self, names: &[&str]) -> Pair {
        let mut params =
            CertificateParams::new(names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>()).expect("names");
        params.distinguished_name = distinguished(names.first().unwrap_or(&""));
        self.issue(&params)
    }

    /// A certificate of this kind.
    ///
    /// # Panics
    /// If there can be none.
    pub fn issue(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let pem = params.signed_by(&key, &self.issuer()).expect("a certificate").pem();
        Pair { chain: format!("{pem}{}", self.chain), key: key.serialize_pem() }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate")).expect("a CA");
        roots
    }
}

impl Pair {
    fn read(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().expect("a chain");
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key"))
    }

    /// A server with this certificate, which asks its clients for one of these CA's if they have one.
    ///
    /// # Panics
    /// If certificate and key do not belong together.
    pub fn server(&self, clients: Option<&Ca>) -> ServerConfig {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has them");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(ca.roots()), provider)
                    .allow_unauthenticated()
                    .build()
                    .expect("there is a CA"),
            ),
        };
        let (chain, key) = self.read();
        builder.with_single_cert(chain, key).expect("they belong together")
    }
}

/// A client that believes one CA.
#[derive(Clone, Debug)]
pub struct TlsClient<'a> {
    /// The CA.
    pub believes: &'a Ca,
    /// What it shows of itself.
    pub shows: Option<&'a Pair>,
    /// What it speaks.
    pub versions: &'a [&'static SupportedProtocolVersion],
    /// In this order.
    pub suites: Vec<SupportedCipherSuite>,
}

impl<'a> TlsClient<'a> {
    /// One with nothing special about it.
    pub fn new(believes: &'a Ca) -> Self {
        let suites = aws_lc_rs::DEFAULT_CIPHER_SUITES.to_vec();
        Self { believes, shows: None, versions: rustls::ALL_VERSIONS, suites }
    }

    /// Connects and asks for a host.
    ///
    /// # Errors
    /// Whatever the handshake says.
    ///
    /// # Panics
    /// If the client contradicts itself.
    pub async fn connect(&self, addr: SocketAddr, host: &str) -> io::Result<Client<TlsStream<TcpStream>>> {
        let provider = CryptoProvider { cipher_suites: self.suites.clone(), ..aws_lc_rs::default_provider() };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)
            .expect("the suites are those of the versions")
            .with_root_certificates(self.believes.roots());
        let config = match self.shows {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let (chain, key) = pair.read();
                builder.with_client_auth_cert(chain, key).expect("they belong together")
            }
        };
        let name = ServerName::try_from(host.to_owned()).expect("a host");
        let stream = TcpStream::connect(addr).await?;
        Ok(Client::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
    }
}

fn distinguished(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// The manifest of a Secret.
pub fn secret_manifest(name: &str, entries: &[(&str, &str)]) -> String {
    let mut text = format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n");
    for (key, value) in entries {
        text += &format!("  {key}: |\n");
        value.lines().for_each(|line| text += &format!("    {line}\n"));
    }
    text
}
