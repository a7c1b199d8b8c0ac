//! Every test that needs the whole program or real sockets, in one binary.

mod broken;
mod dns;
mod examples;
mod explain;
mod ingress_conformance;
mod observe;
mod services;
mod soak;
mod tidy;
