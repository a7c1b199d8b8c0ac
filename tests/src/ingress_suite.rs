//! The features of the Kubernetes ingress-controller-conformance suite as tables: given an Ingress and its Services, when a client asks, then
//! this must come of it. The scenarios are the suite's, all of them, with what it expects of each request and answer.
//!
//! `ingress_conformance.rs` holds them against plain manifests, and `cluster/ingress.rs` against a Deployment in a cluster.

use self::Then::{NotFound, ServedBy};
use crate::Response;
use serde_json::Value;

/// What the suite's client, written in Go, calls itself.
pub const USER_AGENT: &str = "Go-http-client/1.1";

/// The Secret, and for which host, of the feature that speaks TLS.
pub const TLS: (&str, &str) = ("conformance-tls", "foo.bar.com");

/// Redirects that the suite's client follows; more are a loop.
const REDIRECTS: usize = 2;

/// A feature.
#[derive(Debug)]
pub struct Feature {
    /// What the Ingress is called.
    pub name: &'static str,
    /// Its spec, as YAML between braces.
    pub given: &'static str,
    /// The Services that it names, each with a pod that says it is of this name.
    pub services: &'static [&'static str],
    /// What must come of it.
    pub scenarios: &'static [Scenario],
}

/// What it shows, what the client asks for, and what must come of it.
pub type Scenario = (&'static str, &'static str, &'static str, Then);

/// What must come of a request.
#[derive(Clone, Copy, Debug)]
pub enum Then {
    /// It is answered 200 by a pod of this Service, as it was asked.
    ServedBy(&'static str),
    /// It is answered 404.
    NotFound,
}

/// An Ingress without rules.
pub const DEFAULT_BACKEND: Feature = Feature {
    name: "default-backend",
    given: "defaultBackend: {service: {name: echo-service, port: {number: 8080}}}",
    services: &["echo-service"],
    scenarios: &[
        ("no rules: everything is the default's", "GET", "http://my-host/", ServedBy("echo-service")),
        ("with a path", "GET", "http://my-host/sub-path", ServedBy("echo-service")),
        ("another method", "POST", "http://some-host/", ServedBy("echo-service")),
        ("without a host", "PUT", "http:///resource", ServedBy("echo-service")),
        ("another method", "DELETE", "http://some-host/resource", ServedBy("echo-service")),
        ("another method", "PATCH", "http://my-host/resource", ServedBy("echo-service")),
    ],
};

/// Hosts, by name and with a wildcard, and TLS.
pub const HOST_RULES: Feature = Feature {
    name: "host-rules",
    given: "tls: [{hosts: [foo.bar.com], secretName: conformance-tls}], rules: [
        {host: '*.foo.com', http: {paths: [
            {path: /, pathType: Prefix, backend: {service: {name: wildcard-foo-com, port: {number: 8080}}}}]}},
        {host: foo.bar.com, http: {paths: [
            {path: /, pathType: Prefix, backend: {service: {name: foo-bar-com, port: {name: http}}}}]}}]",
    services: &["wildcard-foo-com", "foo-bar-com"],
    scenarios: &[
        ("the host of a rule, with TLS", "GET", "https://foo.bar.com/", ServedBy("foo-bar-com")),
        ("the same without", "GET", "http://foo.bar.com/", ServedBy("foo-bar-com")),
        ("another host of its domain", "GET", "http://subdomain.bar.com/", NotFound),
        ("a wildcard takes a label", "GET", "http://bar.foo.com/", ServedBy("wildcard-foo-com")),
        ("not two", "GET", "http://baz.bar.foo.com/", NotFound),
        ("and not none", "GET", "http://foo.com/", NotFound),
    ],
};

/// Its Ingress is of a class that there is not: it must be left alone.
pub const INGRESS_CLASS: Feature = Feature {
    name: "test-ingress-class",
    given: "ingressClassName: some-invalid-class-name, rules: [{host: ingress-class, http: {paths: [
        {path: /, pathType: Prefix, backend: {service: {name: ingress-class-prefix, port: {number: 8080}}}}]}}]",
    services: &["ingress-class-prefix"],
    scenarios: &[("it has no route", "GET", "http://ingress-class/", NotFound)],
};

/// Its Service has ten pods, and all of them must be hit by a hundred requests.
pub const LOAD_BALANCING: Feature = Feature {
    name: "load-balancing",
    given: "defaultBackend: {service: {name: echo-service, port: {number: 8080}}}",
    services: &["echo-service"],
    scenarios: &[],
};

/// Paths, exact and by prefix.
pub const PATH_RULES: Feature = Feature {
    name: "path-rules",
    given: "rules: [
        {host: exact-path-rules, http: {paths: [
            {path: /foo, pathType: Exact, backend: {service: {name: foo-exact, port: {number: 8080}}}}]}},
        {host: prefix-path-rules, http: {paths: [
            {path: /foo, pathType: Prefix, backend: {service: {name: foo-prefix, port: {number: 8080}}}},
            {path: /aaa/bbb, pathType: Prefix, backend: {service: {name: aaa-slash-bbb-prefix, port: {number: 8080}}}},
            {path: /aaa, pathType: Prefix, backend: {service: {name: aaa-prefix, port: {number: 8080}}}}]}},
        {host: mixed-path-rules, http: {paths: [
            {path: /foo, pathType: Prefix, backend: {service: {name: foo-prefix, port: {number: 8080}}}},
            {path: /foo, pathType: Exact, backend: {service: {name: foo-exact, port: {number: 8080}}}}]}},
        {host: trailing-slash-path-rules, http: {paths: [
            {path: /aaa/bbb/, pathType: Prefix, backend: {service: {name: aaa-slash-bbb-slash-prefix, port: {number: 8080}}}},
            {path: /foo/, pathType: Exact, backend: {service: {name: foo-slash-exact, port: {number: 8080}}}}]}}]",
    services: &[
        "foo-exact",
        "foo-prefix",
        "aaa-slash-bbb-prefix",
        "aaa-prefix",
        "aaa-slash-bbb-slash-prefix",
        "foo-slash-exact",
    ],
    scenarios: &[
        ("exact /foo takes /foo", "GET", "http://exact-path-rules/foo", ServedBy("foo-exact")),
        ("not /foo/", "GET", "http://exact-path-rules/foo/", NotFound),
        ("not /FOO", "GET", "http://exact-path-rules/FOO", NotFound),
        ("not /bar", "GET", "http://exact-path-rules/bar", NotFound),
        ("prefix /foo takes /foo", "GET", "http://prefix-path-rules/foo", ServedBy("foo-prefix")),
        ("and /foo/", "GET", "http://prefix-path-rules/foo/", ServedBy("foo-prefix")),
        ("not /FOO", "GET", "http://prefix-path-rules/FOO", NotFound),
        ("the longest prefix wins", "GET", "http://prefix-path-rules/aaa/bbb", ServedBy("aaa-slash-bbb-prefix")),
        ("also further down", "GET", "http://prefix-path-rules/aaa/bbb/ccc", ServedBy("aaa-slash-bbb-prefix")),
        ("the shorter takes the rest", "GET", "http://prefix-path-rules/aaa/ccc", ServedBy("aaa-prefix")),
        ("element by element", "GET", "http://prefix-path-rules/aaaccc", NotFound),
        ("exact is before prefix", "GET", "http://mixed-path-rules/foo", ServedBy("foo-exact")),
        (
            "prefix /aaa/bbb/ takes /aaa/bbb",
            "GET",
            "http://trailing-slash-path-rules/aaa/bbb",
            ServedBy("aaa-slash-bbb-slash-prefix"),
        ),
        (
            "and /aaa/bbb/",
            "GET",
            "http://trailing-slash-path-rules/aaa/bbb/",
            ServedBy("aaa-slash-bbb-slash-prefix"),
        ),
        ("exact /foo/ does not take /foo", "GET", "http://trailing-slash-path-rules/foo", NotFound),
    ],
};

impl Feature {
    /// The manifest of the Ingress; `class` is more of its spec, such as `ingressClassName: x, `.
    pub fn ingress(&self, class: &str) -> String {
        format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {}}}, spec: {{{class}{}}}}}\n",
            self.name, self.given
        )
    }

    /// The manifests of the Services.
    pub fn service_manifests(&self) -> String {
        let service = |name: &&str| {
            format!(
                "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: {name}}}, \
                 ports: [{{name: http, port: 8080, targetPort: 8080}}]}}}}\n"
            )
        };
        self.services.iter().map(service).collect()
    }

    /// Goes through the scenarios. `ask` sends a request of this method to this URL, and follows no redirect.
    pub async fn holds(&self, ask: impl AsyncFn(&str, &str) -> Response) {
        for &(shows, method, url, then) in self.scenarios {
            let scenario = format!("{}: {shows}: {method} {url}", self.name);
            let response = follow(&ask, method, url).await;
            match then {
                NotFound => assert_eq!(response.status, 404, "{scenario}"),
                ServedBy(service) => is_served_by(service, method, url, &response, &scenario),
            }
        }
    }
}

/// Asks a pod to report what it sees, and follows where it is sent.
async fn follow(ask: &impl AsyncFn(&str, &str) -> Response, method: &str, url: &str) -> Response {
    let mut url = format!("{url}?report=1");
    for _ in 0..REDIRECTS {
        let response = ask(method, &url).await;
        match response.header("location") {
            Some(location) if (300..400).contains(&response.status) => url = location.to_owned(),
            _ => return response,
        }
    }
    panic!("{url} is redirected for ever");
}

#[track_caller]
fn is_served_by(service: &str, method: &str, url: &str, response: &Response, scenario: &str) {
    assert_eq!(response.status, 200, "{scenario}: {}", response.text());
    for name in ["content-length", "content-type", "date", "server"] {
        assert!(response.header(name).is_some(), "{scenario}: the answer has no {name}");
    }
    let seen: Value = serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{scenario}: {error}"));
    let header = |name: &str| {
        let headers = seen["headers"].as_array().expect("a list");
        headers.iter().find(|header| header[0] == name).and_then(|header| header[1].as_str())
    };
    let (host, path) = host_and_path(url);
    assert_eq!(seen["pod"], service, "{scenario}");
    assert_eq!(seen["method"], method, "{scenario}");
    assert_eq!(seen["target"].as_str().and_then(|target| target.split('?').next()), Some(path), "{scenario}");
    assert_eq!(seen["version"], "HTTP/1.1", "{scenario}");
    assert_eq!(header("user-agent"), Some(USER_AGENT), "{scenario}");
    assert!(host.is_empty() || header("host") == Some(host), "{scenario}: {:?}", header("host"));
}

/// What a URL names.
pub fn host_and_path(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").expect("a URL").1;
    rest.split_at(rest.find('/').expect("it has a path"))
}
