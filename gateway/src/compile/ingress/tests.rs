//! What Ingresses become, and how they concern each other.

use std::{fmt::Write, path::Path};

use tidegate_crd::yaml;

use super::{rest::NOTHING, *};
use crate::{
    compile::{Compiled, allocate::Allocations, annotations},
    route::{
        filter::{Filter, PathRewrite, Redirect, RedirectTo},
        policy::{BackendProtocol, HttpsWhen},
        split::HeaderMatch,
    },
};

/// One Ingress: its name, annotations (without prefix, `name: value`), host, and paths with their types and Services.
type Written<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a [(&'a str, &'a str, &'a str)]);

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 127.96.0.5, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: beta}, spec: {clusterIP: 127.96.0.6, ports: [{port: 80, appProtocol: kubernetes.io/h2c}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: fields}, data: {X-A: '1'}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: forbidden}, data: {Content-Length: '1'}}
";

fn manifests(ingresses: &[Written<'_>]) -> String {
    let mut yaml = SERVICES.to_owned();
    for (age, (name, annotations, host, paths)) in ingresses.iter().enumerate() {
        let annotations: Vec<String> = annotations
            .iter()
            .map(|(name, value)| {
                let prefix = if name.contains('/') { "" } else { annotations::PREFIX };
                format!("{prefix}{name}: {value:?}")
            })
            .collect();
        let paths: Vec<String> = paths
            .iter()
            .map(|(path, kind, service)| {
                format!("{{path: {path:?}, pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}")
            })
            .collect();
        let tls = if *name == "tls" { "tls: [{hosts: [a.com], secretName: x}], " } else { "" };
        let _ = write!(
            yaml,
            "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}, \
             creationTimestamp: '20{age:02}-01-01T00:00:00Z', annotations: {{{}}}}}, \
             spec: {{{tls}rules: [{{host: {host:?}, http: {{paths: [{}]}}}}]}}}}\n",
            annotations.join(", "),
            paths.join(", "),
        );
    }
    yaml
}

fn compiled(ingresses: &[Written<'_>]) -> Compiled {
    let parsed = yaml::parse(Path::new("test.yaml"), &manifests(ingresses));
    assert_eq!(parsed.problems, []);
    let mut objects = Objects::default();
    for document in parsed.documents {
        objects.apply(document);
    }
    super::super::compile(&objects, &Settings::default(), &[], &Allocations::default(), None)
}

fn reasons(compiled: &Compiled) -> Vec<&'static str> {
    let mut reasons: Vec<_> = compiled.snapshot.findings.iter().map(|finding| finding.reason).collect();
    reasons.sort_unstable();
    reasons
}

fn rule<'a>(compiled: &'a Compiled, host: &str, path: &str) -> Option<&'a Arc<Rule>> {
    compiled.snapshot.routes.find(host, path).rule
}

fn policy_of(compiled: &Compiled, path: &str) -> Policy {
    (*rule(compiled, "a.com", path).unwrap().policy).clone()
}

const ROOT: &[(&str, &str, &str)] = &[("/", "Prefix", "web")];

#[test]
fn rules_without_annotations_share_the_plain_policy() {
    let compiled =
        compiled(&[("a", &[], "a.com", &[("/", "Prefix", "web"), ("/x", "Exact", "web")]), ("b", &[], "b.com", ROOT)]);
    assert_eq!(reasons(&compiled), [""; 0]);
    let policies: Vec<_> = compiled.snapshot.routes.rules().map(|rule| &rule.policy).collect();
    assert!(policies.len() == 3 && policies.iter().all(|policy| Arc::ptr_eq(policy, policies[0]) && policy.is_plain()));
}

#[test]
fn one_ingress_puts_the_whole_host_into_regex_mode() {
    let compiled = compiled(&[
        ("a", &[("use-regex", "true")], "a.com", &[("/[A-Z]{3}$", "ImplementationSpecific", "web")]),
        ("b", &[], "a.com", &[("/Header", "Exact", "beta"), ("/ba", "Prefix", "beta")]),
        ("c", &[], "b.com", &[("/ba", "Prefix", "web")]),
    ]);
    assert_eq!(reasons(&compiled), ["RegexHost", "RegexHost"]);
    let owner = |host, path| rule(&compiled, host, path).map(|rule| rule.owner.name.to_string());
    assert_eq!(owner("a.com", "/uid").as_deref(), Some("a"));
    assert_eq!(owner("a.com", "/headers").as_deref(), Some("b"));
    assert_eq!(owner("a.com", "/banana").as_deref(), Some("b"));
    assert_eq!(owner("b.com", "/banana"), None, "other hosts are not concerned");
}

#[test]
fn a_rewrite_makes_patterns_unless_it_changes_nothing() {
    let rewrite = |target: &'static str, path: &'static str| {
        let paths = [(path, "ImplementationSpecific", "web")];
        let annotations = [("rewrite-target", target)];
        let compiled = compiled(&[("a", &annotations, "a.com", &paths)]);
        let rule = compiled.snapshot.routes.rules().find(|rule| rule.path.is_some());
        let is_pattern = rule.is_some_and(|rule| matches!(rule.path, Some(PathMatch::Regex(_))));
        (is_pattern, rule.is_some_and(|rule| !rule.policy.filters.is_empty()), reasons(&compiled))
    };
    assert_eq!(rewrite("/$2", "/something(/|$)(.*)"), (true, true, vec![]));
    assert_eq!(rewrite("/", "/"), (false, false, vec![]));
    // No rule names `/`, so there is one with the same annotations, and on that one the target differs.
    assert_eq!(rewrite("/foo", "/foo"), (true, false, vec![]));
    assert_eq!(rewrite("/v1", "/api"), (true, true, vec!["RewriteWithoutGroup"]));
    assert_eq!(rewrite("/$3", "/(a)(b)"), (true, true, vec!["RewriteWithoutGroup"]));
    assert_eq!(rewrite("/$1", "/(a"), (false, false, vec!["InvalidPattern"]));
}

#[test]
fn the_rewrite_of_a_rule() {
    let annotations = [("rewrite-target", "/$2"), ("x-forwarded-prefix", "/shop")];
    let written = compiled(&[("a", &annotations, "a.com", &[("/shop(/|$)(.*)", "ImplementationSpecific", "web")])]);
    let policy = policy_of(&written, "/SHOP/cart");
    let [Filter::RewritePath(PathRewrite::Regex { replacement, .. }), Filter::RequestHeaders(edit)] = &*policy.filters
    else {
        panic!("{policy:?}")
    };
    assert_eq!((&**replacement, edit.set[0].1.to_str().unwrap()), ("/$2", "/shop"));
    let whole = compiled(&[(
        "a",
        &[("rewrite-target", "https://b.com/$1")],
        "a.com",
        &[("/(.*)", "ImplementationSpecific", "web")],
    )]);
    assert!(matches!(
        &*policy_of(&whole, "/x").filters,
        [Filter::Redirect(Redirect { to: RedirectTo::Rewrite(_), .. })]
    ));
    let alone = compiled(&[("a", &[("x-forwarded-prefix", "/shop")], "a.com", ROOT)]);
    assert_eq!(reasons(&alone), ["UnusedAnnotation"]);
    assert!(policy_of(&alone, "/").is_plain());
}

#[test]
fn a_prefix_is_rewritten_by_elements() {
    let annotations = [("tidegate.io/rewrite-prefix", "/v1")];
    let written = compiled(&[("a", &annotations, "a.com", &[("/api", "Prefix", "web"), ("/one", "Exact", "web")])]);
    assert_eq!(reasons(&written), [""; 0]);
    assert!(matches!(&*policy_of(&written, "/api/x").filters, [Filter::RewritePath(PathRewrite::Prefix(_))]));
    assert!(matches!(&*policy_of(&written, "/one").filters, [Filter::RewritePath(PathRewrite::Full(_))]));
    let regex = [("tidegate.io/rewrite-prefix", "/v1"), ("use-regex", "true")];
    assert_eq!(reasons(&compiled(&[("a", &regex, "a.com", ROOT)])), ["UnusedAnnotation"]);
}

#[test]
fn a_host_with_tls_is_sent_to_https_and_others_are_not() {
    let when = |name: &'static str, annotations: &[(&str, &str)]| {
        let compiled =
            compiled(&[(name, annotations, "a.com", ROOT), ("other", &[], "a.com", &[("/x", "Prefix", "web")])]);
        (policy_of(&compiled, "/").https.when, policy_of(&compiled, "/x").https.when)
    };
    assert_eq!(when("tls", &[]), (HttpsWhen::HostHasTls, HttpsWhen::HostHasTls));
    assert_eq!(when("tls", &[("ssl-redirect", "false")]), (HttpsWhen::Never, HttpsWhen::HostHasTls));
    assert_eq!(when("plain", &[]), (HttpsWhen::Never, HttpsWhen::Never));
    assert_eq!(when("plain", &[("force-ssl-redirect", "true")]), (HttpsWhen::Always, HttpsWhen::Never));
    assert!(compiled(&[("tls", &[], "a.com", ROOT)]).snapshot.routes.find("a.com", "/").host.unwrap().tls);
}

#[test]
fn what_concerns_a_host_concerns_paths_that_no_rule_takes() {
    let paths = &[("/x", "Prefix", "web")];
    let rest = |annotations: &[(&str, &str)]| {
        let compiled = compiled(&[("a", annotations, "a.com", paths)]);
        rule(&compiled, "a.com", "/nothing").map(|rule| (rule.backend.clone(), rule.policy.filters.len()))
    };
    let nothing = Backend::None { service: NOTHING.into() };
    assert_eq!(rest(&[]), None);
    assert_eq!(rest(&[("proxy-body-size", "8m")]), None);
    assert_eq!(rest(&[("permanent-redirect", "https://b.com")]), Some((nothing.clone(), 1)));
    assert_eq!(rest(&[("app-root", "/x")]), Some((nothing, 1)));
    assert!(
        matches!(rest(&[("auth-url", "http://x")]), Some((Backend::Missing { .. }, 0))),
        "a guard guards these too"
    );
    // The app-root of one Ingress is for the `/` of another.
    let compiled = compiled(&[("a", &[("app-root", "/x")], "a.com", paths), ("b", &[], "a.com", ROOT)]);
    assert_eq!((policy_of(&compiled, "/").filters.len(), policy_of(&compiled, "/x").filters.len()), (1, 0));
}

#[test]
fn a_default_backend_has_the_rewrite_and_a_global_one_has_not() {
    let with_default = |rules: &str| {
        let yaml = format!(
            "{SERVICES}---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: a, annotations: \
             {{nginx.ingress.kubernetes.io/rewrite-target: /v1, nginx.ingress.kubernetes.io/permanent-redirect: 'https://x'}}}}, \
             spec: {{defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}{rules}}}}}\n"
        );
        let mut objects = Objects::default();
        for document in yaml::parse(Path::new("test.yaml"), &yaml).documents {
            objects.apply(document);
        }
        let compiled = super::super::compile(&objects, &Settings::default(), &[], &Allocations::default(), None);
        rule(&compiled, "a.com", "/x").unwrap().policy.filters.len()
    };
    assert_eq!(with_default(", rules: [{host: a.com}]"), 2);
    assert_eq!(with_default(""), 0);
}

#[test]
fn of_two_redirects_the_temporal_one_counts() {
    let annotations =
        [("permanent-redirect", "https://p"), ("temporal-redirect", "https://t"), ("temporal-redirect-code", "307")];
    let policy = policy_of(&compiled(&[("a", &annotations, "a.com", ROOT)]), "/");
    let [Filter::Redirect(redirect)] = &*policy.filters else { panic!("{policy:?}") };
    assert!(redirect.status == 307 && matches!(&redirect.to, RedirectTo::Url(url) if url.to_string() == "https://t"));
}

#[test]
fn www_and_aliases() {
    let compiled = compiled(&[
        ("a", &[("from-to-www-redirect", "true"), ("server-alias", "c.com, b.com")], "a.com", ROOT),
        ("b", &[("from-to-www-redirect", "true")], "b.com", ROOT),
        ("www", &[], "www.b.com", ROOT),
    ]);
    assert_eq!(reasons(&compiled), ["AliasTaken"]);
    let www = rule(&compiled, "www.a.com", "/x").unwrap();
    assert!(matches!(&*www.policy.filters, [Filter::Redirect(Redirect { to: RedirectTo::Host(_), .. })]));
    assert!(rule(&compiled, "www.b.com", "/").unwrap().policy.is_plain(), "an Ingress names both");
    assert_eq!(&*rule(&compiled, "c.com", "/").unwrap().host, "a.com");
    assert_eq!(&*rule(&compiled, "b.com", "/").unwrap().host, "b.com");
}

#[test]
fn a_canary_is_attached_to_its_main_rule() {
    let annotations =
        [("canary", "true"), ("canary-weight", "30"), ("canary-by-header", "x-beta"), ("canary-by-header-value", "1")];
    let main: Written<'_> =
        ("main", &[("affinity", "cookie")], "a.com", &[("/", "Prefix", "web"), ("/x", "Prefix", "web")]);
    let written = compiled(&[("canary", &annotations, "a.com", &[("/", "Prefix", "beta")]), main]);
    assert_eq!(reasons(&written), [""; 0]);
    let split = rule(&written, "a.com", "/").unwrap().split.as_ref().unwrap();
    assert_eq!((split.weight, split.total, &*split.owner.name), (30, 100, "canary"));
    assert_eq!(split.header.as_ref().unwrap().value, HeaderMatch::Exact("1".into()));
    assert_eq!(&**split.backend.service(), "default/beta:80");
    assert!(rule(&written, "a.com", "/x").unwrap().split.is_none(), "only where host, path and type are the same");
    let cookies: Vec<bool> = written.snapshot.upstreams.iter().map(|upstream| upstream.cookie.is_some()).collect();
    assert_eq!(cookies, [true, true], "the canary shares the cookie");
    let legacy = [("canary", "true"), ("affinity-canary-behavior", "legacy")];
    let written = compiled(&[main, ("canary", &legacy, "a.com", &[("/", "Prefix", "beta")])]);
    assert_eq!(written.snapshot.upstreams.iter().filter(|upstream| upstream.cookie.is_some()).count(), 1);
}

#[test]
fn canaries_that_split_nothing_are_reported() {
    let canary = [("canary", "true"), ("canary-weight", "10")];
    let main: Written<'_> = ("main", &[], "a.com", ROOT);
    let other = |paths| compiled(&[main, ("canary", &canary, "a.com", paths)]);
    assert_eq!(reasons(&other(&[("/", "Exact", "beta")])), ["CanaryWithoutMain"]);
    assert_eq!(reasons(&other(&[("/y", "Prefix", "beta")])), ["CanaryWithoutMain"]);
    assert_eq!(reasons(&other(&[("/", "Prefix", "web")])), ["CanaryIsMain"]);
    let two = compiled(&[
        main,
        ("c1", &canary, "a.com", &[("/", "Prefix", "beta")]),
        ("c2", &canary, "a.com", &[("/", "Prefix", "beta")]),
    ]);
    assert_eq!(reasons(&two), ["DuplicateCanary"]);
    let alone = compiled(&[("canary", &canary, "a.com", ROOT)]);
    assert_eq!(reasons(&alone), ["CanaryWithoutMain"]);
    assert!(rule(&alone, "a.com", "/").is_none());
}

#[test]
fn of_one_upstream_the_oldest_ingress_decides() {
    let compiled = compiled(&[
        ("old", &[("load-balance", "ewma")], "a.com", ROOT),
        ("new", &[("upstream-hash-by", "$request_uri")], "b.com", ROOT),
        ("silent", &[], "c.com", ROOT),
    ]);
    assert_eq!(reasons(&compiled), ["SharedUpstream"]);
    let options = &compiled.snapshot.upstreams[0].options;
    assert!(options.load_balance.is_some() && options.hash_by.is_none());
}

#[test]
fn the_service_itself_as_the_only_endpoint() {
    let before = compiled(&[("a", &[("service-upstream", "true")], "a.com", ROOT)]);
    let endpoints = &before.snapshot.upstreams[0].endpoints;
    assert_eq!(endpoints.endpoints().iter().map(|e| e.addr.to_string()).collect::<Vec<_>>(), ["127.96.0.5:80"]);
}

#[test]
fn the_protocol_of_the_port_counts_where_the_annotation_is_silent() {
    let paths = &[("/web", "Prefix", "web"), ("/beta", "Prefix", "beta")];
    let silent = compiled(&[("a", &[], "a.com", paths)]);
    assert_eq!(policy_of(&silent, "/web").transport.protocol, BackendProtocol::Http1);
    assert_eq!(policy_of(&silent, "/beta").transport.protocol, BackendProtocol::Http2);
    let said = compiled(&[("a", &[("backend-protocol", "HTTPS")], "a.com", paths)]);
    let transport = policy_of(&said, "/beta").transport;
    assert!(transport.protocol == BackendProtocol::Http1 && transport.tls.is_some());
}

#[test]
fn fields_of_a_config_map() {
    let closed = |value: &'static str| {
        let compiled = compiled(&[("a", &[("custom-headers", value)], "a.com", ROOT)]);
        let rule = rule(&compiled, "a.com", "/").unwrap().clone();
        (reasons(&compiled), matches!(rule.backend, Backend::Missing { .. }), rule.policy.filters.len())
    };
    assert_eq!(closed("default/fields"), (vec![], false, 1));
    assert_eq!(closed("fields"), (vec![], false, 1));
    for bad in ["default/nothing", "default/forbidden", "other/fields"] {
        assert_eq!(closed(bad), (vec!["InvalidCustomHeaders"], true, 0), "{bad}");
    }
}

#[test]
fn a_closed_ingress_does_nothing_but_refuse() {
    let annotations = [("auth-url", "http://x"), ("permanent-redirect", "https://b.com"), ("proxy-body-size", "1")];
    let compiled = compiled(&[("a", &annotations, "a.com", ROOT)]);
    assert!(policy_of(&compiled, "/").is_plain());
    assert!(matches!(rule(&compiled, "a.com", "/").unwrap().backend, Backend::Missing { .. }));
}
