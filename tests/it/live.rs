//! The live view: what somebody sees who looks on, and that nothing else notices.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidegate_tests::{Bed, Client, Net, PATIENCE, http_pod, pod_manifest, service_manifest};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Somebody who looks on.
struct Viewer(BufReader<TcpStream>);

impl Viewer {
    async fn open(bed: &Bed, query: &str) -> Self {
        let mut stream = TcpStream::connect(bed.app.admin()).await.unwrap();
        // HTTP/1.0 knows no chunks: what comes are the lines of the events.
        stream.write_all(format!("GET /live{query} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut viewer = Self(BufReader::new(stream));
        assert_eq!(viewer.line().await, "HTTP/1.0 200 OK");
        while !viewer.line().await.is_empty() {}
        assert_eq!(viewer.line().await, "retry: 1000");
        viewer
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        let length = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line in time").unwrap();
        assert!(length > 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    /// The data of the next event of a kind.
    async fn event(&mut self, name: &str) -> Value {
        // Comments and states go on, even if what is waited for never comes.
        let begun = Instant::now();
        while self.line().await != format!("event: {name}") {
            assert!(begun.elapsed() < PATIENCE, "no {name}");
        }
        let data = self.line().await;
        serde_json::from_str(data.strip_prefix("data: ").expect("data")).unwrap()
    }

    /// The next state that is as wanted.
    async fn state(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let state = self.event("state").await;
            if is_it(&state) {
                return state;
            }
        }
    }

    /// The next event in the tail that is as wanted.
    async fn told(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let Value::Array(events) = self.event("tail").await else { panic!("not a list") };
            if let Some(event) = events.into_iter().find(|event| is_it(event)) {
                return event;
            }
        }
    }
}

/// Service `web` with two pods behind host `web.com`, with a cookie.
fn manifests(net: Net) -> String {
    let pods: String = (0..2).map(|n| pod_manifest(&format!("web-{n}"), "web", net.ip(2 + n))).collect();
    pods + &service_manifest("web", "web", "")
        + "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web, annotations: {\
           nginx.ingress.kubernetes.io/affinity: cookie, nginx.ingress.kubernetes.io/session-cookie-name: session}}\n\
           spec: {ingressClassName: tidegate, rules: [{host: web.com, http: {paths: [{path: /, pathType: Prefix, \
           backend: {service: {name: web, port: {number: 80}}}}]}}]}\n"
}

async fn explain(bed: &Bed, id: &Value) -> (u16, String) {
    let answer = Client::connect(bed.app.admin()).await.get("localhost", &format!("/explain?event={id}")).await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn the_state_follows_the_manifests_and_the_filter() {
    let net = Net::next();
    let bed = Bed::start(net, &manifests(net)).await;
    let (mut all, mut one) = (Viewer::open(&bed, "").await, Viewer::open(&bed, "?filter=OTHER").await);
    let (first, none) = (all.event("state").await, one.event("state").await);
    assert_eq!((&first["servicesTotal"], &none["servicesTotal"]), (&1.into(), &0.into()));
    let endpoints = first["services"][0]["ports"][0]["endpoints"].as_array().unwrap();
    assert!(endpoints.len() == 2 && endpoints[0]["pod"] == "web-0" && endpoints[0]["inFlight"] == 0, "{endpoints:?}");
    let snapshot = bed.apply("other.yaml", &service_manifest("other", "other", "")).await;
    for viewer in [&mut all, &mut one] {
        let state = viewer.state(|state| state["generation"] == snapshot.generation).await;
        let services = state["services"].as_array().unwrap();
        assert!(services.iter().any(|service| service["name"] == "other"), "{services:?}");
    }
}

#[tokio::test]
async fn a_request_is_in_the_tail_and_can_be_explained_without_its_cookie() {
    let net = Net::next();
    let (_a, _b) = (http_pod("web-0", net.ip(2)).await, http_pod("web-1", net.ip(3)).await);
    let bed = Bed::start(net, &manifests(net)).await;
    // Nobody looks: nothing is told of these, or the last of them could be asked about.
    for _ in 0..5 {
        assert_eq!(bed.get("web.com", "/unseen").await.status, 200);
    }
    let mut viewer = Viewer::open(&bed, "").await;
    viewer.event("state").await;
    let answer = bed.get("web.com", "/first?token=hidden").await;
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let first = viewer.told(|event| event["kind"] == "request").await;
    assert_eq!((&first["path"], &first["status"]), (&"/first".into(), &200.into()));
    let before =
        format!("GET /explain?event={} HTTP/1.1\r\nHost: localhost\r\n\r\n", first["id"].as_u64().unwrap() - 1);
    assert_eq!(Client::connect(bed.app.admin()).await.ask(&before).await.unwrap().status, 404);
    assert_eq!((&first["pod"], &first["reason"]), (&answer.pod().unwrap().into(), &"NewSession".into()));
    let mut client = Client::connect(bed.app.http()).await;
    let port = client.stream.local_addr().unwrap().port();
    let again =
        client.ask(&format!("GET /a HTTP/1.1\r\nHost: web.com\r\nCookie: x=y; {cookie}\r\n\r\n")).await.unwrap();
    assert_eq!(again.pod(), answer.pod());
    let told = viewer.told(|event| event["path"] == "/a").await;
    assert_eq!((&told["reason"], &told["pod"], &told["nth"]), (&"Cookie".into(), &first["pod"], &1.into()));
    assert_eq!(told["client"].as_str().unwrap().parse::<SocketAddr>().unwrap().port(), port);
    let (status, text) = explain(&bed, &told["id"]).await;
    let explanation: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {text}: {error}"));
    let question = explanation["question"].as_str().unwrap();
    assert!(
        question.starts_with("GET http://web.com/a from ") && question.ends_with("cookie: (not shown)"),
        "{question}"
    );
    assert_eq!(explanation["event"], told, "what happened, beside where it would go now");
    let candidates = explanation["outcome"]["candidates"].as_array().unwrap();
    let chosen = candidates.iter().find(|candidate| candidate["first"] == true).unwrap();
    assert!(chosen["pod"] == told["pod"] && explanation["outcome"]["sticky"] == true, "{explanation}");
    let value = cookie.split_once('=').unwrap().1;
    let key = value.split('|').next().unwrap();
    for secret in ["hidden", "x=y", value, key] {
        assert!(!text.contains(secret) && !told.to_string().contains(secret), "{secret} in {text} or {told}");
    }
    assert_eq!(explain(&bed, &Value::from(1_000_000)).await.0, 404);
    let state = viewer.state(|state| state["totals"]["answers"]["200"] == 7).await;
    let rule = &state["ingresses"][0]["rules"][0];
    assert_eq!(rule["latency"]["buckets"].as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>(), 7);
}

#[tokio::test]
async fn a_connection_is_in_the_tail_with_its_clients_port() {
    let net = Net::next();
    let pods = [http_pod("web-0", net.ip(2)).await, http_pod("web-1", net.ip(3)).await];
    let bed = Bed::start(net, &manifests(net)).await;
    let mut viewer = Viewer::open(&bed, "").await;
    viewer.event("state").await;
    let frontend = bed.cluster_addr("web");
    let mut client = Client::connect(frontend).await;
    let local = client.stream.local_addr().unwrap().to_string();
    let answer = client.get("web", "/").await;
    let began = viewer.told(|event| event["kind"] == "connection").await;
    assert_eq!((&began["client"], &began["frontend"]), (&local.into(), &frontend.to_string().into()));
    assert_eq!((&began["pod"], &began["frontendKind"]), (&answer.pod().unwrap().into(), &"ClusterIP".into()));
    let (status, text) = explain(&bed, &began["id"]).await;
    let explanation: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {text}: {error}"));
    assert_eq!(explanation["outcome"]["candidates"].as_array().unwrap().len(), pods.len());
    drop(client);
    let ended = viewer.told(|event| event["kind"] == "connectionEnd").await;
    assert_eq!(ended["of"], began["id"]);
    assert_eq!(explain(&bed, &ended["id"]).await.0, 404, "there is nothing to explain about it");
}

/// How long some clients take for many requests together, all of which are answered.
async fn busy(bed: &Bed) -> Duration {
    let begun = Instant::now();
    let clients = (0..8).map(|_| {
        let addr = bed.app.http();
        tokio::spawn(async move {
            let mut client = Client::connect(addr).await;
            for n in 0..250 {
                assert_eq!(client.get("web.com", &format!("/{n}")).await.status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("every request was answered");
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_who_does_not_read_slows_nobody_down() {
    let net = Net::next();
    let _pods = [http_pod("web-0", net.ip(2)).await, http_pod("web-1", net.ip(3)).await];
    let bed = Bed::start(net, &manifests(net)).await;
    busy(&bed).await;
    let alone = busy(&bed).await.max(busy(&bed).await);
    let mut sleepers = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(bed.app.admin()).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        stream.readable().await.unwrap();
        sleepers.push(stream);
    }
    let mut viewer = Viewer::open(&bed, "").await;
    viewer.event("state").await;
    let watched = busy(&bed).await.min(busy(&bed).await);
    // Many times what it may be: this is no benchmark, and finds only what waits.
    assert!(watched < alone * 4 + Duration::from_millis(500), "{watched:?} with viewers, {alone:?} without");
    let state = viewer.state(|state| state["totals"]["answers"]["200"] == 5 * 2_000).await;
    assert_eq!(state["totals"]["answers"], serde_json::json!({ "200": 10_000 }));
}

#[tokio::test]
async fn no_more_viewers_than_there_is_room_for_and_none_after_the_end() {
    let net = Net::next();
    let bed = Bed::start(net, &manifests(net)).await;
    let mut viewers = Vec::new();
    for _ in 0..16 {
        viewers.push(Viewer::open(&bed, "").await);
    }
    let refused = Client::connect(bed.app.admin()).await.get("localhost", "/live").await;
    assert!(refused.status == 503 && refused.text().contains("close one"), "{refused:?}");
    // One leaves, and its place is free as soon as that is noticed.
    viewers.pop();
    let begun = Instant::now();
    let mut other = loop {
        let mut stream = TcpStream::connect(bed.app.admin()).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.0\r\n\r\n").await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        if &status[9..] == b"200" {
            break stream;
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    drop(bed);
    drop(timeout(PATIENCE, other.read_to_end(&mut Vec::new())).await.expect("it has ended"));
}

#[tokio::test]
async fn who_is_turned_away_is_in_the_tail() {
    let net = Net::next();
    // There are pods, but nobody listens there.
    let bed = Bed::start(net, &manifests(net)).await;
    let mut viewer = Viewer::open(&bed, "").await;
    viewer.event("state").await;
    let client = net.ip(9);
    // The reset may come as soon as the connection is there, or later.
    if let Ok(mut connected) = Client::from(client, bed.cluster_addr("web")).await {
        assert!(connected.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.is_err());
    }
    let refused = viewer.told(|event| event["kind"] == "refused").await;
    let told: SocketAddr = refused["client"].as_str().unwrap().parse().unwrap();
    assert_eq!((&refused["service"], told.ip()), (&"default/web".into(), client));
    let (status, text) = explain(&bed, &refused["id"]).await;
    assert!(status == 200 && text.contains("2 of 2 can be used"), "{status} {text}");
}
