//! LoadBalancer IPs as addresses of this machine.
//!
//! Whatever leads packets for such an IP to a node, its kernel takes only those for addresses that are its own. So each that is not
//! gets a route of type `local`, as `ip route add local IP dev lo` makes it, which takes CAP_NET_ADMIN. The routes are marked: those that a
//! killed process left behind are taken away by the next. Nobody is told of the addresses here (ARP, NDP, BGP): that is for whoever leads
//! packets to the node.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, UdpSocket},
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tidegate_crd::ObjectRef;
use tokio::sync::watch;

use crate::{
    admin::RuntimeStatus,
    compile::finding::{Finding, Severity},
};

/// How long the end of the process waits for its routes to be taken away: a few messages to the kernel.
const CLEAR_PATIENCE: Duration = Duration::from_secs(1);

/// Addresses, and the Service each is for.
type Owners = BTreeMap<IpAddr, Option<ObjectRef>>;

/// The addresses that this machine is to have, as long as the process runs.
#[derive(Clone, Debug)]
pub(crate) struct LocalAddresses {
    wanted: watch::Sender<Arc<Owners>>,
    /// Says that all are gone.
    cleared: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
}

impl LocalAddresses {
    /// None yet; those of an earlier process are taken away with the first that are wanted. What cannot be had is said to `status`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(crate) fn start(status: Arc<RuntimeStatus>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let wanted = watch::Sender::new(Arc::<Owners>::default());
        let mut changes = wanted.subscribe();
        let (clear, cleared) = mpsc::channel();
        let follow = async move {
            let mut said: Vec<Finding> = Vec::new();
            while changes.changed().await.is_ok() {
                let owners = changes.borrow_and_update().clone();
                let missing = make_local(&owners.keys().copied().collect()).await;
                let notes: Vec<Finding> = missing.iter().map(|(ip, why)| finding(*ip, why, &owners)).collect();
                notes.iter().filter(|note| !said.contains(note)).for_each(|note| tracing::warn!("{note}"));
                status.set_notes(notes.clone());
                said = notes;
                if owners.is_empty() {
                    let _ = clear.send(());
                }
            }
        };
        thread::Builder::new().name("addresses".to_owned()).spawn(move || runtime.block_on(follow))?;
        Ok(Self { wanted, cleared: Arc::new(std::sync::Mutex::new(cleared)) })
    }

    /// These and no others, from now on.
    pub(crate) fn want(&self, owners: Owners) {
        self.wanted.send_if_modified(|held| {
            let is_another = **held != owners;
            if is_another {
                *held = Arc::new(owners);
            }
            is_another
        });
    }

    /// Takes them all away, and waits for that: the process ends, and nobody takes over from it.
    pub(crate) fn clear(&self) {
        if self.wanted.borrow().is_empty() {
            return;
        }
        let cleared = self.cleared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while cleared.try_recv().is_ok() {}
        self.want(Owners::new());
        let _ = cleared.recv_timeout(CLEAR_PATIENCE);
    }
}

/// The verdict on an address that this machine does not have.
fn finding(ip: IpAddr, why: &str, owners: &Owners) -> Finding {
    Finding {
        severity: Severity::Warning,
        reason: "ForeignAddress",
        object: owners.get(&ip).cloned().flatten(),
        file: Path::new("listeners").into(),
        line: 0,
        field: Some("status.loadBalancer".to_owned()),
        message: format!(
            "{ip} is no address of this machine, and could not be made one ({why}): what is sent there does not arrive here."
        ),
        fix: format!("Grant the capability CAP_NET_ADMIN, or add it yourself: ip route add local {ip} dev lo."),
    }
}

/// Whether this machine has an address.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(not(target_os = "linux"))]
async fn make_local(wanted: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, String> {
    let foreign = wanted.iter().filter(|ip| !is_local(**ip));
    foreign.map(|ip| (*ip, "this can be done on Linux alone".to_owned())).collect()
}

#[cfg(target_os = "linux")]
use linux::make_local;

#[cfg(target_os = "linux")]
mod linux {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use futures_util::TryStreamExt;
    use rtnetlink::{
        Handle, RouteMessageBuilder, new_connection,
        packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
    };

    use super::{BTreeMap, BTreeSet, IpAddr, is_local};

    /// Whose routes they are: none of the numbers that /etc/iproute2/rt_protos lists.
    const OURS: RouteProtocol = RouteProtocol::Other(196);

    /// The kernel's own table of local addresses.
    const TABLE: u32 = 255;

    /// The loopback device of every network namespace.
    const LOOPBACK: u32 = 1;

    /// Makes the addresses of `wanted` this machine's, and those that were so by us and are not wanted, nobody's. Which are not, and why.
    pub(super) async fn make_local(wanted: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, String> {
        let foreign = |why: &str| {
            let foreign = wanted.iter().filter(|ip| !is_local(**ip));
            foreign.map(|ip| (*ip, why.to_owned())).collect::<BTreeMap<_, _>>()
        };
        let (connection, handle, _) = match new_connection() {
            Ok(connected) => connected,
            Err(error) => return foreign(&error.to_string()),
        };
        let connection = tokio::spawn(connection);
        let ours = match ours(&handle).await {
            Ok(ours) => ours,
            Err(error) => return foreign(&error.to_string()),
        };
        for ip in ours.difference(wanted) {
            if let Err(error) = handle.route().del(route(*ip)).execute().await {
                tracing::warn!(%ip, %error, "a route of ours could not be taken away");
            }
        }
        let mut missing = BTreeMap::new();
        for ip in wanted.difference(&ours).filter(|ip| !is_local(**ip)) {
            if let Err(error) = handle.route().add(route(*ip)).execute().await {
                missing.insert(*ip, error.to_string());
            }
        }
        connection.abort();
        missing
    }

    /// The addresses that are local by our routes.
    async fn ours(handle: &Handle) -> Result<BTreeSet<IpAddr>, rtnetlink::Error> {
        let mut ips = BTreeSet::new();
        let all = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
        for all in all {
            let mut routes = std::pin::pin!(handle.route().get(all).execute());
            while let Some(route) = routes.try_next().await? {
                if route.header.protocol == OURS && route.header.kind == RouteType::Local {
                    ips.extend(destination(&route));
                }
            }
        }
        Ok(ips)
    }

    fn destination(route: &RouteMessage) -> Option<IpAddr> {
        route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
            _ => None,
        })
    }

    fn route(ip: IpAddr) -> RouteMessage {
        match ip {
            IpAddr::V4(ip) => {
                let to = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32);
                to.kind(RouteType::Local)
                    .scope(RouteScope::Host)
                    .table_id(TABLE)
                    .protocol(OURS)
                    .output_interface(LOOPBACK)
                    .build()
            }
            IpAddr::V6(ip) => {
                let to = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128);
                to.kind(RouteType::Local).table_id(TABLE).protocol(OURS).output_interface(LOOPBACK).build()
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::{
            io::Write,
            net::{SocketAddr, TcpStream},
            time::Duration,
        };

        use nix::sched::{CloneFlags, unshare};
        use rtnetlink::LinkUnspec;
        use socket2::{Domain, Socket, Type};

        use super::*;

        /// In a network namespace of this thread alone, if we may make one. Whether we may.
        fn apart(test: impl Future<Output = ()> + Send + 'static) -> bool {
            let run = move || {
                if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                    assert!(std::env::var_os("CI").is_none(), "no network namespace can be made: {error}");
                    let _ = writeln!(std::io::stderr(), "skipped: no network namespace can be made ({error})");
                    return false;
                }
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
                true
            };
            std::thread::spawn(run).join().unwrap()
        }

        async fn raise_loopback() {
            let (connection, handle, _) = new_connection().unwrap();
            let connection = tokio::spawn(connection);
            handle.link().set(LinkUnspec::new_with_index(LOOPBACK).up().build()).execute().await.unwrap();
            connection.abort();
        }

        /// Whether somebody who listens at an address, as frontends do, is reached there.
        fn is_reached(ip: IpAddr) -> bool {
            let addr = SocketAddr::new(ip, 0);
            let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
            if ip.is_ipv6() { socket.set_freebind_v6(true) } else { socket.set_freebind_v4(true) }.unwrap();
            socket.bind(&addr.into()).unwrap();
            socket.listen(1).unwrap();
            let addr = socket.local_addr().unwrap().as_socket().unwrap();
            TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok()
        }

        #[test]
        fn what_is_wanted_is_local_and_what_is_not_is_not() {
            let ips = |texts: &[&str]| texts.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect::<BTreeSet<_>>();
            apart(async move {
                raise_loopback().await;
                let (a, b) = (ips(&["127.0.0.1", "192.0.2.1", "2001:db8::1"]), ips(&["192.0.2.2"]));
                let reached = || a.iter().chain(&b).map(|ip| is_reached(*ip)).collect::<Vec<_>>();
                assert_eq!(reached(), [true, false, false, false], "127.0.0.1 is local anyway");
                assert_eq!(make_local(&a).await, BTreeMap::new());
                assert_eq!(reached(), [true, true, true, false]);
                // Whoever comes next finds them.
                assert_eq!(make_local(&b).await, BTreeMap::new());
                assert_eq!(reached(), [true, false, false, true]);
                assert_eq!(make_local(&BTreeSet::new()).await, BTreeMap::new());
                assert_eq!(reached(), [true, false, false, false]);
            });
        }
    }
}
