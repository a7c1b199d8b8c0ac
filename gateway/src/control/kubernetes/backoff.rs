//! `Backoff`: how long a watch waits before it tries again.

use std::time::{Duration, Instant};

use crate::control::limits::{FIRST_PAUSE, FORGIVEN, LONGEST_PAUSE};

/// The pauses of one watch.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    /// The last pause, and when it was over.
    last: Option<(Duration, Instant)>,
}

impl Backoff {
    /// The pause after a failure at `now`. `chance`, from 0 to 1, spreads those that failed together.
    pub(super) fn pause(&mut self, now: Instant, chance: f64) -> Duration {
        let full = match self.last {
            Some((last, over)) if now.saturating_duration_since(over) < FORGIVEN => (last * 2).min(LONGEST_PAUSE),
            Some(_) | None => FIRST_PAUSE,
        };
        let pause = full.mul_f64(chance.mul_add(0.5, 0.5));
        self.last = Some((full, now + pause));
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_are_forgiven() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let pause = backoff.pause(now, 1.0);
            now += pause + Duration::from_millis(1);
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        now += FORGIVEN;
        assert_eq!(backoff.pause(now, 1.0), FIRST_PAUSE);
    }

    #[test]
    fn those_that_failed_together_try_again_apart() {
        assert_eq!(Backoff::default().pause(Instant::now(), 0.0), FIRST_PAUSE / 2);
        assert_eq!(Backoff::default().pause(Instant::now(), 0.5), FIRST_PAUSE * 3 / 4);
    }
}
