//! `--cache-dir`: a start while the API server is away.

use std::path::PathBuf;

use tidegate::controller::{
    ControllerOptions,
    publish::{Address, Publish},
};

use super::*;

/// A directory of the test's own; removed with it.
struct Directory(PathBuf);

impl Directory {
    fn new(net: Net) -> Self {
        Self(std::env::temp_dir().join(format!("tidegate-cache-{}-{}", std::process::id(), net.number())))
    }

    fn files(&self) -> Vec<PathBuf> {
        std::fs::read_dir(&self.0).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn source(server: &ApiServer, directory: &Directory) -> Source {
    let connection = Connection::find(Some(server.kubeconfig().to_owned()), None).await.unwrap();
    Source::Kubernetes(Box::new(Cluster::new(connection, &[], "here").remembered_in(&directory.0)))
}

async fn start_from(net: Net, server: &ApiServer, directory: &Directory) -> Bed {
    start(net, source(server, directory).await).await
}

/// Has a process remember all there is, and end.
async fn remember(net: Net, server: &ApiServer, directory: &Directory) {
    let bed = start_from(net, server, directory).await;
    let written = async {
        while directory.files().is_empty() || directory.files()[0].extension().is_none_or(|end| end != "jsonl") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("it is written");
    drop(bed);
    // What it listens at is closed in its own time.
    while std::net::TcpListener::bind(admin(net)).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_start_while_the_api_server_is_away_serves_what_was_known() {
    let net = Net::next();
    let (_a, _b) = (http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await);
    let mut server = ApiServer::start(net.ip(32)).await;
    let ca = Ca::new("ca");
    let Pair { chain, key } = ca.leaf(&["web.example.com"]);
    server.apply(&secret_manifest("web", &[("tls.crt", &chain), ("tls.key", &key)]));
    let tls = "spec: {tls: [{hosts: [web.example.com], secretName: web}], ";
    let plain_too = "{name: web, annotations: {nginx.ingress.kubernetes.io/ssl-redirect: 'false'}, namespace";
    let web = ingress("default", "web").replace("spec: {", tls).replacen("{name: web, namespace", plain_too, 1);
    server.apply(&(service("default", "web", &[net.ip(2)]) + &web));
    server.apply(&(service("default", "gone", &[net.ip(2)]) + &ingress("default", "gone")));
    let directory = Directory::new(net);
    remember(net, &server, &directory).await;

    server.leave();
    let begun = std::time::Instant::now();
    let bed = start_from(net, &server, &directory).await;
    assert!(begun.elapsed() >= Duration::from_secs(5), "the API server is given a chance");
    let shown = |bed: &Bed| {
        let https = bed.app.https().unwrap();
        let client = TlsClient::new(&ca);
        async move { client.connect(https, "web.example.com").await }
    };
    let answer = shown(&bed).await.expect("its certificate is known").get("web.example.com", "/").await;
    assert_eq!(answer.pod().as_deref(), Some("a"));
    assert_eq!(bed.findings(), ["Remembered"]);
    let (status, ready) = ask(net, "/readyz").await;
    assert!(
        status == 200 && ready.contains("what is not known yet is served as an earlier process heard it"),
        "{ready}"
    );

    // What happened meanwhile.
    server.apply(&slice("default", "web", &[net.ip(3)]));
    server.delete(Kind::Ingress, "default", "gone");
    server.come_back().await;
    until_answered(&bed, "web", (200, Some("b"))).await;
    until_answered(&bed, "gone", (404, None)).await;
    bed.until(|snapshot| snapshot.findings.is_empty()).await;
    assert!(shown(&bed).await.is_ok());
    assert_eq!(ask_until(net, "/readyz", |_, text| text == "ok\n").await, "ok\n");
}

#[tokio::test]
async fn what_was_remembered_is_not_looked_at_while_the_api_server_answers() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    let directory = Directory::new(net);
    std::fs::create_dir_all(&directory.0).unwrap();
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web")));
    let begun = std::time::Instant::now();
    let bed = start_from(net, &server, &directory).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((bed.findings(), bed.get("web.example.com", "/").await.pod().as_deref()), (vec![], Some("a")));
}

#[tokio::test]
async fn what_was_remembered_is_no_reason_to_write_a_status() {
    let net = Net::next();
    let server = ApiServer::start(net.ip(32)).await;
    let directory = Directory::new(net);
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web") + &ingress("default", "lost")));
    remember(net, &server, &directory).await;

    // It tells of everything else: of Ingresses, too.
    server.hold("endpointslices");
    let source = source(&server, &directory).await;
    let address = Address::Ip("192.0.2.200".parse().unwrap());
    let bed = Bed::start_with(net, "", |options| {
        options.source = source;
        options.settings.addresses = AddressSource::Cluster;
        options.admin = admin(net);
        options.controller = Some(ControllerOptions {
            namespace: "tidegate".into(),
            lease: "tidegate-leader".into(),
            identity: "a".into(),
            publish: Publish::Addresses(vec![address]),
        });
    })
    .await;
    bed.until(|snapshot| snapshot.findings.iter().any(|finding| finding.reason == "Remembered")).await;
    let is_written = |what: &str| server.written().iter().any(|written| written.contains(what));
    let until_written = async |what: &str| {
        let wait = async {
            while !is_written(what) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it is written");
    };
    until_written("/events?").await;
    assert!(!is_written("/status?"), "the leader has looked, and has left it as it is: {:?}", server.written());
    server.release("endpointslices");
    until_written("/ingresses/web/status?").await;
}
