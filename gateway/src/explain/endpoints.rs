//! Endpoints in words: which of a Service can be used, why the others cannot, and how one is chosen.

use tidegate_l4::{
    affinity::UnixMillis,
    endpoints::{EndpointIndex, EndpointSet, EndpointState, Standing},
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

/// A balancing rule in words, and the share it gives each endpoint of a set at present. The balancer itself is not asked: it
/// would count the question as a connection.
pub(super) fn balanced(set: &EndpointSet, balance: Balance, now: UnixMillis) -> (String, Vec<f64>) {
    let n = set.len();
    if n == 1 {
        return ("it is the only one".to_owned(), vec![1.0]);
    }
    if is_all_out(set, now) {
        let usable = |e: &Endpoint| if balance == Balance::Weighted && e.weight == 0 { 0.0 } else { 1.0 };
        let shares: Vec<f64> = set.endpoints().iter().map(usable).collect();
        let shares = if shares.iter().sum::<f64>() > 0.0 { whole(shares) } else { equal(n) };
        return ("all are left out at present, which helps nobody, so any is used".to_owned(), shares);
    }
    let open = open(set, now);
    let weights = || set.endpoints().iter().map(|endpoint| f64::from(endpoint.weight));
    let cost = |cost: &dyn Fn(&EndpointState) -> f64| -> Vec<f64> {
        (0..n).map(|i| cost(set.state(EndpointIndex(i)))).collect()
    };
    let in_flight = |state: &EndpointState| f64::from(state.in_flight());
    match balance {
        Balance::Random => ("each is equally likely".to_owned(), whole(open)),
        Balance::RoundRobin => ("one after the other".to_owned(), whole(open)),
        Balance::LeastInFlight => (
            "of two drawn at random, the one that carries less now".to_owned(),
            cheaper_of_two(&open, &cost(&in_flight)),
        ),
        Balance::Ewma => (
            "of two drawn at random, the one that promises the shorter wait, by its latency of late and what it carries"
                .to_owned(),
            cheaper_of_two(&open, &cost(&|state| f64::from(state.cost(now)))),
        ),
        Balance::Weighted if weights().sum::<f64>() == 0.0 => {
            ("all weights are 0, so each is equally likely".to_owned(), whole(open))
        }
        Balance::Weighted => {
            let mut shares: Vec<f64> = weights().zip(&open).map(|(weight, open)| weight * open).collect();
            if shares.iter().sum::<f64>() == 0.0 {
                // All that have a weight are out: they come before those that have none.
                shares = weights().map(|weight| weight.min(1.0)).collect();
            }
            ("at random in proportion to tidegate.io/weights".to_owned(), whole(shares))
        }
        Balance::Hash => ("it follows from the key (rendezvous hashing)".to_owned(), whole(open)),
    }
}

/// The share of each endpoint where all that are not left out are equally likely.
pub(super) fn equal_in_use(set: &EndpointSet, now: UnixMillis) -> Vec<f64> {
    if is_all_out(set, now) {
        return equal(set.len());
    }
    whole((0..set.len()).map(|i| if set.is_out(EndpointIndex(i), now) { 0.0 } else { 1.0 }).collect())
}

/// Whether every endpoint is left out, so that none is.
fn is_all_out(set: &EndpointSet, now: UnixMillis) -> bool {
    (0..set.len()).all(|i| set.is_out(EndpointIndex(i), now))
}

/// What each endpoint has of a full share.
fn open(set: &EndpointSet, now: UnixMillis) -> Vec<f64> {
    let share = |i| match set.standing(EndpointIndex(i), now) {
        Standing::InUse => 1.0,
        // Too little to be noticed, but not impossible.
        Standing::SlowStart { share } => f64::from(share).max(0.001),
        Standing::Ejected { .. } | Standing::ProbeFails => 0.0,
    };
    (0..set.len()).map(share).collect()
}

/// The same proportions, but together they are 1.
fn whole(mut shares: Vec<f64>) -> Vec<f64> {
    let total: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= total);
    shares
}

/// How likely each endpoint is to be drawn and to cost less than another one drawn; in a tie the one drawn first wins.
/// Where some have less than a full share, what they win counts for as much less, which is nearly right.
fn cheaper_of_two(open: &[f64], costs: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = open.iter().zip(costs).filter(|(open, _)| **open > 0.0).map(|(_, cost)| *cost).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    if let [_] = sorted[..] {
        return whole(open.to_vec());
    }
    let share = |(open, cost): (&f64, &f64)| {
        let no_less = sorted.len() - sorted.partition_point(|other| other < cost);
        let more = sorted.len() - sorted.partition_point(|other| other <= cost);
        if *open > 0.0 { open * (no_less - 1 + more) as f64 } else { 0.0 }
    };
    whole(open.iter().zip(costs).map(share).collect())
}

/// Who of a set is left out at present, or has less than a full share, and why; nothing if all is as usual.
pub(super) fn trouble(set: &EndpointSet, now: UnixMillis) -> Option<String> {
    let indexes = (0..set.len()).map(EndpointIndex);
    let unusual: Vec<(EndpointIndex, Standing)> = indexes
        .map(|index| (index, set.standing(index, now)))
        .filter(|(_, standing)| *standing != Standing::InUse)
        .collect();
    if unusual.is_empty() {
        return None;
    }
    let said = |(index, standing): &(EndpointIndex, Standing)| {
        let what = match standing {
            Standing::InUse => "is in use".to_owned(),
            Standing::SlowStart { share } => {
                format!("starts slowly, with {:.0} % of a full share so far", share * 100.0)
            }
            Standing::Ejected { until } => {
                let left = until.0.saturating_sub(now.0).div_ceil(1_000);
                format!("is ejected for {left} s more, as it failed too often in a row (tidegate.io/max-failures)")
            }
            Standing::ProbeFails => "fails its health check (tidegate.io/health-check)".to_owned(),
        };
        format!("{} {what}", named(set.endpoint(*index)))
    };
    let mut text = listed(unusual.iter().map(said));
    text.push_str(if is_all_out(set, now) { "; as none is left, all are used all the same." } else { "." });
    Some(text)
}

/// Each endpoint as likely as the others.
pub(super) fn equal(n: usize) -> Vec<f64> {
    vec![1.0 / n as f64; n]
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
