//! The figures, the table, and the file it is kept in.

use std::{fmt::Write, fs, path::Path, time::SystemTime};

use anyhow::Context;

use crate::{
    peers::{Kind, Programs},
    process,
};

/// The section of RESULTS.md that is replaced by each run.
const HEADING: &str = "## L4 beside HAProxy and nginx";

/// Most of HAProxy's CPU per gigabyte we allow ourselves.
const CPU_GOAL: f64 = 0.6;

/// Most bytes of user memory for an idle connection we allow ourselves.
const MEMORY_GOAL: f64 = 3.0 * 1024.0;

/// What was measured of one proxy, a value for each round.
#[derive(Debug, Default)]
pub(crate) struct One {
    pub(crate) gbit_per_second: Vec<f64>,
    pub(crate) cpu_seconds_per_gb: Vec<f64>,
    pub(crate) connections_per_second: Vec<f64>,
    pub(crate) cpu_us_per_connection: Vec<f64>,
    pub(crate) round_trips_per_second: Vec<f64>,
    pub(crate) cpu_us_per_round_trip: Vec<f64>,
    pub(crate) idle_bytes: Vec<f64>,
}

/// All that was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    versions: [String; 3],
    connections: usize,
    of: [One; 3],
}

type Column = fn(&One) -> &[f64];

const ROWS: [(&str, usize, Column); 7] = [
    ("one big stream, Gbit/s", 1, |one| &one.gbit_per_second),
    ("… CPU seconds per GB", 3, |one| &one.cpu_seconds_per_gb),
    ("user memory per idle connection, bytes", 0, |one| &one.idle_bytes),
    ("new connections per second", 0, |one| &one.connections_per_second),
    ("… CPU µs each", 1, |one| &one.cpu_us_per_connection),
    ("64-byte round trips per second", 0, |one| &one.round_trips_per_second),
    ("… CPU µs each", 1, |one| &one.cpu_us_per_round_trip),
];

impl Figures {
    pub(crate) fn new(programs: &Programs, connections: usize) -> Self {
        Self { versions: programs.versions(), connections, of: Default::default() }
    }

    pub(crate) fn of(&mut self, kind: Kind) -> &mut One {
        &mut self.of[kind as usize]
    }

    /// The section of RESULTS.md.
    pub(crate) fn to_markdown(&self, pinned: bool, load_before: &str) -> String {
        let mut out = format!("{HEADING}\n\n");
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let place =
            if pinned { "the proxy on one core, load and back end on another" } else { "nothing pinned: one core" };
        let [tidegate, haproxy, nginx] = &self.versions;
        let _ = writeln!(
            out,
            "Written by `cargo run --release -p tidegate-benches --bin compare_l4` at {now}: {tidegate}, {haproxy}, {nginx}; one worker each, \
             Linux {kernel} on {}, {place}; load average {load_before} before and {} after. Medians of {} rounds in shuffled order; ratios are medians \
             of the ratios within a round. Memory: {} idle connections, {} new processes each.\n",
            process::processor(),
            process::load_average(),
            self.of[0].gbit_per_second.len(),
            self.connections,
            self.of[0].idle_bytes.len(),
        );
        out.push_str(
            "| | Tidegate | HAProxy | nginx | Tidegate : HAProxy | range of the ratio |\n|---|---|---|---|---|---|\n",
        );
        for (label, digits, column) in ROWS {
            let [tidegate, haproxy, nginx] = [0, 1, 2].map(|i| median(column(&self.of[i])));
            let ratios = self.ratios(column);
            let (low, high) =
                (ratios.iter().copied().fold(f64::INFINITY, f64::min), ratios.iter().copied().fold(0.0, f64::max));
            let _ = writeln!(
                out,
                "| {label} | {tidegate:.digits$} | {haproxy:.digits$} | {nginx:.digits$} | {:.2} | {low:.2}–{high:.2} |",
                median(&ratios),
            );
        }
        out.push_str("\nGoals:\n");
        let throughput = median(&self.ratios(|one| &one.gbit_per_second));
        let cpu = median(&self.ratios(|one| &one.cpu_seconds_per_gb));
        let memory = median(&self.of[0].idle_bytes);
        for (goal, met, value) in [
            ("at least HAProxy's throughput", throughput >= 1.0, format!("{throughput:.2} ×")),
            ("at most 0.6 × HAProxy's CPU per GB", cpu <= CPU_GOAL, format!("{cpu:.2} ×")),
            (
                "at most 3 KiB of user memory per idle connection",
                memory <= MEMORY_GOAL,
                format!("{:.2} KiB", memory / 1024.0),
            ),
        ] {
            let _ = writeln!(out, "- {goal}: {} ({value})", if met { "met" } else { "**not met**" });
        }
        out
    }

    /// Tidegate to HAProxy, round by round.
    fn ratios(&self, column: Column) -> Vec<f64> {
        column(&self.of[0]).iter().zip(column(&self.of[1])).map(|(tidegate, haproxy)| tidegate / haproxy).collect()
    }
}

/// Puts the section into RESULTS.md; what people wrote around it stays.
pub(crate) fn write(section: &str) -> anyhow::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let held = fs::read_to_string(&path).unwrap_or_default();
    let (before, rest) = held.split_once(HEADING).unwrap_or((&held, ""));
    let after = rest.find("\n## ").map_or("", |at| &rest[at..]);
    let gap = if before.is_empty() || before.ends_with("\n\n") { "" } else { "\n" };
    fs::write(&path, format!("{before}{gap}{section}{after}")).with_context(|| path.display().to_string())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}
