//! Metrics of HTTP: by rule, and those that belong to none.
//!
//! A rule's counters are shown for each rule and not added up by host or Service: the sum would fall when one of the rules is
//! deleted, and Prometheus takes a counter that falls for one that began anew.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::Family;
use crate::{
    http::HttpStats,
    route::{
        Rule,
        stats::{LATENCY_BUCKETS, RuleStats},
    },
    snapshot::Snapshot,
};

/// Rules in one scrape, of those that were asked at least once: with 16 series each, 5 MB.
const MAX_RULES: usize = 2_000;

/// A metric of the HTTP data plane as a whole.
struct HttpMetric(Family, fn(&HttpStats) -> u64);

const HTTP_METRICS: [HttpMetric; 9] = [
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
];

/// Writes the metrics, and gives back how many rules were left out.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    stats: &HttpStats,
    snapshot: Option<&Snapshot>,
) -> Result<(&'static str, u64), fmt::Error> {
    for HttpMetric(family, value) in &HTTP_METRICS {
        family.encode_one(encoder, value(stats))?;
    }
    let failures = stats.failures().map(|(kind, count)| ([("kind", kind.as_str())], count));
    Family::counter("http_failures", "Requests that failed, by what was wrong.").encode(encoder, failures)?;
    let mut rules: Vec<Asked<'_>> =
        snapshot.iter().flat_map(|snapshot| snapshot.routes.rules()).map(|r| Asked::of(r)).collect();
    rules.retain(|asked| asked.stats.total() > 0);
    rules.sort_unstable_by_key(|asked| asked.labels);
    // An Ingress and a default backend of one name may agree in all labels; twice the same series spoils a scrape.
    rules.dedup_by_key(|asked| asked.labels);
    let left_out = rules.len().saturating_sub(MAX_RULES);
    rules.truncate(MAX_RULES);
    rules.push(Asked { labels: UNMATCHED, stats: &stats.unmatched });
    Family::counter("http_requests", "Requests ended, by rule and status; a host of \"\" is no rule.")
        .encode(encoder, rules.iter().flat_map(Asked::by_code))?;
    latency(encoder, &rules)?;
    Ok(("http_rule", left_out as u64))
}

/// A rule that was asked.
struct Asked<'a> {
    labels: RuleLabels<'a>,
    stats: &'a RuleStats,
}

type RuleLabels<'a> = [(&'static str, &'a str); 7];

type CodeLabels<'a> = (RuleLabels<'a>, [(&'static str, String); 1]);

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

    fn by_code(&self) -> impl Iterator<Item = (CodeLabels<'a>, u64)> {
        let labels = self.labels;
        self.stats.by_code().map(move |(code, count)| ((labels, [("code", code.to_string())]), count))
    }
}

fn latency(encoder: &mut DescriptorEncoder<'_>, rules: &[Asked<'_>]) -> fmt::Result {
    let help = "From the end of a request's head to the end of its answer.";
    let mut metric = encoder.encode_descriptor("http_request_duration_seconds", help, None, MetricType::Histogram)?;
    for asked in rules {
        let (counts, sum) = asked.stats.latency();
        let bounds = LATENCY_BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
        let count = counts.iter().sum();
        metric.encode_family(&asked.labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}
