//! TLS sessions over an upgrade in place: the new process resumes what the old one began.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion, version};
use tidegate::{app::Options, tls::Material};
use tidegate_tests::{Bed, Net, PATIENCE, load::trusting};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// A Tidegate that no other shares its keys with, as if it had a process of its own.
async fn start(net: Net, change: impl FnOnce(&mut Options)) -> Bed {
    Bed::start_with(net, "", |options| {
        options.settings.tls.material = Material::fresh();
        options.upgrade_socket =
            Some(std::env::temp_dir().join(format!("tidegate-tickets-{}-{}.sock", std::process::id(), net.number())));
        change(options);
    })
    .await
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
    let client = Arc::new(trusting(&[version]));
    let old = start(net, |_| {}).await;
    let https = old.app.https().expect("it is served");
    assert_eq!(handshake(&client, https).await, HandshakeKind::Full);
    assert_eq!(handshake(&client, https).await, HandshakeKind::Resumed);

    let new = start(net, |options| {
        (options.http, options.https, options.admin) = (old.app.http(), Some(https), old.app.admin());
        options.dns = old.app.dns();
    })
    .await;
    timeout(PATIENCE, old.app.superseded()).await.expect("the new one takes over");
    old.app.drain(Duration::ZERO).await;
    assert_eq!(new.app.https(), Some(https));
    assert_eq!(handshake(&client, https).await, HandshakeKind::Resumed, "{version:?}");

    // Without a takeover there is nothing to resume.
    let stranger = start(Net::next(), |_| {}).await;
    let elsewhere = stranger.app.https().expect("it is served");
    assert_eq!(handshake(&client, elsewhere).await, HandshakeKind::Full);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_the_old_process_is_resumed_by_the_new_one() {
    upgrade_resumes(&version::TLS13).await;
    upgrade_resumes(&version::TLS12).await;
}
