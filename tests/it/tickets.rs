//! TLS sessions over an upgrade in place: the new process resumes what the old one began.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, crypto::aws_lc_rs, version};
use tidegate::{app::Options, tls::Material};
use tidegate_tests::{Bed, Net, PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// A Tidegate that no other shares its keys with, as if it had a process of its own.
async fn start(net: Net, secret: &str, change: impl FnOnce(&mut Options)) -> Bed {
    Bed::start_with(net, secret, |options| {
        options.settings.tls.material = Material::fresh();
        options.settings.tls.default_certificate = Some(("default".into(), "any".into()));
        options.upgrade_socket =
            Some(std::env::temp_dir().join(format!("tidegate-tickets-{}-{}.sock", std::process::id(), net.number())));
        change(options);
    })
    .await
}

/// The Secret of the default certificate, for a.com, and a client that trusts it and resumes its sessions.
fn secret_and_client(version: &'static SupportedProtocolVersion) -> (String, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["a.com".to_owned()]).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let data = format!("stringData: {{tls.crt: {certificate:?}, tls.key: {key:?}}}");
    let secret = format!("{{apiVersion: v1, kind: Secret, metadata: {{name: any}}, type: kubernetes.io/tls, {data}}}");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("it can be a root");
    let client = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .expect("the provider has it")
        .with_root_certificates(roots)
        .with_no_client_auth();
    (secret, Arc::new(client))
}

/// A request for a.com on a new connection; how the handshake went. The answer is read to its end, and with it the tickets.
async fn handshake(client: &Arc<ClientConfig>, addr: SocketAddr) -> HandshakeKind {
    let stream = TcpStream::connect(addr).await.expect("somebody listens");
    let name = "a.com".try_into().expect("a name");
    let mut stream = TlsConnector::from(client.clone()).connect(name, stream).await.expect("a handshake");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n").await.expect("it is sent");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time").expect("a proper one");
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
    stream.get_ref().1.handshake_kind().expect("the handshake is over")
}

async fn upgrade_resumes(version: &'static SupportedProtocolVersion) {
    let net = Net::next();
    let (secret, client) = secret_and_client(version);
    let old = start(net, &secret, |_| {}).await;
    let https = old.app.https().expect("it is served");
    assert_eq!(handshake(&client, https).await, HandshakeKind::Full);
    assert_eq!(handshake(&client, https).await, HandshakeKind::Resumed);

    let new = start(net, &secret, |options| {
        (options.http, options.https, options.admin) = (Some(old.app.http()), Some(https), old.app.admin());
        options.dns = old.app.dns();
    })
    .await;
    timeout(PATIENCE, old.app.superseded()).await.expect("the new one takes over");
    old.app.drain(Duration::ZERO).await;
    assert_eq!(new.app.https(), Some(https));
    assert_eq!(handshake(&client, https).await, HandshakeKind::Resumed, "{version:?}");

    // Without a takeover there is nothing to resume.
    let stranger = start(Net::next(), &secret, |_| {}).await;
    let elsewhere = stranger.app.https().expect("it is served");
    assert_eq!(handshake(&client, elsewhere).await, HandshakeKind::Full);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_the_old_process_is_resumed_by_the_new_one() {
    upgrade_resumes(&version::TLS13).await;
    upgrade_resumes(&version::TLS12).await;
}
