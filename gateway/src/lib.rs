//! Tidegate: the front door of a Kubernetes cluster, or of a laptop without one.
//!
//! *Compile, then serve.* Everything outside becomes [`compile::objects::Objects`]; a pure compiler turns them into one
//! immutable [`snapshot::Snapshot`] and a list of findings; planes serve the snapshot. There is no other way in.
//!
//! ```text
//! files ─▶ control ─▶ compile ─▶ Snapshot ─▶ workers: L4 (tidegate-l4) and http
//!                        └─▶ findings        admin, dns, explain, controller (writes to the cluster)
//! ```

pub mod access_log;
pub mod admin;
pub mod app;
pub mod bind;
pub mod capabilities;
pub mod check;
pub mod cli;
pub mod compile;
pub mod control;
pub mod controller;
pub mod dns;
pub mod explain;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health_check;
pub mod http;
mod local_addresses;
mod planes;
pub mod pod;
mod probe;
pub mod route;
mod small_server;
pub mod snapshot;
pub mod tail;
pub mod takeover;
pub mod tls;
pub mod worker;

/// The version of this Tidegate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
