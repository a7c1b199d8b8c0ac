//! A Service as people see it: its row in `tidegate get services`.

use std::net::IpAddr;

use tidegate_crd::core::{IntOrString, ServicePort, ServiceSpec};
use tidegate_l4::model::Affinity;

use super::{
    allocate::Addresses,
    objects::Name,
    rows::{PortRow, ServiceRow},
    service_type::ServiceType,
    settings::Settings,
};

/// The row of a Service; `created` is its `creationTimestamp`.
pub(crate) fn row(
    name: &Name,
    spec: &ServiceSpec,
    kind: ServiceType,
    addresses: &Addresses,
    affinity: Affinity,
    settings: &Settings,
    created: Option<i64>,
) -> ServiceRow {
    let external = match kind {
        ServiceType::ExternalName => spec.external_name.iter().cloned().collect(),
        ServiceType::ClusterIp | ServiceType::NodePort | ServiceType::LoadBalancer | ServiceType::Headless => {
            let given = spec.external_ips.iter().flatten().filter(|_| settings.allow_external_ips).cloned();
            addresses.load_balancer_ips.iter().map(IpAddr::to_string).chain(given).collect()
        }
    };
    let ports = spec.ports.iter().flatten().enumerate();
    ServiceRow {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        kind: kind.as_str(),
        cluster_ips: addresses.cluster_ips.clone(),
        external,
        pending: addresses.pending,
        ports: ports.map(|(i, port)| port_row(port, addresses.node_ports.get(i).copied().flatten())).collect(),
        health_check_port: addresses.health_check_port,
        selector: selector(spec),
        affinity_seconds: match affinity {
            Affinity::None => None,
            Affinity::ClientIp { timeout } => Some(timeout.as_secs()),
        },
        created,
    }
}

fn selector(spec: &ServiceSpec) -> Box<[(Box<str>, Box<str>)]> {
    let pairs = spec.selector.iter().flatten();
    pairs.map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

fn port_row(port: &ServicePort, node_port: Option<u16>) -> PortRow {
    PortRow {
        name: port.name.as_deref().unwrap_or_default().into(),
        port: u16::try_from(port.port).unwrap_or(0),
        node_port,
        protocol: match port.protocol.as_deref() {
            Some("UDP") => "UDP",
            Some("SCTP") => "SCTP",
            _ => "TCP",
        },
        target: match &port.target_port {
            None => port.port.to_string(),
            Some(IntOrString::Int(number)) => number.to_string(),
            Some(IntOrString::String(name)) => name.clone(),
        },
    }
}
