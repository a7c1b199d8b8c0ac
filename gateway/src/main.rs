//! The `tidegate` binary: arguments in, exit code out.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use tidegate::{
    capabilities,
    cli::{Cli, LogFormat},
};
use tracing_subscriber::EnvFilter;

// Returns memory to the system after a wave of connections, by a thread of its own and without stalling a worker.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What kube's watches warn of is said by ours, once and in plain words; so is what its client complains of, which is a line for each
/// request while the API server is away.
const DEFAULT_FILTER: &str = "info,kube_runtime=error,kube_client=off";

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.log_format());
    // Before there are threads: each has its own.
    if let Err(error) = capabilities::raise() {
        tracing::warn!("what this process may do is not known ({error}); ports below 1024 may be refused");
    }
    cli.run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// To stderr: stdout belongs to what was asked for. `TIDEGATE_LOG` says what is logged, or `RUST_LOG`, which other programs go by, too.
fn start_log(format: LogFormat) {
    let filter = ["TIDEGATE_LOG", "RUST_LOG"].into_iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => log.json().flatten_event(true).with_span_list(false).init(),
    }
}
