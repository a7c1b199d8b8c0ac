//! A network of our own, if we may have one: its loopback has nobody else on it, all its ports, and settings for a load.

use std::{fs, path::Path, process::Command};

use crate::process;

const UNSHARE: &str = "/usr/bin/unshare";

/// The ports that clients get. Those below are for the proxies: none of them is taken by a client by chance.
const CLIENT_PORTS: &str = "10000 65535";

/// What the kernel is told of it.
const SETTINGS: [(&str, &str); 4] = [
    ("net/ipv4/ip_local_port_range", CLIENT_PORTS),
    // A client's port is free again soon after its connection has ended.
    ("net/ipv4/tcp_tw_reuse", "1"),
    ("net/core/somaxconn", "8192"),
    ("net/ipv4/tcp_max_syn_backlog", "8192"),
];

/// A command that runs `program` in a network of its own; `None` where that is not possible.
pub fn command(program: &Path) -> Option<Command> {
    let possible = Command::new(UNSHARE).args(["--net", "ip", "link", "set", "lo", "up"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        return None;
    }
    let mut command = process::bound_to_us(Path::new(UNSHARE));
    command.arg("--net").arg(program);
    Some(command)
}

/// Makes the network we are in ours.
///
/// # Errors
/// If its loopback cannot be used.
pub fn set_up() -> anyhow::Result<()> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    anyhow::ensure!(status.success(), "ip has failed");
    for (setting, value) in SETTINGS {
        if let Err(error) = fs::write(Path::new("/proc/sys").join(setting), value) {
            eprintln!("{setting} stays as it is: {error}");
        }
    }
    Ok(())
}
