//! Counts a request, writes its line in the access log and tells who watches the tail, however it ends.
//!
//! What happens to a request is told to its account at the moment it happens, in this order: [`asked`](Account::asked),
//! [`matched`](Account::matched), for each pod [`trying`](Account::trying), [`connected`](Account::connected) and then
//! [`try_failed`](Account::try_failed) or [`pod_answered`](Account::pod_answered), [`answering`](Account::answering),
//! [`sent`](Account::sent). Whatever was not told is left out. All of it takes `&self`, so that a request can be told of from several
//! places.

use std::{
    cell::{Cell, OnceCell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Method, Response, Uri, Version};

use super::{client::Client, failure::Kind, worker::Shared};
use crate::{
    access_log::{End, Entry},
    route::{Rule, stats::Ended},
    tail::{Asker, Told},
};

/// One request in the books. It goes with the answer's body, and dropping it closes the entry: after the last byte, or
/// whenever somebody gave up.
#[derive(Debug)]
pub(crate) struct Account {
    worker: Rc<Shared>,
    started: Instant,
    version: Cell<Version>,
    /// Once it is known.
    rule: OnceCell<Arc<Rule>>,
    /// The status; until there is an answer, that of a client that leaves without one.
    status: Cell<u16>,
    failure: Cell<Option<Kind>>,
    first_byte: Cell<Option<Duration>>,
    upload: OnceCell<Rc<Cell<u64>>>,
    bytes_out: Cell<u64>,
    /// `None` while there is no log, and for rules whose requests do not appear in it.
    entry: RefCell<Option<Entry>>,
    /// `None` while nobody watches the tail.
    told: Option<Box<Told>>,
}

impl Account {
    /// A request begins.
    pub(crate) fn open(worker: &Rc<Shared>) -> Self {
        worker.stats.requests.add(1);
        let started = Instant::now();
        Self {
            worker: worker.clone(),
            started,
            version: Cell::new(Version::HTTP_11),
            rule: OnceCell::new(),
            status: Cell::new(Kind::ClientGone.status()),
            failure: Cell::default(),
            first_byte: Cell::default(),
            upload: OnceCell::new(),
            bytes_out: Cell::default(),
            entry: RefCell::new(worker.log().map(|log| log.open())),
            told: worker.tail().and_then(|tail| tail.open(started)),
        }
    }

    /// A head was refused before it could be read (HTTP/1): what is known of it is whose it was, and why.
    #[cold]
    pub(crate) fn refused(client: &Client, kind: Kind) {
        let account = Self::open(&client.worker);
        if let Some(connection) = &client.facts {
            account.log(|entry| entry.unread(connection));
        }
        account.note(kind);
        account.status.set(kind.status());
    }

    /// This is its head, before anything is changed about it.
    pub(crate) fn asked(&self, client: &Client, head: (&Method, &Uri, Version, &HeaderMap)) {
        self.version.set(head.2);
        if let Some(connection) = &client.facts {
            self.log(|entry| entry.asked(connection, head));
        }
        if let Some(told) = &self.told {
            let addr = SocketAddr::new(client.addr, client.port);
            told.asked(Asker { addr, is_tls: client.tls.is_some(), nth: client.begun() }, head);
        }
    }

    /// This is who asks, and its id.
    pub(crate) fn identified(&self, client: IpAddr, id: &HeaderValue) {
        self.log(|entry| {
            entry.is_from(client);
            entry.identified(id.as_bytes());
        });
        if let Some(told) = &self.told {
            told.identified(client, id.as_bytes());
        }
    }

    /// Its content is counted here as it comes.
    pub(crate) fn uploading(&self, upload: Rc<Cell<u64>>) {
        // There is only one.
        drop(self.upload.set(upload));
    }

    /// Tells the log what no counter needs, if there is a log.
    pub(crate) fn log(&self, tell: impl FnOnce(&mut Entry)) {
        if let Some(entry) = &mut *self.entry.borrow_mut() {
            tell(entry);
        }
    }

    /// This rule takes it.
    pub(crate) fn matched(&self, rule: &Arc<Rule>) {
        if !rule.policy.access_log {
            self.entry.take();
        }
        drop(self.rule.set(rule.clone()));
    }

    /// It asks whether we are there: nobody wants a line for that every few seconds.
    pub(crate) fn is_probe(&self) {
        self.entry.take();
    }

    /// This pod is tried from now on; `tell` says why, if somebody watches.
    pub(crate) fn trying(&self, endpoint: SocketAddr, pod: Option<&str>, tell: impl FnOnce(&Told)) {
        self.log(|entry| entry.trying(endpoint, pod, Instant::now()));
        if let Some(told) = &self.told {
            tell(told);
        }
    }

    /// There is a connection to the pod; opening it took this long, `None` if it was kept.
    pub(crate) fn connected(&self, took: Option<Duration>) {
        if let (Some(took), Some(rule)) = (took, self.rule.get()) {
            rule.stats.count_connect(took);
        }
        self.log(|entry| entry.connected(took.unwrap_or_default()));
    }

    /// The pod failed in this way.
    pub(crate) fn try_failed(&self, kind: Kind) {
        self.log(|entry| entry.try_failed(kind.status(), Instant::now()));
    }

    /// The head of the pod's answer is here.
    pub(crate) fn pod_answered(&self, status: u16) {
        let now = Instant::now();
        self.first_byte.set(Some(now.saturating_duration_since(self.started)));
        self.log(|entry| entry.try_answered(status, now));
    }

    /// This head goes to the client.
    pub(crate) fn answering<B>(&self, response: &Response<B>) {
        self.status.set(response.status().as_u16());
        self.log(|entry| entry.answering(response.status(), response.headers()));
    }

    /// So much more of the answer's content goes to the client.
    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }

    /// Something went wrong after the status was sent.
    pub(crate) fn note(&self, kind: Kind) {
        self.failure.set(Some(kind));
        self.worker.stats.count_failure(kind);
    }

    /// Bytes that were carried in another protocol.
    pub(crate) fn carried(&self, sent: u64, received: u64) {
        let stats = &self.worker.stats;
        stats.bytes_in.add(sent);
        stats.bytes_out.add(received);
        self.bytes_out.set(self.bytes_out.get() + received);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let status = self.status.get();
        if status == Kind::ClientGone.status() {
            self.note(Kind::ClientGone);
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(self.started);
        let (bytes_in, bytes_out) = (self.upload.get().map_or(0, |came| came.get()), self.bytes_out.get());
        let stats = &self.worker.stats;
        self.rule.get().map_or(&stats.unmatched, |rule| &rule.stats).count(&Ended {
            status,
            version: self.version.get(),
            took,
            first_byte: self.first_byte.get(),
            bytes_in,
            bytes_out,
        });
        stats.ended.add(1);
        let (entry, told) = (self.entry.take(), self.told.take());
        if entry.is_none() && told.is_none() {
            return;
        }
        let (rule, failure) = (self.rule.get().map(|rule| &**rule), self.failure.get().map(Kind::as_str));
        let end = End { status, failure, took, bytes_in, bytes_out };
        if let Some(entry) = entry {
            entry.write(rule, end, now);
        }
        if let Some(told) = told {
            told.ended(rule, end);
        }
    }
}
