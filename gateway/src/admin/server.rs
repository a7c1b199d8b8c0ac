//! The admin HTTP server. Each path is a row of [`PATHS`].
//!
//! A request's body is never read. Who may ask is not checked, except that it must not be a web page (see `host`).

use std::{
    future::{Future, pending},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    answer::{Answer, NO_CONFIGURATION},
    config::findings,
    demo, host, metrics, page,
    state::AdminState,
    stream::Streams,
    view::ConfigView,
};
use crate::{
    small_server::{self, Content, Limits},
    snapshot::Snapshot,
};

/// Connections: many times what a Prometheus, probes and a person need. Heads: only `/explain` asks for more than a line, and a
/// header or two fit in this; operators are near. A connection may last longer than any scrape, so that only who has stalled
/// is cut. A browser that takes nothing of a stream for that long sleeps, or is gone: it comes back by itself.
const LIMITS: Limits = Limits {
    connections: 256,
    head_bytes: 16 << 10,
    head_timeout: Duration::from_secs(10),
    connection_timeout: Duration::from_secs(60),
    client_stall: Duration::from_secs(10),
};

/// Large answers made at the same time: each takes tens of megabytes in a cluster of 10,000 Services.
const LARGE_ANSWERS: usize = 2;

/// What there is to ask for.
const PATHS: [(&str, &str); 8] = [
    ("/", "the dashboard, for browsers; this list for others"),
    ("/healthz", "200 while the process lives, also while it drains; 500 if it cannot follow changes any more"),
    (
        "/readyz",
        "200 once the first configuration is live (with all that matters of a cluster), until the process drains; else 503 and why",
    ),
    ("/metrics", "counters in the OpenMetrics text format, for Prometheus"),
    ("/config", "the configuration in use, as JSON"),
    ("/findings", "what is wrong with the manifests, as JSON"),
    (
        "/explain",
        "why a request goes where it goes, as JSON: ?target=URL[&from=IP][&header=K:V]..., or of what /live told: ?event=ID",
    ),
    ("/live", "what happens at this moment, as server-sent events: [?filter=TEXT]"),
];

/// What of it tells nothing of the configuration but names.
const METRICS_PATHS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Serves until `shutdown` completes. Also notes in the status when each configuration became live.
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: impl Future<Output = ()>) {
    let note = note_configurations(state.clone());
    tokio::select! {
        () = answer("admin interface", listener, Server::new(state, false), shutdown) => {}
        () = note => {}
    }
}

/// Serves health and metrics alone until `shutdown` completes: whoever may ask sees nothing of the configuration but names.
pub async fn serve_metrics(listener: TcpListener, state: Arc<AdminState>, shutdown: impl Future<Output = ()>) {
    answer("metrics interface", listener, Server::new(state, true), shutdown).await;
}

async fn answer(name: &'static str, listener: TcpListener, server: Server, shutdown: impl Future<Output = ()>) {
    let server = Arc::new(server);
    let answer = move |request| {
        let server = server.clone();
        async move { server.respond(request).await }
    };
    small_server::serve(name, listener, LIMITS, answer, shutdown).await;
}

/// Never ends.
async fn note_configurations(state: Arc<AdminState>) {
    let mut snapshots = state.snapshot.clone();
    snapshots.mark_changed();
    while snapshots.changed().await.is_ok() {
        if snapshots.borrow_and_update().is_some() {
            state.runtime.set_configured(SystemTime::now());
        }
    }
    pending::<()>().await;
}

#[derive(Debug)]
struct Server {
    state: Arc<AdminState>,
    /// Whether there is nothing but [`METRICS_PATHS`].
    metrics_alone: bool,
    large_answers: Arc<Semaphore>,
    live: Streams,
}

impl Server {
    fn new(state: Arc<AdminState>, metrics_alone: bool) -> Self {
        let large_answers = Arc::new(Semaphore::new(LARGE_ANSWERS));
        let live = Streams::new(state.clone(), large_answers.clone());
        Self { state, metrics_alone, large_answers, live }
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Content> {
        if !host::is_allowed(request.uri(), request.headers()) {
            let text = "the admin interface answers to IP addresses and localhost only, in case a web page is asking\n";
            return Answer::text(StatusCode::FORBIDDEN, text).response();
        }
        if host::is_of_another_site(request.headers()) {
            return Answer::text(StatusCode::FORBIDDEN, "another site's page has no business here\n").response();
        }
        if self.metrics_alone && !METRICS_PATHS.contains(&request.uri().path()) {
            let text = format!("here is nothing but {}\n", METRICS_PATHS.join(", "));
            return Answer::text(StatusCode::NOT_FOUND, text).response();
        }
        if let Some(demo) = &self.state.demo
            && request.uri().path().starts_with("/demo/")
        {
            return demo::respond(demo, &request.into_parts().0).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n").response();
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let demo = self.state.demo.as_ref().map(|demo| || demo.view());
        if let Some(response) = page::respond(request.uri(), request.headers(), demo) {
            return response;
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let answer = match request.uri().path() {
            "/" => Answer::text(StatusCode::OK, list()),
            "/healthz" => self.state.liveness(),
            "/readyz" => self.state.readiness(),
            "/metrics" => self.large(|state| Answer::new(metrics::CONTENT_TYPE, metrics::encode(state))).await,
            "/config" => {
                self.of_snapshot(|state, snapshot| Answer::json(&ConfigView::new(snapshot, &state.runtime))).await
            }
            "/findings" => self.of_snapshot(|state, snapshot| Answer::json(&findings(snapshot, &state.runtime))).await,
            "/explain" if query.starts_with("event=") => self.explain_event(&query["event=".len()..]).await,
            "/explain" => self.of_snapshot(move |state, snapshot| explained((state.explain)(snapshot, &query))).await,
            "/live" => self.live.open(&query),
            path => Answer::text(StatusCode::NOT_FOUND, format!("there is no {path} here. There is:\n{}", list())),
        };
        answer.response()
    }

    async fn explain_event(&self, id: &str) -> Answer {
        let Some(event) = id.parse().ok().and_then(|id| self.state.tail.find(id)) else {
            let text =
                "there is no such event: only the last ones are remembered, and none from before somebody watched\n";
            return Answer::text(StatusCode::NOT_FOUND, text);
        };
        self.of_snapshot(move |state, snapshot| explained((state.explain_event)(snapshot, &event))).await
    }

    async fn of_snapshot(&self, make: impl FnOnce(&AdminState, &Snapshot) -> Answer + Send + 'static) -> Answer {
        self.large(|state| {
            let snapshot = state.snapshot.borrow().clone();
            snapshot
                .map_or_else(|| Answer::text(StatusCode::SERVICE_UNAVAILABLE, NO_CONFIGURATION), |s| make(state, &s))
        })
        .await
    }

    /// Makes an answer on another thread, so that the control loop and the probes never wait for it.
    async fn large(&self, make: impl FnOnce(&AdminState) -> Answer + Send + 'static) -> Answer {
        let failed = || Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made; see the log\n");
        let Ok(permit) = self.large_answers.clone().acquire_owned().await else { return failed() };
        let state = self.state.clone();
        let make = move || {
            let answer = make(&state);
            // Here, as this goes on when nobody waits for it any more.
            drop(permit);
            answer
        };
        tokio::task::spawn_blocking(make).await.unwrap_or_else(|_| failed())
    }
}

fn list() -> String {
    PATHS.iter().map(|(path, what)| format!("{path:<10} {what}\n")).collect()
}

fn explained(explanation: Result<Value, String>) -> Answer {
    match explanation {
        Ok(value) => Answer::json(&value),
        Err(message) => Answer::text(StatusCode::BAD_REQUEST, message + "\n"),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
