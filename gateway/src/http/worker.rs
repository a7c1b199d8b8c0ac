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
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::{spawn_local, yield_now},
    time::{sleep, timeout},
};

use super::{connection, limits::HttpLimits, pool::Pool, stats::HttpStats, warn::WarnLimit};
use crate::{
    access_log::WorkerLog,
    snapshot::{Snapshot, Upstream},
};

/// How often idle connections to pods are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Serves HTTP on one thread; every method is called from inside that thread's `LocalSet`.
#[derive(Clone, Debug)]
pub struct HttpWorker(Rc<Shared>);

/// What the connections of a worker have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: HttpLimits,
    pub(crate) stats: Arc<HttpStats>,
    pub(crate) pool: Pool,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) warnings: WarnLimit,
    log: OnceCell<Rc<WorkerLog>>,
    snapshot: RefCell<Rc<Published>>,
    connections: Cell<usize>,
    listeners: Cell<usize>,
    is_sweeping: Cell<bool>,
    /// A connection or listener ended.
    ended: Notify,
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
    /// No new connections; those that are there finish what they are doing.
    Draining,
    /// Everything ends now.
    Cut,
}

impl HttpWorker {
    /// A worker that serves `snapshot` as soon as a listener is opened.
    pub fn new(limits: HttpLimits, snapshot: Arc<Snapshot>, stats: Arc<HttpStats>) -> Self {
        let pool = Pool::new(limits.idle_upstream_per_endpoint, limits.idle_upstream);
        let warnings = WarnLimit::new(limits.warnings_per_second);
        Self(Rc::new(Shared {
            limits,
            stats,
            pool,
            warnings,
            log: OnceCell::new(),
            phase: watch::Sender::new(Phase::Serving),
            snapshot: RefCell::new(Rc::new(Published(snapshot))),
            connections: Cell::new(0),
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

    /// Serves `snapshot` from the next request on; requests under way finish on the one they began with. Idle
    /// connections to endpoints that left are closed.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.0.pool.forget(&gone(&self.0.snapshot().upstreams, &snapshot.upstreams));
        self.0.snapshot.replace(Rc::new(Published(snapshot)));
    }

    /// Serves the connections of `listener`.
    pub fn open(&self, listener: std::net::TcpListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let port = HeaderValue::from(listener.local_addr()?.port());
        if !self.0.is_sweeping.replace(true) {
            spawn_local(sweep(Rc::downgrade(&self.0)));
        }
        self.0.listeners.set(self.0.listeners.get() + 1);
        spawn_local(accept(self.0.clone(), listener, port));
        Ok(())
    }

    /// Ends well: accepts what waits in the queue and then no more, closes idle connections, lets requests under way
    /// finish and tells their clients that the connection ends with them. What is left after `within` is cut.
    pub async fn drain(&self, within: Duration) {
        self.0.phase.send_replace(Phase::Draining);
        if timeout(within, self.ended()).await.is_err() {
            self.cut();
            self.ended().await;
        }
    }

    /// Ends now: closes every connection.
    pub fn cut(&self) {
        self.0.phase.send_replace(Phase::Cut);
    }

    /// Client connections open now.
    pub fn connections(&self) -> usize {
        self.0.connections.get()
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

    /// Waits until there is room for one more connection.
    async fn room(&self) {
        while self.connections.get() >= self.limits.connections {
            self.ended.notified().await;
        }
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, port: HeaderValue) {
        let open = Open::new(self.clone());
        // Without it only latency suffers.
        drop(stream.set_nodelay(true));
        let worker = self.clone();
        spawn_local(async move {
            connection::serve(worker, stream, peer, port).await;
            drop(open);
        });
    }
}

/// Accepts until the worker drains, then what is in the queue still.
async fn accept(worker: Rc<Shared>, listener: TcpListener, port: HeaderValue) {
    let mut phase = worker.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            accepted = async { worker.room().await; listener.accept().await } => accepted,
        };
        match accepted {
            Ok((stream, peer)) => worker.serve(stream, peer, port.clone()),
            Err(error) => {
                worker.stats.accept_errors.add(1);
                tracing::warn!(%error, "cannot accept connections for a moment");
                sleep(worker.limits.accept_backoff).await;
            }
        }
    }
    // Lets the poller report what has just come.
    yield_now().await;
    while worker.connections.get() < worker.limits.connections && *worker.phase.borrow() == Phase::Draining {
        let accepted = std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
        let Poll::Ready(Ok((stream, peer))) = accepted else { break };
        worker.serve(stream, peer, port.clone());
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
