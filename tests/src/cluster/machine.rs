//! What a cluster takes of the machine that it runs on.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{Failure, Tier};

/// The programs that are not ours to build, and Debian's packages that have them.
const CONTROL_PLANE: &[(&str, &str)] = &[("setpriv", "util-linux")];
const TWO_NODES: &[(&str, &str)] = &[
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("bash", "bash"),
    ("ip", "iproute2"),
    ("containerd", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("busybox", "busybox-static"),
    ("curl", "curl"),
];

/// Where distributions put CNI's plugins; Debian's package is `containernetworking-plugins`.
const PLUGINS: [&str; 3] = ["/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"];

/// What a node sees otherwise than the machine does.
const HIDDEN: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// Whether this machine can have such a cluster.
///
/// # Errors
/// Why not, and what to do.
pub fn check(tier: Tier) -> Result<(), Failure> {
    if !cfg!(target_os = "linux") {
        return Err("the test cluster takes Linux".into());
    }
    let (needed, is_root) = match tier {
        Tier::ControlPlane => (CONTROL_PLANE, true),
        Tier::TwoNodes => (TWO_NODES, rustix::process::geteuid().is_root()),
    };
    let missing = needed.iter().filter(|(program, _)| find(program).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if tier == Tier::TwoNodes && plugins().is_none() {
        packages.push("containernetworking-plugins");
    }
    packages.dedup();
    if !packages.is_empty() {
        return Err(format!("programs are missing: apt-get install {}", packages.join(" ")).into());
    }
    let directory = env::temp_dir();
    if tier == Tier::TwoNodes && HIDDEN.iter().any(|hidden| directory.starts_with(hidden)) {
        return Err(
            format!("nodes have a {} of their own; set TMPDIR to another directory", directory.display()).into()
        );
    }
    if !is_root {
        return Err("two nodes take root, for their namespaces; `--control-plane` does not".into());
    }
    Ok(())
}

/// Where a program is: in `PATH`, or where root has its own.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Where CNI's plugins are.
pub(super) fn plugins() -> Option<&'static Path> {
    PLUGINS.iter().map(Path::new).find(|folder| folder.join("ptp").is_file())
}
