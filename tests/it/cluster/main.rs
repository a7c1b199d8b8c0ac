//! Tests in a real cluster: its control plane alone, or with two nodes.

mod bed;
mod chapter;
mod controller;
mod deploy;
mod ingress;
mod node;
mod nodes;
mod pools;
mod rbac;
