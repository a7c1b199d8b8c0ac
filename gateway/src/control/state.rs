//! What is remembered over a restart: the addresses that were handed out, in a small JSON file.
//!
//! Handing out is stable without it as long as no two Services want the same place; the file makes it so for the rest. It
//! may be deleted at any time. It stands in `$TIDEGATE_STATE_DIR`, else `$XDG_STATE_HOME/tidegate`, else
//! `~/.local/state/tidegate`, one file for each set of manifest paths.

use std::{
    env, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use md5::{Digest, Md5};
use serde_json::{Value, json};
use tidegate_l4::model::Protocol;

use crate::compile::{
    allocate::{Allocations, Family},
    objects::Name,
};

/// A state file larger than this is not ours.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// Where the addresses handed out for some manifests are kept.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file for these manifests; `None` where there is no directory for such files.
    pub fn for_manifests(manifests: &[PathBuf]) -> Option<Self> {
        let directory = env::var_os("TIDEGATE_STATE_DIR").map(PathBuf::from);
        let xdg = || env::var_os("XDG_STATE_HOME").map(|base| PathBuf::from(base).join("tidegate"));
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state/tidegate"));
        let directory = directory.or_else(xdg).or_else(home)?;
        let mut hash = Md5::new();
        for path in manifests {
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update([0]);
        }
        let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Some(Self { path: directory.join(format!("{name}.json")) })
    }

    /// Its place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was kept; nothing if there is no file or it cannot be read.
    pub fn load(&self) -> Allocations {
        let small = fs::metadata(&self.path).is_ok_and(|meta| meta.len() <= MAX_STATE_BYTES);
        let text = if small { fs::read(&self.path).ok() } else { None };
        text.and_then(|text| serde_json::from_slice(&text).ok()).map(|value| from_json(&value)).unwrap_or_default()
    }

    /// Keeps `allocations`: a reader sees the old file or the new one, never half of one.
    ///
    /// # Errors
    /// If the directory or the file cannot be written.
    pub fn save(&self, allocations: &Allocations) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let draft = self.path.with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&draft, to_json(allocations).to_string())?;
        fs::rename(&draft, &self.path)
    }
}

fn to_json(allocations: &Allocations) -> Value {
    let ips = |map: &std::collections::BTreeMap<(Name, Family), IpAddr>| -> Value {
        map.iter().map(|((name, _), ip)| json!([name.namespace, name.name, ip.to_string()])).collect()
    };
    let ports: Value = allocations
        .node_ports
        .iter()
        .map(|((name, protocol, port), number)| json!([name.namespace, name.name, protocol.to_string(), port, number]))
        .collect();
    let checks = allocations.health_check_ports.iter();
    let checks: Value = checks.map(|(name, number)| json!([name.namespace, name.name, number])).collect();
    json!({
        "clusterIPs": ips(&allocations.cluster_ips),
        "loadBalancerIPs": ips(&allocations.load_balancer_ips),
        "nodePorts": ports,
        "healthCheckNodePorts": checks,
    })
}

/// Rows that make no sense are left out: the file may have been edited, and what it says is only a wish.
fn from_json(value: &Value) -> Allocations {
    let rows = |key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let ip = |row: &Value| -> Option<((Name, Family), IpAddr)> {
        let ip: IpAddr = row.get(2)?.as_str()?.parse().ok()?;
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        Some(((Name::new(row.get(0)?.as_str()?, row.get(1)?.as_str()?), family), ip))
    };
    let number = |row: &Value, i: usize| row.get(i)?.as_u64().and_then(|n| u16::try_from(n).ok());
    let port = |row: &Value| -> Option<((Name, Protocol, u16), u16)> {
        let protocol = if row.get(2)?.as_str()? == "UDP" { Protocol::Udp } else { Protocol::Tcp };
        Some(((Name::new(row.get(0)?.as_str()?, row.get(1)?.as_str()?), protocol, number(row, 3)?), number(row, 4)?))
    };
    let check = |row: &Value| -> Option<(Name, u16)> {
        Some((Name::new(row.get(0)?.as_str()?, row.get(1)?.as_str()?), number(row, 2)?))
    };
    Allocations {
        cluster_ips: rows("clusterIPs").iter().filter_map(ip).collect(),
        load_balancer_ips: rows("loadBalancerIPs").iter().filter_map(ip).collect(),
        node_ports: rows("nodePorts").iter().filter_map(port).collect(),
        health_check_ports: rows("healthCheckNodePorts").iter().filter_map(check).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_rubbish_is_nothing() {
        let directory = env::temp_dir().join(format!("tidegate-state-{}", std::process::id()));
        let file = StateFile { path: directory.join("a/b.json") };
        assert_eq!(file.load(), Allocations::default());
        let mut allocations = Allocations::default();
        allocations.cluster_ips.insert((Name::new("default", "a"), Family::V4), "127.96.0.9".parse().unwrap());
        allocations.load_balancer_ips.insert((Name::new("default", "a"), Family::V6), "fd00::9".parse().unwrap());
        allocations.node_ports.insert((Name::new("default", "a"), Protocol::Udp, 53), 30_053);
        allocations.health_check_ports.insert(Name::new("default", "a"), 30_054);
        file.save(&allocations).unwrap();
        assert_eq!(file.load(), allocations);
        fs::write(
            &file.path,
            r#"{"clusterIPs":[1,["x"],["a","b","c"]],"nodePorts":{},"healthCheckNodePorts":[["a","b",70000]]}"#,
        )
        .unwrap();
        assert_eq!(file.load(), Allocations::default());
        fs::remove_dir_all(directory).unwrap();
    }
}
