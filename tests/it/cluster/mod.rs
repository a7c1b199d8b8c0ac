//! Tests in a real cluster: its control plane alone, or with two nodes.

mod bed;
mod chapter;
mod deploy;
mod ingress;
mod controller;
mod nodes;
mod pools;
mod rbac;
