//! Metrics of HTTP: by rule, and those that belong to none.
//!
//! A rule's counters are shown for each rule and not added up by host or Service: the sum would fall when one of the rules is
//! deleted, and Prometheus takes a counter that falls for one that began anew.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
    metrics::MetricType,
};

use super::Family;
use crate::{
    http::{ConnectionKind, HttpStats, Kind, stats::sum},
    route::{
        Rule,
        stats::{LATENCY_BUCKETS, Latencies, RuleStats},
    },
    snapshot::Snapshot,
};

/// Rules in one scrape, of those that were asked at least once: with 45 series each, 20 MB.
const MAX_RULES: usize = 2_000;

/// A metric of the HTTP data plane as a whole.
struct HttpMetric(Family, fn(&HttpStats) -> u64);

const HTTP_METRICS: [HttpMetric; 13] = [
    HttpMetric(Family::counter("http_connections", "Client connections accepted."), |stats| stats.accepted.value()),
    HttpMetric(Family::gauge("http_connections_open", "Client connections open now."), HttpStats::connections),
    HttpMetric(
        Family::counter("http_accept_errors", "Accepts that failed, mostly for want of file descriptors."),
        |stats| stats.accept_errors.value(),
    ),
    HttpMetric(Family::gauge("http_requests_under_way", "Requests begun and not ended yet."), HttpStats::under_way),
    HttpMetric(Family::counter("http_received_bytes", "Bytes from clients, heads included."), |stats| {
        stats.bytes_in.value()
    }),
    HttpMetric(Family::counter("http_sent_bytes", "Bytes to clients, heads included."), |stats| {
        stats.bytes_out.value()
    }),
    HttpMetric(Family::counter("http_upstream_connections", "Connections to pods opened."), |stats| {
        stats.upstream_opened.value()
    }),
    HttpMetric(
        Family::counter("http_upstream_reused", "Requests sent on a connection to a pod that was kept."),
        |stats| stats.upstream_reused.value(),
    ),
    HttpMetric(
        Family::counter("http_upstream_resent", "Requests sent again as the pod had closed the kept connection."),
        |stats| stats.upstream_resent.value(),
    ),
    HttpMetric(
        Family::counter("http_upstream_retries", "Requests sent to a further pod as the one before failed."),
        |stats| stats.upstream_retried.value(),
    ),
    HttpMetric(Family::counter("tls_handshakes", "TLS handshakes with clients that succeeded."), |stats| {
        stats.tls_accepted.value()
    }),
    HttpMetric(Family::counter("tls_handshakes_failed", "TLS handshakes with clients that failed."), |stats| {
        stats.tls_failed.value()
    }),
    HttpMetric(
        Family::counter("http2_floods", "HTTP/2 connections closed as their clients flooded us with frames of no use."),
        |stats| stats.h2_floods.value(),
    ),
];

/// Writes the metrics, and gives back how many rules were left out.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    workers: &[Arc<HttpStats>],
    snapshot: Option<&Snapshot>,
) -> Result<(&'static str, u64), fmt::Error> {
    for HttpMetric(family, value) in &HTTP_METRICS {
        family.encode_one(encoder, sum(workers, value))?;
    }
    by_worker(encoder, workers)?;
    by_kind(encoder, workers)?;
    let (mut rules, left_out) = asked(snapshot);
    rules.extend(workers.first().map(|stats| Asked { labels: UNMATCHED, stats: &stats.unmatched }));
    Family::counter("http_requests", "Requests ended, by rule, status and protocol; a host of \"\" is no rule.")
        .encode(encoder, rules.iter().flat_map(Asked::answers))?;
    let bytes = rules.iter().map(|asked| (asked.labels, asked.stats.bytes().0));
    Family::counter("http_request_content_bytes", "Content of requests.").encode(encoder, bytes)?;
    let bytes = rules.iter().map(|asked| (asked.labels, asked.stats.bytes().1));
    Family::counter("http_response_content_bytes", "Content of answers.").encode(encoder, bytes)?;
    for (name, help, latencies) in LATENCIES {
        histogram(encoder, name, help, rules.iter().map(|asked| (asked.labels, latencies(asked.stats))))?;
    }
    Ok(("http_rule", left_out as u64))
}

/// The rules that were asked at least once, and how many of them are too many.
pub(super) fn asked(snapshot: Option<&Snapshot>) -> (Vec<Asked<'_>>, usize) {
    let mut rules: Vec<Asked<'_>> =
        snapshot.iter().flat_map(|snapshot| snapshot.routes.rules()).map(|r| Asked::of(r)).collect();
    rules.retain(|asked| asked.stats.total() > 0);
    rules.sort_unstable_by_key(|asked| asked.labels);
    // An Ingress and a default backend of one name may agree in all labels; twice the same series spoils a scrape.
    rules.dedup_by_key(|asked| asked.labels);
    let left_out = rules.len().saturating_sub(MAX_RULES);
    rules.truncate(MAX_RULES);
    (rules, left_out)
}

fn by_worker(encoder: &mut DescriptorEncoder<'_>, workers: &[Arc<HttpStats>]) -> fmt::Result {
    let each = |number: fn(&HttpStats) -> u64| {
        workers.iter().enumerate().map(move |(n, stats)| ([("worker", n.to_string())], number(stats)))
    };
    Family::counter("worker_http_connections", "Client connections accepted, by worker.")
        .encode(encoder, each(|stats| stats.accepted.value()))?;
    Family::gauge("worker_http_connections_open", "Client connections open now, by worker.")
        .encode(encoder, each(HttpStats::connections))?;
    Family::counter("worker_http_requests", "Requests ended, by worker.")
        .encode(encoder, each(|stats| stats.ended.value()))
}

fn by_kind(encoder: &mut DescriptorEncoder<'_>, workers: &[Arc<HttpStats>]) -> fmt::Result {
    let connections = |number: fn((u64, u64)) -> u64| {
        ConnectionKind::ALL
            .into_iter()
            .map(move |kind| ([("kind", kind.as_str())], sum(workers, |stats| number(stats.connections_of(kind)))))
    };
    Family::counter("http_connections_by_kind", "Client connections, by kind; one is of several.")
        .encode(encoder, connections(|(opened, _)| opened))?;
    Family::gauge("http_connections_open_by_kind", "Client connections open now, by kind; one is of several.")
        .encode(encoder, connections(|(_, open)| open))?;
    let failures =
        Kind::ALL.into_iter().map(|kind| ([("kind", kind.as_str())], sum(workers, |stats| stats.failures_of(kind))));
    Family::counter("http_failures", "Requests that failed, by what was wrong.").encode(encoder, failures)
}

/// Name and help of a histogram of rules, and what is in it.
type LatencyMetric = (&'static str, &'static str, fn(&RuleStats) -> Latencies);

const LATENCIES: [LatencyMetric; 3] = [
    ("http_request_duration_seconds", "From the end of a request's head to the end of its answer.", RuleStats::latency),
    (
        "http_first_byte_seconds",
        "From the end of a request's head to the head of a pod's answer.",
        RuleStats::first_byte,
    ),
    ("http_upstream_connect_seconds", "How long connecting to a pod took.", RuleStats::connect),
];

/// A rule that was asked.
pub(super) struct Asked<'a> {
    pub(super) labels: RuleLabels<'a>,
    pub(super) stats: &'a RuleStats,
}

pub(super) type RuleLabels<'a> = [(&'static str, &'a str); 7];

type AnswerLabels<'a> = (RuleLabels<'a>, ([(&'static str, String); 1], [(&'static str, &'static str); 1]));

/// Requests that met no rule.
const UNMATCHED: RuleLabels<'static> =
    [("namespace", ""), ("ingress", ""), ("host", ""), ("path", ""), ("path_type", ""), ("service", ""), ("port", "")];

impl<'a> Asked<'a> {
    fn of(rule: &'a Rule) -> Self {
        let (path, path_type) = rule.path.as_ref().map_or(("", ""), |path| (&**path.as_str(), path.kind()));
        // `namespace/service:port`; the namespace is the rule's own.
        let backend = rule.backend.service();
        let service = backend.split_once('/').map_or(&**backend, |(_, service)| service);
        let (service, port) = service.rsplit_once(':').unwrap_or((service, ""));
        let labels = [
            ("namespace", &*rule.owner.namespace),
            ("ingress", &*rule.owner.name),
            ("host", &*rule.host),
            ("path", path),
            ("path_type", path_type),
            ("service", service),
            ("port", port),
        ];
        Self { labels, stats: &rule.stats }
    }

    fn answers(&self) -> impl Iterator<Item = (AnswerLabels<'a>, u64)> + use<'a> {
        let labels = self.labels;
        self.stats.by_code_and_protocol().into_iter().map(move |((code, protocol), count)| {
            ((labels, ([("code", code.to_string())], [("protocol", protocol)])), count)
        })
    }
}

/// Writes a histogram of the samples that are not empty.
pub(super) fn histogram<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (L, Latencies)>,
) -> fmt::Result {
    let mut samples = samples.into_iter().filter(|(_, latencies)| latencies.count() > 0).peekable();
    if samples.peek().is_none() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, Latencies { buckets, seconds }) in samples {
        let bounds = LATENCY_BUCKETS.into_iter().chain([f64::INFINITY]);
        let counts: Vec<(f64, u64)> = bounds.zip(buckets).collect();
        let count = buckets.iter().sum();
        metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, count, &counts, None)?;
    }
    Ok(())
}
