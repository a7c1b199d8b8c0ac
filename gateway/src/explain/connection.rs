//! Why a connection (or UDP flow) goes where it goes: frontend, policy, endpoints, affinity, choice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tidegate_crd::Kind;
use tidegate_l4::{
    affinity::UnixMillis,
    eligible::Reason,
    endpoints::{Client, EndpointSet},
    model::{Balance, IpFamily, Protocol, TrafficPolicy},
    table::{Decision, Frontend, FrontendKind, Refusal, Target},
};

use super::{
    Outcome, Step, Steps,
    endpoints::{balanced, candidates, certain, equal, named, trouble, usable},
    listed,
    question::ServiceAddress,
};
use crate::{
    compile::rows::{PortRow, ServiceRow},
    snapshot::Snapshot,
};

/// A connection to `frontend`. Without `from` the client is one that may come in and is not on this node.
pub(super) fn explain(
    snapshot: &Snapshot,
    frontend: &Frontend,
    from: Option<IpAddr>,
    now: UnixMillis,
) -> (Vec<Step>, Outcome) {
    let mut steps = Steps::default();
    let outcome = connection(snapshot, frontend, from, now, &mut steps);
    (steps.0, outcome)
}

/// A connection to a Service by name: DNS first, then its ClusterIP.
pub(super) fn explain_service(
    snapshot: &Snapshot,
    asked: &ServiceAddress,
    from: Option<IpAddr>,
    now: UnixMillis,
) -> (Vec<Step>, Outcome) {
    let mut steps = Steps::default();
    let name = format!("{}/{}", asked.namespace, asked.name);
    let Some(row) = snapshot.services.iter().find(|row| *row.namespace == *asked.namespace && *row.name == *asked.name)
    else {
        let elsewhere = snapshot.services.iter().filter(|row| *row.name == *asked.name).map(|row| label(row));
        let elsewhere = listed(elsewhere);
        let detail = match elsewhere.as_str() {
            "" => format!("there is no Service {name}, so DNS knows no such name."),
            others => format!("there is no Service {name}, so DNS knows no such name; there is {others}."),
        };
        steps.add("Name", detail);
        return (steps.0, Outcome::Refused { reason: format!("there is no Service {name}") });
    };
    let outcome = match row.cluster_ips.first() {
        _ if row.kind == "ExternalName" => {
            steps.add(
                "Name",
                format!("Service {name} is an ExternalName: an alias in DNS, with no proxying of any kind."),
            );
            let target = row.external.first().map_or("nothing", String::as_str);
            Outcome::Dns { answer: format!("a CNAME to {target}; the client connects there itself") }
        }
        None => headless(snapshot, row, &mut steps),
        Some(&ip) => match port_of(row, asked) {
            Some((port, protocol)) => {
                steps.add(
                    "Name",
                    format!("Service {name} is of type {}; DNS answers with its ClusterIP {ip}.", row.kind),
                );
                let outcome = connection(snapshot, &Frontend { ip, port, protocol }, from, now, &mut steps);
                return (steps.0, outcome);
            }
            None => {
                let asked = asked.port.as_deref().unwrap_or("of that protocol");
                steps.add("Port", format!("Service {name} has no port {asked}; it has {}.", ports(row)));
                Outcome::Refused { reason: format!("Service {name} has no port {asked}") }
            }
        },
    };
    steps.add_findings(snapshot, Kind::Service, &row.namespace, &row.name);
    (steps.0, outcome)
}

fn connection(
    snapshot: &Snapshot,
    frontend: &Frontend,
    from: Option<IpAddr>,
    now: UnixMillis,
    steps: &mut Steps,
) -> Outcome {
    let Some(target) = snapshot.table.find(frontend) else {
        steps.add("Frontend", format!("nothing is served on {frontend}."));
        steps.add("Nearest", nearest(snapshot, frontend));
        return Outcome::Refused { reason: format!("nothing listens on {frontend}") };
    };
    let config = &target.port.config;
    let service = format!("Service {}", config.name);
    steps.add("Frontend", format!("{frontend} is {} of {service}.", kind(target)));
    if config.connection.accept_proxy_protocol {
        let detail = "clients begin with a PROXY protocol header; the address in it counts as the client's.";
        steps.add("PROXY protocol", detail);
    }
    let client = from.unwrap_or_else(|| somebody(target, frontend));
    let is_node = snapshot.table.node_addresses().contains(&client);
    let decision = target.decide(frontend, client, &snapshot.table);
    source_ranges(target, &decision, from, steps);
    let family = IpFamily::of(frontend.ip);
    let outcome = match decision {
        Decision::Refuse(Refusal::SourceRange) => refused(Refusal::SourceRange, &service, target),
        Decision::Refuse(refusal) => {
            let policy = traffic_policy(target, is_node, steps);
            steps.add("Endpoints", usable(config, None, Some(family), policy));
            refused(refusal, &service, target)
        }
        Decision::Choose(set) => {
            let policy = traffic_policy(target, is_node, steps);
            let mut text = usable(config, Some(set), Some(family), policy);
            text.push_str(topology(target.port.reason(family), policy));
            steps.add("Endpoints", text);
            if let Some(trouble) = trouble(set, now) {
                steps.add("Health", trouble);
            }
            choose(set, from, now, frontend.protocol, steps)
        }
    };
    steps.add_findings(snapshot, Kind::Service, &config.name.namespace, &config.name.service);
    outcome
}

/// A client that is let in and is not on this node, for when nobody said who asks.
fn somebody(target: &Target, frontend: &Frontend) -> IpAddr {
    let family = IpFamily::of(frontend.ip);
    let in_range = target.port.config.source_ranges.iter().map(|range| range.addr());
    // The compiler writes the all-ones address where nobody is let in.
    let mut in_range = in_range.filter(|ip| IpFamily::of(*ip) == family && *ip != IpAddr::V4(Ipv4Addr::BROADCAST));
    in_range.next().unwrap_or_else(|| match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    })
}

fn kind(target: &Target) -> String {
    match target.kind {
        FrontendKind::ClusterIp => "the ClusterIP".to_owned(),
        FrontendKind::NodePort => format!("node port {}", target.port.config.node_port.unwrap_or_default()),
        FrontendKind::LoadBalancer => "the LoadBalancer IP".to_owned(),
        FrontendKind::ExternalIp => "an external IP".to_owned(),
    }
}

fn source_ranges(target: &Target, decision: &Decision<'_>, from: Option<IpAddr>, steps: &mut Steps) {
    let ranges = &target.port.config.source_ranges;
    if target.kind != FrontendKind::LoadBalancer || ranges.is_empty() {
        return;
    }
    let ranges = listed(ranges.iter().map(ToString::to_string));
    let is_out = matches!(decision, Decision::Refuse(Refusal::SourceRange));
    let detail = match (from, is_out) {
        (Some(from), true) => format!("{from} is not within spec.loadBalancerSourceRanges ({ranges})."),
        (Some(from), false) => format!("{from} is within spec.loadBalancerSourceRanges ({ranges})."),
        (None, true) => format!("spec.loadBalancerSourceRanges ({ranges}) let nobody in."),
        (None, false) => {
            format!("only spec.loadBalancerSourceRanges ({ranges}) may come in; a client of theirs is assumed.")
        }
    };
    steps.add("Source ranges", detail);
}

/// The policy that counts for this client, and why.
fn traffic_policy(target: &Target, is_node: bool, steps: &mut Steps) -> TrafficPolicy {
    let config = &target.port.config;
    let (policy, field) = match target.kind {
        FrontendKind::ClusterIp => (config.internal_policy, "internalTrafficPolicy"),
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            (config.external_policy, "externalTrafficPolicy")
        }
    };
    match policy {
        TrafficPolicy::Cluster => {
            steps.add("Traffic policy", format!("{field} is Cluster: endpoints on every node can be used."));
            TrafficPolicy::Cluster
        }
        TrafficPolicy::Local if is_node && target.kind != FrontendKind::ClusterIp => {
            let detail =
                format!("{field} is Local, but the client is this node itself, which reaches all of the cluster.");
            steps.add("Traffic policy", detail);
            TrafficPolicy::Cluster
        }
        TrafficPolicy::Local => {
            steps.add("Traffic policy", format!("{field} is Local: only endpoints on this node can be used."));
            TrafficPolicy::Local
        }
    }
}

fn topology(reason: Reason, policy: TrafficPolicy) -> &'static str {
    match (policy, reason) {
        (TrafficPolicy::Cluster, Reason::SameNode) => " Topology hints keep the traffic on this node.",
        (TrafficPolicy::Cluster, Reason::SameZone) => " Topology hints keep the traffic in this node's zone.",
        (TrafficPolicy::Cluster, Reason::Nothing | Reason::AllReady | Reason::Terminating)
        | (TrafficPolicy::Local, _) => "",
    }
}

fn refused(refusal: Refusal, service: &str, target: &Target) -> Outcome {
    let away = match target.port.config.name.protocol {
        Protocol::Tcp => "the connection is reset",
        Protocol::Udp => "its datagrams are dropped",
    };
    let reason = match refusal {
        Refusal::NoEndpoints => format!("no endpoint of {service} is usable, so nothing listens"),
        Refusal::NoLocalEndpoints => {
            format!("no endpoint of {service} on this node is usable, and the policy is Local")
        }
        Refusal::SourceRange => format!("{service} does not let this client in: {away}"),
    };
    Outcome::Refused { reason }
}

fn choose(set: &EndpointSet, from: Option<IpAddr>, now: UnixMillis, protocol: Protocol, steps: &mut Steps) -> Outcome {
    let unit = match protocol {
        Protocol::Tcp => "connection",
        Protocol::Udp => "flow",
    };
    let Some(timeout) = set.affinity_timeout() else {
        let by_ip = set.balance() == Balance::Hash;
        if let Some(ip) = from.filter(|_| by_ip)
            && let Some(first) = set.candidates(Client { ip, now }).next()
        {
            let rule = format!("it follows from the client's address, {ip}, on every replica (rendezvous hashing)");
            return Outcome::Endpoints { rule, candidates: certain(set, first), sticky: true };
        }
        let (rule, shares) = balanced(set, set.balance(), now);
        return Outcome::Endpoints { rule, candidates: candidates(set, &shares, None), sticky: by_ip };
    };
    let seconds = timeout.as_secs();
    let keeps = format!("a client IP keeps its endpoint until it has opened no {unit} for {seconds} s");
    let client = from.map(|ip| Client { ip, now });
    let Some((client, first)) = client.and_then(|client| Some((client, set.candidates(client).next()?))) else {
        steps.add(
            "Affinity",
            format!("ClientIP: {keeps}. Which one follows from its address: say who asks with --from."),
        );
        let rule = "it follows from the client's address".to_owned();
        return Outcome::Endpoints { rule, candidates: candidates(set, &equal(set.len()), None), sticky: true };
    };
    let endpoint = named(set.endpoint(first));
    let rule = match set.remembered(client) {
        Some(_) => {
            steps.add("Affinity", format!("ClientIP: {} had {endpoint} last, and {keeps}.", client.ip));
            "affinity remembers it for this client; others are tried only if it cannot be reached"
        }
        None => {
            let detail = format!(
                "ClientIP: {keeps}. Nothing is remembered for {}, so its address decides (rendezvous hashing): {endpoint}, on every replica.",
                client.ip
            );
            steps.add("Affinity", detail);
            "it follows from the client's address; others are tried only if it cannot be reached"
        }
    };
    Outcome::Endpoints { rule: rule.to_owned(), candidates: certain(set, first), sticky: true }
}

/// What comes nearest to a frontend that does not exist.
fn nearest(snapshot: &Snapshot, asked: &Frontend) -> String {
    let mut same_ip: Vec<(&Frontend, &Target)> =
        snapshot.table.frontends().filter(|(frontend, _)| frontend.ip == asked.ip).collect();
    same_ip.sort_unstable_by_key(|(frontend, _)| **frontend);
    if !same_ip.is_empty() {
        let others =
            same_ip.iter().map(|(f, target)| format!("{}/{} ({})", f.port, f.protocol, target.port.config.name));
        return format!("{} answers on {}.", asked.ip, listed(others));
    }
    let is_asked = |port: &&PortRow| port.node_port == Some(asked.port);
    if let Some(row) = snapshot.services.iter().find(|row| row.ports.iter().any(|port| is_asked(&port))) {
        let nodes = listed(snapshot.table.node_addresses().iter().map(ToString::to_string));
        return format!("{} is a node port of Service {}; node ports are answered on {nodes}.", asked.port, label(row));
    }
    if let Some(row) = snapshot.services.iter().find(|row| row.cluster_ips.contains(&asked.ip)) {
        return format!("{} is the ClusterIP of Service {}, which is not proxied here.", asked.ip, label(row));
    }
    let mut ports = snapshot.table.ports();
    if let Some(port) = ports.find(|port| port.config.endpoints.iter().any(|endpoint| endpoint.addr.ip() == asked.ip)) {
        return format!(
            "{} is an endpoint of Service {} itself: clients reach it without Tidegate.",
            asked.ip, port.config.name
        );
    }
    let pending =
        |row: &&std::sync::Arc<ServiceRow>| row.pending && row.ports.iter().any(|port| port.port == asked.port);
    if let Some(row) = snapshot.services.iter().find(pending) {
        return format!("LoadBalancer Service {} has port {}, but no address yet.", label(row), asked.port);
    }
    format!("no Service has the address {}; `tidegate get services` lists those there are.", asked.ip)
}

fn headless(snapshot: &Snapshot, row: &ServiceRow, steps: &mut Steps) -> Outcome {
    let name = label(row);
    steps.add("Name", format!("Service {name} has no ClusterIP (headless): no address of its own, and no proxying."));
    let of_service = |port: &&std::sync::Arc<tidegate_l4::table::ServedPort>| {
        port.config.name.namespace == row.namespace && port.config.name.service == row.name
    };
    let mut ready: Vec<(IpAddr, &str)> = snapshot
        .table
        .ports()
        .filter(of_service)
        .flat_map(|port| port.config.endpoints.iter())
        .filter(|endpoint| endpoint.conditions.ready)
        .map(|endpoint| (endpoint.addr.ip(), endpoint.pod.as_deref().unwrap_or_default()))
        .collect();
    ready.sort_unstable();
    ready.dedup();
    if ready.is_empty() {
        return Outcome::Dns { answer: "no address, as no endpoint is ready".to_owned() };
    }
    let count = ready.len();
    let list = listed(
        ready.into_iter().map(|(ip, pod)| if pod.is_empty() { ip.to_string() } else { format!("{ip} ({pod})") }),
    );
    Outcome::Dns {
        answer: format!(
            "the addresses of all {count} ready endpoints: {list}; the client chooses one and connects to it itself"
        ),
    }
}

/// The port that was asked for; the first one if none was.
fn port_of(row: &ServiceRow, asked: &ServiceAddress) -> Option<(u16, Protocol)> {
    let protocol = |port: &PortRow| if port.protocol == "UDP" { Protocol::Udp } else { Protocol::Tcp };
    let is_meant = |port: &&PortRow| {
        let of_protocol = asked.protocol.is_none_or(|asked| asked == protocol(port));
        of_protocol && asked.port.as_deref().is_none_or(|text| *port.name == *text || port.port.to_string() == text)
    };
    row.ports.iter().find(is_meant).map(|port| (port.port, protocol(port)))
}

fn ports(row: &ServiceRow) -> String {
    let port = |port: &PortRow| match &*port.name {
        "" => format!("{}/{}", port.port, port.protocol),
        name => format!("{}/{} ({name})", port.port, port.protocol),
    };
    if row.ports.is_empty() { "none".to_owned() } else { listed(row.ports.iter().map(port)) }
}

fn label(row: &ServiceRow) -> String {
    format!("{}/{}", row.namespace, row.name)
}
