//! What is done with the requests of a rule besides choosing a pod for them: filters, timeouts, retries, limits.
//!
//! Ingress annotations compile into this, and Gateway API will: the data plane knows no other form. Everything that can be
//! prepared is prepared here (field names and values, regular expressions, TLS configurations), so that a request parses and
//! builds nothing.

use std::{sync::Arc, time::Duration};

use http::StatusCode;

use super::{filter::Filter, template::Template};
use crate::tls::BackendTls;

/// The policy of a rule. Rules of one Ingress mostly share one.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// In order, on every request; those for answers apply to the answer.
    pub filters: Box<[Filter]>,
    /// When a request that came without TLS is sent to `https`.
    pub https: HttpsRedirect,
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// When a request is tried again, on another pod.
    pub retry: Retry,
    /// Largest content of a request in bytes; `None` for no limit. Beyond it the answer is 413.
    pub body_limit: Option<u64>,
    /// How the pods are spoken to.
    pub transport: Transport,
    /// Whether its requests appear in the access log.
    pub access_log: bool,
}

/// ingress-nginx's default for `proxy-body-size`, 1 MiB: what an Ingress that says nothing is used to.
pub const DEFAULT_BODY_LIMIT: u64 = 1 << 20;

impl Policy {
    /// Whether requests and answers pass unchanged.
    pub fn is_plain(&self) -> bool {
        self.filters.is_empty() && self.https.when == HttpsWhen::Never
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            filters: Box::default(),
            https: HttpsRedirect::default(),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            body_limit: Some(DEFAULT_BODY_LIMIT),
            transport: Transport::default(),
            access_log: true,
        }
    }
}

/// When a request that came without TLS is sent to `https`, and with which status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpsRedirect {
    /// When.
    pub when: HttpsWhen,
    /// The status: 308 unless configured.
    pub status: StatusCode,
    /// Keep a final `/` of the target; ingress-nginx drops it unless `preserve-trailing-slash` is set.
    pub preserve_trailing_slash: bool,
}

/// When a request without TLS is redirected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpsWhen {
    /// Never: the host has no TLS section, or `ssl-redirect` is `"false"`.
    #[default]
    Never,
    /// Because an Ingress gives its host a TLS section (`ssl-redirect`, which is on unless it is turned off), provided that `https` is
    /// served at all.
    HostHasTls,
    /// Always (`force-ssl-redirect`): TLS may end in front of us.
    Always,
}

impl Default for HttpsRedirect {
    fn default() -> Self {
        Self { when: HttpsWhen::default(), status: StatusCode::PERMANENT_REDIRECT, preserve_trailing_slash: false }
    }
}

/// How long each step of an exchange with a pod may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a pod has accepted the connection, TLS included (`proxy-connect-timeout`).
    pub connect: Duration,
    /// The longest pause between two pieces of the request (`proxy-send-timeout`).
    pub send: Duration,
    /// The longest wait for the answer's head, and the longest pause within the answer (`proxy-read-timeout`). Upgraded
    /// connections are closed after as long without a byte either way.
    pub read: Duration,
    /// From the first byte sent to one pod until its answer's head; `None` for no limit of its own.
    pub per_try: Option<Duration>,
    /// From the request's head until the answer's head, all tries and pauses included; `None` for no limit.
    pub request: Option<Duration>,
}

impl Default for Timeouts {
    /// ingress-nginx's defaults.
    fn default() -> Self {
        let gap = Duration::from_secs(60);
        Self { connect: Duration::from_secs(5), send: gap, read: gap, per_try: None, request: None }
    }
}

/// When a request is tried again, on another pod. Never once a byte of an answer has gone to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// After an error: no connection, or one that broke before an answer (`proxy-next-upstream: error`).
    pub on_error: bool,
    /// After a timeout of the connect or of the answer's head (`timeout`).
    pub on_timeout: bool,
    /// After an answer that is no HTTP (`invalid_header`).
    pub on_invalid: bool,
    /// After an answer with one of these statuses (`http_502`, …), in ascending order.
    pub on_status: Box<[StatusCode]>,
    /// Repeat requests too that may not be repeated safely (RFC 9110 9.2.2) once they have been sent (`non_idempotent`).
    pub non_idempotent: bool,
    /// Pods tried in all (`proxy-next-upstream-tries`); 0 for as many as there are.
    pub tries: u32,
    /// No new try later than this after the first began (`proxy-next-upstream-timeout`); `None` for no limit.
    pub within: Option<Duration>,
    /// Repetitions per hundred requests of the worker that are allowed besides a few each second: a broken Service must not be
    /// hit by a multiple of its load. Repetitions of what was never sent do not count.
    pub budget_percent: u8,
}

impl Default for Retry {
    /// ingress-nginx's defaults, and a budget.
    fn default() -> Self {
        Self {
            on_error: true,
            on_timeout: true,
            on_invalid: false,
            on_status: Box::default(),
            non_idempotent: false,
            tries: 3,
            within: None,
            budget_percent: 20,
        }
    }
}

/// How a rule's pods are spoken to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transport {
    /// The protocol.
    pub protocol: BackendProtocol,
    /// TLS to the pods; `None` for plain text.
    pub tls: Option<Arc<BackendTls>>,
    /// Use `tls` only for requests that came with TLS themselves (`backend-protocol: AUTO_HTTP`).
    pub as_the_client: bool,
    /// Each request on a connection of its own (`connection-proxy-header: close`).
    pub close: bool,
}

impl Transport {
    /// TLS for a request that came with or without it.
    pub fn tls_for(&self, client_has_tls: bool) -> Option<&Arc<BackendTls>> {
        self.tls.as_ref().filter(|_| client_has_tls || !self.as_the_client)
    }
}

/// The protocol spoken with pods (`backend-protocol`, `appProtocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; without TLS by prior knowledge (h2c). gRPC is this.
    Http2,
}

/// What is said about an upstream rather than a rule: all rules that use it share it, and the oldest Ingress decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamOptions {
    /// How a pod is chosen (`load-balance`); `None` to leave it to the Service (`tidegate.io/balance`).
    pub load_balance: Option<LoadBalance>,
    /// Requests for which this is the same text go to the same pod (`upstream-hash-by`). A session cookie comes first.
    pub hash_by: Option<Template>,
    /// The Service's ClusterIP is the only endpoint (`service-upstream`).
    pub service_upstream: bool,
}

/// How a pod is chosen, in ingress-nginx's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadBalance {
    /// One after the other (`round_robin`).
    RoundRobin,
    /// Of two drawn at random, the one that answered faster of late (`ewma`).
    Ewma,
}
