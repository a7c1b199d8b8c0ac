//! Counters of one service port; they outlive configurations and are read when somebody asks for metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What one service port has done since the process began.
#[derive(Debug, Default)]
pub struct PortStats {
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
    /// Connections or flows open now.
    pub fn active(&self) -> u64 {
        self.accepted.value().saturating_sub(self.closed.value())
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection or flow that is open: counted when it begins and when it ends.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) stats: Arc<PortStats>,
}

impl Open {
    pub(crate) fn new(stats: Arc<PortStats>) -> Self {
        stats.accepted.add(1);
        Self { stats }
    }

    /// Counts bytes that were delivered; the counters are shared by all workers, so "none" does not touch them.
    pub(crate) fn count(&self, bytes_in: u64, bytes_out: u64) {
        if bytes_in > 0 {
            self.stats.bytes_in.add(bytes_in);
        }
        if bytes_out > 0 {
            self.stats.bytes_out.add(bytes_out);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stats.closed.add(1);
    }
}
