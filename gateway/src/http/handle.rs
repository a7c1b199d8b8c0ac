//! The story of a request.

use std::rc::Rc;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use super::{
    account::Account,
    body::{Aborted, AnswerBody, PodBody},
    connection::Client,
    decision::{Decision, decide},
    failure::{Failure, Kind},
    forward::{Trip, forward},
    headers, target,
    upload::Upload,
};

/// Answers a request: with a pod's answer, or with what went wrong. An error means that the client cannot be answered
/// any more; its connection is closed.
pub(crate) async fn handle(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Aborted> {
    let account = Account::open(&client.worker);
    account.asked(&client, (request.method(), request.uri(), request.version(), request.headers()));
    let (request, upload) = Upload::take(request, &client);
    let progress = upload.progress();
    if let Some(progress) = &progress {
        account.uploading(progress.clone());
    }
    match answer(&client, request, upload, &account).await {
        Ok(response) => {
            account.answering(&response);
            Ok(response.map(|body| AnswerBody::pod(body, account)))
        }
        Err(failure) if failure.kind == Kind::ClientGone => Err(Aborted::ClientGone),
        Err(failure) => {
            account.fail(failure.kind);
            let mut response = failure.response();
            if progress.is_some_and(|upload| upload.is_unfinished()) {
                // The rest of the request will not be read, so nothing can follow it.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            account.answering(&response);
            Ok(response.map(|text| AnswerBody::text(text, account)))
        }
    }
}

async fn answer(
    client: &Rc<Client>,
    mut request: Request<()>,
    upload: Upload,
    account: &Account,
) -> Result<Response<PodBody>, Failure> {
    // This configuration serves the request to its end, whatever is published meanwhile.
    let snapshot = client.worker.snapshot();
    let version = request.version();

    // What no pod should see stops here. Afterwards there is exactly one good Host, and the target is a path.
    target::check(&mut request)?;
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();

    let (rule, upstream, pinned) = match decide(&snapshot, host, target::path(&request), request.headers()) {
        Decision::NotFound => return Err(Failure::NO_RULE),
        Decision::Unavailable { rule, reason } => {
            account.matched(rule);
            return Err(Failure::unavailable(rule.backend.service(), reason));
        }
        Decision::Forward { rule, upstream, pinned } => (rule, upstream, pinned),
    };
    account.matched(rule);

    headers::for_pod(&mut request, client, &upload);
    if let Some(id) = request.headers().get(headers::REQUEST_ID) {
        account.log(|entry| entry.identified(id.as_bytes()));
    }
    let trip = Trip { client, rule, upstream, pinned };
    let mut answered = forward(&trip, account, request.map(|()| upload)).await?;

    headers::for_client(&mut answered.response, version)
        .map_err(|what| trip.failed(answered.endpoint, Kind::BadAnswer, &what))?;
    if let Some(cookie) = answered.cookie {
        answered.response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(answered.response)
}
