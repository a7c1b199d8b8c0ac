//! The tables, and the files they are kept in.

use std::{collections::BTreeMap, fmt::Write, fs};

use anyhow::Context;

use crate::{
    goals, plot,
    programs::{Kind, compare_directory},
    results::{Cell, Later, Memory, Results, Row, Sample},
    stats::median,
};

/// What stands where nothing was measured.
const NOTHING: &str = "–";

/// Writes `RESULTS.md`, `results.json` and `results.svg`.
pub(crate) fn write(results: &Results) -> anyhow::Result<()> {
    let directory = compare_directory();
    let json = serde_json::to_string_pretty(results)? + "\n";
    for (name, text) in [("RESULTS.md", markdown(results)), ("results.json", json), ("results.svg", plot::svg(results))]
    {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// What an earlier run has left; nothing if there was none, or none that is understood.
pub(crate) fn earlier() -> Results {
    let text = fs::read_to_string(compare_directory().join("results.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// `RESULTS.md`.
pub(crate) fn markdown(results: &Results) -> String {
    let sections = [
        head(results),
        later(results),
        goals_table(results),
        ratios(results),
        cpu(results),
        per_second(results),
        latency(results),
        memory(results),
        changes(results),
        watched(results),
        cost(results),
        missing(results),
    ];
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n")
}

fn head(results: &Results) -> String {
    let about = &results.about;
    let versions: Vec<String> =
        about.versions.iter().map(|(kind, version)| format!("{} {version}", kind.name())).collect();
    let place = if about.is_pinned { "the proxy on one core, load and back end on another" } else { "nothing pinned" };
    let network = if about.has_own_network { "in a network namespace of its own" } else { "on the machine's loopback" };
    format!(
        "# Tidegate beside its peers\n\nWritten by `cargo run --release -p tidegate-benches --bin compare` at {time}: {versions}; workers of each: {workers}; \
         Linux {kernel} on {processor}, {place}, {network}; certificate with an {key} key, key exchange by X25519; load average {before} before and {after} after.\n\n\
         Figures are medians over rounds, in which the proxies take turns in shuffled order; a ratio is the median of the ratios within each round. \
         CPU is the kernel's account of all threads of the proxy, memory its proportional set size. Ratios below 1 are in Tidegate's favour. \
         All proxies route by host and path, tell the back end who asked, keep its connections open and write no access log; each was checked \
         for right answers before it was measured. Load and back end share {shared}: that, and not the proxy, can limit what is served per second, and \
         a proxy that is not kept busy pays more for each request (every one wakes it). \
         The CPU of the 32 handshakes of the HTTP/2 load is in its row.\n",
        shared = if about.is_pinned { "a core" } else { "the cores with the proxy" },
        time = about.time,
        versions = versions.join(", "),
        workers = about.workers,
        kernel = about.kernel,
        processor = about.processor,
        key = about.key,
        before = about.load_before,
        after = about.load_after,
    )
}

fn later(results: &Results) -> String {
    let line = |later: &Later| {
        let Later { suites, about } = later;
        let tidegate = about.versions.get(&Kind::Tidegate).map_or(NOTHING, String::as_str);
        format!(
            "- {}: at {}, Tidegate {tidegate}, Linux {} on {}; load average {} before and {} after\n",
            suites.join(", "),
            about.time,
            about.kernel,
            about.processor,
            about.load_before,
            about.load_after
        )
    };
    let lines: String = results.later.iter().map(line).collect();
    if lines.is_empty() { lines } else { format!("Measured in other runs since:\n\n{lines}") }
}

fn goals_table(results: &Results) -> String {
    let mut text = "## Goals\n\n| goal | measured | |\n|---|---|---|\n".to_owned();
    for goal in goals::all(results) {
        let verdict = match (&goal.measured, goal.met) {
            (None, _) => NOTHING,
            (Some(_), true) => "met",
            (Some(_), false) => "**not met**",
        };
        let _ = writeln!(text, "| {} | {} | {verdict} |", goal.what, goal.measured.as_deref().unwrap_or(NOTHING));
    }
    text
}

/// The rows in the order of the tables.
fn rows(results: &Results) -> Vec<&Row> {
    let mut rows: Vec<&Row> = results.speed.values().filter(|row| row.rate.is_none()).collect();
    rows.sort_by_key(|row| row.place);
    rows
}

/// A table with a column for each proxy.
fn table(title: &str, kinds: &[Kind], prefix: &str, lines: impl IntoIterator<Item = (String, Vec<String>)>) -> String {
    let names: Vec<String> = kinds.iter().map(|kind| format!("{prefix}{}", kind.name())).collect();
    let mut text = format!("{title}\n\n| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(kinds.len()));
    let mut is_empty = true;
    for (label, cells) in lines {
        let _ = writeln!(text, "| {label} | {} |", cells.join(" | "));
        is_empty = false;
    }
    if is_empty { String::new() } else { text }
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.filter(|value| value.is_finite()).map_or_else(|| NOTHING.to_owned(), |value| format!("{value:.digits$}"))
}

fn ratios(results: &Results) -> String {
    let peers = &Kind::ALL[1..];
    let lines = rows(results).into_iter().map(|row| {
        let one = |kind: &Kind| {
            let ratios = row.ratios(Kind::Tidegate, *kind, Sample::cpu);
            let (low, high) =
                (ratios.iter().copied().fold(f64::INFINITY, f64::min), ratios.iter().copied().fold(0.0, f64::max));
            if ratios.is_empty() {
                NOTHING.to_owned()
            } else {
                format!("{:.2} ({low:.2}–{high:.2})", median(&ratios))
            }
        };
        (row.label.clone(), peers.iter().map(one).collect())
    });
    let text = table("## CPU: Tidegate to each peer, with the range over rounds", peers, "to ", lines);
    if text.is_empty() { text } else { format!("{text}\n![CPU of each proxy to nginx's](results.svg)\n") }
}

fn cpu(results: &Results) -> String {
    let lines = rows(results).into_iter().map(|row| {
        let label = format!("{}, each {}", row.label, row.unit);
        (label, Kind::ALL.iter().map(|kind| cell(row.median(*kind, Sample::cpu), 1)).collect())
    });
    table("## CPU microseconds", &Kind::ALL, "", lines)
}

fn per_second(results: &Results) -> String {
    let lines = rows(results).into_iter().map(|row| {
        let plural = if row.unit == "MB" { "" } else { "s" };
        let label = format!("{}: {}{plural}", row.label, row.unit);
        (label, Kind::ALL.iter().map(|kind| cell(row.median(*kind, Sample::rate), 0)).collect())
    });
    table("## Per second", &Kind::ALL, "", lines)
}

fn latency(results: &Results) -> String {
    let Some(row) = results.speed.get("latency") else { return String::new() };
    let title = format!(
        "## At a fixed rate\n\nSmall answers, {:.0} requests per second: half of nginx's most. Milliseconds from when a request was due.",
        row.rate.unwrap_or_default()
    );
    let mut lines: Vec<(String, Vec<String>)> = ["p50", "p99", "p99.9"]
        .into_iter()
        .enumerate()
        .map(|(place, name)| {
            let one = |kind: &Kind| cell(row.median(*kind, |sample| sample.latency[place] / 1e3), 2);
            (name.to_owned(), Kind::ALL.iter().map(one).collect())
        })
        .collect();
    let cpu = Kind::ALL.iter().map(|kind| cell(row.median(*kind, Sample::cpu), 1)).collect();
    lines.push(("CPU microseconds per request".to_owned(), cpu));
    let share = |sample: &Sample| sample.failed as f64 * 100.0 / (sample.done + sample.failed) as f64;
    let failed = Kind::ALL.iter().map(|kind| cell(row.median(*kind, share), 1)).collect();
    lines.push(("failed, or due and not even sent, %".to_owned(), failed));
    table(&title, &Kind::ALL, "", lines)
}

fn memory(results: &Results) -> String {
    let of = |figure: &dyn Fn(&Memory) -> Option<f64>, digits: usize| {
        let one = |kind: &Kind| cell(results.memory.get(kind).and_then(|cell| figure(cell.measured()?)), digits);
        Kind::ALL.iter().map(one).collect::<Vec<_>>()
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut lines = Vec::new();
    if !results.memory.is_empty() {
        let many = |memory: &Memory| memory.many_routes.measured().map(|bytes| mib(*bytes));
        let count = |stage: usize| {
            let counts = results.memory.values().filter_map(|cell| Some(cell.measured()?.connections[stage].0));
            counts.max().unwrap_or_default()
        };
        lines.extend([
            ("idle, MiB".to_owned(), of(&|memory| Some(mib(memory.idle)), 1)),
            (format!("each of {} idle connections, bytes", count(0)), of(&|memory| Some(memory.per_connection(0)), 0)),
            (format!("each of {} idle connections, bytes", count(1)), of(&|memory| Some(memory.per_connection(1)), 0)),
            ("after these have closed, MiB".to_owned(), of(&|memory| Some(mib(memory.closed)), 1)),
            (
                "most during a wave of busy connections, MiB".to_owned(),
                of(&|memory| Some(mib(memory.wave.measured()?.1)), 1),
            ),
            ("10 s after it, MiB".to_owned(), of(&|memory| Some(mib(memory.wave.measured()?.2)), 1)),
            ("… share of the wave that stays, %".to_owned(), of(&|memory| Some(memory.kept()? * 100.0), 0)),
            ("idle with 10,000 routes, MiB".to_owned(), of(&many, 1)),
        ]);
    }
    if !results.memory_tcp.is_empty() {
        let one = |kind: &Kind| {
            let memory = results.memory_tcp.get(kind).and_then(Cell::measured);
            let each = memory.map(|memory| {
                memory.connections.1.saturating_sub(memory.idle) as f64 / memory.connections.0.max(1) as f64
            });
            cell(each, 0)
        };
        lines.push(("TCP: each idle connection, bytes".to_owned(), Kind::ALL.iter().map(one).collect()));
    }
    table("## Memory", &Kind::ALL, "", lines)
}

fn changes(results: &Results) -> String {
    if results.change.is_empty() {
        return String::new();
    }
    let title = "## One more path, at 10,000 routes\n\nTidegate and Envoy watch their files, nginx and HAProxy are told to reload by a signal, Caddy by its \
                 admin address. Meanwhile 1,000 requests per second go on, over connections that stay.";
    let of = |figure: &dyn Fn(&crate::results::Changes) -> String| {
        let one =
            |kind: &Kind| results.change.get(kind).and_then(Cell::measured).map_or_else(|| NOTHING.to_owned(), figure);
        Kind::ALL.iter().map(one).collect::<Vec<_>>()
    };
    let most = |live: &[f64]| live.iter().copied().fold(0.0, f64::max);
    let lines = [
        ("milliseconds until live, median".to_owned(), of(&|changes| cell(Some(median(&changes.live)), 1))),
        ("… and most".to_owned(), of(&|changes| cell(Some(most(&changes.live)), 1))),
        ("requests failed".to_owned(), of(&|changes| format!("{} of {}", changes.failed, changes.requests))),
    ];
    table(title, &Kind::ALL, "", lines)
}

fn cost(results: &Results) -> String {
    let line = |name: &str, value: Option<f64>| {
        format!("- {name}: {}\n", value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string()))
    };
    format!(
        "## What a connection and a request cost Tidegate\n\nFrom `cargo test -p tidegate --lib http::cost -- --nocapture`; they may only go down.\n\n{}{}",
        line("bytes of the future of a connection", results.cost.future_bytes),
        line("allocations per request", results.cost.allocations_per_request),
    )
}

fn watched(results: &Results) -> String {
    let lines: Vec<String> = results
        .watched
        .iter()
        .map(|row| {
            let ratios = row.ratios();
            let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
            let high = ratios.iter().copied().fold(0.0, f64::max);
            let [ratio, low, high] = [median(&ratios), low, high].map(|value| cell(Some(value), 2));
            format!("| {} | {ratio} | {low}–{high} |\n", row.label)
        })
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "## What it costs Tidegate to be looked at\n\nCPU with a dashboard open (state each second, up to 200 events of the tail) to that \
         without, the same process in the same rounds.\n\n| | ratio | of the rounds |\n|---|---|---|\n{}",
        lines.concat()
    )
}

fn missing(results: &Results) -> String {
    let mut lines = Vec::new();
    let mut name = |what: &str, kind: Kind, why: &str| {
        lines.push(format!("- {what}: {}: {}\n", kind.name(), why.split_whitespace().collect::<Vec<_>>().join(" ")));
    };
    for row in results.speed.values() {
        for (kind, cell) in &row.cells {
            if let Cell::Missing(why) = cell {
                name(&row.label, *kind, why);
            } else if row.failed(*kind) > 0 {
                name(&row.label, *kind, &format!("{} failed, {}", row.failed(*kind), first_failure(cell)));
            }
        }
    }
    fn reasons<T>(cells: &BTreeMap<Kind, Cell<T>>) -> impl Iterator<Item = (Kind, &str)> {
        cells.iter().filter_map(|(kind, cell)| match cell {
            Cell::Missing(why) => Some((*kind, why.as_str())),
            Cell::Measured(_) => None,
        })
    }
    reasons(&results.memory).for_each(|(kind, why)| name("memory", kind, why));
    reasons(&results.memory_tcp).for_each(|(kind, why)| name("memory, TCP", kind, why));
    for row in &results.watched {
        if let Cell::Missing(why) = &row.samples {
            name(&row.label, Kind::Tidegate, why);
        }
    }
    reasons(&results.change).for_each(|(kind, why)| name("one more path", kind, why));
    for (kind, memory) in results.memory.iter().filter_map(|(kind, cell)| Some((*kind, cell.measured()?))) {
        if let Cell::Missing(why) = &memory.wave {
            name("a wave of connections", kind, why);
        }
        if let Cell::Missing(why) = &memory.many_routes {
            name("memory with 10,000 routes", kind, why);
        }
    }
    for (kind, changes) in results.change.iter().filter_map(|(kind, cell)| Some((*kind, cell.measured()?))) {
        if let Some(why) = &changes.first_failure {
            name("requests during a change", kind, why);
        }
    }
    if lines.is_empty() { String::new() } else { format!("## Left out, and failures\n\n{}", lines.concat()) }
}

fn first_failure(cell: &Cell<Vec<Sample>>) -> &str {
    let mut samples = cell.measured().into_iter().flatten();
    samples.find_map(|sample| sample.first_failure.as_deref()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::markdown;
    use crate::{
        programs::Kind,
        results::{Cell, Results, Row, Sample},
    };

    #[test]
    fn what_is_missing_has_a_dash_and_a_reason() {
        let sample = Sample {
            round: 1,
            done: 10,
            failed: 2,
            first_failure: Some("answered 502".to_owned()),
            seconds: 1.0,
            cpu_seconds: 0.0005,
            latency: [0.0; 3],
        };
        let cells =
            [(Kind::Tidegate, Cell::Measured(vec![sample])), (Kind::Nginx, Cell::Missing("not\ninstalled".to_owned()))];
        let row = Row { label: "small".to_owned(), unit: "request".to_owned(), cells: cells.into(), ..Row::default() };
        let results = Results { speed: [("small".to_owned(), row)].into(), ..Results::default() };
        let text = markdown(&results);
        assert!(text.contains("| small, each request | 50.0 | – | – | – | – | – |"), "{text}");
        assert!(text.contains("- small: Tidegate: 2 failed, answered 502\n"), "{text}");
        assert!(text.contains("- small: nginx: not installed\n"), "{text}");
        assert!(text.contains("| small answers, HTTP/1.1 keep-alive: CPU at most 0.95 × nginx's | – | – |"), "{text}");
    }
}
