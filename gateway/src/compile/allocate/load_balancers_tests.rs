//! Which LoadBalancer has which address: on a laptop, and in a cluster where the leader writes what is decided here.

use std::{fmt::Write, path::Path};

use proptest::prelude::*;

use super::*;

const POOL: &str = "{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: edge}, \
                    spec: {addresses: [192.0.2.0/29, 2001:db8::1-2001:db8::6]}}\n";

const OURS: &str = "loadBalancerClass: tidegate.io/load-balancer";

/// A LoadBalancer: its name, annotations, more of its spec, and the addresses in its status.
fn balancer(name: &str, annotations: &str, spec: &str, status: &[&str]) -> String {
    let points: Vec<String> = status.iter().map(|ip| format!("{{ip: {ip:?}, ipMode: Proxy}}")).collect();
    let conditions = if status.is_empty() {
        String::new()
    } else {
        format!(
            ", conditions: [{{type: {}, status: 'True', reason: Assigned, message: m, lastTransitionTime: '2026-01-01T00:00:00Z'}}]",
            load_balancer::SERVICE_CONDITION
        )
    };
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, annotations: {{{annotations}}}}}, \
         spec: {{type: LoadBalancer, {spec}, ports: [{{port: 80}}]}}, \
         status: {{loadBalancer: {{ingress: [{}]}}{conditions}}}}}\n",
        points.join(", ")
    )
}

fn objects(yaml: &str) -> Objects {
    let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), yaml);
    assert_eq!(parsed.problems, [], "{yaml}");
    let mut objects = Objects::default();
    for document in parsed.documents {
        objects.apply(document);
    }
    objects
}

fn cluster() -> Settings {
    Settings { addresses: AddressSource::Cluster, ..Settings::default() }
}

fn in_cluster(yaml: &str) -> Allocated {
    allocate(&objects(yaml), &cluster(), &Allocations::default())
}

/// The addresses that are to be written, and the reason beside them.
fn wanted(allocated: &Allocated, name: &str) -> (Vec<String>, String) {
    let found = allocated.load_balancers.services.iter().find(|status| &*status.name.name == name);
    let status = found.unwrap_or_else(|| panic!("nothing is to be written of {name}"));
    let ips = status.addresses.iter().map(|(ip, _)| ip.to_string()).collect();
    (ips, status.verdict.as_ref().map(|verdict| verdict.reason.clone()).unwrap_or_default())
}

fn ips(allocated: &Allocated, name: &str) -> Vec<String> {
    wanted(allocated, name).0
}

fn found(allocated: &Allocated) -> Vec<String> {
    let line = |finding: &Finding| {
        let name = finding.object.as_ref().map(|object| object.name.to_string()).unwrap_or_default();
        format!("{} {name}: {}", finding.reason, finding.message)
    };
    allocated.findings.iter().map(line).collect()
}

#[test]
fn a_service_of_our_class_gets_an_address_and_others_are_left_alone() {
    let yaml = POOL.to_owned()
        + &balancer("a", "", OURS, &[])
        + &balancer("other", "", "loadBalancerClass: example.com/lb", &[])
        + &balancer("none", "", "externalTrafficPolicy: Cluster", &[]);
    let allocated = in_cluster(&yaml);
    let (addresses, reason) = wanted(&allocated, "a");
    assert_eq!((addresses.len(), reason.as_str()), (1, "Assigned"));
    assert_eq!(allocated.load_balancers.services.len(), 1);
    let status = &allocated.load_balancers.services[0];
    assert!(status.is_stale());
    let point = &status.ingress()[0];
    assert_eq!((point.ip.as_deref(), point.ip_mode.as_deref()), (Some(addresses[0].as_str()), Some("Proxy")));
    assert!(point.hostname.is_none() && point.ports.is_none());
    // It is served when it is written, and not before.
    assert!(allocated.addresses.values().all(|addresses| addresses.load_balancer_ips.is_empty()));

    let by_default = Settings { default_load_balancer: true, ..cluster() };
    let allocated = allocate(&objects(&yaml), &by_default, &Allocations::default());
    assert_eq!(allocated.load_balancers.services.len(), 2);
    assert_eq!(wanted(&allocated, "none").1, "Assigned");
}

#[test]
fn what_is_written_is_not_written_again() {
    let yaml = POOL.to_owned() + &balancer("a", "", OURS, &[]);
    let first = in_cluster(&yaml);
    let status = &first.load_balancers.services[0];
    let mut objects = objects(&yaml);
    let mut service = objects.services.get(&status.name).unwrap().object.clone();
    let verdict = status.verdict.clone().unwrap();
    let condition = serde_json::json!({
        "type": load_balancer::SERVICE_CONDITION,
        "status": "True",
        "reason": verdict.reason,
        "message": verdict.message,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    service.status = Some(tidegate_crd::core::ServiceStatus {
        load_balancer: Some(tidegate_crd::core::LoadBalancerStatus { ingress: Some(status.ingress()) }),
        conditions: Some(vec![serde_json::from_value(condition).unwrap()]),
    });
    let object = tidegate_crd::Object::Service(Box::new(service));
    objects.apply(tidegate_crd::Document { object, origin: tidegate_crd::Origin::synthetic("") });
    let second = allocate(&objects, &cluster(), &first.allocations);
    assert!(!second.load_balancers.services[0].is_stale(), "{:?}", second.load_balancers);
    assert_eq!(second.addresses[&status.name].load_balancer_ips.len(), 1);
}

/// A restart, another leader, a Service that is older or asks for it: whoever has an address keeps it.
#[test]
fn an_address_stays_with_whom_it_is() {
    let yaml = POOL.to_owned()
        + &balancer("a", "tidegate.io/load-balancer-ips: 192.0.2.3", OURS, &[])
        + &balancer("b", "", OURS, &["192.0.2.3"])
        + &balancer("c", "", OURS, &["192.0.2.3"]);
    let allocated = in_cluster(&yaml);
    assert_eq!(wanted(&allocated, "a"), (vec![], "LoadBalancerPending".to_owned()));
    assert_eq!(ips(&allocated, "b"), ["192.0.2.3"]);
    let moved = ips(&allocated, "c");
    assert!(moved.len() == 1 && moved != ["192.0.2.3"], "{moved:?}");
    assert_eq!(
        found(&allocated),
        [
            "LoadBalancerIpConflict a: 192.0.2.3 belongs to Service default/b already.",
            "LoadBalancerIpConflict c: 192.0.2.3 belongs to Service default/b already. It is given another.",
        ]
    );
}

#[test]
fn a_pool_that_lost_an_address_takes_it_from_nobody() {
    let yaml = POOL.to_owned() + &balancer("a", "", OURS, &["198.51.100.7"]);
    let allocated = in_cluster(&yaml);
    assert_eq!(wanted(&allocated, "a"), (vec!["198.51.100.7".to_owned()], "Assigned".to_owned()));
    assert_eq!(
        found(&allocated),
        ["LoadBalancerIpOutOfPool a: no LoadBalancerPool has 198.51.100.7 any more; the Service keeps it."]
    );
    assert_eq!(allocated.load_balancers.pools[0].allocated, 0);
}

/// With `--default-load-balancer`: what a cloud has given a Service is not ours to change.
#[test]
fn an_address_of_another_load_balancer_is_left_alone() {
    let foreign = balancer("a", "", "externalTrafficPolicy: Cluster", &["203.0.113.5"]);
    let foreign = foreign.replace(load_balancer::SERVICE_CONDITION, "example.com/Ready");
    let settings = Settings { default_load_balancer: true, ..cluster() };
    let allocated = allocate(&objects(&(POOL.to_owned() + &foreign)), &settings, &Allocations::default());
    assert_eq!(allocated.load_balancers.services, []);
    assert_eq!(found(&allocated).len(), 1, "{:?}", found(&allocated));
    // Nor is one of our pool that it has given away.
    let other = "loadBalancerClass: example.com/lb";
    let taken: String = (1..=6)
        .map(|n| balancer(&format!("x{n}"), "", other, &[&format!("192.0.2.{n}")]))
        .map(|text| text.replace(load_balancer::SERVICE_CONDITION, "example.com/Ready"))
        .collect();
    let allocated = in_cluster(&(POOL.to_owned() + &taken + &balancer("a", "", OURS, &[])));
    assert_eq!(wanted(&allocated, "a"), (vec![], "LoadBalancerPending".to_owned()));
}

/// Type or class have changed: nothing of ours stays.
#[test]
fn what_is_no_load_balancer_any_more_is_cleaned_up() {
    let yaml = balancer("a", "", OURS, &["192.0.2.3"]).replace("type: LoadBalancer", "type: ClusterIP");
    let allocated = in_cluster(&(POOL.to_owned() + &yaml));
    let status = &allocated.load_balancers.services[0];
    assert!(status.is_stale() && status.addresses.is_empty() && status.verdict.is_none());
    let gone = balancer("a", "", OURS, &[]).replace("type: LoadBalancer", "type: ClusterIP");
    assert_eq!(in_cluster(&gone).load_balancers.services, []);
}

#[test]
fn what_is_asked_for_by_name_is_given_or_nothing_is() {
    let ips_are = |value: &str| format!("tidegate.io/load-balancer-ips: {value:?}");
    let dual = format!("{OURS}, ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack");
    let yaml = POOL.to_owned()
        + &balancer("both", &ips_are("192.0.2.5, 2001:db8::5"), &dual, &[])
        + &balancer("half", &ips_are("192.0.2.6"), &dual, &[])
        + &balancer("older", "", &format!("{OURS}, loadBalancerIP: 192.0.2.4"), &[])
        + &balancer("outside", &ips_are("198.51.100.1"), OURS, &[])
        + &balancer("six", &ips_are("2001:db8::2"), OURS, &[])
        + &balancer("unreadable", &ips_are("first"), OURS, &[]);
    let allocated = in_cluster(&yaml);
    assert_eq!(ips(&allocated, "both"), ["192.0.2.5", "2001:db8::5"]);
    let half = ips(&allocated, "half");
    assert!(half.len() == 2 && half[0] == "192.0.2.6", "the other is given: {half:?}");
    assert_eq!(ips(&allocated, "older"), ["192.0.2.4"]);
    for name in ["outside", "unreadable"] {
        assert_eq!(wanted(&allocated, name), (vec![], "LoadBalancerPending".to_owned()), "{name}");
    }
    assert_eq!(ips(&allocated, "six").len(), 1, "it is of IPv4, and gets one of these");
    assert_eq!(
        found(&allocated),
        [
            "LoadBalancerIpOutOfPool outside: no LoadBalancerPool has 198.51.100.1.",
            "LoadBalancerIpFamily six: 2001:db8::2 is not used: the Service has one address for each of IPv4.",
        ]
    );
}

/// Whoever asks for another address than it has keeps the one it has until it can have the other.
#[test]
fn another_wish_is_granted_when_it_can_be() {
    let asks = |ip: &str| format!("tidegate.io/load-balancer-ips: {ip}");
    let free = POOL.to_owned() + &balancer("a", &asks("192.0.2.2"), OURS, &["192.0.2.1"]);
    assert_eq!(ips(&in_cluster(&free), "a"), ["192.0.2.2"]);
    let taken = free + &balancer("b", "", OURS, &["192.0.2.2"]);
    let allocated = in_cluster(&taken);
    assert_eq!((ips(&allocated, "a"), ips(&allocated, "b")), (vec!["192.0.2.1".into()], vec!["192.0.2.2".into()]));
    assert_eq!(
        allocated.findings.iter().map(|f| f.reason).collect::<Vec<_>>(),
        ["LoadBalancerIpConflict", "LoadBalancerIpKept"]
    );
}

#[test]
fn pools_are_for_those_whom_they_choose() {
    let pool = |name: &str, range: &str, rest: &str| {
        format!(
            "---\n{{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {{name: {name}}}, \
             spec: {{addresses: [{range}]{rest}}}}}\n"
        )
    };
    let service = |name: &str, labels: &str, annotations: &str| {
        let text = balancer(name, annotations, OURS, &[]);
        text.replace("annotations: {", &format!("labels: {{{labels}}}, annotations: {{"))
    };
    let in_pool = |name: &str| format!("tidegate.io/load-balancer-pool: {name}");
    let yaml = pool("a-reserved", "192.0.2.1", ", autoAssign: false")
        + &pool("b-labelled", "192.0.2.2", ", serviceSelector: {matchLabels: {tier: front}}")
        + &pool("c-elsewhere", "192.0.2.3", ", namespaceSelector: {matchLabels: {team: shop}}")
        + &pool(
            "d-here",
            "192.0.2.4",
            ", namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, ipMode: VIP",
        )
        + &service("front", "tier: front", "")
        + &service("other", "tier: back", "")
        + &service("reserved", "", &in_pool("a-reserved"))
        + &service("denied", "", &in_pool("c-elsewhere"))
        + &service("unknown", "", &in_pool("nobody"))
        + &service("too-many", "", "");
    let allocated = in_cluster(&yaml);
    let given =
        ["front", "other", "reserved", "denied", "unknown", "too-many"].map(|name| ips(&allocated, name).concat());
    assert_eq!(given, ["192.0.2.2", "192.0.2.4", "192.0.2.1", "", "", ""]);
    let mode = allocated.load_balancers.services.iter().find(|s| &*s.name.name == "other").unwrap().addresses[0].1;
    assert_eq!(mode.as_str(), "VIP");
    let said = found(&allocated);
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(
        said[0],
        "LoadBalancerPending denied: the selectors of LoadBalancerPool c-elsewhere leave this Service out."
    );
    assert_eq!(said[1], "LoadBalancerPending too-many: no LoadBalancer IP is left to hand out.");
    assert_eq!(said[2], "LoadBalancerPending unknown: there is no LoadBalancerPool \"nobody\".");
    let counts: Vec<_> = allocated.load_balancers.pools.iter().map(|pool| (pool.size, pool.allocated)).collect();
    assert_eq!(counts, [(1, 1), (1, 1), (1, 0), (1, 1)]);

    // With the label on its namespace it may.
    let team = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {team: shop}}}\n";
    assert_eq!(ips(&in_cluster(&(yaml + team)), "denied"), ["192.0.2.3"]);
}

#[test]
fn without_a_pool_it_is_pending_and_says_so() {
    let allocated = in_cluster(&balancer("a", "", OURS, &[]));
    let status = &allocated.load_balancers.services[0];
    let verdict = status.verdict.as_ref().unwrap();
    assert_eq!((verdict.holds, verdict.message.as_str()), (false, "there is no LoadBalancerPool."));
    assert_eq!(found(&allocated), ["LoadBalancerPending a: there is no LoadBalancerPool."]);
    let six = "---\n{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: p}, spec: {addresses: ['::1']}}\n";
    let allocated = in_cluster(&(balancer("a", "", OURS, &[]) + six));
    assert_eq!(found(&allocated), ["LoadBalancerPending a: no pool that it may use has IPv4 addresses."]);
}

#[test]
fn a_pool_says_what_is_wrong_with_it() {
    let yaml = "\
{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: b, creationTimestamp: '2020-01-01T00:00:00Z'}, \
spec: {addresses: [192.0.2.0/29]}}
---
{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: a, creationTimestamp: '2024-01-01T00:00:00Z'}, \
spec: {addresses: [192.0.2.6-192.0.2.9, 192.0.2.30, 192.0.2.30, 192.0.2.9-192.0.2.8, x], ipMode: Both}}
---
{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: c}, spec: {addresses: []}}
";
    let allocated = in_cluster(yaml);
    let reasons: Vec<_> = allocated.findings.iter().map(|finding| (finding.reason, finding.field.as_deref())).collect();
    assert_eq!(
        reasons,
        [
            ("PoolOverlap", Some("spec.addresses[0]")),
            ("PoolOverlap", Some("spec.addresses[2]")),
            ("InvalidAddressRange", Some("spec.addresses[3]")),
            ("InvalidAddressRange", Some("spec.addresses[4]")),
            ("InvalidIpMode", Some("spec.ipMode")),
            ("EmptyPool", Some("spec.addresses")),
        ]
    );
    let [a, b, c] = &allocated.load_balancers.pools[..] else { panic!("{:?}", allocated.load_balancers) };
    assert_eq!((a.size, b.size, c.size), (1, 6, 0));
    assert_eq!([a, b, c].map(|pool| pool.accepted.holds), [false, true, false]);
}

#[test]
fn a_laptop_has_pools_too_and_the_command_lines_is_the_last_resort() {
    let pool = "{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: edge}, spec: {addresses: [127.98.0.1]}}\n";
    let yaml = pool.to_owned()
        + &balancer("a", "", OURS, &[])
        + &balancer("b", "", "externalTrafficPolicy: Cluster", &[])
        + &balancer("named", "tidegate.io/load-balancer-ips: 127.99.0.1", OURS, &[]);
    let allocated = allocate(&objects(&yaml), &Settings::default(), &Allocations::default());
    let of = |name: &str| allocated.addresses[&Name::new("default", name)].load_balancer_ips[0].to_string();
    assert_eq!((of("a"), of("named")), ("127.98.0.1".to_owned(), "127.99.0.1".to_owned()));
    assert!(of("b").starts_with("127.97.0."));
    assert_eq!(found(&allocated), [""; 0]);
    assert!(allocated.load_balancers.services.is_empty(), "there is nobody to write to");
}

/// What may happen to a cluster between two looks at it.
#[derive(Clone, Debug)]
enum Change {
    Add {
        asks: Option<u8>,
    },
    Delete(usize),
    Ask(usize, Option<u8>),
    /// The leader writes what was decided.
    Write,
    /// Another process looks: it knows only what is written.
    Restart,
    Resize(u8),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let ask = || proptest::option::weighted(0.3, 0u8..12);
    let change = prop_oneof![
        3 => ask().prop_map(|asks| Change::Add { asks }),
        1 => (0usize..8).prop_map(Change::Delete),
        1 => (0usize..8, ask()).prop_map(|(at, asks)| Change::Ask(at, asks)),
        4 => Just(Change::Write),
        1 => Just(Change::Restart),
        1 => (1u8..12).prop_map(Change::Resize),
    ];
    proptest::collection::vec(change, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// No two Services ever have one address, be it written or decided; what is written stays, unless the Service asks for another
    /// itself; the same objects come to the same; and nobody is pending beside a free address.
    #[test]
    fn no_address_is_given_twice(changes in changes()) {
        let mut services: Vec<(String, Option<u8>, Option<String>)> = Vec::new();
        let (mut held, mut size, mut count) = (Allocations::default(), 4u8, 0);
        for change in changes {
            match change {
                Change::Add { asks } => {
                    count += 1;
                    // The newest is not always the last by name.
                    services.push((format!("s{}", (count * 7) % 97), asks, None));
                }
                Change::Delete(at) if at < services.len() => { services.remove(at); }
                Change::Ask(at, asks) if at < services.len() => services[at].1 = asks,
                Change::Restart => held = Allocations::default(),
                Change::Resize(to) => size = to,
                Change::Delete(_) | Change::Ask(..) | Change::Write => {}
            }
            let yaml = cluster_of(&services, size);
            let allocated = allocate(&objects(&yaml), &cluster(), &held);
            let again = allocate(&objects(&yaml), &cluster(), &held);
            prop_assert_eq!(&allocated.load_balancers.services, &again.load_balancers.services);
            let given = || services.iter().flat_map(|(name, ..)| ips(&allocated, name));
            let mut all: std::collections::BTreeSet<String> = given().collect();
            prop_assert_eq!(all.len(), given().count(), "{}", yaml);
            // What is exchanged for another is free the next time.
            all.extend(services.iter().filter_map(|(_, _, status)| status.clone()));
            for (name, asks, status) in &services {
                let now = ips(&allocated, name);
                if let Some(before) = status {
                    let moves = asks.is_some_and(|asked| now == [format!("192.0.2.{asked}")]);
                    prop_assert!(moves || now == [before.clone()], "{} had {}, has {:?}: {}", name, before, now, yaml);
                }
                let is_open = asks.is_none() && status.is_none();
                prop_assert!(!is_open || !now.is_empty() || all.len() >= usize::from(size), "{} is pending: {}", name, yaml);
            }
            if let Change::Write = change {
                for (name, _, status) in &mut services {
                    *status = ips(&allocated, name).pop();
                }
            }
            held = allocated.allocations;
        }
    }
}

fn cluster_of(services: &[(String, Option<u8>, Option<String>)], size: u8) -> String {
    let mut yaml = format!(
        "{{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {{name: p}}, \
         spec: {{addresses: [192.0.2.0-192.0.2.{}]}}}}\n",
        size - 1
    );
    for (name, asks, status) in services {
        let annotations =
            asks.map(|asked| format!("tidegate.io/load-balancer-ips: 192.0.2.{asked}")).unwrap_or_default();
        let status: Vec<&str> = status.iter().map(String::as_str).collect();
        let _ = write!(yaml, "{}", balancer(name, &annotations, OURS, &status));
    }
    yaml
}
