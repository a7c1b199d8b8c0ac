//! What is known of one endpoint of one port and outlives a configuration: counters, latency, health.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    affinity::UnixMillis,
    health::{Health, Verdict},
    latency::Latency,
    policy::Probe,
};

/// What outlives a configuration: how one endpoint of one port does.
#[derive(Debug, Default)]
pub struct EndpointState {
    in_flight: AtomicU32,
    picks: AtomicU64,
    connect_failures: AtomicU64,
    latency: Latency,
    pub(crate) health: Health,
}

impl EndpointState {
    /// Connections or requests it carries now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How often it was chosen and answered.
    pub fn picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed)
    }

    /// How often a connect to it failed.
    pub fn connect_failures(&self) -> u64 {
        self.connect_failures.load(Ordering::Relaxed)
    }

    /// Notes that a connect to it failed. Ejection is told by [`EndpointSet::failed`](crate::endpoints::EndpointSet::failed).
    pub fn count_connect_failure(&self) {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection or request for as long as the receipt lives.
    pub fn carry(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.picks.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Notes how long an answer took (at L4: a connect): what [`Balance::Ewma`](crate::model::Balance::Ewma) goes by.
    pub fn observe(&self, latency: Duration, now: UnixMillis) {
        self.latency.observe(latency, now);
    }

    /// How long an answer is thought to take; `None` before the first was [observed](Self::observe).
    pub fn expected_latency(&self, now: UnixMillis) -> Option<Duration> {
        self.latency.expected(now).map(|micros| Duration::from_secs_f32(micros / 1e6))
    }

    /// It did what it was asked: its row of failures is broken. Costs one read where there is none.
    pub fn succeeded(&self) {
        self.health.succeeded();
    }

    /// Failures in a row; what a failure is, the plane says. Counted only where there is ejection.
    pub fn failures(&self) -> u32 {
        self.health.failures()
    }

    /// How often it was ejected.
    pub fn ejections(&self) -> u64 {
        self.health.ejections()
    }

    /// Whether it is ejected at present.
    pub fn is_ejected(&self, now: UnixMillis) -> bool {
        self.health.is_ejected(now)
    }

    /// Takes up one answer of `probe`. The verdict, if this answer changed it.
    pub fn set_probe(&self, good: bool, probe: &Probe, now: UnixMillis) -> Option<Verdict> {
        self.health.probed(good, probe, now)
    }

    /// Forgets what a probe said: it begins, or is over.
    pub fn forget_probe(&self) {
        self.health.forget_probe();
    }

    /// What its probe says.
    pub fn verdict(&self) -> Verdict {
        self.health.verdict()
    }

    /// What an endpoint has that is new, or came back: no past but the counters, and perhaps a slow start.
    pub(crate) fn renew(&self, slowly: bool) {
        self.latency.forget();
        self.health.renew(slowly);
    }

    /// What one more request costs here: the latency for each that it carries, and for the new one (peak EWMA as in
    /// Finagle). One that never answered is tried, but with one request at a time.
    pub fn cost(&self, now: UnixMillis) -> f32 {
        let in_flight = self.in_flight() as f32;
        match self.latency.expected(now) {
            Some(micros) => micros * (in_flight + 1.0),
            None if in_flight == 0.0 => 0.0,
            None => UNANSWERED + in_flight,
        }
    }
}

/// More than any latency times any load: microseconds in 12 days.
const UNANSWERED: f32 = 1e12;

/// Receipt for one connection or request an endpoint carries; dropping it ends the count.
#[derive(Debug)]
#[must_use = "dropping it at once counts nothing"]
pub struct InFlight(Arc<EndpointState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_grow_with_latency_and_load_and_a_stranger_gets_one_request() {
        let now = UnixMillis(1_000);
        let state = Arc::new(EndpointState::default());
        assert_eq!(state.cost(now), 0.0);
        let receipt = state.carry();
        assert!(state.cost(now) > UNANSWERED / 2.0);
        state.observe(Duration::from_millis(2), now);
        assert_eq!(state.cost(now), 4_000.0);
        drop(receipt);
        assert_eq!(state.cost(now), 2_000.0);
        assert_eq!(state.expected_latency(now).map(|latency| latency.as_micros()), Some(2_000));
        state.renew(true);
        assert_eq!((state.cost(now), state.picks()), (0.0, 1));
    }
}
