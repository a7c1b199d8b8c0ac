//! Which pod is chosen, and how it is spoken to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use tidegate_tests::echo::Echo;

use super::{scripted::Scripted, *};

/// How often each pod answered so many requests of one connection.
async fn answers(bed: &Bed, host: &str, paths: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut client = Client::connect(bed.app.http()).await;
    let mut counts = BTreeMap::new();
    for path in paths {
        *counts.entry(client.get(host, &path).await.pod().expect("a pod answers")).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn balancing() {
    let net = Net::next();
    let _pods = (http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await);
    // What the Service says is overruled by what the Ingress says.
    let hashed = "---\napiVersion: v1\nkind: Service\nmetadata: {name: hashed, annotations: {tidegate.io/balance: hash}}\n\
                  spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n";
    let manifests = [
        pod_manifest("a", "web", net.ip(2)) + &pod_manifest("b", "web", net.ip(3)),
        hashed.to_owned() + &hashed.replace("name: hashed", "name: turns") + &service_manifest("keys", "web", ""),
        ingress("hashed", "hashed.com", &[], &[("/", "Prefix", "hashed")]),
        ingress("turns", "turns.com", &[("load-balance", "round_robin")], &[("/", "Prefix", "turns")]),
        ingress("keys", "keys.com", &[("upstream-hash-by", "$arg_user")], &[("/", "Prefix", "keys")]),
    ];
    let bed = Bed::start(net, &manifests.concat()).await;
    assert_eq!(bed.findings(), [""; 0]);
    let paths = || (0..20).map(|n| format!("/?user={n}"));
    assert_eq!(answers(&bed, "hashed.com", paths()).await.len(), 1, "one client, one pod");
    let turns = answers(&bed, "turns.com", paths()).await;
    assert_eq!(turns.into_values().collect::<Vec<_>>(), [10, 10]);
    let mut used = BTreeSet::new();
    for path in paths() {
        let pods = answers(&bed, "keys.com", std::iter::repeat_n(path.clone(), 4)).await;
        assert_eq!(pods.len(), 1, "{path}: {pods:?}");
        used.extend(pods.into_keys());
    }
    assert_eq!(used.len(), 2, "other users, other pods");
}

/// Of two drawn at random, the faster one is taken: here always the same two.
#[tokio::test(flavor = "multi_thread")]
async fn the_faster_pod_is_asked_more_often() {
    let net = Net::next();
    let (slow, _fast) = (Scripted::start(net.ip(2)).await, http_pod("fast", net.ip(3)).await);
    let manifests = [
        pod_manifest("slow", "web", net.ip(2)) + &pod_manifest("fast", "web", net.ip(3)),
        service_manifest("web", "web", ""),
        ingress("a", "a.com", &[("load-balance", "ewma")], ROOT),
    ];
    let bed = Bed::start(net, &manifests.concat()).await;
    let mut client = Client::connect(bed.app.http()).await;
    for _ in 0..40 {
        assert_eq!(client.get("a.com", "/slow").await.status, 200);
    }
    // By turns it would be twenty.
    assert!((1..=8).contains(&slow.requests()), "{} of 40 went to the slow pod", slow.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_unless_they_are_not_to_be() {
    let net = Net::next();
    let pod = Scripted::start(net.ip(2)).await;
    let close = [("connection-proxy-header", "close"), ("proxy-http-version", "1.1")];
    let manifests = [
        pod_manifest("web", "web", net.ip(2)) + &service_manifest("web", "web", ""),
        ingress("keep", "keep.com", &[("connection-proxy-header", "keep-alive")], ROOT),
        ingress("close", "close.com", &close, ROOT),
    ];
    let bed = Bed::start(net, &manifests.concat()).await;
    assert_eq!(bed.findings(), [""; 0]);
    let mut client = Client::connect(bed.app.http()).await;
    for (host, connections) in [("keep.com", 1), ("close.com", 6)] {
        for _ in 0..5 {
            assert_eq!(client.get(host, "/").await.status, 200);
        }
        assert_eq!(pod.connections(), connections, "{host}");
    }
}

/// Who waits for a connection to a pod is counted; beyond the limit of the Service the answer is 503 at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_keeps_too_many_waiting() {
    let net = Net::next();
    // It takes the connection, and never answers the handshake.
    let pod = Scripted::start(net.ip(2)).await;
    let service = service_manifest("web", "web", "")
        .replace("{name: web}", "{name: web, annotations: {tidegate.io/max-pending: '1'}}");
    let patient = [("backend-protocol", "HTTPS"), ("proxy-connect-timeout", "30")];
    let manifests = [pod_manifest("web", "web", net.ip(2)) + &service, ingress("a", "a.com", &patient, ROOT)];
    let bed = Bed::start(net, &manifests.concat()).await;
    let http = bed.app.http();
    let waiting = tokio::spawn(async move { Client::connect(http).await.get("a.com", "/").await.status });
    while pod.connections() == 0 {
        tokio::task::yield_now().await;
    }
    let response = bed.get("a.com", "/").await;
    assert_eq!(response.status, 503, "{}", response.text());
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn protocols() {
    let net = Net::next();
    let port = |last| SocketAddr::new(net.ip(last), 8080);
    let _plain = http_pod("plain", net.ip(2)).await;
    let _echoes = (Echo::tls("tls", port(3)).await, Echo::grpc("h2c", port(4)).await);
    let mut manifests = String::new();
    for (last, name) in (2..).zip(["plain", "tls", "h2c"]) {
        manifests += &(pod_manifest(name, name, net.ip(last)) + &service_manifest(name, name, ""));
    }
    let cases = [
        ("HTTP", "plain", 200),
        ("http", "plain", 200),
        ("AUTO_HTTP", "plain", 200),
        ("HTTPS", "tls", 200),
        ("GRPCS", "tls", 200),
        ("GRPC", "h2c", 200),
        ("HTTP", "h2c", 502),
        ("HTTPS", "plain", 502),
        ("GRPC", "plain", 502),
        ("FCGI", "plain", 503),
    ];
    for (n, (protocol, service, _)) in cases.iter().enumerate() {
        let rules = [("/", "Prefix", *service)];
        manifests +=
            &ingress(&format!("case-{n}"), &format!("case-{n}.com"), &[("backend-protocol", protocol)], &rules);
    }
    let bed = Bed::start(net, &manifests).await;
    for (n, (protocol, service, status)) in cases.iter().enumerate() {
        let response = bed.get(&format!("case-{n}.com"), "/").await;
        assert_eq!(response.status, *status, "{protocol} to {service}");
        if *status == 200 {
            assert_eq!(response.pod().as_deref(), Some(*service), "{protocol}");
        }
    }
}

/// With and without what nginx would hold back: it comes as it is sent, and all of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_changes_nothing() {
    let accepted = [
        ("client-body-buffer-size", "1k"),
        ("proxy-buffer-size", "128"),
        ("proxy-buffering", "on"),
        ("proxy-buffers-number", "2"),
        ("proxy-busy-buffers-size", "2k"),
        ("proxy-max-temp-file-size", "0"),
        ("proxy-request-buffering", "on"),
    ];
    let ignored = [
        ("fastcgi-index", "index.php"),
        ("fastcgi-params-configmap", "default/x"),
        ("upstream-hash-by-subset", "true"),
        ("upstream-hash-by-subset-size", "3"),
    ];
    let (bed, _pods) = bed(&[ingress("a", "a.com", &[&accepted[..], &ignored[..]].concat(), ROOT)]).await;
    assert_eq!(bed.findings(), ["UnsupportedAnnotation"; 4]);
    let content = "x".repeat(64 << 10);
    let request = format!("POST /echo HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n{content}", content.len());
    let mut client = Client::connect(bed.app.http()).await;
    assert_eq!(client.ask(&request).await.expect("an answer").text(), content);
    // Its head would not fit into the buffer that was asked for.
    let head = "x".repeat(2 << 10);
    let response = client.get("a.com", &format!("/?header=X-Large:{head}")).await;
    assert_eq!((response.status, response.header("x-large").map(str::len)), (200, Some(head.len())));
}
