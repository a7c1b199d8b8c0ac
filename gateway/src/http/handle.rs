//! The story of a request.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::Incoming;

use super::{
    account::Account,
    body::{Aborted, AnswerBody, Content},
    client::{Client, UnderWay},
    connect::{self, Extended},
    decision::{Decision, decide},
    failure::{Failure, Kind},
    forward::{Answered, Said, Switched, Trip, forward},
    headers::{self, Told},
    target,
    upgrade::Tunnel,
    upload::Upload,
    worker::Phase,
};
use crate::{
    snapshot::Snapshot,
    tls::{check_client, write_headers},
};

/// Answers a request: with a pod's answer, or with what went wrong. An error means that the client cannot be answered
/// any more; its connection is closed.
pub(crate) async fn handle(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Aborted> {
    let under_way = client.begin();
    let mut account = Account::open(client.worker.stats.clone());
    let (parts, upload) = Upload::take(request, &client);
    let version = parts.version;
    let mut response = match answer(&client, parts, &upload, &mut account).await {
        Ok(response) => {
            account.status = response.status().as_u16();
            finish(&client, response, account, under_way)
        }
        Err(failure) if failure.kind == Kind::ClientGone => return Err(Aborted::ClientGone),
        Err(failure) => {
            account.fail(failure.kind, failure.status().as_u16());
            let mut response = failure.response();
            if upload.is_unfinished() {
                // The rest of the request will not be read, so nothing can follow it.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response.map(|text| AnswerBody::new(Content::Whole(text), account, under_way))
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

/// An answer, and what the client's connection becomes if it is 101.
struct Ready {
    said: Said,
    /// How long an upgraded connection may be idle, and how it came about.
    idle: std::time::Duration,
    extended: Option<Extended>,
}

async fn answer(
    client: &Rc<Client>,
    mut parts: Parts,
    upload: &Upload,
    account: &mut Account,
) -> Result<Response<Ready>, Failure> {
    // This configuration serves the request to its end, whatever is published meanwhile.
    let snapshot = client.worker.snapshot();
    let version = parts.version;

    // What no pod should see stops here. Afterwards there is exactly one good Host, and the target is a path.
    let extended = connect::take(&mut parts);
    let mut request = Request::from_parts(parts, ());
    target::check(&mut request, client.tls.is_some())?;
    let (mut parts, ()) = request.into_parts();
    let asked_host = parts.headers.get(header::HOST).cloned().unwrap_or(HeaderValue::from_static(""));
    let host = asked_host.to_str().unwrap_or_default();
    admit(client, &snapshot, host, &mut parts)?;
    let path = target::path(&parts.uri)?;

    let (rule, upstream, pinned) = match decide(&snapshot, host, &path, &parts.headers) {
        Decision::NotFound => return Err(Failure::NO_RULE),
        Decision::Unavailable { rule, reason } => {
            account.rule = Some(rule.stats.clone());
            return Err(Failure::unavailable(rule.backend.service(), reason));
        }
        Decision::Forward { rule, upstream, pinned } => (rule, upstream, pinned),
    };
    account.rule = Some(rule.stats.clone());
    target::check_undisputed(&snapshot.routes, host, &parts.uri, rule)?;

    if let Some(limit) = rule.policy.body_limit {
        if upload.length().is_some_and(|length| length > limit) {
            return Err(Failure::TOO_LARGE);
        }
        upload.limit(limit);
    }
    let upgrade = match &extended {
        Some(extended) => Some(&extended.protocol),
        None => headers::wanted_upgrade(&parts, upload),
    };
    let ip = client.asked_by(&parts.headers);
    let scheme = client.listener.scheme.to_value();
    let told = Told { ip: &ip, host: asked_host.clone(), port: &client.listener.port, scheme };
    let trip = Trip { client, rule, upstream, pinned, parts: &parts, upload, told, upgrade };
    let Answered { response, endpoint, cookie } = forward(&trip).await?;

    let (mut head, mut said) = response.into_parts();
    let protocol = head.headers.get(header::UPGRADE).cloned();
    headers::for_client(&mut head.headers);
    if let Some(cookie) = cookie {
        head.headers.append(header::SET_COOKIE, cookie);
    }
    match &mut said {
        Said::Upgraded(_) if extended.is_some() => Extended::strip(&mut head.headers),
        Said::Upgraded(_) => {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.extend(protocol.map(|protocol| (header::UPGRADE, protocol)));
        }
        // For an extended CONNECT, every success would mean that it is one.
        Said::Content(_) if extended.is_some() && head.status.is_success() => {
            return Err(trip.failed(endpoint, Kind::BadAnswer, &"did not change to the WebSocket protocol"));
        }
        // HTTP/1.0 has no chunks: content of unknown length ends with the connection, and version 1.0 tells hyper to say so.
        Said::Content(content) if version == Version::HTTP_10 && !content.has_length() => {
            content.end_with_close();
            head.version = Version::HTTP_10;
        }
        Said::Content(_) => head.version = Version::HTTP_11,
    }
    Ok(Response::from_parts(head, Ready { said, idle: rule.policy.timeouts.read, extended }))
}

/// Whether this connection may ask for this host, and its client at all; tells the pod who the client is.
fn admit(client: &Client, snapshot: &Snapshot, host: &str, parts: &mut Parts) -> Result<(), Failure> {
    let secured = client.tls.as_ref();
    if let Some(secured) = secured
        && !snapshot.tls.serves(&secured.config, secured.sni.as_deref(), host)
    {
        return Err(Failure::MISDIRECTED);
    }
    let Some(auth) = snapshot.tls.client_auth(host) else { return Ok(()) };
    let certificate = secured.and_then(|secured| secured.certificate.as_deref());
    check_client(auth, certificate).map_err(Failure::not_let_in)?;
    write_headers(&mut parts.headers, auth, certificate);
    Ok(())
}

/// Gives the answer the body it goes with, and a changed protocol its tunnel.
fn finish(
    client: &Rc<Client>,
    response: Response<Ready>,
    account: Account,
    under_way: UnderWay,
) -> Response<AnswerBody> {
    let (mut head, Ready { said, idle, extended }) = response.into_parts();
    let content = match said {
        Said::Content(content) => content,
        Said::Upgraded(switched) => {
            let Switched { io, said, carried } = *switched;
            client.worker.stats.upgraded.add(1);
            let nothing = Account::open(client.worker.stats.clone());
            let tunnel = Tunnel { pod: io, said, idle, account, _carried: carried };
            match extended {
                None => drop(client.tunnel.replace(Some(tunnel))),
                Some(extended) => {
                    head.status = StatusCode::OK;
                    extended.start(client, tunnel);
                }
            }
            return Response::from_parts(head, AnswerBody::new(Content::Whole(Bytes::new()), nothing, under_way));
        }
    };
    Response::from_parts(head, AnswerBody::new(content, account, under_way))
}
