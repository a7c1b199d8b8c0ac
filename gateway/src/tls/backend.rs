//! TLS to pods.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    SupportedCipherSuite, SupportedProtocolVersion,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
    version::{TLS12, TLS13},
};

use super::{identity::Identity, provider};

/// How a connection to a pod is secured. Two rules with the same one share connections.
#[derive(Clone)]
pub struct BackendTls {
    /// What is trusted and shown.
    pub config: Arc<ClientConfig>,
    /// The name that the pod's certificate must have, and that is sent as SNI; `None` to send none (and verify none).
    pub name: Option<ServerName<'static>>,
    /// Whether the pod's certificate is verified.
    pub is_verified: bool,
    /// Of all it was made of: two with the same one are the same, in one configuration and the next.
    pub identity: Identity,
}

impl fmt::Debug for BackendTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendTls")
            .field("name", &self.name)
            .field("is_verified", &self.is_verified)
            .field("sends_sni", &self.config.enable_sni)
            .finish_non_exhaustive()
    }
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl Eq for BackendTls {}

impl std::hash::Hash for BackendTls {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity.hash(state);
    }
}

/// What a [`BackendTls`] is made of.
#[derive(Debug)]
pub(crate) struct BackendTlsSpec {
    pub(crate) trust: BackendTrust,
    /// Shown to the pod, if it asks.
    pub(crate) client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// What the pod's certificate must be for.
    pub(crate) name: Option<ServerName<'static>>,
    /// Whether the name is sent as SNI.
    pub(crate) send_name: bool,
    /// TLS 1.2, TLS 1.3.
    pub(crate) versions: (bool, bool),
    /// Suites of TLS 1.2; `None` for all.
    pub(crate) suites: Option<Vec<SupportedCipherSuite>>,
    /// Whether HTTP/2 is spoken.
    pub(crate) h2: bool,
}

/// Which pods are trusted.
#[derive(Debug)]
pub(crate) enum BackendTrust {
    /// Any.
    All,
    /// Those with a certificate of these CAs, through at most so many intermediates.
    Roots(RootCertStore, u8),
}

impl BackendTls {
    /// # Errors
    /// What is wrong with the CAs, the certificate or the key, in words.
    pub(crate) fn new(spec: BackendTlsSpec) -> Result<Self, String> {
        let identity = spec.identity();
        let BackendTlsSpec { trust, client, name, send_name, versions, suites, h2 } = spec;
        let is_verified = matches!(trust, BackendTrust::Roots(..));
        let versions: Vec<&SupportedProtocolVersion> =
            [(&TLS12, versions.0), (&TLS13, versions.1)].into_iter().filter(|(_, on)| *on).map(|(v, _)| v).collect();
        let provider = match suites {
            Some(suites) => {
                let tls13 = provider().cipher_suites.iter().filter(|suite| suite.tls13().is_some()).copied();
                Arc::new(CryptoProvider { cipher_suites: tls13.chain(suites).collect(), ..(**provider()).clone() })
            }
            None => provider().clone(),
        };
        let verifier: Arc<dyn ServerCertVerifier> = match trust {
            BackendTrust::All => Arc::new(Anybody(provider.clone())),
            BackendTrust::Roots(roots, depth) => {
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
                Arc::new(AtDepth { verifier: verifier.build().map_err(|error| error.to_string())?, depth })
            }
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match client {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| match error {
                // Its words may be about the key.
                Error::General(_) => "the private key cannot be read".to_owned(),
                error => error.to_string(),
            })?,
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = send_name;
        config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Ok(Self { config: Arc::new(config), name, is_verified, identity })
    }
}

impl BackendTlsSpec {
    fn identity(&self) -> Identity {
        let (verified, depth, roots) = match &self.trust {
            BackendTrust::All => (0, 0, None),
            BackendTrust::Roots(roots, depth) => (1, *depth, Some(roots)),
        };
        let flags =
            [verified, depth, self.send_name.into(), self.versions.0.into(), self.versions.1.into(), self.h2.into()];
        let roots: Vec<u8> = roots
            .into_iter()
            .flat_map(|roots| &roots.roots)
            .flat_map(|root| [root.subject.as_ref(), root.subject_public_key_info.as_ref()].concat())
            .collect();
        let name = self.name.as_ref().map_or_else(String::new, |name| name.to_str().into_owned());
        let suites = self.suites.as_ref().map_or_else(String::new, |suites| format!("{suites:?}"));
        let own = [&flags[..], &roots, name.as_bytes(), suites.as_bytes()];
        let chain = self.client.iter().flat_map(|(chain, _)| chain).map(|der| der.as_ref());
        let key = self.client.iter().map(|(_, key)| key.secret_der());
        Identity::of(own.into_iter().chain(chain).chain(key))
    }
}

/// Trusts what the other verifier trusts, if the chain is not longer.
#[derive(Debug)]
struct AtDepth {
    verifier: Arc<WebPkiServerVerifier>,
    /// Certificates allowed between the pod's and one of a CA.
    depth: u8,
}

impl ServerCertVerifier for AtDepth {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let allowed = &intermediates[..intermediates.len().min(self.depth.into())];
        self.verifier.verify_server_cert(certificate, allowed, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.verifier.root_hint_subjects()
    }
}

/// Trusts whoever has the key of the certificate shown: what was asked for with `proxy-ssl-verify: off`, and what ingress-nginx
/// does where nothing is asked for. It keeps listeners out, but nobody who stands between.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
