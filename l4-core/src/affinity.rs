//! `sessionAffinity: ClientIP`: which endpoint a client IP had last.
//!
//! One table per service port, shared by all its addresses and kept across configuration changes. An entry lives for
//! `timeout` after the client's last *new* connection; a long connection does not refresh it (kube-proxy's rule).
//! Time comes from the caller, so a test can let days pass.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ahash::{AHashMap, RandomState};

/// Entries one table may hold. A client beyond it takes the place of one that has been quiet for long; it costs that
/// client its stickiness, never a connection. 64 bytes each: a full table is about 4 MiB.
pub const MAX_AFFINITY_ENTRIES: usize = 65_536;

/// How long ClientIP affinity lasts where a Service does not say (Service v1, `sessionAffinityConfig`).
pub const DEFAULT_AFFINITY_TIMEOUT: Duration = Duration::from_secs(10_800);

/// Independent locks, so that two workers rarely wait for each other.
const SHARDS: usize = 16;

/// How many entries are looked at to find an old one when a shard is full: a bounded price for a good guess.
const EVICTION_SAMPLE: usize = 16;

/// Milliseconds since the Unix epoch, from a clock that never steps back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);

/// Client IPs and the endpoint each had last.
#[derive(Debug)]
pub struct AffinityTable {
    shards: [Mutex<AHashMap<IpAddr, Entry>>; SHARDS],
    hasher: RandomState,
    capacity_per_shard: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    endpoint: SocketAddr,
    last: UnixMillis,
}

impl Default for AffinityTable {
    fn default() -> Self {
        Self::with_capacity(MAX_AFFINITY_ENTRIES)
    }
}

impl AffinityTable {
    /// A table for at most `capacity` clients.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            capacity_per_shard: capacity.div_ceil(SHARDS).max(1),
        }
    }

    /// The endpoint `client` had last, unless it has been quiet for `timeout`.
    pub fn find(&self, client: IpAddr, now: UnixMillis, timeout: Duration) -> Option<SocketAddr> {
        let entry = *self.shard(client).get(&client)?;
        (!entry.expired(now, timeout)).then_some(entry.endpoint)
    }

    /// `client` opened a connection to `endpoint`: its time starts again.
    pub fn remember(&self, client: IpAddr, endpoint: SocketAddr, now: UnixMillis, timeout: Duration) {
        let mut shard = self.shard(client);
        if shard.len() >= self.capacity_per_shard && !shard.contains_key(&client) {
            shard.retain(|_, entry| !entry.expired(now, timeout));
            if shard.len() >= self.capacity_per_shard {
                let oldest = shard.iter().take(EVICTION_SAMPLE).min_by_key(|(_, entry)| entry.last);
                if let Some(ip) = oldest.map(|(ip, _)| *ip) {
                    shard.remove(&ip);
                }
            }
        }
        shard.insert(client, Entry { endpoint, last: now });
    }

    /// Forgets every client whose endpoint is gone, so that it does not return to it later.
    pub fn keep_only(&self, is_usable: impl Fn(SocketAddr) -> bool) {
        for shard in &self.shards {
            lock(shard).retain(|_, entry| is_usable(entry.endpoint));
        }
    }

    /// Every client, the endpoint it had last, and when; expired ones not yet swept included.
    pub fn entries(&self) -> Vec<(IpAddr, SocketAddr, UnixMillis)> {
        let all = |shard: &Mutex<AHashMap<IpAddr, Entry>>| {
            lock(shard).iter().map(|(ip, entry)| (*ip, entry.endpoint, entry.last)).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(all).collect()
    }

    /// Remembers what another process knew of `client`, unless it has been here itself, or there is no room.
    pub fn inherit(&self, client: IpAddr, endpoint: SocketAddr, last: UnixMillis) {
        let mut shard = self.shard(client);
        if shard.len() < self.capacity_per_shard {
            shard.entry(client).or_insert(Entry { endpoint, last });
        }
    }

    /// How many clients are remembered, expired ones not yet swept included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether no client is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, client: IpAddr) -> MutexGuard<'_, AHashMap<IpAddr, Entry>> {
        lock(&self.shards[self.hasher.hash_one(client) as usize % SHARDS])
    }
}

impl Entry {
    fn expired(&self, now: UnixMillis, timeout: Duration) -> bool {
        u128::from(now.0.saturating_sub(self.last.0)) >= timeout.as_millis()
    }
}

/// No code under these locks can panic half way through a change, so a poisoned lock still guards good data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn ip(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    fn endpoint(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    #[test]
    fn forgets_a_client_that_was_quiet_and_keeps_one_that_was_not() {
        let table = AffinityTable::default();
        table.remember(ip(1), endpoint(1), UnixMillis(0), TIMEOUT);
        assert_eq!(table.find(ip(1), UnixMillis(9_999), TIMEOUT), Some(endpoint(1)));
        table.remember(ip(1), endpoint(1), UnixMillis(9_999), TIMEOUT);
        assert_eq!(table.find(ip(1), UnixMillis(19_998), TIMEOUT), Some(endpoint(1)));
        assert_eq!(table.find(ip(1), UnixMillis(19_999), TIMEOUT), None);
        assert_eq!(table.find(ip(2), UnixMillis(0), TIMEOUT), None);
    }

    #[test]
    fn a_clock_that_steps_back_expires_nothing() {
        let table = AffinityTable::default();
        table.remember(ip(1), endpoint(1), UnixMillis(50_000), TIMEOUT);
        assert_eq!(table.find(ip(1), UnixMillis(0), TIMEOUT), Some(endpoint(1)));
    }

    #[test]
    fn is_bounded_and_gives_up_the_expired_first() {
        let table = AffinityTable::with_capacity(SHARDS * 4);
        for n in 0..10_000 {
            table.remember(ip(n), endpoint(1), UnixMillis(u64::from(n)), TIMEOUT);
            assert_eq!(table.find(ip(n), UnixMillis(u64::from(n)), TIMEOUT), Some(endpoint(1)));
        }
        assert!(table.len() <= SHARDS * 4, "{}", table.len());
    }

    #[test]
    fn what_another_process_knew_counts_for_clients_that_have_not_been_here() {
        let (old, new) = (AffinityTable::default(), AffinityTable::with_capacity(SHARDS * 4));
        for n in 0..8 {
            old.remember(ip(n), endpoint(1), UnixMillis(5_000), TIMEOUT);
        }
        new.remember(ip(0), endpoint(2), UnixMillis(6_000), TIMEOUT);
        for (client, endpoint, last) in old.entries() {
            new.inherit(client, endpoint, last);
        }
        assert_eq!(new.find(ip(0), UnixMillis(6_000), TIMEOUT), Some(endpoint(2)));
        assert_eq!(new.find(ip(7), UnixMillis(14_999), TIMEOUT), Some(endpoint(1)));
        assert_eq!(new.find(ip(7), UnixMillis(15_000), TIMEOUT), None, "its time goes on");
        for n in 0..10_000 {
            new.inherit(ip(n), endpoint(1), UnixMillis(0));
        }
        assert!(new.len() <= SHARDS * 4);
    }

    #[test]
    fn a_client_whose_endpoint_left_is_forgotten() {
        let table = AffinityTable::default();
        table.remember(ip(1), endpoint(1), UnixMillis(0), TIMEOUT);
        table.remember(ip(2), endpoint(2), UnixMillis(0), TIMEOUT);
        table.keep_only(|addr| addr == endpoint(2));
        assert_eq!(table.find(ip(1), UnixMillis(1), TIMEOUT), None);
        assert_eq!(table.find(ip(2), UnixMillis(1), TIMEOUT), Some(endpoint(2)));
    }
}
