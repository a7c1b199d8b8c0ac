//! Metrics of the cluster as a source: what is watched, and how that goes. Several namespaces of a kind count as one.

use std::{collections::BTreeMap, fmt};

use prometheus_client::encoding::DescriptorEncoder;

use super::{Family, seconds};
use crate::control::kubernetes::{failure::Failure, status::KubernetesStatus};

/// What is known of one kind.
#[derive(Default)]
struct Row {
    /// Watches that are answered, or have listed all, are fewer than there are.
    ill: u64,
    unsynced: u64,
    objects: u64,
    lists: u64,
    failures: [u64; Failure::REASONS.len()],
}

/// Writes the metrics.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, status: &KubernetesStatus) -> fmt::Result {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for watch in status.watches() {
        let row = rows.entry(watch.watched().resource).or_default();
        row.ill += u64::from(!watch.is_well());
        row.unsynced += u64::from(!watch.is_synced());
        row.objects += watch.objects();
        row.lists += watch.lists();
        row.failures.iter_mut().zip(watch.failures()).for_each(|(sum, count)| *sum += count);
    }
    let by_resource = |value: fn(&Row) -> u64| {
        rows.iter().map(|(resource, row)| ([("resource", *resource)], value(row))).collect::<Vec<_>>()
    };
    Family::gauge("kubernetes_connected", "1 if the API server answers the watch of these objects.")
        .encode(encoder, by_resource(|row| u64::from(row.ill == 0)))?;
    Family::gauge("kubernetes_synced", "1 once all of these objects have been listed.")
        .encode(encoder, by_resource(|row| u64::from(row.unsynced == 0)))?;
    Family::gauge("kubernetes_objects", "Objects of the cluster that are held.")
        .encode(encoder, by_resource(|row| row.objects))?;
    Family::counter(
        "kubernetes_lists",
        "Lists of these objects that were read: more than one if something was missed.",
    )
    .encode(encoder, by_resource(|row| row.lists))?;
    let failures = rows.iter().flat_map(|(resource, row)| {
        let named = Failure::REASONS.iter().zip(row.failures);
        named.map(move |(reason, count)| ([("resource", *resource), ("reason", *reason)], count))
    });
    Family::counter("kubernetes_failures", "Requests to the API server that went wrong, by reason.")
        .encode(encoder, failures)?;
    let away = status.away().map_or(0.0, |away| away.as_secs_f64());
    seconds(encoder, "kubernetes_away_seconds", "For how long the API server has not answered; 0 while it does.", away)
}
