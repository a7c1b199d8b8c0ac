//! The routes that make addresses this machine's, by the kernel's own protocol (rtnetlink).

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
