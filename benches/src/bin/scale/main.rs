//! Tidegate at the size of a large cluster, with a real API server: time until it is ready, memory, time from a change of an EndpointSlice to
//! traffic, CPU, and memory over hours of changes.
//!
//! `cargo run --release -p tidegate-benches --bin scale` (`-- --churn 1h` for the hours)
//!
//! The cluster is the test bed's control plane (its programs are built first if they are missing); it has no nodes, and the pods
//! are one server at 65,000 addresses of a network namespace of our own. That takes root. Everything that is started ends with
//! this process, and nothing outside of its namespace changes.

mod addresses;
mod changes;
mod churn;
mod cluster;
mod gateway;
mod objects;
mod pods;
mod report;
mod results;
mod traffic;
mod watcher;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use tidegate_benches::{network, process, program};
use tidegate_tests::cluster::{Tier, programs::Programs};

use self::{
    changes::{Changes, World},
    cluster::Cluster,
    gateway::Gateway,
    results::{About, Cpu, Results, Stage},
};

/// A process that is left alone for so long is idle: its allocator has given back what it will.
const SETTLE: Duration = Duration::from_secs(15);

/// How long the CPU is measured with nothing to do, and under changes.
const IDLE: Duration = Duration::from_secs(20);
const BUSY: Duration = Duration::from_secs(40);

/// What every Ingress is to show.
const PUBLISH: [&str; 2] = ["--publish-status-address", "192.0.2.10"];

/// How long that may take, and how often it is looked at.
const STATUSES: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(2);

/// Measures Tidegate in a large cluster
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Services, each with an EndpointSlice and an Ingress
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u16).range(2..=i64::from(addresses::MOST)))]
    services: u16,
    /// Changes that are timed, with nothing else happening and then with others
    #[arg(long, default_value_t = 300)]
    samples: usize,
    /// Other changes each second
    #[arg(long, default_value_t = 50)]
    others: u32,
    /// New processes that are timed
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// How long the cluster goes on changing in the end
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    churn: Duration,
    /// Changes each second of that time
    #[arg(long, default_value_t = 10)]
    churn_rate: u32,
    /// The Tidegate to measure [default: built now, in release]
    #[arg(long, value_name = "PATH")]
    tidegate: Option<PathBuf>,
    /// A further argument of `tidegate run`; may be given several times
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    tidegate_arg: Vec<String>,
    /// Print the tables, but leave the files in benches/scale as they are
    #[arg(long)]
    dry: bool,
    /// The Tidegate that the process outside of our own network has found
    #[arg(long, hide = true)]
    found: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Run the cluster
    #[command(hide = true)]
    Supervise {
        #[arg(long)]
        name: String,
        /// It never has nodes.
        #[arg(long)]
        control_plane: bool,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if let Some(Role::Supervise { name, .. }) = &args.role {
        cluster::supervise(name)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(tidegate) = &args.found {
        network::set_up()?;
        let local = Command::new("ip").args(["route", "add", "local", addresses::RANGE, "dev", "lo"]).status()?;
        ensure!(local.success(), "ip has failed");
        process::raise_file_limit()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(measure(&args, tidegate))?;
        return Ok(ExitCode::SUCCESS);
    }
    let tidegate = program::tidegate(args.tidegate)?;
    Programs::build(Tier::ControlPlane, &mut |line| eprintln!("{line}")).map_err(|error| anyhow::anyhow!("{error}"))?;
    let inside = network::command(&env::current_exe()?);
    let mut inside = inside.context("it takes a network of our own: root, and the programs unshare and ip")?;
    let status = inside.args(env::args_os().skip(1)).arg("--found").arg(tidegate).status().context("unshare")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn measure(args: &Args, tidegate: &Path) -> anyhow::Result<()> {
    let directory = env::temp_dir().join(format!("tidegate-scale-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let measured = all(args, tidegate, &directory).await;
    fs::remove_dir_all(&directory)?;
    let results = measured?;
    println!("{}", report::markdown(&results));
    if args.dry { Ok(()) } else { report::write(&results) }
}

/// All of it, one after the other.
async fn all(args: &Args, tidegate: &Path, directory: &Path) -> anyhow::Result<Results> {
    let mut results = Results { about: about(args, tidegate)?, ..Results::default() };
    eprintln!("cluster");
    let world = Arc::new(World::new(Cluster::start().await?, args.services.into()));
    pods::start()?;
    let start_with = |more: &[String]| {
        let args = [args.tidegate_arg.as_slice(), more].concat();
        Gateway::start(tidegate, &world.cluster.kubeconfig(), directory, &args)
    };
    let start = || start_with(&[]);
    fill(&world, &start, &mut results).await?;
    eprintln!("starts");
    for _ in 0..args.starts {
        // Not measured in the same breath as what the one before has left.
        tokio::time::sleep(SETTLE / 5).await;
        results.starts.push(start()?.1);
    }
    let mut gateway = start_with(&PUBLISH.map(str::to_owned))?.0;
    eprintln!("statuses");
    results.published = Some(published(&world).await?);
    for others in [0, args.others] {
        eprintln!("from a change to traffic, {others} others a second");
        if args.samples > 0 {
            results.traffic.push(traffic::measure(&world, args.samples, others).await?);
        }
    }
    eprintln!("CPU");
    results.cpu = Some(cpu(&world, &gateway, args.others).await?);
    tokio::time::sleep(SETTLE).await;
    results.used = Some(gateway.memory());
    if !args.churn.is_zero() {
        eprintln!("changes for {}", humantime::format_duration(args.churn));
        results.churn = Some(churn::measure(&world, &mut gateway, args.churn, args.churn_rate).await?);
    }
    results.about.load_after = process::load_average();
    Ok(results)
}

/// Waits until every Ingress shows its address; returns how many seconds that took.
async fn published(world: &World) -> anyhow::Result<f64> {
    let begun = Instant::now();
    while world.cluster.published().await? < world.services {
        ensure!(begun.elapsed() < STATUSES, "not every Ingress has its status after {STATUSES:?}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Fills the cluster kind by kind, with a new process in between each time.
async fn fill(
    world: &World,
    start: &impl Fn() -> anyhow::Result<(Gateway, results::Start)>,
    results: &mut Results,
) -> anyhow::Result<()> {
    let (cluster, count) = (&world.cluster, world.services);
    for kind in ["nothing", "Services", "EndpointSlices", "Ingresses"] {
        match kind {
            "Services" => cluster.fill(count, |_, app| app.service()).await?,
            "EndpointSlices" => {
                let block = |number| world.addresses().of(number);
                cluster.fill(count, |number, app| app.slice(block(number))).await?;
            }
            "Ingresses" => cluster.fill(count, |_, app| app.ingress()).await?,
            _ => {}
        }
        let (gateway, start) = start()?;
        tokio::time::sleep(SETTLE).await;
        let memory = gateway.memory();
        eprintln!("  {kind}: {:.1} MiB, ready after {:.2} s", memory.pss as f64 / 1_048_576.0, start.ready);
        let count = if kind == "nothing" { 0 } else { count };
        results.stages.push(Stage { kind: kind.to_owned(), count, start, memory });
    }
    Ok(())
}

async fn cpu(world: &Arc<World>, gateway: &Gateway, others: u32) -> anyhow::Result<Cpu> {
    let share = async |time: Duration| {
        let before = gateway.cpu();
        tokio::time::sleep(time).await;
        (gateway.cpu() - before).as_secs_f64() / time.as_secs_f64()
    };
    tokio::time::sleep(SETTLE).await;
    let idle = share(IDLE).await;
    let changes = Changes::start(world, others);
    let busy = share(BUSY).await;
    Ok(Cpu { idle, busy, rate: changes.stop().await? })
}

fn about(args: &Args, tidegate: &Path) -> anyhow::Result<About> {
    Ok(About {
        time: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        processor: process::processor(),
        version: program::found(tidegate.to_owned(), "--version")?.version,
        arguments: args.tidegate_arg.clone(),
        services: args.services.into(),
        load_before: process::load_average(),
        load_after: String::new(),
    })
}
