//! How long each step may take, and how large a request may be.

use std::time::{Duration, Instant};

use tidegate_tests::PATIENCE;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{scripted::Scripted, *};

/// Service `web` with one pod whose manners the path names, Service `two` with two of them.
async fn bed_of_slow_pods(manifests: &[String]) -> (Bed, Vec<Scripted>) {
    let net = Net::next();
    let mut pods = Vec::new();
    let mut all = service_manifest("web", "web", "") + &service_manifest("two", "two", "") + &manifests.concat();
    for (last, app) in (2..).zip(["web", "two", "two"]) {
        pods.push(Scripted::start(net.ip(last)).await);
        all += &pod_manifest(&format!("{app}-{last}"), app, net.ip(last));
    }
    (Bed::start(net, &all).await, pods)
}

/// Status and content.
async fn answer(bed: &Bed, host: &str, path: &str) -> (u16, String) {
    let response = bed.get(host, path).await;
    (response.status, response.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_of_a_pod() {
    let (bed, _pods) = bed_of_slow_pods(&[
        ingress("read", "read.com", &[("proxy-read-timeout", "1")], ROOT),
        ingress("patient", "patient.com", &[], ROOT),
    ])
    .await;
    assert_eq!(answer(&bed, "read.com", "/hangs").await.0, 504);
    // Four pauses are longer than a second; none of them is.
    assert_eq!(answer(&bed, "read.com", "/trickles").await, (200, "slow".to_owned()));
    let waits = timeout(Duration::from_secs(2), bed.get("patient.com", "/hangs")).await;
    assert!(waits.is_err(), "60 s by default, and not {waits:?}");
}

/// Also for connections that are no longer HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_tunnel_is_closed() {
    let net = Net::next();
    let listener = tokio::net::TcpListener::bind((net.ip(2), 8080)).await.expect("the pod listens");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        stream.write_all(switch).await.expect("it is read");
        // Says nothing, and is not the one who closes.
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    let manifests = [
        pod_manifest("web", "web", net.ip(2)),
        service_manifest("web", "web", ""),
        ingress("a", "a.com", &[("proxy-read-timeout", "1")], ROOT),
    ];
    let bed = Bed::start(net, &manifests.concat()).await;
    let mut client = Client::connect(bed.app.http()).await;
    let upgrade = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    assert_eq!(client.ask(upgrade).await.expect("an answer").status, 101);
    let end = timeout(PATIENCE, client.stream.read(&mut [0])).await.expect("it is closed in time");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_take_the_request() {
    let annotations = [("proxy-send-timeout", "1"), ("proxy-body-size", "0")];
    let (bed, _pods) = bed_of_slow_pods(&[ingress("send", "send.com", &annotations, ROOT)]).await;
    let mut client = Client::connect(bed.app.http()).await;
    // More than fits on the way.
    let content = "x".repeat(32 << 20);
    let head = format!("POST /unread HTTP/1.1\r\nHost: send.com\r\nContent-Length: {}\r\n\r\n", content.len());
    client.stream.write_all(head.as_bytes()).await.expect("it is read");
    let (mut read, mut write) = client.stream.into_split();
    let sending = tokio::spawn(async move {
        drop(write.write_all(content.as_bytes()).await);
        write
    });
    let mut status = [0; 12];
    timeout(PATIENCE, read.read_exact(&mut status)).await.expect("an answer in time").expect("an answer");
    assert_eq!(String::from_utf8_lossy(&status), "HTTP/1.1 504");
    sending.abort();
}

/// A listener whose queue is full answers nobody.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_accept() {
    use socket2::{Domain, Socket, Type};

    let net = Net::next();
    let addr = std::net::SocketAddr::new(net.ip(2), 8080);
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&addr.into()).expect("the address is free");
    listener.listen(0).expect("it listens");
    let mut queued = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
        queued.push(stream);
        assert!(queued.len() < 100, "the queue has no end");
    }
    let manifests = [
        pod_manifest("web", "web", net.ip(2)),
        service_manifest("web", "web", ""),
        ingress("a", "a.com", &[("proxy-connect-timeout", "1")], ROOT),
    ];
    let bed = Bed::start(net, &manifests.concat()).await;
    let begun = Instant::now();
    let (status, text) = answer(&bed, "a.com", "/").await;
    let took = begun.elapsed();
    assert_eq!((status, text.as_str()), (502, "502: a pod of default/web:80 could not be reached\n"));
    // 5 s by default.
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_and_a_whole_request() {
    let two = &[("/", "Prefix", "two")];
    let (bed, pods) = bed_of_slow_pods(&[
        ingress("try", "try.com", &[("tidegate.io/per-try-timeout", "300ms")], two),
        ingress("whole", "whole.com", &[("tidegate.io/request-timeout", "900ms")], two),
        ingress(
            "both",
            "both.com",
            &[("tidegate.io/per-try-timeout", "300ms"), ("tidegate.io/request-timeout", "30s")],
            two,
        ),
    ])
    .await;
    let tried = async |host: &str| {
        let before: usize = pods.iter().map(Scripted::requests).sum();
        let (status, text) = answer(&bed, host, "/hangs").await;
        (status, text, pods.iter().map(Scripted::requests).sum::<usize>() - before)
    };
    for host in ["try.com", "both.com"] {
        let (status, text, pods) = tried(host).await;
        assert_eq!((status, pods), (504, 2), "{host}: {text}");
        assert!(text.contains("did not answer in time"), "{host}: {text}");
    }
    // It ends while the first pod still has time.
    let (status, text, pods) = tried("whole.com").await;
    assert_eq!((status, pods), (504, 1), "{text}");
    assert!(text.contains("within the time for requests"), "{text}");
    // Once the answer has begun, it may take as long as it likes.
    assert_eq!(answer(&bed, "whole.com", "/trickles").await, (200, "slow".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_of_contents() {
    let (bed, pods) = bed_of_slow_pods(&[
        ingress("small", "small.com", &[("proxy-body-size", "4k")], ROOT),
        ingress("default", "default.com", &[], ROOT),
        ingress("any", "any.com", &[("proxy-body-size", "0")], ROOT),
    ])
    .await;
    let post = async |host: &str, length: usize| {
        let content = "x".repeat(length);
        let request = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{content}");
        Client::connect(bed.app.http()).await.ask(&request).await.expect("an answer").status
    };
    for (host, length, status) in [
        ("small.com", 4096, 200),
        ("small.com", 4097, 413),
        ("default.com", 1 << 20, 200),
        ("default.com", (1 << 20) + 1, 413),
        ("any.com", (1 << 20) + 1, 200),
    ] {
        assert_eq!(post(host, length).await, status, "{host} {length}");
    }
    assert_eq!(pods[0].requests(), 3, "what is too large goes to no pod");
    let chunks = format!("800\r\n{}\r\n", "x".repeat(0x800)).repeat(3);
    let chunked =
        format!("POST /echo HTTP/1.1\r\nHost: small.com\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    let response = Client::connect(bed.app.http()).await.ask(&chunked).await.expect("an answer");
    assert_eq!(response.status, 413, "it is found out on the way, too");
}
