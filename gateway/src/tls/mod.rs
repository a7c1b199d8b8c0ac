//! TLS on both sides: certificates for clients by SNI, and how pods are verified.

mod backend;
mod unverified;

pub use backend::BackendTls;
pub(crate) use unverified::unverified;
