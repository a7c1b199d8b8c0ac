//! A program of the cluster: it dies with its supervisor.

use std::{
    ffi::OsString,
    fs::OpenOptions,
    path::PathBuf,
    process::{ExitStatus, Stdio},
};

use tokio::process::{Child, Command};

use super::super::{
    Failure,
    directory::{Directory, OWNER},
};

/// Programs of Go would send even what is for loopback to such a proxy.
pub(in super::super) const PROXIES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// A program, running or not.
#[derive(Debug)]
pub(super) struct Daemon {
    name: String,
    command: Vec<OsString>,
    log: PathBuf,
    owner: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// One that does not run yet.
    pub(super) fn new(directory: &Directory, name: &str, command: Vec<OsString>) -> Self {
        let (log, owner) = (directory.log(name), directory.path().to_owned());
        Self { name: name.to_owned(), command, log, owner, child: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where it writes what it says.
    pub(super) fn log(&self) -> &PathBuf {
        &self.log
    }

    /// Starts it. It is killed when the calling thread ends.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.command).env(OWNER, &self.owner);
        for name in PROXIES {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let child = command.spawn().map_err(|error| format!("setpriv (of util-linux): {error}"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills it, and waits for its end.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Its process id, while it runs.
    pub(super) fn id(&mut self) -> Option<u32> {
        let child = self.child.as_mut()?;
        child.try_wait().ok()?.is_none().then(|| child.id())?
    }

    /// How it ended, if it has by itself.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }
}
