//! How long an endpoint takes to answer: a moving average that rises at once and falls with time (peak EWMA).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{affinity::UnixMillis, limits::EWMA_DECAY};

/// The average of one endpoint. It is one word, so that it and its time are always read and written together.
///
/// The upper half is the average in microseconds (`f32`, at least 1; 0 before the first answer), the lower half the
/// milliseconds at which it was so. The milliseconds begin anew every 49 days: an endpoint that was silent
/// for that long seems fresh, and the next answer mends it.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

impl Latency {
    /// Takes up that an answer took `latency`.
    ///
    /// A longer one counts at once: an endpoint that got slow must lose its share with the first answer that shows it.
    /// A shorter one counts the more, the longer the last is ago, as ingress-nginx's `ewma.lua` has it.
    pub(crate) fn observe(&self, latency: Duration, now: UnixMillis) {
        let new = (latency.as_nanos() as f32 / 1e3).max(1.0);
        let mut held = self.0.load(Ordering::Relaxed);
        loop {
            let (average, at) = unpack(held);
            let remains = remains(at, now);
            let decayed = average * remains;
            let next = if average == 0.0 || new > decayed { new } else { decayed + new * (1.0 - remains) };
            match self.0.compare_exchange_weak(held, pack(next, now), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => held = other,
            }
        }
    }

    /// Microseconds that an answer is thought to take, less with every moment without one, so that an endpoint that
    /// was slow is tried again; `None` before the first answer.
    pub(crate) fn expected(&self, now: UnixMillis) -> Option<f32> {
        let (average, at) = unpack(self.0.load(Ordering::Relaxed));
        (average > 0.0).then(|| average * remains(at, now))
    }

    /// Forgets every answer.
    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What is left of an average after a time without an answer.
fn remains(at: u32, now: UnixMillis) -> f32 {
    // Another thread's clock may be read a moment earlier and used a moment later than ours.
    let elapsed = (now.0 as u32).wrapping_sub(at).cast_signed().max(0);
    (-(elapsed as f32) / EWMA_DECAY.as_millis() as f32).exp()
}

fn pack(average: f32, now: UnixMillis) -> u64 {
    u64::from(average.to_bits()) << 32 | now.0 & u64::from(u32::MAX)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(latency: &Latency, now: u64) -> f32 {
        latency.expected(UnixMillis(now)).unwrap() / 1e3
    }

    #[test]
    fn rises_at_once_and_falls_with_time() {
        let latency = Latency::default();
        assert_eq!(latency.expected(UnixMillis(5)), None);
        latency.observe(Duration::from_millis(10), UnixMillis(1_000));
        latency.observe(Duration::from_millis(100), UnixMillis(1_001));
        assert!((millis(&latency, 1_001) - 100.0).abs() < 0.1);
        // After 10 s, 1/e of it is left; then an answer of 10 ms weighs 1 - 1/e.
        assert!((millis(&latency, 11_001) - 36.8).abs() < 0.1);
        latency.observe(Duration::from_millis(10), UnixMillis(11_001));
        assert!((millis(&latency, 11_001) - (36.8 + 6.3)).abs() < 0.2);
        latency.forget();
        assert_eq!(latency.expected(UnixMillis(5)), None);
    }

    #[test]
    fn survives_the_end_of_its_milliseconds_and_a_clock_that_is_behind() {
        let latency = Latency::default();
        let before = u64::from(u32::MAX) - 10;
        latency.observe(Duration::from_millis(50), UnixMillis(before));
        assert!((millis(&latency, before + 20) - 49.9).abs() < 0.2);
        assert!((millis(&latency, before - 20) - 50.0).abs() < 0.1);
    }

    proptest! {
        /// Whatever the answers, the average lies between nothing and the longest of them.
        #[test]
        fn stays_within_what_was_seen(answers in prop::collection::vec((0..10_000_000u64, 0..60_000u64), 1..50)) {
            let latency = Latency::default();
            let (mut now, mut longest) = (1, 1.0f32);
            for (micros, pause) in answers {
                now += pause;
                longest = longest.max(micros as f32);
                latency.observe(Duration::from_micros(micros), UnixMillis(now));
                let expected = latency.expected(UnixMillis(now)).unwrap();
                prop_assert!(expected > 0.0 && expected <= longest * 1.001, "{expected} of {longest}");
            }
        }
    }
}
