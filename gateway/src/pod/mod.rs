//! The pod program: the small server that takes a pod's place in the demo, in the tests and as `tidegate pod`.
//!
//! It answers `You've hit <pod-name>` and tells, in headers and in JSON, how the question arrived: from which peer, on a
//! new or a reused connection, with which headers. Delays, status codes and broken connections come on request, in the
//! query, so that one program plays every backend a test needs.
//!
//! It knows nothing of Services or Ingresses. It does what a client asks of it, so it is no server for the open internet.
//!
//! | file | what it holds |
//! |---|---|
//! | `listen` | the `--listen` syntax |
//! | `tcp` | accepting connections and serving HTTP on them |
//! | `proxy` | the PROXY protocol header before the first request |
//! | `http` | what each path answers |
//! | `query` | what a client may ask for in the query |
//! | `body` | the bodies of the answers |
//! | `udp` | answering datagrams |
//! | `log` | what it remembers of its requests |
//! | `limits` | every limit and timeout of the above |

mod body;
mod http;
mod limits;
mod listen;
mod log;
mod proxy;
mod query;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::header::HeaderValue;
use socket2::SockRef;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use self::listen::{Listen, ListenError};
use self::log::Log;

/// What a pod is called and where it listens.
#[derive(Clone, Debug, Default)]
pub struct PodOptions {
    /// The name it answers with.
    pub name: String,
    /// Where it serves HTTP over TCP; port 0 takes a free one.
    pub http: Vec<SocketAddr>,
    /// Where it answers datagrams; port 0 takes a free one.
    pub udp: Vec<SocketAddr>,
    /// Each TCP connection begins with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
    /// The origin whose web pages may read the answers, cookies and all (CORS), once it is known. Nobody's, if it is never set.
    pub page: Arc<OnceLock<HeaderValue>>,
    /// Whether it remembers its last requests.
    pub log: bool,
}

impl PodOptions {
    /// The options of a pod that listens where the command line says.
    pub fn new(name: impl Into<String>, listens: impl IntoIterator<Item = Listen>) -> Self {
        let mut options = Self { name: name.into(), ..Self::default() };
        for listen in listens {
            match listen {
                Listen::Http(address) => options.http.push(address),
                Listen::Udp(address) => options.udp.push(address),
            }
        }
        options
    }
}

/// A running pod; dropping it stops it at once and cuts its connections.
#[derive(Debug)]
pub struct Pod {
    shared: Arc<Shared>,
    http: Vec<SocketAddr>,
    udp: Vec<SocketAddr>,
    listeners: Vec<Arc<TcpListener>>,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Pod {
    /// Opens every address, then begins to answer. When one cannot be opened, none is, and the error names it.
    pub async fn start(options: PodOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(&options)?);
        let cannot = |listen: Listen| {
            let name = &options.name;
            move |error: io::Error| {
                io::Error::new(error.kind(), format!("pod {name} cannot listen on {listen}: {error}"))
            }
        };

        let mut listeners = Vec::with_capacity(options.http.len());
        for &address in &options.http {
            listeners.push(Arc::new(tcp::bind(address).map_err(cannot(Listen::Http(address)))?));
        }
        let mut sockets = Vec::with_capacity(options.udp.len());
        for &address in &options.udp {
            sockets.push(UdpSocket::bind(address).await.map_err(cannot(Listen::Udp(address)))?);
        }
        let http = listeners.iter().map(|listener| listener.local_addr()).collect::<io::Result<_>>()?;
        let udp = sockets.iter().map(UdpSocket::local_addr).collect::<io::Result<_>>()?;

        let stopping = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for listener in &listeners {
            tasks.spawn(tcp::accept(Arc::clone(listener), Arc::clone(&shared), stopping.subscribe()));
        }
        for socket in sockets {
            tasks.spawn(udp::answer(socket, Arc::clone(&shared), stopping.subscribe()));
        }
        Ok(Self { shared, http, udp, listeners, stopping, tasks })
    }

    /// The name it answers with.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where it serves HTTP, in the order of the options and with the ports it really has.
    pub fn http_addrs(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where it answers datagrams, in the order of the options and with the ports it really has.
    pub fn udp_addrs(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// How many TCP connections it has accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many of these have brought a request: those of health checks may not.
    pub fn used_connections(&self) -> u64 {
        self.shared.used_connections.load(Ordering::Relaxed)
    }

    /// How many HTTP requests and datagrams have reached it so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// A line for each of the last requests and datagrams, oldest first; empty if it has no log.
    pub fn log(&self) -> String {
        self.shared.log.as_ref().map(Log::text).unwrap_or_default()
    }

    /// Stops as a good pod does on SIGTERM: refuses new connections, closes idle ones, and finishes the requests it has
    /// begun, but waits no longer than ten seconds for them.
    pub async fn shutdown(mut self) {
        self.stopping.send_replace(true);
        self.refuse_connections();
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(limits::SHUTDOWN_GRACE, finished).await.is_err() {
            tracing::warn!(
                pod = self.name(),
                "some requests took longer than the shutdown may: their connections are cut"
            );
        }
    }

    /// Ends as a program does on SIGKILL: new connections are refused and those it has are closed, whatever is under way.
    /// All of them are when this returns. Its counters and its log can still be read.
    pub async fn kill(&mut self) {
        self.refuse_connections();
        self.tasks.shutdown().await;
        // Connections are the tasks of tasks; the last of them leaves all slots free.
        let all = self.shared.slots.acquire_many(limits::CONNECTIONS_MAX as u32);
        drop(all.await.expect("the semaphore is never closed"));
    }

    /// Makes the kernel refuse connections from this moment on, without waiting for the accepting tasks to be scheduled.
    fn refuse_connections(&mut self) {
        for listener in self.listeners.drain(..) {
            // Not every system can do this to a listening socket; there it closes when its task ends.
            let _ = SockRef::from(&*listener).shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.refuse_connections();
    }
}

/// What all connections of a pod have in common.
#[derive(Debug)]
struct Shared {
    name: String,
    /// The name as the `X-Pod` header carries it.
    name_header: HeaderValue,
    /// `You've hit <pod-name>` and a newline.
    greeting: Bytes,
    proxy_protocol: bool,
    page: Arc<OnceLock<HeaderValue>>,
    log: Option<Log>,
    /// One permit for each connection it may have open.
    slots: Arc<Semaphore>,
    connections: AtomicU64,
    /// Those of which a request came.
    used_connections: AtomicU64,
    requests: AtomicU64,
}

impl Shared {
    fn new(options: &PodOptions) -> io::Result<Self> {
        let name = options.name.clone();
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, format!("`{name}` {why}"));
        if name.is_empty() {
            return Err(invalid("is no name for a pod: give it at least one letter"));
        }
        let name_header = HeaderValue::from_str(&name)
            .map_err(|_| invalid("is no name for a pod: a header must be able to carry it, so no line breaks"))?;
        Ok(Self {
            greeting: Bytes::from(format!("You've hit {name}\n")),
            name,
            name_header,
            proxy_protocol: options.proxy_protocol,
            page: Arc::clone(&options.page),
            log: options.log.then(Log::default),
            slots: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
            connections: AtomicU64::new(0),
            used_connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        })
    }
    /// Notes a request or datagram. The log first: whoever has seen it counted finds it there.
    fn note_request(&self, what: fmt::Arguments<'_>) {
        if let Some(log) = &self.log {
            log.write(what);
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}
