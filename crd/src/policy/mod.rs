//! Tidegate's own kinds, of the API group `tidegate.io`.
//!
//! The CustomResourceDefinitions in `crd/yaml` are made of these types: what a field's comment says is what `kubectl explain` shows,
//! and a test fails when a file is stale. The API server keeps the rules that are written beside a field (CEL); a manifest on a laptop meets
//! no API server, so whoever compiles an object checks what it needs.

mod ingress_class_parameters;
mod load_balancer_pool;
mod resource;
#[cfg(test)]
mod schema;

pub use ingress_class_parameters::{
    DefaultBackend, IngressClassParameters, IngressClassParametersSpec, IngressClassParametersStatus, SecretReference,
};
pub use load_balancer_pool::{LoadBalancerPool, LoadBalancerPoolSpec, LoadBalancerPoolStatus};

/// The API group of Tidegate's own kinds.
pub const GROUP: &str = "tidegate.io";

#[cfg(test)]
mod tests;
