//! Takes a request to a pod and brings back the head of its answer.

use std::{fmt, rc::Rc, sync::Arc, time::Instant};

use http::{HeaderValue, Method, Request, Response};
use tidegate_l4::endpoints::EndpointIndex;

use super::{
    account::Account,
    attempts::Attempts,
    body::PodBody,
    connection::Client,
    decision::Unavailable,
    failure::{Failure, Kind},
    upload::Upload,
    upstream::{PodAddress, PodConnection, SendError},
};
use crate::{route::Rule, snapshot::Upstream};

/// From whom a request comes, and where it may go.
#[derive(Debug)]
pub(crate) struct Trip<'a> {
    pub(crate) client: &'a Rc<Client>,
    pub(crate) rule: &'a Arc<Rule>,
    pub(crate) upstream: &'a Arc<Upstream>,
    /// The pod that its session cookie names.
    pub(crate) pinned: Option<EndpointIndex>,
}

/// A pod's answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) response: Response<PodBody>,
    pub(crate) endpoint: EndpointIndex,
    /// The `Set-Cookie` of a session that begins.
    pub(crate) cookie: Option<HeaderValue>,
}

/// Sends `request` to the first pod that can be reached.
///
/// Another pod is tried only while not one byte was sent. A request on a connection that was kept, and that the pod
/// closed at that moment, goes to the same pod again on a new one: if nothing was sent, or if it is one that may be
/// repeated (RFC 9112 9.3.1).
pub(crate) async fn forward(
    trip: &Trip<'_>,
    account: &Account,
    mut request: Request<Upload>,
) -> Result<Answered, Failure> {
    let worker = &trip.client.worker;
    let mut attempts = Attempts::new(trip);
    let mut last_failure = None;
    while let Some(attempt) = attempts.next(request.headers()) {
        let endpoint = attempt.endpoint;
        let target = trip.upstream.endpoints.endpoint(endpoint);
        let addr = target.addr;
        account.trying(addr, target.pod.as_deref());
        if last_failure.is_some() {
            worker.stats.upstream_retried.add(1);
        }
        let mut kept = worker.pool.take(addr);
        loop {
            let (is_kept, begun) = (kept.is_some(), Instant::now());
            let connection = match kept.take() {
                Some(connection) => Ok(connection),
                None => PodConnection::open(addr, &worker.limits).await,
            };
            let connection = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    trip.upstream.endpoints.state(endpoint).count_connect_failure();
                    account.try_failed(Kind::Connect);
                    let did = format_args!("could not be reached: {error}");
                    last_failure = Some(trip.failed(endpoint, Kind::Connect, &did));
                    break;
                }
            };
            (if is_kept { &worker.stats.upstream_reused } else { &worker.stats.upstream_opened }).add(1);
            account.connected((!is_kept).then(|| begun.elapsed()));
            match exchange(trip, endpoint, connection, request, is_kept).await {
                Ok(response) => {
                    account.pod_answered(response.status().as_u16());
                    return Ok(Answered { response, endpoint, cookie: attempt.cookie });
                }
                Err(Unanswered::Failed(failure)) => {
                    account.try_failed(failure.kind);
                    return Err(failure);
                }
                Err(Unanswered::NotSent(back)) => request = *back,
            }
            if !is_kept {
                account.try_failed(Kind::Connect);
                last_failure = Some(trip.failed(endpoint, Kind::Connect, &"closed the connection at once"));
                break;
            }
            worker.stats.upstream_resent.add(1);
        }
        attempts.failed(endpoint);
    }
    Err(last_failure.unwrap_or_else(|| Failure::unavailable(trip.rule.backend.service(), Unavailable::NoEndpoint)))
}

enum Unanswered {
    /// The request can be sent again, elsewhere too.
    NotSent(Box<Request<Upload>>),
    Failed(Failure),
}

/// One request on one connection.
async fn exchange(
    trip: &Trip<'_>,
    endpoint: EndpointIndex,
    mut connection: PodConnection,
    request: Request<Upload>,
    is_kept: bool,
) -> Result<Response<PodBody>, Unanswered> {
    let carried = trip.upstream.endpoints.state(endpoint).carry();
    let upload = request.body().progress();
    let again = (is_kept && may_repeat(&request)).then(|| copy(&request));
    let error = match connection.send(request, upload.as_deref()).await {
        Ok(response) => {
            return Ok(response.map(|incoming| {
                PodBody::new(incoming, connection, trip.pod(endpoint), upload, trip.client.clone(), carried)
            }));
        }
        Err(error) => error,
    };
    let client_failed = upload.as_ref().and_then(|upload| upload.failure());
    Err(Unanswered::Failed(match (error, again) {
        (SendError::NotSent(request), _) => return Err(Unanswered::NotSent(request)),
        (SendError::Broken(error), Some(again)) if !error.is_parse() => {
            return Err(Unanswered::NotSent(Box::new(again)));
        }
        (SendError::Broken(error), _) => {
            client_failed.unwrap_or_else(|| trip.failed(endpoint, Kind::BadAnswer, &BrokenAnswer(&error)))
        }
        (SendError::Silent, _) if upload.is_some_and(|upload| upload.waits_for_client()) => Failure::CLIENT_SLOW,
        (SendError::Silent, _) => trip.failed(endpoint, Kind::Timeout, &"did not answer in time"),
    }))
}

/// Whether sending it twice does what sending it once does (RFC 9110 9.2.2), and it can be sent twice: content is gone
/// once it is read.
fn may_repeat(request: &Request<Upload>) -> bool {
    let idempotent = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
    !request.body().is_some() && idempotent.contains(request.method())
}

fn copy(request: &Request<Upload>) -> Request<Upload> {
    let mut copy = Request::new(Upload::none());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

impl Trip<'_> {
    fn pod(&self, endpoint: EndpointIndex) -> PodAddress {
        let service = self.rule.backend.service().clone();
        let endpoint = self.upstream.endpoints.endpoint(endpoint);
        PodAddress { addr: endpoint.addr, pod: endpoint.pod.clone(), service }
    }

    /// The failure of a pod: named to the operator, not to the client.
    pub(crate) fn failed(&self, endpoint: EndpointIndex, kind: Kind, did: &dyn fmt::Display) -> Failure {
        self.pod(endpoint).warn(&self.client.worker, did);
        let what = match kind {
            Kind::Timeout => "did not answer in time",
            Kind::Connect => "could not be reached",
            _ => "gave no proper answer",
        };
        Failure::pod(kind, self.rule.backend.service(), what)
    }
}

/// What went wrong with an answer, as the end of a sentence.
struct BrokenAnswer<'a>(&'a hyper::Error);

impl fmt::Display for BrokenAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what =
            if self.0.is_parse() { "answered what is not HTTP" } else { "closed the connection without an answer" };
        write!(f, "{what}: {}", self.0)?;
        match std::error::Error::source(self.0) {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}
