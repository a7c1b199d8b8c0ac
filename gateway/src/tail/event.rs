//! One thing that happened, as plain data.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tidegate_l4::{
    model::ServicePortName,
    table::{Frontend, FrontendKind},
    watch::WhyRefused,
};

use super::Reason;
use crate::route::Owner;

/// Longest host that is kept, in bytes (RFC 1035 2.3.4, and a port).
pub(super) const HOST_BYTES: usize = 261;

/// Longest path that is kept, in bytes; a table shows less.
pub(super) const PATH_BYTES: usize = 1024;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Tells it from the others of this process.
    pub id: u64,
    /// When.
    pub time: SystemTime,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// A connection (of UDP: a flow) began.
    Connection(Box<Connection>),
    /// One ended.
    ConnectionEnd(ConnectionEnd),
    /// A client was turned away.
    Refused(Box<Refused>),
    /// A request was answered, or given up.
    Request(Box<Request>),
}

/// A connection or flow that began.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The Service port.
    pub service: ServicePortName,
    /// Where the client connected to.
    pub frontend: Frontend,
    /// What that is.
    pub kind: FrontendKind,
    /// The client.
    pub client: SocketAddr,
    /// Our end of the connection to the pod: what the pod sees as its client.
    pub upstream: Option<SocketAddr>,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// The pod behind it.
    pub pod: Option<Arc<str>>,
    /// Why this one.
    pub reason: Reason,
}

/// A connection or flow that ended.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionEnd {
    /// The event of its beginning.
    pub of: u64,
    /// How long it was there.
    pub took: Duration,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
}

/// A client that was turned away.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The Service port.
    pub service: ServicePortName,
    /// Where the client connected to.
    pub frontend: Frontend,
    /// The client.
    pub client: SocketAddr,
    /// Why.
    pub why: WhyRefused,
}

/// A request that is over.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Whether it came with TLS.
    pub is_tls: bool,
    /// Which request of its client's connection it is, from 1.
    pub nth: u32,
    /// As the client wrote it, but for a user and a password.
    pub host: String,
    /// Without the query, which may hold secrets.
    pub path: String,
    /// `HTTP/1.1`, for example.
    pub protocol: &'static str,
    /// Who connected.
    pub client: SocketAddr,
    /// Whom it speaks for, if it is a trusted proxy.
    pub on_behalf_of: Option<IpAddr>,
    /// Its id.
    pub id: String,
    /// The Ingress whose rule took it.
    pub ingress: Option<Owner>,
    /// `namespace/service:port`.
    pub service: Option<Arc<str>>,
    /// The endpoint that was tried last.
    pub endpoint: Option<SocketAddr>,
    /// The pod behind it.
    pub pod: Option<Arc<str>>,
    /// Why that one.
    pub reason: Option<Reason>,
    /// Endpoints tried.
    pub tries: u32,
    /// The status it was answered with; 499 if it was not.
    pub status: u16,
    /// What went wrong, if anything did.
    pub failure: Option<&'static str>,
    /// From the end of its head to the end of its answer.
    pub took: Duration,
    /// Bytes of its content.
    pub bytes_in: u64,
    /// Bytes of its answer's content.
    pub bytes_out: u64,
    /// The session cookie that named the pod, `name=value`: to explain the choice, and never to be shown.
    pub session: Option<Box<str>>,
}
