//! Tidegate as a process of its own.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tidegate_tests::{
    Net,
    load::{Target, Traffic},
    process::Process,
};

use super::world::{NAME, Streams, World};

/// A directory that goes away with the test.
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn new(net: Net, name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-{name}-{}-{}", std::process::id(), net.number()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub(super) fn write(&self, file: &str, text: &str) {
        let draft = self.0.join(format!(".{file}"));
        fs::write(&draft, text).expect("it is written");
        fs::rename(&draft, self.0.join(file)).expect("it takes its place");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// What one node runs: `tidegate run` with addresses of `net`.
pub(super) struct Node {
    pub(super) net: Net,
    pub(super) manifests: Directory,
    pub(super) state: Directory,
    /// `--drain-timeout`, in seconds.
    pub(super) drain_seconds: u64,
}

impl Node {
    pub(super) fn new(net: Net, manifests: &str) -> Self {
        let node = Self {
            net,
            manifests: Directory::new(net, "manifests"),
            state: Directory::new(net, "state"),
            drain_seconds: 20,
        };
        node.manifests.write("main.yaml", manifests);
        node
    }

    pub(super) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(1), 8080)
    }

    pub(super) fn https(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(1), 8443)
    }

    pub(super) fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(1), 9901)
    }

    pub(super) fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(1), 10053)
    }

    pub(super) fn upgrade_socket(&self) -> PathBuf {
        self.state.0.join("upgrade.sock")
    }

    pub(super) fn args(&self, workers: usize) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let range = |last| format!("{}/26", self.net.ip(last));
        [
            ("--manifests", text(&self.manifests.0)),
            ("--http", self.http().to_string()),
            ("--https", self.https().to_string()),
            ("--admin", self.admin().to_string()),
            ("--dns", self.dns().to_string()),
            ("--node-address", self.net.ip(1).to_string()),
            ("--node-name", "here".to_owned()),
            ("--service-cidr", range(64)),
            ("--load-balancer-pool", range(128)),
            ("--drain-timeout", format!("{}s", self.drain_seconds)),
            ("--workers", workers.to_string()),
            ("--upgrade-socket", text(&self.upgrade_socket())),
        ]
        .into_iter()
        .fold(vec!["run".to_owned()], |mut args, (flag, value)| {
            args.extend([flag.to_owned(), value]);
            args
        })
    }

    pub(super) fn start(&self, workers: usize) -> Process {
        Process::start(&self.state.0, &self.args(workers))
    }

    /// All that a node serves.
    pub(super) fn traffic(&self, world: &World) -> Vec<(Traffic, Target)> {
        let mut traffic = world.traffic(self.http(), self.https(), Streams::Short);
        traffic.extend([
            (Traffic::Flow { same_pod: true }, world.udp().into()),
            (Traffic::Dns { name: NAME }, self.dns().into()),
            (Traffic::Ready, self.admin().into()),
        ]);
        traffic
    }
}
