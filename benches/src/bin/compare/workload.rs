//! The workloads: what each proxy is asked, the same for all.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::ValueEnum;

use crate::{
    backend::{self, order},
    h2, http1,
    load::{Expected, Load, Opening, Outcome, Plan},
    peers::Plane,
    programs::Kind,
    results::Sample,
    routes,
    tls::Handshakes,
    world::{Proxy, World},
};

/// Bytes of an upload.
pub(crate) const UPLOAD: usize = 1_000_000;

/// Bytes of a message over TCP or WebSocket.
const MESSAGE: usize = 64;

/// One write of the bulk transfer.
const CHUNK: usize = 256 << 10;

/// Requests per second are never fewer than a sample needs to have percentiles.
const LEAST_RATE: f64 = 1_000.0;

/// What can be measured, in the order it is measured in.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Suite {
    /// Small answers over HTTP/1.1 connections that stay
    Small,
    /// A new connection for each request
    Close,
    /// Answers of 100 kB
    #[value(name = "100k")]
    Large,
    /// Uploads of 1 MB
    Upload,
    /// Small answers over HTTP/2 and TLS 1.3
    H2,
    /// Full TLS handshakes
    TlsFull,
    /// Resumed TLS handshakes
    TlsResumed,
    /// WebSocket messages to and fro
    Websocket,
    /// Small answers at a fixed rate, half of what nginx can do
    Latency,
    /// One route beside 10,000
    Routes,
    /// TCP: small messages to and fro
    TcpRoundTrips,
    /// TCP: new connections
    TcpConnections,
    /// TCP: one big stream
    TcpBulk,
    /// Memory: idle, for each connection, after a wave of them, for 10,000 routes
    Memory,
    /// A change of the configuration at 10,000 routes
    Change,
    /// What it costs Tidegate that somebody looks at its dashboard
    Watch,
    /// What Tidegate's own test says of its costs
    Cost,
}

/// One row of the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) id: &'static str,
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) plane: Plane,
    pub(crate) load: Shape,
}

/// What the load is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Small { reconnect: bool },
    Large,
    Upload,
    Mix,
    H2,
    Handshakes { resumed: bool },
    WebSocket,
    RoundTrips,
    Connections,
    Bulk,
}

const fn http(id: &'static str, label: &'static str, unit: &'static str, load: Shape) -> Workload {
    Workload { id, label, unit, plane: Plane::One, load }
}

const fn tcp(id: &'static str, label: &'static str, unit: &'static str, load: Shape) -> Workload {
    Workload { id, label, unit, plane: Plane::Tcp, load }
}

/// All rows, in the order of the tables.
pub(crate) const WORKLOADS: [Workload; 13] = [
    http("small", "small answers, HTTP/1.1 keep-alive", "request", Shape::Small { reconnect: false }),
    http("close", "a new connection for each request", "request", Shape::Small { reconnect: true }),
    http("100k", "answers of 100 kB", "request", Shape::Large),
    http("upload", "uploads of 1 MB", "request", Shape::Upload),
    http("h2", "HTTP/2 over TLS 1.3", "request", Shape::H2),
    http("tls-full", "full TLS 1.3 handshake and one request", "handshake", Shape::Handshakes { resumed: false }),
    http("tls-resumed", "resumed TLS 1.3 handshake and one request", "handshake", Shape::Handshakes { resumed: true }),
    http("one-route", "1 route (beside the next row)", "request", Shape::Small { reconnect: false }),
    Workload { id: "routes", label: "10,000 routes", unit: "request", plane: Plane::Many, load: Shape::Mix },
    http("websocket", "WebSocket echo, 64 bytes", "message", Shape::WebSocket),
    tcp("tcp-round-trips", "TCP round trips, 64 bytes", "round trip", Shape::RoundTrips),
    tcp("tcp-connections", "TCP connections", "connection", Shape::Connections),
    tcp("tcp-bulk", "TCP, one big stream", "MB", Shape::Bulk),
];

impl Suite {
    /// The rows that are measured together in this suite; none if it is measured in another way.
    pub(crate) fn workloads(self) -> Vec<Workload> {
        let ids: &[&str] = match self {
            Self::Small => &["small"],
            Self::Close => &["close"],
            Self::Large => &["100k"],
            Self::Upload => &["upload"],
            Self::H2 => &["h2"],
            Self::TlsFull => &["tls-full"],
            Self::TlsResumed => &["tls-resumed"],
            Self::Websocket => &["websocket"],
            Self::Routes => &["one-route", "routes"],
            Self::TcpRoundTrips => &["tcp-round-trips"],
            Self::TcpConnections => &["tcp-connections"],
            Self::TcpBulk => &["tcp-bulk"],
            Self::Latency | Self::Memory | Self::Change | Self::Watch | Self::Cost => &[],
        };
        WORKLOADS.into_iter().filter(|workload| ids.contains(&workload.id)).collect()
    }
}

impl Workload {
    /// Why this build of a proxy has no such row; `None` if it should.
    pub(crate) fn lacks(&self, kind: Kind, world: &World) -> Option<&'static str> {
        let tls = matches!(self.load, Shape::H2 | Shape::Handshakes { .. });
        (tls && kind == Kind::Tidegate && !world.programs.tidegate_https).then_some("this Tidegate has no --https")
    }

    /// One sample.
    pub(crate) fn measure(
        &self,
        proxy: &Proxy,
        world: &World,
        round: usize,
        time: Duration,
        rate: Option<f64>,
    ) -> anyhow::Result<Sample> {
        let handshake = websocket_handshake();
        let (requests, message) = (self.requests(), websocket_frame());
        let mut plan = Plan {
            addr: proxy.setup.addr,
            connections: 96,
            requests: &requests,
            answer: Expected::Http(backend::SMALL),
            opening: Opening::Nothing,
            reconnect: false,
            rate: rate.map(|rate| rate.max(LEAST_RATE)),
            time,
            stop: None,
        };
        match self.load {
            Shape::Small { reconnect } => plan.reconnect = reconnect,
            Shape::Mix => {}
            Shape::Large => (plan.connections, plan.answer) = (64, Expected::Http(backend::LARGE)),
            Shape::Upload => {
                (plan.connections, plan.answer) = (32, Expected::Http(backend::received(UPLOAD).len()));
            }
            Shape::WebSocket => {
                plan.opening = Opening::Handshake(&handshake);
                // The answer has no mask.
                plan.answer = Expected::Bytes(message.len() - 4);
            }
            Shape::RoundTrips => {
                (plan.opening, plan.answer) = (Opening::Order(order::ECHO), Expected::Bytes(MESSAGE));
            }
            Shape::Connections => (plan.reconnect, plan.answer) = (true, Expected::Bytes(1)),
            Shape::H2 => {
                let h2load = world.programs.h2load.as_ref().map_err(|why| anyhow::anyhow!("h2load: {why}"))?;
                return few_failures(sample(proxy, round, || h2::run(&h2load.path, proxy.setup.https, time))?);
            }
            Shape::Handshakes { resumed } => {
                let addr = proxy.setup.https;
                let handshakes = Handshakes::prepare(addr, &world.certificate, resumed, backend::SMALL)?;
                return few_failures(sample(proxy, round, || handshakes.run(time))?);
            }
            Shape::Bulk => return sample(proxy, round, || bulk(proxy.setup.addr, time)),
        }
        if rate.is_some() {
            plan.connections = 64;
        }
        let load = Load::connect(plan)?;
        let sample = sample(proxy, round, || load.run())?;
        // A proxy that cannot keep up with a rate has its latency, from when requests were due, and its failures shown.
        if rate.is_none() { few_failures(sample) } else { Ok(sample) }
    }

    fn requests(&self) -> Vec<Vec<u8>> {
        match self.load {
            Shape::Small { reconnect } => {
                let fields = if reconnect { "Connection: close\r\n" } else { "" };
                vec![http1::request("GET", routes::HOST, "/", fields, &[])]
            }
            Shape::Large => vec![http1::request("GET", routes::HOST, "/100k", "", &[])],
            Shape::Upload => {
                let fields = "Content-Type: application/octet-stream\r\n";
                vec![http1::request("POST", routes::HOST, "/", fields, &vec![b'x'; UPLOAD])]
            }
            Shape::Mix => routes::mix(),
            Shape::WebSocket => vec![websocket_frame()],
            Shape::RoundTrips => vec![vec![b'x'; MESSAGE]],
            Shape::Connections => vec![vec![order::ONCE]],
            Shape::H2 | Shape::Handshakes { .. } | Shape::Bulk => Vec::new(),
        }
    }
}

/// What `work` came to, and the proxy's CPU meanwhile.
fn sample(proxy: &Proxy, round: usize, work: impl FnOnce() -> anyhow::Result<Outcome>) -> anyhow::Result<Sample> {
    let before = proxy.cpu();
    let Outcome { done, failed, first_failure, seconds, latency } = work()?;
    let cpu_seconds = proxy.cpu().saturating_sub(before).as_secs_f64();
    let why = first_failure.clone().unwrap_or_default();
    anyhow::ensure!(done > 0, "nothing was answered: {why}");
    Ok(Sample { round, done, failed, first_failure, seconds, cpu_seconds, latency })
}

/// A few failures are counted and shown; many make the figure one of something else.
fn few_failures(sample: Sample) -> anyhow::Result<Sample> {
    let Sample { done, failed, first_failure, .. } = &sample;
    let why = first_failure.as_deref().unwrap_or_default();
    anyhow::ensure!(*failed <= done / 20, "{failed} of {} failed: {why}", done + failed);
    Ok(sample)
}

/// As much as goes through in one connection; megabytes.
fn bulk(addr: SocketAddr, time: Duration) -> anyhow::Result<Outcome> {
    let mut stream = http1::connect(addr)?;
    stream.write_all(&[order::SINK])?;
    let (begun, chunk) = (Instant::now(), vec![0x5a; CHUNK]);
    let mut sent = 0u64;
    while begun.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total).context("waiting for the number of bytes that arrived")?;
    anyhow::ensure!(u64::from_be_bytes(total) == sent, "{} of {sent} bytes arrived", u64::from_be_bytes(total));
    Ok(Outcome { done: sent / 1_000_000, seconds: begun.elapsed().as_secs_f64(), ..Outcome::default() })
}

pub(crate) fn websocket_handshake() -> Vec<u8> {
    let fields = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n",
        backend::WEBSOCKET_KEY
    );
    http1::request("GET", routes::HOST, "/socket", &fields, &[])
}

/// A binary message in one masked frame (RFC 6455 5.2); the mask is as good as any other.
pub(crate) fn websocket_frame() -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let payload = (0..MESSAGE as u8).zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [0x82, 0x80 | MESSAGE as u8].into_iter().chain(mask).chain(payload).collect()
}

/// What comes back of [`websocket_frame`].
pub(crate) fn websocket_echo() -> Vec<u8> {
    [0x82, MESSAGE as u8].into_iter().chain(0..MESSAGE as u8).collect()
}
