//! Accepts TCP connections, finds each an endpoint, and carries it to its end.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};

use crate::{
    copy::{Duplex, Unfinished},
    drain::{Listening, Ticket},
    endpoints::{Client, EndpointIndex, EndpointSet, InFlight, Permit},
    limits::{ACCEPT_BACKOFF, KEEPALIVE_IDLE},
    model::{Balance, Protocol, ServicePortName},
    proxy_protocol::{self, Addresses},
    stats::Open,
    table::{Decision, Frontend, FrontendKind, ServiceTable, Target},
    watch::{Began, Reason, Watched, WhyRefused},
    worker::{Shared, now},
};

/// Accepts on one frontend until told to stop; then accepts what already waits, and closes.
///
/// When `stop` is dropped rather than sent, the listener closes at once.
pub(crate) async fn accept(
    shared: Rc<Shared>,
    frontend: Frontend,
    listener: Rc<TcpListener>,
    mut stop: oneshot::Receiver<()>,
    _listening: Listening,
) {
    let stopped = loop {
        let accepted = tokio::select! {
            biased;
            stopped = &mut stop => break stopped,
            accepted = accept_one(&shared, &listener) => accepted,
        };
        match accepted {
            Ok((client, peer)) => serve(&shared, frontend, client, peer),
            // The client left while it waited.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => {
                shared.log_trouble("cannot accept a connection", frontend, &e);
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    };
    if stopped.is_ok() {
        accept_waiting(&shared, frontend, &listener);
    }
}

/// One connection, as soon as there is one and room for it.
async fn accept_one(shared: &Shared, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        shared.live.room().await;
        // Another listener may have taken the last room since this one began to wait for clients.
        let accept = |cx: &mut Context<'_>| match shared.live.has_room() {
            true => listener.poll_accept(cx).map(Some),
            false => Poll::Ready(None),
        };
        if let Some(accepted) = std::future::poll_fn(accept).await {
            return accepted;
        }
    }
}

/// Accepts the clients in the backlog: the kernel told them that they are connected.
fn accept_waiting(shared: &Rc<Shared>, frontend: Frontend, listener: &TcpListener) {
    // Asks the kernel itself, as the runtime may not have heard yet of who came last.
    let listener = SockRef::from(listener);
    while shared.live.has_room()
        && let Ok((client, peer)) = listener.accept()
    {
        let client = client.set_nonblocking(true).and_then(|()| TcpStream::from_std(client.into()));
        if let (Ok(client), Some(peer)) = (client, peer.as_socket()) {
            serve(shared, frontend, client, peer);
        }
    }
}

fn serve(shared: &Rc<Shared>, frontend: Frontend, client: TcpStream, peer: SocketAddr) {
    let ticket = shared.live.connection();
    let id = ticket.id();
    let arrival = Arrival { shared: shared.clone(), frontend, peer, table: shared.table(), passed: None, ticket };
    shared.live.spawn(id, connection(arrival, client));
}

/// Carries a connection that somebody else accepted, for a service port whatever its frontends are.
pub(crate) fn carry(shared: &Rc<Shared>, client: TcpStream, peer: SocketAddr, name: &ServicePortName, head: Vec<u8>) {
    let mut client = Unfinished::new(client);
    let table = shared.table();
    let local = client.stream().and_then(|stream| stream.local_addr().ok());
    let (Some(local), Some(port), true) = (local, table.port(name), shared.live.has_room()) else { return };
    let target = Target { kind: FrontendKind::ClusterIp, port: port.clone() };
    let frontend = Frontend { ip: local.ip(), port: local.port(), protocol: Protocol::Tcp };
    let Some(client) = client.into_stream() else { return };
    let ticket = shared.live.connection();
    let id = ticket.id();
    let passed = Some(Box::new(Passed { target, head }));
    let arrival = Arrival { shared: shared.clone(), frontend, peer, table, passed, ticket };
    shared.live.spawn(id, connection(arrival, client));
}

/// A connection from its first to its last byte. What only its beginning needs is boxed and gone when bytes flow.
fn connection(arrival: Arrival, client: TcpStream) -> impl Future<Output = ()> {
    let link = Box::pin(arrival.connect(Unfinished::new(client)));
    async move {
        let link = link.await;
        if let Some(link) = link {
            link.await;
        }
    }
}

/// A client that was accepted, until it is connected or turned away. Dropping its stream turns it away: the client
/// sees a reset, as if nothing had listened.
struct Arrival {
    shared: Rc<Shared>,
    frontend: Frontend,
    peer: SocketAddr,
    /// The configuration at the time it came.
    table: Arc<ServiceTable>,
    /// Somebody else accepted it, and says where it goes.
    passed: Option<Box<Passed>>,
    ticket: Ticket,
}

/// A client from another plane.
struct Passed {
    target: Target,
    /// What was read from it.
    head: Vec<u8>,
}

impl Arrival {
    async fn connect(mut self, mut client: Unfinished) -> Option<Box<Link>> {
        let passed = self.passed.take().map(|passed| *passed);
        let (mut head, passed) = passed.map_or_else(Default::default, |passed| (passed.head, Some(passed.target)));
        let target = match &passed {
            Some(target) => target,
            None => self.table.find(&self.frontend)?,
        };
        let config = &target.port.config.connection;
        let stream = client.stream()?;
        let _ = stream.set_nodelay(true);
        let mut addresses =
            Addresses { client: self.peer, server: SocketAddr::new(self.frontend.ip, self.frontend.port) };
        if config.accept_proxy_protocol && passed.is_none() {
            let header = timeout(self.shared.limits.proxy_header_timeout, proxy_protocol::read(stream)).await;
            let Ok(Ok((header, rest))) = header else {
                target.port.stats.mine().bad_proxy_header.add(1);
                return None;
            };
            addresses = header.addresses.unwrap_or(addresses);
            head = rest;
        }
        let ip = addresses.client.ip().to_canonical();
        let decision = match &passed {
            Some(target) => target.port.decide(),
            None => target.decide(&self.frontend, ip, &self.table),
        };
        let Decision::Choose(set) = decision else {
            target.port.stats.mine().refused.add(1);
            self.refuse(target, addresses, WhyRefused::NobodyToServe);
            return None;
        };
        // Who finds it full is reset, and counted by the gate.
        let Ok(mut permit) = set.admit() else {
            self.refuse(target, addresses, WhyRefused::Full);
            return None;
        };
        let open = Open::new(target.port.stats.clone());
        let caller = Client { ip, now: now() };
        let remembered = set.remembered(caller);
        let answered = self.first_to_answer(target, set, caller, addresses).await;
        let (index, upstream, is_first) = answered
            .inspect_err(|why| {
                open.stats.mine().connect_failed.add(1);
                self.refuse(target, addresses, *why);
            })
            .ok()?;
        permit.connected();
        open.stats.count_affinity(set, remembered, index);
        set.chosen(caller, index);
        let idle = config.idle_timeout.map(Idle::new);
        let in_flight = set.state(index).carry();
        let watched = Watched::tell(self.shared.watch(), || Began {
            service: &target.port.config.name,
            frontend: self.frontend,
            kind: target.kind,
            client: addresses.client,
            upstream: upstream.local_addr().ok(),
            endpoint: set.endpoint(index),
            reason: Reason::of(set, remembered, index, is_first),
        });
        let duplex = Duplex::new(client.into_stream()?, upstream, head);
        Some(Box::new(Link {
            duplex,
            open,
            idle,
            watched,
            _in_flight: in_flight,
            _permit: permit,
            _ticket: self.ticket,
        }))
    }

    fn refuse(&self, target: &Target, addresses: Addresses, why: WhyRefused) {
        self.shared.tell_refused(&target.port.config.name, self.frontend, addresses.client, why);
    }

    /// Tries the candidates in turn, within the limits; says whether the first one answered.
    async fn first_to_answer(
        &self,
        target: &Target,
        set: &EndpointSet,
        caller: Client,
        addresses: Addresses,
    ) -> Result<(EndpointIndex, TcpStream, bool), WhyRefused> {
        let limits = &self.shared.limits;
        let header = target.port.config.connection.send_proxy_protocol.map(|v| proxy_protocol::write(v, addresses));
        let header = header.transpose().map_err(|_| WhyRefused::OurTrouble)?.unwrap_or_default();
        let deadline = Instant::now() + limits.connect_timeout;
        let tries = set.len().min(limits.connect_tries);
        for (tried, index) in set.candidates(caller).take(tries).enumerate() {
            let begun = Instant::now();
            let left = deadline.saturating_duration_since(begun);
            let time = if tried + 1 < tries { left.min(limits.connect_try_timeout) } else { left };
            let addr = set.endpoint(index).addr;
            let socket = match upstream_socket(addr) {
                Ok(socket) => socket,
                Err(e) => {
                    // Our trouble, not the endpoint's; another one would fare no better.
                    self.shared.log_trouble("cannot open a socket for a connection to an endpoint", self.frontend, &e);
                    return Err(WhyRefused::OurTrouble);
                }
            };
            let error = match timeout(time, greet(socket, addr, &header)).await {
                Ok(Ok(upstream)) => {
                    set.state(index).succeeded();
                    if set.balance() == Balance::Ewma {
                        set.state(index).observe(begun.elapsed(), now());
                    }
                    return Ok((index, upstream, tried == 0));
                }
                Ok(Err(e)) => e,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            set.state(index).count_connect_failure();
            let ejected = set.failed(index, now());
            tracing::debug!(service = %target.port.config.name, endpoint = %addr, %error, ejected, "endpoint not reached");
        }
        Err(WhyRefused::NotReached)
    }
}

fn upstream_socket(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_IDLE))?;
    Ok(socket)
}

async fn greet(socket: TcpSocket, addr: SocketAddr, header: &[u8]) -> io::Result<TcpStream> {
    let mut upstream = socket.connect(addr).await?;
    // On a loopback address where nobody listens, a socket may by chance get that very port and connect to itself.
    if addr.ip().is_loopback() && upstream.local_addr()? == addr {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    if !header.is_empty() {
        upstream.write_all(header).await?;
    }
    Ok(upstream)
}

/// An established connection. It keeps alive what it needs and nothing else: no configuration.
struct Link {
    duplex: Duplex,
    open: Open,
    idle: Option<Idle>,
    watched: Option<Box<Watched>>,
    _in_flight: InFlight,
    _permit: Permit,
    _ticket: Ticket,
}

impl Future for Link {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let link = &mut *self;
        let ended = link.duplex.poll(cx);
        let (up, down) = link.duplex.take_moved();
        link.open.count(up, down);
        if let Some(watched) = &link.watched {
            watched.count(up, down);
        }
        if ended.is_ready() {
            return Poll::Ready(());
        }
        match &mut link.idle {
            Some(idle) => idle.poll(up + down > 0, cx),
            None => Poll::Pending,
        }
    }
}

/// Ends when no byte moved for a while.
struct Idle {
    timeout: Duration,
    last: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Idle {
    fn new(timeout: Duration) -> Self {
        let last = Instant::now();
        Self { timeout, last, sleep: Box::pin(sleep_until(last + timeout)) }
    }

    fn poll(&mut self, moved: bool, cx: &mut Context<'_>) -> Poll<()> {
        if moved {
            self.last = Instant::now();
        }
        // The timer is set again only when it fires, not with every byte.
        while self.sleep.as_mut().poll(cx).is_ready() {
            let end = self.last + self.timeout;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(end);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_counts_from_the_last_byte() {
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        let mut idle = Idle::new(Duration::from_secs(10));
        advance(Duration::from_secs(8)).await;
        assert!(idle.poll(true, cx).is_pending());
        advance(Duration::from_secs(9)).await;
        assert!(idle.poll(false, cx).is_pending());
        advance(Duration::from_secs(2)).await;
        assert!(idle.poll(false, cx).is_ready());
    }

    /// Most bytes of its own an idle connection may hold: its task's future and its link. The rest of the 3 KiB we
    /// allow is the runtime's (its task header, and what it keeps for each of two sockets).
    const MAX_CONNECTION_SIZE: usize = 512;

    #[tokio::test]
    async fn a_connection_is_small() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let addr = client.local_addr().unwrap();
        let shared = Shared::new(crate::limits::Limits::default(), Arc::default());
        let frontend = Frontend { ip: addr.ip(), port: addr.port(), protocol: Protocol::Tcp };
        let (table, ticket) = (shared.table(), shared.live.connection());
        let future = connection(Arrival { shared, frontend, peer: addr, table, passed: None, ticket }, client);
        let size = size_of_val(&future) + size_of::<Link>();
        assert!(size <= MAX_CONNECTION_SIZE, "{} + {}", size_of_val(&future), size_of::<Link>());
    }
}
