use super::*;
use crate::admin::{
    RuntimeStatus, fixture,
    view::{EndpointView, PortView},
};

/// 5 days and 3 hours after the objects of the fixture were made.
const NOW: i64 = 1_704_067_200 + 5 * 86_400 + 3 * 3_600;

fn view() -> ConfigView {
    let runtime = RuntimeStatus::default();
    runtime.set_http(([0, 0, 0, 0], 8080).into());
    ConfigView::new(&fixture::snapshot(fixture::MANIFESTS), &runtime)
}

fn service(namespace: &str, name: &str, kind: &str) -> ServiceView {
    ServiceView { namespace: namespace.into(), name: name.into(), kind: kind.into(), ..ServiceView::default() }
}

#[test]
fn services_as_kubectl_prints_them() {
    let expected = "\
NAME               TYPE           CLUSTER-IP    EXTERNAL-IP       PORT(S)                      AGE
external-service   ExternalName   <none>        api.example.com   <none>                       <unknown>
kubia              NodePort       127.96.0.10   <none>            80:30123/TCP,443:30124/TCP   5d3h
kubia-headless     ClusterIP      None          <none>            80/TCP                       <unknown>
";
    assert_eq!(services_at(&view(), false, NOW), expected);
}

#[test]
fn wide_services_have_their_selector_and_namespaces_show_when_there_are_several() {
    let pending = ServiceView {
        pending: true,
        cluster_ips: vec!["127.96.0.1".into(), "fd00::1".into()],
        selector: [("app".to_owned(), "a".to_owned()), ("tier".to_owned(), "b".to_owned())].into(),
        ports: vec![PortView { port: 53, protocol: "UDP".into(), ..PortView::default() }],
        ..service("blue", "lb", "LoadBalancer")
    };
    let given = ServiceView {
        cluster_ips: vec!["127.96.0.2".into()],
        external: vec!["127.97.0.1".into(), "fd00::97:1".into()],
        created: Some(NOW - 90),
        ..service("green", "lb", "LoadBalancer")
    };
    let view = ConfigView { services: vec![pending, given], ..ConfigView::default() };
    let expected = "\
NAMESPACE   NAME   TYPE           CLUSTER-IP   EXTERNAL-IP             PORT(S)   AGE         SELECTOR
blue        lb     LoadBalancer   127.96.0.1   <pending>               53/UDP    <unknown>   app=a,tier=b
green       lb     LoadBalancer   127.96.0.2   127.97.0.1,fd00::97:1   <none>    90s         <none>
";
    assert_eq!(services_at(&view, true, NOW), expected);
    assert!(services_at(&view, false, NOW).contains("   127.97.0.1,fd...   "));
}

#[test]
fn endpoints_as_kubectl_prints_them() {
    let expected = "\
NAME             ENDPOINTS                                               AGE
kubia            10.0.0.1:8080,10.0.0.2:8080,10.0.0.1:8443 + 1 more...   5d3h
kubia-headless   <none>                                                  <unknown>
";
    assert_eq!(endpoints_at(&view(), false, NOW), expected);
    let endpoint = |ready| EndpointView { address: "[fd00::1]:80".into(), ready, ..EndpointView::default() };
    let port = PortView { endpoints: vec![endpoint(true), endpoint(false)], ..PortView::default() };
    let view = ConfigView {
        services: vec![ServiceView { ports: vec![port], created: Some(NOW), ..service("a", "b", "ClusterIP") }],
        ..ConfigView::default()
    };
    assert_eq!(endpoints_at(&view, false, NOW), "NAME   ENDPOINTS      AGE\nb      [fd00::1]:80   0s\n");
}

#[test]
fn endpoints_that_are_not_chosen_are_marked_and_explained() {
    let endpoint =
        |last: u8| EndpointView { address: format!("10.0.0.{last}:80"), ready: true, ..EndpointView::default() };
    let ejected = EndpointView { ejected_seconds: Some(8), health_check: Some("failing".into()), ..endpoint(1) };
    let failing = EndpointView { health_check: Some("failing".into()), ..endpoint(2) };
    let well = EndpointView { health_check: Some("passing".into()), ..endpoint(3) };
    let starting = EndpointView { slow_start_percent: Some(40), ..endpoint(4) };
    let port = PortView { endpoints: vec![ejected, failing, well.clone(), starting], ..PortView::default() };
    let quiet = ServiceView {
        ports: vec![PortView { endpoints: vec![well], ..PortView::default() }],
        ..service("a", "quiet", "ClusterIP")
    };
    let services = vec![ServiceView { ports: vec![port], ..service("a", "b", "ClusterIP") }, quiet];
    let view = ConfigView { services, ..ConfigView::default() };
    let expected = "\
NAME    ENDPOINTS                                                            AGE         HEALTH
b       10.0.0.1:80(ejected),10.0.0.2:80(failing),10.0.0.3:80 + 1 more...   <unknown>   10.0.0.1:80 ejected for 8s, 10.0.0.2:80 fails its health check, 10.0.0.4:80 has 40% of its share
quiet   10.0.0.3:80                                                          <unknown>   OK
";
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&endpoints_at(&view, true, NOW)), words(expected));
}

#[test]
fn ingresses_as_kubectl_prints_them() {
    let expected = "\
NAME    CLASS   HOSTS               ADDRESS     PORTS     AGE
kubia   nginx   kubia.example.com   127.0.0.1   80, 443   <unknown>
";
    assert_eq!(ingresses_at(&view(), false, NOW), expected);
    let hosts = ["*", "a", "b", "c", "d"].map(str::to_owned).to_vec();
    let many = IngressView { name: "x".into(), hosts, ..IngressView::default() };
    let any = IngressView { name: "y".into(), hosts: vec!["*".into()], ..IngressView::default() };
    let view = ConfigView { ingresses: vec![many, any], ..ConfigView::default() };
    let expected = "\
NAME   CLASS    HOSTS               ADDRESS   PORTS   AGE
x      <none>   a,b,c + 2 more...             80      <unknown>
y      <none>   *                             80      <unknown>
";
    assert_eq!(ingresses_at(&view, false, NOW), expected);
}

#[test]
fn nothing_to_print() {
    let empty = ConfigView::default();
    for table in [services(&empty, false), endpoints(&empty, false), ingresses(&empty, true)] {
        assert_eq!(table, "No resources found\n");
    }
    assert_eq!(json(&empty, Table::Services), "{\n  \"items\": []\n}\n");
}

#[test]
fn json_has_the_rows_of_the_view() {
    let items = |table| serde_json::from_str::<Value>(&json(&view(), table)).unwrap()["items"].clone();
    let services = items(Table::Services);
    assert_eq!(services[1]["name"], "kubia");
    assert_eq!(services[1]["clusterIPs"][0], "127.96.0.10");
    assert_eq!(services[1]["ports"][0]["nodePort"], 30123);
    assert_eq!(serde_json::from_value::<Vec<ServiceView>>(services).unwrap(), view().services);
    let endpoints = items(Table::Endpoints);
    assert_eq!(endpoints.as_array().unwrap().len(), 2);
    assert_eq!(endpoints[0]["ports"][1]["endpoints"][0]["address"], "10.0.0.1:8443");
    assert_eq!(items(Table::Ingresses)[0]["rules"][0]["cookie"]["name"], "INGRESSCOOKIE");
}

#[test]
fn ages_as_apimachinery_writes_them() {
    let (minute, hour, day) = (60, 3_600, 86_400);
    for (seconds, expected) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (2 * minute, "2m"),
        (9 * minute + 59, "9m59s"),
        (10 * minute + 1, "10m"),
        (3 * hour - 1, "179m"),
        (3 * hour, "3h"),
        (7 * hour + 59 * minute, "7h59m"),
        (47 * hour + 59 * minute, "47h"),
        (2 * day, "2d"),
        (5 * day + 3 * hour, "5d3h"),
        (8 * day + 3 * hour, "8d"),
        (729 * day, "729d"),
        (730 * day, "2y"),
        (731 * day, "2y1d"),
        (8 * 365 * day + day, "8y"),
    ] {
        assert_eq!(human(seconds), expected, "{seconds}");
    }
    assert_eq!(age(Some(i64::MIN), i64::MAX), human(i64::MAX));
    assert_eq!(age(Some(i64::MAX), 0), "<invalid>");
}
