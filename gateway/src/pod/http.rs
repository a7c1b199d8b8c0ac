//! What each path answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use super::body::{Content, PodBody};
use super::limits;
use super::query::Instructions;
use super::tcp::Connection;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a script may see of the head: only the bare minimum, if it is not named.
const EXPOSED: &str = "X-Pod, X-Peer, X-Port, X-Connection-Reused, X-Connection-Requests, X-Request-Id";

/// The client asked to have the connection closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("closed without an answer, as the request asked")]
pub(super) struct Aborted;

/// Answers one request: what, by its path; how, by its query.
pub(super) async fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<PodBody>, Aborted> {
    let count = connection.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let (head, body) = request.into_parts();
    let (pod, peer) = (&connection.pod, connection.peer);
    if count == 1 {
        pod.used_connections.fetch_add(1, Ordering::Relaxed);
    }
    pod.note_request(format_args!("{} {} from {peer}, request {count} of its connection", head.method, head.uri));
    let asked = Asked {
        target: HeaderValue::from_str(&head.uri.to_string()).ok(),
        host: head.headers.get(header::HOST).cloned(),
        id: head.headers.get(&REQUEST_ID).cloned(),
        origin: head.headers.get(header::ORIGIN).cloned(),
    };
    let (instructions, reply) = match Instructions::parse(head.uri.query().unwrap_or_default()) {
        Ok(instructions) if instructions.abort => {
            tokio::time::sleep(instructions.delay).await;
            return Err(Aborted);
        }
        Ok(instructions) => {
            let reply = reply(&connection, &head, body, count, &instructions).await;
            (instructions, reply)
        }
        Err(problem) => (Instructions::default(), Err(Refusal { status: StatusCode::BAD_REQUEST, problem })),
    };
    if !instructions.delay.is_zero() {
        tokio::time::sleep(instructions.delay).await;
    }

    let mut response = match reply {
        Ok(reply) => reply.response(&instructions),
        Err(refusal) => refusal.response(),
    };
    let headers = response.headers_mut();
    describe(headers, &connection, asked, count);
    for (name, _) in &instructions.headers {
        headers.remove(name);
    }
    for (name, value) in instructions.headers {
        headers.append(name, value);
    }
    if instructions.close {
        headers.append(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// A good answer.
struct Reply {
    content: Content,
    content_type: HeaderValue,
    /// The trailers that may follow an echoed body, as the request announced them.
    trailer: Option<HeaderValue>,
}

impl Reply {
    fn new(content: Content, content_type: &'static str) -> Self {
        Self { content, content_type: HeaderValue::from_static(content_type), trailer: None }
    }

    fn response(self, instructions: &Instructions) -> Response<PodBody> {
        let content = if instructions.allow_content() { self.content } else { Content::Bytes(Bytes::new()) };
        let mut response = Response::new(PodBody::new(content, instructions.chunked, instructions.body_delay));
        *response.status_mut() = instructions.status.unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_TYPE, self.content_type);
        if let Some(trailer) = self.trailer {
            response.headers_mut().insert(header::TRAILER, trailer);
        }
        response
    }
}

/// The request cannot be answered as asked; the client is told why, and the connection closes because the rest of the
/// request was not read.
struct Refusal {
    status: StatusCode,
    problem: String,
}

impl Refusal {
    fn response(self) -> Response<PodBody> {
        let content = Content::Bytes(Bytes::from(self.problem + "\n"));
        let mut response = Response::new(PodBody::new(content, false, std::time::Duration::ZERO));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// What to answer. Every path but `/echo` reads the whole request first, so that the connection can be used again.
async fn reply(
    connection: &Connection,
    head: &Parts,
    body: Incoming,
    count: u64,
    instructions: &Instructions,
) -> Result<Reply, Refusal> {
    // A success would turn the connection into a tunnel (RFC 9110, section 9.3.6), and there is nothing behind it.
    if head.method == Method::CONNECT {
        return Err(Refusal {
            status: StatusCode::METHOD_NOT_ALLOWED,
            problem: "a pod is no proxy: it does not CONNECT".to_owned(),
        });
    }
    let path = head.uri.path();
    if path == "/echo" && instructions.allow_content() && !instructions.report {
        return echo(head, body).await;
    }
    let received = read_to_end(body).await?;
    let json = |value: serde_json::Value| {
        Ok(Reply::new(Content::Bytes(Bytes::from(format!("{value}\n"))), "application/json"))
    };
    match path {
        _ if instructions.report => json(report(connection, head, count)),
        "/headers" => json(report(connection, head, count)),
        "/upload" => json(json!({ "pod": connection.pod.name, "bytes": received })),
        _ => match path.strip_prefix("/bytes/") {
            Some(length) => Ok(Reply::new(Content::Fill(fill_length(length)?), "application/octet-stream")),
            None => Ok(Reply::new(Content::Bytes(connection.pod.greeting.clone()), "text/plain")),
        },
    }
}

/// Sends the request's body back while it arrives.
///
/// A client that expects `100 Continue` holds its body back until it is asked for, and takes an answer before that for
/// a final one (RFC 9110, section 10.1.1): so for it the body is asked for before the answer begins.
async fn echo(head: &Parts, mut body: Incoming) -> Result<Reply, Refusal> {
    let first = if head.headers.contains_key(header::EXPECT) { next_frame(&mut body).await? } else { None };
    let mut reply = Reply::new(Content::Echo { first, rest: body }, "application/octet-stream");
    if let Some(content_type) = head.headers.get(header::CONTENT_TYPE) {
        reply.content_type = content_type.clone();
    }
    reply.trailer = head.headers.get(header::TRAILER).cloned();
    Ok(reply)
}

/// Everything the pod can tell about a request. Header names are in lower case, as HTTP leaves their case open, and the
/// values of a repeated name stand together, where the name first occurred.
fn report(connection: &Connection, head: &Parts, count: u64) -> serde_json::Value {
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let proxied = connection
        .proxied
        .map(|proxied| json!({ "source": proxied.source.to_string(), "destination": proxied.destination.to_string() }));
    json!({
        "pod": connection.pod.name,
        "peer": connection.peer.to_string(),
        "local": connection.local.to_string(),
        "proxyProtocol": proxied,
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "connectionRequests": count,
        "reused": count > 1,
        "headers": headers,
    })
}

/// What was asked for, as it arrived: a proxy in front may have changed it.
struct Asked {
    target: Option<HeaderValue>,
    host: Option<HeaderValue>,
    /// What the gateway called the request.
    id: Option<HeaderValue>,
    /// The web page whose script asks.
    origin: Option<HeaderValue>,
}

/// The headers that tell who answered, to what, and on what connection.
fn describe(headers: &mut HeaderMap, connection: &Connection, asked: Asked, count: u64) {
    headers.extend(asked.target.map(|target| (HeaderName::from_static("x-target"), target)));
    headers.extend(asked.host.map(|host| (HeaderName::from_static("x-host"), host)));
    headers.extend(asked.id.map(|id| (REQUEST_ID, id)));
    if let Some(origin) = asked.origin.filter(|origin| connection.pod.page.get() == Some(origin)) {
        admit(headers, origin);
    }
    let peer = HeaderValue::from_str(&connection.peer.to_string()).expect("an address is plain ASCII");
    let reused = HeaderValue::from_static(if count > 1 { "true" } else { "false" });
    headers.insert(HeaderName::from_static("x-pod"), connection.pod.name_header.clone());
    headers.insert(HeaderName::from_static("x-port"), HeaderValue::from(connection.local.port()));
    headers.insert(HeaderName::from_static("x-peer"), peer);
    headers.insert(HeaderName::from_static("x-connection-reused"), reused);
    headers.insert(HeaderName::from_static("x-connection-requests"), HeaderValue::from(count));
}

/// Lets the script of a web page read the answer, though it comes from elsewhere (Fetch standard, section 3.3.3).
fn admit(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
}

fn fill_length(text: &str) -> Result<u64, Refusal> {
    text.parse().ok().filter(|length| *length <= limits::BODY_BYTES_MAX).ok_or_else(|| Refusal {
        status: StatusCode::BAD_REQUEST,
        problem: format!("/bytes/N sends N bytes, at most {}", limits::BODY_BYTES_MAX),
    })
}

/// Reads a body and throws it away; returns its length.
async fn read_to_end(mut body: Incoming) -> Result<u64, Refusal> {
    let too_large = || Refusal {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        problem: format!("the body is longer than {} bytes", limits::BODY_BYTES_MAX),
    };
    if body.size_hint().lower() > limits::BODY_BYTES_MAX {
        return Err(too_large());
    }
    let mut length = 0;
    while let Some(frame) = next_frame(&mut body).await? {
        length += frame.data_ref().map_or(0, Bytes::len) as u64;
        if length > limits::BODY_BYTES_MAX {
            return Err(too_large());
        }
    }
    Ok(length)
}

async fn next_frame(body: &mut Incoming) -> Result<Option<Frame<Bytes>>, Refusal> {
    match tokio::time::timeout(limits::BODY_PAUSE_MAX, body.frame()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(frame))) => Ok(Some(frame)),
        Ok(Some(Err(error))) => {
            Err(Refusal { status: StatusCode::BAD_REQUEST, problem: format!("the body is broken: {error}") })
        }
        Err(_) => Err(Refusal {
            status: StatusCode::REQUEST_TIMEOUT,
            problem: format!("nothing of the body came for {} s", limits::BODY_PAUSE_MAX.as_secs()),
        }),
    }
}
