use std::{fmt::Write, time::Duration};

use tidegate_l4::{
    model::{Protocol, ServicePortName},
    table::Frontend,
};

use super::*;
use crate::{
    admin::fixture,
    route::stats::Ended,
    tls::tests::support::{Ca, ingress, snapshot as tls_snapshot, tls_secret},
};

fn state() -> AdminState {
    fixture::state(None, 2)
}

fn look(snapshot: &Snapshot, filter: &str) -> LiveView {
    LiveView::new(&state(), snapshot, &Filter::new(filter), SystemTime::now())
}

fn names(view: &LiveView) -> Vec<&str> {
    view.services.iter().map(|service| &*service.name).collect()
}

/// So many Services with five pods each, and an Ingress of its own that has a rule with a backend that does not exist.
fn many(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let endpoints: String = (1..=5)
            .map(|e| {
                format!(
                    "{{addresses: [10.{}.{}.{e}], targetRef: {{kind: Pod, name: pod-{n}-{e}}}}}, ",
                    n / 250,
                    n % 250
                )
            })
            .collect();
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web-{n}}}\nspec: {{clusterIP: 127.{}.{}.10, ports: [{{port: 80}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-{n}, labels: {{kubernetes.io/service-name: web-{n}}}}}\n\
             addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{endpoints}]\n\
             ---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web-{n}}}\nspec:\n  ingressClassName: nginx\n  rules:\n  \
             - host: web-{n}.example.com\n    http:\n      paths:\n      \
             - {{path: /, pathType: Prefix, backend: {{service: {{name: web-{n}, port: {{number: 80}}}}}}}}\n      \
             - {{path: /gone, pathType: Prefix, backend: {{service: {{name: gone-{n}, port: {{number: 80}}}}}}}}",
            100 + n / 250,
            n % 250
        )
        .unwrap();
    }
    text
}

#[test]
fn everything_of_a_small_cluster_is_shown_as_config_shows_it() {
    let (state, snapshot) = (state(), fixture::snapshot(fixture::MANIFESTS));
    state.runtime.set_http(([127, 0, 0, 1], 8080).into());
    let all = crate::admin::view::ConfigView::new(&snapshot, &state.runtime);
    let now = state.runtime.started() + Duration::from_secs(90);
    let view = LiveView::new(&state, &snapshot, &Filter::default(), now);
    assert_eq!((&view.services, view.services_total), (&all.services, 3));
    assert_eq!((&view.ingresses, view.ingresses_total), (&all.ingresses, 1));
    assert_eq!((&view.other_rules, view.findings_total), (&all.other_rules, all.findings.len()));
    assert!(view.findings.iter().all(|finding| all.findings.contains(finding)));
    assert!(
        view.findings.len() > 1
            && view.findings[0].severity == "error"
            && view.findings.last().unwrap().severity != "error"
    );
    assert_eq!((view.uptime_seconds, view.generation, view.draining), (90, 1, false));
    assert_eq!(view.time, now.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64);
}

#[test]
fn a_filter_takes_names_hosts_and_pods_in_upper_and_lower_case() {
    let snapshot = fixture::snapshot(fixture::MANIFESTS);
    for (filter, services, ingresses) in [
        ("", 3, 1),
        ("KUBIA", 2, 1),
        (" kubia-h ", 1, 0),
        ("default", 3, 1),
        ("default/kubia", 2, 1),
        ("fault/EX", 1, 0),
        ("default/ubia", 0, 0),
        ("Kubia-A", 1, 0),
        ("Kubia.Example", 0, 1),
        ("nowhere", 0, 0),
    ] {
        let view = look(&snapshot, filter);
        assert_eq!((view.services_total, view.ingresses_total), (services, ingresses), "{filter}");
        assert_eq!((view.services.len(), view.ingresses.len()), (services, ingresses), "{filter}");
    }
    assert_eq!(names(&look(&snapshot, "external")), ["external-service"]);
    let gone = look(&snapshot, "gone");
    assert!(gone.findings.iter().any(|finding| finding.reason == "MissingService"), "it is named in the message");
    assert!(look(&snapshot, "nowhere").findings.is_empty() && !look(&snapshot, "default/kubia").findings.is_empty());
}

#[test]
fn a_view_of_a_large_cluster_is_small_and_made_of_what_is_shown_only() {
    let count = 10_000;
    let (few, large) = (fixture::snapshot(&many(MAX_ROWS)), fixture::snapshot(&many(count)));
    let view = look(&large, "");
    assert_eq!((view.services.len(), view.services_total), (MAX_ROWS, count));
    assert_eq!((view.ingresses.len(), view.ingresses_total), (MAX_ROWS, count));
    assert_eq!(view.findings.len(), MAX_ROWS);
    assert!(view.findings_total >= count && view.other_rules.is_empty());
    assert!(view.ingresses.iter().all(|ingress| ingress.rules.len() == 2));
    let bytes = serde_json::to_vec(&view).unwrap().len();
    assert!(bytes < 1 << 20, "{bytes}");
    // What is not shown costs a look, and nothing is made for it.
    let made = |snapshot: &Snapshot| {
        let (state, filter) = (state(), Filter::default());
        let make = || drop(LiveView::new(&state, snapshot, &filter, SystemTime::now()));
        make();
        allocation_counter::measure(make).count_total
    };
    let (for_few, for_all) = (made(&few), made(&large));
    assert!(for_all < for_few + for_few / 20, "{for_all} allocations, {for_few} for a fifth of the Services");
    let begun = std::time::Instant::now();
    drop(look(&large, ""));
    let unfiltered = begun.elapsed();
    let one = look(&large, "pod-9999-3");
    println!(
        "a view of {count} Services: {unfiltered:?} and {bytes} bytes; of a pod: {:?}",
        begun.elapsed() - unfiltered
    );
    assert_eq!((names(&one), one.services_total, one.ingresses_total), (vec!["web-9999"], 1, 0));
}

#[test]
fn endpoints_and_rules_share_a_budget_and_what_is_left_out_is_said() {
    let mut text = "apiVersion: v1\nkind: Service\nmetadata: {name: wide}\nspec: {ports: [{port: 80}]}\n---\n\
        apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: wide-1, labels: {kubernetes.io/service-name: wide}}\n\
        addressType: IPv4\nports: [{port: 8080}]\nendpoints:\n"
        .to_owned();
    let endpoints = MAX_ENDPOINTS + 500;
    (0..endpoints).for_each(|n| writeln!(text, "- {{addresses: [10.1.{}.{}]}}", n / 250, n % 250 + 1).unwrap());
    text += "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: wide}\nspec:\n  ingressClassName: nginx\n  rules:\n";
    for n in 0..50 {
        writeln!(text, "  - host: h{n}.example.com\n    http:\n      paths:").unwrap();
        for path in 0..50 {
            let service = "{service: {name: wide, port: {number: 80}}}";
            writeln!(text, "      - {{path: /{path}, pathType: Exact, backend: {service}}}").unwrap();
        }
    }
    let snapshot = fixture::snapshot(&text);
    let view = look(&snapshot, "wide");
    let port = &view.services[0].ports[0];
    assert_eq!((port.endpoints.len(), port.endpoints_left_out), (MAX_ENDPOINTS, 500));
    let ingress = &view.ingresses[0];
    assert_eq!((ingress.rules.len(), ingress.rules_left_out, ingress.hosts.len()), (MAX_RULES, 500, MAX_HOSTS));
    assert!(ingress.rules.is_sorted_by_key(|rule| (rule.host.clone(), rule.path.clone())));
}

#[test]
fn totals_are_of_everything_whatever_the_filter() {
    let (state, snapshot) = (state(), fixture::snapshot(fixture::MANIFESTS));
    let ended = Ended {
        status: 200,
        version: http::Version::HTTP_11,
        took: Duration::from_millis(30),
        first_byte: None,
        bytes_in: 0,
        bytes_out: 0,
    };
    snapshot.routes.rules().next().unwrap().stats.count(&ended);
    state.http[0].unmatched.count(&Ended { status: 404, ..ended });
    state.http.iter().for_each(|worker| worker.requests.add(2));
    state.http[1].ended.add(1);
    state.http[0].bytes_in.add(100);
    let name = |port: &str| ServicePortName {
        namespace: "default".into(),
        service: "kubia".into(),
        port: port.into(),
        protocol: Protocol::Tcp,
    };
    let counters = snapshot.table.port(&name("http")).unwrap().stats.clone();
    counters.mine().accepted.add(3);
    counters.mine().closed.add(1);
    counters.mine().bytes_in.add(10);
    counters.mine().bytes_out.add(20);
    let view = LiveView::new(&state, &snapshot, &Filter::new("nowhere"), SystemTime::now());
    let expected = TotalsView {
        l4_accepted: 3,
        l4_open: 2,
        requests: 4,
        requests_under_way: 3,
        http_connections: 0,
        answers: [(200, 1), (404, 1)].into(),
        bytes_in: 110,
        bytes_out: 20,
        tail_skipped: 0,
    };
    assert_eq!(view.totals, expected);
    let view = LiveView::new(&state, &snapshot, &Filter::default(), SystemTime::now());
    let latency: Vec<_> = view.ingresses[0].rules.iter().map(|rule| rule.latency.buckets.iter().sum::<u64>()).collect();
    assert_eq!(latency.iter().sum::<u64>(), 1);
    assert!(view.ingresses[0].rules.iter().all(|rule| rule.latency.buckets.len() == 12));
}

#[test]
fn only_time_that_passes_is_no_news() {
    let (state, snapshot) = (state(), fixture::snapshot(fixture::MANIFESTS));
    let look = |at: SystemTime| LiveView::new(&state, &snapshot, &Filter::default(), at);
    let now = state.runtime.started();
    let (mut before, after) = (look(now), look(now + Duration::from_secs(5)));
    assert_ne!(before, after);
    assert!(!after.differs_from(&mut before));
    state.http[0].requests.add(1);
    assert!(look(now).differs_from(&mut before));
}

#[test]
fn certificates_come_by_their_end_and_without_their_keys() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("a", &ca.leaf(&["a.com", "*.foo.com"]))
        + &ingress("a", &[], "[{secretName: a}]", &["a.com", "b.foo.com"]);
    let snapshot = tls_snapshot(&manifests);
    let view = look(&snapshot, "");
    let [certificate] = &view.certificates[..] else { panic!("{:?}", view.certificates) };
    assert_eq!((&*certificate.secret, certificate.not_after, view.certificates_total), ("default/a", 4_102_444_800, 1));
    assert!(certificate.hosts.contains(&"a.com".to_owned()) && certificate.not_before < certificate.not_after);
    let text = serde_json::to_string(&view).unwrap();
    assert!(!text.contains("PRIVATE KEY") && !text.contains("BEGIN CERTIFICATE"), "{text}");
    assert_eq!((look(&snapshot, "A.COM").certificates_total, look(&snapshot, "other").certificates_total), (1, 0));
}

#[test]
fn what_could_not_be_opened_is_listed_and_the_first_finding() {
    let (state, snapshot) = (state(), fixture::snapshot(fixture::MANIFESTS));
    let failed = BindFailed {
        frontend: Frontend { ip: [127, 96, 0, 10].into(), port: 80, protocol: Protocol::Tcp },
        service: "default/kubia:http".to_owned(),
        object: None,
        message: "cannot listen on 127.96.0.10:80".to_owned(),
        fix: "Stop what listens there".to_owned(),
    };
    state.runtime.set_listening(Vec::new(), vec![failed]);
    let look = |filter| LiveView::new(&state, &snapshot, &Filter::new(filter), SystemTime::now());
    let view = look("kubia:http");
    assert_eq!((view.listeners_failed.len(), &*view.findings[0].reason), (1, "CannotListen"));
    assert_eq!((view.findings_total, look("nowhere").listeners_failed.len()), (1, 0));
}
