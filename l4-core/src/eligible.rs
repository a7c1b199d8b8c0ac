//! Which endpoints may be used: conditions, topology hints, and the Local policy. Pure.
//!
//! The rules are kube-proxy's (`pkg/proxy/topology.go`, `CategorizeEndpoints`; KEP-1669 for terminating endpoints,
//! KEP-2433 and KEP-3015 for hints):
//!
//! - *Cluster*: the ready endpoints, narrowed by hints; with none ready, those that serve although they terminate.
//! - *Local*: the same on this node alone, without hints, decided on its own.

use crate::model::{Endpoint, IpFamily, Place};

/// The usable endpoints of one port and one IP family, as positions in the list that was asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Eligible {
    /// For traffic with policy Cluster.
    pub cluster: Vec<usize>,
    /// The same, not narrowed by hints: every node of the cluster finds the same ones.
    pub everywhere: Vec<usize>,
    /// For traffic with policy Local.
    pub local: Vec<usize>,
    /// How the Cluster set came about.
    pub reason: Reason,
}

/// Why the Cluster set is what it is; `explain` says it in words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// No endpoint is usable at all.
    #[default]
    Nothing,
    /// All ready endpoints.
    AllReady,
    /// The ready endpoints hinted for this node.
    SameNode,
    /// The ready endpoints hinted for this zone.
    SameZone,
    /// None is ready: those still serving while they terminate.
    Terminating,
}

/// Sorts the endpoints of `family` into the two sets a policy can ask for.
pub fn eligible(endpoints: &[Endpoint], family: IpFamily, place: &Place) -> Eligible {
    let of_family = |i: &usize| IpFamily::of(endpoints[*i].addr.ip()) == family;
    let all: Vec<usize> = (0..endpoints.len()).filter(of_family).collect();
    let (everywhere, none_is_ready) = match ready(endpoints, &all) {
        ready if ready.is_empty() => (terminating(endpoints, &all), true),
        ready => (ready, false),
    };
    let (cluster, reason) = match none_is_ready {
        true if everywhere.is_empty() => (Vec::new(), Reason::Nothing),
        true => (everywhere.clone(), Reason::Terminating),
        false => near(endpoints, &everywhere, place),
    };
    let here: Vec<usize> = all.into_iter().filter(|&i| endpoints[i].node.as_ref() == Some(&place.node)).collect();
    let local = match ready(endpoints, &here) {
        ready if ready.is_empty() => terminating(endpoints, &here),
        ready => ready,
    };
    Eligible { cluster, everywhere, local, reason }
}

/// Of those that are ready, the ones that hints give to this node, or to its zone; all if that leaves none.
fn near(endpoints: &[Endpoint], ready: &[usize], place: &Place) -> (Vec<usize>, Reason) {
    // One missing hint disables its level: the slices may be half way through an update (KEP-2433).
    if ready.iter().all(|&i| !endpoints[i].hints.nodes.is_empty()) {
        let same = |i: &&usize| endpoints[**i].hints.nodes.contains(&place.node);
        let same_node: Vec<usize> = ready.iter().filter(same).copied().collect();
        if !same_node.is_empty() {
            return (same_node, Reason::SameNode);
        }
    }
    if let Some(zone) = &place.zone
        && ready.iter().all(|&i| !endpoints[i].hints.zones.is_empty())
    {
        let same = |i: &&usize| endpoints[**i].hints.zones.contains(zone);
        let same_zone: Vec<usize> = ready.iter().filter(same).copied().collect();
        if !same_zone.is_empty() {
            return (same_zone, Reason::SameZone);
        }
    }
    (ready.to_vec(), Reason::AllReady)
}

fn ready(endpoints: &[Endpoint], among: &[usize]) -> Vec<usize> {
    among.iter().copied().filter(|&i| endpoints[i].conditions.ready).collect()
}

fn terminating(endpoints: &[Endpoint], among: &[usize]) -> Vec<usize> {
    let usable = |i: &usize| endpoints[*i].conditions.serving && endpoints[*i].conditions.terminating;
    among.iter().copied().filter(usable).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Conditions, Hints};

    fn names(prefix: char) -> impl Strategy<Value = Vec<Arc<str>>> {
        prop::collection::vec((0..3u8).prop_map(move |n| Arc::from(format!("{prefix}{n}"))), 0..3)
    }

    prop_compose! {
        fn endpoint()(
            last in 0..250u8, v6 in any::<bool>(), ready in any::<bool>(), serving in any::<bool>(),
            terminating in any::<bool>(), node in 0..4u8, zones in names('z'), nodes in names('n'),
        ) -> Endpoint {
            let addr = if v6 { format!("[fd00::{last}]:80") } else { format!("10.0.0.{last}:80") };
            Endpoint {
                addr: addr.parse().unwrap(),
                conditions: Conditions { ready, serving, terminating },
                node: (node < 3).then(|| Arc::from(format!("n{node}"))),
                zone: None,
                hints: Hints { zones, nodes },
                weight: 1,
                pod: None,
            }
        }
    }

    /// The rules once more, as sentences about the whole set, with nothing shared with the code above.
    fn naive(endpoints: &[Endpoint], family: IpFamily, place: &Place) -> (Vec<usize>, Vec<usize>) {
        let pick = |f: &dyn Fn(&Endpoint) -> bool| -> Vec<usize> {
            let of_family = |e: &Endpoint| e.addr.is_ipv4() == (family == IpFamily::V4);
            endpoints.iter().enumerate().filter(|(_, e)| of_family(e) && f(e)).map(|(i, _)| i).collect()
        };
        let local = |e: &Endpoint| e.node.as_deref() == Some(&*place.node);
        let draining = |e: &Endpoint| e.conditions.serving && e.conditions.terminating;
        let ready = pick(&|e| e.conditions.ready);
        let on_node = pick(&|e| e.conditions.ready && e.hints.nodes.contains(&place.node));
        let in_zone = pick(&|e| e.conditions.ready && place.zone.iter().any(|z| e.hints.zones.contains(z)));
        let all_have = |f: &dyn Fn(&Endpoint) -> bool| ready.iter().all(|&i| f(&endpoints[i]));
        let cluster = if ready.is_empty() {
            pick(&draining)
        } else if all_have(&|e| !e.hints.nodes.is_empty()) && !on_node.is_empty() {
            on_node
        } else if all_have(&|e| !e.hints.zones.is_empty()) && !in_zone.is_empty() {
            in_zone
        } else {
            ready
        };
        let local_ready = pick(&|e| local(e) && e.conditions.ready);
        let local = if local_ready.is_empty() { pick(&|e| local(e) && draining(e)) } else { local_ready };
        (cluster, local)
    }

    proptest! {
        #[test]
        fn agrees_with_the_rules_read_naively(
            endpoints in prop::collection::vec(endpoint(), 0..8), zone in 0..4u8, v6 in any::<bool>(),
        ) {
            let place = Place { node: Arc::from("n1"), zone: (zone < 3).then(|| Arc::from(format!("z{zone}"))) };
            let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
            let got = eligible(&endpoints, family, &place);
            let (cluster, local) = naive(&endpoints, family, &place);
            prop_assert_eq!(&got.cluster, &cluster);
            prop_assert_eq!(&got.local, &local);
            prop_assert_eq!(got.reason == Reason::Nothing, cluster.is_empty());
        }
    }
}
