//! The admin interface: whether this process is well, what it counts, and what it serves. For operators, never for clients.
//!
//! It reads the published [`Snapshot`](crate::snapshot::Snapshot), the counters and the [`status`], and changes nothing (but in the demo). It is
//! not authenticated: it belongs on a loopback address, or on a network that only operators and their Prometheus reach.
//!
//! | question | answer |
//! |---|---|
//! | which paths there are | [`server`] |
//! | what the demo's page asks for and may do | [`demo`] |
//! | the metrics | [`metrics`] |
//! | the JSON of `/config` and `/findings` | [`view`], filled in by `config` |
//! | the dashboard and the demo's page | `page` |
//! | what `/live` shows, and how it reaches a browser | `live`; `stream` |
//! | what all of it reads | [`AdminState`] |
//! | who may ask | `host` |
//! | what the process itself reports: listeners, drain | [`status`] |
//! | asking a running instance | [`client`] |
//! | the tables of `tidegate get` | [`tables`] |

mod answer;
pub mod client;
mod config;
pub mod demo;
mod host;
mod live;
pub mod metrics;
mod page;
pub mod server;
mod state;
pub mod status;
mod stream;
pub mod tables;
pub mod view;

#[cfg(test)]
mod fixture;

pub use server::{serve, serve_metrics};
pub use state::AdminState;
pub use status::{BindFailed, Listening, RuntimeStatus};
