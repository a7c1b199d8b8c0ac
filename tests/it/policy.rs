//! What annotations make of requests and answers, over real sockets: each rule of the table that changes what a client or a pod sees.
//!
//! That they are read rightly is tested in `gateway/src/compile/annotations/tests.rs`, how they concern each other in
//! `gateway/src/compile/ingress/tests.rs`. The numbers are those of the list of traps in ingress-nginx's behaviour.

mod clients;
mod pods;
mod retries;
mod scripted;
mod sessions;
mod times;
mod tls;

use serde_json::Value;
use tidegate::pod::Pod;
use tidegate_tests::{Bed, Client, Net, Response, http_pod, pod_manifest, service_manifest};

/// An Ingress of its own for each host: annotations (`name: value`, ours with their prefix) and paths with their Services.
fn ingress(name: &str, host: &str, annotations: &[(&str, &str)], paths: &[(&str, &str, &str)]) -> String {
    let annotations: Vec<String> = annotations
        .iter()
        .map(|(name, value)| {
            let prefix = if name.contains('/') { "" } else { "nginx.ingress.kubernetes.io/" };
            format!("{prefix}{name}: {value:?}")
        })
        .collect();
    let paths: Vec<String> = paths
        .iter()
        .map(|(path, kind, service)| {
            format!(
                "{{path: {path:?}, pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}"
            )
        })
        .collect();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, annotations: {{{}}}}}\n\
         spec: {{rules: [{{host: {host:?}, http: {{paths: [{}]}}}}]}}\n",
        annotations.join(", "),
        paths.join(", ")
    )
}

/// Names without ingress-nginx's prefix, and values.
type Annotations<'a> = Vec<(&'a str, &'a str)>;

const ROOT: &[(&str, &str, &str)] = &[("/", "Prefix", "web")];
const SPECIFIC: &str = "ImplementationSpecific";

/// Pods `web` and `beta` with a Service each, and these manifests.
async fn bed(manifests: &[String]) -> (Bed, Vec<Pod>) {
    let net = Net::next();
    let mut pods = Vec::new();
    let mut all = manifests.concat();
    for (last, name) in (2..).zip(["web", "beta"]) {
        pods.push(http_pod(name, net.ip(last)).await);
        all += &(pod_manifest(name, name, net.ip(last)) + &service_manifest(name, name, ""));
    }
    (Bed::start(net, &all).await, pods)
}

async fn ask(bed: &Bed, host: &str, target: &str, fields: &str) -> Response {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    Client::connect(bed.app.http()).await.ask(&request).await.expect("an answer")
}

/// Status and `Location`.
async fn redirect(bed: &Bed, host: &str, target: &str) -> (u16, String) {
    let response = ask(bed, host, target, "").await;
    (response.status, response.header("location").unwrap_or_default().to_owned())
}

/// The target that the pod saw; the status, if it was not a pod that answered.
async fn target(bed: &Bed, host: &str, asked: &str) -> String {
    let response = ask(bed, host, asked, "").await;
    response.header("x-target").map_or_else(|| response.status.to_string(), str::to_owned)
}

/// What the pod says it was asked.
async fn seen(bed: &Bed, host: &str, target: &str, fields: &str) -> Value {
    let response = ask(bed, host, target, fields).await;
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

fn field<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let fields = seen["headers"].as_array().expect("fields").iter();
    fields.filter(|field| field[0] == name).map(|field| field[1].as_str().expect("text")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn rewrites() {
    let (bed, _pods) = bed(&[
        ingress("groups", "groups.com", &[("rewrite-target", "/$2")], &[("/something(/|$)(.*)", SPECIFIC, "web")]),
        ingress("bare", "bare.com", &[("rewrite-target", "/v1")], &[("/api", "Prefix", "web")]),
        ingress("same", "same.com", &[("rewrite-target", "/")], ROOT),
        ingress("bad", "bad.com", &[("rewrite-target", "/x?y=$1")], ROOT),
        ingress("url", "url.com", &[("rewrite-target", "https://new.com/$1")], &[("/old/(.*)", SPECIFIC, "web")]),
        ingress(
            "prefix",
            "prefix.com",
            &[("tidegate.io/rewrite-prefix", "/v2")],
            &[("/api", "Prefix", "web"), ("/one", "Exact", "web")],
        ),
        ingress("plain", "plain.com", &[], &[("/pfx", "Prefix", "web")]),
    ])
    .await;
    for (host, asked, expected) in [
        // Trap 6.
        ("groups.com", "/something/new?b=2", "/new?b=2"),
        ("groups.com", "/something/new/", "/new/"),
        ("groups.com", "/SOMETHING", "/"),
        ("groups.com", "/somethingelse", "404"),
        // Trap 11.
        ("bare.com", "/api/x", "/v1"),
        ("bare.com", "/apifoo", "/v1"),
        // Traps 5 and 28.
        ("same.com", "/a/b", "/a/b"),
        ("bad.com", "/a/b", "/a/b"),
        ("prefix.com", "/api", "/v2"),
        ("prefix.com", "/api/x?y", "/v2/x?y"),
        ("prefix.com", "/apix", "404"),
        ("prefix.com", "/one", "/v2"),
        // Trap 8: without a rewrite the pod sees the very target.
        ("plain.com", "/pfx/a%2Fb", "/pfx/a%2Fb"),
    ] {
        assert_eq!(target(&bed, host, asked).await, expected, "{host}{asked}");
    }
    assert_eq!(redirect(&bed, "url.com", "/old/a?b").await, (302, "https://new.com/a?b".to_owned()));
    assert_eq!(bed.findings(), ["InvalidAnnotation", "RewriteWithoutGroup"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn regex_mode_is_the_hosts() {
    let (bed, _pods) = bed(&[
        ingress(
            "a",
            "a.com",
            &[("use-regex", "true")],
            &[("/[A-Z]{3}$", SPECIFIC, "web"), ("/(?!x)[a-z]/.*", SPECIFIC, "web")],
        ),
        ingress(
            "b",
            "a.com",
            &[],
            &[("/Header", "Exact", "beta"), ("/ba", "Prefix", "beta"), ("/foo/", "Prefix", "beta")],
        ),
        ingress("c", "c.com", &[], &[("/ba", SPECIFIC, "web")]),
    ])
    .await;
    for (host, path, expected) in [
        // Traps 1, 2, 4 and 14.
        ("a.com", "/uid", "web"),
        ("a.com", "/headers", "beta"),
        ("a.com", "/banana", "beta"),
        ("a.com", "/foo", "web"),
        ("a.com", "/foo/", "beta"),
        ("a.com", "/y/1", "web"),
        ("a.com", "/x/1", "404"),
        // Trap 43: elsewhere ImplementationSpecific is Prefix.
        ("c.com", "/banana", "404"),
        ("c.com", "/ba/nana", "web"),
    ] {
        let response = ask(&bed, host, path, "").await;
        let got = response.header("x-pod").map_or_else(|| response.status.to_string(), str::to_owned);
        assert_eq!(got, expected, "{host}{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects() {
    let paths = &[("/app", "Prefix", "web")];
    let (bed, _pods) = bed(&[
        ingress("permanent", "permanent.com", &[("permanent-redirect", "https://new.com")], paths),
        ingress(
            "temporal",
            "temporal.com",
            &[("temporal-redirect", "$scheme://new.com$request_uri"), ("temporal-redirect-code", "307")],
            &[("/", "Prefix", "missing")],
        ),
        ingress("root", "root.com", &[("app-root", "/app")], paths),
        ingress("www", "site.com", &[("from-to-www-redirect", "true"), ("server-alias", "alias.com")], ROOT),
        ingress("force", "force.com", &[("force-ssl-redirect", "true")], ROOT),
        ingress("closed", "closed.com", &[("permanent-redirect", "javascript:x")], ROOT),
    ])
    .await;
    for (host, target, status, location) in [
        ("permanent.com", "/app/x", 301, "https://new.com"),
        ("permanent.com", "/elsewhere", 301, "https://new.com"),
        // There is no pod to ask, and none is asked.
        ("temporal.com", "/a?b=c", 307, "http://new.com/a?b=c"),
        ("root.com", "/", 302, "http://root.com/app"),
        ("root.com", "/app", 200, ""),
        ("root.com", "/other", 404, ""),
        // Trap 41.
        ("www.site.com", "/path/", 308, "http://site.com:80/path"),
        ("site.com", "/", 200, ""),
        ("alias.com", "/", 200, ""),
        ("force.com", "/a/?b", 308, "https://force.com/a/?b"),
        // Trap 19.
        ("force.com", "/.well-known/acme-challenge/x", 200, ""),
        ("closed.com", "/", 503, ""),
    ] {
        assert_eq!(redirect(&bed, host, target).await, (status, location.to_owned()), "{host}{target}");
    }
    // The connection goes on, and the content of the redirected request is not taken for the next one.
    let mut client = Client::connect(bed.app.http()).await;
    for _ in 0..2 {
        let response = client.get("permanent.com", "/").await;
        assert_eq!((response.status, response.text().as_str()), (301, "301: Moved Permanently\n"));
    }
    let post = "POST / HTTP/1.1\r\nHost: permanent.com\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(client.ask(post).await.unwrap().status, 301);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_and_hosts() {
    let set = [
        ("tidegate.io/request-headers-set", "X-Tenant: blue\nX-Real-IP: hidden"),
        ("tidegate.io/request-headers-add", "X-Many: 2"),
        ("tidegate.io/request-headers-remove", "X-Debug"),
        ("tidegate.io/response-headers-set", "X-Frame-Options: DENY"),
        ("tidegate.io/response-headers-add", "X-Many: 3"),
        ("tidegate.io/response-headers-remove", "X-Pod"),
        ("upstream-vhost", "$service_name.internal"),
    ];
    let (bed, _pods) = bed(&[
        ingress("set", "set.com", &set, ROOT),
        ingress("custom", "custom.com", &[("custom-headers", "default/fields")], ROOT),
        ingress(
            "prefix",
            "prefix.com",
            &[("rewrite-target", "/$1"), ("x-forwarded-prefix", "/shop")],
            &[("/shop/(.*)", SPECIFIC, "web")],
        ),
        ingress(
            "answers",
            "answers.com",
            &[
                ("proxy-redirect-from", "http://pod/"),
                ("proxy-redirect-to", "https://shop.com/"),
                ("proxy-cookie-domain", "pod.local shop.com"),
                ("proxy-cookie-path", "/internal/ /"),
            ],
            ROOT,
        ),
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: fields}\ndata: {X-Custom: yes it is}\n".to_owned(),
    ])
    .await;
    assert_eq!(bed.findings(), [""; 0]);
    let asked = seen(&bed, "set.com", "/headers", "X-Debug: 1\r\nX-Many: 1\r\nX-Tenant: red\r\n").await;
    for (name, expected) in [
        ("x-tenant", &["blue"][..]),
        ("x-real-ip", &["hidden"]),
        ("x-many", &["1", "2"]),
        ("x-debug", &[]),
        ("host", &["web.internal"]),
        ("x-forwarded-host", &["set.com"]),
    ] {
        assert_eq!(field(&asked, name), expected, "{name}");
    }
    let answer = ask(&bed, "set.com", "/?header=X-Many:2&header=X-Frame-Options:SAMEORIGIN", "").await;
    assert_eq!((answer.header("x-frame-options"), answer.header("x-pod")), (Some("DENY"), None));
    let many: Vec<&str> = answer.headers.iter().filter(|(name, _)| name == "x-many").map(|(_, v)| v.as_str()).collect();
    assert_eq!(many, ["2", "3"]);
    assert_eq!(ask(&bed, "custom.com", "/", "").await.header("x-custom"), Some("yes it is"));
    assert_eq!(field(&seen(&bed, "prefix.com", "/shop/headers", "").await, "x-forwarded-prefix"), ["/shop"]);
    let answer = ask(&bed, "answers.com", "/?status=302&header=Location:http://pod/a", "").await;
    assert_eq!(answer.header("location"), Some("https://shop.com/a"));
    let cookie = "/?header=Set-Cookie:a=1%3B%20Domain=.pod.local%3B%20Path=/internal/x";
    assert_eq!(ask(&bed, "answers.com", cookie, "").await.header("set-cookie"), Some("a=1; Domain=shop.com; Path=/x"));
}

/// What would keep somebody out and is not supported closes its Ingress, and so does what runs text as configuration.
#[tokio::test(flavor = "multi_thread")]
async fn guards_fail_closed() {
    let guards = [
        "allowlist-source-range",
        "auth-secret",
        "auth-snippet",
        "auth-type",
        "auth-url",
        "configuration-snippet",
        "denylist-source-range",
        "enable-global-auth",
        "enable-modsecurity",
        "enable-owasp-core-rules",
        "modsecurity-snippet",
        "server-snippet",
        "stream-snippet",
        "whitelist-source-range",
    ];
    let guarded = |name: &&str| ingress(name, &format!("{name}.com"), &[(name, "x")], ROOT);
    let manifests: Vec<String> = guards.iter().map(guarded).chain([ingress("open", "open.com", &[], ROOT)]).collect();
    let (bed, pods) = bed(&manifests).await;
    for name in guards {
        assert_eq!(ask(&bed, &format!("{name}.com"), "/", "").await.status, 503, "{name}");
    }
    assert_eq!((bed.findings().len(), pods[0].requests()), (guards.len(), 0));
    assert_eq!(ask(&bed, "open.com", "/", "").await.status, 200);
}

async fn pod(bed: &Bed, host: &str, fields: &str) -> String {
    ask(bed, host, "/", fields).await.pod().expect("a pod answers")
}

fn canary(host: &str, annotations: &[(&str, &str)], main: &[(&str, &str)]) -> String {
    let name = host.trim_end_matches(".com");
    let annotations = [&[("canary", "true")], annotations].concat();
    ingress(name, host, main, ROOT)
        + &ingress(&format!("{name}-canary"), host, &annotations, &[("/", "Prefix", "beta")])
}

#[tokio::test(flavor = "multi_thread")]
async fn canaries() {
    let header = [("canary-by-header", "X-Beta"), ("canary-by-cookie", "beta")];
    let (bed, _pods) = bed(&[
        canary("rules.com", &header, &[]),
        canary("value.com", &[("canary-by-header", "X-Beta"), ("canary-by-header-value", "yes")], &[]),
        canary("pattern.com", &[("canary-by-header", "X-Beta"), ("canary-by-header-pattern", "^v[2-9]$")], &[]),
        canary("all.com", &[("canary-weight", "100")], &[]),
        canary("half.com", &[("canary-weight", "500"), ("canary-weight-total", "1000")], &[]),
        ingress("alone", "alone.com", &[("canary", "true"), ("canary-weight", "100")], ROOT),
    ])
    .await;
    for (host, fields, expected) in [
        ("rules.com", "X-Beta: always\r\n", "beta"),
        ("rules.com", "x-beta: never\r\nCookie: beta=always\r\n", "web"),
        ("rules.com", "X-Beta: maybe\r\nCookie: a=b; beta=always\r\n", "beta"),
        ("rules.com", "Cookie: beta=never\r\n", "web"),
        ("rules.com", "", "web"),
        ("value.com", "X-Beta: yes\r\n", "beta"),
        ("value.com", "X-Beta: always\r\n", "web"),
        ("pattern.com", "X-Beta: v3\r\n", "beta"),
        ("pattern.com", "X-Beta: v1\r\n", "web"),
        ("all.com", "", "beta"),
    ] {
        assert_eq!(pod(&bed, host, fields).await, expected, "{host} {fields:?}");
    }
    assert_eq!(ask(&bed, "alone.com", "/", "").await.status, 404);
    let mut client = Client::connect(bed.app.http()).await;
    let mut beta = 0;
    for _ in 0..400 {
        beta += u32::from(client.get("half.com", "/").await.pod().as_deref() == Some("beta"));
    }
    // Six standard deviations to either side of two hundred.
    assert!((140..=260).contains(&beta), "{beta} of 400");
}

/// Trap 32: a session stays where it began, whatever the canary's rules say; and with `sticky`, one that began on the canary too.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_comes_before_the_canary() {
    let (bed, _pods) = bed(&[canary("a.com", &[("canary-by-header", "X-Beta")], &[("affinity", "cookie")])]).await;
    let session = async |fields: &str| {
        let response = ask(&bed, "a.com", "/", fields).await;
        let cookie =
            response.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("a session begins");
        (response.pod().expect("a pod answers"), format!("Cookie: {cookie}\r\n"))
    };
    let (main, main_cookie) = session("").await;
    let (beta, beta_cookie) = session("X-Beta: always\r\n").await;
    assert_eq!((main.as_str(), beta.as_str()), ("web", "beta"));
    assert_eq!(pod(&bed, "a.com", &format!("X-Beta: always\r\n{main_cookie}")).await, "web");
    assert_eq!(pod(&bed, "a.com", &format!("X-Beta: never\r\n{beta_cookie}")).await, "beta");
}

/// A canary whose pods are gone gets nothing; a main Service whose pods are gone is 503 for all.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_without_pods() {
    let annotations = [("canary", "true"), ("canary-weight", "100")];
    let (bed, _pods) = bed(&[
        ingress("m1", "a.com", &[], ROOT),
        ingress("c1", "a.com", &annotations, &[("/", "Prefix", "empty")]),
        ingress("m2", "b.com", &[], &[("/", "Prefix", "empty")]),
        ingress("c2", "b.com", &annotations, &[("/", "Prefix", "beta")]),
        service_manifest("empty", "nobody", ""),
    ])
    .await;
    assert_eq!(pod(&bed, "a.com", "").await, "web");
    assert_eq!(ask(&bed, "b.com", "/", "").await.status, 503);
}

/// The Service is asked by its ClusterIP, and so by way of our own service proxy.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_as_upstream() {
    let (bed, _pods) = bed(&[ingress("a", "a.com", &[("service-upstream", "true")], ROOT)]).await;
    let seen = seen(&bed, "a.com", "/headers", "").await;
    assert_eq!((seen["pod"].as_str(), bed.findings()), (Some("web"), vec![]));
    let snapshot = bed.snapshot();
    let addrs: Vec<_> = snapshot.upstreams[0].endpoints.endpoints().iter().map(|endpoint| endpoint.addr).collect();
    assert_eq!(addrs, [bed.cluster_addr("web")]);
}
