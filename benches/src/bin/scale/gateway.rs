//! The Tidegate that is measured: `tidegate run --kubernetes` as a process of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail};
use rustix::process::Signal;
use serde::Deserialize;
use tidegate_benches::{http1, process};

use crate::{
    cluster::PATIENCE,
    results::{Memory, Start},
};

/// Where it serves HTTP, and its admin interface; below the ports that clients get.
pub(crate) const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7_080);
const HTTPS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7_443);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7_901);

/// How long it may take until it is ready.
const START: Duration = Duration::from_secs(120);

/// How often it is asked whether it is.
const ASK: Duration = Duration::from_millis(5);

/// How long it may take to end before it is killed.
const STOP: Duration = Duration::from_secs(5);

/// What its log says when every list was read, and when a configuration is live.
const LISTED: &str = "the cluster's objects are known";
const LIVE: &str = "configuration is live";

/// A running Tidegate; it ends with this value.
pub(crate) struct Gateway {
    child: Child,
    log: PathBuf,
}

/// A line of its log.
#[derive(Deserialize)]
struct Line {
    timestamp: String,
    message: String,
}

impl Gateway {
    /// Starts it, and waits until it is ready. `directory`: for its log.
    pub(crate) fn start(
        program: &Path,
        kubeconfig: &Path,
        directory: &Path,
        args: &[String],
    ) -> anyhow::Result<(Self, Start)> {
        let log = directory.join("tidegate.log");
        let mut command = process::bound_to_us(program);
        command.args(["run", "--kubernetes", "--log-format", "json", "--kubeconfig"]).arg(kubeconfig);
        for (flag, addr) in [("--http", HTTP), ("--https", HTTPS), ("--admin", ADMIN)] {
            command.arg(flag).arg(addr.to_string());
        }
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let (begun, clock) = (Instant::now(), SystemTime::now());
        let mut gateway = Self { child: command.spawn().context("tidegate")?, log };
        while !http1::get(ADMIN, &ADMIN.to_string(), "/readyz").is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = gateway.child.try_wait()? {
                bail!("tidegate has ended ({status}): {}", gateway.last_words());
            }
            anyhow::ensure!(begun.elapsed() < START, "not ready within {START:?}: {}", gateway.last_words());
            sleep(ASK);
        }
        let ready = begun.elapsed().as_secs_f64();
        let since_start = |message| -> anyhow::Result<f64> {
            // What is ready may not have said so yet.
            let patience = Instant::now() + PATIENCE;
            loop {
                if let Some(said) = gateway.first(message)? {
                    return Ok(said.duration_since(clock).unwrap_or_default().as_secs_f64());
                }
                anyhow::ensure!(Instant::now() < patience, "its log has no {message:?}");
                sleep(ASK);
            }
        };
        let start = Start { ready, listed: since_start(LISTED)?, live: since_start(LIVE)? };
        Ok((gateway, start))
    }

    /// When its log first said something.
    fn first(&self, message: &str) -> anyhow::Result<Option<SystemTime>> {
        let log = fs::read_to_string(&self.log)?;
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
        let found = lines.find(|line| line.message == message);
        Ok(found.map(|line| humantime::parse_rfc3339(&line.timestamp)).transpose()?)
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().rev().take(3).collect::<Vec<_>>().join(" / ")
    }

    /// Its memory, now.
    pub(crate) fn memory(&self) -> Memory {
        Memory { pss: process::pss(self.child.id()), rss: process::rss(self.child.id()) }
    }

    /// The CPU that it has taken so far.
    pub(crate) fn cpu(&self) -> Duration {
        process::cpu(self.child.id())
    }

    /// Fails if it does not run any more.
    pub(crate) fn runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("tidegate has ended ({status}): {}", self.last_words()),
            None => Ok(()),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        process::signal(self.child.id(), Signal::TERM);
        let patience = Instant::now() + STOP;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
            sleep(ASK);
        }
        // All of this is only tidying up: what has ended need not be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
