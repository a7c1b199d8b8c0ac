//! Counts a request and writes its line in the access log, however it ends.
//!
//! What happens to a request is told to its account at the moment it happens, in this order: [`asked`](Account::asked),
//! [`matched`](Account::matched), for each pod [`trying`](Account::trying), [`connected`](Account::connected) and then
//! [`try_failed`](Account::try_failed) or [`pod_answered`](Account::pod_answered), [`answering`](Account::answering),
//! [`sent`](Account::sent). Whatever was not told is left out.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response, Version};

use super::{connection::Client, failure::Kind, upload::Progress, worker::Shared};
use crate::{
    access_log::{End, Entry},
    route::{Rule, stats::Ended},
};

/// One request in the books. It goes with the answer's body, and dropping it closes the entry: after the last byte, or
/// whenever somebody gave up.
#[derive(Debug)]
pub(crate) struct Account {
    worker: Rc<Shared>,
    /// Once it is known.
    rule: Option<Arc<Rule>>,
    /// The status; until there is an answer, that of a client that leaves without one.
    status: u16,
    failure: Option<Kind>,
    version: Version,
    started: Instant,
    first_byte: Option<Duration>,
    tried: bool,
    upload: Option<Rc<Progress>>,
    bytes_out: u64,
    /// `None` while there is no log, and for rules whose requests do not appear in it.
    entry: Option<Entry>,
}

impl Account {
    /// A request begins.
    pub(crate) fn open(worker: &Rc<Shared>) -> Self {
        worker.stats.requests.add(1);
        Self {
            worker: worker.clone(),
            rule: None,
            status: Kind::ClientGone.status(),
            failure: None,
            version: Version::HTTP_11,
            started: Instant::now(),
            first_byte: None,
            tried: false,
            upload: None,
            bytes_out: 0,
            entry: worker.log().map(|log| log.open()),
        }
    }

    /// This is its head, before anything is changed about it.
    pub(crate) fn asked<B>(&mut self, client: &Client, request: &Request<B>) {
        self.version = request.version();
        if let (Some(entry), Some(connection)) = (&mut self.entry, &client.facts) {
            entry.asked(connection, (request.method(), request.uri(), request.version(), request.headers()));
        }
    }

    /// Its content comes this way.
    pub(crate) fn uploading(&mut self, upload: Option<Rc<Progress>>) {
        self.upload = upload;
    }

    /// What the log is told that no counter needs; `None` if there is nothing to tell it.
    pub(crate) fn entry(&mut self) -> Option<&mut Entry> {
        self.entry.as_mut()
    }

    /// This rule takes it.
    pub(crate) fn matched(&mut self, rule: &Arc<Rule>) {
        if !rule.policy.access_log {
            self.entry = None;
        }
        self.rule = Some(rule.clone());
    }

    /// This pod is tried from now on.
    pub(crate) fn trying(&mut self, endpoint: SocketAddr, pod: Option<&str>) {
        if std::mem::replace(&mut self.tried, true) {
            self.worker.stats.upstream_retried.add(1);
        }
        if let Some(entry) = &mut self.entry {
            entry.trying(endpoint, pod, Instant::now());
        }
    }

    /// There is a connection to the pod; opening it took this long, `None` if it was kept.
    pub(crate) fn connected(&mut self, took: Option<Duration>) {
        if let (Some(took), Some(rule)) = (took, &self.rule) {
            rule.stats.count_connect(took);
        }
        if let Some(entry) = &mut self.entry {
            entry.connected(took.unwrap_or_default());
        }
    }

    /// The pod failed in this way.
    pub(crate) fn try_failed(&mut self, kind: Kind) {
        if let Some(entry) = &mut self.entry {
            entry.try_failed(kind.status(), Instant::now());
        }
    }

    /// The head of the pod's answer is here.
    pub(crate) fn pod_answered(&mut self, status: u16) {
        let now = Instant::now();
        self.first_byte = Some(now.saturating_duration_since(self.started));
        if let Some(entry) = &mut self.entry {
            entry.try_answered(status, now);
        }
    }

    /// This head goes to the client.
    pub(crate) fn answering<B>(&mut self, response: &Response<B>) {
        self.status = response.status().as_u16();
        if let Some(entry) = &mut self.entry {
            entry.answering(response.status(), response.headers());
        }
    }

    /// So much more of the answer's content goes to the client.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// Something went wrong after the status was sent.
    pub(crate) fn note(&mut self, kind: Kind) {
        self.failure = Some(kind);
        self.worker.stats.count_failure(kind);
    }

    /// The request is answered with an error of ours.
    pub(crate) fn fail(&mut self, kind: Kind) {
        self.status = kind.status();
        self.note(kind);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.status == Kind::ClientGone.status() {
            self.note(Kind::ClientGone);
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(self.started);
        let bytes_in = self.upload.as_ref().map_or(0, |upload| upload.bytes());
        let stats = &self.worker.stats;
        self.rule.as_ref().map_or(&stats.unmatched, |rule| &rule.stats).count(&Ended {
            status: self.status,
            version: self.version,
            took,
            first_byte: self.first_byte,
            bytes_in,
            bytes_out: self.bytes_out,
        });
        stats.ended.add(1);
        if let Some(entry) = self.entry.take() {
            let failure = self.failure.map(Kind::as_str);
            let end = End { status: self.status, failure, took, bytes_in, bytes_out: self.bytes_out };
            entry.write(self.rule.as_deref(), end, now);
        }
    }
}
