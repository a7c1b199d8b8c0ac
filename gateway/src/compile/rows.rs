//! Services and Ingresses as people see them: the rows of `tidegate get` and of `/config`.

use std::{net::IpAddr, sync::Arc};

/// One Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRow {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub kind: &'static str,
    /// ClusterIPs; empty for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// LoadBalancer IPs and external IPs, or the name an ExternalName points to.
    pub external: Vec<String>,
    /// Whether it is a LoadBalancer without an address.
    pub pending: bool,
    /// Its ports.
    pub ports: Vec<PortRow>,
    /// `healthCheckNodePort`, if it has one.
    pub health_check_port: Option<u16>,
    /// Its selector, by key. No map: an empty one of these is nothing, and one of one key some sixty bytes.
    pub selector: Box<[(Box<str>, Box<str>)]>,
    /// Session affinity: `None`, or `ClientIP` and its timeout in seconds.
    pub affinity_seconds: Option<u64>,
    /// `metadata.creationTimestamp` in seconds since the Unix epoch, if it has one.
    pub created: Option<i64>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// Its name, or empty.
    pub name: Arc<str>,
    /// The port.
    pub port: u16,
    /// The node port, if any.
    pub node_port: Option<u16>,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// `targetPort` as written.
    pub target: String,
}

/// What an Ingress has of its class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The IngressClassParameters that the class names.
    pub parameters: Arc<str>,
    /// The annotations that it has from there.
    pub annotations: Vec<Arc<str>>,
}

/// One Ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressRow {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its class, if it names one.
    pub class: Option<String>,
    /// Whether this Tidegate serves it.
    pub ours: bool,
    /// Its hosts; `*` for any.
    pub hosts: Vec<String>,
    /// What it has of its class, if that has parameters.
    pub inherited: Option<Inherited>,
    /// Whether it asks for TLS.
    pub tls: bool,
    /// `metadata.creationTimestamp` in seconds since the Unix epoch, if it has one.
    pub created: Option<i64>,
}
