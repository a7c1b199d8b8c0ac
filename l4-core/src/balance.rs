//! How one of several endpoints is chosen: a small function for each way.
//!
//! None of them knows what an endpoint is; each returns a position. Randomness is `fastrand`'s per-thread generator:
//! a choice needs speed and spread, not secrecy.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::limits::DRAWS;

/// Any of `n`, equally likely.
pub(crate) fn random(n: usize) -> usize {
    fastrand::usize(..n)
}

/// The next of `n` after the one before.
pub(crate) fn round_robin(n: usize, cursor: &AtomicUsize) -> usize {
    cursor.fetch_add(1, Ordering::Relaxed) % n
}

/// Draws until one is accepted, but not for ever.
pub(crate) fn accepted(mut draw: impl FnMut() -> usize, accepts: impl Fn(usize) -> bool) -> Option<usize> {
    (0..DRAWS).map(|_| draw()).find(|&i| accepts(i))
}

/// Of two different ones drawn at random, the one that costs less; the first of them if they cost the same.
pub(crate) fn least_of_two<T: PartialOrd>(
    n: usize,
    accepts: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> T,
) -> Option<usize> {
    let first = accepted(|| random(n), &accepts)?;
    if n == 1 {
        return Some(first);
    }
    let another = || (first + 1 + fastrand::usize(..n - 1)) % n;
    match accepted(another, accepts) {
        Some(second) if cost(second) < cost(first) => Some(second),
        Some(_) | None => Some(first),
    }
}

/// Random of `n` in proportion to weights, given their running totals. No totals, or all weights zero: none is preferred.
pub(crate) fn weighted(n: usize, totals: &[u64]) -> usize {
    match totals.last() {
        Some(&total) if total > 0 => {
            let draw = fastrand::u64(..total);
            totals.partition_point(|&t| t <= draw)
        }
        _ => random(n),
    }
}

/// How well an endpoint suits a key: the best score is the choice (rendezvous hashing, Thaler and Ravishankar 1998).
///
/// Every replica that knows the same endpoints computes the same scores without a word between them, and a change of
/// one endpoint moves the keys of that endpoint alone. A hash ring would be quicker for thousands of endpoints, but it is
/// uneven or large, and must be built again with every change of an EndpointSlice; this costs 2 ns for each endpoint.
pub(crate) fn key_score(key: u64, endpoint_hash: u64) -> u64 {
    // Both are hashes already and need only be mixed: the finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    let mut mixed = key ^ endpoint_hash;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The same for a client under ClientIP affinity. `epoch` may change the order from time to time, so that a client whose
/// affinity has run out is not bound to the same endpoint for ever.
pub(crate) fn rendezvous_score(client: IpAddr, epoch: u64, endpoint_hash: u64) -> u64 {
    let mut bytes = [0u8; 24];
    match client {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes[..16].copy_from_slice(&ip.octets()),
    }
    bytes[16..].copy_from_slice(&epoch.to_le_bytes());
    xxh3_64_with_seed(&bytes, endpoint_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_robin_visits_all_in_turn() {
        let cursor = AtomicUsize::new(usize::MAX - 1);
        let seen: Vec<usize> = (0..6).map(|_| round_robin(3, &cursor)).collect();
        assert_eq!(seen[2..], [0, 1, 2, 0], "{seen:?}");
    }

    #[test]
    fn least_of_two_takes_the_idle_one_of_a_pair_and_never_the_busiest() {
        let all = |_| true;
        assert!((0..100).all(|_| least_of_two(2, all, |i| [5, 1][i]) == Some(1)));
        assert!((0..100).all(|_| least_of_two(3, all, |i| [5, 1, 2][i]) != Some(0)));
        assert_eq!(least_of_two(1, all, |_| 9), Some(0));
    }

    #[test]
    fn who_is_not_accepted_is_not_chosen_however_little_it_costs() {
        for _ in 0..100 {
            assert!(matches!(least_of_two(4, |i| i != 1, |i| [5, 0, 2, 3][i]), Some(0 | 2 | 3) | None));
        }
        assert_eq!(least_of_two(3, |_| false, |_| 0), None);
        let (cursor, mut seen) = (AtomicUsize::new(0), [0; 3]);
        for _ in 0..300 {
            seen[accepted(|| round_robin(3, &cursor), |i| i != 1).unwrap()] += 1;
        }
        assert_eq!(seen, [150, 0, 150], "the one after it gets no double share");
    }

    #[test]
    fn weights_are_shares() {
        let mut seen = [0u32; 3];
        (0..30_000).for_each(|_| seen[weighted(3, &[1, 1, 4])] += 1);
        assert_eq!(seen[1], 0, "weight 0 is never chosen");
        assert!((6_500..8_500).contains(&seen[0]), "{seen:?}");
        assert!((0..10).all(|_| weighted(2, &[0, 0]) < 2));
    }

    #[test]
    fn rendezvous_is_even_and_moves_little() {
        let clients = (0..10_000u32).map(|n| IpAddr::from(n.to_be_bytes()));
        let choice = |client, endpoints: u64| (0..endpoints).max_by_key(|&e| rendezvous_score(client, 7, e)).unwrap();
        let mut seen = [0u32; 5];
        let mut moved = 0;
        for client in clients {
            let five = choice(client, 5);
            seen[five as usize] += 1;
            let four = choice(client, 4);
            assert!(five == 4 || five == four, "only clients of the endpoint that left may move");
            moved += u32::from(five == 4);
        }
        assert!(seen.iter().all(|n| (1_800..2_200).contains(n)), "{seen:?}");
        assert_eq!(moved, seen[4]);
    }
}
