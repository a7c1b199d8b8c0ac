//! Tests in a real cluster: its control plane alone, or with two nodes.

mod bed;
mod deploy;
mod nodes;
mod outage;
mod rbac;
