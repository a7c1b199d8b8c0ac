//! Continuous load: clients of every protocol that never pause for long, and count what failed. Nothing may.

mod http2;
mod tls;
mod tunnel;

use std::{
    fmt::Write as _,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UdpSocket,
    task::JoinSet,
    time::sleep,
};

use crate::{Client, PATIENCE, Response};

/// Between two connections of one client: closed ones wait a minute in TIME_WAIT, and there are not so many ports.
const CONNECT_PAUSE: Duration = Duration::from_millis(5);

/// Between two messages on something that stays open, so that the clients leave some of the machine to whom they test.
const MESSAGE_PAUSE: Duration = Duration::from_millis(2);

/// Requests on one connection that its client then ends: such connections live for well under a second, so that a drain can
/// wait for them.
const REQUESTS_A_CONNECTION: usize = 30;

/// Messages on one stream or tunnel, for the same reason.
const MESSAGES_A_STREAM: usize = 60;

/// ALPN.
const HTTP1: &str = "http/1.1";
const HTTP2: &str = "h2";

/// Failures kept as text; the rest is counted.
const MAX_TOLD: usize = 10;

/// What one client does, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A new connection for each request, with `Connection: close`.
    Http1New {
        /// The `Host` of the requests.
        host: &'static str,
    },
    /// Requests on one HTTP/1.1 connection, which is replaced only when an answer says that it was the last.
    Http1KeepAlive {
        /// The `Host` of the requests.
        host: &'static str,
    },
    /// Requests on one HTTP/2 connection (prior knowledge), which is replaced when the server says goodbye.
    Http2 {
        /// The `:authority` of the requests.
        host: &'static str,
    },
    /// A stream of gRPC messages over HTTP/2, each echoed, that ends with `grpc-status: 0`; then the next.
    GrpcStream {
        /// The `:authority` of the requests.
        host: &'static str,
    },
    /// A WebSocket, whose messages are echoed until the client closes it; then the next.
    WebSocket {
        /// The `Host` of the request.
        host: &'static str,
    },
    /// A TCP connection to a Service with a few requests on it, which the client ends; then the next.
    Connection,
    /// One UDP flow from beginning to end: each datagram is answered, by the pod that answered the first if `same_pod`.
    Flow {
        /// Whether the pod may not change.
        same_pod: bool,
    },
    /// The readiness probe of an admin server, which always succeeds.
    Ready,
    /// DNS questions for this name over UDP, each answered without an error.
    Dns {
        /// The name.
        name: &'static str,
    },
}

impl Traffic {
    fn name(&self) -> &'static str {
        match self {
            Self::Http1New { .. } => "HTTP/1.1, new connections",
            Self::Http1KeepAlive { .. } => "HTTP/1.1, keep-alive",
            Self::Http2 { .. } => "HTTP/2",
            Self::GrpcStream { .. } => "gRPC streams",
            Self::WebSocket { .. } => "WebSocket",
            Self::Connection => "TCP connections",
            Self::Flow { .. } => "UDP flows",
            Self::Ready => "readiness probes",
            Self::Dns { .. } => "DNS",
        }
    }
}

/// Where a kind of traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    addr: SocketAddr,
    /// The name to ask for in TLS; without one there is no TLS.
    tls: Option<&'static str>,
}

impl Target {
    /// Speaks TLS there, and asks for a certificate of this host.
    pub fn tls(addr: SocketAddr, host: &'static str) -> Self {
        Self { addr, tls: Some(host) }
    }
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, tls: None }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    tallies: Vec<Tally>,
    failed: AtomicU64,
    told: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Tally {
    traffic: Traffic,
    target: Target,
    done: AtomicU64,
}

impl Load {
    /// Starts `clients` of each kind of traffic, each against its address, and returns when each has been served once.
    ///
    /// # Panics
    /// If a client fails before.
    pub async fn start<T: Into<Target>>(traffic: impl IntoIterator<Item = (Traffic, T)>, clients: usize) -> Self {
        let tallies = traffic
            .into_iter()
            .map(|(traffic, target)| Tally { traffic, target: target.into(), done: AtomicU64::new(0) })
            .collect::<Vec<_>>();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            tallies,
            failed: AtomicU64::new(0),
            told: Mutex::default(),
        });
        let mut load = Self { shared, clients: JoinSet::new() };
        for number in 0..load.shared.tallies.len() {
            for _ in 0..clients {
                load.clients.spawn(run(load.shared.clone(), number));
            }
        }
        load.progress(1).await;
        load
    }

    /// Waits until every kind of traffic has been served `more` times more.
    ///
    /// # Panics
    /// If a client fails meanwhile, or nothing happens for too long.
    pub async fn progress(&self, more: u64) {
        let goals: Vec<u64> = self.shared.tallies.iter().map(|tally| tally.done() + more).collect();
        let reached = async {
            while self.shared.tallies.iter().zip(&goals).any(|(tally, goal)| tally.done() < *goal) {
                self.shared.assert_nothing_failed();
                sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            panic!("the load makes no progress: {}", self.shared.report());
        }
    }

    /// Stops the clients, each after what it is doing, and says what they did.
    ///
    /// # Panics
    /// If anything failed.
    pub async fn end(mut self) -> String {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("clients tell what fails and go on");
        }
        self.shared.assert_nothing_failed();
        self.shared.report()
    }

    /// Requests, messages and datagrams so far.
    pub fn done(&self) -> u64 {
        self.shared.tallies.iter().map(Tally::done).sum()
    }
}

impl Tally {
    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn report(&self) -> String {
        let mut report = String::new();
        for tally in &self.tallies {
            write!(report, "{}: {}; ", tally.traffic.name(), tally.done()).expect("text can be written");
        }
        report + &format!("failed: {}", self.failed.load(Ordering::Relaxed))
    }

    fn assert_nothing_failed(&self) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(told.is_empty(), "{}:\n{}", self.report(), told.join("\n"));
    }
}

/// One client, as the functions that play it see it.
struct Worker {
    shared: Arc<Shared>,
    number: usize,
}

impl Worker {
    fn addr(&self) -> SocketAddr {
        self.shared.tallies[self.number].target.addr
    }

    fn goes_on(&self) -> bool {
        !self.shared.stop.load(Ordering::Relaxed)
    }

    /// Something was served.
    fn done(&self) {
        self.shared.tallies[self.number].done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Why a client was not served, for people.
type Failure = String;

async fn run(shared: Arc<Shared>, number: usize) {
    let worker = Worker { shared, number };
    let traffic = worker.shared.tallies[number].traffic.clone();
    while worker.goes_on() {
        let result = match traffic {
            Traffic::Http1New { host } => one_request(&worker, host).await,
            Traffic::Http1KeepAlive { host } => keep_alive(&worker, host, usize::MAX).await,
            Traffic::Http2 { host } => http2::requests(&worker, host).await,
            Traffic::GrpcStream { host } => http2::streams(&worker, host).await,
            Traffic::WebSocket { host } => tunnel::web_socket(&worker, host).await,
            Traffic::Connection => keep_alive(&worker, "pod", REQUESTS_A_CONNECTION).await,
            Traffic::Flow { same_pod } => flow(&worker, same_pod).await,
            Traffic::Ready => ready(&worker).await,
            Traffic::Dns { name } => dns(&worker, name).await,
        };
        if let Err(failure) = result {
            worker.shared.failed.fetch_add(1, Ordering::Relaxed);
            let mut told = worker.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() < MAX_TOLD {
                told.push(format!("{} at {}: {failure}", traffic.name(), worker.addr()));
            }
        }
        sleep(CONNECT_PAUSE).await;
    }
}

async fn one_request(worker: &Worker, host: &str) -> Result<(), Failure> {
    let mut client = connect(worker, HTTP1).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let response = client.ask(&request).await.map_err(|error| format!("no answer: {error}"))?;
    check(&response)?;
    worker.done();
    Ok(())
}

async fn ready(worker: &Worker) -> Result<(), Failure> {
    let mut client = connect(worker, HTTP1).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", worker.addr());
    let response = client.ask(&request).await.map_err(|error| format!("no answer: {error}"))?;
    if response.status != 200 {
        return Err(format!("answered {response:?}"));
    }
    worker.done();
    Ok(())
}

/// As many requests as the server allows on one connection, at most `limit`.
async fn keep_alive(worker: &Worker, host: &str, limit: usize) -> Result<(), Failure> {
    let mut client = connect(worker, HTTP1).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut count = 0;
    while worker.goes_on() && count < limit {
        count += 1;
        let response = client.ask(&request).await.map_err(|error| format!("no answer to request {count}: {error}"))?;
        check(&response)?;
        worker.done();
        if response.header("connection").is_some_and(|options| options.contains("close")) {
            return Ok(());
        }
        sleep(MESSAGE_PAUSE).await;
    }
    Ok(())
}

/// A connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(worker: &Worker, alpn: &str) -> Result<Client<Box<dyn Stream>>, Failure> {
    let client = Client::try_connect(worker.addr()).await.map_err(|error| format!("cannot connect: {error}"))?;
    let Some(host) = worker.shared.tallies[worker.number].target.tls else {
        return Ok(Client::new(Box::new(client.stream)));
    };
    let stream = within(PATIENCE, tls::handshake(client.stream, host, alpn)).await?;
    Ok(Client::new(Box::new(stream.map_err(|error| format!("no TLS: {error}"))?)))
}

fn check(response: &Response) -> Result<(), Failure> {
    if response.status == 200 && response.pod().is_some() { Ok(()) } else { Err(format!("answered {response:?}")) }
}

/// One question and its answer at a time, so that a datagram which is lost is a failure and nothing else.
async fn flow(worker: &Worker, same_pod: bool) -> Result<(), Failure> {
    let socket = client_socket(worker.addr()).await?;
    let mut first = None;
    while worker.goes_on() {
        let answer = question(&socket, b"who?").await?;
        let first: &mut Vec<u8> = first.get_or_insert_with(|| answer.clone());
        if same_pod && *first != answer {
            let [first, answer] = [first, &answer].map(|text| String::from_utf8_lossy(text));
            return Err(format!("the flow moved from {first:?} to {answer:?}"));
        }
        worker.done();
        sleep(MESSAGE_PAUSE).await;
    }
    Ok(())
}

async fn dns(worker: &Worker, name: &str) -> Result<(), Failure> {
    let socket = client_socket(worker.addr()).await?;
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).expect("a label"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    while worker.goes_on() {
        let answer = question(&socket, &query).await?;
        if answer.get(3).is_none_or(|flags| flags & 0xf != 0) {
            return Err(format!("{name} is answered {answer:?}"));
        }
        worker.done();
        sleep(MESSAGE_PAUSE).await;
    }
    Ok(())
}

async fn client_socket(addr: SocketAddr) -> Result<UdpSocket, Failure> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
    socket.connect(addr).await.map_err(|error| error.to_string())?;
    Ok(socket)
}

async fn question(socket: &UdpSocket, question: &[u8]) -> Result<Vec<u8>, Failure> {
    socket.send(question).await.map_err(|error| format!("a datagram could not be sent: {error}"))?;
    let mut answer = vec![0; 2_048];
    let length = within(Duration::from_secs(5), socket.recv(&mut answer))
        .await?
        .map_err(|error| format!("a datagram was refused: {error}"))?;
    answer.truncate(length);
    Ok(answer)
}

async fn within<T>(time: Duration, what: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(time, what).await.map_err(|_| format!("nothing came within {time:?}"))
}
