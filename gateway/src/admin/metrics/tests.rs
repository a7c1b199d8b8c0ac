use std::{collections::BTreeMap, collections::BTreeSet, time::Duration};

use serde_json::Value;
use tidegate_l4::{
    endpoints::EndpointIndex,
    model::{IpFamily, TrafficPolicy},
};
use tokio::sync::watch;

use super::*;
use crate::admin::fixture;

fn state(snapshot: Option<Arc<Snapshot>>) -> AdminState {
    AdminState {
        snapshot: watch::channel(snapshot).1,
        runtime: Arc::default(),
        http: Some(Arc::default()),
        explain: |_, _| Ok(Value::Null),
    }
}

/// Reads the format strictly: families do not mix, each has its help and type once before its samples, and no series comes
/// twice. Gives back the samples as written.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let (mut helped, mut family, mut kind) = (String::new(), String::new(), String::new());
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.insert(name.to_owned()), "twice: {name}");
            assert!(name.starts_with("tidegate_") && help.ends_with('.'), "{line}");
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            (family, kind) = rest.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
            assert_eq!(helped, family);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line} in family {family}"));
            let suffixes: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_sum", "_count", "_bucket"],
                other => panic!("{other}"),
            };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(samples.insert(series.to_owned(), value.parse().unwrap()).is_none(), "twice: {series}");
        }
    }
    samples
}

#[test]
fn a_process_without_configuration_has_metrics_too() {
    let samples = parse(&encode(&state(None)));
    assert_eq!(samples["tidegate_build_info{version=\"0.1.0\"}"], 1.0);
    assert_eq!(samples["tidegate_listeners{state=\"failed\"}"], 0.0);
    assert!(samples["tidegate_start_time_seconds"] > 1.6e9);
    assert!(!samples.contains_key("tidegate_config_generation"));
    assert_eq!(samples["tidegate_http_failures_total{kind=\"no_rule\"}"], 0.0);
}

#[test]
fn everything_that_happened_is_counted() {
    let snapshot = fixture::snapshot(fixture::MANIFESTS);
    let state = state(Some(snapshot.clone()));
    state.runtime.set_configured(UNIX_EPOCH + Duration::from_millis(1_500));
    let port = snapshot.table.ports().find(|port| &*port.config.name.port == "http").unwrap();
    port.stats.accepted.add(3);
    port.stats.closed.add(1);
    port.stats.bytes_in.add(10);
    port.stats.affinity_hits.add(2);
    let set = port.set(IpFamily::V4, TrafficPolicy::Cluster);
    drop(set.state(EndpointIndex(0)).carry());
    let receipt = set.state(EndpointIndex(0)).carry();
    let stats = state.http.as_ref().unwrap();
    stats.accepted.add(5);
    stats.unmatched.count(404, Duration::ZERO);
    let rule = snapshot.routes.find("kubia.example.com", "/").rule.unwrap();
    rule.stats.count(200, Duration::from_millis(20));
    rule.stats.count(502, Duration::from_secs(60));

    let samples = parse(&encode(&state));
    let http = r#"namespace="default",service="kubia",port="http",protocol="TCP""#;
    let https = r#"namespace="default",service="kubia",port="https",protocol="TCP""#;
    let kubia = r#"namespace="default",ingress="kubia",host="kubia.example.com",path="/",path_type="Prefix",service="kubia",port="80""#;
    let none = r#"namespace="",ingress="",host="",path="",path_type="",service="",port="""#;
    for (series, value) in [
        (format!("tidegate_connections_total{{{http}}}"), 3.0),
        (format!("tidegate_connections_total{{{https}}}"), 0.0),
        (format!("tidegate_connections_open{{{http}}}"), 2.0),
        (format!("tidegate_received_bytes_total{{{http}}}"), 10.0),
        (format!("tidegate_affinity_hits_total{{{http}}}"), 2.0),
        (format!("tidegate_affinity_entries{{{http}}}"), 0.0),
        (format!("tidegate_endpoints_eligible{{{http}}}"), 2.0),
        (format!("tidegate_endpoint_picks_total{{{http},endpoint=\"10.0.0.1:8080\"}}"), 2.0),
        (format!("tidegate_endpoint_in_flight{{{http},endpoint=\"10.0.0.1:8080\"}}"), 1.0),
        (format!("tidegate_http_requests_total{{{kubia},code=\"200\"}}"), 1.0),
        (format!("tidegate_http_requests_total{{{kubia},code=\"502\"}}"), 1.0),
        (format!("tidegate_http_requests_total{{{none},code=\"404\"}}"), 1.0),
        (format!("tidegate_http_request_duration_seconds_count{{{kubia}}}"), 2.0),
        (format!("tidegate_http_request_duration_seconds_sum{{{kubia}}}"), 60.02),
        (format!("tidegate_http_request_duration_seconds_bucket{{le=\"0.025\",{kubia}}}"), 1.0),
        (format!("tidegate_http_request_duration_seconds_bucket{{le=\"10.0\",{kubia}}}"), 1.0),
        (format!("tidegate_http_request_duration_seconds_bucket{{le=\"+Inf\",{kubia}}}"), 2.0),
        ("tidegate_http_connections_total".to_owned(), 5.0),
        ("tidegate_config_generation".to_owned(), 1.0),
        ("tidegate_config_last_change_seconds".to_owned(), 1.5),
        ("tidegate_findings{severity=\"error\"}".to_owned(), 1.0),
        ("tidegate_objects{kind=\"Service\"}".to_owned(), 3.0),
        ("tidegate_left_out{kind=\"endpoint\"}".to_owned(), 0.0),
        ("tidegate_left_out{kind=\"http_rule\"}".to_owned(), 0.0),
    ] {
        assert_eq!(samples.get(&series), Some(&value), "{series} in {samples:#?}");
    }
    assert!(!samples.keys().any(|series| series.contains("10.0.0.2")), "an endpoint nobody used has no series");
    drop(receipt);
}

#[test]
fn ejection_health_checks_and_limits_have_metrics_where_a_service_asks_for_them() {
    let kubia = "metadata: {name: kubia, creationTimestamp";
    let annotations = "{tidegate.io/max-failures: '1', tidegate.io/health-check: tcp, tidegate.io/max-in-flight: '1'}";
    let manifests =
        fixture::MANIFESTS.replacen(kubia, &kubia.replace("name:", &format!("annotations: {annotations}, name:")), 1);
    let snapshot = fixture::snapshot(&manifests);
    let port = snapshot.table.ports().find(|port| &*port.config.name.port == "http").unwrap();
    let set = port.set(IpFamily::V4, TrafficPolicy::Cluster);
    let (now, probe) = (tidegate_l4::worker::now(), set.policy().probe.as_ref().unwrap());
    assert!(set.failed(EndpointIndex(0), now));
    drop(set.state(EndpointIndex(0)).carry());
    for _ in 0..3 {
        let _ = set.state(EndpointIndex(1)).set_probe(false, probe, now);
    }
    let _place = set.admit().unwrap();
    assert!(set.admit().is_err());

    let samples = parse(&encode(&state(Some(snapshot))));
    let http = r#"namespace="default",service="kubia",port="http",protocol="TCP""#;
    let [a, b] = [1, 2].map(|last| format!("{{{http},endpoint=\"10.0.0.{last}:8080\"}}"));
    for (series, value) in [
        (format!("tidegate_endpoint_ejected{a}"), Some(1.0)),
        (format!("tidegate_endpoint_ejections_total{a}"), Some(1.0)),
        (format!("tidegate_endpoint_ejected{b}"), Some(0.0)),
        (format!("tidegate_endpoint_healthy{b}"), Some(0.0)),
        (format!("tidegate_endpoint_healthy{a}"), None),
        (format!("tidegate_turned_away_total{{{http}}}"), Some(1.0)),
    ] {
        assert_eq!(samples.get(&series).copied(), value, "{series} in {samples:#?}");
    }
}

#[test]
fn labels_are_escaped() {
    let snapshot = fixture::snapshot(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: odd}
spec:
  ingressClassName: nginx
  rules:
  - http: {paths: [{path: "/a\"b\\c\nd", pathType: ImplementationSpecific, backend: {service: {name: x, port: {number: 80}}}}]}
"#,
    );
    snapshot.routes.rules().for_each(|rule| rule.stats.count(503, Duration::ZERO));
    let samples = parse(&encode(&state(Some(snapshot))));
    assert!(samples.keys().any(|series| series.contains(r#",path="/a\"b\\c\nd","#)), "{samples:#?}");
}
