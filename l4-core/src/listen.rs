//! Opens and closes the sockets of frontends, for all workers. Blocking, and done by one thread.
//!
//! Every worker gets a socket of its own for each frontend (`SO_REUSEPORT`), so that the kernel spreads the clients
//! and workers share nothing.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use ahash::{AHashMap, AHashSet};
use rustix::io::Errno;
use socket2::{Domain, Protocol as SocketProtocol, Socket as RawSocket, TcpKeepalive, Type};

use crate::{
    limits::{KEEPALIVE_IDLE, LISTEN_BACKLOG},
    model::Protocol,
    table::Frontend,
};

/// A frontend that is to be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Its address.
    pub frontend: Frontend,
    /// Whether its address is led to this machine, by a route or a load balancer, which need not have it (yet): it is open all the same
    /// (`IP_FREEBIND`).
    pub is_led_here: bool,
}

impl From<Frontend> for Wanted {
    fn from(frontend: Frontend) -> Self {
        Self { frontend, is_led_here: false }
    }
}

/// Which frontends are open, and for how many workers.
#[derive(Debug)]
pub struct Sockets {
    workers: usize,
    /// TCP ports that this process has on all addresses.
    wildcards: Vec<u16>,
    open: AHashSet<Frontend>,
    /// Open already when this process began, and not in use yet.
    inherited: AHashMap<Frontend, Vec<Socket>>,
}

impl Sockets {
    /// Nothing is open yet; each frontend will get one socket for each of `workers` (at least one).
    pub fn new(workers: usize) -> Self {
        Self { workers: workers.max(1), wildcards: Vec::new(), open: AHashSet::new(), inherited: AHashMap::new() }
    }

    /// This process listens at `addr` besides. If that is all addresses, a frontend may still have its port on one of them: the
    /// kernel gives a connection to whoever asked for its very address.
    #[must_use]
    pub fn beside(mut self, addr: SocketAddr) -> Self {
        if addr.ip().is_unspecified() {
            self.wildcards.push(addr.port());
        }
        self
    }

    /// These sockets are open already: the process before this one had them.
    ///
    /// All of a frontend's are used, whatever the number of workers: the kernel has spread clients over them, and those
    /// that one of them holds are lost when it is closed. UDP gets no more than these either, because a socket more would
    /// move every other flow to another worker, which does not know it.
    #[must_use]
    pub fn inheriting(mut self, inherited: impl IntoIterator<Item = (Frontend, Vec<Socket>)>) -> Self {
        self.inherited.extend(inherited);
        self
    }

    /// Closes what was inherited and nobody wants.
    pub fn disinherit(&mut self) {
        self.inherited = AHashMap::new();
    }

    /// Makes `wanted` the open frontends, as far as the machine allows, and says what changed.
    ///
    /// What is open and stays is not touched. Call it again later to retry the failures: a frontend that was closed a
    /// moment ago, for one, is in use until every worker has closed its socket.
    pub fn reconcile(&mut self, wanted: impl Iterator<Item = impl Into<Wanted>>) -> Changes {
        let wanted: AHashMap<Frontend, bool> =
            wanted.map(Into::into).map(|one| (one.frontend, one.is_led_here)).collect();
        let mut closed: Vec<Frontend> =
            self.open.iter().filter(|frontend| !wanted.contains_key(frontend)).copied().collect();
        let mut missing: Vec<Frontend> =
            wanted.keys().filter(|frontend| !self.open.contains(frontend)).copied().collect();
        closed.sort_unstable();
        missing.sort_unstable();
        self.open.retain(|frontend| wanted.contains_key(frontend));
        let mut changes = Changes { closed, ..Changes::default() };
        for frontend in missing {
            let is_led_here = wanted.get(&frontend).copied().unwrap_or_default();
            let bound = match self.inherited.remove(&frontend) {
                Some(sockets) => Ok(complete(frontend, self.workers, sockets)),
                None => bind(frontend, self.workers, self.wildcards.contains(&frontend.port), is_led_here),
            };
            match bound {
                Ok(sockets) => {
                    self.open.insert(frontend);
                    changes.opened.push(Opened { frontend, sockets });
                }
                Err(error) => changes.failed.push(BindFailure { frontend, error }),
            }
        }
        changes
    }

    /// The frontends that are open.
    pub fn open(&self) -> impl Iterator<Item = Frontend> {
        self.open.iter().copied()
    }
}

/// What [`Sockets::reconcile`] did.
#[derive(Debug, Default)]
pub struct Changes {
    /// Frontends that are open now: hand each worker one socket, and begin again where there are more.
    pub opened: Vec<Opened>,
    /// Frontends no longer wanted: tell each worker to close its socket.
    pub closed: Vec<Frontend>,
    /// Frontends that could not be opened.
    pub failed: Vec<BindFailure>,
}

/// A frontend that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Its address.
    pub frontend: Frontend,
    /// One socket for each worker; of inherited ones there may be more, and of inherited UDP sockets fewer.
    pub sockets: Vec<Socket>,
}

/// The socket of one frontend in one worker, bound and (TCP) listening.
#[derive(Debug)]
pub enum Socket {
    /// For connections.
    Tcp(TcpListener),
    /// For datagrams.
    Udp(UdpSocket),
}

/// A frontend that could not be opened.
#[derive(Debug)]
pub struct BindFailure {
    /// Its address.
    pub frontend: Frontend,
    /// What the system said.
    pub error: io::Error,
}

impl BindFailure {
    /// What an operator can do about it.
    pub fn hint(&self) -> &'static str {
        let too_many = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                "another program (or another listener of this one) has this port on this address or on all addresses; \
                 `ss -lntup` shows which"
            }
            io::ErrorKind::AddrNotAvailable => {
                "no network interface of this machine has this address; add it to one, or use an address in 127.0.0.0/8"
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need the capability CAP_NET_BIND_SERVICE, or a lower sysctl \
                 net.ipv4.ip_unprivileged_port_start"
            }
            _ if too_many.contains(&self.error.raw_os_error()) => {
                "too many open files: raise the limit (`ulimit -n`, LimitNOFILE=) or run fewer workers, as each \
                 frontend takes one socket for each worker"
            }
            _ => "the system refused; its message is all that is known",
        }
    }
}

impl fmt::Display for BindFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.frontend, self.error)
    }
}

impl std::error::Error for BindFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// One listener on `addr` for each of `workers`; with port 0 they all get the same number. `[::]` is all addresses of both families:
/// a client that comes by IPv4 then has an address such as `::ffff:192.0.2.1`.
pub fn bind_tcp(addr: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    if addr.port() != 0 {
        drop(listener(addr, Binding::default())?);
    }
    share_tcp(addr, workers, false)
}

/// Inherited listeners on `addr`, and more of them until there is one for each of `workers`.
pub fn complete_tcp(addr: SocketAddr, workers: usize, mut inherited: Vec<TcpListener>) -> Vec<TcpListener> {
    while inherited.len() < workers {
        match listener(addr, Binding { share: true, is_led_here: true }) {
            Ok(listener) => inherited.push(listener),
            Err(error) => {
                tracing::warn!(%addr, %error, "not every worker gets a listener of its own");
                break;
            }
        }
    }
    inherited
}

fn complete(frontend: Frontend, workers: usize, inherited: Vec<Socket>) -> Vec<Socket> {
    let (mut listeners, mut datagrams) = (Vec::new(), Vec::new());
    for socket in inherited {
        match socket {
            Socket::Tcp(listener) => listeners.push(listener),
            Socket::Udp(socket) => datagrams.push(Socket::Udp(socket)),
        }
    }
    if frontend.protocol == Protocol::Udp {
        return datagrams;
    }
    let addr = SocketAddr::new(frontend.ip, frontend.port);
    complete_tcp(addr, workers, listeners).into_iter().map(Socket::Tcp).collect()
}

fn share_tcp(addr: SocketAddr, workers: usize, is_led_here: bool) -> io::Result<Vec<TcpListener>> {
    let binding = Binding { share: true, is_led_here };
    let first = listener(addr, binding)?;
    let addr = first.local_addr()?;
    let others = (1..workers).map(|_| listener(addr, binding));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn bind(frontend: Frontend, workers: usize, beside_our_own: bool, is_led_here: bool) -> io::Result<Vec<Socket>> {
    let addr = SocketAddr::new(frontend.ip, frontend.port);
    let alone = Binding { share: false, is_led_here };
    match frontend.protocol {
        Protocol::Tcp => {
            if !beside_our_own {
                drop(listener(addr, alone)?);
            }
            Ok(share_tcp(addr, workers, is_led_here)?.into_iter().map(Socket::Tcp).collect())
        }
        Protocol::Udp => {
            let share = workers > 1;
            if share {
                drop(datagrams(addr, alone)?);
            }
            (0..workers).map(|_| datagrams(addr, Binding { share, is_led_here }).map(Socket::Udp)).collect()
        }
    }
}

/// How a socket is bound.
#[derive(Clone, Copy, Debug, Default)]
struct Binding {
    /// Others may have the same address.
    share: bool,
    /// This machine need not have the address.
    is_led_here: bool,
}

// `SO_REUSEPORT` lets every program of the same user share the port, silently taking part of the clients. So whoever
// shares first binds without it, as a probe: that fails if the port is somebody else's.

fn listener(addr: SocketAddr, binding: Binding) -> io::Result<TcpListener> {
    let socket = bound(addr, Type::STREAM, SocketProtocol::TCP, binding)?;
    // Accepted connections inherit this.
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE))?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

fn datagrams(addr: SocketAddr, binding: Binding) -> io::Result<UdpSocket> {
    Ok(bound(addr, Type::DGRAM, SocketProtocol::UDP, binding)?.into())
}

fn bound(addr: SocketAddr, kind: Type, protocol: SocketProtocol, binding: Binding) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let SocketAddr::V6(addr) = addr {
        // All addresses are those of both families, whatever the system's default.
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    // For TCP it means: old connections that linger do not hold the port. For UDP it would mean: share the port.
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    #[cfg(unix)]
    if binding.share {
        socket.set_reuse_port(true)?;
    }
    #[cfg(target_os = "linux")]
    if binding.is_led_here {
        if addr.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn free_port(ip: &str) -> u16 {
        TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().port()
    }

    fn frontend(ip: &str, port: u16, protocol: Protocol) -> Frontend {
        Frontend { ip: ip.parse().unwrap(), port, protocol }
    }

    fn failure(sockets: &mut Sockets, frontend: Frontend) -> BindFailure {
        let mut changes = sockets.reconcile(sockets.open.clone().into_iter().chain([frontend]));
        assert!(changes.opened.is_empty() && changes.closed.is_empty());
        changes.failed.remove(0)
    }

    #[test]
    fn a_frontend_may_have_the_port_of_our_own_wildcard_listener() {
        let own = bind_tcp("0.0.0.0:0".parse().unwrap(), 1).unwrap();
        let addr = own[0].local_addr().unwrap();
        let wanted = frontend("127.20.0.9", addr.port(), Protocol::Tcp);
        assert_eq!(
            Sockets::new(1).reconcile([wanted].into_iter()).failed.len(),
            1,
            "not knowing, it is somebody else's"
        );
        let changes = Sockets::new(2).beside(addr).reconcile([wanted].into_iter());
        assert_eq!(changes.opened.len(), 1, "{:?}", changes.failed);
    }

    #[test]
    fn reconcile_opens_closes_and_leaves_alone() {
        let ip = "127.20.0.1";
        let tcp = frontend(ip, free_port(ip), Protocol::Tcp);
        let udp = Frontend { protocol: Protocol::Udp, ..tcp };
        let mut sockets = Sockets::new(2);
        let first = sockets.reconcile([tcp, udp].into_iter());
        assert_eq!(first.opened.iter().map(|o| o.sockets.len()).collect::<Vec<_>>(), [2, 2]);
        let again = sockets.reconcile([tcp, udp].into_iter());
        assert!(again.opened.is_empty() && again.closed.is_empty() && again.failed.is_empty());
        let last = sockets.reconcile([udp].into_iter());
        assert_eq!(last.closed, [tcp]);
        assert_eq!(sockets.open().collect::<Vec<_>>(), [udp]);
        assert_eq!(sockets.reconcile([tcp, udp].into_iter()).failed.len(), 1, "the workers have not closed it yet");
        drop(first);
        assert_eq!(sockets.reconcile([tcp, udp].into_iter()).opened.len(), 1);
    }

    #[test]
    fn a_port_in_use_is_a_failure_even_if_its_holder_would_share_it() {
        let ip = "127.20.0.2";
        for workers in [1, 2] {
            let mut sockets = Sockets::new(workers);
            for share in [false, true] {
                let binding = Binding { share, is_led_here: false };
                let held = listener(SocketAddr::new(ip.parse().unwrap(), 0), binding).unwrap();
                let failed = failure(&mut sockets, frontend(ip, held.local_addr().unwrap().port(), Protocol::Tcp));
                assert_eq!(failed.error.kind(), io::ErrorKind::AddrInUse);
                assert!(failed.hint().contains("another program"), "{failed}");
                let held = datagrams(SocketAddr::new(ip.parse().unwrap(), 0), binding).unwrap();
                let failed = failure(&mut sockets, frontend(ip, held.local_addr().unwrap().port(), Protocol::Udp));
                assert_eq!(failed.error.kind(), io::ErrorKind::AddrInUse);
            }
        }
    }

    #[test]
    fn a_foreign_address_is_a_failure_and_the_rest_opens() {
        let mut sockets = Sockets::new(2);
        let (foreign, own) = (frontend("192.0.2.1", 8080, Protocol::Tcp), "127.20.0.3");
        let own = frontend(own, free_port(own), Protocol::Tcp);
        let changes = sockets.reconcile([foreign, own].into_iter());
        assert_eq!(changes.opened.len(), 1);
        assert_eq!(changes.failed[0].frontend, foreign);
        assert!(changes.failed[0].hint().contains("no network interface"));
        assert!(changes.failed[0].to_string().starts_with("cannot listen on 192.0.2.1:8080/TCP: "));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_foreign_address_can_be_had_in_advance() {
        let wanted = |protocol| Wanted { frontend: frontend("192.0.2.1", 8_080, protocol), is_led_here: true };
        let wanted = [wanted(Protocol::Tcp), wanted(Protocol::Udp)];
        let mut sockets = Sockets::new(2);
        let changes = sockets.reconcile(wanted.into_iter());
        assert_eq!((changes.opened.len(), changes.failed.len()), (2, 0), "{:?}", changes.failed);
        let mut other = Sockets::new(2);
        assert_eq!(other.reconcile(wanted.into_iter()).failed.len(), 2, "it is taken all the same");
    }

    #[test]
    fn hints_tell_privileges_from_limits() {
        let hint = |errno: Errno| {
            BindFailure { frontend: frontend("127.0.0.1", 80, Protocol::Tcp), error: errno.into() }.hint()
        };
        assert!(hint(Errno::ACCESS).contains("CAP_NET_BIND_SERVICE"));
        assert!(hint(Errno::MFILE).contains("too many open files"));
        assert!(hint(Errno::NFILE).contains("too many open files"));
        assert!(hint(Errno::IO).contains("the system refused"));
    }

    #[test]
    fn all_addresses_are_those_of_both_families() {
        let listeners = bind_tcp("[::]:0".parse().unwrap(), 2).unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        for ip in ["127.0.0.1", "::1"] {
            std::net::TcpStream::connect((ip, port)).unwrap();
        }
        let alone = bind_tcp("[::1]:0".parse().unwrap(), 1).unwrap();
        std::net::TcpStream::connect(("127.0.0.1", alone[0].local_addr().unwrap().port())).unwrap_err();
    }

    #[test]
    fn with_port_zero_all_workers_get_the_same_number() {
        for ip in ["127.0.0.1", "::1"] {
            let listeners = bind_tcp(SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0), 3).unwrap();
            let ports: AHashSet<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
            assert_eq!((listeners.len(), ports.len()), (3, 1));
        }
    }
}
