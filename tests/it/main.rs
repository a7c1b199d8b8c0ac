//! Every test that needs the whole program or real sockets, in one binary.

mod ingress_conformance;
mod services;
mod soak;
mod tidy;
