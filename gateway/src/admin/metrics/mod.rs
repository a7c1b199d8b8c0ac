//! `/metrics`: everything that is counted, in the OpenMetrics text format.
//!
//! Nothing is kept for this: each scrape reads the snapshot and the counters. Every label's value comes from the configuration
//! or from a fixed list, never from a request. Even so a large configuration has more series than a Prometheus wants, so each
//! kind has a limit, and `tidegate_left_out` says how many of that kind were beyond it.
//!
//! A family of metrics is a row of a table: `services` has those of service ports and endpoints, `http` those of HTTP, `tls` those
//! of certificates, `kubernetes` those of the cluster's API server, `controller` those of what is written there, `process` those every
//! process has. `nginx` says some of it again under the names that dashboards of ingress-nginx ask for.

mod controller;
mod http;
mod kubernetes;
mod nginx;
mod process;
mod services;
mod tls;

use std::{fmt, sync::Arc, time::SystemTime, time::UNIX_EPOCH};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{state::AdminState, status::RuntimeStatus};
use crate::{
    access_log::LogStats, compile::finding::Severity, controller::status::ControllerStatus, http::HttpStats,
    snapshot::Snapshot,
};

/// OpenMetrics 1.0: what Prometheus asks for first. Its older format has other rules for the names of counters.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Put before every name.
const PREFIX: &str = "tidegate";

/// All metrics as they are now.
pub(crate) fn encode(state: &AdminState) -> String {
    let scrape = Scrape {
        snapshot: state.snapshot.borrow().clone(),
        runtime: state.runtime.clone(),
        http: state.http.clone(),
        access_log: state.access_log.clone(),
    };
    let mut foreign = Registry::default();
    foreign.register_collector(Box::new(process::Process { started: state.runtime.started() }));
    if state.nginx_metrics {
        foreign.register_collector(Box::new(nginx::Nginx(scrape.clone())));
    }
    let mut own = Registry::with_prefix(PREFIX);
    own.register_collector(Box::new(scrape));
    let mut out = String::new();
    text::encode_registry(&mut out, &own).expect("writing to a String does not fail");
    text::encode(&mut out, &foreign).expect("writing to a String does not fail");
    out
}

/// What one scrape reads.
#[derive(Clone, Debug)]
struct Scrape {
    snapshot: Option<Arc<Snapshot>>,
    runtime: Arc<RuntimeStatus>,
    http: Arc<[Arc<HttpStats>]>,
    access_log: Option<Arc<LogStats>>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        runtime(&mut encoder, &self.runtime)?;
        if let Some(log) = &self.access_log {
            Family::counter("access_log_lines", "Lines of the access log that were written.")
                .encode_one(&mut encoder, log.written())?;
            Family::counter(
                "access_log_dropped",
                "Lines of the access log that were lost: what takes them was too slow or failed.",
            )
            .encode_one(&mut encoder, log.dropped())?;
        }
        if let Some(status) = self.runtime.kubernetes() {
            kubernetes::encode(&mut encoder, status)?;
        }
        if let Some(status) = self.runtime.controller() {
            controller::encode(&mut encoder, status)?;
        }
        let mut left_out = Vec::new();
        if let Some(snapshot) = &self.snapshot {
            configuration(&mut encoder, snapshot, &self.runtime)?;
            left_out.extend(services::encode(&mut encoder, snapshot)?);
            left_out.push(tls::encode(&mut encoder, &snapshot.tls)?);
        }
        if !self.http.is_empty() {
            left_out.push(http::encode(&mut encoder, &self.http, self.snapshot.as_deref())?);
        }
        let family = Family::gauge(
            "left_out",
            "Service ports, endpoints, certificates and HTTP rules that are not shown, by kind.",
        );
        family.encode(&mut encoder, left_out.into_iter().map(|(kind, count)| ([("kind", kind)], count)))
    }
}

/// Name, help and type of some metrics.
#[derive(Clone, Copy, Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
}

impl Family {
    /// `name` is without `_total`, which the format adds.
    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Counter }
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Gauge }
    }

    /// Writes the family with its samples; nothing at all if there are none.
    fn encode<L: EncodeLabelSet>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        for (labels, value) in samples {
            let mut sample = metric.encode_family(&labels)?;
            match self.kind {
                MetricType::Counter => sample.encode_counter::<NoLabelSet, _, u64>(&value, None)?,
                _ => sample.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    /// Writes the family with its only sample, which has no labels.
    fn encode_one(&self, encoder: &mut DescriptorEncoder<'_>, value: u64) -> fmt::Result {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, self.kind)?;
        match self.kind {
            MetricType::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value, None),
            _ => metric.encode_gauge(&value),
        }
    }
}

/// A gauge that is no whole number; its name has the unit.
fn seconds(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn runtime(encoder: &mut DescriptorEncoder<'_>, runtime: &RuntimeStatus) -> fmt::Result {
    encoder
        .encode_descriptor("build", "The version of this Tidegate.", None, MetricType::Info)?
        .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
    time(encoder, "start_time_seconds", "When the process began.", runtime.started())?;
    if let Some(configured) = runtime.configured() {
        time(encoder, "config_last_change_seconds", "When the configuration in use went live.", configured)?;
    }
    let listeners = [("open", runtime.listening().len()), ("failed", runtime.failed().len())];
    Family::gauge("listeners", "Frontends of Services, by whether they could be opened.")
        .encode(encoder, listeners.map(|(state, count)| ([("state", state)], count as u64)))?;
    Family::gauge("draining", "1 while the process is about to end.")
        .encode_one(encoder, u64::from(runtime.is_draining()))
}

fn time(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, at: SystemTime) -> fmt::Result {
    seconds(encoder, name, help, at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
}

fn configuration(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot, runtime: &RuntimeStatus) -> fmt::Result {
    let of_controller = runtime.controller().map_or_else(Vec::new, ControllerStatus::findings);
    Family::gauge("config_generation", "Configurations this process has had.")
        .encode_one(encoder, snapshot.generation)?;
    let findings = [Severity::Info, Severity::Warning, Severity::Error].map(|severity| {
        let all = snapshot.findings.iter().chain(&of_controller);
        let count = all.filter(|finding| finding.severity == severity).count();
        // A frontend that cannot be opened is an error that only the running process can find.
        let failed = if severity == Severity::Error { runtime.failed().len() } else { 0 };
        ([("severity", severity.as_str())], (count + failed) as u64)
    });
    Family::gauge("findings", "What is wrong with the objects, by severity; /findings has the list.")
        .encode(encoder, findings)?;
    let objects = [("Service", snapshot.services.len()), ("Ingress", snapshot.ingresses.len())];
    Family::gauge("objects", "Objects in the configuration, by kind.")
        .encode(encoder, objects.map(|(kind, count)| ([("kind", kind)], count as u64)))
}

#[cfg(test)]
mod tests;
