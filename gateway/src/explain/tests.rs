//! Typical questions, and the very text of their answers.

use tidegate_crd::yaml;
use tidegate_l4::{
    endpoints::{Client, EndpointIndex},
    model::{IpFamily, Protocol, TrafficPolicy},
    table::{Decision, Frontend},
};

use super::*;
use crate::compile::{Compiled, allocate::Allocations, compile, objects::Objects, settings::Settings};

/// Compiles manifests as a plain `run` would; the node is `here`.
pub(super) fn compiled(manifests: &str) -> Compiled {
    let mut objects = Objects::default();
    let parsed = yaml::parse(std::path::Path::new("test.yaml"), manifests);
    assert_eq!(parsed.problems, []);
    for document in parsed.documents {
        objects.apply(document);
    }
    let settings = Settings { node_name: "here".into(), ..Settings::default() };
    compile(&objects, &settings, &[], &Allocations::default(), None)
}

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn answer(manifests: &str, target: &str, headers: &[&str], from: Option<&str>) -> Explanation {
    let headers: Vec<String> = headers.iter().map(|&header| header.to_owned()).collect();
    let question = Question::parse(target, &headers, from.map(|ip| ip.parse().unwrap())).unwrap();
    explain(&compiled(manifests).snapshot, &question, NOW)
}

/// Asks, and compares the text of the answer without the question above it.
pub(super) fn check(manifests: &str, target: &str, headers: &[&str], from: Option<&str>, expected: &str) {
    let text = answer(manifests, target, headers, from).to_text();
    let (_, text) = text.split_once("\n\n").unwrap();
    assert_eq!(text.trim(), expected.trim(), "\n{text}");
}

const PODS: &str = "
apiVersion: v1
kind: Service
metadata: {name: kubia}
spec:
  type: LoadBalancer
  clusterIP: 127.96.0.10
  loadBalancerIP: 127.97.0.10
  loadBalancerSourceRanges: [10.0.0.0/8]
  externalTrafficPolicy: Local
  ports: [{name: http, port: 80, nodePort: 30123}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubia-1, labels: {kubernetes.io/service-name: kubia}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.1.0.1], nodeName: here, targetRef: {kind: Pod, name: kubia-a}}
- {addresses: [10.1.0.2], nodeName: there, targetRef: {kind: Pod, name: kubia-b}}
- {addresses: [10.1.0.3], nodeName: here, targetRef: {kind: Pod, name: kubia-c}, conditions: {ready: false}}
- {addresses: [10.1.0.4], nodeName: here, conditions: {ready: false, serving: true, terminating: true}}
";

const STICKY: &str = "
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  clusterIP: 127.96.0.11
  sessionAffinity: ClientIP
  ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sticky-1, labels: {kubernetes.io/service-name: sticky}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints: [{addresses: [10.2.0.1]}, {addresses: [10.2.0.2]}, {addresses: [10.2.0.3]}]
";

const OTHERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: weighted, annotations: {tidegate.io/balance: weighted, tidegate.io/weights: '10.3.0.1=3'}}
spec: {clusterIP: 127.96.0.12, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: weighted-1, labels: {kubernetes.io/service-name: weighted}}
addressType: IPv4
ports: [{name: '', port: 53, protocol: UDP}]
endpoints: [{addresses: [10.3.0.1]}, {addresses: [10.3.0.2]}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 127.96.0.13, ports: [{port: 80}], selector: {app: nobody}}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless-1, labels: {kubernetes.io/service-name: headless}}
addressType: IPv4
ports: [{name: '', port: 80}]
endpoints: [{addresses: [10.4.0.1], targetRef: {kind: Pod, name: db-0}}, {addresses: [10.4.0.2]}]
";

const INGRESSES: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  annotations:
    nginx.ingress.kubernetes.io/affinity: cookie
    nginx.ingress.kubernetes.io/affinity-mode: persistent
    nginx.ingress.kubernetes.io/session-cookie-name: route
spec:
  rules:
  - host: kubia.example.com
    http:
      paths:
      - {path: /shop, pathType: Prefix, backend: {service: {name: sticky, port: {number: 80}}}}
      - {path: /, pathType: Prefix, backend: {service: {name: sticky, port: {number: 80}}}}
      - {path: /wrong, pathType: Exact, backend: {service: {name: wrong, port: {number: 80}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: any}
spec:
  rules:
  - http:
      paths: [{path: /shop, pathType: Prefix, backend: {service: {name: kubia, port: {name: http}}}}]
  - host: '*.example.com'
    http:
      paths: [{path: /shop/cart, pathType: Exact, backend: {service: {name: nobody, port: {number: 80}}}}]
";

fn all() -> String {
    [PODS, STICKY, OTHERS, INGRESSES].join("---")
}

#[test]
fn a_cluster_ip_says_which_endpoints_are_left_out() {
    let expected = r"
 1. Frontend: 127.96.0.10:80/TCP is the ClusterIP of Service default/kubia:http.
 2. Traffic policy: internalTrafficPolicy is Cluster: endpoints on every node can be used.
 3. Endpoints: 2 of 4 can be used; left out: 10.1.0.3:8080 (kubia-c) is not ready, 10.1.0.4:8080 is terminating.

→ one of 2 endpoints: each is equally likely
   50.0 %  10.1.0.1:8080  kubia-a
   50.0 %  10.1.0.2:8080  kubia-b
";
    check(&all(), "tcp://127.96.0.10:80", &[], None, expected);
}

#[test]
fn a_load_balancer_asks_for_the_source_and_the_policy() {
    let expected = r"
 1. Frontend: 127.97.0.10:80/TCP is the LoadBalancer IP of Service default/kubia:http.
 2. Source ranges: only spec.loadBalancerSourceRanges (10.0.0.0/8) may come in; a client of theirs is assumed.
 3. Traffic policy: externalTrafficPolicy is Local: only endpoints on this node can be used.
 4. Endpoints: 1 of 4 can be used; left out: 10.1.0.2:8080 (kubia-b) is on node there, not on this one, 10.1.0.3:8080 (kubia-c) is not ready, 10.1.0.4:8080 is terminating.

→ this endpoint: it is the only one
  100.0 %  10.1.0.1:8080  kubia-a
";
    check(&all(), "tcp://127.97.0.10:80", &[], None, expected);
    let expected = r"
 1. Frontend: 127.97.0.10:80/TCP is the LoadBalancer IP of Service default/kubia:http.
 2. Source ranges: 192.0.2.1 is not within spec.loadBalancerSourceRanges (10.0.0.0/8).

→ refused: Service default/kubia:http does not let this client in: the connection is reset
";
    check(&all(), "tcp://127.97.0.10:80", &[], Some("192.0.2.1"), expected);
}

#[test]
fn the_node_itself_is_excepted_from_local() {
    let expected = r"
 1. Frontend: 127.0.0.1:30123/TCP is node port 30123 of Service default/kubia:http.
 2. Traffic policy: externalTrafficPolicy is Local, but the client is this node itself, which reaches all of the cluster.
 3. Endpoints: 2 of 4 can be used; left out: 10.1.0.3:8080 (kubia-c) is not ready, 10.1.0.4:8080 is terminating.

→ one of 2 endpoints: each is equally likely
   50.0 %  10.1.0.1:8080  kubia-a
   50.0 %  10.1.0.2:8080  kubia-b
";
    check(&all(), "tcp://127.0.0.1:30123", &[], Some("127.0.0.1"), expected);
}

#[test]
fn affinity_needs_to_know_the_client() {
    let expected = r"
 1. Frontend: 127.96.0.11:80/TCP is the ClusterIP of Service default/sticky.
 2. Traffic policy: internalTrafficPolicy is Cluster: endpoints on every node can be used.
 3. Endpoints: 3 of 3 can be used.
 4. Affinity: ClientIP: a client IP keeps its endpoint until it has opened no connection for 10800 s. Nothing is remembered for 192.0.2.1, so its address decides (rendezvous hashing): 10.2.0.1:8080, on every replica.

→ this endpoint: it follows from the client's address; others are tried only if it cannot be reached
  100.0 %  10.2.0.1:8080
";
    check(&all(), "tcp://127.96.0.11:80", &[], Some("192.0.2.1"), expected);
    let expected = r"
 1. Frontend: 127.96.0.11:80/TCP is the ClusterIP of Service default/sticky.
 2. Traffic policy: internalTrafficPolicy is Cluster: endpoints on every node can be used.
 3. Endpoints: 3 of 3 can be used.
 4. Affinity: ClientIP: a client IP keeps its endpoint until it has opened no connection for 10800 s. Which one follows from its address: say who asks with --from.

→ one of 3 endpoints: it follows from the client's address
   33.3 %  10.2.0.1:8080
   33.3 %  10.2.0.2:8080
   33.3 %  10.2.0.3:8080
";
    check(&all(), "tcp://127.96.0.11:80", &[], None, expected);
}

#[test]
fn weights_are_shares_and_without_endpoints_nothing_listens() {
    let expected = r"
 1. Frontend: 127.96.0.12:53/UDP is the ClusterIP of Service default/weighted.
 2. Traffic policy: internalTrafficPolicy is Cluster: endpoints on every node can be used.
 3. Endpoints: 2 of 2 can be used.

→ one of 2 endpoints: at random in proportion to tidegate.io/weights
   75.0 %  10.3.0.1:53
   25.0 %  10.3.0.2:53
";
    check(&all(), "udp://127.96.0.12:53", &[], None, expected);
    let expected = r"
 1. Frontend: 127.96.0.13:80/TCP is the ClusterIP of Service default/nobody.
 2. Traffic policy: internalTrafficPolicy is Cluster: endpoints on every node can be used.
 3. Endpoints: Service default/nobody has no endpoint at all: no Pod matches its selector, or nobody lists any.

→ refused: no endpoint of Service default/nobody is usable, so nothing listens
";
    check(&all(), "tcp://127.96.0.13:80", &[], None, expected);
}

#[test]
fn what_does_not_exist_has_a_nearest() {
    let expected = r"
 1. Frontend: nothing is served on 127.96.0.10:8080/TCP.
 2. Nearest: 127.96.0.10 answers on 80/TCP (default/kubia:http).

→ refused: nothing listens on 127.96.0.10:8080/TCP
";
    check(&all(), "tcp://127.96.0.10:8080", &[], None, expected);
    let expected = r"
 1. Frontend: nothing is served on 192.0.2.1:30123/TCP.
 2. Nearest: 30123 is a node port of Service default/kubia; node ports are answered on 127.0.0.1.

→ refused: nothing listens on 192.0.2.1:30123/TCP
";
    check(&all(), "tcp://192.0.2.1:30123", &[], None, expected);
    let expected = r"
 1. Frontend: nothing is served on 10.1.0.1:8080/TCP.
 2. Nearest: 10.1.0.1 is an endpoint of Service default/kubia:http itself: clients reach it without Tidegate.

→ refused: nothing listens on 10.1.0.1:8080/TCP
";
    check(&all(), "tcp://10.1.0.1:8080", &[], None, expected);
}

#[test]
fn names_are_looked_up_as_dns_does() {
    let expected = r"
 1. Name: Service default/alias is an ExternalName: an alias in DNS, with no proxying of any kind.

→ DNS answers a CNAME to example.com; the client connects there itself
";
    check(&all(), "tcp://alias.default:80", &[], None, expected);
    let expected = r"
 1. Name: Service default/headless has no ClusterIP (headless): no address of its own, and no proxying.

→ DNS answers the addresses of all 2 ready endpoints: 10.4.0.1 (db-0), 10.4.0.2; the client chooses one and connects to it itself
";
    check(&all(), "headless", &[], None, expected);
    let expected = r"
 1. Name: Service default/kubia is of type LoadBalancer; DNS answers with its ClusterIP 127.96.0.10.
 2. Frontend: 127.96.0.10:80/TCP is the ClusterIP of Service default/kubia:http.
 3. Traffic policy: internalTrafficPolicy is Cluster: endpoints on every node can be used.
 4. Endpoints: 2 of 4 can be used; left out: 10.1.0.3:8080 (kubia-c) is not ready, 10.1.0.4:8080 is terminating.

→ one of 2 endpoints: each is equally likely
   50.0 %  10.1.0.1:8080  kubia-a
   50.0 %  10.1.0.2:8080  kubia-b
";
    check(&all(), "kubia.default:http", &[], None, expected);
    let expected = r"
 1. Port: Service default/kubia has no port 1; it has 80/TCP (http).

→ refused: Service default/kubia has no port 1
";
    check(&all(), "kubia:1", &[], None, expected);
    let expected = r"
 1. Name: there is no Service shop/kubia, so DNS knows no such name; there is default/kubia.

→ refused: there is no Service shop/kubia
";
    check(&all(), "shop/kubia:1", &[], None, expected);
}

#[test]
fn a_session_begins_on_the_longest_prefix() {
    let expected = r"
 1. Host: there are rules for kubia.example.com by name.
 2. Path: /shop/cart is taken by Prefix /shop of Ingress default/web, the longest prefix that matches.
 3. Other rules: these match too, but come later: * Prefix /shop of Ingress default/any (a less specific host, to which nothing falls back), *.example.com Exact /shop/cart of Ingress default/any (a less specific host, to which nothing falls back), kubia.example.com Prefix / of Ingress default/web (shorter).
 4. Backend: the requests of this rule go to Service default/sticky:80.
 5. Endpoints: 3 of 3 can be used.
 6. Session cookie: the request has no cookie route: a session begins, and the answer sets the cookie.
 7. Finding: test.yaml:88: error[MissingService] Ingress default/web spec.rules[0].http.paths[2].backend.service.name: there is no Service default/wrong; requests are answered 503. Fix: Create the Service, or correct the name.

→ one of 3 endpoints: a new session is equally likely to begin on each
   33.3 %  10.2.0.1:8080
   33.3 %  10.2.0.2:8080
   33.3 %  10.2.0.3:8080
";
    check(&all(), "GET http://kubia.example.com/shop/cart", &[], None, expected);
    let expected = r"
 1. Host: there are rules for kubia.example.com by name.
 2. Path: /shop/cart is taken by Prefix /shop of Ingress default/web, the longest prefix that matches.
 3. Other rules: these match too, but come later: * Prefix /shop of Ingress default/any (a less specific host, to which nothing falls back), *.example.com Exact /shop/cart of Ingress default/any (a less specific host, to which nothing falls back), kubia.example.com Prefix / of Ingress default/web (shorter).
 4. Backend: the requests of this rule go to Service default/sticky:80.
 5. Endpoints: 3 of 3 can be used.
 6. Session cookie: route has the key abc, which is no endpoint's (any more): a session begins.
 7. Finding: test.yaml:88: error[MissingService] Ingress default/web spec.rules[0].http.paths[2].backend.service.name: there is no Service default/wrong; requests are answered 503. Fix: Create the Service, or correct the name.

→ one of 3 endpoints: a new session is equally likely to begin on each
   33.3 %  10.2.0.1:8080
   33.3 %  10.2.0.2:8080
   33.3 %  10.2.0.3:8080
";
    check(&all(), "GET http://kubia.example.com/shop/cart", &["Cookie: route=abc"], None, expected);
}

#[test]
fn a_missing_service_is_a_503_and_its_finding_is_shown() {
    let expected = r"
 1. Host: there are rules for kubia.example.com by name.
 2. Path: /wrong is taken by Exact /wrong of Ingress default/web.
 3. Other rules: these match too, but come later: kubia.example.com Prefix / of Ingress default/web (Exact comes first).
 4. Backend: the requests of this rule go to Service default/wrong:80.
 5. Finding: test.yaml:88: error[MissingService] Ingress default/web spec.rules[0].http.paths[2].backend.service.name: there is no Service default/wrong; requests are answered 503. Fix: Create the Service, or correct the name.

→ 503: default/wrong:80: there is no such Service
";
    check(&all(), "GET http://kubia.example.com/wrong", &[], None, expected);
    let expected = r"
 1. Host: no rule names a.example.com exactly; *.example.com takes it.
 2. Path: /shop/cart is taken by Exact /shop/cart of Ingress default/any.
 3. Other rules: these match too, but come later: * Prefix /shop of Ingress default/any (a less specific host, to which nothing falls back).
 4. Backend: the requests of this rule go to Service default/nobody:80.
 5. Endpoints: Service default/nobody has no endpoint at all: no Pod matches its selector, or nobody lists any.

→ 503: no endpoint of default/nobody:80 is ready
";
    check(&all(), "GET http://a.example.com/shop/cart", &[], None, expected);
}

#[test]
fn a_404_shows_the_paths_there_are() {
    let expected = r"
 1. Host: no rule names a.example.com exactly; *.example.com takes it.
 2. Path: none of the host's paths takes /shop, and it has no default backend; there are Exact /shop/cart.

→ 404: no rule for this host and path
";
    check(&all(), "GET http://a.example.com/shop", &[], None, expected);
    let expected = r"
 1. Host: no rule names other; the rules for every host take it.
 2. Path: none of the host's paths takes /, and it has no default backend; there are Prefix /shop.

→ 404: no rule for this host and path
";
    check(&all(), "GET http://other/", &[], None, expected);
}

#[test]
fn a_path_that_pods_read_in_two_ways_is_refused() {
    let expected = r"
 1. Host: there are rules for kubia.example.com by name.
 2. Path: / is taken by Prefix / of Ingress default/web, the longest prefix that matches.

→ 400: some pods read the path as /shop/.., which comes under another rule
";
    check(&all(), "GET http://kubia.example.com/shop/../", &[], None, expected);
    let normal = answer(&all(), "GET http://kubia.example.com/%73hop//x", &[], None).to_text();
    assert!(normal.contains("/shop/x is taken by Prefix /shop"), "{normal}");
}

#[test]
fn rules_for_every_host() {
    let expected = r"
 1. Host: no rule names other; the rules for every host take it.
 2. Path: /shop/x is taken by Prefix /shop of Ingress default/any, the longest prefix that matches.
 3. Backend: the requests of this rule go to Service default/kubia:80.
 4. Endpoints: 2 of 4 can be used; left out: 10.1.0.3:8080 (kubia-c) is not ready, 10.1.0.4:8080 is terminating.

→ one of 2 endpoints: one after the other
   50.0 %  10.1.0.1:8080  kubia-a
   50.0 %  10.1.0.2:8080  kubia-b
";
    check(&all(), "GET http://other/shop/x", &[], None, expected);
}

#[test]
fn a_cookie_that_is_known_pins() {
    let compiled = compiled(&all());
    let route = &compiled.snapshot.upstreams.iter().find(|upstream| upstream.cookie.is_some()).unwrap();
    let key = route.cookie.as_ref().unwrap().map.persistent_key(1).unwrap();
    let cookie = format!("Cookie: route={key}|other");
    let explanation = answer(&all(), "GET http://kubia.example.com/shop", &[&cookie], None);
    let said = explanation.steps.iter().find(|step| step.title == "Session cookie").unwrap();
    let expected =
        format!("route has the key {key}; 10.2.0.2:8080 gave it out. The cookie was written for another backend.");
    assert_eq!(said.detail, expected);
    let Outcome::Endpoints { candidates, sticky: true, .. } = explanation.outcome else { panic!("not pinned") };
    assert!(candidates[1].first);
}

#[test]
fn a_client_that_is_remembered_stays() {
    let compiled = compiled(&all());
    let frontend = "127.96.0.11:80".parse::<SocketAddr>().unwrap();
    let frontend = Frontend { ip: frontend.ip(), port: frontend.port(), protocol: Protocol::Tcp };
    let client = Client { ip: "192.0.2.1".parse().unwrap(), now: NOW };
    let target = compiled.snapshot.table.find(&frontend).unwrap();
    let Decision::Choose(set) = target.decide(&frontend, client.ip, &compiled.snapshot.table) else {
        panic!("refused")
    };
    set.chosen(client, EndpointIndex(0));
    let question = Question::parse("tcp://127.96.0.11:80", &[], Some(client.ip)).unwrap();
    let explanation = explain(&compiled.snapshot, &question, NOW);
    assert!(explanation.to_text().contains("192.0.2.1 had 10.2.0.1:8080 last"), "{}", explanation.to_text());
}

#[test]
fn json_is_for_programs() {
    let answer = answer(&all(), "udp://127.96.0.12:53", &[], None).to_json();
    assert_eq!(answer["question"], "udp://127.96.0.12:53");
    assert_eq!(answer["steps"][0]["title"], "Frontend");
    let first = serde_json::json!({ "address": "10.3.0.1:53", "pod": null, "share": 0.75, "first": false });
    assert_eq!(answer["outcome"]["candidates"][0], first);
    assert_eq!(answer["outcome"]["kind"], "endpoints");
}

const GUARDED: &str = "
apiVersion: v1
kind: Service
metadata:
  name: guarded
  annotations:
    tidegate.io/balance: BALANCE
    tidegate.io/max-failures: '2'
    tidegate.io/health-check: /healthz
spec: {clusterIP: 127.96.0.20, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: guarded-1, labels: {kubernetes.io/service-name: guarded}}
addressType: IPv4
ports: [{name: '', port: 8080}]
endpoints:
- {addresses: [10.5.0.1], targetRef: {kind: Pod, name: a}}
- {addresses: [10.5.0.2], targetRef: {kind: Pod, name: b}}
- {addresses: [10.5.0.3], targetRef: {kind: Pod, name: c}}
- {addresses: [10.5.0.4], targetRef: {kind: Pod, name: d}}
";

/// The Service above, with `b` ejected 4 s ago and `c` failing its check.
fn guarded(balance: &str) -> Compiled {
    let compiled = compiled(&GUARDED.replace("BALANCE", balance));
    assert_eq!(*compiled.snapshot.findings, []);
    let port = compiled.snapshot.table.ports().next().unwrap();
    let set = port.set(IpFamily::V4, TrafficPolicy::Cluster);
    let before = UnixMillis(NOW.0 - 4_000);
    assert_eq!([(), ()].map(|()| set.failed(EndpointIndex(1), before)), [false, true]);
    let probe = set.policy().probe.as_ref().unwrap();
    for _ in 0..3 {
        let _ = set.state(EndpointIndex(2)).set_probe(false, probe, NOW);
    }
    compiled
}

#[test]
fn who_is_left_out_for_its_failures_is_said_with_the_reason() {
    let question = Question::parse("tcp://127.96.0.20:80", &[], None).unwrap();
    let explanation = explain(&guarded("ewma").snapshot, &question, NOW).to_text();
    let expected = "
 3. Endpoints: 4 of 4 can be used.
 4. Health: 10.5.0.2:8080 (b) is ejected for 6 s more, as it failed too often in a row (tidegate.io/max-failures), \
10.5.0.3:8080 (c) fails its health check (tidegate.io/health-check).

→ one of 2 endpoints: of two drawn at random, the one that promises the shorter wait, by its latency of late and what it carries
   50.0 %  10.5.0.1:8080  a
   50.0 %  10.5.0.4:8080  d
";
    assert!(explanation.contains(expected.trim_start_matches('\n')), "{explanation}");
}

#[test]
fn when_all_are_left_out_none_is() {
    let compiled = guarded("round-robin");
    let set = compiled.snapshot.table.ports().next().unwrap().set(IpFamily::V4, TrafficPolicy::Cluster);
    let probe = set.policy().probe.as_ref().unwrap();
    for i in 0..12 {
        let _ = set.state(EndpointIndex(i % 4)).set_probe(false, probe, NOW);
    }
    let question = Question::parse("tcp://127.96.0.20:80", &[], None).unwrap();
    let text = explain(&compiled.snapshot, &question, NOW).to_text();
    assert!(text.contains("; as none is left, all are used all the same."), "{text}");
    assert!(
        text.contains("one of 4 endpoints: all are left out at present, which helps nobody, so any is used"),
        "{text}"
    );
}

#[test]
fn a_hash_of_the_client_is_told_for_a_client() {
    let compiled = guarded("hash");
    let asked = |from: Option<&str>| {
        let question = Question::parse("tcp://127.96.0.20:80", &[], from.map(|ip| ip.parse().unwrap())).unwrap();
        explain(&compiled.snapshot, &question, NOW)
    };
    let text = asked(Some("192.0.2.1")).to_text();
    assert!(text.contains("→ this endpoint: it follows from the client's address, 192.0.2.1"), "{text}");
    let Outcome::Endpoints { candidates, sticky: true, .. } = asked(None).outcome else { panic!("not sticky") };
    assert_eq!(candidates.iter().map(|candidate| candidate.share).collect::<Vec<_>>(), [0.5, 0.0, 0.0, 0.5]);
}
