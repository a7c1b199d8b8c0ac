//! How many requests may be repeated: a broken Service must not be hit by a multiple of its load.

use std::{cell::RefCell, sync::Arc, time::Duration};

use ahash::AHashMap;
use tokio::time::Instant;

use crate::route::Rule;

/// The time over which repetitions are set against requests.
const WINDOW: Duration = Duration::from_secs(10);

/// Repetitions of one rule that every window allows, however few requests there are: without them a rule with one request a
/// minute would never be helped.
const FREE_PER_WINDOW: u64 = 30;

/// Rules remembered; beyond it the windows that are over are forgotten.
const RULES: usize = 1_024;

/// The retry budgets of one worker.
#[derive(Debug, Default)]
pub(crate) struct Budgets(RefCell<AHashMap<usize, Window>>);

/// What one rule has used.
#[derive(Debug)]
struct Window {
    began: Instant,
    /// The rule's requests at that time.
    requests: u64,
    used: u64,
}

impl Budgets {
    /// Takes one repetition, if there is one left.
    pub(crate) fn take(&self, rule: &Arc<Rule>) -> bool {
        let (now, total) = (Instant::now(), rule.stats.total());
        let mut windows = self.0.borrow_mut();
        if windows.len() >= RULES {
            windows.retain(|_, window| now < window.began + WINDOW);
        }
        // Counters live on from configuration to configuration, and so does the budget.
        let key = Arc::as_ptr(&rule.stats) as usize;
        let fresh = || Window { began: now, requests: total, used: 0 };
        let window = windows.entry(key).or_insert_with(fresh);
        if now >= window.began + WINDOW {
            *window = fresh();
        }
        let requests = total.saturating_sub(window.requests);
        let allowed = FREE_PER_WINDOW + requests * u64::from(rule.policy.retry.budget_percent) / 100;
        let has_one = window.used < allowed;
        window.used += u64::from(has_one);
        has_one
    }
}
