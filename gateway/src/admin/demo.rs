//! `/demo/…`: what the demo's page asks for, and what it may do. There is none of it but in `tidegate demo`.
//!
//! Whoever reaches the admin address may act, as it is with everything here; only other web pages may not, who could do so by
//! the browser of somebody who may.

use std::{fmt::Debug, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use tokio::sync::watch;

use super::{
    answer::{Answer, NO_CONFIGURATION},
    view::DemoView,
};
use crate::{small_server::Content, snapshot::Snapshot};

/// The demo, as its page sees it.
pub trait Demo: Debug + Send + Sync {
    /// It hears where the process serves, before anybody asks.
    fn serving(&self, serving: Serving);
    /// How things are; `None` before the first configuration.
    fn view(&self) -> Option<DemoView>;
    /// What a pod has logged, also of one that was killed not long ago.
    fn log(&self, pod: &str) -> Option<String>;
    /// Does it, and completes once that is live. The error is a sentence for whoever asked.
    fn act(self: Arc<Self>, action: Action) -> Acting;
}

/// An action under way.
pub type Acting = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Where the process serves.
#[derive(Clone, Debug)]
pub struct Serving {
    /// HTTP.
    pub http: SocketAddr,
    /// HTTPS, if anywhere.
    pub https: Option<SocketAddr>,
    /// The admin interface.
    pub admin: SocketAddr,
    /// The configurations, as they become live.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
}

/// What can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The process of the pod of this name ends as by `kill -9`, and its object is deleted.
    Kill(String),
    /// One more kubia pod.
    Add,
    /// `sessionAffinity` of Service [`AFFINITY_SERVICE`] becomes `ClientIP` or `None`.
    Affinity {
        /// `ClientIP`.
        client_ip: bool,
    },
}

/// The Service whose affinity can be changed.
pub const AFFINITY_SERVICE: &str = "kubia-nodeport";

/// Answers what is asked below `/demo/`.
pub(super) async fn respond(demo: &Arc<dyn Demo>, head: &Parts) -> Response<Content> {
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let acts = match path {
        "/demo/state" | "/demo/logs" => false,
        "/demo/kill" | "/demo/add" | "/demo/affinity" => true,
        _ => return Answer::text(StatusCode::NOT_FOUND, format!("there is no {path} here\n")).response(),
    };
    let allow = if acts { "POST" } else { "GET, HEAD" };
    if !allow.split(", ").any(|method| method == head.method) {
        let mut response = Answer::text(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow}\n")).response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        return response;
    }
    if acts && !is_same_origin(&head.headers) {
        return Answer::text(StatusCode::FORBIDDEN, "only the demo's own page may do this\n").response();
    }
    let answer = match path {
        "/demo/state" => state(demo),
        "/demo/logs" => log(demo, query),
        _ => act(demo, path, query).await,
    };
    answer.response()
}

fn state(demo: &Arc<dyn Demo>) -> Answer {
    demo.view()
        .map_or_else(|| Answer::text(StatusCode::SERVICE_UNAVAILABLE, NO_CONFIGURATION), |view| Answer::json(&view))
}

fn log(demo: &Arc<dyn Demo>, query: &str) -> Answer {
    let Some(pod) = value(query, "pod") else { return bad_request("say which: ?pod=NAME") };
    match demo.log(pod) {
        Some(log) => Answer::text(StatusCode::OK, log),
        None => Answer::text(StatusCode::NOT_FOUND, format!("there is no pod {pod}\n")),
    }
}

async fn act(demo: &Arc<dyn Demo>, path: &str, query: &str) -> Answer {
    let action = match (path, value(query, "pod"), value(query, "service"), value(query, "to")) {
        ("/demo/add", ..) => Action::Add,
        ("/demo/kill", Some(pod), ..) => Action::Kill(pod.to_owned()),
        ("/demo/affinity", _, Some(AFFINITY_SERVICE), Some("ClientIP")) => Action::Affinity { client_ip: true },
        ("/demo/affinity", _, Some(AFFINITY_SERVICE), Some("None")) => Action::Affinity { client_ip: false },
        ("/demo/kill", ..) => return bad_request("say which: ?pod=NAME"),
        _ => return bad_request("say which, and what: ?service=kubia-nodeport&to=ClientIP, or None"),
    };
    // In a task of its own: it is done to the end, even if whoever asked goes away.
    match tokio::spawn(demo.clone().act(action)).await {
        Ok(Ok(())) => state(demo),
        Ok(Err(why)) => Answer::text(StatusCode::CONFLICT, why + "\n"),
        Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn bad_request(why: &str) -> Answer {
    Answer::text(StatusCode::BAD_REQUEST, format!("{why}\n"))
}

/// A parameter of the query. Nothing is decoded: the names that mean something here need no encoding.
fn value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Whether a request does not come from another web page. Browsers say where each POST comes from, and a page cannot change what they
/// say; other programs say nothing.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let is_own = |origin: &HeaderValue| {
        host.is_some_and(|host| origin.to_str().is_ok_and(|origin| origin.strip_prefix("http://") == Some(host)))
    };
    headers.get_all(header::ORIGIN).iter().all(is_own)
        && headers.get_all("sec-fetch-site").iter().all(|site| site == "same-origin")
}

#[cfg(test)]
#[path = "demo_tests.rs"]
mod tests;
