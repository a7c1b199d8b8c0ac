//! What was measured, as it is kept in `results.json`.

use serde::{Deserialize, Serialize};
use tidegate_benches::stats::median;

/// All of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) about: About,
    /// New processes in a cluster that is filled, kind by kind: nothing, Services, EndpointSlices, Ingresses.
    pub(crate) stages: Vec<Stage>,
    /// New processes in the full cluster.
    pub(crate) starts: Vec<Start>,
    /// Seconds until a process that is ready has written the status of every Ingress.
    pub(crate) published: Option<f64>,
    /// Quiet, and with other changes meanwhile.
    pub(crate) traffic: Vec<Traffic>,
    pub(crate) cpu: Option<Cpu>,
    /// After all of these.
    pub(crate) used: Option<Memory>,
    pub(crate) churn: Option<Churn>,
}

/// Where, when and with what.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct About {
    pub(crate) time: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) version: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) services: usize,
    pub(crate) load_before: String,
    pub(crate) load_after: String,
}

/// Memory of the process in bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Memory {
    pub(crate) pss: u64,
    pub(crate) rss: u64,
}

/// A new process, when there are so many objects.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Stage {
    /// What has come since the stage before.
    pub(crate) kind: String,
    pub(crate) count: usize,
    pub(crate) start: Start,
    pub(crate) memory: Memory,
}

/// Seconds since the process was started.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Start {
    /// Until it had read every list.
    pub(crate) listed: f64,
    /// Until the configuration was live.
    pub(crate) live: f64,
    /// Until it was ready.
    pub(crate) ready: f64,
}

/// Changes of EndpointSlices, and when they showed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Traffic {
    /// Others each second meanwhile.
    pub(crate) others: f64,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) samples: Vec<Sample>,
}

/// One change, in milliseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Sample {
    /// Until the write was answered.
    pub(crate) write: f64,
    /// Until our own watcher heard of it.
    pub(crate) hearing: f64,
    /// From the write's answer, and from when our own watcher heard of it, to the first response of a new pod; 0 if that came first.
    pub(crate) keep_alive: [f64; 2],
    /// The same, with a new connection for each request.
    pub(crate) anew: [f64; 2],
}

/// CPU seconds of the process each second.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Cpu {
    pub(crate) idle: f64,
    /// Changes each second, and the CPU that they took.
    pub(crate) rate: f64,
    pub(crate) busy: f64,
}

/// Hours of changes.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Churn {
    pub(crate) seconds: f64,
    pub(crate) changes: u64,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) cpu_seconds: f64,
    pub(crate) looks: Vec<Look>,
    /// When nothing has happened for a while.
    pub(crate) rested: Option<Memory>,
}

/// The memory of a minute.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Look {
    pub(crate) minutes: f64,
    /// The least.
    pub(crate) memory: Memory,
    /// The most, as `pss`.
    #[serde(default)]
    pub(crate) most: u64,
}

/// A line through the memory of all minutes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Growth {
    /// What an hour adds.
    pub(crate) per_hour: f64,
    /// The standard error of that.
    pub(crate) error: f64,
}

impl Results {
    /// The median of a figure of all starts in the full cluster.
    pub(crate) fn start(&self, figure: impl Fn(&Start) -> f64) -> Option<f64> {
        let figures: Vec<f64> = self.starts.iter().map(figure).collect();
        (!figures.is_empty()).then(|| median(&figures))
    }

    /// Memory of a new process in the full cluster.
    pub(crate) fn full(&self) -> Option<Memory> {
        self.stages.last().map(|stage| stage.memory)
    }
}

impl Traffic {
    /// Of a figure, what half of the samples do not exceed, what 99 % of them do not, and the largest.
    pub(crate) fn shares(&self, figure: impl Fn(&Sample) -> f64) -> [f64; 3] {
        let mut micros: Vec<u32> = self.samples.iter().map(|sample| (figure(sample) * 1e3) as u32).collect();
        micros.sort_unstable();
        [0.5, 0.99, 1.0].map(|share| f64::from(tidegate_benches::stats::percentile(&micros, share)) / 1e3)
    }
}

impl Churn {
    /// The minutes that growth is judged by: every rule has been asked before the first of them, and every kind of change has come to
    /// those that it comes to.
    fn settled(&self) -> &[Look] {
        &self.looks[self.looks.len() / 2..]
    }

    /// The line that fits best. `None` if there is no line.
    pub(crate) fn growth(&self) -> Option<Growth> {
        let looks = self.settled();
        if looks.len() < 3 {
            return None;
        }
        let n = looks.len() as f64;
        let mean = |of: &dyn Fn(&Look) -> f64| looks.iter().map(of).sum::<f64>() / n;
        let (x, y) = (mean(&|look| look.minutes), mean(&|look| look.memory.pss as f64));
        let over = looks.iter().map(|look| (look.minutes - x) * (look.memory.pss as f64 - y)).sum::<f64>();
        let under = looks.iter().map(|look| (look.minutes - x).powi(2)).sum::<f64>();
        let slope = over / under;
        let missed =
            looks.iter().map(|look| (look.memory.pss as f64 - y - slope * (look.minutes - x)).powi(2)).sum::<f64>();
        let error = (missed / (n - 2.0) / under).sqrt();
        (under > 0.0).then_some(Growth { per_hour: slope * 60.0, error: error * 60.0 })
    }

    /// The least and the most memory of those minutes, in bytes.
    pub(crate) fn range(&self) -> (u64, u64) {
        let least = self.settled().iter().map(|look| look.memory.pss).min();
        let most = self.settled().iter().map(|look| look.most.max(look.memory.pss)).max();
        (least.unwrap_or(0), most.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn churn(pss: &[u64]) -> Churn {
        let look = |(minute, pss): (usize, &u64)| Look {
            minutes: minute as f64,
            memory: Memory { pss: *pss, rss: 0 },
            most: pss + 1,
        };
        Churn { looks: pss.iter().enumerate().map(look).collect(), ..Churn::default() }
    }

    #[test]
    fn growth_is_that_of_an_hour_in_the_second_half() {
        let line = |per_hour, error| Some(Growth { per_hour, error });
        assert_eq!(churn(&[0, 50, 100, 105, 130, 140, 150, 160]).growth(), line(600.0, 0.0));
        assert_eq!(churn(&[5, 6, 5, 7, 7, 7]).growth(), line(0.0, 0.0));
        let Growth { per_hour, error } = churn(&[0, 0, 0, 0, 10, 12, 10, 12]).growth().unwrap();
        assert!(per_hour > 0.0 && error > per_hour, "{per_hour} {error}");
        assert_eq!(churn(&[1, 2, 3]).growth(), None);
        assert_eq!(churn(&[1, 1, 9, 7, 8, 9]).range(), (7, 10));
    }

    #[test]
    fn shares_of_samples() {
        let sample = |write| Sample { write, hearing: 0.0, keep_alive: [0.0; 2], anew: [0.0; 2] };
        let traffic =
            Traffic { samples: (1..=100).rev().map(|n| sample(f64::from(n))).collect(), ..Traffic::default() };
        assert_eq!(traffic.shares(|sample| sample.write), [50.0, 99.0, 100.0]);
    }
}
