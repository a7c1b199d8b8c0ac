//! Tidegate's TCP plane beside HAProxy and nginx, each with one worker, in one run on one machine.
//!
//! `cargo run --release -p tidegate-benches --bin compare_l4`
//!
//! Proxies take turns in shuffled rounds, and ratios are taken within a round, so that a busy machine spoils all of them
//! alike. The proxy has one core, the load and the back end the other. CPU is the kernel's own account of the proxy's
//! threads (`schedstat`), memory its proportional set size. Everything is on loopback and ends within two minutes.

mod load;
mod peers;
mod process;
mod report;

use std::{path::PathBuf, process::Command, thread::sleep, time::Duration};

use anyhow::{Context, ensure};
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use self::{
    load::Backend,
    peers::{Kind, Proxy},
    report::Figures,
};

/// One sample of the bulk transfer; a second moves more than a gigabyte.
const BULK: Duration = Duration::from_secs(1);

/// One sample of connections or round trips: thousands of them.
const SMALL: Duration = Duration::from_millis(700);

/// Idle connections are left alone so long before memory is read, for allocators that give back late.
const SETTLE: Duration = Duration::from_millis(1_500);

/// How often memory is measured, each time in a new process.
const MEMORY_ROUNDS: usize = 3;

/// Descriptors that are not connections.
const SPARE_FILES: u64 = 500;

/// Measures Tidegate's TCP plane beside HAProxy and nginx
#[derive(Debug, Parser)]
struct Args {
    /// The Tidegate to measure [default: built now, in release]
    #[arg(long, value_name = "PATH")]
    tidegate: Option<PathBuf>,
    /// Rounds of speed measurements
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=20))]
    rounds: u8,
    /// Idle connections for the memory measurement
    #[arg(long, default_value_t = 3_000)]
    connections: usize,
    /// Print the table, but leave RESULTS.md as it is
    #[arg(long)]
    dry: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let tidegate = match args.tidegate {
        Some(path) => path,
        None => build()?,
    };
    let programs = peers::find(tidegate)?;
    let connections = args.connections.min(raise_file_limit()?);
    let cores = process::two_cores();
    let load_before = process::load_average();
    // The back end's threads inherit the core this thread is on.
    process::pin(cores.map(|(_, load)| load));
    let backend = Backend::start()?;
    let mut figures = Figures::new(&programs, connections);
    let start = |kind: Kind| Proxy::start(kind, &programs, backend.addr(), cores);
    for _ in 0..MEMORY_ROUNDS {
        for kind in shuffled() {
            let proxy = start(kind)?;
            figures.of(kind).idle_bytes.push(idle_bytes(&proxy, &backend, connections)?);
        }
    }
    let proxies: Vec<Proxy> = Kind::ALL.into_iter().map(start).collect::<Result<_, _>>()?;
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        for kind in shuffled() {
            let proxy = proxies.iter().find(|proxy| proxy.kind == kind).context("every kind was started")?;
            let one = figures.of(kind);
            let (bytes, time, cpu) = measured(proxy, || load::stream(proxy.addr, BULK))?;
            ensure!(bytes > 0, "nothing went through {kind:?}");
            one.gbit_per_second.push(bytes as f64 * 8e-9 / time);
            one.cpu_seconds_per_gb.push(cpu / (bytes as f64 * 1e-9));
            let (count, time, cpu) = measured(proxy, || load::connections(proxy.addr, SMALL))?;
            one.connections_per_second.push(count as f64 / time);
            one.cpu_us_per_connection.push(cpu * 1e6 / count.max(1) as f64);
            let (count, time, cpu) = measured(proxy, || load::round_trips(proxy.addr, SMALL))?;
            one.round_trips_per_second.push(count as f64 / time);
            one.cpu_us_per_round_trip.push(cpu * 1e6 / count.max(1) as f64);
        }
    }
    drop(proxies);
    let text = figures.to_markdown(cores.is_some(), &load_before);
    println!("{text}");
    if args.dry { Ok(()) } else { report::write(&text) }
}

/// What `work` counted, how many seconds it took, and how many of the proxy's CPU.
fn measured(proxy: &Proxy, work: impl FnOnce() -> anyhow::Result<(u64, Duration)>) -> anyhow::Result<(u64, f64, f64)> {
    let before = proxy.cpu();
    let (count, time) = work().with_context(|| format!("load on {:?}", proxy.kind))?;
    let cpu = proxy.cpu().saturating_sub(before);
    Ok((count, time.as_secs_f64(), cpu.as_secs_f64()))
}

fn idle_bytes(proxy: &Proxy, backend: &Backend, connections: usize) -> anyhow::Result<f64> {
    // What is allocated once for all connections is not the price of one.
    drop(load::idle(proxy.addr, 50)?);
    backend.forget_idle();
    sleep(SETTLE / 3);
    let before = proxy.pss();
    let held = load::idle(proxy.addr, connections)?;
    sleep(SETTLE);
    let after = proxy.pss();
    drop(held);
    backend.forget_idle();
    Ok(after.saturating_sub(before) as f64 / connections as f64)
}

fn shuffled() -> [Kind; 3] {
    let mut kinds = Kind::ALL;
    fastrand::shuffle(&mut kinds);
    kinds
}

/// Builds Tidegate where this program was built.
fn build() -> anyhow::Result<PathBuf> {
    let target = std::env::current_exe()?.ancestors().nth(2).context("the target directory")?.to_owned();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "-p", "tidegate", "--target-dir"]).arg(&target);
    let status =
        build.current_dir(env!("CARGO_MANIFEST_DIR")).status().context("cargo cannot be run; give --tidegate PATH")?;
    ensure!(status.success(), "Tidegate does not build; give --tidegate PATH");
    Ok(target.join("release/tidegate"))
}

/// Raises the limit of open files, which the proxies inherit; says how many connections fit: each takes two, here as there.
fn raise_file_limit() -> anyhow::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let files = limit.maximum.unwrap_or(1 << 20);
    Ok(usize::try_from(files.saturating_sub(SPARE_FILES) / 2)?)
}
