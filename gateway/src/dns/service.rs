//! A Service as DNS sees it: what a [`Zone`](super::Zone) is built from.

use std::net::IpAddr;
use std::sync::Arc;

/// One Service as DNS sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsService {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What its name stands for.
    pub kind: DnsServiceKind,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum DnsServiceKind {
    /// Addresses of its own, whether or not endpoints are behind them.
    ClusterIp {
        /// The cluster IPs, of both families if it has both.
        ips: Vec<IpAddr>,
        /// Its ports.
        ports: Vec<DnsPort>,
    },
    /// No address of its own (`clusterIP: None`): the name stands for every endpoint.
    Headless {
        /// The endpoints to publish: the ready ones, or all with `publishNotReadyAddresses`.
        endpoints: Vec<DnsEndpoint>,
    },
    /// Another name.
    ExternalName {
        /// The other name.
        target: Arc<str>,
    },
}

/// A port of a Service or endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsPort {
    /// Its name; a port whose name is empty has no SRV record.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: DnsProtocol,
    /// Its number.
    pub port: u16,
}

/// The protocols a Service port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsProtocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// One address behind a headless Service.
#[derive(Debug, Clone, PartialEq)]
pub struct DnsEndpoint {
    /// The address.
    pub ip: IpAddr,
    /// `hostname` of the endpoint; without one, its name is the address with dashes.
    pub hostname: Option<Arc<str>>,
    /// The ports it serves.
    pub ports: Vec<DnsPort>,
}

impl DnsPort {
    pub(super) fn has_name(&self) -> bool {
        !self.name.is_empty()
    }
}

impl DnsProtocol {
    pub(super) fn from_label(label: &str) -> Option<Self> {
        match label {
            "_tcp" => Some(Self::Tcp),
            "_udp" => Some(Self::Udp),
            "_sctp" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl DnsEndpoint {
    /// The endpoint's own name below its Service.
    pub(super) fn label(&self) -> String {
        self.hostname.as_deref().map_or_else(|| dashed(self.ip), str::to_ascii_lowercase)
    }

    pub(super) fn has_label(&self, label: &str) -> bool {
        match &self.hostname {
            Some(hostname) => hostname.eq_ignore_ascii_case(label),
            None => dashed(self.ip) == label,
        }
    }
}

/// The name of an endpoint without a host name: `10-0-0-1`, `fd00--1`, and `fd00--0` where a dash would end the label.
fn dashed(ip: IpAddr) -> String {
    let mut label = ip.to_string().replace(['.', ':'], "-");
    if label.ends_with('-') {
        label.push('0');
    }
    label
}
