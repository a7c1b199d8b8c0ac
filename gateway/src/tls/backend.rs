//! TLS to pods.

use std::sync::Arc;

use rustls::{ClientConfig, pki_types::ServerName};

/// How a connection to a pod is secured. Two rules with the same one share connections.
#[derive(Clone, Debug)]
pub struct BackendTls {
    /// What is trusted and shown.
    pub config: Arc<ClientConfig>,
    /// The name that the pod's certificate must have, and that is sent as SNI; `None` to send none (and verify none).
    pub name: Option<ServerName<'static>>,
}

impl PartialEq for BackendTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && self.name == other.name
    }
}
