//! TLS on both sides: certificates for clients by SNI, and how pods are verified.

mod backend;

pub use backend::BackendTls;
