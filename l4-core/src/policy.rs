//! How a port treats its endpoints beyond what Kubernetes says of them: plain data.
//!
//! By default nothing of it is on. In a cluster the kubelet's readiness is the truth about a pod: it asks the pod itself,
//! while a proxy sees no more than its own connections, and mistakes a pod that is slow under load, or a network that
//! is broken on this node alone, for a dead one. Taking such a pod out moves its load to the others and can make
//! an overload worse, and with two pods it halves what there is. kube-proxy and ingress-nginx never do so. A connect that
//! fails is tried elsewhere whatever the policy. Who wants more turns it on for a Service: it pays most where readiness
//! comes late, as after a node died (its pods stay ready for 40 s and more).

use std::{sync::Arc, time::Duration};

use crate::{
    limits::{
        EJECTION_MAX_SHARE, EJECTION_MAX_TIME, EJECTION_TIME, MAX_FAILURES, PROBE_HEALTHY, PROBE_INTERVAL,
        PROBE_TIMEOUT, PROBE_UNHEALTHY,
    },
    model::Balance,
};

/// How one port treats its endpoints, and how much it lets in.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointPolicy {
    /// How a gateway chooses, which does it for each request rather than for each connection. In turns unless the user
    /// says otherwise, as ingress-nginx does.
    pub request_balance: Balance,
    /// Endpoints that fail again and again are left out for a while; `None` never does so.
    pub ejection: Option<Ejection>,
    /// An endpoint that is new, or came back, gets a share that grows to a full one over this time; zero is at once.
    pub slow_start: Duration,
    /// Endpoints are asked whether they are well; `None` leaves that to the kubelet.
    pub probe: Option<Arc<Probe>>,
    /// How much is let in at once.
    pub admission: Admission,
}

impl Default for EndpointPolicy {
    fn default() -> Self {
        Self {
            request_balance: Balance::RoundRobin,
            ejection: None,
            slow_start: Duration::ZERO,
            probe: None,
            admission: Admission::default(),
        }
    }
}

/// When an endpoint that fails is left out, and for how long (passive health checking, outlier detection).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Failures in a row, with no success between them, after which it is left out.
    pub max_failures: u32,
    /// How long it is left out the first time. Each further time, with no longer in use between them than out, is twice the
    /// one before, up to [`EJECTION_MAX_TIME`].
    pub time: Duration,
    /// Percent of a port's endpoints that may be left out at once, rounded down: of two endpoints 50 % is one.
    pub max_share: u8,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { max_failures: MAX_FAILURES, time: EJECTION_TIME, max_share: EJECTION_MAX_SHARE }
    }
}

impl Ejection {
    /// How long the `nth` ejection in a row lasts, from 1.
    pub fn lasts(&self, nth: u32) -> Duration {
        let longest = EJECTION_MAX_TIME.max(self.time);
        let factor = 1u32.checked_shl(nth.saturating_sub(1)).unwrap_or(u32::MAX);
        self.time.saturating_mul(factor).min(longest)
    }
}

/// How an endpoint is asked whether it is well (active health checking). The words and defaults are those of a
/// kubelet's probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub question: Question,
    /// The port to ask; `None` is the endpoint's own.
    pub port: Option<u16>,
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row after which an endpoint that failed is used again.
    pub healthy: u32,
    /// Bad answers in a row after which an endpoint is left out.
    pub unhealthy: u32,
}

impl Probe {
    /// The usual probe with a question.
    pub fn new(question: Question) -> Self {
        Self {
            question,
            port: None,
            interval: PROBE_INTERVAL,
            timeout: PROBE_TIMEOUT,
            healthy: PROBE_HEALTHY,
            unhealthy: PROBE_UNHEALTHY,
        }
    }
}

/// What a [`Probe`] asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it accepts a connection.
    Tcp,
    /// What HTTP status it gives this path: 200 to 399 is good, as for a kubelet.
    Http {
        /// The path, and the query if there is one.
        path: Arc<str>,
    },
}

/// How many connections or requests one port takes at once, over the whole process (circuit breaking).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// From when they come until they are over.
    pub max_in_flight: Option<u32>,
    /// From when they come until they have a connection to an endpoint.
    pub max_pending: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ejection_in_a_row_lasts_twice_as_long_up_to_the_longest() {
        let seconds = |ejection: Ejection, nth| ejection.lasts(nth).as_secs();
        let usual = Ejection::default();
        let all: Vec<u64> = (1..8).map(|nth| seconds(usual, nth)).collect();
        assert_eq!(all, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(seconds(usual, u32::MAX), 300);
        let long = Ejection { time: Duration::from_secs(1_000), ..usual };
        assert_eq!((seconds(long, 1), seconds(long, 9)), (1_000, 1_000), "what the user asked for is never cut");
    }
}
