//! The cluster's DNS: names of Services and their endpoints, answered from one immutable [`Zone`].
//!
//! It follows the Kubernetes DNS specification 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>) and, where that is silent, what `CoreDNS` does.
//! It does not know where Services come from: whoever builds a `Zone` hands in the ready endpoints only.
//!
//! | file | noun |
//! |---|---|
//! | `service` | a Service as DNS sees it: what a zone is built from |
//! | [`zone`] | the records: a pure lookup from name and type to an answer |
//! | `respond` | one packet in, one packet out: header rules, EDNS, truncation |
//! | [`server`] | the UDP and TCP sockets, with their limits |
//! | `forward` | every other name, asked of other servers |
//!
//! What a client sees:
//! - Names outside the cluster's domain, and `in-addr.arpa`/`ip6.arpa` names of addresses that are not ours, are forwarded
//!   when servers to forward to are given, and `REFUSED` when not: we are no authority to say that they do not exist.
//! - Pod records (`10-0-0-1.namespace.pod.cluster.local`) are disabled and answer `NXDOMAIN`: they would prove nothing about
//!   the pod, and `CoreDNS` offers them for old clients only.
//! - Before the first zone is built every question answers `SERVFAIL`, so that clients ask again instead of caching a lie.

mod forward;
mod respond;
pub mod server;
mod service;
pub mod zone;

pub use server::DnsServer;
pub use zone::{Answer, DnsEndpoint, DnsPort, DnsProtocol, DnsService, DnsServiceKind, Verdict, Zone};
