//! What a Service is to a service proxy: plain data, no behaviour.
//!
//! Names are Kubernetes' own. A [`ServicePort`] carries all that concerns one port of one Service, because that is
//! the unit in which a proxy decides: policies, affinity and endpoints of two ports never mix.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use crate::policy::EndpointPolicy;

/// Namespace, Service and port name: what names one port of one Service in the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortName {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Name of the port; empty for the only port of a Service, which needs none.
    pub port: Arc<str>,
    /// Protocol, because one Service may use a name or number once for TCP and once for UDP.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Transport protocol of a port. SCTP is not here: no user-space proxy can carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// One port of one Service, with the addresses it answers on and the endpoints behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Who it is.
    pub name: ServicePortName,
    /// The port on ClusterIPs, LoadBalancer IPs and external IPs.
    pub port: u16,
    /// The port on every node address, if the Service has one (NodePort and, by extension, LoadBalancer).
    pub node_port: Option<u16>,
    /// ClusterIPs, one or two families; empty for headless Services.
    pub cluster_ips: Vec<IpAddr>,
    /// LoadBalancer IPs that are assigned; empty while pending.
    pub load_balancer_ips: Vec<IpAddr>,
    /// External IPs the user named (already filtered by policy).
    pub external_ips: Vec<IpAddr>,
    /// `loadBalancerSourceRanges`: who may use the LoadBalancer IPs; empty is everybody.
    pub source_ranges: Vec<IpNet>,
    /// `internalTrafficPolicy`: governs the ClusterIPs only.
    pub internal_policy: TrafficPolicy,
    /// `externalTrafficPolicy`: governs node ports, LoadBalancer IPs and external IPs.
    pub external_policy: TrafficPolicy,
    /// `sessionAffinity`.
    pub affinity: Affinity,
    /// How an endpoint is chosen where affinity does not decide.
    pub balance: Balance,
    /// How endpoints that fail are treated, and how much is let in.
    pub policy: EndpointPolicy,
    /// How connections are carried.
    pub connection: ConnectionOptions,
    /// Every endpoint of this port, usable or not (see `eligible`).
    pub endpoints: Arc<[Endpoint]>,
}

/// One address that serves a port, as EndpointSlices describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether it may be used.
    pub conditions: Conditions,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
    /// The topology hints of its slice.
    pub hints: Hints,
    /// Share of the choice under [`Balance::Weighted`]; 1 unless the user says otherwise, 0 takes it out.
    pub weight: u32,
    /// The pod behind it, for people to read.
    pub pod: Option<Arc<str>>,
}

/// The three conditions of an endpoint (KEP-1672), with the API's defaults already applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Ready for new connections; never true for a terminating pod, unless `publishNotReadyAddresses` says so.
    pub ready: bool,
    /// Passes its readiness probe, terminating or not.
    pub serving: bool,
    /// Being deleted.
    pub terminating: bool,
}

impl Conditions {
    /// A pod in good health.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
}

/// For which zones and nodes an endpoint is meant (`hints.forZones`, `hints.forNodes`; KEP-2433, KEP-3015).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Zones this endpoint should serve.
    pub zones: Vec<Arc<str>>,
    /// Nodes this endpoint should serve.
    pub nodes: Vec<Arc<str>>,
}

/// Session affinity of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Every connection is a new choice.
    None,
    /// A client IP keeps its endpoint until it has opened no connection for `timeout`.
    ClientIp {
        /// `sessionAffinityConfig.clientIP.timeoutSeconds`.
        timeout: Duration,
    },
}

/// Which endpoints a kind of traffic may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of the cluster.
    Cluster,
    /// Only those on this node.
    Local,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Each endpoint equally likely; what kube-proxy does.
    #[default]
    Random,
    /// One after the other.
    RoundRobin,
    /// Of two drawn at random, the one that carries less now (power of two choices).
    LeastInFlight,
    /// Of two drawn at random, the one that promises the shorter wait, by its latency of late and what it carries now
    /// (peak EWMA, decay 10 s; ingress-nginx's `load-balance: ewma`).
    Ewma,
    /// Random in proportion to the weights.
    Weighted,
    /// By a key: the same one comes to the same endpoint for as long as that is there. At L4 the key is the client's IP.
    Hash,
}

/// How the connections of a port are carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// Close a TCP connection on which no byte moved for this long; `None` (the default) never does.
    pub idle_timeout: Option<Duration>,
    /// Clients open with a PROXY protocol header (v1 or v2), which names the true client.
    pub accept_proxy_protocol: bool,
    /// Open connections to endpoints with a PROXY protocol header of this version.
    pub send_proxy_protocol: Option<ProxyProtocol>,
}

/// Version of the PROXY protocol (HAProxy's `proxy-protocol.txt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The text form.
    V1,
    /// The binary form.
    V2,
}

/// Where this proxy runs: what "local" and "same zone" mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of this node.
    pub node: Arc<str>,
    /// Its zone (`topology.kubernetes.io/zone`), if it has one.
    pub zone: Option<Arc<str>>,
}

/// IPv4 or IPv6: Kubernetes keeps the two wholly apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}
