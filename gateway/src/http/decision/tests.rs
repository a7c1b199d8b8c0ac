//! Decisions under compiled manifests: canaries, sessions, hashes.

use std::path::Path;

use super::*;
use crate::{
    compile::{Compiled, allocate::Allocations, compile, objects::Objects, settings::Settings},
    http::facts::fixture::Asked,
};

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 127.96.0.5, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: beta}, spec: {clusterIP: 127.96.0.6, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {clusterIP: 127.96.0.7, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: '', port: 8080}], endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: beta-1, labels: {kubernetes.io/service-name: beta}}, addressType: IPv4, ports: [{name: '', port: 8080}], endpoints: [{addresses: [10.0.1.1]}]}
";

fn ingress(name: &str, annotations: &str, service: &str) -> String {
    let prefix = "nginx.ingress.kubernetes.io/";
    let annotations = annotations.split_whitespace().filter_map(|pair| pair.split_once('='));
    let annotations: Vec<String> = annotations.map(|(name, value)| format!("{prefix}{name}: \"{value}\"")).collect();
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}, annotations: {{{}}}}}, spec: {{rules: \
         [{{http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}}}]}}}}\n",
        annotations.join(", ")
    )
}

fn compiled(main: (&str, &str), canary: Option<(&str, &str)>) -> Compiled {
    let mut yaml = SERVICES.to_owned() + &ingress("main", main.0, main.1);
    if let Some((annotations, service)) = canary {
        yaml += &ingress("canary", &format!("canary=true {annotations}"), service);
    }
    compile_yaml(&yaml)
}

fn compile_yaml(yaml: &str) -> Compiled {
    let mut objects = Objects::default();
    for document in tidegate_crd::yaml::parse(Path::new("test.yaml"), yaml).documents {
        objects.apply(document);
    }
    compile(&objects, &Settings::default(), &[], &Allocations::default(), None)
}

/// The Service the request goes to, or the status; `lot` is what is drawn of any number.
fn goes_to(compiled: &Compiled, fields: &[(&str, &str)], lot: u32) -> String {
    let asked = Asked::get("/", fields);
    match decide(&compiled.snapshot, &asked.facts(), |total| lot.min(total - 1)) {
        Decision::Health => "200".to_owned(),
        Decision::NotFound { .. } => "404".to_owned(),
        Decision::Unavailable { .. } => "503".to_owned(),
        Decision::Forward { upstream, backend, .. } => {
            let service = backend.service().split(['/', ':']).nth(1).unwrap();
            assert!(upstream.name.contains(service), "backend and upstream are one");
            service.to_owned()
        }
    }
}

#[test]
fn by_weight() {
    let compiled = compiled(("", "web"), Some(("canary-weight=30 canary-weight-total=200", "beta")));
    assert_eq!(goes_to(&compiled, &[], 29), "beta");
    assert_eq!(goes_to(&compiled, &[], 30), "web");
    let asked = Asked::get("/", &[]);
    let mut totals = Vec::new();
    decide(&compiled.snapshot, &asked.facts(), |total| {
        totals.push(total);
        0
    });
    assert_eq!(totals, [200]);
    let none = super::tests::compiled(("", "web"), Some(("canary-weight=0", "beta")));
    assert_eq!(goes_to(&none, &[], 0), "web");
    let all = super::tests::compiled(("", "web"), Some(("canary-weight=100", "beta")));
    assert_eq!(goes_to(&all, &[], 99), "beta");
}

#[test]
fn header_then_cookie_then_weight() {
    let canary = "canary-by-header=X-Beta canary-by-cookie=beta canary-weight=100";
    let compiled = compiled(("", "web"), Some((canary, "beta")));
    for (fields, expected) in [
        (&[("x-beta", "never"), ("cookie", "beta=always")][..], "web"),
        (&[("x-beta", "always"), ("cookie", "beta=never")], "beta"),
        (&[("x-beta", "maybe"), ("cookie", "beta=never")], "web"),
        (&[("cookie", "beta=maybe")], "beta"),
        (&[], "beta"),
    ] {
        assert_eq!(goes_to(&compiled, fields, 0), expected, "{fields:?}");
    }
}

#[test]
fn a_header_value_or_pattern_takes_the_place_of_always() {
    let value = compiled(("", "web"), Some(("canary-by-header=x-beta canary-by-header-value=yes", "beta")));
    let pattern =
        compiled(("", "web"), Some(("canary-by-header=x-beta canary-by-header-pattern=^(?!no)[a-z]+$", "beta")));
    for (said, by_value, by_pattern) in [
        ("yes", "beta", "beta"),
        ("always", "web", "beta"),
        ("never", "web", "beta"),
        ("wow", "web", "beta"),
        ("no", "web", "web"),
    ] {
        assert_eq!(goes_to(&value, &[("x-beta", said)], 99), by_value, "{said}");
        assert_eq!(goes_to(&pattern, &[("x-beta", said)], 99), by_pattern, "{said}");
    }
}

#[test]
fn a_session_stays_where_it_is_whatever_the_canary_says() {
    let compiled = compiled(("affinity=cookie", "web"), Some(("canary-by-header=x-beta canary-weight=0", "beta")));
    let cookie = |service: &str| {
        let upstream = compiled.snapshot.upstreams.iter().find(|upstream| upstream.name.contains(service)).unwrap();
        format!("INGRESSCOOKIE=key|{}", upstream.cookie.as_ref().unwrap().map.backend_key())
    };
    assert_eq!(goes_to(&compiled, &[("x-beta", "always"), ("cookie", &cookie("web"))], 0), "web");
    assert_eq!(goes_to(&compiled, &[("x-beta", "never"), ("cookie", &cookie("beta"))], 0), "beta");
    assert_eq!(goes_to(&compiled, &[("x-beta", "always"), ("cookie", "INGRESSCOOKIE=key|other")], 0), "beta");
    let legacy = super::tests::compiled(
        ("affinity=cookie", "web"),
        Some(("canary-by-header=x-beta affinity-canary-behavior=legacy", "beta")),
    );
    assert_eq!(goes_to(&legacy, &[("x-beta", "always"), ("cookie", &cookie("web"))], 0), "web");
}

#[test]
fn a_canary_without_pods_gets_nothing_and_a_main_without_pods_is_unavailable() {
    let canary = "canary-by-header=x-beta canary-weight=100";
    assert_eq!(goes_to(&compiled(("", "web"), Some((canary, "empty"))), &[("x-beta", "always")], 0), "web");
    assert_eq!(goes_to(&compiled(("", "web"), Some((canary, "missing"))), &[("x-beta", "always")], 0), "web");
    assert_eq!(goes_to(&compiled(("", "empty"), Some((canary, "beta"))), &[("x-beta", "always")], 0), "503");
}

#[test]
fn the_hash_follows_the_template_and_a_cookie_comes_first() {
    let hash = |annotations: &str, target: &str| {
        let compiled = compiled((annotations, "web"), None);
        let asked = Asked::get(target, &[]);
        match decide(&compiled.snapshot, &asked.facts(), |_| 0) {
            Decision::Forward { hash, .. } => hash,
            other => panic!("{other:?}"),
        }
    };
    let by_uri = "upstream-hash-by=$request_uri";
    assert_eq!(hash(by_uri, "/a"), Some(u64::from(crc32fast::hash(b"/a"))));
    assert_ne!(hash(by_uri, "/a"), hash(by_uri, "/b"));
    assert_eq!(hash("upstream-hash-by=$arg_user", "/a?user=1"), hash("upstream-hash-by=$arg_user", "/b?user=1"));
    assert_eq!(hash("", "/a"), None);
    assert_eq!(hash("upstream-hash-by=$request_uri affinity=cookie", "/a"), None);
}

#[test]
fn where_the_service_asks_for_a_hash_the_client_is_the_key_unless_an_ingress_says_otherwise() {
    let hash = |annotations: &str| {
        let plain = "metadata: {name: web}";
        let yaml = SERVICES.replace(plain, "metadata: {name: web, annotations: {tidegate.io/balance: hash}}");
        assert_ne!(yaml, SERVICES);
        let compiled = compile_yaml(&(yaml + &ingress("main", annotations, "web")));
        let asked = Asked::get("/a", &[]);
        match decide(&compiled.snapshot, &asked.facts(), |_| 0) {
            Decision::Forward { hash, upstream, .. } => (hash, upstream.balance(hash)),
            other => panic!("{other:?}"),
        }
    };
    let client = (Some(client_key(Asked::get("/a", &[]).facts().client)), Balance::Hash);
    assert_eq!(hash(""), client);
    assert_eq!(hash("affinity=cookie"), client, "for requests that neither have a session nor begin one");
    assert_eq!(hash("load-balance=round_robin"), (None, Balance::RoundRobin));
    assert_eq!(hash("upstream-hash-by=$request_uri"), (Some(u64::from(crc32fast::hash(b"/a"))), Balance::Hash));
}

#[test]
fn what_an_ingress_says_about_its_host_is_a_404_with_a_rule() {
    let yaml = SERVICES.to_owned() + &ingress("main", "app-root=/app", "web").replace("path: /,", "path: /x,");
    let compiled = compile_yaml(&yaml);
    let asked = Asked::get("/", &[]);
    let decision = decide(&compiled.snapshot, &asked.facts(), |_| 0);
    assert!(matches!(&decision, Decision::NotFound { rule: Some(_) }), "{decision:?}");
    assert!(crate::http::filters::on_request(decision.rule().unwrap(), &asked.facts()).is_break());
}
