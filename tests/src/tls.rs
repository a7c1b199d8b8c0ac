//! TLS clients that any certificate will do for. Whether it is the right one is for the test to say.

use std::{io, net::SocketAddr, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// ALPN.
pub const HTTP1: &str = "http/1.1";
/// ALPN.
pub const HTTP2: &str = "h2";

/// A certificate that was made for these hosts, and its key.
#[derive(Clone, Debug)]
pub struct Made {
    /// The certificate as it comes over the wire.
    pub der: CertificateDer<'static>,
    pem: String,
    key: String,
}

impl Made {
    /// Each differs from every other.
    ///
    /// # Panics
    /// If a host is no name.
    pub fn new(hosts: &[&str]) -> Self {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(hosts).expect("a certificate");
        Self { der: made.cert.der().clone(), pem: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// The manifest of a Secret that has it.
    pub fn secret(&self, name: &str) -> String {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\n\
             stringData: {{tls.crt: {:?}, tls.key: {:?}}}\n",
            self.pem, self.key
        )
    }
}

/// Connects, and shakes hands in full: no session is resumed.
///
/// # Errors
/// If that fails.
pub async fn connect(addr: SocketAddr, host: &'static str, alpn: &str) -> io::Result<TlsStream<TcpStream>> {
    Sessions::new(alpn).handshake(TcpStream::connect(addr).await?, host).await
}

/// A client that resumes its sessions wherever it can, as browsers do.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<ClientConfig>);

impl Sessions {
    /// One without a session so far; `alpn` is `h2` or `http/1.1`.
    ///
    /// # Panics
    /// If the provider does not know TLS.
    pub fn new(alpn: &str) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Self(Arc::new(config))
    }

    /// Speaks TLS on a connection.
    ///
    /// # Errors
    /// If there is no handshake, or it does not come to this protocol.
    pub async fn handshake(&self, stream: TcpStream, host: &'static str) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.0.clone()).connect(name, stream).await?;
        let chosen = stream.get_ref().1.alpn_protocol();
        if chosen.is_some_and(|chosen| chosen != self.0.alpn_protocols[0]) {
            return Err(io::Error::other(format!("asked for {:?}, and was given {chosen:?}", self.0.alpn_protocols)));
        }
        Ok(stream)
    }
}

/// Believes whoever has the key of the certificate that it shows.
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
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
