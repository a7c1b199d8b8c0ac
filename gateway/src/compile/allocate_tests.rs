use std::path::Path;

use super::*;
use crate::compile::objects::Objects;

fn objects(yaml: &str) -> Objects {
    let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), yaml);
    assert_eq!(parsed.problems, []);
    let mut objects = Objects::default();
    for document in parsed.documents {
        objects.apply(document);
    }
    objects
}

fn service(name: &str, spec: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
}

fn run(yaml: &str, settings: &Settings, held: &Allocations) -> Allocated {
    allocate(&objects(yaml), settings, held)
}

fn of<'a>(allocated: &'a Allocated, name: &str) -> &'a Addresses {
    &allocated.addresses[&Name::new("default", name)]
}

fn reasons(allocated: &Allocated) -> Vec<&'static str> {
    allocated.findings.iter().map(|finding| finding.reason).collect()
}

const LB: &str = "type: LoadBalancer, ports: [{port: 80}]";

#[test]
fn the_same_manifests_get_the_same_addresses_and_a_newcomer_moves_nobody() {
    let three: String = ["a", "b", "c"].map(|name| service(name, LB)).concat();
    let settings = Settings { load_balancer_pools: vec!["127.97.0.0/29".parse().unwrap()], ..Settings::default() };
    let first = run(&three, &settings, &Allocations::default());
    let again = run(&three, &settings, &Allocations::default());
    assert_eq!(first.addresses, again.addresses);
    assert_eq!(reasons(&first), [""; 0]);
    // A pool of six is full of collisions; whoever was there before keeps what it had.
    let five = three + &["0", "x"].map(|name| service(&format!("n{name}"), LB)).concat();
    let second = run(&five, &settings, &first.allocations);
    for name in ["a", "b", "c"] {
        assert_eq!(of(&second, name), of(&first, name));
    }
    let mut ips: Vec<_> = second.addresses.values().flat_map(|a| a.load_balancer_ips.clone()).collect();
    ips.sort_unstable();
    ips.dedup();
    assert_eq!(ips.len(), 5);
}

#[test]
fn explicit_values_are_honoured_and_of_two_the_older_wins() {
    let old = "apiVersion: v1\nkind: Service\nmetadata: {name: z, creationTimestamp: \"2020-01-01T00:00:00Z\"}\n\
               spec: {type: NodePort, clusterIP: 127.96.7.7, ports: [{port: 80, nodePort: 30123}]}\n";
    let young = service("a", "type: NodePort, clusterIP: 127.96.7.7, ports: [{port: 80, nodePort: 30123}]");
    let udp = service("u", "type: NodePort, ports: [{port: 80, nodePort: 30123, protocol: UDP}]");
    let allocated = run(&format!("{old}{young}{udp}"), &Settings::default(), &Allocations::default());
    assert_eq!(of(&allocated, "z").cluster_ips, ["127.96.7.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(of(&allocated, "z").node_ports, [Some(30123)]);
    assert_eq!(of(&allocated, "u").node_ports, [Some(30123)], "UDP has numbers of its own");
    assert_eq!((of(&allocated, "a").cluster_ips.len(), &of(&allocated, "a").node_ports[..]), (0, &[None][..]));
    assert_eq!(reasons(&allocated), ["ClusterIpConflict", "NodePortConflict"]);
    assert_eq!(allocated.findings[1].line, 9, "the finding points at the field");
}

#[test]
fn a_pool_that_is_empty_leaves_the_service_pending_but_a_node_port() {
    let settings = Settings { load_balancer_pools: vec!["127.97.0.1/32".parse().unwrap()], ..Settings::default() };
    let allocated = run(&["a", "b"].map(|name| service(name, LB)).concat(), &settings, &Allocations::default());
    let pending: Vec<bool> = ["a", "b"].map(|name| of(&allocated, name).pending).to_vec();
    assert_eq!(pending.iter().filter(|p| **p).count(), 1);
    assert!(["a", "b"].iter().all(|name| of(&allocated, name).node_ports[0].is_some()));
    assert_eq!(reasons(&allocated), ["LoadBalancerPending"]);
}

#[test]
fn node_ports_are_within_the_range_and_only_for_those_who_have_them() {
    let many: String = (0..40).map(|n| service(&format!("s{n}"), "type: NodePort, ports: [{port: 80}]")).collect();
    let others = service("c", "ports: [{port: 80}]")
        + &service("l", "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]")
        + &service("h", "clusterIP: None, ports: [{port: 80}]")
        + &service("e", "type: ExternalName, externalName: example.com")
        + &service("bad", "type: NodePort, ports: [{port: 80, nodePort: 80}]");
    let allocated = run(&(many + &others), &Settings::default(), &Allocations::default());
    let ports: std::collections::BTreeSet<u16> =
        (0..40).map(|n| of(&allocated, &format!("s{n}")).node_ports[0].unwrap()).collect();
    assert_eq!(ports.len(), 40);
    assert!(ports.iter().all(|port| NODE_PORTS.contains(port)));
    for name in ["c", "l", "bad"] {
        assert_eq!(of(&allocated, name).node_ports, [None], "{name}");
    }
    assert!(of(&allocated, "h").cluster_ips.is_empty() && of(&allocated, "e").cluster_ips.is_empty());
    assert_eq!(reasons(&allocated), ["NodePortOutOfRange"]);
}

#[test]
fn dual_stack_follows_the_policy() {
    let cidrs = ["127.96.0.0/16", "fd00:96::/112"].map(|net| net.parse().unwrap()).to_vec();
    let settings = Settings { service_cidrs: cidrs, ..Settings::default() };
    let yaml = service("single", "ports: [{port: 80}]")
        + &service("dual", "ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]")
        + &service("six", "ipFamilies: [IPv6], ports: [{port: 80}]")
        + &service("sixfour", "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4], ports: [{port: 80}]");
    let allocated = run(&yaml, &settings, &Allocations::default());
    let families = |name: &str| of(&allocated, name).cluster_ips.iter().map(IpAddr::is_ipv6).collect::<Vec<_>>();
    assert_eq!(families("single"), [false]);
    assert_eq!(families("dual"), [false, true]);
    assert_eq!(families("six"), [true]);
    assert_eq!(families("sixfour"), [true, false]);
    let single = run(
        &service("x", "ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]"),
        &Settings::default(),
        &Allocations::default(),
    );
    assert_eq!(reasons(&single), ["NoSecondFamily"]);
    assert_eq!(of(&single, "x").cluster_ips.len(), 1);
}

#[test]
fn unreadable_addresses_are_findings() {
    let yaml = service("a", "clusterIP: 1.2.3, ports: [{port: 80}]")
        + &service("b", "type: LoadBalancer, loadBalancerIP: x, ports: [{port: 80}]");
    let allocated = run(&yaml, &Settings::default(), &Allocations::default());
    assert_eq!(reasons(&allocated), ["InvalidClusterIp", "InvalidLoadBalancerIp"]);
    assert!(of(&allocated, "b").pending && of(&allocated, "b").load_balancer_ips.is_empty());
}

#[test]
fn a_load_balancer_with_local_endpoints_has_a_health_check_port_of_its_own() {
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]";
    let yaml = service("a", local)
        + &service("b", &format!("allocateLoadBalancerNodePorts: false, {local}"))
        + &service("explicit", &format!("healthCheckNodePort: 30005, {local}"))
        + &service("cluster", LB)
        + &service("node-port", "type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80}]");
    let first = run(&yaml, &Settings::default(), &Allocations::default());
    let ports = ["a", "b", "explicit"].map(|name| of(&first, name).health_check_port.unwrap());
    assert!(ports.iter().all(|port| NODE_PORTS.contains(port)));
    assert_eq!(ports[2], 30_005);
    let others = first.addresses.values().flat_map(|addresses| addresses.node_ports.iter().flatten());
    let all: std::collections::BTreeSet<u16> = ports.iter().chain(others).copied().collect();
    assert_eq!(all.len(), 3 + 4, "no two share a number: a, explicit, cluster and node-port have node ports too");
    assert_eq!((of(&first, "cluster").health_check_port, of(&first, "node-port").health_check_port), (None, None));
    assert_eq!(of(&first, "b").node_ports, [None]);
    assert_eq!(reasons(&first), [""; 0]);

    // Whoever was there before keeps the number, even where a newcomer would begin.
    let mut held = Allocations::default();
    held.health_check_ports.insert(Name::new("default", "b"), ports[0]);
    let second = run(&yaml, &Settings::default(), &held);
    assert_eq!(of(&second, "b").health_check_port, Some(ports[0]));
    assert_ne!(of(&second, "a").health_check_port, Some(ports[0]));
    let third = run(&yaml, &Settings::default(), &second.allocations);
    assert_eq!(third.addresses, second.addresses);
}

#[test]
fn health_check_ports_that_cannot_be_had_or_are_not_used_are_findings() {
    let local = "type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]";
    let yaml = service("a", "type: NodePort, ports: [{port: 80, nodePort: 30001}]")
        + &service("b", &format!("healthCheckNodePort: 30001, {local}"))
        + &service("c", &format!("healthCheckNodePort: 30002, {local}"))
        + &service("d", "type: NodePort, ports: [{port: 80, nodePort: 30002}]")
        + &service("e", &format!("healthCheckNodePort: 80, {local}"))
        + &service("f", &format!("healthCheckNodePort: 30003, {LB}"))
        + &service("g", "type: NodePort, ports: [{port: 80, protocol: UDP, nodePort: 30002}]");
    let allocated = run(&yaml, &Settings::default(), &Allocations::default());
    let found: Vec<String> = allocated
        .findings
        .iter()
        .map(|finding| format!("{} {} {}", finding.reason, finding.field.as_deref().unwrap_or(""), finding.message))
        .collect();
    assert_eq!(
        found,
        [
            "NodePortConflict spec.healthCheckNodePort node port 30001/TCP belongs to Service default/a already.",
            "NodePortConflict spec.ports[0].nodePort node port 30002/TCP belongs to Service default/c already.",
            "NodePortOutOfRange spec.healthCheckNodePort 80 is outside the node port range 30000-32767.",
            "UnusedHealthCheckNodePort spec.healthCheckNodePort only a LoadBalancer with externalTrafficPolicy Local is \
             health-checked; the port is not used.",
        ]
    );
    for name in ["a", "b", "d", "e", "f", "g"] {
        assert_eq!(of(&allocated, name).health_check_port, None, "{name}");
    }
}

/// In a cluster everything is given by somebody else, and what is not there yet is not made up.
#[test]
fn a_clusters_addresses_are_taken_as_they_are() {
    let given = "type: LoadBalancer, clusterIP: 10.96.0.7, loadBalancerIP: 192.0.2.9, loadBalancerClass: other/one, \
                 ports: [{port: 80, nodePort: 30001}]";
    let status = "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: lb.example.com}]}}\n";
    let yaml = service("given", given) + status + &service("pending", LB) + &service("new", "ports: [{port: 80}]");
    let settings = Settings { addresses: AddressSource::Cluster, ..Settings::default() };
    let allocated = run(&yaml, &settings, &Allocations::default());
    let ips = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
    let expected = Addresses {
        cluster_ips: ips(&["10.96.0.7"]),
        load_balancer_ips: ips(&["192.0.2.1"]),
        pending: false,
        node_ports: vec![Some(30_001)],
        health_check_port: None,
    };
    assert_eq!(*of(&allocated, "given"), expected);
    assert_eq!(*of(&allocated, "pending"), Addresses { pending: true, node_ports: vec![None], ..Addresses::default() });
    assert_eq!(*of(&allocated, "new"), Addresses { node_ports: vec![None], ..Addresses::default() });
    assert_eq!(reasons(&allocated), ["OtherLoadBalancerClass", "NoLoadBalancerClass"]);
}
