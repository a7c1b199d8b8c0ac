//! A Kubernetes service proxy: which pod answers this connection.
//!
//! It knows Services, endpoints and sockets. It does *not* know HTTP, Kubernetes wire types, files or clusters:
//! whoever has those turns them into [`model::ServicePort`]s.
//!
//! Where to look: [`model`] is what a Service is; [`eligible`] says which endpoints may be used; [`endpoints`] makes
//! the choice, with [`affinity`] and `balance`; [`table`] leads from an address to the choice.

pub mod affinity;
mod balance;
pub mod eligible;
pub mod endpoints;
pub mod model;
pub mod stats;
pub mod table;
