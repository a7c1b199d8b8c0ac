//! The story of a request.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::ControlFlow,
    rc::Rc,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use super::{
    account::Account,
    body::{Aborted, AnswerBody, PodBody},
    connection::Client,
    decision::{Decision, decide},
    facts::{Facts, Scheme},
    failure::{Failure, Kind},
    filters::{Edits, on_request, on_response},
    forward::{Trip, forward},
    headers, target,
    upload::Upload,
};

/// Answers a request: with a pod's answer, or with what went wrong. An error means that the client cannot be answered
/// any more; its connection is closed.
pub(crate) async fn handle(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Aborted> {
    let mut account = Account::open(client.worker.stats.clone());
    let (request, upload) = Upload::take(request, &client);
    let progress = upload.progress();
    match answer(&client, request, upload, &mut account).await {
        Ok(Answer::Pods(response)) => {
            account.status = response.status().as_u16();
            Ok(response.map(|body| AnswerBody::pod(body, account)))
        }
        Ok(Answer::Own(mut response)) => {
            account.status = response.status().as_u16();
            if progress.is_some_and(|upload| upload.is_unfinished()) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|text| AnswerBody::text(text, account)))
        }
        Err(failure) if failure.kind == Kind::ClientGone => Err(Aborted::ClientGone),
        Err(failure) => {
            account.fail(failure.kind);
            let mut response = failure.response();
            if progress.is_some_and(|upload| upload.is_unfinished()) {
                // The rest of the request will not be read, so nothing can follow it.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|text| AnswerBody::text(text, account)))
        }
    }
}

/// An answer that goes to the client.
enum Answer {
    /// A pod's.
    Pods(Response<PodBody>),
    /// One that the rule gives itself.
    Own(Response<Bytes>),
}

async fn answer(
    client: &Rc<Client>,
    mut request: Request<()>,
    upload: Upload,
    account: &mut Account,
) -> Result<Answer, Failure> {
    // This configuration serves the request to its end, whatever is published meanwhile.
    let snapshot = client.worker.snapshot();
    let version = request.version();

    // What no pod should see stops here. Afterwards there is exactly one good Host, and the target is a path.
    target::check(&mut request)?;
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();

    let facts = Facts {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        host,
        path: target::path(&request),
        scheme: Scheme::Http,
        client: client.ip.to_str().ok().and_then(|ip| ip.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        port: client.port.to_str().ok().and_then(|port| port.parse().ok()).unwrap_or(0),
        https_port: None,
    };
    let decision = decide(&snapshot, &facts, |total| fastrand::u32(..total));
    let mut edits = Edits::default();
    if let Some(rule) = decision.rule() {
        account.rule = Some(rule.stats.clone());
        match on_request(rule, &facts) {
            ControlFlow::Continue(wanted) => edits = wanted,
            ControlFlow::Break(response) => return Ok(Answer::Own(response)),
        }
    }
    let (rule, upstream, pinned) = match decision {
        Decision::NotFound { .. } => return Err(Failure::NO_RULE),
        Decision::Unavailable { rule, reason } => return Err(Failure::unavailable(rule.backend.service(), reason)),
        Decision::Forward { rule, upstream, pinned, .. } => (rule, upstream, pinned),
    };

    headers::for_pod(&mut request, client, &upload);
    let (mut parts, ()) = request.into_parts();
    edits.apply(&mut parts);
    let request = Request::from_parts(parts, ());
    let trip = Trip { client, rule, upstream, pinned };
    let mut answered = forward(&trip, request.map(|()| upload)).await?;

    headers::for_client(&mut answered.response, version)
        .map_err(|what| trip.failed(answered.endpoint, Kind::BadAnswer, &what))?;
    if let Some(cookie) = answered.cookie {
        answered.response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    on_response(rule, answered.response.headers_mut());
    Ok(Answer::Pods(answered.response))
}
