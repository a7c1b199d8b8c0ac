//! A cluster as the source: Tidegate follows what its API server says, and goes on with what it knows while it says nothing.

mod cache;
mod node;
mod referred;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate::{
    app::Source,
    compile::settings::AddressSource,
    control::kubernetes::{Cluster, api_server::ApiServer as Connection},
};
use tidegate_crd::Kind;
use tidegate_tests::{
    Bed, Client, Net, PATIENCE,
    api_server::ApiServer,
    certificates::{Ca, Pair, TlsClient, secret_manifest},
    http_pod,
    process::Process,
};

/// A Service with a ClusterIP that this machine does not have, and its EndpointSlice.
pub(crate) fn service(namespace: &str, name: &str, pods: &[IpAddr]) -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let spec = format!("clusterIP: 192.0.2.{}, ports: [{{port: 80, targetPort: 8080}}]", NEXT.fetch_add(1, Relaxed));
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n{}",
        slice(namespace, name, pods)
    )
}

pub(crate) fn slice(namespace: &str, name: &str, pods: &[IpAddr]) -> String {
    let endpoints: Vec<String> =
        pods.iter().map(|ip| format!("{{addresses: ['{ip}'], conditions: {{ready: true}}}}")).collect();
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {name}-x, \
         namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}, ports: [{{port: 8080, name: '', \
         protocol: TCP}}], endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

/// An Ingress for `NAME.example.com`.
pub(crate) fn ingress(namespace: &str, name: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{rules: [{{host: {name}.example.com, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: \
         {{name: {name}, port: {{number: 80}}}}}}}}]}}}}]}}}}\n"
    )
}

/// The same Ingress, of a class.
pub(crate) fn of_class(class: &str, ingress: &str) -> String {
    ingress.replacen("spec: {", &format!("spec: {{ingressClassName: {class}, "), 1)
}

pub(crate) async fn cluster(server: &ApiServer, namespaces: &[&str]) -> Source {
    let connection = Connection::find(Some(server.kubeconfig().to_owned()), None).await.unwrap();
    let namespaces: Vec<String> = namespaces.iter().map(|&namespace| namespace.to_owned()).collect();
    Source::Kubernetes(Box::new(Cluster::new(connection, &namespaces, "here")))
}

/// Where its admin interface is, known before it has started.
pub(crate) fn admin(net: Net) -> SocketAddr {
    SocketAddr::new(net.ip(1), 9901)
}

async fn start(net: Net, source: Source) -> Bed {
    Bed::start_with(net, "", |options| {
        options.source = source;
        options.settings.addresses = AddressSource::Cluster;
        options.admin = admin(net);
    })
    .await
}

/// What the admin interface says.
pub(crate) async fn ask(net: Net, path: &str) -> (u16, String) {
    let answer = Client::connect(admin(net)).await.get("localhost", path).await;
    (answer.status, answer.text())
}

/// Asks until the answer is of this kind.
pub(crate) async fn ask_until(net: Net, path: &str, is_it: impl Fn(u16, &str) -> bool) -> String {
    let mut last = (0, String::new());
    let wait = async {
        loop {
            if let Ok(mut client) = Client::try_connect(admin(net)).await {
                let answer = client.get("localhost", path).await;
                last = (answer.status, answer.text());
                if is_it(last.0, &last.1) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await.is_ok();
    assert!(in_time, "{path} still says {last:?}");
    last.1
}

/// Asks a host until it answers so: the status, and the pod if one answered.
async fn until_answered(bed: &Bed, name: &str, expected: (u16, Option<&str>)) {
    let host = format!("{name}.example.com");
    let mut last = None;
    let wait = async {
        loop {
            let answer = bed.get(&host, "/").await;
            let is_it = (answer.status, answer.pod().as_deref()) == expected;
            last = Some(answer);
            if is_it {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await.is_ok();
    assert!(in_time, "{host} still answers {last:?} instead of {expected:?}");
}

#[tokio::test]
async fn what_changes_in_the_cluster_changes_here() {
    let net = Net::next();
    let (_a, _b) = (http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await);
    let server = ApiServer::start(net.ip(32)).await;
    for name in ["one", "two", "three"] {
        server.apply(&(service("default", name, &[net.ip(2)]) + &ingress("default", name)));
    }
    let bed = start(net, cluster(&server, &[]).await).await;
    // All three, so both pages, were there before the first configuration was live.
    for name in ["one", "two", "three"] {
        assert_eq!(bed.get(&format!("{name}.example.com"), "/").await.pod().as_deref(), Some("a"));
    }
    assert!(server.asked().iter().any(|target| target.contains("/services?") && target.contains("continue=2")));
    assert_eq!(ask(net, "/readyz").await, (200, "ok\n".to_owned()));
    assert_eq!(bed.findings(), [] as [&str; 0]);
    assert!(
        bed.app.status().listening().is_empty() && bed.app.status().failed().is_empty(),
        "ClusterIPs are kube-proxy's"
    );

    server.apply(&slice("default", "one", &[net.ip(3)]));
    until_answered(&bed, "one", (200, Some("b"))).await;
    server.delete(Kind::Ingress, "default", "two");
    until_answered(&bed, "two", (404, None)).await;
    server.apply(&(service("new", "four", &[net.ip(3)]) + &ingress("new", "four")));
    until_answered(&bed, "four", (200, Some("b"))).await;
    let metrics = ask(net, "/metrics").await.1;
    for sample in ["objects{resource=\"services\"} 4", "lists_total{resource=\"services\"} 1", "away_seconds 0.0"] {
        assert!(metrics.contains(&format!("tidegate_kubernetes_{sample}\n")), "{sample} in {metrics}");
    }
}

#[tokio::test]
async fn a_secret_of_the_cluster_is_shown_and_changes() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let secret = |ca: &Ca| {
        let Pair { chain, key } = ca.leaf(&["web.example.com"]);
        secret_manifest("web", &[("tls.crt", &chain), ("tls.key", &key), ("password", "of no use here")])
    };
    let tls = "spec: {tls: [{hosts: [web.example.com], secretName: web}], ";
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web").replace("spec: {", tls)));
    server.apply(&secret(&old));
    let bed = start(net, cluster(&server, &[]).await).await;
    let https = bed.app.https().unwrap();
    let mut client = TlsClient::new(&old).connect(https, "web.example.com").await.unwrap();
    assert_eq!(client.get("web.example.com", "/").await.pod().as_deref(), Some("a"));
    assert!(TlsClient::new(&new).connect(https, "web.example.com").await.is_err());
    let generation = bed.snapshot().generation;
    server.apply(&secret(&new));
    bed.until(|snapshot| snapshot.generation > generation).await;
    TlsClient::new(&new).connect(https, "web.example.com").await.unwrap();
}

#[tokio::test]
async fn findings_name_the_object_and_no_line() {
    let net = Net::next();
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&ingress("default", "web"));
    let bed = start(net, cluster(&server, &[]).await).await;
    let text = bed.snapshot().findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let expected =
        "kubernetes: error[MissingService] Ingress default/web spec.rules[0].http.paths[0].backend.service.name: ";
    assert!(text.starts_with(expected), "{text}");
}

#[tokio::test]
async fn what_was_missed_is_made_up_for() {
    for at_start in [false, true] {
        let net = Net::next();
        let (_a, _b) = (http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await);
        let mut server = ApiServer::start(net.ip(32)).await;
        for name in ["stays", "goes"] {
            server.apply(&(service("default", name, &[net.ip(2)]) + &ingress("default", name)));
        }
        let bed = start(net, cluster(&server, &[]).await).await;
        until_answered(&bed, "goes", (200, Some("a"))).await;
        if at_start {
            server.say_gone_at_start();
            server.leave();
        }
        let changed = slice("default", "stays", &[net.ip(3)]) + &service("default", "comes", &[net.ip(3)]);
        server.change_unseen(&(changed + &ingress("default", "comes")), &[(Kind::Ingress, "default", "goes")]);
        if at_start {
            server.come_back().await;
        }
        until_answered(&bed, "stays", (200, Some("b"))).await;
        until_answered(&bed, "comes", (200, Some("b"))).await;
        until_answered(&bed, "goes", (404, None)).await;
        let is_gone = |_, text: &str| {
            let gone =
                text.lines().find(|line| line.contains("_failures_total{resource=\"ingresses\",reason=\"gone\"}"));
            gone.is_some_and(|line| line.ends_with(" 1"))
        };
        ask_until(net, "/metrics", is_gone).await;
        // The streams are whole again.
        server.apply(&slice("default", "stays", &[net.ip(2)]));
        until_answered(&bed, "stays", (200, Some("a"))).await;
    }
}

#[tokio::test]
async fn traffic_goes_on_while_the_api_server_is_away() {
    let net = Net::next();
    let (_a, _b) = (http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await);
    let mut server = ApiServer::start(net.ip(32)).await;
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web")));
    let bed = start(net, cluster(&server, &[]).await).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients = tokio::spawn({
        let (http, stop, served) = (bed.app.http(), stop.clone(), served.clone());
        async move {
            while !stop.load(Relaxed) {
                let answer = Client::connect(http).await.get("web.example.com", "/").await;
                assert!(answer.status == 200 && answer.pod().is_some(), "{answer:?}");
                served.fetch_add(1, Relaxed);
            }
        }
    });

    server.leave();
    let connected = |value| format!("tidegate_kubernetes_connected{{resource=\"services\"}} {value}\n");
    ask_until(net, "/metrics", |_, text| text.contains(&connected(0))).await;
    let ready = ask_until(net, "/readyz", |_, text| text.contains("services in all namespaces")).await;
    assert!(ready.starts_with("ok\n") && ready.contains("what was known is served"), "{ready}");
    server.apply(&slice("default", "web", &[net.ip(3)]));
    let before = served.load(Relaxed);
    tokio::time::timeout(PATIENCE, async {
        while served.load(Relaxed) < before + 50 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("requests are served");

    server.come_back().await;
    until_answered(&bed, "web", (200, Some("b"))).await;
    // Of the other kinds nothing has changed: that they are answered again is seen all the same.
    ask_until(net, "/metrics", |_, text| {
        text.contains(&connected(1)) && text.contains("tidegate_kubernetes_away_seconds 0.0\n")
    })
    .await;
    assert_eq!(ask(net, "/readyz").await, (200, "ok\n".to_owned()));
    stop.store(true, Relaxed);
    clients.await.expect("no request failed");
}

#[tokio::test]
async fn a_server_that_ends_every_watch_at_once_is_not_flooded() {
    let net = Net::next();
    let server = ApiServer::start(net.ip(32)).await;
    let _bed = start(net, cluster(&server, &[]).await).await;
    let watches =
        || server.asked().iter().filter(|target| target.contains("/services?") && target.contains("watch=")).count();
    server.end_watches();
    let before = watches();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = watches() - before;
    assert!((1..=6).contains(&asked), "{asked} watches of one kind in a second");
}

#[tokio::test]
async fn a_permission_that_is_missing_is_named_and_the_rest_goes_on() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web")));
    server.forbid("secrets");
    server.forbid("nodes");
    let bed = start(net, cluster(&server, &[]).await).await;
    until_answered(&bed, "web", (200, Some("a"))).await;
    let (status, text) = ask(net, "/readyz").await;
    assert_eq!(status, 503, "{text}");
    for named in
        ["secrets in all namespaces: not permitted to list (secrets is forbidden", "nodes: not permitted to list"]
    {
        assert!(text.contains(named), "{text}");
    }
    assert_eq!(bed.findings(), ["Forbidden", "Forbidden"]);
    server.permit("secrets");
    // Without its Node it is ready.
    let text = ask_until(net, "/readyz", |status, _| status == 200).await;
    assert!(text.contains("nodes: ") && !text.contains("secrets"), "{text}");
    bed.until(|snapshot| snapshot.findings.iter().filter(|finding| finding.reason == "Forbidden").count() == 1).await;
}

#[tokio::test]
async fn nothing_is_served_before_every_kind_is_known() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web")));
    server.hold("endpointslices");
    let source = cluster(&server, &[]).await;
    let starting = tokio::spawn(start(net, source));
    let only = "not all of the cluster is known yet:\nendpointslices in all namespaces: being listed\n";
    ask_until(net, "/readyz", |status, text| status == 503 && text == only).await;
    assert!(!starting.is_finished());
    server.release("endpointslices");
    let bed = starting.await.unwrap();
    assert_eq!(bed.get("web.example.com", "/").await.pod().as_deref(), Some("a"));
}

#[tokio::test]
async fn only_the_namespaces_that_were_named_are_looked_at() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    for namespace in ["shop", "blog", "other"] {
        server.apply(&(service(namespace, namespace, &[net.ip(2)]) + &ingress(namespace, namespace)));
    }
    let bed = start(net, cluster(&server, &["shop", "blog"]).await).await;
    let mut names: Vec<String> = bed.snapshot().ingresses.iter().map(|row| row.name.to_string()).collect();
    names.sort_unstable();
    assert_eq!(names, ["blog", "shop"]);
    for target in server.asked() {
        let of_cluster = ["/ingressclasses?", "/ingressclassparameters?", "/loadbalancerpools?", "/nodes?"];
        let of_cluster = of_cluster.iter().any(|resource| target.contains(resource));
        assert!(of_cluster || target.contains("/namespaces/shop/") || target.contains("/namespaces/blog/"), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_leads_to_a_cluster() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web")));
    server.apply("{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: mine, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}, spec: {controller: example.com/mine}}");
    let http = SocketAddr::new(net.ip(1), 8080);
    let text = format!(
        "run --kubernetes --context test --http {http} --https {}:8443 --admin {} --controller-class example.com/mine \
         --workers 1 --kubeconfig {}",
        net.ip(1),
        admin(net),
        server.kubeconfig().display(),
    );
    let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let state = std::env::temp_dir();
    let process = tokio::task::spawn_blocking(move || Process::start(&state, &args)).await.unwrap();
    let answer = Client::connect(http).await.get("web.example.com", "/").await;
    assert_eq!(answer.pod().as_deref(), Some("a"), "{}", process.log());
}

async fn findings_at(ip: std::net::IpAddr) -> String {
    Client::connect(SocketAddr::new(ip, 9901)).await.get("localhost", "/findings").await.text()
}

/// Others serve Ingresses too: what names no class is theirs, and not even told of as a mistake, unless the operator says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_of_no_class_is_left_to_others_unless_it_is_asked_for() {
    for flag in ["", "--watch-ingress-without-class"] {
        let net = Net::next();
        let _a = http_pod("a", net.ip(2)).await;
        let server = ApiServer::start(net.ip(32)).await;
        let gce = ingress("default", "gce").replacen(
            "name: gce,",
            "annotations: {kubernetes.io/ingress.class: gce}, name: gce,",
            1,
        );
        let ours =
            of_class("tidegate", &ingress("default", "web").replace("name: web, namespace", "name: ours, namespace"));
        let ours = ours.replace("host: web.", "host: ours.");
        server.apply(&(service("default", "web", &[net.ip(2)]) + &ingress("default", "web") + &gce + &ours));
        let ip = net.ip(1);
        let text = format!(
            "run --kubernetes {flag} --http {ip}:8080 --https off --admin {ip}:9901 --workers 1 --kubeconfig {}",
            server.kubeconfig().display()
        );
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let state = std::env::temp_dir();
        let process = tokio::task::spawn_blocking(move || Process::start(&state, &args)).await.unwrap();
        let status = async |host: &str| Client::connect(SocketAddr::new(ip, 8080)).await.get(host, "/").await.status;
        assert_eq!(status("ours.example.com").await, 200, "{}", process.log());
        assert_eq!(status("web.example.com").await, if flag.is_empty() { 404 } else { 200 }, "{flag}");
        assert_eq!(status("gce.example.com").await, 404);
        let findings = findings_at(ip).await;
        assert!(
            findings.contains("\"UnknownClass\"") && findings.contains("\"NoClass\"") == flag.is_empty(),
            "{findings}"
        );
        assert!(!findings.contains("\"error\"") && !findings.contains("\"warning\""), "{findings}");
        // Nor is one a mistake that is of another's default class.
        server.apply("{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: theirs, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}, spec: {controller: example.com/theirs}}");
        let begun = std::time::Instant::now();
        while status("web.example.com").await != 404 || !findings_at(ip).await.contains("\"NotDefaultClass\"") {
            assert!(begun.elapsed() < tidegate_tests::PATIENCE, "{}", process.log());
        }
        let findings = findings_at(ip).await;
        assert!(!findings.contains("\"error\"") && !findings.contains("\"warning\""), "{findings}");
    }
}
