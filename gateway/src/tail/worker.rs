//! A worker's end of the tail: it makes events, within its budget, and never waits.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, Uri, Version, header};
use tidegate_l4::watch::{Began, Refused as L4Refused, Watch};

use super::{
    Connection, ConnectionEnd, EVENTS_PER_SECOND, Event, Reason, Refused, Request, Tail, What,
    event::{HOST_BYTES, PATH_BYTES},
};
use crate::{
    access_log::{End, protocol},
    route::Rule,
};

/// Longest method that is kept, in bytes: RFC 9110 and WebDAV have none of more than 17.
const METHOD_BYTES: usize = 32;

/// Longest session cookie that is kept, in bytes: ours have 70 and a name, and what is much longer names no pod of ours.
const SESSION_BYTES: usize = 256;

/// Connections whose end is waited for; of others it is not told.
const OPEN: usize = 4096;

/// The tail as one worker uses it; on its thread only.
#[derive(Debug)]
pub struct TailWorker {
    tail: Arc<Tail>,
    /// What began and may be told of.
    begun: Budget,
    /// Ends of connections that may be told of; they have a budget of their own, so that none is missing because something else began.
    ended: Budget,
    /// When connections began whose end is of interest.
    open: RefCell<ahash::AHashMap<u64, Instant>>,
}

impl TailWorker {
    /// To be made on the worker's thread.
    pub fn new(tail: Arc<Tail>) -> Self {
        Self { tail, begun: Budget::default(), ended: Budget::default(), open: RefCell::default() }
    }

    /// A request begins: if somebody watches, what happens to it is to be told to this. It is of this second's budget, whenever it ends.
    pub(crate) fn open(self: &Rc<Self>, now: Instant) -> Option<Box<Told>> {
        if !self.tail.is_watched() || !self.may(&self.begun, now) {
            return None;
        }
        Some(Box::new(Told { worker: self.clone(), request: RefCell::default() }))
    }

    /// Whether there is room for one more event in this second.
    fn may(&self, budget: &Budget, now: Instant) -> bool {
        let may = budget.take(now);
        if !may {
            self.tail.skip(1);
        }
        may
    }

    /// Whether the end of this connection can be waited for.
    pub(super) fn has_begun(&self, number: u64, now: Instant) -> bool {
        let mut open = self.open.borrow_mut();
        let has_room = open.len() < OPEN;
        if has_room {
            open.insert(number, now);
        }
        has_room
    }

    fn tell(&self, what: What) -> u64 {
        let id = self.tail.next.fetch_add(1, Ordering::Relaxed);
        if self.tail.queue.try_send(Event { id, time: SystemTime::now(), what }).is_err() {
            self.tail.skip(1);
        }
        id
    }
}

/// [`EVENTS_PER_SECOND`]: when the second began that is counted, and the events in it.
#[derive(Debug, Default)]
struct Budget(Cell<(Option<Instant>, u32)>);

impl Budget {
    fn take(&self, now: Instant) -> bool {
        let (began, count) = self.0.get();
        let is_new = began.is_none_or(|began| now.saturating_duration_since(began) >= Duration::from_secs(1));
        let (began, count) = if is_new { (Some(now), 0) } else { (began, count) };
        let may = count < EVENTS_PER_SECOND;
        self.0.set((began, if may { count + 1 } else { count }));
        may
    }
}

impl Watch for TailWorker {
    fn is_on(&self) -> bool {
        self.tail.is_watched()
    }

    fn began(&self, began: &Began<'_>) -> Option<u64> {
        let now = Instant::now();
        if !self.may(&self.begun, now) {
            return None;
        }
        let number = self.tell(What::Connection(Box::new(Connection {
            service: began.service.clone(),
            frontend: began.frontend,
            kind: began.kind,
            client: began.client,
            upstream: began.upstream,
            endpoint: began.endpoint.addr,
            pod: began.endpoint.pod.clone(),
            reason: Reason::Connection(began.reason),
        })));
        self.has_begun(number, now).then_some(number)
    }

    fn ended(&self, number: u64, bytes_in: u64, bytes_out: u64) {
        let began = self.open.borrow_mut().remove(&number);
        let Some(began) = began.filter(|_| self.is_on()) else { return };
        let now = Instant::now();
        if self.may(&self.ended, now) {
            let took = now.saturating_duration_since(began);
            self.tell(What::ConnectionEnd(ConnectionEnd { of: number, took, bytes_in, bytes_out }));
        }
    }

    fn refused(&self, refused: &L4Refused<'_>) {
        if self.may(&self.begun, Instant::now()) {
            let L4Refused { service, frontend, client, why } = *refused;
            self.tell(What::Refused(Box::new(Refused { service: service.clone(), frontend, client, why })));
        }
    }
}

/// One request on its way into the tail.
#[derive(Debug)]
pub struct Told {
    worker: Rc<TailWorker>,
    request: RefCell<Known>,
}

/// The connection that a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// Its client.
    pub(crate) addr: SocketAddr,
    pub(crate) is_tls: bool,
    /// Which of its requests this is, from 1.
    pub(crate) nth: u32,
}

/// What is known of a request so far.
#[derive(Debug, Default)]
struct Known {
    asked: Option<(String, Version, Asker)>,
    host: String,
    path: String,
    client: Option<IpAddr>,
    id: String,
    service: Option<Arc<str>>,
    endpoint: Option<(SocketAddr, Option<Arc<str>>)>,
    reason: Option<Reason>,
    tries: u32,
    session: Option<Box<str>>,
}

impl Told {
    /// It came from this connection, with this head.
    pub(crate) fn asked(&self, client: Asker, (method, uri, version, headers): (&Method, &Uri, Version, &HeaderMap)) {
        let mut known = self.request.borrow_mut();
        known.asked = Some((text(method.as_str().as_bytes(), METHOD_BYTES), version, client));
        let host = uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = host.or_else(|| headers.get(header::HOST).map(|host| host.as_bytes()));
        // Who writes a user and a password before it (RFC 3986 3.2.1) is refused, but must not be shown either.
        let host = host.unwrap_or_default().rsplit(|byte| *byte == b'@').next().unwrap_or_default();
        known.host = text(host, HOST_BYTES);
        known.path = text(uri.path().as_bytes(), PATH_BYTES);
    }

    /// Who asks, and its id.
    pub(crate) fn identified(&self, client: IpAddr, id: &[u8]) {
        let mut known = self.request.borrow_mut();
        known.client = Some(client);
        known.id = text(id, HOST_BYTES);
    }

    /// This endpoint of `namespace/service:port` is tried. `session`: the cookie that named it, as `name=value`.
    pub(crate) fn trying(
        &self,
        service: &Arc<str>,
        endpoint: (SocketAddr, Option<Arc<str>>),
        reason: Reason,
        session: Option<Box<str>>,
    ) {
        let mut known = self.request.borrow_mut();
        known.service = Some(service.clone());
        known.endpoint = Some(endpoint);
        known.reason = Some(reason);
        known.tries += 1;
        known.session = session.filter(|session| session.len() <= SESSION_BYTES);
    }

    /// It is over.
    pub(crate) fn ended(self, rule: Option<&Rule>, end: End) {
        let known = self.request.into_inner();
        // A head that could not be read.
        let Some((method, version, Asker { addr: client, is_tls, nth })) = known.asked else { return };
        let ip = client.ip().to_canonical();
        let (endpoint, pod) = known.endpoint.map_or((None, None), |(endpoint, pod)| (Some(endpoint), pod));
        self.worker.tell(What::Request(Box::new(Request {
            method,
            is_tls,
            nth,
            host: known.host,
            path: known.path,
            protocol: protocol(version),
            client: SocketAddr::new(ip, client.port()),
            on_behalf_of: known.client.filter(|client| *client != ip),
            id: known.id,
            ingress: rule.map(|rule| rule.owner.clone()),
            service: known.service.or_else(|| rule.map(|rule| rule.backend.service().clone())),
            endpoint,
            pod,
            reason: known.reason,
            tries: known.tries,
            status: end.status,
            failure: end.failure,
            took: end.took,
            bytes_in: end.bytes_in,
            bytes_out: end.bytes_out,
            session: known.session,
        })));
    }
}

/// As text, cut where it is too long.
fn text(bytes: &[u8], most: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(most)]).into_owned()
}
