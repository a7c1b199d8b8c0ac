//! Tidegate: the front door of a Kubernetes cluster, or of a laptop without one.

pub mod compile;
pub mod dns;
pub mod pod;
pub mod route;
pub mod snapshot;
