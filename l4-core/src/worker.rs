//! One worker: a thread with a runtime and sockets of its own. Workers share the service table and nothing else.

use std::{
    cell::{Cell, OnceCell, RefCell},
    fmt, io,
    net::SocketAddr,
    os::fd::AsFd,
    rc::Rc,
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ahash::AHashMap;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{spawn_local, yield_now},
    time::timeout,
};

use crate::{
    affinity::UnixMillis,
    drain::Live,
    limits::{LOG_INTERVAL, Limits},
    listen::{Opened, Socket},
    model::ServicePortName,
    table::{Frontend, ServiceTable},
    tcp,
    udp::{self, Flows, UdpFrontend},
    watch::{Refused, Watch, WhyRefused},
};

pub use crate::udp::HandedFlow;

/// Serves frontends on the thread it was made on, inside a [`LocalSet`](tokio::task::LocalSet) of a current-thread
/// runtime with I/O and time enabled. Clones are the same worker.
#[derive(Clone)]
pub struct L4Worker(Rc<Shared>);

impl L4Worker {
    /// A worker without any frontend yet.
    pub fn new(limits: Limits, table: Arc<ServiceTable>) -> Self {
        Self(Shared::new(limits, table))
    }

    /// Tells `watch` of every connection and flow; to be called before any is served.
    pub fn tell(&self, watch: Rc<dyn Watch>) {
        // A second one would hear the half of it.
        drop(self.0.watch.set(watch));
    }

    /// Takes a new configuration: it decides about every connection from now on. Established connections live on;
    /// UDP flows to endpoints that vanished end.
    pub fn publish(&self, table: Arc<ServiceTable>) {
        let before = self.0.table.replace(table);
        self.0.flows.sweep(&before, &self.0.table());
    }

    /// Serves `frontend` on a socket that [`Sockets`](crate::listen::Sockets) opened, besides those on which it does
    /// already: a worker may have several where a process with more workers left them.
    pub fn open(&self, frontend: Frontend, socket: Socket) -> io::Result<()> {
        let listener = match socket {
            Socket::Tcp(listener) => {
                let listener = Rc::new(TcpListener::from_std(listener)?);
                let (stop, stopped) = oneshot::channel();
                let listening = self.0.live.listener();
                spawn_local(tcp::accept(self.0.clone(), frontend, listener.clone(), stopped, listening));
                Listener::Tcp(stop, listener)
            }
            Socket::Udp(socket) => Listener::Udp(UdpFrontend::open(&self.0, frontend, socket)?),
        };
        self.0.listeners.borrow_mut().entry(frontend).or_default().push(listener);
        Ok(())
    }

    /// Stops serving `frontend`, after accepting the connections that already wait. Established connections live on;
    /// UDP flows end, as their answers could no longer come from the address the client asked.
    pub fn close(&self, frontend: &Frontend) {
        let listeners = self.0.listeners.borrow_mut().remove(frontend);
        listeners.into_iter().flatten().for_each(|listener| self.0.close(listener));
    }

    /// Handles to the sockets of every frontend, for another process to serve them too; those of one frontend in the
    /// order in which they were opened.
    pub fn lend(&self) -> io::Result<Vec<Opened>> {
        let listeners = self.0.listeners.borrow();
        let lend = |(frontend, sockets): (&Frontend, &Vec<Listener>)| {
            Ok(Opened { frontend: *frontend, sockets: sockets.iter().map(Listener::lend).collect::<io::Result<_>>()? })
        };
        listeners.iter().map(lend).collect()
    }

    /// Receives no more datagrams and gives every flow away; what arrives from now on waits in the sockets for whoever
    /// continues with [`Self::take_flow`].
    pub fn give_flows(&self) -> Vec<HandedFlow> {
        let mut flows = Vec::new();
        self.0.listeners.borrow_mut().retain(|_, listeners| {
            for (number, listener) in listeners.iter().enumerate() {
                if let Listener::Udp(frontend) = listener {
                    flows.extend(self.0.flows.give(frontend, number));
                }
            }
            listeners.retain(|listener| matches!(listener, Listener::Tcp(..)));
            !listeners.is_empty()
        });
        flows
    }

    /// Continues a flow of another process, unless its endpoint may no longer have it. Its frontend must be open.
    pub fn take_flow(&self, flow: HandedFlow) {
        let listeners = self.0.listeners.borrow();
        let listener = listeners.get(&flow.frontend).and_then(|listeners| listeners.get(flow.number));
        if let Some(Listener::Udp(frontend)) = listener {
            udp::take_flow(&self.0, frontend, flow);
        }
    }

    /// Carries a connection that another plane accepted to an endpoint of a service port, and counts it as its own. `head` is what
    /// was read from it, and goes first. It is reset if there is no such port, no endpoint, or no room.
    pub fn carry(&self, client: TcpStream, peer: SocketAddr, service: &ServicePortName, head: Vec<u8>) {
        tcp::carry(&self.0, client, peer, service, head);
    }

    /// TCP connections open now.
    pub fn connections(&self) -> usize {
        self.0.live.connections()
    }

    /// UDP flows open now.
    pub fn flows(&self) -> usize {
        self.0.flows.len()
    }

    /// Closes every frontend, waits for the connections to end, and cuts those that have not by `timeout`.
    pub async fn drain(&self, time: Duration) {
        let listeners = self.0.listeners.take();
        listeners.into_values().flatten().for_each(|listener| self.0.close(listener));
        if timeout(time, self.0.live.ended()).await.is_err() {
            self.cut();
            self.0.live.ended().await;
        }
        // UDP tasks were told to end and are not waited for; this lets them.
        yield_now().await;
    }

    /// Resets every connection, ends every flow and closes every frontend, at once.
    pub fn cut(&self) {
        for listener in self.0.listeners.take().into_values().flatten() {
            match listener {
                // Dropped and not sent: the clients in the backlog are reset too.
                Listener::Tcp(stop, _) => drop(stop),
                listener @ Listener::Udp(_) => self.0.close(listener),
            }
        }
        self.0.live.cut();
    }
}

impl fmt::Debug for L4Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L4Worker")
            .field("frontends", &self.0.listeners.borrow().len())
            .field("connections", &self.connections())
            .field("flows", &self.flows())
            .finish_non_exhaustive()
    }
}

/// What the tasks of one worker share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) live: Rc<Live>,
    pub(crate) flows: Flows,
    table: RefCell<Arc<ServiceTable>>,
    listeners: RefCell<AHashMap<Frontend, Vec<Listener>>>,
    watch: OnceCell<Rc<dyn Watch>>,
    last_log: Cell<Option<Instant>>,
}

enum Listener {
    Tcp(oneshot::Sender<()>, Rc<TcpListener>),
    Udp(Rc<UdpFrontend>),
}

impl Listener {
    fn lend(&self) -> io::Result<Socket> {
        Ok(match self {
            Self::Tcp(_, listener) => Socket::Tcp(listener.as_fd().try_clone_to_owned()?.into()),
            Self::Udp(frontend) => Socket::Udp(frontend.lend()?),
        })
    }
}

impl Shared {
    pub(crate) fn new(limits: Limits, table: Arc<ServiceTable>) -> Rc<Self> {
        Rc::new(Self {
            limits,
            live: Live::new(limits.max_connections),
            flows: Flows::new(limits.max_flows),
            table: RefCell::new(table),
            listeners: RefCell::default(),
            watch: OnceCell::new(),
            last_log: Cell::new(None),
        })
    }

    /// The configuration of this moment.
    pub(crate) fn table(&self) -> Arc<ServiceTable> {
        self.table.borrow().clone()
    }

    /// Who looks on, if anybody does.
    pub(crate) fn watch(&self) -> Option<&Rc<dyn Watch>> {
        self.watch.get()
    }

    /// A client is turned away.
    pub(crate) fn tell_refused(
        &self,
        service: &ServicePortName,
        frontend: Frontend,
        client: SocketAddr,
        why: WhyRefused,
    ) {
        if let Some(watch) = self.watch().filter(|watch| watch.is_on()) {
            watch.refused(&Refused { service, frontend, client, why });
        }
    }

    /// Tells the operator of trouble on this machine, but not for every client that meets it.
    pub(crate) fn log_trouble(&self, what: &str, frontend: Frontend, error: &io::Error) {
        let now = Instant::now();
        if self.last_log.get().is_none_or(|last| now - last >= LOG_INTERVAL) {
            self.last_log.set(Some(now));
            tracing::warn!(%frontend, %error, "{what}; this is told at most every {LOG_INTERVAL:?}");
        }
    }

    fn close(&self, listener: Listener) {
        match listener {
            // A listener that is gone already needs no telling.
            Listener::Tcp(stop, _) => drop(stop.send(())),
            Listener::Udp(frontend) => self.flows.close(&frontend),
        }
    }
}

/// The time for ClientIP affinity: the wall clock as it was when first asked, advanced by a clock that never jumps.
/// All workers see the same.
pub fn now() -> UnixMillis {
    static ANCHOR: LazyLock<(Instant, Duration)> =
        LazyLock::new(|| (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()));
    let (start, unix) = *ANCHOR;
    UnixMillis((unix + start.elapsed()).as_millis() as u64)
}
