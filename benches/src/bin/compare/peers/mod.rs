//! The proxies as an expert would set each up: the same routes, the same fields added, connections kept open both ways, no
//! access log, as many workers.

mod caddy;
mod envoy;
mod haproxy;
mod nginx;
mod pingora;
mod tidegate;

use std::{net::SocketAddr, path::PathBuf, process::Command};

use crate::{
    programs::{Kind, Programs},
    routes::Host,
    tls::Certificate,
};

/// What a proxy does.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Plane {
    /// HTTP and HTTPS with one route.
    One,
    /// HTTP and HTTPS with ten thousand routes.
    Many,
    /// TCP connections.
    Tcp,
}

/// What a proxy is told.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) plane: Plane,
    /// Where its files are.
    pub(crate) directory: PathBuf,
    /// Where it serves HTTP, or TCP.
    pub(crate) addr: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) backend: SocketAddr,
    pub(crate) certificate: Certificate,
    pub(crate) workers: usize,
    /// Files it may have open.
    pub(crate) files: u64,
    /// What the user adds to Tidegate's command line.
    pub(crate) tidegate_args: Vec<String>,
}

impl Setup {
    /// Client connections for which the files are enough: each takes two.
    fn connections(&self) -> u64 {
        self.files.saturating_sub(600).min(40_000) / 2
    }
}

/// A file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

/// How a proxy takes up a changed configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// It watches its files.
    Watches,
    Signal(rustix::process::Signal),
    /// By POST of its configuration to `/load` at the admin address.
    Load,
}

/// Why a proxy cannot do this at all; `None` if it can.
pub(crate) fn lacks(kind: Kind, plane: Plane) -> Option<&'static str> {
    match (kind, plane) {
        (Kind::Caddy, Plane::Tcp) => Some("Debian's Caddy has no TCP proxy"),
        (Kind::Pingora, Plane::Tcp) => Some("pingora's proxy is for HTTP"),
        _ => None,
    }
}

/// The configuration for these routes.
pub(crate) fn files(kind: Kind, setup: &Setup, hosts: &[Host], programs: &Programs) -> Vec<File> {
    match kind {
        Kind::Tidegate => tidegate::files(setup, hosts),
        Kind::Nginx => nginx::files(setup, hosts, programs),
        Kind::HaProxy => haproxy::files(setup, hosts),
        Kind::Envoy => envoy::files(setup, hosts),
        Kind::Caddy => caddy::files(setup, hosts),
        Kind::Pingora => pingora::files(setup, hosts),
    }
}

/// How it is started, of a `program` that [`Programs`] has found.
pub(crate) fn start(kind: Kind, setup: &Setup, programs: &Programs) -> Result<Command, String> {
    let mut command = crate::process::bound_to_us(&programs.of(kind)?.path);
    match kind {
        Kind::Tidegate => tidegate::start(&mut command, setup, programs),
        Kind::Nginx => nginx::start(&mut command, setup),
        Kind::HaProxy => haproxy::start(&mut command, setup),
        Kind::Envoy => envoy::start(&mut command, setup),
        Kind::Caddy => caddy::start(&mut command, setup),
        Kind::Pingora => pingora::start(&mut command, setup),
    }
    Ok(command)
}

/// How it takes up a change, or why it does not.
pub(crate) fn reload(kind: Kind) -> Result<Reload, &'static str> {
    match kind {
        Kind::Tidegate | Kind::Envoy => Ok(Reload::Watches),
        Kind::Nginx => Ok(Reload::Signal(rustix::process::Signal::HUP)),
        Kind::HaProxy => Ok(Reload::Signal(rustix::process::Signal::USR2)),
        Kind::Caddy => Ok(Reload::Load),
        Kind::Pingora => Err("its configuration is whatever its program makes of it"),
    }
}
