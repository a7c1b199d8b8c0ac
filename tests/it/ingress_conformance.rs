//! The features of the Kubernetes ingress-controller-conformance suite, one test each, over real sockets.
//!
//! The suite itself needs a cluster; these are its scenarios with all that it expects of request and answer, and more of their kind.
//! `cluster/ingress.rs` has those that are about the cluster: the address in an Ingress's status.

use tidegate::pod::Pod;
use tidegate_tests::{
    Bed, Client, Net, Response,
    certificates::{Ca, TlsClient, secret_manifest},
    http_pod,
    ingress_suite::{DEFAULT_BACKEND, HOST_RULES, INGRESS_CLASS, PATH_RULES, TLS, USER_AGENT, host_and_path},
    pod_manifest, service_manifest,
};

fn ingress(name: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

fn path(path: &str, kind: &str, service: &str) -> String {
    format!("{{path: \"{path}\", pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}")
}

fn rule(host: &str, paths: &[String]) -> String {
    let host = if host.is_empty() { String::new() } else { format!("host: \"{host}\", ") };
    format!("{{{host}http: {{paths: [{}]}}}}", paths.join(", "))
}

/// A pod and a Service for each name, and a Tidegate with them and `manifests`.
async fn bed(services: &[&str], manifests: &str) -> (Bed, Vec<Pod>) {
    let net = Net::next();
    let mut pods = Vec::new();
    let mut all = manifests.to_owned();
    for (last, name) in (2..).zip(services) {
        pods.push(http_pod(name, net.ip(last)).await);
        all += &(pod_manifest(name, name, net.ip(last)) + &service_manifest(name, name, ""));
    }
    (Bed::start(net, &all).await, pods)
}

fn seen(response: &Response) -> String {
    response.pod().unwrap_or_else(|| response.status.to_string())
}

/// Asks, and checks what the suite expects of every answer of a back end: that host and target reached it as they were sent.
async fn ask(bed: &Bed, host: &str, target: &str) -> String {
    let response = bed.get(host, target).await;
    if response.pod().is_some() {
        assert_eq!(response.header("x-host"), Some(host), "{host}{target}");
        assert_eq!(response.header("x-target"), Some(target), "{host}{target}");
    }
    seen(&response)
}

/// The suite's own scenarios. What follows are more of their kind.
#[tokio::test(flavor = "multi_thread")]
async fn the_suite() {
    for feature in [DEFAULT_BACKEND, HOST_RULES, INGRESS_CLASS, PATH_RULES] {
        let (net, ca) = (Net::next(), Ca::new("conformance"));
        let pair = ca.leaf(&[TLS.1]);
        let mut manifests = feature.ingress("")
            + &feature.service_manifests()
            + &secret_manifest(TLS.0, &[("tls.crt", &pair.chain), ("tls.key", &pair.key)]);
        let mut pods = Vec::new();
        for (last, name) in (2..).zip(feature.services) {
            pods.push(http_pod(name, net.ip(last)).await);
            manifests += &pod_manifest(name, name, net.ip(last));
        }
        let bed = Bed::start(net, &manifests).await;
        let ask = async |method: &str, url: &str| {
            let (host, target) = host_and_path(url);
            // The suite's empty host is a request to the bare address.
            let host = if host.is_empty() { bed.app.http().to_string() } else { host.to_owned() };
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\nContent-Length: 0\r\n\r\n"
            );
            let answer = if url.starts_with("https:") {
                let addr = bed.app.https().unwrap();
                TlsClient::new(&ca).connect(addr, &host).await.unwrap().ask(&request).await
            } else {
                Client::connect(bed.app.http()).await.ask(&request).await
            };
            answer.unwrap()
        };
        feature.holds(ask).await;
    }
}

/// Feature "Host rules": exact, wildcard of one label, and nothing else; a port of the backend by name. A back end's `Server` header is let through.
#[tokio::test(flavor = "multi_thread")]
async fn host_rules() {
    let named = "{path: /, pathType: Prefix, backend: {service: {name: by-name, port: {name: http}}}}".to_owned();
    let rules = [
        rule("*.foo.com", &[path("/", "Prefix", "wildcard")]),
        rule("foo.bar.com", &[path("/", "Prefix", "exact")]),
        rule("name.bar.com", &[named]),
    ];
    let by_name = "---\napiVersion: v1\nkind: Service\nmetadata: {name: by-name}\nspec: {selector: {app: exact}, ports: [{name: http, port: 8888, targetPort: 8080}]}\n";
    let (bed, _pods) =
        bed(&["wildcard", "exact"], &(ingress("i", &format!("rules: [{}]", rules.join(", "))) + by_name)).await;
    for (host, expected) in [
        ("foo.bar.com", "exact"),
        ("FOO.bar.COM", "exact"),
        ("foo.bar.com:8080", "exact"),
        ("name.bar.com", "exact"),
        ("subdomain.bar.com", "404"),
        ("bar.foo.com", "wildcard"),
        ("bar.FOO.com", "wildcard"),
        ("baz.bar.foo.com", "404"),
        ("foo.com", "404"),
    ] {
        assert_eq!(ask(&bed, host, "/").await, expected, "{host}");
    }
    let response = bed.get("foo.bar.com", "/?header=Server:echo").await;
    assert_eq!(response.header("server"), Some("echo"));
}

/// Feature "Ingress class": one of an unknown class is not served.
#[tokio::test(flavor = "multi_thread")]
async fn ingress_class() {
    let all = |host: &str| rule(host, &[path("/", "Prefix", "web")]);
    let class = |name: &str, controller: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {{name: {name}}}\nspec: {{controller: {controller}}}\n"
        )
    };
    let manifests = class("ours", "tidegate.io/ingress")
        + &class("as-before", "k8s.io/ingress-nginx")
        + &class("theirs", "example.com/other")
        + &ingress("a", &format!("ingressClassName: unknown, rules: [{}]", all("unknown.com")))
        + &ingress("b", &format!("ingressClassName: ours, rules: [{}]", all("ours.com")))
        + &ingress("c", &format!("ingressClassName: as-before, rules: [{}]", all("as-before.com")))
        + &ingress("d", &format!("ingressClassName: theirs, rules: [{}]", all("theirs.com")))
        + &ingress("e", &format!("rules: [{}]", all("none.com")))
        + &ingress("f", &format!("rules: [{}]", all("annotated.com")))
            .replace("{name: f}", "{name: f, annotations: {kubernetes.io/ingress.class: nginx}}");
    let (bed, _pods) = bed(&["web"], &manifests).await;
    for (host, expected) in [
        ("unknown.com", "404"),
        ("ours.com", "web"),
        ("as-before.com", "web"),
        ("theirs.com", "404"),
        ("none.com", "web"),
        ("annotated.com", "web"),
    ] {
        assert_eq!(ask(&bed, host, "/").await, expected, "{host}");
    }
    assert_eq!(bed.findings(), ["UnknownClass"]);
}

/// Feature "Load balancing": 100 requests reach all 10 pods, on connections of their own and on one.
#[tokio::test(flavor = "multi_thread")]
async fn load_balancing() {
    let net = Net::next();
    let mut pods = Vec::new();
    let mut manifests = service_manifest("web", "web", "")
        + &ingress("i", "defaultBackend: {service: {name: web, port: {number: 80}}}");
    for n in 0..10 {
        pods.push(http_pod(&format!("pod-{n}"), net.ip(2 + n)).await);
        manifests += &pod_manifest(&format!("pod-{n}"), "web", net.ip(2 + n));
    }
    let bed = Bed::start(net, &manifests).await;
    let mut keep_alive = Client::connect(bed.app.http()).await;
    // One of ten pods is missed by 150 random requests in one run of 700,000.
    for one_connection in [false, true] {
        let mut hit = std::collections::BTreeSet::new();
        for _ in 0..150 {
            let response = if one_connection { keep_alive.get("x", "/").await } else { bed.get("x", "/").await };
            assert_eq!(response.status, 200);
            hit.insert(seen(&response));
        }
        assert_eq!(hit.len(), 10, "{hit:?}");
    }
}

/// Feature "Path rules".
#[tokio::test(flavor = "multi_thread")]
async fn path_rules() {
    let rules = [
        rule("exact.com", &[path("/foo", "Exact", "a")]),
        rule("prefix.com", &[path("/foo", "Prefix", "a")]),
        rule("longest.com", &[path("/aaa/bbb", "Prefix", "a"), path("/aaa", "Prefix", "b")]),
        rule("both.com", &[path("/foo", "Prefix", "b"), path("/foo", "Exact", "a")]),
        rule("slash.com", &[path("/aaa/bbb/", "Prefix", "a")]),
        rule("exact-slash.com", &[path("/foo/", "Exact", "a")]),
        rule("mixed.com", &[path("/aaa/bbb", "Prefix", "a"), path("/foo", "Exact", "b")]),
        rule("implementation.com", &[path("/foo", "ImplementationSpecific", "a")]),
        rule("root.com", &[path("/", "Prefix", "a"), path("/deep", "Prefix", "b")]),
    ];
    let (bed, _pods) = bed(&["a", "b"], &ingress("i", &format!("rules: [{}]", rules.join(", ")))).await;
    assert_eq!(bed.findings(), [""; 0]);
    for (host, target, expected) in [
        ("exact.com", "/foo", "a"),
        ("exact.com", "/foo?x=/y", "a"),
        ("exact.com", "/foo/", "404"),
        ("exact.com", "/FOO", "404"),
        ("exact.com", "/bar", "404"),
        ("prefix.com", "/foo", "a"),
        ("prefix.com", "/foo/", "a"),
        ("prefix.com", "/foo/bar", "a"),
        ("prefix.com", "/FOO", "404"),
        ("prefix.com", "/foobar", "404"),
        ("longest.com", "/aaa/bbb", "a"),
        ("longest.com", "/aaa/bbb/ccc", "a"),
        ("longest.com", "/aaa/ccc", "b"),
        ("longest.com", "/aaaccc", "404"),
        ("longest.com", "/aaa/bbbb", "b"),
        ("both.com", "/foo", "a"),
        ("both.com", "/foo/bar", "b"),
        ("both.com", "/foo/", "b"),
        ("slash.com", "/aaa/bbb", "a"),
        ("slash.com", "/aaa/bbb/", "a"),
        ("slash.com", "/aaa", "404"),
        ("exact-slash.com", "/foo/", "a"),
        ("exact-slash.com", "/foo", "404"),
        ("mixed.com", "/foo", "b"),
        ("mixed.com", "/foo/", "404"),
        ("mixed.com", "/aaa/bbb/c", "a"),
        ("implementation.com", "/foo/x", "a"),
        ("implementation.com", "/foobar", "404"),
        ("root.com", "/", "a"),
        ("root.com", "/x", "a"),
        ("root.com", "/deep/x", "b"),
        ("root.com", "/deeper", "a"),
    ] {
        assert_eq!(ask(&bed, host, target).await, expected, "{host}{target}");
    }
}

/// What the Ingress API says beyond the suite: default backends, missing Services, precedence, resources.
#[tokio::test(flavor = "multi_thread")]
async fn backends() {
    let resource = "{path: /resource, pathType: Prefix, backend: {resource: {apiGroup: k8s.example.com, kind: StorageBucket, name: x}}}".to_owned();
    let manifests = ingress(
        "z-first",
        &format!(
            "defaultBackend: {{service: {{name: b, port: {{number: 80}}}}}}, rules: [{}]",
            rule("default.com", &[path("/a", "Prefix", "a")])
        ),
    ) + &ingress(
        "missing",
        &format!("rules: [{}]", rule("missing.com", &[path("/", "Prefix", "nobody")])),
    ) + &ingress("empty", &format!("rules: [{}]", rule("empty.com", &[path("/", "Prefix", "empty")])))
        + &service_manifest("empty", "no-such-pod", "")
        + &ingress("resource", &format!("rules: [{}]", rule("resource.com", &[resource, path("/a", "Prefix", "a")])))
        + &ingress("no-http", "defaultBackend: {service: {name: a, port: {number: 80}}}, rules: [{host: no-http.com}]")
        + &ingress("old", &format!("rules: [{}]", rule("twice.com", &[path("/", "Prefix", "a")])))
            .replace("{name: old}", "{name: old, creationTimestamp: \"2020-01-01T00:00:00Z\"}")
        + &ingress("young", &format!("rules: [{}]", rule("twice.com", &[path("/", "Prefix", "b")])));
    let (bed, _pods) = bed(&["a", "b"], &manifests).await;
    for (host, target, expected) in [
        ("default.com", "/a", "a"),
        ("default.com", "/other", "b"),
        ("unknown.com", "/other", "404"),
        ("missing.com", "/", "503"),
        ("empty.com", "/", "503"),
        ("resource.com", "/resource", "404"),
        ("resource.com", "/a", "a"),
        ("no-http.com", "/anything", "a"),
        ("twice.com", "/", "a"),
    ] {
        assert_eq!(ask(&bed, host, target).await, expected, "{host}{target}");
    }
    assert_eq!(bed.findings(), ["DuplicatePath", "MissingService", "ResourceBackend"]);
}

/// The global default backend takes what no host's own default takes.
#[tokio::test(flavor = "multi_thread")]
async fn global_default_backend() {
    let net = Net::next();
    let _pods = [http_pod("a", net.ip(2)).await, http_pod("fallback", net.ip(3)).await];
    let manifests = pod_manifest("a", "a", net.ip(2))
        + &service_manifest("a", "a", "")
        + &pod_manifest("fallback", "fallback", net.ip(3))
        + &service_manifest("fallback", "fallback", "")
        + &ingress("i", &format!("rules: [{}]", rule("known.com", &[path("/a", "Prefix", "a")])));
    let bed = Bed::start_with(net, &manifests, |options| {
        options.settings.default_backend = Some(tidegate::compile::settings::DefaultBackend {
            namespace: "default".into(),
            service: "fallback".into(),
        });
    })
    .await;
    for (host, target, expected) in
        [("known.com", "/a", "a"), ("known.com", "/b", "fallback"), ("unknown.com", "/", "fallback")]
    {
        assert_eq!(ask(&bed, host, target).await, expected, "{host}{target}");
    }
}

/// An ExternalName behind an Ingress: its name is resolved, here within our own zone.
#[tokio::test(flavor = "multi_thread")]
async fn external_name_backend() {
    let manifests = "---\napiVersion: v1\nkind: Service\nmetadata: {name: alias}\nspec: {type: ExternalName, externalName: web.default.svc.cluster.local}\n".to_owned()
        + &ingress("i", &format!("rules: [{}]", rule("alias.com", &[path("/", "Prefix", "alias")])));
    let (bed, _pods) = bed(&["web"], &manifests).await;
    bed.until(|snapshot| snapshot.upstreams.iter().all(|upstream| !upstream.endpoints.is_empty())).await;
    assert_eq!(seen(&bed.get("alias.com", "/").await), "web");
}
