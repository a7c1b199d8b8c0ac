//! Counters of one rule: requests by status code, and how long they took.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the latency histogram in seconds: the ones Prometheus clients use by default, which dashboards expect.
pub const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The status codes that are counted each for itself (the registered ones and nginx's 499); others share their class's
/// first code, so that no back end can make up labels.
const CODES: [u16; 57] = [
    100, 101, 103, 200, 201, 202, 203, 204, 205, 206, 207, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404,
    405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431,
    451, 499, 500, 501, 502, 503, 504, 505, 507, 508, 511,
];

/// What happened on one rule since the process began.
#[derive(Debug)]
pub struct RuleStats {
    codes: [AtomicU64; CODES.len()],
    latency: [AtomicU64; LATENCY_BUCKETS.len() + 1],
    latency_sum_us: AtomicU64,
}

impl Default for RuleStats {
    fn default() -> Self {
        let zeros = |_| AtomicU64::new(0);
        Self {
            codes: std::array::from_fn(zeros),
            latency: std::array::from_fn(zeros),
            latency_sum_us: AtomicU64::new(0),
        }
    }
}

impl RuleStats {
    /// Counts an answered request.
    pub fn count(&self, status: u16, took: Duration) {
        let position = CODES.binary_search(&status).or_else(|_| CODES.binary_search(&(status / 100 * 100)));
        if let Ok(position) = position {
            self.codes[position].fetch_add(1, Ordering::Relaxed);
        }
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BUCKETS.partition_point(|bound| *bound < seconds);
        self.latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.latency_sum_us.fetch_add(took.as_micros() as u64, Ordering::Relaxed);
    }

    /// Requests by status code, those that occurred.
    pub fn by_code(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let counts = self.codes.iter().map(|n| n.load(Ordering::Relaxed));
        CODES.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Requests in all.
    pub fn total(&self) -> u64 {
        self.by_code().map(|(_, count)| count).sum()
    }

    /// Requests per latency bucket (not cumulative), the last being those over every bound, and the sum in seconds.
    pub fn latency(&self) -> (Vec<u64>, f64) {
        let buckets = self.latency.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        (buckets, self.latency_sum_us.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_code_and_bucket_and_folds_what_is_unknown() {
        let stats = RuleStats::default();
        for (status, ms) in [(200, 1), (200, 5), (299, 7), (404, 60), (503, 20_000), (999, 1)] {
            stats.count(status, Duration::from_millis(ms));
        }
        assert_eq!(stats.by_code().collect::<Vec<_>>(), [(200, 3), (404, 1), (503, 1)]);
        let (buckets, sum) = stats.latency();
        assert_eq!((buckets[0], buckets[1], buckets[4], *buckets.last().unwrap()), (3, 1, 1, 1));
        assert!((20.0..20.1).contains(&sum));
        assert!(CODES.is_sorted());
    }
}
