//! Warnings about pods, at a rate a log can bear.

use std::{cell::Cell, time::Instant};

/// Lets so many warnings a second pass and counts the others.
#[derive(Debug)]
pub(crate) struct WarnLimit {
    per_second: u32,
    second: Cell<Instant>,
    passed: Cell<u32>,
    held_back: Cell<u64>,
}

impl WarnLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, second: Cell::new(Instant::now()), passed: Cell::new(0), held_back: Cell::new(0) }
    }

    /// Whether a warning may be written, and how many were not since the last one.
    pub(crate) fn pass(&self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.second.get()).as_secs() > 0 {
            self.second.set(now);
            self.passed.set(0);
        }
        if self.passed.get() >= self.per_second {
            self.held_back.set(self.held_back.get() + 1);
            return None;
        }
        self.passed.set(self.passed.get() + 1);
        Some(self.held_back.take())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn passes_a_few_and_then_says_how_many_were_held_back() {
        let limit = WarnLimit::new(2);
        let now = Instant::now();
        assert_eq!([1, 2, 3, 4].map(|_| limit.pass(now)), [Some(0), Some(0), None, None]);
        let later = now + Duration::from_secs(2);
        assert_eq!([1, 2, 3].map(|_| limit.pass(later)), [Some(2), Some(0), None]);
    }
}
