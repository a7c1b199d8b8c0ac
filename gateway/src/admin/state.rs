//! `AdminState`: all that the admin interface reads.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use tokio::sync::watch;

use super::{
    answer::{Answer, NO_CONFIGURATION},
    demo::Demo,
    status::RuntimeStatus,
};
use crate::{
    access_log::LogStats,
    controller::status::ControllerStatus,
    http::HttpStats,
    snapshot::Snapshot,
    tail::{Event, Tail},
};

/// What the admin interface reads.
#[derive(Debug)]
pub struct AdminState {
    /// The configuration in use; `None` before the first.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// What the process reports of itself.
    pub runtime: Arc<RuntimeStatus>,
    /// Counters of the HTTP data plane, by worker; none if there is none.
    pub http: Arc<[Arc<HttpStats>]>,
    /// What is being connected and asked at this moment.
    pub tail: Arc<Tail>,
    /// How the access log is doing, if there is one.
    pub access_log: Option<Arc<LogStats>>,
    /// Whether `/metrics` also has the names of ingress-nginx.
    pub nginx_metrics: bool,
    /// Answers `/explain` from its query; the error is for whoever asked.
    pub explain: fn(&Snapshot, &str) -> Result<Value, String>,
    /// The demo, if this is one.
    pub demo: Option<Arc<dyn Demo>>,
    /// Answers `/explain` for something that happened.
    pub explain_event: fn(&Snapshot, &Event) -> Result<Value, String>,
}

impl AdminState {
    /// Nothing would follow changes any more if the control thread were gone, and only a restart brings it back.
    pub(super) fn liveness(&self) -> Answer {
        if self.snapshot.has_changed().is_err() && !self.runtime.is_draining() {
            Answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the control thread has ended: restart the process\n")
        } else {
            Answer::text(StatusCode::OK, "ok\n")
        }
    }

    pub(super) fn readiness(&self) -> Answer {
        if self.runtime.is_draining() {
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, "draining: the process is about to end\n")
        } else if let Some(kubernetes) = self.runtime.kubernetes() {
            let written = self.runtime.controller().map_or_else(String::new, ControllerStatus::report);
            let report = kubernetes.report() + &written;
            if self.snapshot.borrow().is_none() || !kubernetes.is_ready() {
                let text = format!("not all of the cluster is known yet:\n{report}");
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, text)
            } else {
                Answer::text(StatusCode::OK, format!("ok\n{report}"))
            }
        } else if self.snapshot.borrow().is_none() {
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, NO_CONFIGURATION)
        } else {
            Answer::text(StatusCode::OK, "ok\n")
        }
    }
}
