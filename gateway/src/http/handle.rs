//! The story of a request.

use std::{borrow::Cow, cell::RefCell, net::IpAddr, ops::ControlFlow, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::Incoming;
use tidegate_l4::endpoints::{EndpointIndex, Permit};

use super::{
    account::Account,
    body::{Aborted, AnswerBody, Content},
    client::{Client, UnderWay},
    connect::{self, Extended},
    decision::{Decision, decide},
    facts::{Facts, Scheme},
    failure::{Failure, Kind},
    filters::{Edits, on_request, on_response},
    forward::{Answered, Said, Switched, Trip, forward},
    headers::{self, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO, Told},
    seen::Seen,
    target,
    upgrade::Tunnel,
    upload::Upload,
    worker::Phase,
};
use crate::{
    route::{Backend, Rule},
    snapshot::{Snapshot, Upstream},
    tls::{ClientAuth, check_client, write_headers},
};

/// Where HTTPS is served to the outside world (RFC 9110 4.2.2).
const HTTPS_PORT: u16 = 443;

/// Answers a request: with a pod's answer, or with what went wrong. An error means that the client cannot be answered
/// any more; its connection is closed.
pub(crate) async fn handle(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Aborted> {
    let under_way = client.begin();
    let account = Account::open(&client.worker);
    let (mut parts, upload) = Upload::take(request, &client);
    account.asked(&client, (&parts.method, &parts.uri, parts.version, &parts.headers));
    if let Some(counter) = upload.counter() {
        account.uploading(counter);
    }
    let version = parts.version;
    let mut response = match answer(&client, &mut parts, &upload, &account).await {
        Ok(response) => {
            account.answering(&response);
            finish(&client, response, account, under_way)
        }
        Err(failure) if failure.kind == Kind::ClientGone => return Err(Aborted::ClientGone),
        Err(failure) => {
            account.note(failure.kind);
            let mut response = failure.response();
            account.answering(&response);
            if upload.is_unfinished() {
                // The rest of the request will not be read, so nothing can follow it.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response.map(|text| AnswerBody::new(Content::Whole(text), account, None, under_way))
        }
    };
    if version == Version::HTTP_2 {
        // It has frames for what HTTP/1 says in this field (RFC 9113 8.2.2).
        response.headers_mut().remove(header::CONNECTION);
    } else if client.worker.phase() != Phase::Serving && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// An answer, and what goes with it.
struct Ready {
    said: Said,
    permit: Option<Permit>,
    /// How long an upgraded connection may be idle, and how it came about.
    idle: Duration,
    extended: Option<Extended>,
}

async fn answer(
    client: &Rc<Client>,
    parts: &mut Parts,
    upload: &Upload,
    account: &Account,
) -> Result<Response<Ready>, Failure> {
    // This configuration serves the request to its end, whatever is published meanwhile.
    let snapshot = client.worker.snapshot();
    let version = parts.version;

    let (seen, extended) = let_in(client, parts)?;
    let asked_host = parts.headers.get(header::HOST).cloned().unwrap_or(HeaderValue::from_static(""));
    let host = asked_host.to_str().unwrap_or_default();
    let auth = admit(client, &snapshot, host)?;

    // Where it goes, and what its rule makes of it.
    let (addr, ip) = client.asked_by(&parts.headers);
    let request_id = headers::request_id(&parts.headers, seen);
    account.identified(addr, &request_id);
    let path = target::path(&parts.uri)?;
    let facts = facts(client, parts, host, &path, addr);
    let decision = decide(&snapshot, &facts, |total| fastrand::u32(..total));
    if let Decision::Health = decision {
        return Ok(health(client.worker.phase(), account).map(Ready::own));
    }
    let mut edits = Edits::default();
    if let Some(rule) = decision.rule() {
        account.matched(rule);
        match on_request(rule, &facts) {
            ControlFlow::Continue(wanted) => edits = wanted,
            ControlFlow::Break(response) => return Ok(response.map(Ready::own)),
        }
    }
    if let Some(auth) = auth.filter(|_| client.tls.is_none()) {
        // Only now: most such requests have been sent to https.
        check_client(auth, None).map_err(Failure::not_let_in)?;
    }
    let (rule, backend, upstream, pinned, hash) = chosen(&decision)?;
    if !std::ptr::eq(backend, &raw const rule.backend) {
        account.log(|entry| entry.split_to(backend.service()));
    }
    target::check_undisputed(&snapshot.routes, host, &parts.uri, rule)?;
    limit(upload, rule.policy.body_limit)?;
    let permit = upstream.endpoints.admit().map_err(|why| Failure::full(backend.service(), why))?;

    let scheme = facts.scheme;
    let upgrade = match &extended {
        Some(extended) => Some(extended.protocol.clone()),
        None => headers::wanted_upgrade(parts, seen, upload).cloned(),
    };
    if let Some(auth) = auth {
        write_headers(&mut parts.headers, auth, client.certificate());
    }
    let mut told = told(client, (parts, seen), &ip, (asked_host.clone(), request_id));
    if !edits.is_nothing() {
        headers::prepare(parts, &mut told, upload);
        edits.apply(parts);
    }
    let transport = &rule.policy.transport;
    let trip = Trip {
        client,
        account,
        rule,
        backend,
        upstream,
        transport,
        tls: transport.tls_for(scheme == Scheme::Https),
        balance: upstream.balance(hash),
        hash,
        permit: RefCell::new(Some(permit)),
        pinned,
        parts,
        upload,
        told,
        upgrade: upgrade.as_ref(),
    };
    let answered = forward(&trip).await?;
    let (head, said) = for_client(&trip, answered, extended.is_some(), version)?;
    let permit = trip.permit.take();
    Ok(Response::from_parts(head, Ready { said, permit, idle: rule.policy.timeouts.read, extended }))
}

impl Ready {
    /// An answer of our own.
    fn own(text: Bytes) -> Self {
        Self { said: Said::Content(Content::Whole(text)), permit: None, idle: Duration::ZERO, extended: None }
    }
}

/// What load balancers are told.
fn health(phase: Phase, account: &Account) -> Response<Bytes> {
    account.is_probe();
    let (status, text) = match phase {
        Phase::Serving => (StatusCode::OK, "ok\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    };
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers::name_server(response.headers_mut());
    response
}

/// What no pod should see stops here. Afterwards there is exactly one good Host, and the target is a path.
fn let_in(client: &Client, parts: &mut Parts) -> Result<(Seen, Option<Extended>), Failure> {
    let extended = connect::take(parts);
    Ok((target::check(parts, client.tls.is_some())?, extended))
}

/// A rule, where it sends a request, the pods there, the one that a cookie names, and the key of a hash.
type Chosen<'a> = (&'a Arc<Rule>, &'a Backend, &'a Arc<Upstream>, Option<EndpointIndex>, Option<u64>);

fn chosen<'a>(decision: &Decision<'a>) -> Result<Chosen<'a>, Failure> {
    match *decision {
        Decision::Health | Decision::NotFound { .. } => Err(Failure::NO_RULE),
        Decision::Unavailable { rule, reason } => Err(Failure::unavailable(rule.backend.service(), reason)),
        Decision::Forward { rule, backend, upstream, pinned, hash } => Ok((rule, backend, upstream, pinned, hash)),
    }
}

/// All that rules, filters and templates may ask.
fn facts<'a>(client: &Client, parts: &'a Parts, host: &'a str, path: &'a str, addr: IpAddr) -> Facts<'a> {
    let listener = &client.listener;
    // Whoever names the very port where we serve HTTP reaches HTTPS where we serve that; anybody else comes through something
    // that has ports of its own, which are the usual ones.
    let colon = memchr::memrchr(b':', host.as_bytes());
    let names_port = colon.is_some_and(|colon| host[colon + 1..].parse() == Ok(listener.port));
    let https_port = if names_port { client.worker.options.https_port } else { Some(HTTPS_PORT) };
    // A trusted proxy may have taken off TLS.
    let said = if client.is_trusted() { parts.headers.get(FORWARDED_PROTO) } else { None };
    let scheme = match said.map(HeaderValue::as_bytes) {
        Some(b"https") => Scheme::Https,
        Some(b"http") => Scheme::Http,
        Some(_) | None => listener.scheme,
    };
    let (method, uri, headers) = (&parts.method, &parts.uri, &parts.headers);
    Facts { method, uri, headers, host, path, scheme, client: addr, port: listener.port, https_port }
}

fn told<'a>(
    client: &'a Client,
    (parts, seen): (&Parts, Seen),
    ip: &'a HeaderValue,
    (host, request_id): (HeaderValue, HeaderValue),
) -> Told<'a> {
    let is_trusted = client.is_trusted();
    let said = |name: &HeaderName| if is_trusted { parts.headers.get(name).cloned() } else { None };
    let scheme = HeaderValue::from_static(client.listener.scheme.as_str());
    Told {
        ip,
        host: said(&FORWARDED_HOST).unwrap_or(host),
        port: said(&FORWARDED_PORT).map_or(Cow::Borrowed(&client.listener.port_value), Cow::Owned),
        scheme: said(&FORWARDED_PROTO).unwrap_or(scheme),
        request_id,
        seen,
        takes_trailers: headers::takes_trailers(&parts.headers, seen),
        says_length: headers::says_length(parts, seen),
        is_prepared: false,
    }
}

/// Refuses content over the limit at once if its length is known, and else when it comes.
fn limit(upload: &Upload, limit: Option<u64>) -> Result<(), Failure> {
    let Some(limit) = limit else { return Ok(()) };
    if upload.length().is_some_and(|length| length > limit) {
        return Err(Failure::TOO_LARGE);
    }
    upload.limit(limit);
    Ok(())
}

/// Makes of a pod's answer the one its client sees.
fn for_client(
    trip: &Trip<'_>,
    answered: Answered,
    is_extended: bool,
    version: Version,
) -> Result<(http::response::Parts, Said), Failure> {
    let Answered { response, endpoint, cookie } = answered;
    let (mut head, mut said) = response.into_parts();
    let protocol = if let Said::Upgraded(_) = said { head.headers.remove(header::UPGRADE) } else { None };
    headers::name_server(&mut head.headers);
    if let Some(cookie) = cookie {
        head.headers.append(header::SET_COOKIE, cookie);
    }
    on_response(trip.rule, &mut head.headers);
    match &mut said {
        Said::Upgraded(_) if is_extended => Extended::strip(&mut head.headers),
        Said::Upgraded(_) => {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.extend(protocol.map(|protocol| (header::UPGRADE, protocol)));
        }
        // For an extended CONNECT, every success would mean that it is one.
        Said::Content(_) if is_extended && head.status.is_success() => {
            return Err(trip.failed(endpoint, Kind::BadAnswer, &"did not change to the WebSocket protocol"));
        }
        // HTTP/1.0 has no chunks: content of unknown length ends with the connection, and version 1.0 tells hyper to say so.
        Said::Content(content) if version == Version::HTTP_10 && !content.has_length() => {
            content.end_with_close();
            head.version = Version::HTTP_10;
        }
        Said::Content(_) => head.version = Version::HTTP_11,
    }
    Ok((head, said))
}

/// Whether this connection may ask for this host, and its client at all; what the host demands of clients.
fn admit<'a>(client: &Client, snapshot: &'a Snapshot, host: &str) -> Result<Option<&'a Arc<ClientAuth>>, Failure> {
    let auth = snapshot.tls.client_auth(host);
    let Some(secured) = &client.tls else { return Ok(auth) };
    if !snapshot.tls.serves(&secured.config, secured.sni.as_deref(), host) {
        return Err(Failure::MISDIRECTED);
    }
    if let Some(auth) = auth {
        check_client(auth, secured.certificate.as_deref()).map_err(Failure::not_let_in)?;
    }
    Ok(auth)
}

/// Gives the answer the body it goes with, and a changed protocol its tunnel.
fn finish(
    client: &Rc<Client>,
    response: Response<Ready>,
    account: Account,
    under_way: UnderWay,
) -> Response<AnswerBody> {
    let (mut head, Ready { said, permit, idle, extended }) = response.into_parts();
    let content = match said {
        Said::Content(content) => content,
        Said::Upgraded(switched) => {
            let Switched { io, said, carried } = *switched;
            let tunnel = Tunnel { pod: io, said, idle, account, _carried: carried, _permit: permit };
            match extended {
                None => drop(client.tunnel.replace(Some(tunnel))),
                Some(extended) => {
                    head.status = StatusCode::OK;
                    extended.start(client, tunnel);
                }
            }
            return Response::from_parts(head, AnswerBody::uncounted(under_way));
        }
    };
    Response::from_parts(head, AnswerBody::new(content, account, permit, under_way))
}
