//! Counters of one service port; they outlive configurations and are read when somebody asks for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// What one service port has done since the process began.
#[derive(Debug, Default)]
pub struct PortStats {
    /// Connections (or UDP flows) accepted.
    pub accepted: Counter,
    /// Connections (or UDP flows) open now: `accepted` less this is what has ended.
    pub closed: Counter,
    /// Bytes from clients to endpoints.
    pub bytes_in: Counter,
    /// Bytes from endpoints to clients.
    pub bytes_out: Counter,
    /// Choices that ClientIP affinity made.
    pub affinity_hits: Counter,
    /// Choices made anew although the Service has ClientIP affinity.
    pub affinity_misses: Counter,
    /// Clients turned away, for want of an endpoint or by source range.
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
