//! A whole acceptor against real clients, with certificates made for the test.

mod accept;
mod backend;
mod client_auth;
mod ocsp;
mod resumption;
pub(crate) mod support;
