//! One request to one pod: on a connection that was kept or a new one, until the head of the answer is there.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    task::{Poll, ready},
    time::Duration,
};

use http::{HeaderName, Request, Response, StatusCode, Uri, header, uri::PathAndQuery};
use tidegate_l4::{
    endpoints::{EndpointIndex, InFlight},
    model::Balance,
    worker::now,
};
use tokio::time::Instant;

use super::{
    body::{Content, PodBody, Source},
    failure::{Failure, Kind},
    forward::{Cause, Said, Switched, Trip, Unanswered, is_idempotent},
    headers,
    pod::{
        AnswerHead, Broken, Coding, Exchange, Http1Connection, Http2Connection, PodIo, PoolKey, StreamError, Watchdog,
    },
    upload::Upload,
};
use crate::route::policy::{BackendProtocol, Timeouts};

/// Asks one pod.
pub(crate) async fn ask(trip: &Trip<'_>, endpoint: EndpointIndex) -> Result<Response<Said>, Unanswered> {
    match trip.transport.protocol {
        BackendProtocol::Http2 if trip.upgrade.is_none() => Box::pin(ask_http2(trip, endpoint)).await,
        BackendProtocol::Http1 | BackendProtocol::Http2 => ask_http1(trip, endpoint).await,
    }
}

async fn ask_http1(trip: &Trip<'_>, endpoint: EndpointIndex) -> Result<Response<Said>, Unanswered> {
    let worker = &trip.client.worker;
    let key = PoolKey::new(trip.upstream.endpoints.endpoint(endpoint).addr, trip.tls.map(|tls| &**tls));
    let mut started = Instant::now();
    let mut kept = if trip.transport.close { None } else { worker.pool.take(&key, started) };
    loop {
        let is_kept = kept.is_some();
        let connection = match kept.take() {
            Some(connection) => {
                trip.account.connected(None);
                connection
            }
            None => {
                let connection = Http1Connection::new(Box::pin(connect(trip, endpoint, &key)).await?);
                started = Instant::now();
                connection
            }
        };
        (if is_kept { &worker.stats.upstream_reused } else { &worker.stats.upstream_opened }).add(1);
        trip.connected();
        let carried = trip.upstream.endpoints.state(endpoint).carry();
        let mut head = worker.take_buffer();
        headers::write_head(&mut head, trip.parts, &trip.told, trip.upload, trip.upgrade);
        let method = trip.parts.method.clone();
        let limit = worker.limits.answer_head_bytes;
        let mut exchange = Exchange::new(connection, method, head, coding(trip.upload), trip.upload.clone(), limit);
        let result = wait_for_head(trip, &mut exchange, started).await;
        let error = match result {
            Some(Ok(head)) => {
                trip.praise(endpoint, started);
                return answer(trip, endpoint, head, exchange, (key, started), carried);
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        // The pod closed a connection that was kept, at that moment: it goes to the same pod again on a new one, if nothing was
        // sent, or if it is one that may be repeated (RFC 9112 9.3.1).
        let is_stale = is_kept && matches!(error, Some(Broken::Closed(_))) && !exchange.is_answered();
        let sent = exchange.has_begun();
        if is_stale && (!sent || is_idempotent(&trip.parts.method)) && trip.upload.rewind() {
            worker.stats.upstream_resent.add(1);
            continue;
        }
        return Err(trip.unanswered(endpoint, error, sent));
    }
}

/// A new connection.
async fn connect(trip: &Trip<'_>, endpoint: EndpointIndex, key: &PoolKey) -> Result<PodIo, Unanswered> {
    let is_h2 = trip.transport.protocol == BackendProtocol::Http2 && trip.upgrade.is_none();
    let started = Instant::now();
    let connected = PodIo::connect(key.addr(), trip.tls, is_h2, trip.rule.policy.timeouts.connect).await;
    connected.inspect(|_| trip.account.connected(Some(started.elapsed()))).map_err(|error| {
        trip.blame(endpoint);
        trip.upstream.endpoints.state(endpoint).count_connect_failure();
        let cause = if error.kind() == io::ErrorKind::TimedOut { Cause::Timeout } else { Cause::Error };
        let failure = trip.failed(endpoint, Kind::Connect, &format_args!("could not be reached: {error}"));
        Unanswered { failure, cause, sent: false }
    })
}

fn coding(upload: &Upload) -> Coding {
    match upload.length() {
        _ if !upload.is_some() => Coding::Empty,
        Some(length) => Coding::Length(length),
        None => Coding::Chunked,
    }
}

/// `None` if it took too long.
async fn wait_for_head(
    trip: &Trip<'_>,
    exchange: &mut Exchange,
    started: Instant,
) -> Option<Result<AnswerHead, Broken>> {
    poll_fn(|cx| {
        let polled = exchange.poll_head(cx);
        if let Some(buffer) = exchange.take_buffer() {
            trip.client.worker.give_buffer(buffer);
        }
        if let Poll::Ready(result) = polled {
            return Poll::Ready(Some(result));
        }
        let deadline = deadline(&trip.rule.policy.timeouts, started, trip.upload);
        ready!(exchange.poll_deadline(cx, deadline));
        Poll::Ready(None)
    })
    .await
}

/// Until when the exchange must have gone on.
fn deadline(timeouts: &Timeouts, started: Instant, upload: &Upload) -> Instant {
    let gap = match upload.moved_at() {
        Some(moved) => moved.max(started) + timeouts.send,
        None => started + timeouts.read,
    };
    timeouts.per_try.map_or(gap, |within| gap.min(started + within))
}

fn answer(
    trip: &Trip<'_>,
    endpoint: EndpointIndex,
    head: AnswerHead,
    mut exchange: Exchange,
    (key, started): (PoolKey, Instant),
    carried: InFlight,
) -> Result<Response<Said>, Unanswered> {
    let invalid = |did: &'static str| trip.unanswered(endpoint, Some(Broken::Invalid(did)), true);
    let said = if head.status == StatusCode::SWITCHING_PROTOCOLS {
        if trip.upgrade.is_none() {
            return Err(invalid("switched protocols unasked"));
        }
        let (io, said) = exchange.into_upgraded();
        Said::Upgraded(Box::new(Switched { io, said, carried }))
    } else if let Some(whole) = exchange.take_whole() {
        if let Some(connection) = exchange.finish() {
            trip.give_back(key, connection, started);
        }
        Said::Content(Content::Whole(whole))
    } else {
        let source = Source::Http1 { exchange: Some(exchange), key: (!trip.transport.close).then_some(key) };
        Said::Content(trip.body(endpoint, source, carried))
    };
    let mut response = Response::new(said);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

async fn ask_http2(trip: &Trip<'_>, endpoint: EndpointIndex) -> Result<Response<Said>, Unanswered> {
    let worker = &trip.client.worker;
    let key = PoolKey::new(trip.upstream.endpoints.endpoint(endpoint).addr, trip.tls.map(|tls| &**tls));
    let mut fresh = false;
    loop {
        let (mut connection, is_kept) = http2_connection(trip, endpoint, &key, fresh).await?;
        if is_kept {
            trip.account.connected(None);
        }
        (if is_kept { &worker.stats.upstream_reused } else { &worker.stats.upstream_opened }).add(1);
        trip.connected();
        let carried = trip.upstream.endpoints.state(endpoint).carry();
        let request = http2_request(trip).map_err(|_| trip.unanswered(endpoint, None, false))?;
        // HTTP/2 has flow control for what Expect is good for: the client need not wait.
        trip.upload.go_on();
        let (started, mut watchdog) = (Instant::now(), Watchdog::default());
        let mut sending = pin!(connection.send(request));
        let result = poll_fn(|cx| {
            if let Poll::Ready(result) = sending.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            ready!(watchdog.poll(cx, deadline(&trip.rule.policy.timeouts, started, trip.upload)));
            Poll::Ready(None)
        })
        .await;
        match result {
            Some(Ok((response, stream))) => {
                trip.praise(endpoint, started);
                let upload = trip.upload.clone();
                let mut response = response;
                headers::remove_hops(response.headers_mut());
                return Ok(response.map(|incoming| {
                    let source = Source::Http2 { incoming, upload, watchdog, _stream: stream };
                    Said::Content(trip.body(endpoint, source, carried))
                }));
            }
            Some(Err(StreamError { sent: false, .. })) if is_kept && trip.upload.rewind() => {
                // The pod was closing the connection (RFC 9113 6.8).
                worker.stats.upstream_resent.add(1);
                fresh = true;
            }
            Some(Err(StreamError { error, sent })) => {
                return Err(trip.unanswered(endpoint, Some(Broken::Closed(error)), sent));
            }
            None => return Err(trip.unanswered(endpoint, None, true)),
        }
    }
}

/// A connection with room for one more stream, and whether it was there before.
async fn http2_connection(
    trip: &Trip<'_>,
    endpoint: EndpointIndex,
    key: &PoolKey,
    fresh: bool,
) -> Result<(Http2Connection, bool), Unanswered> {
    let limits = &trip.client.worker.limits;
    let pool = trip.client.worker.pool.http2(key);
    if !fresh && let Some(connection) = pool.take(limits.h2_streams_per_upstream) {
        return Ok((connection, true));
    }
    let _turn = pool.opening.lock().await;
    if !fresh && let Some(connection) = pool.take(limits.h2_streams_per_upstream) {
        return Ok((connection, true));
    }
    let io = connect(trip, endpoint, key).await?;
    let connection = Http2Connection::open(io, limits).await.map_err(|error| {
        let failure = trip.failed(endpoint, Kind::Connect, &format_args!("does not speak HTTP/2: {error}"));
        Unanswered { failure, cause: Cause::Error, sent: false }
    })?;
    pool.put(connection.clone());
    Ok((connection, false))
}

fn http2_request(trip: &Trip<'_>) -> http::Result<Request<Upload>> {
    let parts = trip.parts;
    let scheme = if trip.tls.is_some() { "https" } else { "http" };
    let host = parts.headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes());
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(target).build()?;
    let mut request = Request::new(trip.upload.clone());
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = uri;
    let fields = request.headers_mut();
    fields.reserve(parts.headers.len() + 8);
    headers::for_pod(parts, &trip.told, trip.upload, |name: &HeaderName, value| {
        if ![header::HOST, header::EXPECT].contains(name) {
            fields.append(name.clone(), value.clone());
        }
    });
    match trip.upload.length() {
        Some(0) if !trip.told.says_length => {}
        Some(length) => drop(fields.insert(header::CONTENT_LENGTH, length.into())),
        None => {}
    }
    if trip.told.takes_trailers {
        fields.insert(header::TE, http::HeaderValue::from_static("trailers"));
    }
    Ok(request)
}

impl Trip<'_> {
    fn body(&self, endpoint: EndpointIndex, source: Source, carried: InFlight) -> Content {
        let gap: Duration = self.rule.policy.timeouts.read;
        Content::Pod(Box::new(PodBody::new(source, self.pod(endpoint), self.client.clone(), gap, carried)))
    }

    /// An endpoint has failed: enough of that, and it is left alone for a while.
    fn blame(&self, endpoint: EndpointIndex) {
        self.upstream.endpoints.failed(endpoint, now());
    }

    /// An endpoint has answered, so long after it was asked.
    fn praise(&self, endpoint: EndpointIndex, started: Instant) {
        let set = &self.upstream.endpoints;
        if set.policy().ejection.is_some() {
            set.state(endpoint).succeeded();
        }
        if self.balance == Balance::Ewma {
            set.state(endpoint).observe(started.elapsed(), now());
        }
    }

    fn give_back(&self, key: PoolKey, connection: Http1Connection, now: Instant) {
        if !self.transport.close {
            self.client.worker.pool.put(key, connection, now);
        }
    }

    /// What became of an exchange; without an error it took too long.
    pub(crate) fn unanswered(&self, endpoint: EndpointIndex, error: Option<Broken>, sent: bool) -> Unanswered {
        if let Some(failure) = self.upload.failure() {
            return Unanswered { failure, cause: Cause::Client, sent };
        }
        let bad = Kind::BadAnswer;
        let (failure, cause) = match error {
            None if self.upload.waits_for_client() => (Failure::CLIENT_SLOW, Cause::Client),
            None => (self.failed(endpoint, Kind::Timeout, &"did not answer in time"), Cause::Timeout),
            Some(Broken::Client) => (Failure::CLIENT_GONE, Cause::Client),
            Some(Broken::Invalid(did)) => (self.failed(endpoint, bad, &did), Cause::Invalid),
            Some(Broken::Closed(None)) => {
                (self.failed(endpoint, bad, &"closed the connection without an answer"), Cause::Error)
            }
            Some(Broken::Closed(Some(error))) => {
                let did = format_args!("closed the connection without an answer: {error}");
                (self.failed(endpoint, bad, &did), Cause::Error)
            }
        };
        if cause != Cause::Client {
            self.blame(endpoint);
        }
        Unanswered { failure, cause, sent }
    }
}
