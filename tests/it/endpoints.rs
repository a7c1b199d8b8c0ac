//! Which of its endpoints a Service uses when they fail, begin, are too busy or are asked: annotations on one side, clients on
//! the other.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate::snapshot::Snapshot;
use tidegate_l4::{
    endpoints::{EndpointIndex, EndpointSet, Standing, Verdict},
    model::{IpFamily, TrafficPolicy},
    worker::now,
};
use tidegate_tests::{
    Bed, Client, Net, PATIENCE,
    client::{hit, hits},
    http_pod, pod_manifest, service_manifest,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

/// Enough connections that an endpoint in use is not missed: three chosen at random all are seen but once in 10^10 times.
const MANY: usize = 64;

/// A Service `web` with annotations, in front of the pods of app `web`.
fn web(annotations: &str) -> String {
    service_manifest("web", "web", "").replace("{name: web}", &format!("{{name: web, annotations: {{{annotations}}}}}"))
}

fn ingress() -> &'static str {
    "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec: {rules: [{host: web.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}\n"
}

/// Ready pods `a`, `b`, `c` … at .2, .3, .4 …, and their manifests.
async fn pods(net: Net, names: &[&str]) -> (Vec<tidegate::pod::Pod>, String) {
    let (mut pods, mut manifests) = (Vec::new(), String::new());
    for (last, name) in (2..).zip(names) {
        pods.push(http_pod(name, net.ip(last)).await);
        manifests += &pod_manifest(name, "web", net.ip(last));
    }
    (pods, manifests)
}

fn set(snapshot: &Snapshot) -> Arc<EndpointSet> {
    let port = snapshot.table.ports().find(|port| &*port.config.name.service == "web").expect("the Service is served");
    port.set(IpFamily::V4, TrafficPolicy::Cluster).clone()
}

/// Where the pod at `.last` is in the set.
fn at(set: &EndpointSet, net: Net, last: u8) -> EndpointIndex {
    set.position(SocketAddr::new(net.ip(last), 8080)).expect("the pod is in the set")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

/// Waits until the health check of the pod at `.last` says this.
async fn until_verdict(bed: &Bed, last: u8, verdict: Verdict) {
    let says = || {
        let set = set(&bed.snapshot());
        set.state(at(&set, bed.net, last)).verdict() == verdict
    };
    until(&format!("{verdict:?} for .{last}"), says).await;
}

async fn admin(bed: &Bed, path: &str) -> String {
    let addr = bed.app.admin();
    Client::connect(addr).await.get(&addr.to_string(), path).await.text()
}

/// A pod that answers every path, but `/healthz` only as it is told.
async fn moody_pod(name: &'static str, addr: SocketAddr, is_well: Arc<AtomicBool>) -> io::Result<()> {
    let listener = TcpListener::bind(addr).await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let is_well = is_well.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stream).lines();
                let first = lines.next_line().await?.unwrap_or_default();
                while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
                let status = if first.contains("/healthz") && !is_well.load(Ordering::Relaxed) { 503 } else { 200 };
                let body = format!("You've hit {name}\n");
                let head =
                    format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                lines.into_inner().write_all((head + &body).as_bytes()).await
            });
        }
    });
    Ok(())
}

// --- how an endpoint is chosen ---

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_in_turns_where_the_service_says_nothing() {
    let net = Net::next();
    let (_pods, manifests) = pods(net, &["a", "b", "c"]).await;
    let bed = Bed::start(net, &(manifests + &web("") + ingress())).await;
    let mut client = Client::connect(bed.app.http()).await;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..12 {
        *seen.entry(client.get("web.com", "/").await.pod().expect("a pod answers")).or_default() += 1;
    }
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [4, 4, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_of_choice_reaches_every_pod() {
    let net = Net::next();
    let (_pods, manifests) = pods(net, &["a", "b", "c"]).await;
    let bed = Bed::start(net, &manifests).await;
    for rule in ["random", "round-robin", "least-in-flight", "ewma", "weighted"] {
        bed.apply("service.yaml", &web(&format!("tidegate.io/balance: {rule}"))).await;
        assert_eq!(hits(bed.cluster_addr("web"), MANY).await, ["a", "b", "c"], "{rule}");
    }
    assert_eq!(bed.findings(), [""; 0]);
}

/// Each client has its pod, all pods have clients, and when a pod goes only its own clients move. It is the same pod for its
/// connections to the Service and for its requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_hash_by_client_ip_moves_only_the_clients_of_the_pod_that_went() {
    let net = Net::next();
    let (_pods, manifests) = pods(net, &["a", "b", "c", "d"]).await;
    let manifests = manifests + &web("tidegate.io/balance: hash") + ingress();
    let bed = Bed::start(net, &manifests).await;
    let choices = async |addr| {
        let mut choices = Vec::new();
        for last in 100..140 {
            let mut client = Client::from([127, 200, 1, last].into(), addr).await.expect("a connection");
            choices.push(client.get("web.com", "/").await.pod().expect("a pod answers"));
        }
        choices
    };
    let (service, gateway) = (bed.cluster_addr("web"), bed.app.http());
    let before = choices(service).await;
    assert_eq!(before, choices(service).await);
    assert_eq!(before, choices(gateway).await);
    let mut pods = before.clone();
    pods.sort_unstable();
    pods.dedup();
    assert_eq!(pods, ["a", "b", "c", "d"]);
    let ready = pod_manifest("d", "web", net.ip(5));
    bed.apply("main.yaml", &manifests.replace(&ready, &ready.replace("\"True\"", "\"False\""))).await;
    let after = choices(service).await;
    assert_eq!(after, choices(gateway).await);
    for (before, after) in before.iter().zip(after) {
        assert!(after != "d" && (*before == after || before == "d"), "{before} {after}");
    }
}

// --- ejection ---

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_pod_is_ejected_which_explain_and_metrics_say_and_readiness_ends() {
    let net = Net::next();
    let (mut pods, manifests) = pods(net, &["a", "b", "c"]).await;
    let annotations = "tidegate.io/max-failures: '2', tidegate.io/ejection-time: 1h, tidegate.io/balance: round-robin";
    let bed = Bed::start(net, &(manifests.clone() + &web(annotations))).await;
    let addr = bed.cluster_addr("web");
    drop(pods.pop());
    assert_eq!(hits(addr, 30).await, ["a", "b"], "nobody noticed");
    let set_now = set(&bed.snapshot());
    let c = at(&set_now, net, 4);
    assert!(matches!(set_now.standing(c, now()), Standing::Ejected { .. }));
    assert_eq!(set_now.state(c).connect_failures(), 2, "and then it was asked no more");

    let explained = admin(&bed, &format!("/explain?target=tcp://{addr}")).await;
    assert!(explained.contains("(c) is ejected for "), "{explained}");
    let metrics = admin(&bed, "/metrics").await;
    let ejected = |ip, value: u8| {
        let endpoint = format!("endpoint=\"{}\"}} {value}", SocketAddr::new(ip, 8080));
        metrics.lines().any(|line| line.starts_with("tidegate_endpoint_ejected{") && line.ends_with(&endpoint))
    };
    assert!(ejected(net.ip(4), 1) && ejected(net.ip(2), 0), "{metrics}");
    assert!(admin(&bed, "/config").await.contains("\"ejectedSeconds\":3"));

    let _back = http_pod("c", net.ip(4)).await;
    let not_ready = pod_manifest("c", "web", net.ip(4)).replace("\"True\"", "\"False\"");
    let ready = manifests.clone() + &web(annotations);
    bed.apply("main.yaml", &ready.replace(&pod_manifest("c", "web", net.ip(4)), &not_ready)).await;
    bed.apply("main.yaml", &ready).await;
    assert_eq!(hits(addr, 6).await, ["a", "b", "c"], "the kubelet found it ready again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_nobody_is_ejected() {
    let net = Net::next();
    let (mut pods, manifests) = pods(net, &["a", "b"]).await;
    let bed = Bed::start(net, &(manifests + &web("tidegate.io/balance: round-robin"))).await;
    drop(pods.pop());
    assert_eq!(hits(bed.cluster_addr("web"), 20).await, ["a"]);
    let set = set(&bed.snapshot());
    assert!(set.state(at(&set, net, 3)).connect_failures() >= 10, "each turn tried it, and then the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_a_share_is_ejected() {
    for (share, expected) in [("25%", 1), ("50%", 2), ("100%", 3)] {
        let net = Net::next();
        let (_pods, manifests) = pods(net, &["a"]).await;
        // Nobody listens there.
        let gone: String = (3..6).map(|last| pod_manifest(&format!("gone-{last}"), "web", net.ip(last))).collect();
        let annotations = format!(
            "tidegate.io/max-failures: '1', tidegate.io/max-ejected: {share}, tidegate.io/balance: round-robin"
        );
        let bed = Bed::start(net, &(manifests + &gone + &web(&annotations))).await;
        for _ in 0..40 {
            // Three tries may all meet who is gone.
            drop(hit(bed.cluster_addr("web")).await);
        }
        let set = set(&bed.snapshot());
        let ejected =
            (3..6).filter(|&last| matches!(set.standing(at(&set, net, last), now()), Standing::Ejected { .. }));
        assert_eq!(ejected.count(), expected, "{share}");
    }
}

// --- slow start ---

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_comes_later_starts_slowly() {
    let net = Net::next();
    let (_pods, manifests) = pods(net, &["a", "b"]).await;
    let bed = Bed::start(net, &(manifests + &web("tidegate.io/slow-start: 1h"))).await;
    let addr = bed.cluster_addr("web");
    assert_eq!(hits(addr, MANY).await, ["a", "b"], "those it begins with are in full use");
    let _new = http_pod("c", net.ip(4)).await;
    let snapshot = bed.apply("c.yaml", &pod_manifest("c", "web", net.ip(4))).await;
    // An hour is so long that a connection in these moments goes to it once in many thousand times.
    assert_eq!(hits(addr, MANY).await, ["a", "b"]);
    let set = set(&snapshot);
    let Standing::SlowStart { share } = set.standing(at(&set, net, 4), now()) else { panic!("no slow start") };
    assert!(share < 0.02);
    let explained = admin(&bed, &format!("/explain?target=tcp://{addr}")).await;
    assert!(explained.contains("(c) starts slowly, with 0 % of a full share so far"), "{explained}");
    bed.apply("main.yaml", &(pods_manifests(net, 2) + &web("tidegate.io/slow-start: 0s"))).await;
    assert_eq!(hits(addr, MANY).await, ["a", "b", "c"]);
}

fn pods_manifests(net: Net, n: u8) -> String {
    (2..).zip(["a", "b", "c"]).take(n.into()).map(|(last, name)| pod_manifest(name, "web", net.ip(last))).collect()
}

// --- health checks ---

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fails_its_check_gets_neither_connections_nor_requests_until_it_passes() {
    let net = Net::next();
    let is_well = Arc::new(AtomicBool::new(true));
    moody_pod("a", SocketAddr::new(net.ip(2), 8080), is_well.clone()).await.unwrap();
    moody_pod("b", SocketAddr::new(net.ip(3), 8080), Arc::new(AtomicBool::new(true))).await.unwrap();
    let check = "tidegate.io/health-check: /healthz, tidegate.io/health-check-interval: 100ms, tidegate.io/health-check-timeout: 5s, tidegate.io/health-check-unhealthy: '2'";
    let bed = Bed::start(net, &(pods_manifests(net, 2) + &web(check) + ingress())).await;
    let addr = bed.cluster_addr("web");
    until_verdict(&bed, 2, Verdict::Passing).await;
    assert_eq!(hits(addr, MANY).await, ["a", "b"]);

    is_well.store(false, Ordering::Relaxed);
    until_verdict(&bed, 2, Verdict::Failing).await;
    assert_eq!(hits(addr, MANY).await, ["b"]);
    for _ in 0..6 {
        assert_eq!(bed.get("web.com", "/").await.pod().as_deref(), Some("b"));
    }
    let explained = admin(&bed, "/explain?target=GET%20http://web.com/").await;
    assert!(explained.contains("(a) fails its health check"), "{explained}");

    is_well.store(true, Ordering::Relaxed);
    until_verdict(&bed, 2, Verdict::Passing).await;
    assert_eq!(hits(addr, MANY).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_well_again_must_say_so_often_enough() {
    let net = Net::next();
    let is_well = Arc::new(AtomicBool::new(false));
    moody_pod("a", SocketAddr::new(net.ip(2), 8080), is_well.clone()).await.unwrap();
    let check = "tidegate.io/health-check: /healthz, tidegate.io/health-check-interval: 200ms, tidegate.io/health-check-timeout: 5s, tidegate.io/health-check-unhealthy: '1', tidegate.io/health-check-healthy: '4'";
    let bed = Bed::start(net, &(pods_manifests(net, 1) + &web(check))).await;
    until_verdict(&bed, 2, Verdict::Failing).await;
    is_well.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    until_verdict(&bed, 2, Verdict::Passing).await;
    // From the first good answer to the fourth.
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_must_come_in_time_and_one_bad_one_may_be_enough() {
    let net = Net::next();
    let (_pods, manifests) = pods(net, &["a"]).await;
    let slow = "tidegate.io/health-check: '/?delay=400ms', tidegate.io/health-check-unhealthy: '1'";
    let bed = Bed::start(net, &(manifests.clone() + &web(slow))).await;
    until_verdict(&bed, 2, Verdict::Passing).await;
    let begun = Instant::now();
    let impatient = format!("{slow}, tidegate.io/health-check-timeout: 100ms");
    bed.apply("main.yaml", &(manifests + &web(&impatient))).await;
    until_verdict(&bed, 2, Verdict::Failing).await;
    // The next question would come after 10 s, and by default it takes three.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_changed_or_removed_is_forgotten() {
    let net = Net::next();
    let (_pods, manifests) = pods(net, &["a", "b"]).await;
    // Nobody listens on this port of any pod: all fail, and so all are used.
    let failing =
        "tidegate.io/health-check: tcp, tidegate.io/health-check-port: '9', tidegate.io/health-check-unhealthy: '1'";
    let bed = Bed::start(net, &(manifests + &web(failing))).await;
    let addr = bed.cluster_addr("web");
    for last in [2, 3] {
        until_verdict(&bed, last, Verdict::Failing).await;
    }
    assert_eq!(hits(addr, MANY).await, ["a", "b"]);
    bed.apply("main.yaml", &(pods_manifests(net, 2) + &web("tidegate.io/health-check: /"))).await;
    for last in [2, 3] {
        until_verdict(&bed, last, Verdict::Passing).await;
    }
    bed.apply("main.yaml", &(pods_manifests(net, 2) + &web(""))).await;
    for last in [2, 3] {
        until_verdict(&bed, last, Verdict::Unknown).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_is_a_finding() {
    let net = Net::next();
    let udp = "---\napiVersion: v1\nkind: Service\nmetadata: {name: dns, annotations: {tidegate.io/health-check: tcp}}\nspec: {selector: {app: dns}, ports: [{port: 53, protocol: UDP}]}\n";
    let bed = Bed::start(net, udp).await;
    assert_eq!(bed.findings(), ["UdpHealthCheck"]);
    bed.apply("main.yaml", &udp.replace("tcp}", "tcp, tidegate.io/health-check-port: '8080'}")).await;
    assert_eq!(bed.findings(), [""; 0]);
    bed.apply("main.yaml", &web("tidegate.io/health-check-interval: 1s")).await;
    assert_eq!(bed.findings(), ["UnusedHealthCheck"]);
}

// --- limits ---

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_nothing_moves_is_closed_if_that_is_asked_for() {
    let net = Net::next();
    let (_pods, manifests) = pods(net, &["a"]).await;
    let bed = Bed::start(net, &(manifests.clone() + &web("tidegate.io/idle-timeout: 500ms"))).await;
    let mut client = Client::connect(bed.cluster_addr("web")).await;
    assert_eq!(client.get("x", "/").await.status, 200);
    let end = tokio::time::timeout(PATIENCE, client.stream.read(&mut [0])).await.expect("it ends");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    bed.apply("main.yaml", &(manifests + &web(""))).await;
    let mut client = Client::connect(bed.cluster_addr("web")).await;
    assert_eq!(client.get("x", "/").await.status, 200);
    let waits = tokio::time::timeout(Duration::from_millis(1_500), client.stream.read(&mut [0])).await;
    assert!(waits.is_err(), "nobody asked for it: {waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_when_a_service_is_full_is_reset_on_every_worker() {
    let net = Net::next();
    let (_pods, manifests) = pods(net, &["a"]).await;
    let bed = Bed::start(net, &(manifests + &web("tidegate.io/max-in-flight: '2'"))).await;
    let addr = bed.cluster_addr("web");
    let mut inside = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(addr).await;
        assert_eq!(client.get("x", "/").await.pod().as_deref(), Some("a"));
        inside.push(client);
    }
    // Whichever worker accepts them: the limit is that of the process.
    for _ in 0..8 {
        hit(addr).await.expect_err("it is full");
    }
    let metrics = admin(&bed, "/metrics").await;
    let line = "tidegate_turned_away_total{namespace=\"default\",service=\"web\",port=\"80\",protocol=\"TCP\"} 8";
    assert!(metrics.lines().any(|held| held == line), "{metrics}");
    drop(inside);
    let begun = Instant::now();
    while hit(addr).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the places do not become free");
    }
}
