mod exposition;

use std::time::Duration;

use ::http::Version;
use tidegate_l4::{
    endpoints::EndpointIndex,
    model::{IpFamily, TrafficPolicy},
};

use self::exposition::parse;
use super::*;
use crate::{admin::fixture, http::ConnectionKind, route::stats::Ended};

fn state(snapshot: Option<Arc<Snapshot>>) -> AdminState {
    AdminState { access_log: Some(Arc::default()), nginx_metrics: true, ..fixture::state(snapshot, 2) }
}

fn ended(status: u16, took: Duration) -> Ended {
    Ended { status, version: Version::HTTP_11, took, first_byte: Some(took), bytes_in: 7, bytes_out: 70 }
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

/// Something of everything happens; what is given back goes on.
fn happen(state: &AdminState, snapshot: &Snapshot) -> impl Sized {
    state.runtime.set_configured(UNIX_EPOCH + Duration::from_millis(1_500));
    let port = snapshot.table.ports().find(|port| &*port.config.name.port == "http").unwrap();
    port.stats.mine().accepted.add(3);
    port.stats.mine().closed.add(1);
    port.stats.mine().bytes_in.add(10);
    port.stats.mine().affinity_hits.add(2);
    let set = port.set(IpFamily::V4, TrafficPolicy::Cluster);
    drop(set.state(EndpointIndex(0)).carry());
    let receipt = set.state(EndpointIndex(0)).carry();
    let stats = &state.http[0];
    stats.accepted.add(5);
    stats.unmatched.count(&ended(404, Duration::ZERO));
    let rule = snapshot.routes.find("kubia.example.com", "/").rule.unwrap();
    rule.stats.count(&ended(200, Duration::from_millis(20)));
    rule.stats.count(&Ended { version: Version::HTTP_2, ..ended(200, Duration::from_millis(1)) });
    rule.stats.count_connect(Duration::from_micros(300));
    state.http[1].accepted.add(2);
    state.http[1].closed.add(1);
    let open = state.http[1].open(ConnectionKind::Https);
    rule.stats.count(&ended(502, Duration::from_secs(60)));

    (receipt, open)
}

#[test]
fn everything_that_happened_is_counted() {
    let snapshot = fixture::snapshot(fixture::MANIFESTS);
    let state = state(Some(snapshot.clone()));
    let going_on = happen(&state, &snapshot);

    let samples = parse(&encode(&state));
    let http = r#"namespace="default",service="kubia",port="http",protocol="TCP""#;
    let https = r#"namespace="default",service="kubia",port="https",protocol="TCP""#;
    let kubia = r#"namespace="default",ingress="kubia",host="kubia.example.com",path="/",path_type="Prefix",service="kubia",port="80""#;
    let nginx = r#"controller_namespace="",controller_class="k8s.io/ingress-nginx",controller_pod="",namespace="default",ingress="kubia",service="kubia",host="kubia.example.com",path="/",method="",canary="""#;
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
        (format!("tidegate_http_requests_total{{{kubia},code=\"200\",protocol=\"HTTP/1.1\"}}"), 1.0),
        (format!("tidegate_http_requests_total{{{kubia},code=\"200\",protocol=\"HTTP/2\"}}"), 1.0),
        (format!("tidegate_http_requests_total{{{kubia},code=\"502\",protocol=\"HTTP/1.1\"}}"), 1.0),
        (format!("tidegate_http_requests_total{{{none},code=\"404\",protocol=\"HTTP/1.1\"}}"), 1.0),
        (format!("tidegate_http_request_duration_seconds_count{{{kubia}}}"), 3.0),
        (format!("tidegate_http_request_duration_seconds_sum{{{kubia}}}"), 60.021),
        (format!("tidegate_http_request_duration_seconds_bucket{{le=\"0.025\",{kubia}}}"), 2.0),
        (format!("tidegate_http_request_duration_seconds_bucket{{le=\"10.0\",{kubia}}}"), 2.0),
        (format!("tidegate_http_request_duration_seconds_bucket{{le=\"+Inf\",{kubia}}}"), 3.0),
        (format!("tidegate_http_first_byte_seconds_count{{{kubia}}}"), 3.0),
        (format!("tidegate_http_upstream_connect_seconds_bucket{{le=\"0.005\",{kubia}}}"), 1.0),
        (format!("tidegate_http_request_content_bytes_total{{{kubia}}}"), 21.0),
        (format!("tidegate_http_response_content_bytes_total{{{kubia}}}"), 210.0),
        (format!("nginx_ingress_controller_requests{{{nginx},status=\"200\"}}"), 2.0),
        (format!("nginx_ingress_controller_response_size_sum{{{nginx}}}"), 210.0),
        (format!("nginx_ingress_controller_request_duration_seconds_count{{{nginx}}}"), 3.0),
        ("nginx_ingress_controller_nginx_process_connections_total{state=\"accepted\"}".to_owned(), 7.0),
        ("tidegate_http_connections_total".to_owned(), 7.0),
        ("tidegate_http_connections_open".to_owned(), 6.0),
        ("tidegate_worker_http_connections_total{worker=\"0\"}".to_owned(), 5.0),
        ("tidegate_worker_http_connections_open{worker=\"1\"}".to_owned(), 1.0),
        ("tidegate_http_connections_open_by_kind{kind=\"https\"}".to_owned(), 1.0),
        ("tidegate_http_connections_by_kind_total{kind=\"h2\"}".to_owned(), 0.0),
        ("tidegate_access_log_dropped_total".to_owned(), 0.0),
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
    drop(going_on);
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
    snapshot.routes.rules().for_each(|rule| rule.stats.count(&ended(503, Duration::ZERO)));
    let samples = parse(&encode(&state(Some(snapshot))));
    assert!(samples.keys().any(|series| series.contains(r#",path="/a\"b\\c\nd","#)), "{samples:#?}");
}

/// Everything that can be shown at once is one text with one end, and nothing in it comes twice.
#[test]
fn names_of_ingress_nginx_are_there_when_asked_for() {
    let mut state = state(None);
    let has = |state: &AdminState| parse(&encode(state)).keys().any(|series| series.starts_with("nginx_"));
    assert!(has(&state));
    state.nginx_metrics = false;
    assert!(!has(&state));
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_is_measured() {
    let samples = parse(&encode(&state(None)));
    for name in ["process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_threads"] {
        assert!(samples[name] > 0.0, "{name}");
    }
    assert!(samples.contains_key("process_cpu_seconds_total") && samples["process_start_time_seconds"] > 1.6e9);
}
