//! A worker of the HTTP data plane: listens, shares out its configuration, drains.

use std::{
    cell::{Cell, OnceCell, RefCell},
    io,
    net::SocketAddr,
    ops::Deref,
    rc::{Rc, Weak},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use ahash::AHashSet;
use http::HeaderValue;
use ipnet::IpNet;
use tidegate_l4::worker::L4Worker;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::{spawn_local, yield_now},
    time::{sleep, timeout},
};

use super::{
    arrival::Arrival,
    budget::Budgets,
    facts::Scheme,
    limits::HttpLimits,
    pod::Pool,
    slots::{Slots, TICK},
    stats::HttpStats,
    warn::WarnLimit,
};
use crate::{
    access_log::WorkerLog,
    snapshot::{Snapshot, Upstream},
    tail::TailWorker,
    tls::Acceptor,
};

/// How often idle connections to pods are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Serves HTTP on one thread; every method is called from inside that thread's `LocalSet`.
#[derive(Clone, Debug)]
pub struct HttpWorker(pub(crate) Rc<Shared>);

/// What the connections of a worker have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: HttpLimits,
    pub(crate) stats: Arc<HttpStats>,
    pub(crate) pool: Pool,
    pub(crate) budgets: Budgets,
    pub(crate) warnings: WarnLimit,
    pub(crate) slots: Rc<Slots>,
    pub(crate) options: HttpOptions,
    pub(crate) tls: Acceptor,
    pub(crate) l4: Option<L4Worker>,
    /// For those who wait for it; the others look at `phase_now`.
    phase: watch::Sender<Phase>,
    phase_now: Cell<Phase>,
    /// For the head of the next request.
    buffer: RefCell<Vec<u8>>,
    log: OnceCell<Rc<WorkerLog>>,
    tail: OnceCell<Rc<TailWorker>>,
    snapshot: RefCell<Rc<Published>>,
    connections: Cell<usize>,
    pub(crate) parked: Cell<usize>,
    listeners: Cell<usize>,
    is_sweeping: Cell<bool>,
    /// A connection or listener ended.
    ended: Notify,
}

/// How clients are met, as the operator decided.
#[derive(Clone, Debug, Default)]
pub struct HttpOptions {
    /// Whom to believe what they say about their clients, in `X-Forwarded-For` and its like. Nobody by default: whoever is
    /// believed can claim to be anybody.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether every connection begins with a PROXY protocol header, v1 or v2.
    pub proxy_protocol: bool,
    /// Where HTTPS is served, if anywhere: what redirects name to clients that name the port of HTTP.
    pub https_port: Option<u16>,
}

/// Where clients connect to.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Its port …
    pub(crate) port: u16,
    /// … ready to be sent to pods.
    pub(crate) port_value: HeaderValue,
    pub(crate) scheme: Scheme,
}

/// The configuration as one thread counts it: a request that holds the `Rc` touches no counter of other threads.
#[derive(Debug)]
pub(crate) struct Published(Arc<Snapshot>);

impl Deref for Published {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// No new connections; those that are there have one more answer each.
    Draining,
    /// Those that idle are closed; the others finish what they are doing.
    Closing,
    /// Everything ends now.
    Cut,
}

impl HttpWorker {
    /// A worker that serves `snapshot` as soon as a listener is opened.
    pub fn new(limits: HttpLimits, snapshot: Arc<Snapshot>, stats: Arc<HttpStats>) -> Self {
        Self::with(limits, HttpOptions::default(), snapshot, stats, None)
    }

    /// The same with options, and with the L4 worker of this thread, which carries connections whose TLS ends at a pod.
    pub fn with(
        limits: HttpLimits,
        options: HttpOptions,
        snapshot: Arc<Snapshot>,
        stats: Arc<HttpStats>,
        l4: Option<L4Worker>,
    ) -> Self {
        let pool = Pool::new(limits.idle_upstream_per_endpoint, limits.idle_upstream);
        let warnings = WarnLimit::new(limits.warnings_per_second);
        Self(Rc::new(Shared {
            limits,
            stats,
            pool,
            warnings,
            budgets: Budgets::default(),
            slots: Rc::default(),
            options,
            tls: Acceptor::default(),
            l4,
            phase: watch::Sender::new(Phase::Serving),
            phase_now: Cell::new(Phase::Serving),
            buffer: RefCell::default(),
            log: OnceCell::new(),
            tail: OnceCell::new(),
            snapshot: RefCell::new(Rc::new(Published(snapshot))),
            connections: Cell::new(0),
            parked: Cell::new(0),
            listeners: Cell::new(0),
            is_sweeping: Cell::new(false),
            ended: Notify::new(),
        }))
    }

    /// Writes a line in this log for every request; to be called before any connection is served.
    pub fn log_to(&self, log: Rc<WorkerLog>) {
        // A second one would split the log.
        drop(self.0.log.set(log));
    }

    /// Tells the tail of every request while somebody watches it; to be called before any connection is served.
    pub fn tell(&self, tail: Rc<TailWorker>) {
        // A second one would hear the half of it.
        drop(self.0.tail.set(tail));
    }

    /// Serves `snapshot` from the next request on; requests under way finish on the one they began with. Idle
    /// connections to endpoints that left are closed.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.0.pool.forget(&gone(&self.0.snapshot().upstreams, &snapshot.upstreams));
        self.0.snapshot.replace(Rc::new(Published(snapshot)));
    }

    /// Serves the connections of `listener`, without TLS.
    pub fn open(&self, listener: std::net::TcpListener) -> io::Result<()> {
        self.open_as(listener, Scheme::Http)
    }

    /// Serves the connections of `listener`.
    pub fn open_as(&self, listener: std::net::TcpListener, scheme: Scheme) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        // Accepted connections inherit it: one system call instead of one for each.
        rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
        let listener = TcpListener::from_std(listener)?;
        let port = listener.local_addr()?.port();
        let this = Rc::new(Listener { port, port_value: HeaderValue::from(port), scheme });
        if !self.0.is_sweeping.replace(true) {
            spawn_local(sweep(Rc::downgrade(&self.0)));
            spawn_local(tick(Rc::downgrade(&self.0)));
        }
        self.0.listeners.set(self.0.listeners.get() + 1);
        spawn_local(accept(self.0.clone(), listener, this));
        Ok(())
    }

    /// Ends well: accepts what waits in the queue and then no more, lets requests under way finish and tells their clients
    /// that the connection ends with them. Idle connections may send one more request for a moment, and are closed then.
    /// What is left after `within` is cut.
    pub async fn drain(&self, within: Duration) {
        self.0.enter(Phase::Draining);
        let idle = self.0.limits.drain_idle.min(within);
        if timeout(idle, self.ended()).await.is_ok() {
            return;
        }
        self.0.enter(Phase::Closing);
        if timeout(within - idle, self.ended()).await.is_err() {
            self.cut();
            self.ended().await;
        }
    }

    /// Ends now: closes every connection.
    pub fn cut(&self) {
        self.0.enter(Phase::Cut);
    }

    /// Client connections open now.
    pub fn connections(&self) -> usize {
        self.0.connections.get()
    }

    /// Whether the end has begun.
    pub fn is_draining(&self) -> bool {
        self.0.phase() != Phase::Serving
    }

    /// Client connections that wait without any HTTP state.
    pub fn parked(&self) -> usize {
        self.0.parked.get()
    }

    async fn ended(&self) {
        while self.0.connections.get() + self.0.listeners.get() > 0 {
            self.0.ended.notified().await;
        }
    }
}

impl Shared {
    /// The configuration for one request.
    pub(crate) fn snapshot(&self) -> Rc<Published> {
        self.snapshot.borrow().clone()
    }

    /// The access log, if there is one.
    pub(crate) fn log(&self) -> Option<&Rc<WorkerLog>> {
        self.log.get()
    }

    /// Where it is told what happens to requests, if anywhere.
    pub(crate) fn tail(&self) -> Option<&Rc<TailWorker>> {
        self.tail.get()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase_now.get()
    }

    fn enter(&self, phase: Phase) {
        self.phase_now.set(phase);
        self.phase.send_replace(phase);
        self.slots.wake_all();
    }

    /// An empty buffer, mostly one that was used before.
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        let mut buffer = self.buffer.take();
        buffer.clear();
        buffer
    }

    /// Keeps a buffer for the next request.
    pub(crate) fn give_buffer(&self, buffer: Vec<u8>) {
        if buffer.capacity() <= self.limits.request_head_bytes * 2 {
            self.buffer.replace(buffer);
        }
    }

    /// Waits until there is room for one more connection.
    async fn room(&self) {
        while self.connections.get() >= self.limits.connections {
            self.ended.notified().await;
        }
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, listener: &Rc<Listener>) {
        let open = Open::new(self.clone());
        if cfg!(not(target_os = "linux")) {
            // Elsewhere it may not be inherited; without it only latency suffers.
            drop(stream.set_nodelay(true));
        }
        // Who comes by IPv4 to a listener of both families has an IPv4 address.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let arrival = Arrival { worker: self.clone(), listener: listener.clone(), stream, peer };
        spawn_local(async move {
            arrival.serve().await;
            drop(open);
        });
    }
}

/// Accepts until the worker drains, then what is in the queue still.
async fn accept(worker: Rc<Shared>, listener: TcpListener, this: Rc<Listener>) {
    let mut phase = worker.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            accepted = async { worker.room().await; listener.accept().await } => accepted,
        };
        match accepted {
            Ok((stream, peer)) => worker.serve(stream, peer, &this),
            Err(error) => {
                worker.stats.accept_errors.add(1);
                tracing::warn!(%error, "cannot accept connections for a moment");
                sleep(worker.limits.accept_backoff).await;
            }
        }
    }
    // Lets the poller report what has just come.
    yield_now().await;
    while worker.connections.get() < worker.limits.connections
        && matches!(worker.phase(), Phase::Draining | Phase::Closing)
    {
        let accepted = std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
        let Poll::Ready(Ok((stream, peer))) = accepted else { break };
        worker.serve(stream, peer, &this);
    }
    worker.listeners.set(worker.listeners.get() - 1);
    worker.ended.notify_waiters();
}

/// Closes idle connections to pods that got old, for as long as the worker lives.
async fn sweep(worker: Weak<Shared>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        let Some(worker) = worker.upgrade() else { return };
        worker.pool.sweep();
    }
}

/// The clock of all connections, for as long as the worker lives.
async fn tick(worker: Weak<Shared>) {
    loop {
        sleep(TICK).await;
        let Some(worker) = worker.upgrade() else { return };
        worker.slots.tick();
    }
}

/// The endpoints that were in `before` and are not in `after`. Upstreams that did not change are shared by both, and
/// skipped.
fn gone(before: &[Arc<Upstream>], after: &[Arc<Upstream>]) -> AHashSet<SocketAddr> {
    let changed = |these: &[Arc<Upstream>], those: &[Arc<Upstream>]| {
        let those: AHashSet<_> = those.iter().map(Arc::as_ptr).collect();
        let changed = these.iter().filter(|upstream| !those.contains(&Arc::as_ptr(upstream)));
        changed.flat_map(|upstream| upstream.endpoints.endpoints()).map(|e| e.addr).collect::<AHashSet<_>>()
    };
    let (mut gone, added) = (changed(before, after), changed(after, before));
    gone.retain(|addr| !added.contains(addr));
    gone
}

/// One open client connection in the books.
struct Open(Rc<Shared>);

impl Open {
    fn new(worker: Rc<Shared>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.stats.accepted.add(1);
        Self(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.stats.closed.add(1);
        self.0.ended.notify_waiters();
    }
}
