//! Counters of the HTTP data plane that belong to no rule.

use tidegate_l4::stats::Counter;

use super::failure::Kind;
use crate::route::stats::RuleStats;

/// What the HTTP data plane has done since the process began, over all workers.
#[derive(Debug, Default)]
pub struct HttpStats {
    /// Client connections accepted.
    pub accepted: Counter,
    /// Client connections ended.
    pub closed: Counter,
    /// Accepts that failed, mostly for want of file descriptors.
    pub accept_errors: Counter,
    /// TLS handshakes that succeeded.
    pub tls_accepted: Counter,
    /// TLS connections that came to nothing.
    pub tls_failed: Counter,
    /// Connections without the PROXY protocol header that every one must begin with.
    pub bad_proxy_header: Counter,
    /// Requests begun.
    pub requests: Counter,
    /// Requests ended: answered to the last byte, or given up.
    pub ended: Counter,
    /// Requests that met no rule, by status.
    pub unmatched: RuleStats,
    /// Connections to pods opened.
    pub upstream_opened: Counter,
    /// Requests sent on a connection that was kept.
    pub upstream_reused: Counter,
    /// Requests sent again because the pod had just closed the connection that was kept.
    pub upstream_resent: Counter,
    /// Requests sent to another pod because the one before gave no answer, or one that the rule does not accept.
    pub upstream_retried: Counter,
    /// Connections whose protocol has changed.
    pub upgraded: Counter,
    /// Bytes from clients, heads included.
    pub bytes_in: Counter,
    /// Bytes to clients, heads included.
    pub bytes_out: Counter,
    failures: [Counter; Kind::ALL.len()],
}

impl HttpStats {
    /// Client connections open now.
    pub fn connections(&self) -> u64 {
        self.accepted.value().saturating_sub(self.closed.value())
    }

    /// Requests under way now.
    pub fn under_way(&self) -> u64 {
        self.requests.value().saturating_sub(self.ended.value())
    }

    /// How often requests failed, by kind.
    pub fn failures(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        Kind::ALL.into_iter().zip(self.failures.iter().map(Counter::value))
    }

    pub(crate) fn count_failure(&self, kind: Kind) {
        self.failures[kind as usize].add(1);
    }
}
