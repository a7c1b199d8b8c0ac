//! Endpoints in words: which of a Service can be used, why the others cannot, and how one is chosen.

use tidegate_l4::{
    endpoints::{EndpointIndex, EndpointSet},
    model::{Balance, Endpoint, IpFamily, ServicePort, TrafficPolicy},
};

use super::{Candidate, listed};

/// The endpoints of a set, each with its share.
pub(super) fn candidates(set: &EndpointSet, shares: &[f64], first: Option<EndpointIndex>) -> Vec<Candidate> {
    let candidate = |(i, endpoint): (usize, &Endpoint)| Candidate {
        addr: endpoint.addr,
        pod: endpoint.pod.clone(),
        share: shares.get(i).copied().unwrap_or(0.0),
        first: first == Some(EndpointIndex(i)),
    };
    set.endpoints().iter().enumerate().map(candidate).collect()
}

/// All of the choice to one endpoint.
pub(super) fn certain(set: &EndpointSet, index: EndpointIndex) -> Vec<Candidate> {
    let shares: Vec<f64> = (0..set.len()).map(|i| if i == index.0 { 1.0 } else { 0.0 }).collect();
    candidates(set, &shares, Some(index))
}

/// The balancing rule of a set in words, and the share of each endpoint. The balancer itself is not asked: it would count the
/// question as a connection.
pub(super) fn balanced(set: &EndpointSet) -> (String, Vec<f64>) {
    let n = set.len();
    if n == 1 {
        return ("it is the only one".to_owned(), vec![1.0]);
    }
    match set.balance() {
        Balance::Random => ("each is equally likely".to_owned(), equal(n)),
        Balance::RoundRobin => ("one after the other".to_owned(), equal(n)),
        Balance::LeastInFlight => {
            ("of two drawn at random, the one that carries less now".to_owned(), least_of_two(set))
        }
        Balance::Weighted => {
            let weights: Vec<u64> = set.endpoints().iter().map(|endpoint| u64::from(endpoint.weight)).collect();
            match weights.iter().sum::<u64>() {
                0 => ("all weights are 0, so each is equally likely".to_owned(), equal(n)),
                total => {
                    let shares = weights.iter().map(|weight| *weight as f64 / total as f64).collect();
                    ("at random in proportion to tidegate.io/weights".to_owned(), shares)
                }
            }
        }
    }
}

/// Each endpoint as likely as the others.
pub(super) fn equal(n: usize) -> Vec<f64> {
    vec![1.0 / n as f64; n]
}

/// How likely each endpoint is to win against another one drawn at random; in a tie the one drawn first wins.
fn least_of_two(set: &EndpointSet) -> Vec<f64> {
    let loads: Vec<u32> = (0..set.len()).map(|i| set.state(EndpointIndex(i)).in_flight()).collect();
    let mut sorted = loads.clone();
    sorted.sort_unstable();
    let pairs = (loads.len() * (loads.len() - 1)) as f64;
    let share = |load: &u32| {
        let no_less = sorted.len() - sorted.partition_point(|other| other < load) - 1;
        let more = sorted.len() - sorted.partition_point(|other| other <= load);
        (no_less + more) as f64 / pairs
    };
    loads.iter().map(share).collect()
}

/// An endpoint as people know it.
pub(super) fn named(endpoint: &Endpoint) -> String {
    match &endpoint.pod {
        Some(pod) => format!("{} ({pod})", endpoint.addr),
        None => endpoint.addr.to_string(),
    }
}

/// How many endpoints there are, how many of them are in `set`, and why the others are not. Without a `family` both are looked at.
pub(super) fn usable(
    config: &ServicePort,
    set: Option<&EndpointSet>,
    family: Option<IpFamily>,
    policy: TrafficPolicy,
) -> String {
    let usable = set.map_or(&[][..], EndpointSet::endpoints);
    let left_out: Vec<&Endpoint> =
        config.endpoints.iter().filter(|endpoint| !usable.iter().any(|held| held.addr == endpoint.addr)).collect();
    if config.endpoints.is_empty() {
        return format!(
            "Service {} has no endpoint at all: no Pod matches its selector, or nobody lists any.",
            config.name
        );
    }
    let mut text = format!("{} of {} can be used", usable.len(), config.endpoints.len());
    if !left_out.is_empty() {
        let why = |endpoint: &Endpoint| format!("{} {}", named(endpoint), reason(endpoint, usable, family, policy));
        text.push_str(&format!("; left out: {}", listed(left_out.into_iter().map(why))));
    }
    if usable.first().is_some_and(|endpoint| !endpoint.conditions.ready) {
        text.push_str("; none is ready, so those that still serve while they terminate are used");
    }
    text.push('.');
    text
}

/// Why an endpoint is not in the set; see `tidegate_l4::eligible` for the rules.
fn reason(endpoint: &Endpoint, usable: &[Endpoint], family: Option<IpFamily>, policy: TrafficPolicy) -> String {
    let conditions = endpoint.conditions;
    let names = |names: &[std::sync::Arc<str>]| names.join(" and ");
    if family.is_some_and(|family| IpFamily::of(endpoint.addr.ip()) != family) {
        return "is of the other IP family".to_owned();
    }
    if conditions.terminating && !conditions.serving {
        return "is terminating and no longer serves".to_owned();
    }
    // With none ready, those that terminate stand in.
    let stands_in = conditions.terminating && usable.iter().all(|held| !held.conditions.ready);
    if !conditions.ready && !stands_in {
        return if conditions.terminating { "is terminating" } else { "is not ready" }.to_owned();
    }
    match (policy, &endpoint.node) {
        (TrafficPolicy::Local, Some(node)) => format!("is on node {node}, not on this one"),
        (TrafficPolicy::Local, None) => "is on no known node".to_owned(),
        (TrafficPolicy::Cluster, _) if !endpoint.hints.nodes.is_empty() && endpoint.hints.zones.is_empty() => {
            format!("is meant for clients on node {}", names(&endpoint.hints.nodes))
        }
        (TrafficPolicy::Cluster, _) => format!("is meant for clients in zone {}", names(&endpoint.hints.zones)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_a_whole() {
        assert!((equal(3).iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(equal(0).is_empty());
    }
}
