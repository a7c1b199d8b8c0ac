//! Continuous load: clients of every protocol that never pause for long, and count what failed. Nothing may.

mod http2;
mod repeat;
mod tunnel;

use std::{
    fmt::Write as _,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UdpSocket,
    runtime::Handle,
    task::JoinSet,
    time::sleep,
};

use crate::{
    Client, PATIENCE, Response,
    http2::Failure,
    tls::{HTTP1, HTTP2, Sessions},
};

/// Between two connections of one client: closed ones wait a minute in TIME_WAIT, and there are not so many ports.
const CONNECT_PAUSE: Duration = Duration::from_millis(5);

/// Between two messages on something that stays open, so that the clients leave some of the machine to whom they test.
const MESSAGE_PAUSE: Duration = Duration::from_millis(2);

/// Requests on one connection that its client then ends: such connections live for well under a second, so that a drain can
/// wait for them.
const REQUESTS_A_CONNECTION: usize = 30;

/// Messages on one stream or tunnel, for the same reason.
const MESSAGES_A_STREAM: usize = 60;

/// What a POST brings.
const CONTENT: &str = "name=tidegate&what=some%20content%20that%20is%20read%20to%20its%20end";

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
    /// The same with POST and some content, which nobody but the client may repeat.
    Http1Post {
        /// The `Host` of the requests.
        host: &'static str,
        /// Whether the connection is kept; else there is a new one for each request, with `Connection: close`.
        kept: bool,
    },
    /// Requests of a client that repeats, on a connection that is kept: one that is lost before its answer has come is sent once more, on
    /// a new connection; and where a connection is refused another is tried. [`Load::losses`] has what came to pass.
    Http1Repeating {
        /// The `Host` of the requests.
        host: &'static str,
        /// Whether they are POST.
        post: bool,
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
        /// Whether the first stream goes on to the end of the load.
        lasting: bool,
    },
    /// A WebSocket, whose messages are echoed until the client closes it; then the next.
    WebSocket {
        /// The `Host` of the request.
        host: &'static str,
        /// Whether the first one goes on to the end of the load.
        lasting: bool,
    },
    /// The same on a stream of an HTTP/2 connection (RFC 8441).
    Http2WebSocket {
        /// The `:authority` of the request.
        host: &'static str,
        /// Whether the first one goes on to the end of the load.
        lasting: bool,
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
            Self::Http1Post { kept: true, .. } => "POST, keep-alive",
            Self::Http1Post { kept: false, .. } => "POST, new connections",
            Self::Http1Repeating { post: false, .. } => "GET, repeated if lost",
            Self::Http1Repeating { post: true, .. } => "POST, repeated if lost",
            Self::Http2 { .. } => "HTTP/2",
            Self::GrpcStream { .. } => "gRPC streams",
            Self::WebSocket { .. } => "WebSocket",
            Self::Http2WebSocket { .. } => "WebSocket over HTTP/2",
            Self::Connection => "TCP connections",
            Self::Flow { .. } => "UDP flows",
            Self::Ready => "readiness probes",
            Self::Dns { .. } => "DNS",
        }
    }

    /// Whether a client has one connection, unless the server ends it.
    fn stays(&self) -> bool {
        match self {
            Self::Http1KeepAlive { .. } | Self::Http2 { .. } | Self::Http1Post { kept: true, .. } => true,
            Self::GrpcStream { lasting, .. } | Self::WebSocket { lasting, .. } => *lasting,
            Self::Http2WebSocket { lasting, .. } => *lasting,
            Self::Http1New { .. } | Self::Http1Post { kept: false, .. } | Self::Http1Repeating { .. } => false,
            Self::Connection | Self::Flow { .. } | Self::Ready | Self::Dns { .. } => false,
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
    /// Of each kind.
    clients_of_a_kind: usize,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    tallies: Vec<Tally>,
    failed: AtomicU64,
    told: Mutex<Vec<String>>,
    losses: Mutex<Losses>,
}

/// What clients that repeat have lost.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// When a connection was lost while a request was under way on it.
    pub lost: Vec<Instant>,
    /// When a connection was refused.
    pub refused: Vec<Instant>,
    /// The longest that it took from a request to its answer.
    pub longest: Duration,
}

#[derive(Debug)]
struct Tally {
    traffic: Traffic,
    target: Target,
    done: AtomicU64,
    connected: AtomicU64,
}

impl Load {
    /// Starts `clients` of each kind of traffic, each against its address, and returns when each has been served once.
    ///
    /// # Panics
    /// If a client fails before.
    pub async fn start<T: Into<Target>>(traffic: impl IntoIterator<Item = (Traffic, T)>, clients: usize) -> Self {
        Self::start_on(&Handle::current(), traffic, clients).await
    }

    /// The same with clients that run elsewhere, such as in a network of their own.
    ///
    /// # Panics
    /// If a client fails before.
    pub async fn start_on<T: Into<Target>>(
        runtime: &Handle,
        traffic: impl IntoIterator<Item = (Traffic, T)>,
        clients: usize,
    ) -> Self {
        let tallies = traffic
            .into_iter()
            .map(|(traffic, target)| Tally {
                traffic,
                target: target.into(),
                done: AtomicU64::new(0),
                connected: AtomicU64::new(0),
            })
            .collect::<Vec<_>>();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            tallies,
            failed: AtomicU64::new(0),
            told: Mutex::default(),
            losses: Mutex::default(),
        });
        let mut load = Self { shared, clients: JoinSet::new(), clients_of_a_kind: clients };
        for number in 0..load.shared.tallies.len() {
            for _ in 0..clients {
                load.clients.spawn_on(run(load.shared.clone(), number), runtime);
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

    /// No client that keeps its connection was made to open another one, not even by a polite goodbye.
    ///
    /// # Panics
    /// If one was.
    pub fn assert_nobody_reconnected(&self) {
        for tally in self.shared.tallies.iter().filter(|tally| tally.traffic.stays()) {
            let connected = tally.connected.load(Ordering::Relaxed);
            assert_eq!(connected, self.clients_of_a_kind as u64, "{:?} {:?}", tally.traffic, tally.target);
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

    /// What clients that repeat have lost so far.
    pub fn losses(&self) -> Losses {
        self.shared.losses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nothing has failed so far.
    ///
    /// # Panics
    /// If something has.
    pub fn assert_nothing_failed(&self) {
        self.shared.assert_nothing_failed();
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
            let tls = if tally.target.tls.is_some() { " over TLS" } else { "" };
            write!(report, "{}{tls}: {}; ", tally.traffic.name(), tally.done()).expect("text can be written");
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
    http1: Sessions,
    http2: Sessions,
}

impl Worker {
    fn addr(&self) -> SocketAddr {
        self.shared.tallies[self.number].target.addr
    }

    fn goes_on(&self) -> bool {
        !self.shared.stop.load(Ordering::Relaxed)
    }

    /// The numbers of the messages on one stream, until it is time to end it.
    fn messages(&self, lasting: bool) -> impl Iterator<Item = usize> {
        (0..).take_while(move |n| self.goes_on() && (lasting || *n < MESSAGES_A_STREAM))
    }

    /// Something was served.
    fn done(&self) {
        self.shared.tallies[self.number].done.fetch_add(1, Ordering::Relaxed);
    }
}

async fn run(shared: Arc<Shared>, number: usize) {
    let worker = Worker { shared, number, http1: Sessions::new(HTTP1), http2: Sessions::new(HTTP2) };
    let traffic = worker.shared.tallies[number].traffic.clone();
    while worker.goes_on() {
        let result = match traffic {
            Traffic::Http1New { host } => one_request(&worker, host, Method::Get).await,
            Traffic::Http1KeepAlive { host } => keep_alive(&worker, host, Method::Get, usize::MAX).await,
            Traffic::Http1Post { host, kept: true } => keep_alive(&worker, host, Method::Post, usize::MAX).await,
            Traffic::Http1Post { host, kept: false } => one_request(&worker, host, Method::Post).await,
            Traffic::Http1Repeating { host, post } => repeat::requests(&worker, host, post.into()).await,
            Traffic::Http2 { host } => http2::requests(&worker, host).await,
            Traffic::GrpcStream { host, lasting } => http2::streams(&worker, host, lasting).await,
            Traffic::WebSocket { host, lasting } => tunnel::web_socket(&worker, host, lasting).await,
            Traffic::Http2WebSocket { host, lasting } => http2::web_socket(&worker, host, lasting).await,
            Traffic::Connection => keep_alive(&worker, "pod", Method::Get, REQUESTS_A_CONNECTION).await,
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

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Post,
}

impl From<bool> for Method {
    fn from(post: bool) -> Self {
        if post { Self::Post } else { Self::Get }
    }
}

impl Method {
    /// A request; `fields` are more lines of its head.
    fn request(self, host: &str, fields: &str) -> String {
        match self {
            Self::Get => format!("GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"),
            Self::Post => {
                let length = CONTENT.len();
                format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{fields}\r\n{CONTENT}")
            }
        }
    }
}

async fn one_request(worker: &Worker, host: &str, method: Method) -> Result<(), Failure> {
    let mut client = connect(worker, &worker.http1).await?;
    let request = method.request(host, "Connection: close\r\n");
    let response = client.ask(&request).await.map_err(|error| format!("no answer: {error}"))?;
    check(&response)?;
    worker.done();
    Ok(())
}

async fn ready(worker: &Worker) -> Result<(), Failure> {
    let mut client = connect(worker, &worker.http1).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", worker.addr());
    let response = client.ask(&request).await.map_err(|error| format!("no answer: {error}"))?;
    if response.status != 200 {
        return Err(format!("answered {response:?}"));
    }
    worker.done();
    Ok(())
}

/// As many requests as the server allows on one connection, at most `limit`.
async fn keep_alive(worker: &Worker, host: &str, method: Method, limit: usize) -> Result<(), Failure> {
    let mut client = connect(worker, &worker.http1).await?;
    let request = method.request(host, "");
    let mut count = 0;
    while worker.goes_on() && count < limit {
        count += 1;
        let response = client.ask(&request).await.map_err(|error| format!("no answer to request {count}: {error}"))?;
        check(&response)?;
        worker.done();
        if says_close(&response) {
            return Ok(());
        }
        sleep(MESSAGE_PAUSE).await;
    }
    Ok(())
}

/// A connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(worker: &Worker, sessions: &Sessions) -> Result<Client<Box<dyn Stream>>, Failure> {
    let client = Client::try_connect(worker.addr()).await.map_err(|error| format!("cannot connect: {error}"))?;
    let tally = &worker.shared.tallies[worker.number];
    tally.connected.fetch_add(1, Ordering::Relaxed);
    let Some(host) = tally.target.tls else {
        return Ok(Client::new(Box::new(client.stream)));
    };
    let stream = within(PATIENCE, sessions.handshake(client.stream, host)).await?;
    Ok(Client::new(Box::new(stream.map_err(|error| format!("no TLS: {error}"))?)))
}

/// Whether it was the last one on its connection.
fn says_close(response: &Response) -> bool {
    response.header("connection").is_some_and(|options| options.contains("close"))
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
