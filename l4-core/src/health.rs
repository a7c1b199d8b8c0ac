//! How one endpoint does: ejection after failures (outlier detection), slow start, and the verdict of its probe.
//!
//! Everything is an atomic, read for each choice and written when something happens. Time comes in as an argument.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    affinity::UnixMillis,
    endpoints::LATER,
    policy::{Ejection, EndpointPolicy, Probe},
};

/// Whether an endpoint is chosen at present, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// It has its full share.
    InUse,
    /// It is new, or came back, and its share still grows.
    SlowStart {
        /// What it has of a full share, 0 to 1.
        share: f32,
    },
    /// It failed too often in a row.
    Ejected {
        /// When it comes back.
        until: UnixMillis,
    },
    /// It fails its probe.
    ProbeFails,
}

/// What a probe says of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet, which does not keep it from use.
    #[default]
    Unknown,
    /// It is well.
    Passing,
    /// It is not, and is left out.
    Failing,
}

/// The slow start begins when the endpoint is first considered: who builds a set has no clock.
const UNSEEN: u64 = u64::MAX;

#[derive(Debug, Default)]
pub(crate) struct Health {
    /// In a row.
    failures: AtomicU32,
    ejected_until: AtomicU64,
    /// How many ejections in a row the last one was.
    nth: AtomicU32,
    ejections: AtomicU64,
    /// When the slow start began; 0 for an endpoint that needs none, or [`UNSEEN`].
    since: AtomicU64,
    /// [`Verdict`], the last answer, and how often in a row it came; see [`ProbeWord`].
    probe: AtomicU32,
}

impl Health {
    /// What an endpoint has that is new, or came back: no past, and a slow start if others can spare it one.
    pub(crate) fn renew(&self, slowly: bool) {
        self.failures.store(0, Relaxed);
        self.ejected_until.store(0, Relaxed);
        self.nth.store(0, Relaxed);
        self.since.store(if slowly { UNSEEN } else { 0 }, Relaxed);
        self.forget_probe();
    }

    /// It is about to be considered for the first time.
    pub(crate) fn begin(&self, now: UnixMillis) {
        if self.since.load(Relaxed) == UNSEEN {
            // Whoever comes second finds the time that the first has set.
            let _ = self.since.compare_exchange(UNSEEN, now.0, Relaxed, Relaxed);
        }
    }

    pub(crate) fn standing(&self, policy: &EndpointPolicy, now: UnixMillis) -> Standing {
        let ejected_until = self.ejected_until.load(Relaxed);
        if policy.ejection.is_some() && ejected_until > now.0 {
            return Standing::Ejected { until: UnixMillis(ejected_until) };
        }
        if policy.probe.is_some() && self.verdict() == Verdict::Failing {
            return Standing::ProbeFails;
        }
        if policy.slow_start == Duration::ZERO || now == LATER {
            return Standing::InUse;
        }
        let begun = match self.since.load(Relaxed) {
            UNSEEN => return Standing::SlowStart { share: 0.0 },
            since => since.max(ejected_until),
        };
        let elapsed = Duration::from_millis(now.0.saturating_sub(begun));
        if begun == 0 || elapsed >= policy.slow_start {
            return Standing::InUse;
        }
        Standing::SlowStart { share: elapsed.as_secs_f32() / policy.slow_start.as_secs_f32() }
    }

    pub(crate) fn is_ejected(&self, now: UnixMillis) -> bool {
        self.ejected_until.load(Relaxed) > now.0
    }

    /// Counts a failure; whether there were enough of them in a row to eject.
    pub(crate) fn failed(&self, ejection: &Ejection, now: UnixMillis) -> bool {
        // What fails while it is out began before that, or had no choice.
        !self.is_ejected(now) && self.failures.fetch_add(1, Relaxed).saturating_add(1) >= ejection.max_failures
    }

    /// The row of failures is broken.
    pub(crate) fn succeeded(&self) {
        // Mostly there is none, and a read does not take the cache line from other workers.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Takes it out for a while. When it comes back it is on trial: one more failure ejects it again, a success clears it.
    pub(crate) fn eject(&self, ejection: &Ejection, now: UnixMillis) {
        let (last_end, nth) = (self.ejected_until.load(Relaxed), self.nth.load(Relaxed));
        let in_use_for = Duration::from_millis(now.0.saturating_sub(last_end));
        let nth = if in_use_for < ejection.lasts(nth) { nth.saturating_add(1) } else { 1 };
        let millis = ejection.lasts(nth).as_millis().try_into().unwrap_or(u64::MAX);
        self.nth.store(nth, Relaxed);
        self.ejections.fetch_add(1, Relaxed);
        self.failures.store(ejection.max_failures.saturating_sub(1), Relaxed);
        self.ejected_until.store(now.0.saturating_add(millis), Relaxed);
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    pub(crate) fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    pub(crate) fn verdict(&self) -> Verdict {
        ProbeWord::unpack(self.probe.load(Relaxed)).verdict
    }

    /// Takes up a probe's answer; the verdict if it is another than before. Answers come one after the other.
    pub(crate) fn probed(&self, good: bool, probe: &Probe, now: UnixMillis) -> Option<Verdict> {
        let before = ProbeWord::unpack(self.probe.load(Relaxed));
        let after = before.next(good, probe);
        self.probe.store(after.pack(), Relaxed);
        if (before.verdict, after.verdict) == (Verdict::Failing, Verdict::Passing) {
            self.since.store(now.0, Relaxed);
        }
        (before.verdict != after.verdict).then_some(after.verdict)
    }

    pub(crate) fn forget_probe(&self) {
        self.probe.store(0, Relaxed);
    }
}

/// A verdict, and how it may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ProbeWord {
    verdict: Verdict,
    last_good: bool,
    in_a_row: u32,
}

impl ProbeWord {
    /// A verdict changes with enough answers of the other kind in a row.
    fn next(self, good: bool, probe: &Probe) -> Self {
        let in_a_row = if good == self.last_good { self.in_a_row.saturating_add(1).min(MAX_IN_A_ROW) } else { 1 };
        let verdict = match good {
            true if in_a_row >= probe.healthy => Verdict::Passing,
            false if in_a_row >= probe.unhealthy => Verdict::Failing,
            _ => self.verdict,
        };
        Self { verdict, last_good: good, in_a_row }
    }

    fn pack(self) -> u32 {
        let verdict = match self.verdict {
            Verdict::Unknown => 0,
            Verdict::Passing => 1,
            Verdict::Failing => 2,
        };
        verdict << 30 | u32::from(self.last_good) << 29 | self.in_a_row
    }

    fn unpack(word: u32) -> Self {
        let verdict = match word >> 30 {
            0 => Verdict::Unknown,
            1 => Verdict::Passing,
            _ => Verdict::Failing,
        };
        Self { verdict, last_good: word >> 29 & 1 == 1, in_a_row: word & MAX_IN_A_ROW }
    }
}

/// What fits beside the verdict; no threshold is near it.
const MAX_IN_A_ROW: u32 = (1 << 29) - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::Question;

    const EJECTION: Ejection = Ejection { max_failures: 3, time: Duration::from_secs(10), max_share: 50 };

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(1_000_000 + seconds * 1_000)
    }

    fn policy(slow_start: u64) -> EndpointPolicy {
        let slow_start = Duration::from_secs(slow_start);
        EndpointPolicy { ejection: Some(EJECTION), slow_start, ..EndpointPolicy::default() }
    }

    #[test]
    fn a_success_breaks_the_row() {
        let health = Health::default();
        for _ in 0..100 {
            assert!(!health.failed(&EJECTION, at(0)) && !health.failed(&EJECTION, at(0)));
            health.succeeded();
        }
        assert!(!health.failed(&EJECTION, at(0)) && !health.failed(&EJECTION, at(0)));
        assert!(health.failed(&EJECTION, at(0)), "the third in a row");
    }

    #[test]
    fn who_comes_back_is_on_trial_and_is_out_for_longer_each_time_until_it_did_well_for_as_long() {
        let (health, policy) = (Health::default(), policy(0));
        health.eject(&EJECTION, at(0));
        assert_eq!(health.standing(&policy, at(9)), Standing::Ejected { until: at(10) });
        assert!(!health.failed(&EJECTION, at(9)), "what fails meanwhile does not count");
        assert_eq!(health.standing(&policy, at(10)), Standing::InUse);
        assert!(health.failed(&EJECTION, at(11)), "one is enough now");
        health.eject(&EJECTION, at(11));
        assert_eq!(health.standing(&policy, at(11)), Standing::Ejected { until: at(31) });
        health.succeeded();
        assert!(!health.failed(&EJECTION, at(50)), "a success cleared it");
        health.eject(&EJECTION, at(51));
        assert_eq!(
            health.standing(&policy, at(51)),
            Standing::Ejected { until: at(61) },
            "20 s in use: as the first time"
        );
        assert_eq!(health.ejections(), 3);
    }

    #[test]
    fn a_policy_that_is_turned_off_lets_everybody_in() {
        let health = Health::default();
        health.eject(&EJECTION, at(0));
        assert_eq!(health.standing(&EndpointPolicy::default(), at(0)), Standing::InUse);
    }

    #[test]
    fn slow_start_grows_evenly_from_when_it_was_first_seen_or_came_back() {
        let (health, policy) = (Health::default(), policy(20));
        assert_eq!(health.standing(&policy, at(0)), Standing::InUse, "what was there from the beginning needs none");
        health.renew(true);
        assert_eq!(health.standing(&policy, at(0)), Standing::SlowStart { share: 0.0 });
        health.begin(at(5));
        health.begin(at(9));
        assert_eq!(health.standing(&policy, at(10)), Standing::SlowStart { share: 0.25 });
        assert_eq!(health.standing(&policy, at(25)), Standing::InUse);
        health.eject(&EJECTION, at(30));
        assert_eq!(health.standing(&policy, at(45)), Standing::SlowStart { share: 0.25 });
        health.renew(true);
        assert_eq!(health.standing(&policy, at(35)), Standing::SlowStart { share: 0.0 }, "ready again: not ejected");
    }

    #[test]
    fn a_verdict_needs_its_answers_in_a_row() {
        let probe = Probe { healthy: 2, unhealthy: 3, ..Probe::new(Question::Tcp) };
        let policy = EndpointPolicy { probe: Some(probe.clone().into()), ..policy(10) };
        let health = Health::default();
        let mut say = |good| health.probed(good, &probe, at(100));
        assert_eq!([true, true, true].map(&mut say), [None, Some(Verdict::Passing), None]);
        assert_eq!([false, false, true, false, false].map(&mut say), [None; 5]);
        assert_eq!(health.standing(&policy, at(100)), Standing::InUse);
        assert_eq!(say(false), Some(Verdict::Failing));
        assert_eq!(health.standing(&policy, at(100)), Standing::ProbeFails);
        assert_eq!([true, true].map(say), [None, Some(Verdict::Passing)]);
        assert_eq!(health.standing(&policy, at(105)), Standing::SlowStart { share: 0.5 });
        health.forget_probe();
        assert_eq!(health.verdict(), Verdict::Unknown);
    }

    proptest! {
        #[test]
        fn a_word_is_read_as_it_was_written(verdict in 0..3usize, last_good in any::<bool>(), in_a_row in 0..=MAX_IN_A_ROW) {
            let verdict = [Verdict::Unknown, Verdict::Passing, Verdict::Failing][verdict];
            let word = ProbeWord { verdict, last_good, in_a_row };
            prop_assert_eq!(ProbeWord::unpack(word.pack()), word);
        }
    }
}
