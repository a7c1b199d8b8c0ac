//! A cluster with two nodes as a test sees it.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    ops::Deref,
    path::{Path, PathBuf},
    process::Command,
};

use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{
    Failure, Tier,
    control_plane::{ControlPlane, output},
    directory::Directory,
    supervisor::{
        API_SERVER, PROXIES,
        network::{CONTROL_PLANE, enter, node_ip},
    },
};

/// Who looks, and who disturbs.
static USE: RwLock<()> = RwLock::const_new(());

/// A control plane and two nodes, `n1` and `n2`: real kubelets with containerd, pods that reach each other, and a kube-proxy that
/// serves ClusterIPs but no node ports. They end with this process.
#[derive(Debug)]
pub struct Cluster {
    control_plane: ControlPlane,
}

impl Cluster {
    /// The one that all tests of this process have together: take a namespace of your own, and disturb nobody else. `None`
    /// where it cannot be had, which is said on stderr. As long as the answer lives, nobody disturbs this test.
    ///
    /// # Panics
    /// If it does not start; and in CI, if it cannot be had.
    pub async fn shared() -> Option<Shared> {
        static SHARED: OnceCell<Option<Cluster>> = OnceCell::const_new();
        let start = async || {
            let control_plane = ControlPlane::start(Tier::TwoNodes, None).await?;
            Some(Self { control_plane })
        };
        let cluster = SHARED.get_or_init(start).await.as_ref()?;
        Some(Shared { cluster, guard: USE.read().await })
    }

    /// What a command in a pod prints. Like all that follows, it blocks the calling thread.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> String {
        self.try_exec(namespace, pod, command).unwrap_or_else(|error| panic!("{command:?} in {pod}: {error}"))
    }

    /// The same.
    ///
    /// # Errors
    /// What it complains of.
    pub fn try_exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String, String> {
        self.try_kubectl(&[&["exec", "-n", namespace, pod, "--"], command].concat())
    }

    /// What a command prints in the network of a node.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn on_node(&self, node: &str, command: &[&str]) -> String {
        run(self.command_on_node(node), command)
    }

    /// What a command prints outside the nodes, in the network of the control plane.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn outside(&self, command: &[&str]) -> String {
        run(self.command_outside(), command)
    }

    /// The same.
    ///
    /// # Errors
    /// What it complains of.
    pub fn try_outside(&self, command: &[&str]) -> Result<String, String> {
        output(self.command_outside().args(command), "")
    }

    /// A command that is to be given a program and its arguments, and runs in the network of a node, but with this machine's files.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn command_on_node(&self, node: &str) -> Command {
        self.command_in(node)
    }

    /// The same outside the nodes.
    ///
    /// # Panics
    /// Never, while the cluster lives.
    pub fn command_outside(&self) -> Command {
        self.command_in("outside")
    }

    /// The address of a node.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node_ip(&self, node: &str) -> IpAddr {
        let number =
            node.strip_prefix('n').and_then(|number| number.parse().ok()).filter(|number| (1..=2).contains(number));
        let ip: Ipv4Addr = number.map(node_ip).unwrap_or_else(|| panic!("{node}: there are n1 and n2"));
        ip.into()
    }

    /// A kubeconfig of an administrator, for processes in the network of a node, or outside.
    pub fn inside_kubeconfig(&self) -> PathBuf {
        self.directory().file("inside.kubeconfig")
    }

    /// A kubeconfig of whoever has this token, for the same processes.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn inside_user_kubeconfig(&self, token: &str) -> PathBuf {
        self.user_kubeconfig_at(&format!("https://{CONTROL_PLANE}:{API_SERVER}"), token)
    }

    /// Gives both nodes the image of an archive, as `docker save` and [`crate::oci`] write them.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn load_image(&self, archive: &Path) {
        let archive = fs::canonicalize(archive).unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
        for node in ["n1", "n2"] {
            let socket = format!("/proc/{}/root/run/containerd/containerd.sock", self.first_process(node));
            let mut import = Command::new("ctr");
            import.args(["--address", &socket, "--namespace", "k8s.io", "images", "import"]).arg(&archive);
            output(&mut import, "").unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
        }
    }

    /// Pid 1 of a node, as it is called here.
    fn first_process(&self, node: &str) -> String {
        let started = super::owner::ask(self.directory(), &format!("process node-{node}")).expect("it answers");
        let children = format!("/proc/{0}/task/{0}/children", started.trim());
        let children = fs::read_to_string(&children).unwrap_or_else(|error| panic!("{children}: {error}"));
        children.split(' ').next().expect("unshare has a child").to_owned()
    }

    fn command_in(&self, network: &str) -> Command {
        command_in(self.directory(), network).unwrap_or_else(|error| panic!("{network}: {error}"))
    }
}

/// A command that is to be given a program and its arguments, and runs in the network of a node, or in that of the control plane, which
/// is `outside`.
///
/// # Errors
/// If there is no such node.
pub fn command_in(directory: &Directory, network: &str) -> Result<Command, Failure> {
    let pid = fs::read_to_string(directory.file(&format!("network-{network}.pid")))
        .map_err(|_| format!("{network}: in a cluster with nodes, there are n1, n2 and outside"))?;
    let prefix = enter(pid.parse()?);
    let mut command = Command::new(&prefix[0]);
    for name in PROXIES {
        command.env_remove(name);
    }
    command.args(&prefix[1..]);
    Ok(command)
}

impl Deref for Cluster {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        &self.control_plane
    }
}

/// The cluster, for a test that disturbs no other.
#[derive(Debug)]
pub struct Shared {
    cluster: &'static Cluster,
    guard: RwLockReadGuard<'static, ()>,
}

impl Shared {
    /// The cluster for this test alone, which may stop whatever it likes: waits until all others are done.
    pub async fn disruptive(self) -> Disruptive {
        drop(self.guard);
        Disruptive { cluster: self.cluster, _guard: USE.write().await }
    }
}

impl Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

/// The cluster, for one test alone. When it is dropped, every program that was stopped is started again.
#[derive(Debug)]
pub struct Disruptive {
    cluster: &'static Cluster,
    _guard: RwLockWriteGuard<'static, ()>,
}

impl Disruptive {
    /// Kills a node with all that runs on it, as a power cut does, and starts it again.
    ///
    /// # Panics
    /// If there is no such node.
    pub async fn restart_node(&self, node: &str) {
        self.cluster.order(&[&format!("stop node-{node}"), &format!("start node-{node}")]).await;
    }
}

impl Deref for Disruptive {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Drop for Disruptive {
    fn drop(&mut self) {
        if let Err(error) = super::owner::ask(self.cluster.directory(), "restore") {
            eprintln!("the cluster is not what it was: {error}");
        }
    }
}

#[track_caller]
fn run(mut command: Command, arguments: &[&str]) -> String {
    output(command.args(arguments), "").unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}
