//! TLS from the client's side: the certificate everybody serves, and handshakes, full or resumed, one connection each.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    http1::{self, Progress},
    load::Outcome,
    routes::HOST,
    stats::percentile,
};

/// Clients at once.
const CLIENTS: usize = 32;

/// A handshake that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// After so many failures there is nothing to measure.
const MAX_FAILURES: u64 = 200;

/// The kind of key the certificate has: it decides most of the price of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyKind {
    /// P-256
    Ecdsa,
    /// 2048 bits
    Rsa,
}

/// The certificate and its key, as the proxies want them.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    /// PEM files.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one, for HAProxy.
    pub(crate) both: PathBuf,
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Makes a self-signed certificate for the host of the measurements, and puts it into `directory`.
    pub(crate) fn make(directory: &Path, kind: KeyKind) -> anyhow::Result<Self> {
        let algorithm = match kind {
            KeyKind::Ecdsa => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::Rsa => &rcgen::PKCS_RSA_SHA256,
        };
        let key = rcgen::KeyPair::generate_for(algorithm)?;
        let signed = rcgen::CertificateParams::new(vec![HOST.to_owned()])?.self_signed(&key)?;
        let (certificate_pem, key_pem) = (signed.pem(), key.serialize_pem());
        let [certificate, key, both] = ["certificate.pem", "key.pem", "both.pem"].map(|name| directory.join(name));
        fs::write(&certificate, &certificate_pem)?;
        fs::write(&key, &key_pem)?;
        fs::write(&both, format!("{certificate_pem}{key_pem}"))?;
        Ok(Self { certificate, key, both, certificate_pem, key_pem, der: signed.der().clone() })
    }

    /// A client that trusts this certificate and no other. `resume`: whether it remembers sessions.
    pub(crate) fn client(&self, alpn: &[&[u8]], resume: bool) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        // One group for all: otherwise some proxies would agree on the dearer post-quantum one, and others could not.
        let provider = CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = if resume { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
        Ok(config.into())
    }
}

/// One connection: handshake, one small request, its answer. Says what kind of handshake it was.
async fn once(addr: SocketAddr, config: &Arc<ClientConfig>, expected: usize) -> anyhow::Result<HandshakeKind> {
    let (mut stream, kind) = connect(addr, config).await?;
    stream.write_all(&http1::request("GET", HOST, "/", "Connection: close\r\n", &[])).await?;
    let mut answer = Progress::Http { expected, head: Vec::new(), left: None };
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).await?;
        ensure!(n > 0, "closed before the end of the answer");
        if answer.feed(&buffer[..n]).map_err(anyhow::Error::msg)? {
            return Ok(kind);
        }
    }
}

/// Connects by TLS 1.3, or not at all.
pub(crate) async fn connect(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
) -> anyhow::Result<(TlsStream<TcpStream>, HandshakeKind)> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(HOST).context("the host's name")?;
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await?;
    let connection = stream.get_ref().1;
    ensure!(connection.protocol_version() == Some(ProtocolVersion::TLSv1_3), "not TLS 1.3");
    let kind = connection.handshake_kind().context("the handshake is not over")?;
    Ok((stream, kind))
}

/// One thread's runtime for what is measured here.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Handshakes one after the other in each of many clients.
#[derive(Debug)]
pub(crate) struct Handshakes {
    addr: SocketAddr,
    expected: usize,
    resumed: bool,
    clients: Vec<Arc<ClientConfig>>,
}

impl Handshakes {
    /// `expected`: bytes of the answer to the request in each connection. Clients that resume get their first ticket here.
    pub(crate) fn prepare(
        addr: SocketAddr,
        certificate: &Certificate,
        resumed: bool,
        expected: usize,
    ) -> anyhow::Result<Self> {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| certificate.client(&[b"http/1.1"], resumed)).collect::<anyhow::Result<_>>()?;
        runtime()?.block_on(async {
            for client in clients.iter().filter(|_| resumed) {
                tokio::time::timeout(PATIENCE, once(addr, client, expected)).await??;
            }
            anyhow::Ok(())
        })?;
        Ok(Self { addr, expected, resumed, clients })
    }

    /// Two connections by one client: the kind of the handshake of the second must be the one that is measured.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let client = self.clients.first().context("there are clients")?;
        runtime()?.block_on(async {
            for _ in 0..2 {
                self.is_right(tokio::time::timeout(PATIENCE, once(self.addr, client, self.expected)).await??)?;
            }
            Ok(())
        })
    }

    fn is_right(&self, kind: HandshakeKind) -> anyhow::Result<()> {
        match (kind, self.resumed) {
            (HandshakeKind::Resumed, true) | (HandshakeKind::Full, false) => Ok(()),
            (HandshakeKind::FullWithHelloRetryRequest, _) => bail!("the handshake took another round trip"),
            (kind, _) => bail!("the handshake was {kind:?}"),
        }
    }

    pub(crate) fn run(&self, time: Duration) -> anyhow::Result<Outcome> {
        let begun = Instant::now();
        let end = begun + time;
        let all = runtime()?.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for client in &self.clients {
                let (addr, client, expected, resumed) = (self.addr, client.clone(), self.expected, self.resumed);
                let one = Self { addr, expected, resumed, clients: Vec::new() };
                tasks.spawn(async move { one.one_client(&client, end).await });
            }
            tasks.join_all().await
        });
        let mut outcome = Outcome { seconds: begun.elapsed().as_secs_f64(), ..Outcome::default() };
        let mut latencies = Vec::new();
        for (micros, failures) in all {
            latencies.extend(micros);
            outcome.failed += failures.len() as u64;
            outcome.first_failure = outcome.first_failure.or_else(|| failures.into_iter().next());
        }
        if outcome.failed > MAX_FAILURES {
            bail!("too many failures, the first: {}", outcome.first_failure.unwrap_or_default());
        }
        outcome.done = latencies.len() as u64;
        latencies.sort_unstable();
        outcome.latency = [0.5, 0.99, 0.999].map(|share| f64::from(percentile(&latencies, share)));
        Ok(outcome)
    }

    /// Microseconds of each connection of one client, and what failed.
    async fn one_client(&self, client: &Arc<ClientConfig>, end: Instant) -> (Vec<u32>, Vec<String>) {
        let (mut micros, mut failures) = (Vec::new(), Vec::new());
        while Instant::now() < end && failures.len() as u64 <= MAX_FAILURES {
            let begun = Instant::now();
            let result = match tokio::time::timeout(PATIENCE, once(self.addr, client, self.expected)).await {
                Ok(result) => result.and_then(|kind| self.is_right(kind)),
                Err(_) => Err(anyhow::anyhow!("no answer within the time")),
            };
            match result {
                Ok(()) => micros.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX)),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        (micros, failures)
    }
}
