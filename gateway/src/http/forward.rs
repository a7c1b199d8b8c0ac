//! Takes a request to a pod and brings back the head of its answer: which pods are tried, and when another is.

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc};

use http::{HeaderValue, Method, Response, StatusCode, request::Parts};
use tidegate_l4::{
    endpoints::{EndpointIndex, Permit},
    model::Balance,
};
use tokio::time::{Instant, timeout_at};

use super::{
    account::Account,
    attempts::{Attempt, Attempts},
    body::Content,
    client::Client,
    decision::Unavailable,
    exchange,
    failure::{Failure, Kind},
    headers::Told,
    pod::{PodAddress, PodIo},
    upload::Upload,
};
use crate::{
    route::{
        Backend, Rule,
        policy::{Retry, Transport},
    },
    snapshot::Upstream,
    tls::BackendTls,
};

/// A request, from whom it comes, and where it may go.
#[derive(Debug)]
pub(crate) struct Trip<'a> {
    pub(crate) client: &'a Rc<Client>,
    /// What is told of it.
    pub(crate) account: &'a Account,
    pub(crate) rule: &'a Arc<Rule>,
    /// The rule's backend, or that of its canary …
    pub(crate) backend: &'a Backend,
    /// … and its pods.
    pub(crate) upstream: &'a Arc<Upstream>,
    /// How they are spoken to.
    pub(crate) transport: &'a Transport,
    pub(crate) tls: Option<&'a Arc<BackendTls>>,
    /// By which rule one is chosen, and by which key.
    pub(crate) balance: Balance,
    pub(crate) hash: Option<u64>,
    /// A place among the requests that the Service allows.
    pub(crate) permit: RefCell<Option<Permit>>,
    /// The pod that its session cookie names.
    pub(crate) pinned: Option<EndpointIndex>,
    /// The request, as the filters left it.
    pub(crate) parts: &'a Parts,
    pub(crate) upload: &'a Upload,
    pub(crate) told: Told<'a>,
    /// The protocol that the client wants to change to.
    pub(crate) upgrade: Option<&'a HeaderValue>,
}

/// A pod's answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) response: Response<Said>,
    pub(crate) endpoint: EndpointIndex,
    /// The `Set-Cookie` of a session that begins.
    pub(crate) cookie: Option<HeaderValue>,
}

/// What comes after the head of an answer.
#[derive(Debug)]
pub(crate) enum Said {
    Content(Content),
    /// Another protocol.
    Upgraded(Box<Switched>),
}

/// The pod's side of a connection that has changed its protocol.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(crate) io: PodIo,
    pub(crate) said: bytes::BytesMut,
    pub(crate) carried: tidegate_l4::endpoints::InFlight,
}

/// Why one pod gave no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) failure: Failure,
    pub(crate) cause: Cause,
    /// Whether the pod may have seen some of the request.
    pub(crate) sent: bool,
}

/// What a retry depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No connection, or one that broke.
    Error,
    /// It took too long.
    Timeout,
    /// What came is no answer.
    Invalid,
    /// The client's own.
    Client,
}

/// Sends the request to the first pod that answers it.
///
/// Another pod is tried as the rule's [`Retry`] says: always while not one byte was sent; afterwards only a request that may
/// be repeated (RFC 9110 9.2.2), whose content is still remembered, and within the budget.
pub(crate) async fn forward(trip: &Trip<'_>) -> Result<Answered, Failure> {
    match trip.rule.policy.timeouts.request {
        None => try_pods(trip).await,
        Some(within) => timeout_at(Instant::now() + within, Box::pin(try_pods(trip))).await.unwrap_or_else(|_| {
            trip.account.try_failed(Kind::Timeout);
            Err(Failure::pod(Kind::Timeout, trip.backend.service(), "did not answer within the time for requests"))
        }),
    }
}

async fn try_pods(trip: &Trip<'_>) -> Result<Answered, Failure> {
    let retry = &trip.rule.policy.retry;
    let mut attempts = Attempts::new(trip);
    let mut last_failure = None;
    // Only a request that may be tried again in time needs to know when it began.
    let latest = retry.within.map(|within| Instant::now() + within);
    while let Some(Attempt { endpoint, cookie }) = attempts.next(&trip.parts.headers) {
        let may_wait = latest.is_none_or(|latest| Instant::now() < latest) || last_failure.is_none();
        if !may_wait {
            break;
        }
        let target = trip.upstream.endpoints.endpoint(endpoint);
        trip.account.trying(target.addr, target.pod.as_deref(), |told| attempts.tell(told, endpoint, cookie.is_some()));
        match exchange::ask(trip, endpoint).await {
            Ok(response) => {
                trip.account.pod_answered(response.status().as_u16());
                let again = retry.on_status.binary_search(&response.status()).is_ok()
                    && attempts.has_more()
                    && trip.may_repeat(retry, true);
                if !again {
                    return Ok(Answered { response, endpoint, cookie });
                }
                trip.note_status(endpoint, response.status());
            }
            Err(Unanswered { failure, cause, sent }) => {
                trip.account.try_failed(failure.kind);
                let wanted = match cause {
                    Cause::Error => retry.on_error,
                    Cause::Timeout => retry.on_timeout,
                    Cause::Invalid => retry.on_invalid,
                    Cause::Client => false,
                };
                if !wanted || !attempts.has_more() || !trip.may_repeat(retry, sent) {
                    return Err(failure);
                }
                last_failure = Some(failure);
            }
        }
        attempts.failed(endpoint);
        trip.client.worker.stats.upstream_retried.add(1);
    }
    Err(last_failure.unwrap_or_else(|| Failure::unavailable(trip.backend.service(), Unavailable::NoEndpoint)))
}

/// Whether sending it twice does what sending it once does (RFC 9110 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

impl Trip<'_> {
    pub(crate) fn pod(&self, endpoint: EndpointIndex) -> PodAddress {
        let service = self.backend.service().clone();
        let endpoint = self.upstream.endpoints.endpoint(endpoint);
        PodAddress { addr: endpoint.addr, pod: endpoint.pod.clone(), service }
    }

    /// There is a connection to a pod: the request waits for none any more.
    pub(crate) fn connected(&self) {
        if let Some(permit) = &mut *self.permit.borrow_mut() {
            permit.connected();
        }
    }

    /// The failure of a pod: named to the operator, not to the client.
    pub(crate) fn failed(&self, endpoint: EndpointIndex, kind: Kind, did: &dyn fmt::Display) -> Failure {
        self.pod(endpoint).warn(&self.client.worker, did);
        let what = match kind {
            Kind::Timeout => "did not answer in time",
            Kind::Connect => "could not be reached",
            _ => "gave no proper answer",
        };
        Failure::pod(kind, self.backend.service(), what)
    }

    fn note_status(&self, endpoint: EndpointIndex, status: StatusCode) {
        let did = format_args!("answered {}, and another is tried", status.as_u16());
        self.pod(endpoint).warn(&self.client.worker, &did);
    }

    /// Whether the request can go to another pod. If the one before may have seen it, that takes from the budget.
    fn may_repeat(&self, retry: &Retry, sent: bool) -> bool {
        let harmless = !sent || is_idempotent(&self.parts.method) || retry.non_idempotent;
        harmless && self.upload.rewind() && (!sent || self.client.worker.budgets.take(self.rule))
    }
}
