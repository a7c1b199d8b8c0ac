//! What was measured, as it is kept in `results.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{programs::Kind, stats::median};

/// All of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) about: About,
    /// What was measured in other runs since.
    #[serde(default)]
    pub(crate) later: Vec<Later>,
    /// By id.
    pub(crate) speed: BTreeMap<String, Row>,
    pub(crate) memory: BTreeMap<Kind, Cell<Memory>>,
    pub(crate) memory_tcp: BTreeMap<Kind, Cell<MemoryTcp>>,
    pub(crate) change: BTreeMap<Kind, Cell<Changes>>,
    #[serde(default)]
    pub(crate) watched: Vec<Watched>,
    pub(crate) cost: Cost,
}

/// Where, when and with what.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct About {
    pub(crate) time: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) versions: BTreeMap<Kind, String>,
    pub(crate) workers: usize,
    pub(crate) key: String,
    pub(crate) is_pinned: bool,
    pub(crate) has_own_network: bool,
    pub(crate) load_before: String,
    pub(crate) load_after: String,
}

/// Suites that were measured again, or for the first time, in a run of their own.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Later {
    pub(crate) suites: Vec<String>,
    pub(crate) about: About,
}

/// Something measured, or why it is not.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cell<T> {
    Measured(T),
    Missing(String),
}

impl<T> Cell<T> {
    pub(crate) fn measured(&self) -> Option<&T> {
        match self {
            Self::Measured(value) => Some(value),
            Self::Missing(_) => None,
        }
    }
}

impl<T> From<anyhow::Result<T>> for Cell<T> {
    fn from(result: anyhow::Result<T>) -> Self {
        match result {
            Ok(value) => Self::Measured(value),
            Err(error) => Self::Missing(format!("{error:#}")),
        }
    }
}

/// One workload of all proxies.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Row {
    pub(crate) label: String,
    /// What is counted.
    pub(crate) unit: String,
    /// Place in the tables.
    pub(crate) place: usize,
    /// Requests per second, where they were sent at a fixed rate.
    pub(crate) rate: Option<f64>,
    pub(crate) cells: BTreeMap<Kind, Cell<Vec<Sample>>>,
}

/// One workload of one proxy in one round.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    /// Microseconds: p50, p99, p99.9; zero where they were not taken.
    pub(crate) latency: [f64; 3],
}

impl Sample {
    /// Microseconds of the proxy's CPU for each.
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.done.max(1) as f64
    }

    pub(crate) fn rate(&self) -> f64 {
        self.done as f64 / self.seconds
    }
}

impl Row {
    /// The median of a figure; `None` if it was not measured.
    pub(crate) fn median(&self, kind: Kind, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        let samples = self.cells.get(&kind)?.measured()?;
        Some(median(&samples.iter().map(figure).collect::<Vec<_>>()))
    }

    pub(crate) fn failed(&self, kind: Kind) -> u64 {
        let samples = self.cells.get(&kind).and_then(Cell::measured);
        samples.into_iter().flatten().map(|sample| sample.failed).sum()
    }

    /// The ratios of a figure of `kind` to that of `to`, round by round.
    pub(crate) fn ratios(&self, kind: Kind, to: Kind, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
        ratios(self, kind, self, to, figure)
    }
}

/// The ratios of a figure of two rows that were measured together, round by round.
pub(crate) fn ratios(row: &Row, kind: Kind, to_row: &Row, to: Kind, figure: impl Fn(&Sample) -> f64) -> Vec<f64> {
    let samples = |row: &Row, kind| row.cells.get(&kind).and_then(Cell::measured).cloned().unwrap_or_default();
    let others = samples(to_row, to);
    let one = |sample: &Sample| {
        let other = others.iter().find(|other| other.round == sample.round)?;
        Some(figure(sample) / figure(other))
    };
    samples(row, kind).iter().filter_map(one).collect()
}

/// Memory of one proxy: proportional set size in bytes of a new process at each stage.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Memory {
    /// After some requests, with no connection.
    pub(crate) idle: u64,
    /// Keep-alive connections after one request each, and what they take: fewer, then more.
    pub(crate) connections: [(usize, u64); 2],
    /// After these have closed.
    pub(crate) closed: u64,
    /// Most while a wave of connections was busy, and after it.
    pub(crate) wave: Cell<(usize, u64, u64)>,
    /// Idle, with ten thousand routes.
    pub(crate) many_routes: Cell<u64>,
}

impl Memory {
    /// Bytes for each of the connections.
    pub(crate) fn per_connection(&self, stage: usize) -> f64 {
        let (count, bytes) = self.connections[stage];
        bytes.saturating_sub(self.idle) as f64 / count.max(1) as f64
    }

    /// The share of what the wave took that has not come back.
    pub(crate) fn kept(&self) -> Option<f64> {
        let (_, most, after) = *self.wave.measured()?;
        Some(after.saturating_sub(self.idle) as f64 / most.saturating_sub(self.idle).max(1) as f64)
    }
}

/// Memory of one TCP proxy.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct MemoryTcp {
    pub(crate) idle: u64,
    pub(crate) connections: (usize, u64),
}

/// Changes of the configuration while requests are served.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Changes {
    /// Milliseconds from the first byte written until requests are answered by the new configuration.
    pub(crate) live: Vec<f64>,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
}

/// One workload of Tidegate, with nobody at its dashboard and with somebody.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Watched {
    pub(crate) label: String,
    pub(crate) samples: Cell<[Vec<Sample>; 2]>,
}

/// What Tidegate's own test says of its costs, if it was run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Cost {
    pub(crate) future_bytes: Option<f64>,
    pub(crate) allocations_per_request: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::{Cell, Row, Sample};
    use crate::programs::Kind;

    pub(crate) fn sample(round: usize, cpu_seconds: f64) -> Sample {
        Sample { round, done: 1_000, failed: 0, first_failure: None, seconds: 1.0, cpu_seconds, latency: [0.0; 3] }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut row = Row::default();
        row.cells.insert(Kind::Tidegate, Cell::Measured(vec![sample(1, 0.01), sample(2, 0.04)]));
        row.cells.insert(Kind::Nginx, Cell::Measured(vec![sample(2, 0.02), sample(1, 0.02), sample(3, 9.0)]));
        row.cells.insert(Kind::Envoy, Cell::Missing("not here".to_owned()));
        assert_eq!(row.ratios(Kind::Tidegate, Kind::Nginx, Sample::cpu), [0.5, 2.0]);
        assert_eq!(row.median(Kind::Tidegate, Sample::cpu), Some(25.0));
        assert_eq!(row.median(Kind::Envoy, Sample::cpu), None);
        assert!(row.ratios(Kind::Tidegate, Kind::Envoy, Sample::cpu).is_empty());
    }
}
