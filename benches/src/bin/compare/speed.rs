//! The rows that are measured in rounds: all proxies in turn, in an order that is shuffled each time, so that a busy machine
//! spoils all of them alike.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    peers::Plane,
    programs::Kind,
    results::{Cell, Results, Row, Sample},
    verify::verify,
    workload::{Suite, WORKLOADS, Workload},
    world::{Proxy, World},
};

/// Before the first round each proxy is asked for so long, for its pools and caches to fill.
const WARM_UP: Duration = Duration::from_millis(400);

/// The fixed rate is this share of the most that nginx does.
const SHARE_OF_MOST: f64 = 0.5;

/// A sample at a fixed rate is longer, for its rarest answers to be more than one.
const LATENCY_TIME: u32 = 2;

/// The proxies that run, each started when it is first wanted.
pub(crate) struct Fleet<'a> {
    pub(crate) world: &'a World,
    proxies: BTreeMap<(Kind, Plane), Result<Proxy, String>>,
}

impl<'a> Fleet<'a> {
    pub(crate) fn new(world: &'a World) -> Self {
        Self { world, proxies: BTreeMap::new() }
    }

    /// Runs the proxies of these planes and no others.
    pub(crate) fn have(&mut self, planes: &[Plane]) {
        self.proxies.retain(|(_, plane), _| planes.contains(plane));
        for plane in planes {
            for kind in self.world.programs.kinds() {
                let start = || Proxy::start(self.world, kind, *plane);
                self.proxies.entry((kind, *plane)).or_insert_with(start);
            }
        }
    }

    fn of(&self, kind: Kind, plane: Plane) -> Result<&Proxy, String> {
        let proxy = self.proxies.get(&(kind, plane)).ok_or("it was not started")?;
        proxy.as_ref().map_err(Clone::clone)
    }
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
}

/// Measures a suite of rows.
pub(crate) fn measure(suite: Suite, fleet: &mut Fleet<'_>, pace: Pace, results: &mut Results) {
    let workloads = suite.workloads();
    for (workload, row) in workloads.iter().zip(rows(&workloads, fleet, pace, None)) {
        results.speed.insert(workload.id.to_owned(), row);
    }
}

/// Measures answers at a fixed rate, which the most of nginx decides; that is measured first if it was not yet.
pub(crate) fn measure_latency(fleet: &mut Fleet<'_>, pace: Pace, results: &mut Results) {
    if !results.speed.contains_key("small") {
        measure(Suite::Small, fleet, pace, results);
    }
    let small = &results.speed["small"];
    let most = [Kind::Nginx, Kind::Tidegate].into_iter().find_map(|kind| small.median(kind, Sample::rate));
    let workload = WORKLOADS.into_iter().find(|workload| workload.id == "small");
    let (Some(most), Some(workload)) = (most, workload) else { return };
    let rate = (most * SHARE_OF_MOST).round();
    let pace = Pace { time: pace.time * LATENCY_TIME, ..pace };
    if let Some(mut row) = rows(&[workload], fleet, pace, Some(rate)).pop() {
        (row.label, row.rate) = ("small answers at a fixed rate".to_owned(), Some(rate));
        results.speed.insert("latency".to_owned(), row);
    }
}

/// Measures some workloads in the same rounds.
fn rows(workloads: &[Workload], fleet: &mut Fleet<'_>, pace: Pace, rate: Option<f64>) -> Vec<Row> {
    let planes: Vec<Plane> = workloads.iter().map(|workload| workload.plane).collect();
    fleet.have(&planes);
    let world = fleet.world;
    let mut rows: Vec<Row> = workloads.iter().map(empty_row).collect();
    for (workload, row) in workloads.iter().zip(&mut rows) {
        for kind in world.programs.kinds() {
            let ready = || -> Result<(), String> {
                let proxy = fleet.of(kind, workload.plane)?;
                let said = |error: anyhow::Error| format!("{error:#}");
                verify(workload, proxy, world).map_err(said)?;
                workload.measure(proxy, world, 0, WARM_UP, rate).map(drop).map_err(said)
            };
            let cell = match ready() {
                Ok(()) => Cell::Measured(Vec::new()),
                Err(why) => {
                    eprintln!("  {}: {} is left out: {why}", workload.label, kind.name());
                    Cell::Missing(why)
                }
            };
            row.cells.insert(kind, cell);
        }
    }
    for round in 1..=pace.rounds {
        let mut turns: Vec<(usize, Kind)> =
            (0..workloads.len()).flat_map(|row| world.programs.kinds().map(move |kind| (row, kind))).collect();
        fastrand::shuffle(&mut turns);
        for (row, kind) in turns {
            let Some(Cell::Measured(samples)) = rows[row].cells.get_mut(&kind) else { continue };
            let proxy = fleet.of(kind, workloads[row].plane);
            let measured = proxy.map_err(anyhow::Error::msg);
            match measured.and_then(|proxy| workloads[row].measure(proxy, world, round, pace.time, rate)) {
                Ok(sample) => samples.push(sample),
                Err(error) => {
                    eprintln!("  {}: {} failed in round {round}: {error:#}", workloads[row].label, kind.name());
                    rows[row].cells.insert(kind, Cell::Missing(format!("{error:#}")));
                }
            }
        }
    }
    rows
}

fn empty_row(workload: &Workload) -> Row {
    let place = WORKLOADS.iter().position(|one| one.id == workload.id).unwrap_or(WORKLOADS.len());
    Row { label: workload.label.to_owned(), unit: workload.unit.to_owned(), place, ..Row::default() }
}
