//! Counters of one rule: requests by status and protocol, how long they took, and how large they were.
//!
//! Each thread that serves the rule has its own part; only rules that are asked take up memory.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use http::Version;
use tidegate_l4::stats::{Counter, Sharded};

/// Upper bounds of the latency histograms in seconds: the ones Prometheus clients use by default, which dashboards expect.
pub const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The same in microseconds, as they are compared.
const LATENCY_BUCKETS_US: [u64; 11] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// The status codes that are counted each for itself (the registered ones and nginx's 499); others share their class's
/// first code, so that no back end can make up labels.
const CODES: [u16; 57] = [
    100, 101, 103, 200, 201, 202, 203, 204, 205, 206, 207, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404,
    405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431,
    451, 499, 500, 501, 502, 503, 504, 505, 507, 508, 511,
];

/// What happened on one rule since the process began, over all threads.
#[derive(Debug, Default)]
pub struct RuleStats(Sharded<Counters>);

/// One thread's part.
#[derive(Debug, Default)]
struct Counters {
    answers: Tallies,
    latency: Histogram,
    first_byte: Histogram,
    connect: Histogram,
    bytes_in: Counter,
    bytes_out: Counter,
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// What it was answered; 499 if it was not.
    pub status: u16,
    /// The protocol its client spoke.
    pub version: Version,
    /// From the end of its head to the end of its answer.
    pub took: Duration,
    /// From the end of its head to the head of a pod's answer, if one came.
    pub first_byte: Option<Duration>,
    /// Bytes of its content.
    pub bytes_in: u64,
    /// Bytes of its answer's content.
    pub bytes_out: u64,
}

impl RuleStats {
    /// Counts a request that is over.
    pub fn count(&self, ended: &Ended) {
        let mine = self.0.mine();
        mine.answers.count(key(ended.status, ended.version));
        mine.latency.count(ended.took);
        if let Some(first_byte) = ended.first_byte {
            mine.first_byte.count(first_byte);
        }
        mine.bytes_in.add(ended.bytes_in);
        mine.bytes_out.add(ended.bytes_out);
    }

    /// Counts a connection to a pod that was opened.
    pub fn count_connect(&self, took: Duration) {
        self.0.mine().connect.count(took);
    }

    /// Requests by status code, those that occurred.
    pub fn by_code(&self) -> impl Iterator<Item = (u16, u64)> + use<> {
        let mut codes = BTreeMap::new();
        self.add_by_code(&mut codes);
        codes.into_iter()
    }

    /// Adds the requests by status code to those of other rules.
    pub fn add_by_code(&self, codes: &mut BTreeMap<u16, u64>) {
        for (key, count) in self.0.each().flat_map(|counters| counters.answers.iter()) {
            *codes.entry(key >> 2).or_default() += count;
        }
    }

    /// Requests by status code and protocol (`HTTP/1.1`), those that occurred.
    pub fn by_code_and_protocol(&self) -> BTreeMap<(u16, &'static str), u64> {
        let mut answers = BTreeMap::new();
        for (key, count) in self.0.each().flat_map(|counters| counters.answers.iter()) {
            *answers.entry((key >> 2, PROTOCOLS[usize::from(key & 3)])).or_default() += count;
        }
        answers
    }

    /// Requests in all.
    pub fn total(&self) -> u64 {
        self.0.each().flat_map(|counters| counters.answers.iter()).map(|(_, count)| count).sum()
    }

    /// How long requests took to the end of their answer.
    pub fn latency(&self) -> Latencies {
        self.latencies(|counters| &counters.latency)
    }

    /// How long pods took to begin an answer.
    pub fn first_byte(&self) -> Latencies {
        self.latencies(|counters| &counters.first_byte)
    }

    /// How long connecting to pods took.
    pub fn connect(&self) -> Latencies {
        self.latencies(|counters| &counters.connect)
    }

    /// Bytes of content that came with requests, and that went with answers.
    pub fn bytes(&self) -> (u64, u64) {
        self.0.each().fold((0, 0), |sum, one| (sum.0 + one.bytes_in.value(), sum.1 + one.bytes_out.value()))
    }

    fn latencies(&self, histogram: fn(&Counters) -> &Histogram) -> Latencies {
        let mut sum = Latencies::default();
        for counters in self.0.each() {
            let histogram = histogram(counters);
            sum.buckets.iter_mut().zip(&histogram.buckets).for_each(|(sum, bucket)| *sum += bucket.value());
            sum.seconds += histogram.sum_us.value() as f64 / 1e6;
        }
        sum
    }
}

/// A histogram as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latencies {
    /// By bucket of [`LATENCY_BUCKETS`], not cumulative; the last has what is over every bound.
    pub buckets: [u64; LATENCY_BUCKETS.len() + 1],
    /// All durations together, in seconds.
    pub seconds: f64,
}

impl Latencies {
    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [Counter; LATENCY_BUCKETS.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    fn count(&self, took: Duration) {
        let micros = took.as_micros() as u64;
        self.buckets[LATENCY_BUCKETS_US.partition_point(|bound| *bound < micros)].add(1);
        self.sum_us.add(micros);
    }
}

const PROTOCOLS: [&str; 3] = ["HTTP/1.0", "HTTP/1.1", "HTTP/2"];

/// A status and a protocol in one number; never 0.
fn key(status: u16, version: Version) -> u16 {
    let code = CODES.binary_search(&status).map_or_else(|_| (status / 100 * 100).clamp(100, 500), |_| status);
    let protocol = match version {
        Version::HTTP_09 | Version::HTTP_10 => 0,
        Version::HTTP_2 | Version::HTTP_3 => 2,
        _ => 1,
    };
    code << 2 | protocol
}

/// How many different answers most rules have in their life.
const USUAL_ANSWERS: usize = 7;

/// Counts by key: few keys, so few bytes, with more of them where there are more keys. Written by one thread at a time.
#[derive(Debug, Default)]
struct Tallies {
    /// 0 for none yet; filled from the front.
    keys: [AtomicU16; USUAL_ANSWERS],
    counts: [Counter; USUAL_ANSWERS],
    more: OnceLock<Box<Self>>,
}

impl Tallies {
    fn count(&self, key: u16) {
        for (slot, count) in self.keys.iter().zip(&self.counts) {
            let found = slot.load(Ordering::Relaxed);
            if found == key || found == 0 {
                count.add(1);
                // After the count: a reader never sees a key without one. Most often it is there already.
                if found == 0 {
                    slot.store(key, Ordering::Release);
                }
                return;
            }
        }
        self.more.get_or_init(Box::default).count(key);
    }

    fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        std::iter::successors(Some(self), |tallies| tallies.more.get().map(|more| &**more)).flat_map(|tallies| {
            let keys = tallies.keys.iter().map(|key| key.load(Ordering::Acquire)).take_while(|key| *key != 0);
            keys.zip(tallies.counts.iter().map(Counter::value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16, ms: u64) -> Ended {
        Ended {
            status,
            version: Version::HTTP_11,
            took: Duration::from_millis(ms),
            first_byte: None,
            bytes_in: 1,
            bytes_out: 10,
        }
    }

    #[test]
    fn counts_by_code_and_bucket_and_folds_what_is_unknown() {
        let stats = RuleStats::default();
        for (status, ms) in [(200, 1), (200, 5), (299, 7), (404, 60), (503, 20_000), (999, 1), (0, 1)] {
            stats.count(&ended(status, ms));
        }
        stats.count(&Ended { version: Version::HTTP_2, first_byte: Some(Duration::from_secs(1)), ..ended(200, 3_000) });
        stats.count_connect(Duration::from_micros(10));
        assert_eq!(stats.by_code().collect::<Vec<_>>(), [(100, 1), (200, 4), (404, 1), (500, 1), (503, 1)]);
        let by_protocol = stats.by_code_and_protocol();
        assert_eq!((by_protocol[&(200, "HTTP/1.1")], by_protocol[&(200, "HTTP/2")]), (3, 1));
        let latency = stats.latency();
        assert_eq!((latency.buckets[0], latency.buckets[1], latency.buckets[4], latency.buckets[11]), (4, 1, 1, 1));
        assert!((23.0..23.1).contains(&latency.seconds) && latency.count() == stats.total());
        assert_eq!((stats.first_byte().count(), stats.connect().count(), stats.bytes()), (1, 1, (8, 80)));
    }

    #[test]
    fn bounds_are_the_same_in_seconds_and_microseconds() {
        assert!(CODES.is_sorted() && LATENCY_BUCKETS.is_sorted());
        let micros = LATENCY_BUCKETS.map(|seconds| (seconds * 1e6).round() as u64);
        assert_eq!(micros, LATENCY_BUCKETS_US);
    }

    #[test]
    fn every_code_has_a_count_of_its_own() {
        let stats = RuleStats::default();
        for (n, code) in CODES.iter().enumerate() {
            (0..=n).for_each(|_| stats.count(&ended(*code, 1)));
        }
        let expected = CODES.iter().enumerate().map(|(n, code)| (*code, n as u64 + 1));
        assert_eq!(stats.by_code().collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_rule_is_small() {
        assert!(size_of::<RuleStats>() <= 96, "{}", size_of::<RuleStats>());
        assert!(size_of::<Counters>() <= 512, "{}", size_of::<Counters>());
    }
}
