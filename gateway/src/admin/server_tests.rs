use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{oneshot, watch},
    task::JoinHandle,
};

use super::*;
use crate::admin::{
    client, fixture,
    status::{Listening, RuntimeStatus},
    view::ListenerView,
};

struct Admin {
    addr: String,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    runtime: Arc<RuntimeStatus>,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

async fn start() -> Admin {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (sender, snapshot) = watch::channel(None);
    let runtime = Arc::new(RuntimeStatus::default());
    let explain = |snapshot: &Snapshot, query: &str| match query {
        "target=x" => Ok(serde_json::json!({ "generation": snapshot.generation })),
        _ => Err("no target".to_owned()),
    };
    let state = AdminState {
        snapshot,
        runtime: runtime.clone(),
        explain,
        explain_event: |_, event| Ok(event.id.into()),
        ..fixture::state(None, 1)
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, Arc::new(state), async { drop(stopped.await) }));
    Admin { addr, snapshot: sender, runtime, stop, server }
}

impl Admin {
    /// What comes back for some bytes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr)).await
    }

    async fn status(&self, path: &str) -> String {
        self.get(path).await[9..12].to_owned()
    }
}

#[tokio::test]
async fn ready_only_between_the_first_configuration_and_the_drain() {
    let admin = start().await;
    assert_eq!(admin.status("/healthz").await, "200");
    assert!(admin.get("/readyz").await.ends_with("no configuration yet: the manifests are still being read\n"));
    for path in ["/readyz", "/config", "/findings", "/explain?target=x"] {
        assert_eq!(admin.status(path).await, "503", "{path}");
    }
    assert_eq!(admin.status("/metrics").await, "200");
    assert_eq!(admin.runtime.configured(), None);
    admin.snapshot.send_replace(Some(fixture::snapshot(fixture::MANIFESTS)));
    assert_eq!(admin.status("/readyz").await, "200");
    assert!(admin.runtime.configured().is_some());
    admin.runtime.set_draining();
    assert_eq!(admin.status("/readyz").await, "503");
    assert_eq!(admin.status("/healthz").await, "200");
    admin.stop.send(()).unwrap();
    admin.server.await.unwrap();
    assert!(TcpStream::connect(&admin.addr).await.is_err());
}

/// For who may come from other machines.
#[tokio::test]
async fn where_there_are_metrics_alone_nothing_of_the_configuration_is_seen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let (_sender, snapshot) = watch::channel(Some(fixture::snapshot(fixture::MANIFESTS)));
    let (stop, stopped) = oneshot::channel::<()>();
    let state = AdminState { snapshot: snapshot.clone(), ..fixture::state(None, 1) };
    let server = tokio::spawn(serve_metrics(listener, Arc::new(state), async { drop(stopped.await) }));
    let admin = Admin { addr, snapshot: watch::channel(None).0, runtime: Arc::default(), stop, server };
    for path in METRICS_PATHS {
        assert_eq!(admin.status(path).await, "200", "{path}");
    }
    let others = PATHS.iter().map(|(path, _)| *path).filter(|path| !METRICS_PATHS.contains(path));
    for path in others.chain(["/dashboard.css", "/demo/state"]) {
        let answer = admin.get(path).await;
        assert!(
            answer.starts_with("HTTP/1.1 404 ")
                && answer.ends_with("\nhere is nothing but /healthz, /readyz, /metrics\n"),
            "{path}: {answer}"
        );
    }
    admin.stop.send(()).unwrap();
    admin.server.await.unwrap();
}

#[tokio::test]
async fn the_configuration_as_json() {
    let admin = start().await;
    let snapshot = fixture::snapshot(fixture::MANIFESTS);
    admin.runtime.set_http(([127, 0, 0, 1], 8080).into());
    let (frontend, target) = snapshot.table.frontends().next().unwrap();
    let listening = Listening { frontend: *frontend, service: target.port.config.name.to_string(), kind: "ClusterIP" };
    admin.runtime.set_listening(vec![listening], vec![]);
    admin.snapshot.send_replace(Some(snapshot.clone()));
    let answer = client::fetch(&admin.addr, "/config").await.unwrap();
    let view: ConfigView = serde_json::from_slice(&answer).unwrap();
    assert_eq!(view, ConfigView::new(&snapshot, &admin.runtime));
    assert_eq!((view.generation, view.services.len()), (1, 3));
    let port = &view.services[1].ports[0];
    assert_eq!((port.node_port, port.target_port.as_str(), port.endpoints.len()), (Some(30123), "8080", 3));
    let (first, last) = (&port.endpoints[0], &port.endpoints[2]);
    assert_eq!((first.pod.as_deref(), first.in_flight, first.picks), (Some("kubia-a"), Some(0), Some(0)));
    assert!(first.eligible.cluster && first.eligible.local && !port.endpoints[1].eligible.local);
    assert!(last.terminating && !last.eligible.cluster && last.picks.is_none());
    assert_eq!(view.services[1].affinity_timeout_seconds, Some(10_800));
    let ingress = &view.ingresses[0];
    assert_eq!(ingress.addresses, ["127.0.0.1"]);
    assert_eq!(ingress.rules[0].upstream.as_deref(), Some("default-kubia-80"));
    assert_eq!(ingress.rules[1].problem.as_deref(), Some("there is no such Service"));
    assert!(view.other_rules.is_empty());
    let http =
        ListenerView { address: "127.0.0.1:8080/TCP".into(), kind: "HTTP".into(), open: true, ..Default::default() };
    assert_eq!(view.listeners[0], http);
    assert_eq!(view.listeners.len(), 2);
    let answer = client::fetch(&admin.addr, "/findings").await.unwrap();
    assert_eq!(serde_json::from_slice::<Vec<super::super::view::FindingView>>(&answer).unwrap(), view.findings);
    assert!(view.findings.iter().any(|finding| finding.reason == "MissingService" && finding.line > 0));
}

#[tokio::test]
async fn heads_methods_and_unknown_paths() {
    let admin = start().await;
    admin.snapshot.send_replace(Some(fixture::snapshot(fixture::MANIFESTS)));
    let metrics = admin.get("/metrics").await.to_lowercase();
    assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    assert!(metrics.contains("x-content-type-options: nosniff\r\n") && !metrics.contains("access-control"));
    assert!(metrics.ends_with("# eof\n"));
    let head = admin.raw("HEAD /config HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n") && !head.contains("content-length: 0"));
    let post = admin.raw("POST /config HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405") && post.to_lowercase().contains("allow: get, head\r\n"));
    let (root, unknown) = (admin.get("/").await, admin.get("/secret?x=1").await);
    assert!(root.starts_with("HTTP/1.1 200") && unknown.starts_with("HTTP/1.1 404"));
    assert!(PATHS.iter().all(|(path, _)| root.contains(path) && unknown.contains(path)));
    // The one needs a question, and the other has no end.
    for (path, _) in PATHS.iter().filter(|(path, _)| !["/explain", "/live"].contains(path)) {
        assert_eq!(admin.status(path).await, "200", "{path}");
    }
    assert!(admin.get("/live?x=1").await.contains("400 Bad Request"));
    let head = admin.raw("HEAD /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream\r\n"), "{head}");
    assert!(admin.get("/explain?target=x").await.ends_with("{\"generation\":1}"));
    assert!(admin.get("/explain?y").await.contains("400 Bad Request"));
    for id in ["1", "", "x"] {
        let answer = admin.get(&format!("/explain?event={id}")).await;
        assert!(answer.contains("404 Not Found") && answer.contains("only the last ones are remembered"), "{answer}");
    }
}

#[tokio::test]
async fn a_live_view_ends_at_once_when_the_server_stops() {
    let admin = start().await;
    admin.snapshot.send_replace(Some(fixture::snapshot(fixture::MANIFESTS)));
    let mut stream = TcpStream::connect(&admin.addr).await.unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("event: state\ndata: {") {
        assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
    }
    let begun = std::time::Instant::now();
    admin.stop.send(()).unwrap();
    admin.server.await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_browser_is_shown_the_dashboard() {
    let admin = start().await;
    let answer = admin.raw("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html,*/*;q=0.8\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("</html>\n"), "{answer}");
    assert!(answer.to_lowercase().contains("content-security-policy: default-src 'none'; script-src 'self'; "));
    assert!(admin.get("/assets/style.css").await.contains("prefers-color-scheme"));
    assert_eq!(admin.status("/demo").await, "404");
}

#[tokio::test]
async fn web_pages_and_overlong_heads_are_turned_away() {
    let admin = start().await;
    for host in ["evil.example", "evil.example:9901"] {
        let answer = admin.raw(&format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    assert!(admin.raw("GET /healthz HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 200"));
    let long = "x".repeat(LIMITS.head_bytes);
    let answer = admin.raw(&format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn errors_of_the_client_say_what_to_do() {
    let admin = start().await;
    let error = client::fetch(&admin.addr, "/config").await.unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("no configuration yet"), "{error}");
    let name = admin.addr.replace("127.0.0.1", "localhost");
    assert_eq!(client::fetch(&name, "/healthz").await.unwrap(), "ok\n");
    admin.stop.send(()).unwrap();
    admin.server.await.unwrap();
    let error = client::fetch(&admin.addr, "/config").await.unwrap_err().to_string();
    assert!(error.contains(&admin.addr) && error.contains("tidegate run") && error.contains("--admin"), "{error}");
    let not_http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = not_http.local_addr().unwrap().to_string();
    let answer = async {
        let (mut stream, _) = not_http.accept().await.unwrap();
        stream.write_all(b"220 mail ready\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let (error, ()) = tokio::join!(client::fetch(&addr, "/config"), answer);
    assert!(error.unwrap_err().to_string().contains("does not answer as an admin interface does"));
    assert!(client::fetch("127.0.0.1:1", "no path").await.is_err());
}
