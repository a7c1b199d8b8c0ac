//! Tests in a real cluster: its control plane alone, or with two nodes.

mod bed;
mod chapter;
mod controller;
mod deploy;
mod high_availability;
mod ingress;
mod node;
mod nodes;
mod outage;
mod pools;
mod rbac;
