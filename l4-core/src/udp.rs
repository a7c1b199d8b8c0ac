//! Forwards UDP: one flow for each client of a frontend, with an upstream socket of its own.
//!
//! The rules are those of Linux' connection tracking, which carries UDP under kube-proxy: a flow keeps its endpoint
//! while datagrams pass, and ends after a silence. Like the network itself, this drops datagrams rather than queue
//! them.

use std::{
    cell::{Cell, OnceCell, RefCell},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, ready},
};

use ahash::AHashMap;
use socket2::{SockRef, Socket};
use tokio::{
    io::ReadBuf,
    net::UdpSocket,
    task::{AbortHandle, spawn_local},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    copy::with_buffer,
    endpoints::{Candidates, Client, EndpointIndex, EndpointSet, EndpointState, InFlight, Permit},
    limits::{ACCEPT_BACKOFF, FLOW_EVICTION_SAMPLE, Limits},
    stats::{Open, PortStats},
    table::{Decision, Frontend, ServiceTable},
    watch::{Began, Reason, Watched, WhyRefused},
    worker::{Shared, now},
};

/// A frontend that receives datagrams.
pub(crate) struct UdpFrontend {
    frontend: Frontend,
    socket: UdpSocket,
    /// The worker owns them, see [`Flows`].
    flows: RefCell<AHashMap<SocketAddr, Weak<Flow>>>,
    receiver: OnceCell<AbortHandle>,
}

impl UdpFrontend {
    pub(crate) fn open(shared: &Rc<Shared>, frontend: Frontend, socket: std::net::UdpSocket) -> io::Result<Rc<Self>> {
        let socket = UdpSocket::from_std(socket)?;
        let this = Rc::new(Self { frontend, socket, flows: RefCell::default(), receiver: OnceCell::new() });
        let task = spawn_local(receive(shared.clone(), this.clone()));
        this.receiver.get_or_init(|| task.abort_handle());
        Ok(this)
    }

    /// Another handle to its socket.
    pub(crate) fn lend(&self) -> io::Result<std::net::UdpSocket> {
        Ok(self.socket.as_fd().try_clone_to_owned()?.into())
    }
}

/// Forwards what clients send, for as long as the frontend is open.
async fn receive(shared: Rc<Shared>, frontend: Rc<UdpFrontend>) {
    loop {
        let received = std::future::poll_fn(|cx| {
            with_buffer(|buffer| {
                let mut datagram = ReadBuf::new(buffer);
                let client = ready!(frontend.socket.poll_recv_from(cx, &mut datagram))?;
                forward(&shared, &frontend, client, datagram.filled());
                Poll::Ready(Ok::<_, io::Error>(()))
            })
        });
        if let Err(e) = received.await {
            shared.log_trouble("cannot receive datagrams", frontend.frontend, &e);
            sleep(ACCEPT_BACKOFF).await;
        }
    }
}

/// Sends one datagram of a client on its way, in its flow or in a new one.
fn forward(shared: &Rc<Shared>, frontend: &Rc<UdpFrontend>, client: SocketAddr, datagram: &[u8]) {
    let known = frontend.flows.borrow().get(&client).and_then(Weak::upgrade);
    let mut avoid = None;
    if let Some(flow) = known {
        if flow.send(datagram) {
            return;
        }
        avoid = Some(flow.endpoint);
        shared.flows.end(&flow);
    }
    let opened = open_flow(shared, frontend, client, avoid).unwrap_or_else(|e| {
        shared.log_trouble("cannot open a socket for a flow", frontend.frontend, &e);
        None
    });
    if let Some(flow) = opened {
        flow.send(datagram);
    }
}

/// Chooses an endpoint for a new client; not `avoid`, which has just refused it, unless there is no other.
fn open_flow(
    shared: &Rc<Shared>,
    frontend: &Rc<UdpFrontend>,
    client: SocketAddr,
    avoid: Option<SocketAddr>,
) -> io::Result<Option<Rc<Flow>>> {
    let table = shared.table();
    let Some(target) = table.find(&frontend.frontend) else { return Ok(None) };
    let stats = &target.port.stats;
    let caller = Client { ip: client.ip().to_canonical(), now: now() };
    let Decision::Choose(set) = target.decide(&frontend.frontend, caller.ip, &table) else {
        stats.mine().refused.add(1);
        shared.tell_refused(&target.port.config.name, frontend.frontend, client, WhyRefused::NobodyToServe);
        return Ok(None);
    };
    if let Some(refused) = avoid.and_then(|addr| set.position(addr)) {
        set.failed(refused, caller.now);
    }
    // Where it is full the datagram is dropped, as on any network; the gate counts it.
    let Ok(mut permit) = set.admit() else {
        shared.tell_refused(&target.port.config.name, frontend.frontend, client, WhyRefused::Full);
        return Ok(None);
    };
    permit.connected();
    let tell = |why| shared.tell_refused(&target.port.config.name, frontend.frontend, client, why);
    let Some(index) = choose(set, set.candidates(caller), avoid) else {
        tell(WhyRefused::NobodyToServe);
        return Ok(None);
    };
    let endpoint = set.endpoint(index).addr;
    shared.flows.make_room();
    let socket = match connected_socket(endpoint).inspect_err(|_| tell(WhyRefused::OurTrouble))? {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(service = %target.port.config.name, %endpoint, %error, "endpoint not reached");
            set.state(index).count_connect_failure();
            set.failed(index, caller.now);
            stats.mine().connect_failed.add(1);
            tell(WhyRefused::NotReached);
            return Ok(None);
        }
    };
    let remembered = set.remembered(caller);
    stats.count_affinity(set, remembered, index);
    set.chosen(caller, index);
    let mut flow = Flow::new(client, frontend, endpoint, socket, stats, set.state(index));
    flow.watched = Watched::tell(shared.watch(), || Began {
        service: &target.port.config.name,
        frontend: frontend.frontend,
        kind: target.kind,
        client,
        upstream: flow.socket.local_addr().ok(),
        endpoint: set.endpoint(index),
        reason: Reason::of(set, remembered, index, avoid.is_none()),
    });
    flow.permit = Some(permit);
    Ok(Some(begin(shared, flow)))
}

fn begin(shared: &Rc<Shared>, flow: Flow) -> Rc<Flow> {
    let flow = Rc::new(flow);
    shared.flows.begin(&flow);
    let task = spawn_local(carry_replies(shared.clone(), flow.clone()));
    flow.replies.get_or_init(|| task.abort_handle());
    flow
}

/// A flow on its way from one process to the next: neither the client nor the endpoint notices.
#[derive(Debug)]
pub struct HandedFlow {
    /// Where the client sends to.
    pub frontend: Frontend,
    /// Which of a worker's sockets for this frontend receives its datagrams, in the order in which they were opened.
    pub number: usize,
    /// The client.
    pub client: SocketAddr,
    /// Its endpoint.
    pub endpoint: SocketAddr,
    /// Whether the endpoint has ever answered: such a flow may be silent for longer.
    pub replied: bool,
    /// The socket that the endpoint knows.
    pub socket: std::net::UdpSocket,
}

/// Continues a flow of another process.
pub(crate) fn take_flow(shared: &Rc<Shared>, frontend: &Rc<UdpFrontend>, handed: HandedFlow) {
    let table = shared.table();
    let Some(target) = table.find(&handed.frontend).filter(|target| target.port.keeps_flow(handed.endpoint)) else {
        return;
    };
    let state = target.port.state(handed.endpoint);
    match UdpSocket::from_std(handed.socket) {
        Ok(socket) => {
            shared.flows.make_room();
            let flow = Flow::new(handed.client, frontend, handed.endpoint, socket, &target.port.stats, &state);
            flow.replied.set(handed.replied);
            begin(shared, flow);
        }
        Err(e) => shared.log_trouble("cannot use the socket of a flow", handed.frontend, &e),
    }
}

fn choose(set: &EndpointSet, mut candidates: Candidates<'_>, avoid: Option<SocketAddr>) -> Option<EndpointIndex> {
    let first = candidates.next()?;
    if Some(set.endpoint(first).addr) == avoid { candidates.next().or(Some(first)) } else { Some(first) }
}

/// A socket that exchanges datagrams with `endpoint` alone. The outer error is this machine's, the inner the
/// endpoint's.
fn connected_socket(endpoint: SocketAddr) -> io::Result<io::Result<UdpSocket>> {
    let any = match endpoint {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    if let Err(e) = socket.connect(endpoint) {
        return Ok(Err(e));
    }
    UdpSocket::from_std(socket).map(Ok)
}

/// Returns what the endpoint sends, until the flow has been silent for too long.
async fn carry_replies(shared: Rc<Shared>, flow: Rc<Flow>) {
    // Set for the shorter of the two silences, and again only when it fires, not with every datagram.
    let first = shared.limits.flow_unreplied_timeout.min(shared.limits.flow_replied_timeout);
    let mut sleep = pin!(sleep_until(flow.last.get() + first));
    std::future::poll_fn(|cx| {
        while let Poll::Ready(carried) = flow.poll_reply(cx) {
            if let Err(error) = carried {
                tracing::debug!(endpoint = %flow.endpoint, %error, "flow ended");
                return Poll::Ready(());
            }
        }
        while sleep.as_mut().poll(cx).is_ready() {
            let deadline = flow.deadline(&shared.limits);
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    })
    .await;
    shared.flows.end(&flow);
}

/// The datagrams between one client and its endpoint.
pub(crate) struct Flow {
    client: SocketAddr,
    frontend: Rc<UdpFrontend>,
    endpoint: SocketAddr,
    socket: UdpSocket,
    last: Cell<Instant>,
    replied: Cell<bool>,
    /// The endpoint said that nobody listens: the next datagram starts a new flow.
    refused: Cell<bool>,
    position: Cell<usize>,
    replies: OnceCell<AbortHandle>,
    open: Open,
    state: Arc<EndpointState>,
    _in_flight: InFlight,
    /// `None` for a flow of another process, which had its own.
    permit: Option<Permit>,
    watched: Option<Box<Watched>>,
}

impl Flow {
    fn new(
        client: SocketAddr,
        frontend: &Rc<UdpFrontend>,
        endpoint: SocketAddr,
        socket: UdpSocket,
        stats: &Arc<PortStats>,
        state: &Arc<EndpointState>,
    ) -> Self {
        Self {
            client,
            frontend: frontend.clone(),
            endpoint,
            socket,
            last: Cell::new(Instant::now()),
            replied: Cell::new(false),
            refused: Cell::new(false),
            position: Cell::new(0),
            replies: OnceCell::new(),
            open: Open::new(stats.clone()),
            state: state.clone(),
            _in_flight: state.carry(),
            permit: None,
            watched: None,
        }
    }

    fn count(&self, bytes_in: u64, bytes_out: u64) {
        self.open.count(bytes_in, bytes_out);
        if let Some(watched) = &self.watched {
            watched.count(bytes_in, bytes_out);
        }
    }

    /// Sends to the endpoint; `false` if it refuses, in which case the datagram was not sent.
    fn send(&self, datagram: &[u8]) -> bool {
        if self.refused.get() {
            return false;
        }
        self.last.set(Instant::now());
        // By the socket itself, since the runtime may not know yet that a new socket can be written to.
        match SockRef::from(&self.socket).send(datagram) {
            Ok(n) => self.count(n as u64, 0),
            Err(e) if is_refusal(&e) => self.refuse(),
            // Its buffer is full, or the datagram too large for the way: dropped, as on any network.
            Err(_) => {}
        }
        !self.refused.get()
    }

    /// Passes one reply on; pending if there is none.
    fn poll_reply(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_buffer(|buffer| {
            let mut datagram = ReadBuf::new(buffer);
            match ready!(self.socket.poll_recv(cx, &mut datagram)) {
                Ok(()) => {
                    self.last.set(Instant::now());
                    if !self.replied.replace(true) {
                        self.state.succeeded();
                    }
                    let frontend: SockRef<'_> = SockRef::from(&self.frontend.socket);
                    if let Ok(n) = Socket::send_to(&frontend, datagram.filled(), &self.client.into()) {
                        self.count(0, n as u64);
                    }
                }
                // More often it is the next send that hears of it: an error alone does not wake a reader.
                Err(e) if is_refusal(&e) => self.refuse(),
                Err(e) => return Poll::Ready(Err(e)),
            }
            Poll::Ready(Ok(()))
        })
    }

    fn refuse(&self) {
        if !self.refused.replace(true) {
            self.state.count_connect_failure();
        }
    }

    fn deadline(&self, limits: &Limits) -> Instant {
        let silence = if self.replied.get() { limits.flow_replied_timeout } else { limits.flow_unreplied_timeout };
        self.last.get() + silence
    }
}

/// ICMP said that the port or the host is not there.
fn is_refusal(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(e.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
}

/// All flows of a worker, at most so many.
pub(crate) struct Flows {
    max: usize,
    all: RefCell<Vec<Rc<Flow>>>,
}

impl Flows {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), all: RefCell::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// Ends the flows of a frontend and stops receiving there.
    pub(crate) fn close(&self, frontend: &UdpFrontend) {
        if let Some(receiver) = frontend.receiver.get() {
            receiver.abort();
        }
        let flows: Vec<_> = frontend.flows.borrow().values().filter_map(Weak::upgrade).collect();
        flows.iter().for_each(|flow| self.end(flow));
    }

    /// Stops receiving on a frontend and gives its flows away. One whose socket cannot be handed on begins anew.
    pub(crate) fn give(&self, frontend: &UdpFrontend, number: usize) -> Vec<HandedFlow> {
        let flows: Vec<_> = frontend.flows.borrow().values().filter_map(Weak::upgrade).collect();
        self.close(frontend);
        let give = |flow: &Rc<Flow>| {
            let socket = flow.socket.as_fd().try_clone_to_owned().ok()?.into();
            let Flow { client, endpoint, .. } = **flow;
            let (frontend, replied) = (frontend.frontend, flow.replied.get());
            (!flow.refused.get()).then_some(HandedFlow { frontend, number, client, endpoint, replied, socket })
        };
        flows.iter().filter_map(give).collect()
    }

    /// After a change from one table to the next: ends the flows whose endpoint vanished.
    pub(crate) fn sweep(&self, before: &ServiceTable, after: &ServiceTable) {
        let vanished = |flow: &&Rc<Flow>| {
            let frontend = &flow.frontend.frontend;
            let Some(target) = after.find(frontend) else { return false };
            let unchanged = before.find(frontend).is_some_and(|before| Arc::ptr_eq(&before.port, &target.port));
            !unchanged && !target.port.keeps_flow(flow.endpoint)
        };
        let vanished: Vec<_> = self.all.borrow().iter().filter(vanished).cloned().collect();
        vanished.iter().for_each(|flow| self.end(flow));
    }

    fn begin(&self, flow: &Rc<Flow>) {
        let mut all = self.all.borrow_mut();
        flow.position.set(all.len());
        all.push(flow.clone());
        flow.frontend.flows.borrow_mut().insert(flow.client, Rc::downgrade(flow));
    }

    /// Forgets a flow and ends its task; harmless when it is forgotten already.
    fn end(&self, flow: &Rc<Flow>) {
        let mut all = self.all.borrow_mut();
        let position = flow.position.get();
        if !all.get(position).is_some_and(|there| Rc::ptr_eq(there, flow)) {
            return;
        }
        all.swap_remove(position);
        if let Some(moved) = all.get(position) {
            moved.position.set(position);
        }
        flow.frontend.flows.borrow_mut().remove(&flow.client);
        if let Some(replies) = flow.replies.get() {
            replies.abort();
        }
    }

    /// At the limit, ends the least useful of a few flows drawn at random: one that was never answered, or else the one
    /// silent for longest. New clients are always served, and a flood of one-way datagrams displaces itself first.
    fn make_room(&self) {
        let victim = {
            let all = self.all.borrow();
            if all.len() < self.max {
                return;
            }
            let sample = (0..FLOW_EVICTION_SAMPLE).map(|_| &all[fastrand::usize(..all.len())]);
            sample.min_by_key(|flow| (flow.replied.get(), flow.last.get())).cloned()
        };
        if let Some(flow) = victim {
            self.end(&flow);
        }
    }
}
