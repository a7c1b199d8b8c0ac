use std::time::Duration;

use super::*;
use crate::{
    affinity::UnixMillis,
    endpoints::{Client, Standing},
    model::{Balance, Conditions, ConnectionOptions, Endpoint, Hints},
    policy::{Ejection, EndpointPolicy},
};

fn endpoint(addr: &str, node: &str, conditions: Conditions) -> Endpoint {
    let (hints, node) = (Hints::default(), Some(Arc::from(node)));
    Endpoint { addr: addr.parse().unwrap(), conditions, node, zone: None, hints, weight: 1, pod: None }
}

fn port(name: &str, endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort {
        name: ServicePortName {
            namespace: "default".into(),
            service: name.into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        node_port: Some(30080),
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00:96::1".parse().unwrap()],
        load_balancer_ips: vec!["10.97.0.1".parse().unwrap()],
        external_ips: vec![],
        source_ranges: vec![],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        balance: Balance::Random,
        policy: EndpointPolicy::default(),
        connection: ConnectionOptions::default(),
        endpoints: endpoints.into(),
    }
}

const NOT_READY: Conditions = Conditions { ready: false, serving: false, terminating: false };

const NODE: &str = "192.168.0.1";
const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

fn build(ports: impl IntoIterator<Item = ServicePort>, previous: Option<&ServiceTable>) -> ServiceTable {
    let place = Place { node: "here".into(), zone: None };
    ServiceTable::build(ports.into_iter().map(Arc::new), &[NODE.parse().unwrap()], &place, previous)
}

fn frontend(ip: &str, port: u16) -> Frontend {
    Frontend { ip: ip.parse().unwrap(), port, protocol: Protocol::Tcp }
}

fn chosen(table: &ServiceTable, frontend: Frontend, client: IpAddr) -> Result<Vec<String>, Refusal> {
    match table.find(&frontend).expect("a frontend").decide(&frontend, client, table) {
        Decision::Choose(set) => Ok(set.endpoints().iter().map(|e| e.addr.to_string()).collect()),
        Decision::Refuse(refusal) => Err(refusal),
    }
}

/// Endpoint `i` is in another condition.
fn conditions(port: &mut ServicePort, i: usize, conditions: Conditions) {
    Arc::make_mut(&mut port.endpoints)[i].conditions = conditions;
}

#[test]
fn a_load_balancer_is_also_a_node_port_and_a_cluster_ip_and_families_stay_apart() {
    let two = vec![
        endpoint("10.0.0.1:8080", "here", Conditions::READY),
        endpoint("[fd00::1]:8080", "here", Conditions::READY),
    ];
    let table = build([port("web", two)], None);
    for f in [frontend("10.96.0.1", 80), frontend("10.97.0.1", 80), frontend(NODE, 30080)] {
        assert_eq!(chosen(&table, f, FAR).unwrap(), ["10.0.0.1:8080"]);
    }
    assert_eq!(chosen(&table, frontend("fd00:96::1", 80), FAR).unwrap(), ["[fd00::1]:8080"]);
    assert!(table.find(&frontend("10.96.0.1", 30080)).is_none());
    assert_eq!(table.listening().count(), 4);
}

#[test]
fn without_any_endpoint_nothing_listens() {
    let gone = Conditions { ready: false, serving: false, terminating: true };
    let table = build([port("web", vec![endpoint("10.0.0.1:8080", "here", gone)])], None);
    assert_eq!(table.listening().count(), 0);
    assert_eq!(chosen(&table, frontend("10.96.0.1", 80), FAR), Err(Refusal::NoEndpoints));
}

#[test]
fn external_local_serves_strangers_locally_and_this_node_from_everywhere() {
    let elsewhere = endpoint("10.0.0.2:8080", "there", Conditions::READY);
    let mut web = port("web", vec![endpoint("10.0.0.1:8080", "here", Conditions::READY), elsewhere.clone()]);
    web.external_policy = TrafficPolicy::Local;
    let table = build([web.clone()], None);
    assert_eq!(chosen(&table, frontend(NODE, 30080), FAR).unwrap(), ["10.0.0.1:8080"]);
    assert_eq!(chosen(&table, frontend(NODE, 30080), NODE.parse().unwrap()).unwrap().len(), 2);
    assert_eq!(chosen(&table, frontend("10.96.0.1", 80), FAR).unwrap().len(), 2, "not for the ClusterIP");
    web.endpoints = [elsewhere].into();
    let table = build([web], None);
    assert_eq!(chosen(&table, frontend(NODE, 30080), FAR), Err(Refusal::NoLocalEndpoints));
    assert_eq!(chosen(&table, frontend(NODE, 30080), NODE.parse().unwrap()).unwrap().len(), 1);
}

#[test]
fn internal_local_without_a_local_endpoint_does_not_listen() {
    let mut web = port("web", vec![endpoint("10.0.0.2:8080", "there", Conditions::READY)]);
    web.internal_policy = TrafficPolicy::Local;
    let table = build([web], None);
    assert_eq!(chosen(&table, frontend("10.96.0.1", 80), FAR), Err(Refusal::NoLocalEndpoints));
    assert!(table.listening().all(|(_, kind)| kind != FrontendKind::ClusterIp));
}

#[test]
fn source_ranges_guard_the_load_balancer_ip_alone() {
    let mut web = port("web", vec![endpoint("10.0.0.1:8080", "here", Conditions::READY)]);
    web.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let table = build([web.clone()], None);
    let stranger: IpAddr = "203.0.113.9".parse().unwrap();
    let mapped: IpAddr = "::ffff:198.51.100.7".parse().unwrap();
    assert!(chosen(&table, frontend("10.97.0.1", 80), FAR).is_ok());
    assert!(chosen(&table, frontend("10.97.0.1", 80), mapped).is_ok());
    assert_eq!(chosen(&table, frontend("10.97.0.1", 80), stranger), Err(Refusal::SourceRange));
    assert!(chosen(&table, frontend(NODE, 30080), stranger).is_ok());
    assert!(chosen(&table, frontend("10.96.0.1", 80), stranger).is_ok());
    web.source_ranges = vec!["2001:db8::/32".parse().unwrap()];
    let table = build([web], None);
    assert_eq!(chosen(&table, frontend("10.97.0.1", 80), stranger), Err(Refusal::SourceRange));
}

#[test]
fn the_first_of_two_wins_a_frontend_and_the_conflict_is_reported() {
    let ready = || vec![endpoint("10.0.0.1:8080", "here", Conditions::READY)];
    let mut second = port("second", ready());
    second.cluster_ips = vec![];
    second.load_balancer_ips = vec![];
    let ports = [port("first", ready()), second].map(Arc::new);
    let table = ServiceTable::build(ports, &[NODE.parse().unwrap()], &Place::default(), None);
    assert_eq!(table.conflicts().len(), 1);
    assert_eq!(&*table.conflicts()[0].loser.service, "second");
    assert_eq!(&*table.find(&frontend(NODE, 30080)).unwrap().port.config.name.service, "first");
}

#[test]
fn an_unchanged_port_is_taken_over_and_a_changed_one_inherits() {
    let mut web = port("web", vec![endpoint("10.0.0.1:8080", "here", Conditions::READY)]);
    web.affinity = Affinity::ClientIp { timeout: Duration::from_secs(60) };
    let (place, shared) = (Place { node: "here".into(), zone: None }, Arc::new(web.clone()));
    let first = ServiceTable::build([shared.clone()], &[], &place, None);
    let second = ServiceTable::build([shared.clone()], &[], &place, Some(&first));
    let name = &shared.name;
    assert!(Arc::ptr_eq(first.port(name).unwrap(), second.port(name).unwrap()));
    let set = second.port(name).unwrap().set(IpFamily::V4, TrafficPolicy::Cluster).clone();
    let client = Client { ip: FAR, now: UnixMillis(0) };
    set.chosen(client, crate::endpoints::EndpointIndex(0));
    second.port(name).unwrap().stats.mine().accepted.add(1);

    let new = endpoint("10.0.0.9:8080", "here", Conditions::READY);
    web.endpoints = [new].into_iter().chain(web.endpoints.iter().cloned()).collect();
    let third = build([web.clone()], Some(&second));
    let served = third.port(name).unwrap();
    assert_eq!(served.stats.sum(|port| &port.accepted), 1);
    let kept = served.set(IpFamily::V4, TrafficPolicy::Cluster).remembered(client);
    assert_eq!(kept, Some(crate::endpoints::EndpointIndex(1)));

    web.endpoints = web.endpoints.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, e)| e.clone()).collect();
    let fourth = build([web], Some(&third));
    assert_eq!(fourth.port(name).unwrap().affinity_entries(), 0, "its endpoint left");
}

#[test]
fn udp_flows_end_only_when_another_endpoint_could_take_over() {
    let mut dns = port("dns", vec![endpoint("10.0.0.1:53", "here", Conditions::READY)]);
    dns.name.protocol = Protocol::Udp;
    let draining = Conditions { ready: false, serving: true, terminating: true };
    let (gone, next) = ("10.0.0.9:53".parse().unwrap(), "10.0.0.1:53".parse().unwrap());
    let served = |port: &ServicePort| build([port.clone()], None).port(&port.name).unwrap().clone();
    assert!(served(&dns).keeps_flow(next) && !served(&dns).keeps_flow(gone));
    conditions(&mut dns, 0, draining);
    assert!(served(&dns).keeps_flow(next), "a terminating endpoint that still serves keeps its flows");
    dns.endpoints = [].into();
    assert!(served(&dns).keeps_flow(gone), "with nothing to take over, the flow is left alone");
}

#[test]
fn what_a_port_begins_with_is_warm_and_what_comes_later_starts_slowly() {
    let (a, b) = ("10.0.0.1:80", "10.0.0.2:80");
    let mut web = port("web", vec![endpoint(a, "here", Conditions::READY), endpoint(b, "here", NOT_READY)]);
    web.policy.slow_start = Duration::from_secs(60);
    let first = build([web.clone()], None);
    conditions(&mut web, 1, Conditions::READY);
    let second = build([web.clone()], Some(&first));
    let standing = |table: &ServiceTable, i| {
        let set = table.ports().next().unwrap().set(IpFamily::V4, TrafficPolicy::Cluster).clone();
        set.standing(crate::endpoints::EndpointIndex(i), UnixMillis(1_000_000))
    };
    assert_eq!(standing(&first, 0), Standing::InUse);
    assert_eq!(standing(&second, 0), Standing::InUse);
    assert_eq!(standing(&second, 1), Standing::SlowStart { share: 0.0 });

    // From nothing to two: there is nobody to take the rest of their shares. Nor is one of them still ejected.
    web.policy.ejection = Some(Ejection { max_failures: 1, ..Ejection::default() });
    let second = build([web.clone()], Some(&second));
    let set = second.ports().next().unwrap().set(IpFamily::V4, TrafficPolicy::Cluster).clone();
    assert!(set.failed(crate::endpoints::EndpointIndex(0), UnixMillis(999_000)));
    assert!(matches!(standing(&second, 0), Standing::Ejected { .. }));
    (0..2).for_each(|i| conditions(&mut web, i, NOT_READY));
    let none = build([web.clone()], Some(&second));
    (0..2).for_each(|i| conditions(&mut web, i, Conditions::READY));
    let both = build([web], Some(&none));
    assert_eq!([0, 1].map(|i| standing(&both, i)), [Standing::InUse; 2]);
}
