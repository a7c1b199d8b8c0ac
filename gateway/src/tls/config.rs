//! `TlsConfig`: everything a handshake needs for one kind of host. Hosts that are alike share one, from configuration to
//! configuration, so that a change rebuilds what changed.

use std::sync::Arc;

use rustls::{
    ServerConfig, SupportedCipherSuite,
    crypto::CryptoProvider,
    pki_types::UnixTime,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use super::{Certificate, ClientAuth, Identity, Material, provider, tickets::ScopedTickets};

/// The oldest TLS that is spoken (`--tls-min-version`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2: ingress-nginx's default, and the oldest that RFC 9325 allows.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// How the connections to some hosts are secured.
#[derive(Debug)]
pub struct TlsConfig {
    /// What is shown, at most one for each kind of key, the cheapest to serve first.
    pub certificates: Box<[Arc<Certificate>]>,
    /// What is asked of clients.
    pub client_auth: Option<Arc<ClientAuth>>,
    server: Arc<ServerConfig>,
    /// Of everything but the certificates: what a client must have gone through to be let in.
    security: Identity,
    identity: Identity,
}

/// What a [`TlsConfig`] is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConfigSpec {
    pub(crate) certificates: Vec<Arc<Certificate>>,
    pub(crate) client_auth: Option<Arc<ClientAuth>>,
    /// Suites of TLS 1.2; `None` for all of them.
    pub(crate) suites: Option<Vec<SupportedCipherSuite>>,
    /// Whether our order of suites goes before the client's.
    pub(crate) prefer_server_order: bool,
    pub(crate) min_version: MinVersion,
}

impl ConfigSpec {
    /// What the configuration will have for its identity.
    pub(crate) fn identity(&self) -> Identity {
        let certificates = self.certificates.iter().map(|certificate| certificate.identity.as_bytes().as_slice());
        Identity::of([self.security().as_bytes().as_slice()].into_iter().chain(certificates))
    }

    /// Of everything but the certificates.
    pub(crate) fn security(&self) -> Identity {
        let suites =
            self.suites.as_ref().map(|suites| suites.iter().map(|suite| format!("{suite:?} ")).collect::<String>());
        let flags = [u8::from(self.suites.is_some()), u8::from(self.prefer_server_order), self.min_version as u8];
        let scope = scope(self.client_auth.as_deref());
        Identity::of([&flags[..], suites.unwrap_or_default().as_bytes(), scope.as_bytes()])
    }
}

impl TlsConfig {
    pub(crate) fn new(spec: ConfigSpec, material: &Material) -> Self {
        let (identity, security) = (spec.identity(), spec.security());
        let ConfigSpec { mut certificates, client_auth, suites, prefer_server_order, min_version } = spec;
        certificates.sort_by_key(|certificate| certificate.key_type);
        let versions: &[_] = match min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12],
            MinVersion::Tls13 => &[&TLS13],
        };
        let verifier = client_auth.as_ref().and_then(|auth| auth.question());
        let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
        let mut server = ServerConfig::builder_with_provider(provider_with(suites))
            .with_protocol_versions(versions)
            .expect("TLS 1.3 and its suites are always among them")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ByKeyType(certificates.clone())));
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        server.ignore_client_order = prefer_server_order;
        // Sessions live in tickets, so that any worker can resume them; a cache would be a lock and memory for each host.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        match &material.ticket_keys {
            Some(keys) => server.ticketer = Arc::new(ScopedTickets::new(keys.clone(), scope(client_auth.as_deref()))),
            None => server.send_tls13_tickets = 0,
        }
        Self { certificates: certificates.into(), client_auth, server: Arc::new(server), security, identity }
    }

    /// For rustls.
    pub(crate) fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }

    /// Two with the same one are the same.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Of everything but the certificates.
    pub(crate) fn security(&self) -> Identity {
        self.security
    }

    /// Whether who is let in by the one would be let in by the other: the same is asked of clients, in the same way.
    pub fn is_as_secure_as(&self, other: &Self) -> bool {
        self.security == other.security
    }

    /// Whether what is shown is for `host` (in lower case, without final dot), whichever of the certificates that is.
    pub fn covers(&self, host: &str) -> bool {
        !self.certificates.is_empty() && self.certificates.iter().all(|certificate| certificate.names.cover(host))
    }
}

/// Within what a session may be resumed: wherever the same is asked of clients.
fn scope(client_auth: Option<&ClientAuth>) -> Identity {
    client_auth.map_or_else(|| Identity::of([]), ClientAuth::identity)
}

fn provider_with(suites: Option<Vec<SupportedCipherSuite>>) -> Arc<CryptoProvider> {
    let Some(suites) = suites else { return provider().clone() };
    let ours = provider();
    let tls13 = ours.cipher_suites.iter().filter(|suite| suite.tls13().is_some()).copied();
    Arc::new(CryptoProvider { cipher_suites: tls13.chain(suites).collect(), ..(**ours).clone() })
}

/// Shows the first certificate with whose kind of key the client can do something.
#[derive(Debug)]
struct ByKeyType(Vec<Arc<Certificate>>);

impl ResolvesServerCert for ByKeyType {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let now = UnixTime::now();
        let [first, others @ ..] = &self.0[..] else { return None };
        if others.is_empty() {
            return Some(first.at(now).clone());
        }
        // rustls has taken those away already that do not go with the suites the client offers.
        let schemes = hello.signature_schemes();
        let can = |certificate: &&Arc<Certificate>| certificate.at(now).key.choose_scheme(schemes).is_some();
        Some(self.0.iter().find(can).unwrap_or(first).at(now).clone())
    }
}
