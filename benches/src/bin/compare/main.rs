//! Tidegate beside nginx, HAProxy, Envoy, Caddy and pingora: speed and memory, in one run on one machine.
//!
//! `cargo run --release -p tidegate-benches --bin compare`
//!
//! The proxies take turns in shuffled rounds, and ratios are taken within a round, so that a busy machine spoils all of
//! them alike. With one worker the proxy has one core, load and back end the other. CPU is the kernel's own account of the
//! proxy's threads (`schedstat`), memory its proportional set size. Everything is on loopback, as root in a network of its
//! own, and every step is bounded; all of it takes about twenty minutes. Each proxy is asked first whether it does a thing
//! right ([`verify`]).

mod backend;
mod change;
mod cost;
mod goals;
mod h2;
mod load;
mod memory;
mod peers;
mod plot;
mod programs;
mod report;
mod results;
mod routes;
mod speed;
mod tls;
mod verify;
mod watch;
mod workload;
mod world;

use std::{
    env,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use tidegate_benches::{http1, network, process, stats};

use self::{
    programs::{Kind, Programs},
    results::{About, Cost, Later, Results},
    speed::{Fleet, Pace},
    tls::KeyKind,
    workload::Suite,
    world::World,
};

/// Measures Tidegate beside other proxies
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// What to measure [default: everything]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SUITE")]
    suite: Vec<Suite>,
    /// Whom to measure [default: everybody]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PROXY")]
    targets: Vec<Kind>,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(1..=30))]
    rounds: u8,
    /// Seconds of each sample
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=10))]
    seconds: u8,
    /// Workers of each proxy; with more than one nothing is pinned to a core
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// The key of the certificate
    #[arg(long, value_enum, default_value = "ecdsa")]
    key: KeyKind,
    /// The Tidegate to measure [default: built now, in release]
    #[arg(long, value_name = "PATH")]
    tidegate: Option<PathBuf>,
    /// A further argument of `tidegate run`; may be given several times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    tidegate_arg: Vec<String>,
    /// Install nothing: what is missing is left out
    #[arg(long)]
    no_install: bool,
    /// Print the tables, but leave the files in benches/compare as they are
    #[arg(long)]
    dry: bool,
    /// Keep what results.json holds of suites that are not measured now
    #[arg(long)]
    merge: bool,
    /// What the process outside of our own network has found, as JSON
    #[arg(long, hide = true)]
    prepared: Option<String>,
}

/// What is done before the measurements, where there is a network.
#[derive(Debug, Deserialize, Serialize)]
struct Prepared {
    programs: Programs,
    cost: Cost,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serve as the back end
    #[command(hide = true)]
    Backend { http: u16, tcp: u16 },
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(Role::Backend { http, tcp }) = args.role {
        backend::run(http, tcp)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(prepared) = &args.prepared {
        network::set_up()?;
        measure(&args, serde_json::from_str(prepared)?, true)?;
        return Ok(ExitCode::SUCCESS);
    }
    let kinds = if args.targets.is_empty() { Kind::ALL.to_vec() } else { args.targets.clone() };
    let cost = if suites(&args).contains(&Suite::Cost) { cost::measure() } else { Cost::default() };
    let prepared = Prepared { programs: Programs::prepare(&kinds, args.tidegate.clone(), !args.no_install)?, cost };
    let Some(mut inside) = network::command(&env::current_exe()?) else {
        eprintln!("no network of our own (it takes root, unshare and ip): measuring on this machine's loopback");
        measure(&args, prepared, false)?;
        return Ok(ExitCode::SUCCESS);
    };
    inside.args(env::args_os().skip(1)).arg("--prepared").arg(serde_json::to_string(&prepared)?);
    let status = inside.status().context("unshare")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(args: &Args, prepared: Prepared, has_own_network: bool) -> anyhow::Result<()> {
    let Prepared { programs, cost } = prepared;
    let mut results = if args.merge { report::earlier() } else { Results::default() };
    let load_before = process::load_average();
    let versions = programs.kinds().filter_map(|kind| Some((kind, programs.of(kind).ok()?.version.clone()))).collect();
    let world = World::new(programs, args.workers.into(), args.key, args.tidegate_arg.clone())?;
    let mut fleet = Fleet::new(&world);
    for suite in suites(args) {
        eprintln!("{}", suite_name(suite));
        measure_suite(suite, &mut fleet, args, &mut results);
    }
    drop(fleet);
    if suites(args).contains(&Suite::Cost) {
        results.cost = cost;
    }
    let about = About {
        time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        processor: process::processor(),
        versions,
        workers: world.workers,
        key: format!("{:?}", args.key).to_uppercase(),
        is_pinned: world.cores.is_some(),
        has_own_network,
        load_before,
        load_after: process::load_average(),
    };
    note(&mut results, suites(args).into_iter().map(suite_name).collect(), about);
    drop(world);
    println!("{}", report::markdown(&results));
    if args.dry { Ok(()) } else { report::write(&results) }
}

/// Notes where and when it was measured: all of it, or what was merged into an earlier run.
fn note(results: &mut Results, suites: Vec<String>, about: About) {
    if results.about.time.is_empty() {
        results.about = about;
    } else {
        results.later.retain(|later| later.suites != suites);
        results.later.push(Later { suites, about });
    }
}

/// What was asked for, in the order it is measured in.
fn suites(args: &Args) -> Vec<Suite> {
    let mut suites = if args.suite.is_empty() { Suite::value_variants().to_vec() } else { args.suite.clone() };
    suites.sort_unstable();
    suites.dedup();
    suites
}

fn suite_name(suite: Suite) -> String {
    suite.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// One suite; what fails in it is in its results.
fn measure_suite(suite: Suite, fleet: &mut Fleet<'_>, args: &Args, results: &mut Results) {
    let world = fleet.world;
    let pace = Pace { rounds: args.rounds.into(), time: Duration::from_secs(args.seconds.into()) };
    match suite {
        Suite::Latency => speed::measure_latency(fleet, pace, results),
        Suite::Memory => {
            // Others would be measured with it: their processes share pages.
            fleet.have(&[]);
            results.memory = world.programs.kinds().map(|kind| (kind, memory::measure(world, kind))).collect();
            results.memory_tcp = world.programs.kinds().map(|kind| (kind, memory::measure_tcp(world, kind))).collect();
        }
        Suite::Change => {
            let changes = usize::from(args.rounds);
            fleet.have(&[]);
            results.change = world.programs.kinds().map(|kind| (kind, change::measure(world, kind, changes))).collect();
        }
        Suite::Watch => {
            fleet.have(&[]);
            results.watched = watch::measure(world, pace);
        }
        // It needs a compiler, and so was done outside.
        Suite::Cost => {}
        suite => speed::measure(suite, fleet, pace, results),
    }
}
