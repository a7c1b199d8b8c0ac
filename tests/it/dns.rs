//! DNS of a whole Tidegate: names answer with the addresses that are served, and follow changes.

use std::net::{IpAddr, SocketAddr};

use tidegate_tests::{Bed, Net, client::hits, http_pod, pod_manifest, service_manifest};
use tokio::net::UdpSocket;

/// Asks for A records; the response code and the addresses. Plain bytes: enough of RFC 1035 for answers without compression tricks.
async fn ask(server: SocketAddr, name: &str) -> (u8, Vec<IpAddr>) {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a label"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let answer = {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.connect(server).await.expect("a server");
        socket.send(&query).await.expect("sent");
        let mut buffer = vec![0; 4096];
        let length = tokio::time::timeout(tidegate_tests::PATIENCE, socket.recv(&mut buffer))
            .await
            .expect("in time")
            .expect("an answer");
        buffer.truncate(length);
        buffer
    };
    let count = usize::from(answer[7]);
    let mut at = query.len();
    let mut ips = Vec::new();
    for _ in 0..count {
        // Names in answers are pointers to the question here: two bytes, or labels up to a zero.
        while answer[at] != 0 && answer[at] < 0xc0 {
            at += usize::from(answer[at]) + 1;
        }
        at += if answer[at] >= 0xc0 { 2 } else { 1 };
        let (kind, length) = (answer[at + 1], usize::from(answer[at + 8]) << 8 | usize::from(answer[at + 9]));
        if kind == 1 {
            ips.push(IpAddr::from(<[u8; 4]>::try_from(&answer[at + 10..at + 14]).expect("four bytes")));
        }
        at += 10 + length;
    }
    ips.sort_unstable();
    (answer[3] & 0xf, ips)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_lead_to_what_is_served_and_follow_changes() {
    let net = Net::next();
    let _pods = [http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await];
    let bed = Bed::start(
        net,
        &(service_manifest("web", "web", "") + &service_manifest("headless", "web", "clusterIP: None, ")),
    )
    .await;
    bed.apply("pods.yaml", &(pod_manifest("a", "web", net.ip(2)) + &pod_manifest("b", "web", net.ip(3)))).await;
    let dns = bed.app.dns().expect("DNS is on");
    let (code, ips) = ask(dns, "web.default.svc.cluster.local").await;
    assert_eq!((code, &ips[..]), (0, &[bed.cluster_addr("web").ip()][..]));
    assert_eq!(hits(SocketAddr::new(ips[0], 80), 32).await, ["a", "b"]);
    assert_eq!(ask(dns, "headless.default.svc.cluster.local").await, (0, vec![net.ip(2), net.ip(3)]));
    assert_eq!(ask(dns, "nobody.default.svc.cluster.local").await.0, 3, "NXDOMAIN");
    assert_eq!(ask(dns, "example.com").await.0, 5, "REFUSED");
    bed.apply("pods.yaml", &pod_manifest("b", "web", net.ip(3))).await;
    // The zone is published beside the snapshot, so it may be a moment behind.
    let begun = std::time::Instant::now();
    while ask(dns, "headless.default.svc.cluster.local").await.1 != [net.ip(3)] {
        assert!(begun.elapsed() < tidegate_tests::PATIENCE);
    }
}
