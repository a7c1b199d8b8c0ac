//! The tables, and the files they are kept in.

use std::{fmt::Write, fs, path::Path};

use anyhow::Context;

use crate::{
    objects::{ENDPOINTS, NAMESPACES},
    results::{Growth, Memory, Results, Traffic},
};

/// What is read of a sample, in milliseconds.
type Figure = fn(&crate::results::Sample) -> f64;

/// Seconds from the end of the lists until it is ready.
const READY: f64 = 5.0;

/// Milliseconds until a change shows.
const SHOWS: f64 = 50.0;

/// Memory in the full cluster, in MiB.
const MEMORY: f64 = 150.0;

/// What an hour of changes may add, in MiB. What chance makes of it stands beside it: the standard error of the line.
const GROWTH: f64 = 1.0;

/// What stands where nothing was measured.
const NOTHING: &str = "–";

/// Writes `RESULTS.md` and `results.json`.
pub(crate) fn write(results: &Results) -> anyhow::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scale");
    fs::create_dir_all(&directory)?;
    let json = serde_json::to_string_pretty(results)? + "\n";
    for (name, text) in [("RESULTS.md", markdown(results)), ("results.json", json)] {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// `RESULTS.md`.
pub(crate) fn markdown(results: &Results) -> String {
    let sections = [head(results), goals(results), starts(results), memory(results), traffic(results), rest(results)];
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

fn head(results: &Results) -> String {
    let about = &results.about;
    let arguments = match about.arguments.as_slice() {
        [] => String::new(),
        arguments => format!(" {}", arguments.join(" ")),
    };
    format!(
        "# Tidegate in a large cluster\n\nWritten by `cargo run --release -p tidegate-benches --bin scale` at {}: Tidegate {} with `run --kubernetes{arguments}`, \
         {services} Services with {ENDPOINTS} endpoints each and {services} Ingresses in {NAMESPACES} namespaces; Linux {} on {}; load average {} before \
         and {} after.\n\n\
         API server and etcd are real, of one machine with Tidegate, the writers and all pods: what these take, Tidegate waits for. Every pod has an address of \
         its own. A change replaces all {ENDPOINTS} pods of a Service. Memory is the proportional set size (PSS); RSS counts pages of the program's file, too.\n",
        about.time,
        about.version,
        about.kernel,
        about.processor,
        about.load_before,
        about.load_after,
        services = about.services,
    )
}

fn goals(results: &Results) -> String {
    let mut text = "## Goals\n\n| goal | measured | |\n|---|---|---|\n".to_owned();
    let mut goal = |what: String, measured: Option<(String, bool)>| {
        let (words, verdict) = match &measured {
            None => (NOTHING, NOTHING),
            Some((words, true)) => (words.as_str(), "met"),
            Some((words, false)) => (words.as_str(), "**not met**"),
        };
        let _ = writeln!(text, "| {what} | {words} | {verdict} |");
    };
    let ready = results.start(|start| start.ready - start.listed);
    goal(
        format!("ready less than {READY} s after the lists have arrived"),
        ready.map(|ready| (format!("{ready:.2} s"), ready < READY)),
    );
    for traffic in &results.traffic {
        let [kept, anew] =
            [traffic.shares(|sample| sample.keep_alive[0])[1], traffic.shares(|sample| sample.anew[0])[1]];
        let words = format!("{kept:.1} ms on a connection that stays, {anew:.1} ms on new ones");
        let what =
            format!("from a change to the first response of a new pod, {}: p99 less than {SHOWS} ms", others(traffic));
        goal(what, Some((words, kept.max(anew) < SHOWS)));
    }
    let full = results.full().map(|memory| mebibytes(memory.pss));
    goal(
        format!("memory less than {MEMORY} MiB"),
        full.map(|full| {
            let used = results.used.map(|memory| mebibytes(memory.pss));
            let words = used.map_or_else(String::new, |used| format!(", {used:.0} after all that is below"));
            (format!("{full:.0} MiB{words}"), full.max(used.unwrap_or(0.0)) < MEMORY)
        }),
    );
    let growth = results.churn.as_ref().and_then(|churn| Some((churn, churn.growth()?)));
    goal(
        format!("memory does not grow: at most {GROWTH} MiB in an hour of changes"),
        growth.map(|(churn, growth)| {
            let words = format!("{}, in the second half of {:.0} minutes", line(growth), churn.seconds / 60.0);
            (words, growth.per_hour / 1_048_576.0 <= GROWTH)
        }),
    );
    text
}

fn starts(results: &Results) -> String {
    let figures = [
        results.start(|start| start.listed),
        results.start(|start| start.live - start.listed),
        results.start(|start| start.ready),
    ];
    let [Some(listed), Some(live), Some(ready)] = figures else { return String::new() };
    let published = results.published.map_or_else(|| NOTHING.to_owned(), |published| format!("{published:.0}"));
    format!(
        "## A new process\n\nMedians of {}, in seconds.\n\n| | |\n|---|---|\n| until every list was read | {listed:.2} |\n\
         | from then until the configuration was live | {live:.3} |\n| from the start until ready | {ready:.2} |\n\
         | from then until the status of every Ingress was written (50 in a second at most; once) | {published} |\n",
        results.starts.len()
    )
}

fn memory(results: &Results) -> String {
    if results.stages.is_empty() {
        return String::new();
    }
    let mut text = "## Memory\n\nOf a new process for each row.\n\n| the cluster has | PSS, MiB | RSS, MiB | KiB for each that came |\n|---|---|---|---|\n".to_owned();
    let mut before: Option<Memory> = None;
    for stage in &results.stages {
        let each = before.filter(|_| stage.count > 0).map_or_else(
            || NOTHING.to_owned(),
            |before| format!("{:.1}", (stage.memory.pss as f64 - before.pss as f64) / 1024.0 / stage.count as f64),
        );
        let has = if stage.count == 0 { stage.kind.clone() } else { format!("and {} {}", stage.count, stage.kind) };
        let _ = writeln!(
            text,
            "| {has} | {:.1} | {:.1} | {each} |",
            mebibytes(stage.memory.pss),
            mebibytes(stage.memory.rss)
        );
        before = Some(stage.memory);
    }
    text
}

fn traffic(results: &Results) -> String {
    if results.traffic.is_empty() {
        return String::new();
    }
    let mut text = "## From a change of an EndpointSlice to traffic\n\nMilliseconds: p50 / p99 / most. The Ingress is asked about every millisecond; what came before the \
         moment that is counted from is 0.\n\n| "
        .to_owned();
    for traffic in &results.traffic {
        let _ = write!(text, "| {} ", others(traffic));
    }
    let _ = writeln!(text, "|\n|---|{}", "---|".repeat(results.traffic.len()));
    let rows: [(&str, Figure); 6] = [
        ("the write is answered (the API server's own time)", |sample| sample.write),
        ("another watcher hears of it", |sample| sample.hearing),
        ("first response, connection stays, since the write's answer", |sample| sample.keep_alive[0]),
        ("… since another watcher heard of it", |sample| sample.keep_alive[1]),
        ("first response, new connections, since the write's answer", |sample| sample.anew[0]),
        ("… since another watcher heard of it", |sample| sample.anew[1]),
    ];
    for (label, figure) in rows {
        let _ = write!(text, "| {label} ");
        for traffic in &results.traffic {
            let [p50, p99, most] = traffic.shares(figure);
            let _ = write!(text, "| {p50:.1} / {p99:.1} / {most:.1} ");
        }
        text.push_str("|\n");
    }
    for (label, figure) in [
        ("changes measured", (|traffic| traffic.samples.len() as u64) as fn(&Traffic) -> u64),
        ("requests", |traffic| traffic.requests),
        ("… that failed", |traffic| traffic.failed),
    ] {
        let _ = write!(text, "| {label} ");
        for traffic in &results.traffic {
            let _ = write!(text, "| {} ", figure(traffic));
        }
        text.push_str("|\n");
    }
    text
}

/// CPU, and hours of changes.
fn rest(results: &Results) -> String {
    let mut text = String::new();
    if let Some(cpu) = results.cpu {
        let each = (cpu.busy - cpu.idle) / cpu.rate.max(1.0) * 1e3;
        let _ = write!(
            text,
            "## CPU\n\nOf one core: {:.1} % with nothing to do; {:.1} % with {:.0} changes of EndpointSlices each second, which is {each:.1} ms for each.\n",
            cpu.idle * 100.0,
            cpu.busy * 100.0,
            cpu.rate
        );
    }
    let Some(churn) = &results.churn else { return text };
    let (least, most) = churn.range();
    let _ = write!(
        text,
        "\n## Hours of changes\n\nFor {:.0} minutes, {:.1} objects were changed, created or deleted each second, {} in all: most are EndpointSlices with new pods, then \
         labels and session affinity of Services, annotations of Ingresses, and applications with new names that come and go. In the second half memory \
         was {:.1} to {:.1} MiB; a line through the least of each minute: {}; and it was {} MiB two minutes after the last change. The process took {:.1} % of a core. {} requests meanwhile, {} of which failed.\n",
        churn.seconds / 60.0,
        churn.changes as f64 / churn.seconds,
        churn.changes,
        mebibytes(least),
        mebibytes(most),
        churn.growth().map_or_else(|| NOTHING.to_owned(), line),
        churn.rested.map_or_else(|| NOTHING.to_owned(), |rested| format!("{:.1}", mebibytes(rested.pss))),
        churn.cpu_seconds / churn.seconds * 100.0,
        churn.requests,
        churn.failed,
    );
    text
}

fn line(growth: Growth) -> String {
    let Growth { per_hour, error } = growth;
    format!("{:+.2} ± {:.2} MiB an hour", per_hour / 1_048_576.0, error / 1_048_576.0)
}

fn others(traffic: &Traffic) -> String {
    if traffic.others > 0.0 {
        format!("{:.0} others a second", traffic.others)
    } else {
        "nothing else changes".to_owned()
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
