//! Thousands of idle and slow clients, and pods that do everything wrong: who behaves well is served as if nothing were.

use std::{
    cell::RefCell,
    fs, io,
    net::SocketAddr,
    path::Path,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit};
use tidegate::{
    compile::{allocate::Allocations, compile, objects::Objects, settings::Settings},
    http::{HttpLimits, HttpStats, HttpWorker},
};
use tidegate_tests::{
    Client, Net, PATIENCE, h2, http_pod,
    load::{Load, Traffic},
    pod_manifest,
    process::Process,
    service_manifest,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinSet, LocalSet, spawn_local},
    time::{sleep, timeout},
};

/// An Ingress whose pods have this long for an answer.
fn ingress(name: &str, protocol: &str, patience: Duration) -> String {
    let seconds = patience.as_secs();
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, annotations: {{\
         nginx.ingress.kubernetes.io/backend-protocol: {protocol}, \
         nginx.ingress.kubernetes.io/proxy-connect-timeout: \"{seconds}\", \
         nginx.ingress.kubernetes.io/proxy-read-timeout: \"{seconds}\", \
         nginx.ingress.kubernetes.io/proxy-send-timeout: \"{seconds}\", \
         nginx.ingress.kubernetes.io/proxy-body-size: \"0\"}}}}\n\
         spec: {{rules: [{{host: {name}.com, http: {{paths: [{{path: /, pathType: Prefix, \
         backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}]}}}}]}}\n"
    )
}

// ---- clients ----

const IDLE: usize = 10_000;
const SLOW: usize = 1_000;

/// File descriptors for everything in this process that is not a client: pods, the load, files.
const SPARE_FILES: u64 = 2_500;

/// What all clients, idle and slow, may cost Tidegate at most on average, in a build without optimisation: 22 kB were measured
/// (nearly all of it for the slow ones), and 30 % are left for a machine with other things to do.
const MAX_BYTES_A_CLIENT: u64 = 28 << 10;

/// What an idle client may cost Tidegate at most: the goal of an idle connection over plain HTTP/1, whether or not there was a
/// request on it. nginx takes about 0.5 KiB, Envoy 16.
const MAX_BYTES_AN_IDLE_CLIENT: u64 = 2 << 10;

/// How soon Tidegate must have given back what it needed to serve clients that are idle now: the allocator keeps it for 10 s, and
/// on a busy machine the thread that gives it back comes late.
const GIVEN_BACK: Duration = Duration::from_secs(90);

/// How long a well-behaved client waits at the worst while the others are there: much more than it takes (milliseconds, which
/// the test prints), because other tests share the machine, and much less than any timeout that would free a place for it.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Tidegate runs in a process of its own: both ends of 11,000 connections do not fit in one under the usual limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_and_a_thousand_slow_clients_leave_the_others_intact() {
    let net = Net::next();
    let _pod = http_pod("web", net.ip(2)).await;
    let directory = std::env::temp_dir().join(format!("tidegate-robust-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a temporary directory");
    let manifests =
        pod_manifest("web", "web", net.ip(2)) + &service_manifest("web", "web", "") + &ingress("web", "HTTP", MAX_WAIT);
    fs::write(directory.join("main.yaml"), manifests).expect("it is written");
    let http = SocketAddr::new(net.ip(1), 8080);
    let tidegate = start(net, &directory, http);
    let before = resident_bytes(&tidegate);

    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(SPARE_FILES);
    let (idle, slow) = match usize::try_from(limit).unwrap_or(usize::MAX) {
        enough if enough >= IDLE + SLOW => (IDLE, SLOW),
        few => (few / 11 * 10, few / 11),
    };
    println!("{idle} idle clients, {slow} slow ones (open files left for them: {limit})");
    // What is made once, by the first clients, is not the others' cost.
    drop(connect_idle(http, idle / 50, true).await);
    let own = own_bytes(&tidegate);
    let mut idlers = connect_idle(http, idle / 2, true).await;
    costs_little(&tidegate, own, idlers.len(), "that has had an answer").await;
    let own = own_bytes(&tidegate);
    let silent = connect_idle(http, idle / 2, false).await;
    costs_little(&tidegate, own, silent.len(), "that has said nothing").await;
    idlers.extend(silent);
    let mut slow_ones = JoinSet::new();
    for n in 0..slow {
        slow_ones.spawn(dawdle(http, n));
    }
    let load = Load::start(
        [(Traffic::Http1New { host: "web.com" }, http), (Traffic::Http1KeepAlive { host: "web.com" }, http)],
        4,
    )
    .await;
    let begun = Instant::now();
    let mut worst = Duration::ZERO;
    // Long enough for the slow ones to be in the middle of what they do.
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        assert_eq!(Client::connect(http).await.get("web.com", "/").await.status, 200);
        worst = worst.max(asked.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    let each = resident_bytes(&tidegate).saturating_sub(before) / (idle + slow) as u64;
    println!("others were served within {worst:?} at the worst; each client took {each} bytes; {}", load.end().await);
    assert!(worst < MAX_WAIT, "{worst:?}");
    assert!(each < MAX_BYTES_A_CLIENT, "{each} bytes a client");

    // None of the idle ones was sacrificed, and they can go on.
    for client in idlers.iter_mut().step_by(97) {
        assert_eq!(client.get("web.com", "/").await.status, 200);
    }
    let ended = slow_ones.try_join_next();
    assert!(ended.is_none(), "a slow client was turned away: {ended:?}");
    drop((slow_ones, idlers));
    let begun = Instant::now();
    while Client::connect(http).await.get("web.com", "/").await.status != 200 {
        assert!(begun.elapsed() < PATIENCE);
    }
    fs::remove_dir_all(&directory).expect("it is there");
    assert!(!tidegate.log().contains("panicked"), "{}", tidegate.log());
}

pub(crate) fn start(net: Net, directory: &Path, http: SocketAddr) -> Process {
    let range = |last| format!("{}/26", net.ip(last));
    let args = [
        "run",
        "--manifests",
        &directory.display().to_string(),
        "--http",
        &http.to_string(),
        "--https",
        &SocketAddr::new(net.ip(1), 8443).to_string(),
        "--admin",
        &SocketAddr::new(net.ip(1), 9901).to_string(),
        "--node-address",
        &net.ip(1).to_string(),
        "--service-cidr",
        &range(64),
        "--load-balancer-pool",
        &range(128),
        "--workers",
        "2",
    ];
    Process::start(directory, &args.map(str::to_owned))
}

#[cfg(target_os = "linux")]
pub(crate) fn resident_bytes(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn resident_bytes(_: &Process) -> u64 {
    0
}

/// Memory that a process has to itself. (Its part of what it shares, as of the program's code, changes with the number of others.)
#[cfg(target_os = "linux")]
fn own_bytes(process: &Process) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.id())).expect("it runs");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[cfg(not(target_os = "linux"))]
fn own_bytes(_: &Process) -> u64 {
    0
}

/// Waits until each of so many idle clients takes no more than it may. (The allocator gives back only after a while what was
/// needed to serve them.)
async fn costs_little(process: &Process, before: u64, clients: usize, what: &str) {
    let begun = Instant::now();
    loop {
        let each = own_bytes(process).saturating_sub(before) / clients as u64;
        if each <= MAX_BYTES_AN_IDLE_CLIENT {
            println!("each idle client {what} takes {each} bytes, after {:?}", begun.elapsed());
            return;
        }
        assert!(begun.elapsed() < GIVEN_BACK, "each idle client {what} takes {each} bytes");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Clients that are connected and do nothing: after a request, as a browser, or from the beginning.
async fn connect_idle(http: SocketAddr, count: usize, asks: bool) -> Vec<Client> {
    let mut connecting = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..count {
        connecting.spawn(async move {
            let mut client = Client::connect(http).await;
            if asks {
                assert_eq!(client.get("web.com", "/").await.status, 200);
            }
            client
        });
        while connecting.len() > 64 {
            clients.extend(connecting.join_next().await.map(|client| client.expect("it is connected")));
        }
    }
    while let Some(client) = connecting.join_next().await {
        clients.push(client.expect("it is connected"));
    }
    clients
}

/// A client that takes for ever: over its request head, over its content, or over reading its answer. Ends only when it is
/// turned away.
async fn dawdle(http: SocketAddr, n: usize) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(250);
    let mut stream = Client::try_connect(http).await?.stream;
    match n % 3 {
        0 => {
            let head = format!("GET / HTTP/1.1\r\nHost: web.com\r\nX-Slow: {}\r\n\r\n", "slow".repeat(1_000));
            for byte in head.bytes() {
                stream.write_all(&[byte]).await?;
                sleep(PAUSE).await;
            }
        }
        1 => {
            stream.write_all(b"POST /echo HTTP/1.1\r\nHost: web.com\r\nContent-Length: 10000\r\n\r\n").await?;
            for _ in 0..10_000 {
                stream.write_all(b"x").await?;
                sleep(PAUSE).await;
            }
        }
        _ => {
            stream.write_all(b"GET /bytes/100000000 HTTP/1.1\r\nHost: web.com\r\n\r\n").await?;
            loop {
                if stream.read(&mut [0; 16]).await? == 0 {
                    break;
                }
                sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

// ---- pods ----

/// What a pod does with a request, once its head has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pod {
    /// Nobody listens there.
    Absent,
    /// It says nothing.
    Hangs,
    /// It resets the connection.
    Resets,
    /// It closes the connection.
    Closes,
    /// It sends this and closes.
    Sends(&'static str),
    /// It sends this and says no more.
    SendsAndHangs(&'static str),
    /// A head that is too large.
    LargeHead,
    /// It reads nothing, not even the request.
    NeverReads,
    /// It sends this before it has read anything, and closes.
    Blurts(&'static str),
}

/// What the client sees.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// An answer with this status, and nothing of the pod.
    Status(u16),
    /// Nothing, or the pod's answer up to there, and then an end that cannot be taken for a proper one.
    BrokenOff,
}

/// SETTINGS, then `:status: 200` and `abc` on stream 1, which has no end.
const HALF_A_STREAM: &str = "\0\0\0\x04\0\0\0\0\0\
                             \0\0\x0d\x01\x04\0\0\0\x01\0\x07:status\x03200\
                             \0\0\x03\0\0\0\0\0\x01abc";

/// Every way, with the protocol that the pod should speak, what the client sees, and a word of what the log says.
const HOSTILE: [(&str, &str, Pod, Seen, &str); 26] = [
    ("absent", "HTTP", Pod::Absent, Seen::Status(502), "could not be reached"),
    ("hangs", "HTTP", Pod::Hangs, Seen::Status(504), "did not answer in time"),
    ("resets", "HTTP", Pod::Resets, Seen::Status(502), "closed the connection"),
    ("closes", "HTTP", Pod::Closes, Seen::Status(502), "closed the connection"),
    ("garbage", "HTTP", Pod::Sends("\u{1}\u{2}garbage\r\n\r\n"), Seen::Status(502), "not HTTP"),
    ("old-http", "HTTP", Pod::Sends("HTTP/0.9 200 OK\r\n\r\nx"), Seen::Status(502), "not HTTP"),
    (
        "bad-length",
        "HTTP",
        Pod::Sends("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nx"),
        Seen::Status(502),
        "bad Content-Length",
    ),
    ("half-a-head", "HTTP", Pod::Sends("HTTP/1.1 200 OK\r\nContent-Le"), Seen::Status(502), "closed the connection"),
    (
        "slow-head",
        "HTTP",
        Pod::SendsAndHangs("HTTP/1.1 200 OK\r\nContent-Le"),
        Seen::Status(504),
        "did not answer in time",
    ),
    ("large-head", "HTTP", Pod::LargeHead, Seen::Status(502), "too large a head"),
    ("never-reads", "HTTP", Pod::NeverReads, Seen::Status(504), "did not answer in time"),
    (
        "half-an-answer",
        "HTTP",
        Pod::Sends("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"),
        Seen::BrokenOff,
        "broke off its answer",
    ),
    (
        "head-only",
        "HTTP",
        Pod::Sends("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Seen::BrokenOff,
        "broke off its answer",
    ),
    (
        "falls-silent",
        "HTTP",
        Pod::SendsAndHangs("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"),
        Seen::BrokenOff,
        "fell silent",
    ),
    ("grpc-absent", "GRPC", Pod::Absent, Seen::Status(502), "could not be reached"),
    ("grpc-hangs", "GRPC", Pod::Hangs, Seen::Status(504), "did not answer in time"),
    ("grpc-resets", "GRPC", Pod::Resets, Seen::Status(502), "closed the connection"),
    ("grpc-closes", "GRPC", Pod::Closes, Seen::Status(502), "closed the connection"),
    (
        "grpc-speaks-http1",
        "GRPC",
        Pod::Sends("HTTP/1.1 400 Bad Request\r\n\r\n"),
        Seen::Status(502),
        "closed the connection",
    ),
    // RST_STREAM with INTERNAL_ERROR.
    (
        "grpc-resets-the-stream",
        "GRPC",
        Pod::SendsAndHangs("\0\0\0\x04\0\0\0\0\0\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02"),
        Seen::Status(502),
        "internal error",
    ),
    // GOAWAY without a stream.
    (
        "grpc-says-goodbye",
        "GRPC",
        Pod::Sends("\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        Seen::Status(502),
        "closed the connection",
    ),
    ("grpc-half-an-answer", "GRPC", Pod::Sends(HALF_A_STREAM), Seen::BrokenOff, "broke off its answer"),
    ("grpc-falls-silent", "GRPC", Pod::SendsAndHangs(HALF_A_STREAM), Seen::BrokenOff, "fell silent"),
    ("tls-absent", "HTTPS", Pod::Absent, Seen::Status(502), "could not be reached"),
    (
        "tls-speaks-plain",
        "HTTPS",
        Pod::Blurts("HTTP/1.1 400 Bad Request\r\n\r\n"),
        Seen::Status(502),
        "could not be reached",
    ),
    ("tls-hangs", "HTTPS", Pod::NeverReads, Seen::Status(502), "could not be reached"),
];

/// Each gets the status that the table in `gateway/src/http/failure.rs` gives it, and a line in the log that names the pod;
/// meanwhile the good pod is served.
#[test]
fn pods_that_do_everything_wrong_are_named_and_harm_nobody_else() {
    let log = Log::default();
    let sink = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let net = Net::next();
        let good = http_pod("good", net.ip(2)).await;
        let mut manifests = manifests("good", "HTTP", net.ip(2));
        let mut addrs = Vec::new();
        for (n, (name, protocol, pod, _, _)) in HOSTILE.iter().enumerate() {
            let ip = net.ip(3 + u8::try_from(n).expect("few pods"));
            manifests += &self::manifests(name, protocol, ip);
            start_hostile(SocketAddr::new(ip, 8080), protocol, *pod).await;
            addrs.push(SocketAddr::new(ip, 8080));
        }
        let http = serve(net, &manifests);
        for ((name, _, pod, expected, words), addr) in HOSTILE.iter().zip(addrs) {
            let seen = timeout(PATIENCE, ask(http, name, *pod))
                .await
                .unwrap_or_else(|_| panic!("{name} does not come to an end; log:\n{}", log.text()));
            let seen = seen.unwrap_or_else(|error| panic!("{name}: {error}; log:\n{}", log.text()));
            assert_eq!(seen, *expected, "{name}; log:\n{}", log.text());
            let line = format!("pod=\"{name}\" addr={addr}");
            let told = log.text().lines().any(|l| l.contains(&line) && l.contains(words) && l.contains("WARN"));
            assert!(told, "no line with {line} and {words:?} in\n{}", log.text());
            assert_eq!(Client::connect(http).await.get("good.com", "/").await.pod().as_deref(), Some("good"));
        }
        assert!(good.requests() >= HOSTILE.len() as u64);
        assert!(!log.text().contains("pod=\"good\""), "{}", log.text());
    });
}

fn manifests(name: &str, protocol: &str, ip: std::net::IpAddr) -> String {
    pod_manifest(name, name, ip) + &service_manifest(name, name, "") + &ingress(name, protocol, Duration::from_secs(1))
}

/// One worker on this thread, less patient than usual, and not short of words.
fn serve(net: Net, manifests: &str) -> SocketAddr {
    let parsed = tidegate_crd::yaml::parse(Path::new("robust.yaml"), manifests);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    let mut objects = Objects::default();
    for document in parsed.documents {
        objects.apply(document);
    }
    let settings: Settings = net.settings();
    let snapshot = compile(&objects, &settings, &[], &Allocations::default(), None).snapshot;
    let limits = HttpLimits { warnings_per_second: 1_000, ..HttpLimits::default() };
    let worker = HttpWorker::new(limits, snapshot, Arc::new(HttpStats::default()));
    let listener = std::net::TcpListener::bind((net.ip(1), 0)).expect("a port");
    let addr = listener.local_addr().expect("bound");
    worker.open(listener).expect("the worker listens");
    addr
}

/// One request, and what becomes of it.
async fn ask(http: SocketAddr, name: &str, pod: Pod) -> io::Result<Seen> {
    let mut stream = TcpStream::connect(http).await?;
    // What a pod does not read must be more than fits on the way to it.
    let content = if pod == Pod::NeverReads { 32 << 20 } else { 0 };
    let method = if content > 0 { "POST" } else { "GET" };
    let head =
        format!("{method} / HTTP/1.1\r\nHost: {name}.com\r\nConnection: close\r\nContent-Length: {content}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let (mut read, mut write) = stream.into_split();
    let upload = spawn_local(async move {
        // It may be told that its content is not wanted any more.
        drop(write.write_all(&vec![b'x'; content]).await);
        // Dropped, it would half-close the connection, as a client does that leaves.
        write
    });
    let mut answer = Vec::new();
    // To the end of the answer, or of the connection.
    while !is_whole(&String::from_utf8_lossy(&answer)) {
        if !matches!(read.read_buf(&mut answer).await, Ok(1..)) {
            return Ok(Seen::BrokenOff);
        }
    }
    upload.abort();
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    status.map(Seen::Status).ok_or_else(|| io::Error::other(text.into_owned()))
}

/// Whether these bytes are an answer to its end, as a client finds it.
fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.to_ascii_lowercase().split_once("content-length: ").and_then(|(_, rest)| {
        let length = rest.split("\r\n").next()?;
        length.parse::<usize>().ok()
    });
    match length {
        Some(length) => body.len() == length,
        None => body.ends_with("0\r\n\r\n"),
    }
}

async fn start_hostile(addr: SocketAddr, protocol: &'static str, pod: Pod) {
    if pod == Pod::Absent {
        return;
    }
    let listener = TcpListener::bind(addr).await.expect("the address is free");
    // Connections that say no more stay open.
    let silent = Rc::new(RefCell::new(Vec::new()));
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let silent = silent.clone();
            spawn_local(async move {
                if let Ok(Some(stream)) = misbehave(stream, protocol, pod).await {
                    silent.borrow_mut().push(stream);
                }
            });
        }
    });
}

/// Does its worst; a stream that comes back is to be kept open.
async fn misbehave(mut stream: TcpStream, protocol: &str, pod: Pod) -> io::Result<Option<TcpStream>> {
    match pod {
        Pod::NeverReads => return Ok(Some(stream)),
        Pod::Blurts(bytes) => {
            stream.write_all(bytes.as_bytes()).await?;
            return Ok(None);
        }
        _ => {}
    }
    if protocol == "GRPC" {
        h2::read_request(&mut stream, 1).await?;
    } else {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
    }
    match pod {
        Pod::Absent | Pod::NeverReads | Pod::Blurts(_) | Pod::Hangs => return Ok(Some(stream)),
        Pod::Resets => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        Pod::Closes => {}
        Pod::Sends(bytes) => {
            stream.write_all(bytes.as_bytes()).await?;
            // What it does not read any more would make a reset of the end.
            stream.shutdown().await?;
            return Ok(Some(stream));
        }
        Pod::SendsAndHangs(bytes) => {
            stream.write_all(bytes.as_bytes()).await?;
            return Ok(Some(stream));
        }
        Pod::LargeHead => {
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(256 << 10)).as_bytes())
                .await?;
        }
    }
    Ok(None)
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
