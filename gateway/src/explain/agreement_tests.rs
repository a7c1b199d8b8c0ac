//! `explain` and the data plane are asked the same, and must say the same.

use std::{collections::BTreeSet, fmt::Write, net::IpAddr};

use http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;
use tidegate_l4::{
    endpoints::{Client, EndpointIndex, EndpointSet},
    model::Protocol,
    table::{self, Frontend},
};

use super::{tests::compiled, *};
use crate::http::{Decision, Facts, Scheme, decide};

/// One endpoint: is it on this node, is it hinted for its zone, and its conditions.
type EndpointPlan = (bool, bool, bool, bool);

/// One Service of a configuration.
#[derive(Clone, Debug)]
struct Plan {
    balance: usize,
    affinity: bool,
    local: bool,
    udp: bool,
    ranges: bool,
    endpoints: Vec<EndpointPlan>,
}

prop_compose! {
    fn plan()(
        balance in 0..6usize, affinity in any::<bool>(), local in any::<bool>(), udp in any::<bool>(), ranges in any::<bool>(),
        endpoints in prop::collection::vec(any::<EndpointPlan>(), 0..5),
    ) -> Plan {
        Plan { balance, affinity, local, udp, ranges, endpoints }
    }
}

fn manifests(plans: &[Plan]) -> String {
    let mut yaml =
        String::from("apiVersion: v1\nkind: Node\nmetadata: {name: here, labels: {topology.kubernetes.io/zone: z1}}\n");
    for (i, plan) in plans.iter().enumerate() {
        let balance = ["random", "round-robin", "least-in-flight", "weighted", "ewma", "hash"][plan.balance];
        let policy = if plan.local { "Local" } else { "Cluster" };
        let affinity = if plan.affinity { "ClientIP" } else { "None" };
        let protocol = if plan.udp { "UDP" } else { "TCP" };
        let ranges = if plan.ranges { "loadBalancerSourceRanges: [192.0.2.0/25], " } else { "" };
        let _ = write!(
            yaml,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{i}, annotations: {{tidegate.io/balance: {balance}, \
             tidegate.io/weights: 10.{i}.0.0=3, tidegate.io/max-failures: '1', tidegate.io/max-ejected: 100%}}}}\nspec: {{type: LoadBalancer, {ranges}clusterIP: 127.96.0.{ip}, \
             loadBalancerIP: 127.97.0.{ip}, internalTrafficPolicy: {policy}, externalTrafficPolicy: {policy}, \
             sessionAffinity: {affinity}, ports: [{{port: 80, nodePort: {node_port}, protocol: {protocol}}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: s{i}-1, labels: {{kubernetes.io/service-name: s{i}}}}}\naddressType: IPv4\n\
             ports: [{{name: '', port: 8080, protocol: {protocol}}}]\nendpoints:\n",
            ip = i + 10,
            node_port = 30_100 + i,
        );
        if plan.endpoints.is_empty() {
            yaml.push_str("  []\n");
        }
        for (n, (here, hinted, ready, terminating)) in plan.endpoints.iter().enumerate() {
            let node = if *here { "here" } else { "there" };
            let hints = if *hinted { ", hints: {forZones: [{name: z1}]}" } else { ", hints: {forZones: [{name: z2}]}" };
            let _ = writeln!(
                yaml,
                "- {{addresses: [10.{i}.0.{n}], nodeName: {node}{hints}, \
                 conditions: {{ready: {ready}, serving: true, terminating: {terminating}}}}}"
            );
        }
    }
    yaml
}

fn ask(snapshot: &Snapshot, target: &str, headers: &[String], from: Option<IpAddr>, now: UnixMillis) -> Outcome {
    let explanation = explain(snapshot, &Question::parse(target, headers, from).unwrap(), now);
    assert!(explanation.to_text().contains('→') && explanation.to_json()["outcome"]["kind"].is_string());
    explanation.outcome
}

/// The status code; 0 for a connection that is refused, and 200 where an endpoint is to answer.
fn kind(outcome: &Outcome) -> u16 {
    match outcome {
        Outcome::Refused { .. } => 0,
        Outcome::Status { code, .. } => *code,
        Outcome::Endpoints { .. } | Outcome::Dns { .. } => 200,
    }
}

/// The outcome names the endpoints of `set`, all of the choice is given away, and nobody is chosen who has no share.
fn agrees_with_set(
    outcome: &Outcome,
    set: &EndpointSet,
    first: impl Fn() -> EndpointIndex,
) -> Result<(), TestCaseError> {
    let Outcome::Endpoints { candidates, .. } = outcome else {
        return Err(TestCaseError::fail(format!("not endpoints: {outcome:?}")));
    };
    let explained: Vec<_> = candidates.iter().map(|candidate| candidate.addr).collect();
    let listed: Vec<_> = set.endpoints().iter().map(|endpoint| endpoint.addr).collect();
    prop_assert_eq!(explained, listed);
    prop_assert!((candidates.iter().map(|candidate| candidate.share).sum::<f64>() - 1.0).abs() < 1e-9);
    for _ in 0..20 {
        let chosen = &candidates[first().0];
        prop_assert!(chosen.share > 0.0);
        prop_assert!(chosen.first || candidates.iter().all(|candidate| !candidate.first));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn about_connections(
        plans in prop::collection::vec(plan(), 1..4), client in 0..3usize, remembered in any::<bool>(), time in 0..100_000_000u64,
        failed in prop::collection::vec(0..5usize, 0..5),
    ) {
        let compiled = compiled(&manifests(&plans));
        let snapshot = &*compiled.snapshot;
        let from: IpAddr = ["127.0.0.1", "192.0.2.7", "192.0.2.200"][client].parse().unwrap();
        let now = UnixMillis(time);
        let mut asked: BTreeSet<Frontend> = snapshot.table.frontends().map(|(frontend, _)| *frontend).collect();
        asked.insert(Frontend { ip: "127.96.0.10".parse().unwrap(), port: 81, protocol: Protocol::Tcp });
        for frontend in asked {
            let target = format!("{}://{}:{}", frontend.protocol.to_string().to_lowercase(), frontend.ip, frontend.port);
            let caller = Client { ip: from, now };
            let decision = snapshot.table.find(&frontend).map(|target| target.decide(&frontend, from, &snapshot.table));
            if let (true, Some(table::Decision::Choose(set))) = (remembered, &decision) {
                set.chosen(caller, EndpointIndex(set.len() - 1));
            }
            if let Some(table::Decision::Choose(set)) = &decision {
                for i in failed.iter().filter(|i| **i < set.len()) {
                    set.failed(EndpointIndex(*i), now);
                }
            }
            let outcome = ask(snapshot, &target, &[], Some(from), now);
            match decision {
                Some(table::Decision::Choose(set)) => {
                    agrees_with_set(&outcome, set, || set.candidates(caller).next().unwrap())?;
                }
                Some(table::Decision::Refuse(_)) | None => prop_assert_eq!(kind(&outcome), 0),
            }
            // Without a client there is an answer, too.
            ask(snapshot, &target, &[], None, now);
        }
    }

    #[test]
    fn about_requests(
        plans in prop::collection::vec(plan(), 1..3),
        rules in prop::collection::vec((0..4usize, 0..4usize, any::<bool>(), 0..4usize, 0..3usize), 0..8),
        cookie in 0..3usize, key in "[0-9a-f]{1,8}",
    ) {
        let plans: Vec<Plan> = plans.into_iter().map(|plan| Plan { udp: false, ..plan }).collect();
        let (hosts, paths) = (["a.example.com", "'*.example.com'", "", "b.c"], ["/", "/a", "/a/b", "/a/b/"]);
        let mut yaml = manifests(&plans);
        for (i, (host, path, exact, service, affinity)) in rules.iter().enumerate() {
            let host = if hosts[*host].is_empty() { String::new() } else { format!("host: {}, ", hosts[*host]) };
            let kind = if *exact { "Exact" } else { "Prefix" };
            let affinity = ["{}", "{nginx.ingress.kubernetes.io/affinity: cookie}", "{nginx.ingress.kubernetes.io/affinity: \
                cookie, nginx.ingress.kubernetes.io/affinity-mode: persistent}"][*affinity];
            let _ = write!(
                yaml,
                "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i{i}, annotations: {affinity}}}\n\
                 spec: {{rules: [{{{host}http: {{paths: [{{path: {}, pathType: {kind}, \
                 backend: {{service: {{name: s{service}, port: {{number: 80}}}}}}}}]}}}}]}}\n",
                paths[*path]
            );
        }
        let compiled = compiled(&yaml);
        let snapshot = &*compiled.snapshot;
        let keys = snapshot.upstreams.iter().filter_map(|upstream| upstream.cookie.as_ref()?.map.persistent_key(0));
        let value = match cookie {
            0 => None,
            1 => Some(key),
            _ => keys.map(str::to_owned).next(),
        };
        let cookie: Vec<String> = value.iter().map(|value| format!("cookie: INGRESSCOOKIE={value}|x")).collect();
        let pair = |value: &String| (header::COOKIE, HeaderValue::try_from(format!("INGRESSCOOKIE={value}|x")).unwrap());
        let headers: HeaderMap = value.iter().map(pair).collect();
        for host in ["a.example.com", "A.Example.com:80", "x.example.com", "b.c", "other"] {
            for path in ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab"] {
                let outcome = ask(snapshot, &format!("GET http://{host}{path}"), &cookie, None, UnixMillis(0));
                let uri: http::Uri = path.parse().unwrap();
                let facts = Facts {
                    method: &http::Method::GET,
                    uri: &uri,
                    headers: &headers,
                    host,
                    path,
                    scheme: Scheme::Http,
                    client: IpAddr::from([127, 0, 0, 1]),
                    port: 80,
                    https_port: Some(443),
                };
                match decide(snapshot, &facts, |_| 0) {
                    Decision::Health => prop_assert_eq!(kind(&outcome), 200),
                    Decision::NotFound { .. } => prop_assert_eq!(kind(&outcome), 404),
                    Decision::Unavailable { .. } => prop_assert_eq!(kind(&outcome), 503),
                    Decision::Forward { rule, upstream, pinned, hash, .. } => {
                        let set = &upstream.endpoints;
                        let order = || set.order(upstream.balance(hash), hash, UnixMillis(0));
                        let first = || pinned.unwrap_or_else(|| order().next().unwrap());
                        // A new session does not go by the balancer.
                        let new_session = upstream.cookie.is_some() && rule.issues_cookie && pinned.is_none();
                        agrees_with_set(&outcome, set, || if new_session { EndpointIndex(0) } else { first() })?;
                    }
                }
            }
        }
    }
}
