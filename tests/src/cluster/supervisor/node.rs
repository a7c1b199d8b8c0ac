//! How a node is started: containerd and kubelet in namespaces of their own, and a kube-proxy.

use std::{
    ffi::OsString,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    super::{
        Failure,
        directory::Directory,
        images::PAUSE,
        machine,
        pki::{Pki, Subject},
        programs::Programs,
    },
    control_plane::Place,
    daemon::Daemon,
    dns,
    network::{Network, node_ip, pods},
};

/// Kubelet's port.
const KUBELET: u16 = 10250;

/// An address that nobody has: kube-proxy leaves node ports to Tidegate.
const NO_NODE_PORTS: &str = "192.0.2.255/32";

/// A node.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) number: u8,
    pub(super) network: Network,
    pub(super) directory: &'a Directory,
    pub(super) programs: &'a Programs,
    pub(super) pki: &'a Pki,
    pub(super) place: &'a Place,
}

impl Node<'_> {
    fn name(&self) -> String {
        format!("n{}", self.number)
    }

    /// What it is in the API before its kubelet has said anything: with the addresses of its pods, and a zone of its own.
    pub(super) fn object(&self) -> Value {
        let zone = format!("zone-{}", self.number);
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name(), "labels": {"topology.kubernetes.io/zone": zone}},
            "spec": {"podCIDR": pods(self.number), "podCIDRs": [pods(self.number)]},
        })
    }

    /// Its programs: the node itself, and its kube-proxy.
    pub(super) fn daemons(&self) -> Result<[Daemon; 2], Failure> {
        Ok([self.machine()?, self.kube_proxy()?])
    }

    fn machine(&self) -> Result<Daemon, Failure> {
        let folder = self.directory.file(&self.name());
        fs::create_dir_all(folder.join("net.d"))?;
        let plugins = machine::plugins().ok_or("there are no CNI plugins")?;
        fs::write(folder.join("net.d/10-tidegate.conflist"), self.cni().to_string())?;
        fs::write(folder.join("containerd.toml"), containerd(&folder, plugins))?;
        // What pods with `dnsPolicy: Default` ask, which are few: the cluster's own server.
        fs::write(folder.join("resolv.conf"), format!("nameserver {}\n", self.place.ip))?;
        let (kubelet, kubeconfig) = self.kubelet(&folder)?;
        let name = self.name();
        let mut command = self.network.prefix();
        command.extend(
            ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
                .map(OsString::from),
        );
        command.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/node.sh").into_os_string());
        command.extend([name.clone().into(), folder.into_os_string(), self.directory.cgroup(&name).into()]);
        command.extend([
            self.programs.path("kubelet").into_os_string(),
            format!("--config={}", kubelet.display()).into(),
            format!("--kubeconfig={}", kubeconfig.display()).into(),
            format!("--hostname-override={name}").into(),
            format!("--node-ip={}", node_ip(self.number)).into(),
        ]);
        Ok(Daemon::new(self.directory, &format!("node-{name}"), command))
    }

    /// Its pods' network: routed, and so without a bridge.
    fn cni(&self) -> Value {
        let ranges = json!([[{"subnet": pods(self.number)}]]);
        json!({
            "cniVersion": "0.4.0",
            "name": "tidegate",
            "plugins": [
                {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
            ],
        })
    }

    /// Writes what its kubelet is told, and who it is.
    fn kubelet(&self, folder: &Path) -> Result<(PathBuf, PathBuf), Failure> {
        let (name, user) = (self.name(), format!("system:node:{}", self.name()));
        let subject = Subject { name: &user, group: Some("system:nodes") };
        let ip = node_ip(self.number);
        let [certificate, key] = self.pki.write(&name, subject, &[&name], &[IpAddr::V4(ip)])?;
        let nothing = "0%";
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ip,
            "port": KUBELET,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.directory.file("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": certificate,
            "tlsPrivateKeyFile": key,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.directory.cgroup(&name)),
            "failCgroupV1": false,
            "failSwapOn": false,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "clusterDNS": [dns::SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": folder.join("resolv.conf"),
            // Images come from nowhere: none may go. Nor may a pod, because the machine's disk is full.
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": nothing, "nodefs.inodesFree": nothing,
                "imagefs.available": nothing, "imagefs.inodesFree": nothing},
            "serializeImagePulls": false,
        });
        let path = folder.join("kubelet.json");
        fs::write(&path, config.to_string())?;
        Ok((path, self.pki.kubeconfig(&name, &self.place.server(), subject)?))
    }

    fn kube_proxy(&self) -> Result<Daemon, Failure> {
        let name = format!("kube-proxy-n{}", self.number);
        let subject = Subject { name: "system:kube-proxy", group: None };
        let kubeconfig = self.pki.kubeconfig(&name, &self.place.server(), subject)?;
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": self.name(),
            "clientConnection": {"kubeconfig": kubeconfig},
            "clusterCIDR": "10.244.0.0/16",
            "nodePortAddresses": [NO_NODE_PORTS],
            "bindAddress": "0.0.0.0",
            // They cannot be set in a namespace.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        let path = self.directory.file(&format!("{name}.json"));
        fs::write(&path, config.to_string())?;
        let mut command = self.network.prefix();
        command
            .extend([self.programs.path("kube-proxy").into_os_string(), format!("--config={}", path.display()).into()]);
        Ok(Daemon::new(self.directory, &name, command))
    }
}

fn containerd(folder: &Path, plugins: &Path) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
# Where root may not make a process less likely to be killed, runc would fail.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{}"
conf_dir = "{}"
"#,
        plugins.display(),
        folder.join("net.d").display(),
    )
}
