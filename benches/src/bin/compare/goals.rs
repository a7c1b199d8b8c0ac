//! The goals, and whether they are met.

use crate::{
    programs::Kind,
    results::{Results, Sample, ratios},
    stats::median,
    workload::WORKLOADS,
};

/// Tidegate's CPU to nginx's, at most.
const CPU: [(&str, f64); 7] = [
    ("small", 0.95),
    ("close", 1.0),
    ("100k", 0.85),
    ("upload", 0.75),
    ("h2", 0.6),
    ("tls-full", 0.6),
    ("routes", 0.8),
];

/// Ten thousand routes cost at most this much of what one does: "flat", within what two measurements differ.
const FLAT: f64 = 1.1;

/// Bytes of an idle keep-alive connection.
const IDLE: f64 = 2048.0;

/// Of what a wave of connections has taken, this share may stay.
const KEPT: f64 = 0.1;

/// Milliseconds until a change is live.
const LIVE: f64 = 20.0;

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Goal {
    pub(crate) what: String,
    /// What was measured, in words; `None` if it was not.
    pub(crate) measured: Option<String>,
    pub(crate) met: bool,
}

/// All goals, measured or not.
pub(crate) fn all(results: &Results) -> Vec<Goal> {
    let mut goals: Vec<Goal> = CPU.iter().map(|(id, most)| cpu(results, id, *most)).collect();
    goals.extend([
        flat(results),
        latency(results),
        idle(results),
        wave(results),
        change_is_fast(results),
        change_is_whole(results),
    ]);
    goals
}

fn goal(what: impl Into<String>, measured: Option<(String, bool)>) -> Goal {
    let met = measured.as_ref().is_some_and(|(_, met)| *met);
    Goal { what: what.into(), measured: measured.map(|(words, _)| words), met }
}

fn cpu(results: &Results, id: &str, most: f64) -> Goal {
    let row = results.speed.get(id);
    let label = WORKLOADS.iter().find(|workload| workload.id == id).map_or(id, |workload| workload.label);
    let ratio = row.map(|row| row.ratios(Kind::Tidegate, Kind::Nginx, Sample::cpu)).filter(|ratios| !ratios.is_empty());
    let measured = ratio.map(|ratios| median(&ratios)).map(|ratio| (format!("{ratio:.2} ×"), ratio <= most));
    goal(format!("{label}: CPU at most {most} × nginx's"), measured)
}

fn flat(results: &Results) -> Goal {
    let rows = results.speed.get("routes").zip(results.speed.get("one-route"));
    let ratios = rows.map(|(many, one)| ratios(many, Kind::Tidegate, one, Kind::Tidegate, Sample::cpu));
    let measured = ratios.filter(|ratios| !ratios.is_empty()).map(|ratios| {
        let ratio = median(&ratios);
        (format!("{ratio:.2} ×"), ratio <= FLAT)
    });
    goal(format!("10,000 routes are flat: CPU at most {FLAT} × that with 1 route"), measured)
}

fn latency(results: &Results) -> Goal {
    let p99 = |kind| results.speed.get("latency")?.median(kind, |sample| sample.latency[1]);
    let peers = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Tidegate);
    let best = peers.filter_map(|kind| Some((p99(kind)?, kind))).min_by(|a, b| a.0.total_cmp(&b.0));
    let measured = p99(Kind::Tidegate).zip(best).map(|(ours, (best, kind))| {
        (format!("{} ms; {}: {} ms", millis(ours), kind.name(), millis(best)), ours <= best)
    });
    goal("p99 at half load no worse than the best peer's", measured)
}

fn millis(micros: f64) -> String {
    format!("{:.2}", micros / 1e3)
}

fn idle(results: &Results) -> Goal {
    let memory = results.memory.get(&Kind::Tidegate).and_then(|cell| cell.measured());
    let measured = memory.map(|memory| {
        let bytes = memory.per_connection(1);
        (format!("{bytes:.0} bytes"), bytes <= IDLE)
    });
    goal("an idle keep-alive connection takes at most 2 KiB", measured)
}

fn wave(results: &Results) -> Goal {
    let kept = results.memory.get(&Kind::Tidegate).and_then(|cell| cell.measured()?.kept());
    let measured = kept.map(|kept| (format!("{:.0} % stay", kept * 100.0), kept <= KEPT));
    goal(format!("memory returns after a wave of connections: at most {:.0} % of it stay", KEPT * 100.0), measured)
}

fn change_is_fast(results: &Results) -> Goal {
    let changes = results.change.get(&Kind::Tidegate).and_then(|cell| cell.measured());
    let measured = changes.map(|changes| {
        let (live, most) = (median(&changes.live), changes.live.iter().copied().fold(0.0, f64::max));
        (format!("{live:.1} ms, at most {most:.1}"), live < LIVE)
    });
    goal(format!("a change at 10,000 routes is live in less than {LIVE} ms"), measured)
}

fn change_is_whole(results: &Results) -> Goal {
    let changes = results.change.get(&Kind::Tidegate).and_then(|cell| cell.measured());
    let measured = changes.map(|changes| (format!("{} of {}", changes.failed, changes.requests), changes.failed == 0));
    goal("no request fails meanwhile", measured)
}

#[cfg(test)]
mod tests {
    use super::all;
    use crate::{
        programs::Kind,
        results::{Cell, Changes, Memory, Results, Row, Sample},
    };

    fn row(tidegate: f64, nginx: f64) -> Row {
        let cell = |cpu_seconds| {
            let sample = Sample {
                round: 1,
                done: 1,
                failed: 0,
                first_failure: None,
                seconds: 1.0,
                cpu_seconds,
                latency: [cpu_seconds; 3],
            };
            Cell::Measured(vec![sample])
        };
        Row {
            label: "x".to_owned(),
            cells: [(Kind::Tidegate, cell(tidegate)), (Kind::Nginx, cell(nginx))].into(),
            ..Row::default()
        }
    }

    #[test]
    fn nothing_measured_is_nothing_met() {
        let goals = all(&Results::default());
        assert_eq!(goals.len(), 13);
        assert!(goals.iter().all(|goal| goal.measured.is_none() && !goal.met), "{goals:?}");
    }

    #[test]
    fn a_goal_is_met_up_to_its_limit() {
        let mut results = Results::default();
        results.speed.insert("small".to_owned(), row(0.95, 1.0));
        results.speed.insert("close".to_owned(), row(1.01, 1.0));
        results.speed.insert("latency".to_owned(), row(1.0, 2.0));
        results.speed.insert("one-route".to_owned(), row(1.0, 1.0));
        results.speed.insert("routes".to_owned(), row(1.2, 2.0));
        let memory = Memory {
            idle: 1_000,
            connections: [(10, 3_000), (10, 30_000)],
            closed: 1_000,
            wave: Cell::Measured((10, 2_000, 1_090)),
            many_routes: Cell::Measured(0),
        };
        results.memory.insert(Kind::Tidegate, Cell::Measured(memory));
        let changes = Changes { live: vec![1.0, 19.0, 200.0], requests: 9, failed: 1, first_failure: None };
        results.change.insert(Kind::Tidegate, Cell::Measured(changes));
        let goals = all(&results);
        let met: Vec<Option<bool>> = goals.iter().map(|goal| goal.measured.as_ref().map(|_| goal.met)).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(met, [yes, no, None, None, None, None, yes, no, yes, no, yes, yes, no]);
    }
}
