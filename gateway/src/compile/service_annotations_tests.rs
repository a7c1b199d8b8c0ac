use tidegate_crd::{Kind, Origin};

use super::*;

fn read(annotations: &[(&str, &str)]) -> (ServiceOptions, Vec<&'static str>) {
    let mut service = Service::default();
    let pairs = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
    service.metadata.annotations = Some(pairs.collect());
    let origin = Origin::synthetic("test");
    let mut report = Report::on(Kind::Service, "default", "test", &origin);
    let options = ServiceOptions::read(&service, &mut report);
    (options, report.into_findings().into_iter().map(|finding| finding.reason).collect())
}

fn policy(annotations: &[(&str, &str)]) -> EndpointPolicy {
    let (options, findings) = read(annotations);
    assert_eq!(findings, [""; 0], "{annotations:?}");
    options.policy
}

#[test]
fn the_rows_are_sorted_and_each_name_stands_once() {
    assert!(ROWS.windows(2).all(|pair| pair[0].name < pair[1].name));
}

#[test]
fn nothing_is_on_by_default_and_requests_go_in_turns() {
    let (options, findings) = read(&[]);
    assert_eq!((&options.policy, findings), (&EndpointPolicy::default(), vec![]));
    assert_eq!((options.balance, options.policy.request_balance), (Balance::Random, Balance::RoundRobin));
    assert!(options.policy.ejection.is_none() && options.policy.probe.is_none());
}

#[test]
fn every_rule_of_choice_is_for_connections_and_requests() {
    for (word, balance) in [
        ("random", Balance::Random),
        ("round-robin", Balance::RoundRobin),
        ("least-in-flight", Balance::LeastInFlight),
        ("ewma", Balance::Ewma),
        ("weighted", Balance::Weighted),
        ("hash", Balance::Hash),
    ] {
        let (options, findings) = read(&[("balance", word)]);
        assert_eq!((options.balance, options.policy.request_balance, findings), (balance, balance, vec![]));
    }
}

#[test]
fn any_word_on_ejection_turns_it_on_and_0_turns_it_off() {
    let usual = Ejection::default();
    let second = Duration::from_secs(1);
    assert_eq!(policy(&[("max-failures", "3")]).ejection, Some(Ejection { max_failures: 3, ..usual }));
    assert_eq!(policy(&[("ejection-time", "1s")]).ejection, Some(Ejection { time: second, ..usual }));
    assert_eq!(policy(&[("max-ejected", "30%")]).ejection, Some(Ejection { max_share: 30, ..usual }));
    assert_eq!(policy(&[("max-ejected", "30")]).ejection, Some(Ejection { max_share: 30, ..usual }));
    assert_eq!(policy(&[("ejection-time", "1s"), ("max-failures", "0")]).ejection, None);
}

#[test]
fn a_health_check_is_a_probe_with_the_defaults_of_a_kubelet() {
    let probe = |annotations: &[(&str, &str)]| policy(annotations).probe.map(Arc::unwrap_or_clone).unwrap();
    assert_eq!(probe(&[("health-check", "tcp")]), Probe::new(Question::Tcp));
    let all = [
        ("health-check", "/healthz?full=1"),
        ("health-check-port", "8081"),
        ("health-check-interval", "2s"),
        ("health-check-timeout", "500ms"),
        ("health-check-healthy", "2"),
        ("health-check-unhealthy", "4"),
    ];
    let expected = Probe {
        question: Question::Http { path: "/healthz?full=1".into() },
        port: Some(8081),
        interval: Duration::from_secs(2),
        timeout: Duration::from_millis(500),
        healthy: 2,
        unhealthy: 4,
    };
    assert_eq!(probe(&all), expected);
    let (options, findings) = read(&all[1..]);
    assert_eq!((options.policy.probe, findings), (None, vec!["UnusedHealthCheck"]), "nothing says what to ask");
}

#[test]
fn slow_start_and_limits() {
    let policy = policy(&[("slow-start", "30s"), ("max-in-flight", "100"), ("max-pending", "10")]);
    assert_eq!(policy.slow_start, Duration::from_secs(30));
    assert_eq!((policy.admission.max_in_flight, policy.admission.max_pending), (Some(100), Some(10)));
}

#[test]
fn a_bad_value_is_reported_and_has_its_default() {
    for (name, value) in [
        ("balance", "ip_hash"),
        ("ejection-time", "0s"),
        ("ejection-time", "99999999999y"),
        ("health-check", "healthz"),
        ("health-check", "/a b"),
        ("health-check", "/a\r\nx: y"),
        ("health-check", "/ä"),
        ("max-ejected", "0%"),
        ("max-ejected", "101%"),
        ("max-failures", "-1"),
        ("max-in-flight", "0"),
        ("max-pending", "many"),
        ("slow-start", "30"),
        ("slow-start", "365d"),
    ] {
        let (options, findings) = read(&[(name, value)]);
        assert_eq!(findings, ["InvalidAnnotation"], "{name}: {value}");
        assert_eq!(options, ServiceOptions::default(), "{name}: {value}");
    }
    for (name, value) in [
        ("health-check-healthy", "0"),
        ("health-check-interval", "10ms"),
        ("health-check-port", "0"),
        ("health-check-port", "http"),
        ("health-check-timeout", "0s"),
        ("health-check-unhealthy", "x"),
    ] {
        let (options, findings) = read(&[("health-check", "tcp"), (name, value)]);
        assert_eq!(findings, ["InvalidAnnotation"], "{name}: {value}");
        assert_eq!(options.policy, policy(&[("health-check", "tcp")]), "{name}: {value}");
    }
}
