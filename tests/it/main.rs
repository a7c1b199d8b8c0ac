//! Every test that needs the whole program or real sockets, in one binary; but for those in a
//! cluster, which run apart (`cluster/main.rs`).

mod broken;
mod browser;
mod controller;
mod demo_page;
mod deploy;
mod dns;
mod docs;
mod endpoints;
mod examples;
mod explain;
mod h2spec;
mod hostile;
mod ingress_conformance;
mod kubernetes;
mod live;
mod never_drop;
mod observe;
mod policy;
mod robust;
mod robust_tls;
mod services;
mod soak;
mod tickets;
mod tidy;
