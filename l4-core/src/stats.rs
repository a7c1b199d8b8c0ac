//! Counters that many threads write: each has its own, and whoever reads adds them up.
//!
//! A counter that two cores write costs each of them a trip to the other's cache for every connection and every request. So
//! nothing here is shared by writers: [`Sharded`] gives each thread a copy of its own, made when the thread first counts
//! something, and a [`Counter`] is a plain load and store. Readers come a few times a minute and may take their time.
//!
//! What belongs to one port lives in its [`PortStats`], which outlives configurations.

mod sharded;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

pub use sharded::Sharded;

use crate::endpoints::{EndpointIndex, EndpointSet};

/// A number that only grows, written by one thread at a time and read by any.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Two threads that do this at once lose counts: that is what [`Sharded`] is for.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one service port has done since the process began, over all threads.
#[derive(Debug, Default)]
pub struct PortStats(Sharded<PortCounters>);

/// One thread's part of a port's counters.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Connections (or UDP flows) for which an endpoint was sought: those turned away before are not among them.
    pub accepted: Counter,
    /// Connections (or UDP flows) that have ended: `accepted` less this are open now.
    pub closed: Counter,
    /// Bytes from clients to endpoints.
    pub bytes_in: Counter,
    /// Bytes from endpoints to clients.
    pub bytes_out: Counter,
    /// Choices that ClientIP affinity made.
    pub affinity_hits: Counter,
    /// Choices made anew although the Service has ClientIP affinity.
    pub affinity_misses: Counter,
    /// Clients (of UDP: datagrams) turned away, for want of an endpoint or by source range.
    pub refused: Counter,
    /// Clients for whom no candidate could be connected.
    pub connect_failed: Counter,
    /// Clients whose PROXY protocol header was missing or wrong.
    pub bad_proxy_header: Counter,
}

impl PortStats {
    /// The calling thread's part, to count in.
    pub fn mine(&self) -> &PortCounters {
        self.0.mine()
    }

    /// Counts whether ClientIP affinity, if there is any, chose what was chosen.
    pub(crate) fn count_affinity(&self, set: &EndpointSet, remembered: Option<EndpointIndex>, chosen: EndpointIndex) {
        if set.affinity_timeout().is_some() {
            let (mine, hit) = (self.mine(), remembered == Some(chosen));
            if hit { &mine.affinity_hits } else { &mine.affinity_misses }.add(1);
        }
    }

    /// One counter, over all threads.
    pub fn sum(&self, counter: fn(&PortCounters) -> &Counter) -> u64 {
        self.0.each().map(|counters| counter(counters).value()).sum()
    }

    /// Connections or flows open now.
    pub fn active(&self) -> u64 {
        // In this order: what ends between the two looks must not count as ended before it began.
        let closed = self.sum(|port| &port.closed);
        self.sum(|port| &port.accepted).saturating_sub(closed)
    }
}

/// A connection or flow that is open: counted when it begins and when it ends.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) stats: Arc<PortStats>,
}

impl Open {
    pub(crate) fn new(stats: Arc<PortStats>) -> Self {
        stats.mine().accepted.add(1);
        Self { stats }
    }

    /// Counts bytes that were delivered.
    pub(crate) fn count(&self, bytes_in: u64, bytes_out: u64) {
        let mine = self.stats.mine();
        mine.bytes_in.add(bytes_in);
        mine.bytes_out.add(bytes_out);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stats.mine().closed.add(1);
    }
}
