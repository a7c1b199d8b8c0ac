//! The network of a cluster with nodes: a namespace for each of them, and one with a bridge between them, where the control plane is,
//! and whatever is outside the nodes. Namespaces have no names: each lives as long as the processes in it.

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    process::Command,
};

use super::{
    super::{Failure, directory::Directory},
    daemon::Daemon,
};

/// The control plane, and the gateway of every node.
pub(in super::super) const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);

/// How long a namespace may take.
const READY: Duration = Duration::from_secs(10);

/// A network namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    /// The process that is always in it.
    pid: u32,
}

impl Network {
    /// A new one, with nothing in it but `holder`, which is started for that.
    pub(super) async fn create(directory: &Directory, name: &str) -> Result<(Self, Daemon), Failure> {
        let command = ["unshare", "--net", "sleep", "infinity"].map(OsString::from).to_vec();
        let mut holder = Daemon::new(directory, &format!("network-{name}"), command);
        holder.start()?;
        let ours = fs::read_link("/proc/self/ns/net")?;
        let patience = Instant::now() + READY;
        loop {
            let pid = holder.id().ok_or("a network namespace cannot be made: `unshare --net` ends at once")?;
            if fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|its| its != ours) {
                fs::write(directory.file(&format!("network-{name}.pid")), pid.to_string())?;
                return Ok((Self { pid }, holder));
            }
            if Instant::now() > patience {
                return Err("a network namespace takes too long".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What comes before a command, for it to run there.
    pub(super) fn prefix(self) -> Vec<OsString> {
        enter(self.pid)
    }

    /// Runs lines of a shell there.
    pub(super) async fn run(self, lines: &str) -> Result<(), Failure> {
        let prefix = self.prefix();
        let mut command = Command::new(&prefix[0]);
        command
            .args(&prefix[1..])
            .args(["sh", "-e"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        child.stdin.take().expect("it is piped").write_all(lines.as_bytes()).await?;
        let output = child.wait_with_output().await?;
        if !output.status.success() {
            return Err(format!("{}in\n{lines}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(())
    }

    /// Connects it with that of the control plane, as a node of this number.
    pub(super) async fn join(self, control_plane: Self, node: u8, others: &[u8]) -> Result<(), Failure> {
        let (pid, ip, pods) = (self.pid, node_ip(node), pods(node));
        control_plane
            .run(&format!(
                "ip link add n{node} type veth peer name eth0 netns {pid}\nip link set n{node} master br0 up\n\
                 ip route add {pods} via {ip}\n"
            ))
            .await?;
        let mut lines = format!(
            "ip link set lo up\nip address add {ip}/24 dev eth0\nip link set eth0 up\n\
             ip route add default via {CONTROL_PLANE}\necho 1 >/proc/sys/net/ipv4/ip_forward\n"
        );
        for &other in others.iter().filter(|&&other| other != node) {
            lines += &format!("ip route add {} via {}\n", self::pods(other), node_ip(other));
        }
        self.run(&lines).await
    }
}

/// What comes before a command, for it to run in the network of a process.
pub(in super::super) fn enter(pid: u32) -> Vec<OsString> {
    ["nsenter".to_owned(), format!("--net=/proc/{pid}/ns/net"), "--".to_owned()].map(OsString::from).to_vec()
}

/// The address of a node.
pub(in super::super) fn node_ip(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 89, 0, 10 + node)
}

/// The addresses of a node's pods.
pub(super) fn pods(node: u8) -> String {
    format!("10.244.{node}.0/24")
}

/// The network of the control plane, before there are nodes.
pub(super) async fn control_plane(directory: &Directory) -> Result<(Network, Daemon), Failure> {
    let (network, holder) = Network::create(directory, "outside").await?;
    let lines = format!(
        "ip link set lo up\nip link add br0 type bridge\nip address add {CONTROL_PLANE}/24 dev br0\nip link set br0 up\n\
         echo 1 >/proc/sys/net/ipv4/ip_forward\n"
    );
    network.run(&lines).await?;
    Ok((network, holder))
}

/// Forwards connections from an address of this machine to the same port of the control plane, for as long as this process lives.
pub(super) fn forward(from: IpAddr, network: Network, port: u16) -> Result<(), Failure> {
    let listener = std::net::TcpListener::bind((from, port))?;
    listener.set_nonblocking(true)?;
    let namespace = fs::File::open(format!("/proc/{}/ns/net", network.pid))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // A socket belongs to the network in which its thread was when it was made. The listener is older than the move.
    thread::spawn(move || -> Result<(), Failure> {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))?;
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (mut client, _) = listener.accept().await?;
                tokio::spawn(async move {
                    // No API server: the client sees the end of its connection.
                    let mut server = TcpStream::connect(SocketAddr::from((CONTROL_PLANE, port))).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        })
    });
    Ok(())
}
