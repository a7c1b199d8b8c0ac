//! Counters of the HTTP data plane that belong to no rule.

use std::{iter, sync::Arc};

use tidegate_l4::stats::Counter;

use super::failure::Kind;
use crate::route::stats::RuleStats;

/// What one worker has done since the process began. Only its own thread writes it, so nothing is waited for; readers add up all
/// workers' ([`sum`]).
#[derive(Debug, Default)]
// Two lines of 64 bytes, because processors fetch them in pairs: no other worker's writes are near.
#[repr(align(128))]
pub struct HttpStats {
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections ended.
    pub closed: Counter,
    /// Accepts that failed, mostly for want of file descriptors.
    pub accept_errors: Counter,
    /// Connections without the PROXY protocol header that every one must begin with.
    pub bad_proxy_header: Counter,
    /// Requests begun.
    pub requests: Counter,
    /// Requests ended: answered to the last byte, or given up.
    pub ended: Counter,
    /// Requests that met no rule, by status; the same for all workers.
    pub unmatched: Arc<RuleStats>,
    /// Connections to pods opened.
    pub upstream_opened: Counter,
    /// Requests sent on a connection that was kept.
    pub upstream_reused: Counter,
    /// Requests sent again because the pod had just closed the connection that was kept.
    pub upstream_resent: Counter,
    /// Requests sent to another pod because the one before gave no answer, or one that the rule does not accept.
    pub upstream_retried: Counter,
    /// TLS handshakes that succeeded.
    pub tls_accepted: Counter,
    /// TLS connections that came to nothing.
    pub tls_failed: Counter,
    /// HTTP/2 connections closed because their clients flooded us.
    pub h2_floods: Counter,
    /// Bytes from clients, heads included.
    pub bytes_in: Counter,
    /// Bytes to clients, heads included.
    pub bytes_out: Counter,
    opened_by_kind: [Counter; ConnectionKind::ALL.len()],
    closed_by_kind: [Counter; ConnectionKind::ALL.len()],
    failures: [Counter; Kind::ALL.len()],
}

/// What a client's connection is; one is of several kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
    /// HTTP/1.
    H1,
    /// HTTP/2.
    H2,
    /// It, or a stream of it, became something else: a WebSocket, for example.
    Upgraded,
}

impl ConnectionKind {
    /// Every kind, in the order of its numbers.
    pub const ALL: [Self; 5] = [Self::Http, Self::Https, Self::H1, Self::H2, Self::Upgraded];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H1 => "h1",
            Self::H2 => "h2",
            Self::Upgraded => "upgraded",
        }
    }
}

/// A connection of some kind that is open; dropping it ends it.
#[derive(Debug)]
#[must_use = "dropping it at once counts a connection that is closed"]
pub struct OpenConnection {
    stats: Arc<HttpStats>,
    kind: ConnectionKind,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.stats.closed_by_kind[self.kind as usize].add(1);
    }
}

impl HttpStats {
    /// The counters of so many workers.
    pub fn of_workers(count: usize) -> Arc<[Arc<Self>]> {
        let unmatched = Arc::<RuleStats>::default();
        let new = || Arc::new(Self { unmatched: unmatched.clone(), ..Self::default() });
        iter::repeat_with(new).take(count).collect()
    }

    /// Client connections open now.
    pub fn connections(&self) -> u64 {
        let closed = self.closed.value();
        self.accepted.value().saturating_sub(closed)
    }

    /// Requests under way now.
    pub fn under_way(&self) -> u64 {
        let ended = self.ended.value();
        self.requests.value().saturating_sub(ended)
    }

    /// Counts a connection of some kind for as long as the receipt lives.
    pub fn open(self: &Arc<Self>, kind: ConnectionKind) -> OpenConnection {
        self.opened_by_kind[kind as usize].add(1);
        OpenConnection { stats: self.clone(), kind }
    }

    /// Connections of a kind so far, and those open now.
    pub fn connections_of(&self, kind: ConnectionKind) -> (u64, u64) {
        let closed = self.closed_by_kind[kind as usize].value();
        let opened = self.opened_by_kind[kind as usize].value();
        (opened, opened.saturating_sub(closed))
    }

    /// How often requests failed in this way.
    pub fn failures_of(&self, kind: Kind) -> u64 {
        self.failures[kind as usize].value()
    }

    /// How often requests failed, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().zip(self.failures.iter().map(Counter::value))
    }

    pub(crate) fn count_failure(&self, kind: Kind) {
        self.failures[kind as usize].add(1);
    }
}

/// A number of all workers together.
pub fn sum(workers: &[Arc<HttpStats>], number: impl Fn(&HttpStats) -> u64) -> u64 {
    workers.iter().map(|stats| number(stats)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_numbered_in_order() {
        assert!(ConnectionKind::ALL.into_iter().enumerate().all(|(n, kind)| kind as usize == n));
    }

    #[test]
    fn workers_count_apart_and_are_added_up() {
        let workers = HttpStats::of_workers(3);
        let open = workers[0].open(ConnectionKind::H1);
        drop(workers[2].open(ConnectionKind::H1));
        let h1 = |stats: &HttpStats| stats.connections_of(ConnectionKind::H1);
        assert_eq!((sum(&workers, |stats| h1(stats).0), sum(&workers, |stats| h1(stats).1)), (2, 1));
        assert_eq!(h1(&workers[1]), (0, 0));
        assert!(Arc::ptr_eq(&workers[0].unmatched, &workers[2].unmatched));
        drop(open);
        assert_eq!(h1(&workers[0]), (1, 0));
    }
}
