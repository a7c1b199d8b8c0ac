//! What is shown to whom, and what becomes of those who do not speak TLS as they should.

use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::support::{Ca, Client, Pair, Server, World, ingress, name, snapshot, tls_secret, version};
use crate::{
    compile::settings::{Settings, TlsSettings},
    tls::{AcceptError, Accepted, Acceptor, MinVersion, Terminated, limits::TlsLimits},
};

const STAND_IN: &str = "no certificate is configured for this host";

#[tokio::test]
async fn the_certificate_goes_by_the_name() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("a", &ca.leaf(&["a.foo.com"]))
        + &tls_secret("wild", &ca.leaf(&["*.foo.com"]))
        + &ingress("a", &[], "[{hosts: [A.foo.com], secretName: a}]", &["a.foo.com"])
        + &ingress("wild", &[], "[{hosts: ['*.foo.com'], secretName: wild}]", &["*.foo.com"])
        + &ingress("plain", &[], "[]", &["plain.com"]);
    let mut server = Server::start(&snapshot(&manifests)).await;
    for (sni, shown) in [
        ("a.foo.com", "a.foo.com"),
        ("A.Foo.com", "a.foo.com"),
        ("b.foo.com", "*.foo.com"),
        ("c.b.foo.com", STAND_IN),
        ("foo.com", STAND_IN),
        ("plain.com", STAND_IN),
        ("", STAND_IN),
    ] {
        for version in [&TLS12, &TLS13] {
            let (met, terminated) = server.meet(&Client::of_version(version), sni).await;
            assert_eq!(met.shown, shown, "{sni}");
            assert_eq!(
                terminated.sni.as_deref().map(str::to_ascii_lowercase).unwrap_or_default(),
                sni.to_ascii_lowercase()
            );
            assert!(terminated.client.is_none());
        }
    }
}

#[tokio::test]
async fn the_kind_of_key_goes_by_what_the_client_knows() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("rsa", &ca.rsa_leaf(&["a.com"]))
        + &tls_secret("ecdsa", &ca.leaf(&["a.com"]))
        + &ingress("a", &[], "[{hosts: [a.com], secretName: rsa}, {hosts: [a.com], secretName: ecdsa}]", &["a.com"]);
    let mut server = Server::start(&snapshot(&manifests)).await;
    let is_rsa = |scheme: &rustls::SignatureScheme| format!("{scheme:?}").starts_with("RSA");
    for tls12 in [true, false] {
        let all = Client::with(&[version(tls12)], None, |_| true);
        assert_eq!(server.meet(&all, "a.com").await.0.key, "ECDSA", "the cheaper one, if there is a choice");
        let old = Client::with(&[version(tls12)], None, is_rsa);
        assert_eq!(server.meet(&old, "a.com").await.0.key, "RSA");
    }
}

#[tokio::test]
async fn protocols_and_versions() {
    let ca = Ca::new("ca");
    let manifests =
        tls_secret("a", &ca.leaf(&["a.com"])) + &ingress("a", &[], "[{hosts: [a.com], secretName: a}]", &["a.com"]);
    let mut server = Server::start(&snapshot(&manifests)).await;
    for (offered, h2) in [(&["h2", "http/1.1"][..], true), (&["http/1.1"], false), (&[], false)] {
        let (_, terminated) = server.meet(&Client::new().offering(offered), "a.com").await;
        assert_eq!(terminated.h2, h2, "{offered:?}");
    }
    let stranger = Client::new().offering(&["imap"]);
    assert!(stranger.connect(server.addr, "a.com").await.is_err(), "RFC 7301 3.2: no_application_protocol");
    assert!(matches!(server.outcome().await, Err(AcceptError::Handshake(_))));

    let tls = TlsSettings { min_version: MinVersion::Tls13, ..TlsSettings::default() };
    let strict = World::new(Settings { tls, ..Settings::default() }).apply(&manifests);
    server.publish(&strict);
    assert!(Client::of_version(&TLS12).connect(server.addr, "a.com").await.is_err());
    assert!(matches!(server.outcome().await, Err(AcceptError::Handshake(_))));
    server.meet(&Client::of_version(&TLS13), "a.com").await;
}

#[tokio::test]
async fn suites_of_tls_1_2_are_what_the_annotation_says() {
    let ca = Ca::new("ca");
    let [only, server_first] =
        ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256"];
    let manifests = tls_secret("a", &ca.leaf(&["a.com", "b.com"]))
        + &ingress("a", &[("ssl-ciphers", only)], "[{hosts: [a.com], secretName: a}]", &["a.com"])
        + &ingress(
            "b",
            &[("ssl-ciphers", server_first), ("ssl-prefer-server-ciphers", "true")],
            "[{hosts: [b.com], secretName: a}]",
            &["b.com"],
        );
    let mut server = Server::start(&snapshot(&manifests)).await;
    for (host, tls12, suite) in [
        ("a.com", true, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        ("b.com", true, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("a.com", false, "TLS13_AES_256_GCM_SHA384"),
    ] {
        let (met, _) = server.meet(&Client::of_version(version(tls12)), host).await;
        assert_eq!(format!("{:?}", met.stream.get_ref().1.negotiated_cipher_suite().unwrap().suite()), suite, "{host}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_at_once_and_cuts_nobody() {
    let ca = Ca::new("ca");
    let with =
        |pair: &Pair| tls_secret("a", pair) + &ingress("a", &[], "[{hosts: [a.com], secretName: a}]", &["a.com"]);
    let named = |text| ca.leaf_with(&["a.com"], |params| params.distinguished_name = name(text));
    let mut world = World::new(Settings::default());
    let mut server = Server::start(&world.apply(&with(&named("old")))).await;
    let (mut old, mut old_side) = server.meet(&Client::new(), "a.com").await;
    assert_eq!(old.shown, "old");
    server.publish(&world.apply(&with(&named("new"))));
    assert_eq!(server.meet(&Client::new(), "a.com").await.0.shown, "new");
    old.stream.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    old_side.stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
    assert!(server.table().serves(&old_side.config, Some("a.com"), "a.com"), "it is the same host still");
}

#[tokio::test]
async fn a_host_is_passed_through_with_all_that_was_read() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("a", &ca.leaf(&["a.com"]))
        + &ingress("a", &[("ssl-passthrough", "true")], "[{hosts: [a.com], secretName: a}]", &["a.com", "*.foo.com"]);
    let mut server = Server::start(&snapshot(&manifests)).await;
    for sni in ["a.com", "x.foo.com"] {
        let addr = server.addr;
        let client = tokio::spawn(async move { Client::new().connect(addr, sni).await.is_ok() });
        let Ok(Accepted::Passthrough { stream, hello, service }) = server.outcome().await else { panic!() };
        assert_eq!((&*service.service, &*service.port), ("web", ""));
        assert!(hello.starts_with(&[22, 3]) && hello.windows(sni.len()).any(|w| w == sni.as_bytes()));
        // A pod that speaks TLS itself answers a client that notices nothing.
        let pod = Ca::new("pod").leaf(&["a.com"]);
        let manifests = tls_secret("a", &pod) + &ingress("a", &[], "[{secretName: a}]", &["a.com", "x.foo.com"]);
        let pod = snapshot(&manifests);
        let outcome = Acceptor::default().accept_after(&pod.tls, stream, hello).await.unwrap();
        let Accepted::Terminated(mut terminated) = outcome else { panic!() };
        terminated.stream.write_all(b"hi").await.unwrap();
        terminated.stream.flush().await.unwrap();
        assert!(client.await.unwrap());
    }
}

#[tokio::test]
async fn plain_http_is_told_so() {
    let mut server = Server::start(&snapshot("")).await;
    for request in [&b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n"[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        client.write_all(request).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 400 ") && head.contains(&format!("Content-Length: {}", body.len())),
            "{answer}"
        );
        assert_eq!(body, "The plain HTTP request was sent to an HTTPS port");
        drop(client);
        assert!(matches!(server.outcome().await, Err(AcceptError::PlainHttp)));
    }
}

#[tokio::test]
async fn garbage_is_dropped() {
    let mut server = Server::start(&snapshot("")).await;
    let long = {
        // A handshake message that says it has 60,000 bytes, in records of 1,000.
        let mut record = vec![22, 3, 1, 3, 0xe8];
        record.extend([0; 1_000]);
        let mut bytes = record.repeat(20);
        bytes[5..9].copy_from_slice(&[1, 0, 0xea, 0x60]);
        bytes
    };
    type IsExpected = fn(&AcceptError) -> bool;
    let cases: [(&[u8], IsExpected); 5] = [
        (&[0x80, 0x2e, 1, 0, 2], |e| matches!(e, AcceptError::NotTls)),
        (&[0, 0, 0, 0], |e| matches!(e, AcceptError::NotTls)),
        (&[22, 3, 1, 0, 4, 2, 0, 0, 0], |e| matches!(e, AcceptError::Handshake(_))),
        (&[22, 3, 1, 0xff, 0xff, 1], |e| matches!(e, AcceptError::Handshake(_))),
        (&long, |e| matches!(e, AcceptError::HelloTooLong)),
    ];
    for (bytes, is_expected) in cases {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        drop(client.write_all(bytes).await);
        // Closed by the server: nobody waits for a timeout.
        let mut rest = Vec::new();
        drop(client.read_to_end(&mut rest).await);
        let Err(error) = server.outcome().await else { panic!("accepted {bytes:?}") };
        assert!(is_expected(&error), "{error:?} for {:?}", &bytes[..bytes.len().min(10)]);
    }
    drop(TcpStream::connect(server.addr).await.unwrap());
    assert!(matches!(server.outcome().await, Err(AcceptError::Closed)));
}

#[tokio::test]
async fn who_dawdles_is_dropped_and_holds_up_nobody() {
    let ca = Ca::new("ca");
    let manifests =
        tls_secret("a", &ca.leaf(&["a.com"])) + &ingress("a", &[], "[{hosts: [a.com], secretName: a}]", &["a.com"]);
    let snapshot = snapshot(&manifests);
    let mut patient = Server::start(&snapshot).await;
    let mut slow = Vec::new();
    for i in 0..100 {
        let mut client = TcpStream::connect(patient.addr).await.unwrap();
        client.write_all(&[22, 3, 1, 1, 0, 1][..i % 7]).await.unwrap();
        slow.push(client);
    }
    let (met, _) = patient.meet(&Client::new(), "a.com").await;
    assert_eq!(met.shown, "a.com", "they wait, and others do not");

    let limits = TlsLimits { handshake: Duration::from_millis(20), ..TlsLimits::default() };
    let mut strict = Server::start_with(&snapshot, limits).await;
    let mut client = TcpStream::connect(strict.addr).await.unwrap();
    client.write_all(&[22, 3, 1]).await.unwrap();
    assert!(matches!(strict.outcome().await, Err(AcceptError::TimedOut)));
    let mut rest = Vec::new();
    drop(client.read_to_end(&mut rest).await);
    assert_eq!(rest, b"");
}

/// A hello that comes byte by byte is a hello; so is one that came behind a PROXY protocol header.
#[tokio::test]
async fn a_hello_in_pieces() {
    let ca = Ca::new("ca");
    let manifests =
        tls_secret("a", &ca.leaf(&["a.com"])) + &ingress("a", &[], "[{hosts: [a.com], secretName: a}]", &["a.com"]);
    let mut server = Server::start(&snapshot(&manifests)).await;
    let relay = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (relay_addr, server_addr) = (relay.local_addr().unwrap(), server.addr);
    tokio::spawn(async move {
        let (mut client, _) = relay.accept().await.unwrap();
        let mut upstream = TcpStream::connect(server_addr).await.unwrap();
        upstream.set_nodelay(true).unwrap();
        let mut byte = [0; 1];
        for _ in 0..200 {
            client.read_exact(&mut byte).await.unwrap();
            upstream.write_all(&byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(tokio::io::copy_bidirectional(&mut client, &mut upstream).await);
    });
    let met = Client::new().connect(relay_addr, "a.com").await.unwrap();
    assert_eq!(met.shown, "a.com");
    server.terminated().await;
}

/// What a connection takes beside rustls's own buffers and keys, and what it takes until the handshake is over. May only go down.
#[tokio::test]
async fn a_connection_is_small() {
    let server = Server::start(&snapshot("")).await;
    assert!(size_of::<Terminated>() <= 1_280, "{}", size_of::<Terminated>());
    let (table, stream) = (server.table(), TcpStream::connect(server.addr).await.unwrap());
    let acceptor = Acceptor::default();
    let future = acceptor.accept(&table, stream);
    assert!(size_of_val(&future) <= 4_736, "{}", size_of_val(&future));
}
