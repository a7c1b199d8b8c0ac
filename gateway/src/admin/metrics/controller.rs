//! Metrics of what is written to the cluster.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::Family;
use crate::controller::status::ControllerStatus;

/// Writes the metrics.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, status: &ControllerStatus) -> fmt::Result {
    Family::gauge("leader", "1 if this replica is the one that writes to the cluster.")
        .encode_one(encoder, u64::from(status.is_leader()))?;
    let writes = status
        .written()
        .map(|(writing, result, count)| ([("resource", writing.resource()), ("result", result)], count));
    Family::counter("writes", "Requests to write to the cluster, by what they were to write and what came of it.")
        .encode(encoder, writes)
}
