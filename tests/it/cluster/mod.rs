//! Tests in a real cluster: its control plane alone, or with two nodes.

mod bed;
mod nodes;
mod outage;
