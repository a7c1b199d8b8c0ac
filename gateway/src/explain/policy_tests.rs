//! What is said about redirects, rewrites, canaries and settings: the very text.

use std::collections::BTreeSet;

use http::{HeaderMap, Method, Uri};
use tidegate_l4::affinity::UnixMillis;

use super::{
    Outcome, Question, explain,
    tests::{check, compiled},
};
use crate::http::{Decision, Facts, Scheme, decide};

const SERVICES: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 127.96.0.5, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, labels: {kubernetes.io/service-name: web}},
 addressType: IPv4, ports: [{name: '', port: 8080}], endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: beta}, spec: {clusterIP: 127.96.0.6, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: beta-1, labels: {kubernetes.io/service-name: beta}},
 addressType: IPv4, ports: [{name: '', port: 8080}], endpoints: [{addresses: [10.0.1.1]}]}
---
{apiVersion: v1, kind: Service, metadata: {name: same}, spec: {clusterIP: 127.96.0.7, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: same-1, labels: {kubernetes.io/service-name: same}},
 addressType: IPv4, ports: [{name: '', port: 8080}], endpoints: [{addresses: [10.0.2.1]}, {addresses: [10.0.2.2]}]}
";

const INGRESSES: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: old, annotations: {nginx.ingress.kubernetes.io/permanent-redirect: 'https://new.com$request_uri'}}
spec: {rules: [{host: old.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: app, annotations: {nginx.ingress.kubernetes.io/app-root: /app, nginx.ingress.kubernetes.io/server-alias: other.com}}
spec: {rules: [{host: app.com, http: {paths: [{path: /app, pathType: Prefix, backend: {service: {name: beta, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: force, annotations: {nginx.ingress.kubernetes.io/force-ssl-redirect: 'true'}}
spec: {rules: [{host: force.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: beta, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: all
  annotations:
    nginx.ingress.kubernetes.io/rewrite-target: /$1
    nginx.ingress.kubernetes.io/upstream-vhost: web.internal
    nginx.ingress.kubernetes.io/backend-protocol: GRPCS
    nginx.ingress.kubernetes.io/connection-proxy-header: close
    nginx.ingress.kubernetes.io/proxy-read-timeout: '3600'
    nginx.ingress.kubernetes.io/proxy-next-upstream: 'off'
    nginx.ingress.kubernetes.io/proxy-body-size: '0'
    nginx.ingress.kubernetes.io/enable-access-log: 'false'
    nginx.ingress.kubernetes.io/proxy-cookie-path: /a /b
    tidegate.io/request-headers-set: 'X-A: 1'
    tidegate.io/request-headers-remove: X-B
    tidegate.io/response-headers-add: 'X-C: 2'
spec: {rules: [{host: all.com, http: {paths: [{path: /x/(.*), pathType: ImplementationSpecific, backend: {service: {name: beta, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: main}
spec: {rules: [{host: split.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: canary
  annotations:
    nginx.ingress.kubernetes.io/canary: 'true'
    nginx.ingress.kubernetes.io/canary-weight: '20'
    nginx.ingress.kubernetes.io/canary-by-header: X-Beta
spec: {rules: [{host: split.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: beta, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: hash, annotations: {nginx.ingress.kubernetes.io/upstream-hash-by: $arg_user}}
spec: {rules: [{host: hash.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: same, port: {number: 80}}}}]}}]}
";

fn ask(target: &str, headers: &[&str], expected: &str) {
    check(&[SERVICES, INGRESSES].join("---"), target, headers, None, expected);
}

#[test]
fn redirects_say_why() {
    let expected = r"
 1. Host: there are rules for old.com by name.
 2. Path: /a is taken by Prefix / of Ingress default/old, the longest prefix that matches.
 3. Redirect: Ingress default/old sends every request to https://new.com$request_uri.

→ 301: to https://new.com/a?b
";
    ask("GET http://old.com/a?b", &[], expected);
    let expected = r"
 1. Host: other.com is an alias of app.com.
 2. Path: no path takes /; what Ingress default/app says about the whole host applies.
 3. Redirect: the host sends / to /app (app-root).

→ 302: to http://other.com/app
";
    ask("GET http://other.com/", &[], expected);
    let expected = r"
 1. Host: there are rules for app.com by name.
 2. Path: no path takes /x; what Ingress default/app says about the whole host applies.

→ 404: no rule for this host and path
";
    ask("GET http://app.com/x", &[], expected);
    let expected = r"
 1. Host: there are rules for force.com by name.
 2. Path: /a is taken by Prefix / of Ingress default/force, the longest prefix that matches.
 3. Redirect: Ingress default/force wants TLS always (force-ssl-redirect).

→ 308: to https://force.com/a
";
    ask("GET http://force.com/a", &[], expected);
    let expected = r"
 1. TLS: nothing is configured for force.com; it is served like any host.
 2. Certificate: of nobody: a stand-in that no client trusts, as it has no certificate of its own: ECDSA, for stand-in.tidegate.invalid, until Jan  1 00:00:00 2050 +00:00.
 3. Host: there are rules for force.com by name.
 4. Path: /a is taken by Prefix / of Ingress default/force, the longest prefix that matches.
 5. Backend: the requests of this rule go to Service default/beta:80.
 6. Endpoints: 1 of 1 can be used.

→ this endpoint: it is the only one
  100.0 %  10.0.1.1:8080
";
    ask("GET https://force.com/a", &[], expected);
}

#[test]
fn everything_that_is_not_the_default_is_said() {
    let expected = r#"
 1. Host: there are rules for all.com by name.
 2. Path: /X/y is taken by Regex /x/(.*) of Ingress default/all, the longest pattern that matches; the host is in regex mode.
 3. Rewrite: the pod is asked for the path /y?z and the host web.internal.
 4. Request fields: removes x-b; sets x-a: 1.
 5. Answer fields: a Path /a… of cookies becomes /b….
 6. Answer fields: adds x-c: 2.
 7. Backend: the requests of this rule go to Service default/beta:80.
 8. Endpoints: 1 of 1 can be used.
 9. Transport: pods are asked in HTTP/2 with TLS; the pod's certificate is not verified; each request on a connection of its own.
10. Timeouts: 5s to connect, 1m between two pieces of the request, 1h until and within the answer.
11. Retries: no other pod is tried.
12. Body limit: content may be of any length.
13. Access log: the request is not logged.
14. Finding: test.yaml:39: warning[UnverifiedBackend] Ingress default/all metadata.annotations["nginx.ingress.kubernetes.io/backend-protocol"]: the pods' certificates are not verified: whoever stands between can read and change everything. Fix: Add proxy-ssl-secret with their CAs in ca.crt, proxy-ssl-name, and proxy-ssl-verify: "on".

→ this endpoint: it is the only one
  100.0 %  10.0.1.1:8080
"#;
    ask("GET http://all.com/X/y?z", &[], expected);
}

#[test]
fn a_canary_has_its_share() {
    let expected = r"
 1. Host: there are rules for split.com by name.
 2. Path: / is taken by Prefix / of Ingress default/main, the longest prefix that matches.
 3. Backend: the requests of this rule go to Service default/web:80.
 4. Canary: 20.0 % of the requests go to Service default/beta:80 (canary Ingress default/canary), drawn by lot.
 5. Endpoints: 2 of 2 can be used.

→ one of 3 endpoints: lots are drawn between main backend and canary, then: one after the other
   40.0 %  10.0.0.1:8080
   40.0 %  10.0.0.2:8080
   20.0 %  10.0.1.1:8080
";
    ask("GET http://split.com/", &[], expected);
    let expected = r"
 1. Host: there are rules for split.com by name.
 2. Path: / is taken by Prefix / of Ingress default/main, the longest prefix that matches.
 3. Backend: the requests of this rule go to Service default/web:80.
 4. Canary: the field x-beta says always: to Service default/beta:80 (canary Ingress default/canary).
 5. Endpoints: 1 of 1 can be used.

→ this endpoint: it is the only one
  100.0 %  10.0.1.1:8080
";
    ask("GET http://split.com/", &["X-Beta: always"], expected);
}

#[test]
fn a_hash_names_its_text() {
    let expected = r"
 1. Host: there are rules for hash.com by name.
 2. Path: / is taken by Prefix / of Ingress default/hash, the longest prefix that matches.
 3. Backend: the requests of this rule go to Service default/same:80.
 4. Endpoints: 2 of 2 can be used.

→ one of 2 endpoints: requests with the same $arg_user go to the same one (upstream-hash-by)
   50.0 %  10.0.2.1:8080
   50.0 %  10.0.2.2:8080
";
    ask("GET http://hash.com/?user=1", &[], expected);
}

#[test]
fn a_hash_by_the_service_names_the_client_and_where_it_goes() {
    let services = SERVICES.replace("{name: same}", "{name: same, annotations: {tidegate.io/balance: hash}}");
    let asked = |ingresses: &str, from: &str| {
        let question = Question::parse("GET http://hash.com/?user=1", &[], Some(from.parse().unwrap())).unwrap();
        explain(&compiled(&[&services, ingresses].join("---")).snapshot, &question, UnixMillis(0)).to_text()
    };
    let by_text = asked(INGRESSES, "192.0.2.1");
    assert!(by_text.contains("requests with the same $arg_user go to the same one (upstream-hash-by)"), "{by_text}");
    let plain = INGRESSES.replace("nginx.ingress.kubernetes.io/upstream-hash-by: $arg_user", "");
    let goes_to = |from: &str| {
        let text = asked(&plain, from);
        let rule = format!("→ this endpoint: it follows from the client's address, {from}, on every replica");
        assert!(text.contains(&rule), "{text}");
        ["10.0.2.1", "10.0.2.2"].into_iter().find(|pod| text.contains(&format!("100.0 %  {pod}:8080"))).expect("a pod")
    };
    let pods: BTreeSet<_> = (1..20).map(|last| goes_to(&format!("192.0.2.{last}"))).collect();
    assert_eq!(pods.len(), 2, "clients go to different pods");
}

/// The share of a canary is what the data plane gives it: every lot that can be drawn is drawn once.
#[test]
fn shares_are_those_of_the_data_plane() {
    let compiled = compiled(&[SERVICES, INGRESSES].join("---"));
    let question = Question::parse("GET http://split.com/", &[], None).unwrap();
    let explanation = explain(&compiled.snapshot, &question, tidegate_l4::affinity::UnixMillis(0));
    let Outcome::Endpoints { candidates, .. } = explanation.outcome else { panic!("no endpoints") };
    let canary = candidates.iter().find(|candidate| candidate.addr.to_string() == "10.0.1.1:8080").unwrap();
    let (uri, headers) = (Uri::from_static("/"), HeaderMap::new());
    let facts = Facts {
        method: &Method::GET,
        uri: &uri,
        headers: &headers,
        host: "split.com",
        path: "/",
        scheme: Scheme::Http,
        client: [127, 0, 0, 1].into(),
        port: 80,
        https_port: None,
    };
    let to_canary = |lot: &u32| match decide(&compiled.snapshot, &facts, |_| *lot) {
        Decision::Forward { backend, .. } => &**backend.service() == "default/beta:80",
        other => panic!("{other:?}"),
    };
    let got = (0..100).filter(to_canary).count();
    assert!((canary.share * 100.0 - got as f64).abs() < 1e-9, "{got} of 100");
}
