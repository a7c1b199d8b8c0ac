//! The same numbers again, under the names and labels of ingress-nginx, for dashboards and alerts that were made for it
//! (`--nginx-metrics`).
//!
//! Where it differs: `method` and `canary` are empty, as nothing is counted by them; sizes are of content alone and have no buckets
//! but the last, so that sums and averages are right and quantiles are not to be had.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{
    Family, Scrape,
    http::{Asked, asked, histogram},
    process::Usage,
    time,
};
use crate::{
    http::{HttpStats, stats::sum},
    route::stats::{Latencies, RuleStats},
};

/// What one scrape reads.
#[derive(Debug)]
pub(super) struct Nginx(pub(super) Scrape);

type Labels<'a> = [(&'static str, &'a str); 10];

/// Its counters have no `_total`: in this format only a metric of unknown type may be called so.
const fn untyped(name: &'static str, help: &'static str) -> Family {
    Family { name, help, kind: MetricType::Unknown }
}

/// Name and help of a histogram, and what is in it.
type LatencyMetric = (&'static str, &'static str, fn(&RuleStats) -> Latencies);

const LATENCIES: [LatencyMetric; 4] = [
    ("nginx_ingress_controller_request_duration_seconds", "Time of requests to their end.", RuleStats::latency),
    // Time to the end of a pod's answer: its client has it then, too.
    ("nginx_ingress_controller_response_duration_seconds", "Time of pods' answers to their end.", RuleStats::latency),
    ("nginx_ingress_controller_header_duration_seconds", "Time to the head of an answer.", RuleStats::first_byte),
    ("nginx_ingress_controller_connect_duration_seconds", "Time of connecting to pods.", RuleStats::connect),
];

impl Collector for Nginx {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (encoder, scrape) = (&mut encoder, &self.0);
        let (rules, _) = asked(scrape.snapshot.as_deref());
        let requests = rules.iter().flat_map(|asked| {
            let counts = asked.stats.by_code().collect::<Vec<_>>();
            counts.into_iter().map(|(code, count)| ((labels(asked), [("status", code.to_string())]), count))
        });
        untyped("nginx_ingress_controller_requests", "Requests, by Ingress and status.").encode(encoder, requests)?;
        for (name, help, latencies) in LATENCIES {
            histogram(encoder, name, help, rules.iter().map(|asked| (labels(asked), latencies(asked.stats))))?;
        }
        sizes(encoder, "nginx_ingress_controller_request_size", "Content of requests.", &rules, |bytes| bytes.0)?;
        sizes(encoder, "nginx_ingress_controller_response_size", "Content of answers.", &rules, |bytes| bytes.1)?;
        process(encoder, scrape)
    }
}

/// In its order; what is constant names nobody, as there is no controller's Pod to name.
fn labels<'a>(asked: &Asked<'a>) -> Labels<'a> {
    let own = |name: &str| asked.labels.iter().find(|(found, _)| *found == name).map_or("", |(_, value)| *value);
    [
        ("controller_namespace", ""),
        ("controller_class", "k8s.io/ingress-nginx"),
        ("controller_pod", ""),
        ("namespace", own("namespace")),
        ("ingress", own("ingress")),
        ("service", own("service")),
        ("host", own("host")),
        ("path", own("path")),
        ("method", ""),
        ("canary", ""),
    ]
}

fn sizes(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rules: &[Asked<'_>],
    bytes: fn((u64, u64)) -> u64,
) -> fmt::Result {
    if rules.is_empty() {
        return Ok(());
    }
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for asked in rules {
        let (sum, count) = (bytes(asked.stats.bytes()) as f64, asked.stats.total());
        let buckets = [(f64::INFINITY, count)];
        metric.encode_family(&labels(asked))?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}

fn process(encoder: &mut DescriptorEncoder<'_>, scrape: &Scrape) -> fmt::Result {
    let all = |number: fn(&HttpStats) -> u64| sum(&scrape.http, number);
    let name = "nginx_ingress_controller_nginx_process_connections";
    let states = [("active", all(HttpStats::connections))].map(|(state, count)| ([("state", state)], count));
    Family::gauge(name, "Client connections open now.").encode(encoder, states)?;
    let accepted = all(|stats| stats.accepted.value());
    let states = [("accepted", accepted), ("handled", accepted)].map(|(state, count)| ([("state", state)], count));
    // As a counter it would have the name of the gauge.
    untyped("nginx_ingress_controller_nginx_process_connections_total", "Client connections accepted.")
        .encode(encoder, states)?;
    Family::counter("nginx_ingress_controller_nginx_process_requests", "Requests begun.")
        .encode_one(encoder, all(|stats| stats.requests.value()))?;
    if let Some(usage) = Usage::read() {
        Family::gauge("nginx_ingress_controller_nginx_process_resident_memory_bytes", "Memory in RAM.")
            .encode_one(encoder, usage.resident_bytes)?;
        encoder
            .encode_descriptor(
                "nginx_ingress_controller_nginx_process_cpu_seconds",
                "Time on a processor.",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, f64>(&usage.cpu_seconds, None)?;
    }
    if let Some(configured) = scrape.runtime.configured() {
        let name = "nginx_ingress_controller_config_last_reload_successful";
        Family::gauge(name, "Always 1: a configuration cannot fail.").encode_one(encoder, 1)?;
        let name = "nginx_ingress_controller_config_last_reload_successful_timestamp_seconds";
        time(encoder, name, "When the configuration in use went live.", configured)?;
    }
    Ok(())
}
