//! The HTTP data plane: accepts connections, finds the rule for each request, passes it to a pod and the answer back.
//!
//! Workers share nothing: an [`HttpWorker`] lives on one thread, in one `LocalSet`, and owns its connections, its pool
//! of connections to pods and its view of the configuration. Only the counters are common to all. It knows rules and
//! endpoints, never Kubernetes: whatever is configurable arrives compiled, in a [`Snapshot`].
//!
//! Where to look: `handle` is the story of a request, top to bottom; [`decision`] says where it goes (`split`: to the canary
//! or not), [`facts`] is all it asks; `filters` are what a rule does to requests and answers, with the tools `rewrite`, `template`
//! and `cookie_edit`; `refusals` is the table of what is refused, by `head_guard` and `target`; `headers` says what is removed
//! and added, `seen` which fields there are; `forward` tries pods, as often as `budget` allows, `exchange` asks one of them,
//! `pod` speaks with it; `upload` and `body` are the contents both ways; `failure` maps what went wrong to a status. An `arrival`
//! (PROXY protocol, TLS) becomes a `connection`, knows by its `preface` what is spoken (HTTP/2 is watched by `h2_guard` and `h2_streams`), is parked in a slot (`slots`) while nothing is, and may become
//! something else (`upgrade`, and `connect` for HTTP/2); `worker` listens and drains; [`limits`] holds every limit.

mod account;
mod arrival;
mod attempts;
mod body;
mod budget;
mod client;
mod client_io;
mod connect;
mod connection;
pub mod cookie_affinity;
mod cookie_edit;
pub mod decision;
mod exchange;
pub mod facts;
mod failure;
pub(crate) mod filters;
mod forward;
mod h2_guard;
mod h2_streams;
mod handle;
pub(crate) mod head_guard;
pub(crate) mod headers;
pub mod limits;
mod local;
pub(crate) mod pod;
pub(crate) mod preface;
mod refusals;
pub(crate) mod rewrite;
pub(crate) mod seen;
mod slots;
pub(crate) mod split;
pub mod stats;
pub(crate) mod target;
mod template;
mod upgrade;
pub(crate) mod upload;
mod warn;
mod worker;

#[cfg(test)]
mod tests;

pub use decision::{Decision, decide};
pub use facts::{Facts, Scheme};
pub use failure::Kind;
pub use limits::HttpLimits;
pub use stats::{ConnectionKind, HttpStats};
pub use worker::{HttpOptions, HttpWorker};
