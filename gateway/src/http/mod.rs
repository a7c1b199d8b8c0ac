//! The HTTP data plane: accepts connections, finds the rule for each request, passes it to a pod and the answer back.
//!
//! Workers share nothing: an [`HttpWorker`] lives on one thread, in one `LocalSet`, and owns its connections, its pool
//! of connections to pods and its view of the configuration. Only the counters are common to all. It knows rules and
//! endpoints, never Kubernetes: whatever is configurable arrives compiled, in a [`Snapshot`].
//!
//! Where to look: `handle` is the story of a request, top to bottom; [`decision`] says where it goes; `target` and
//! `headers` what is refused, removed and added; `forward` tries pods, `upstream` is a connection to one, `pool` keeps
//! them; `body` streams both ways; `failure` maps what went wrong to a status; `connection` is a client's connection;
//! `worker` listens and drains; [`limits`] holds every limit.

mod account;
mod attempts;
mod body;
mod client_io;
mod connection;
pub mod cookie_affinity;
pub mod decision;
mod failure;
mod forward;
mod handle;
mod headers;
pub mod limits;
mod pool;
pub mod stats;
mod target;
mod upload;
mod upstream;
mod warn;
mod worker;

#[cfg(test)]
mod tests;

pub use decision::{Decision, decide};
pub use failure::Kind;
pub use limits::HttpLimits;
pub use stats::{ConnectionKind, HttpStats};
pub use worker::HttpWorker;
