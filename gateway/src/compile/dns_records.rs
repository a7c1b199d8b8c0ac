//! What DNS knows of a Service: its ClusterIPs, its endpoints if it is headless, or the name it stands for.

use std::sync::Arc;

use tidegate_crd::core::ServiceSpec;

use super::{
    allocate::Addresses,
    objects::{Name, Stored},
    service_type::ServiceType,
    slice::Slice,
};
use crate::dns::{DnsEndpoint, DnsPort, DnsProtocol, DnsService, DnsServiceKind};

/// The records of a Service; none for an ExternalName that names nothing.
pub(crate) fn of_service(
    name: &Name,
    spec: &ServiceSpec,
    kind: ServiceType,
    addresses: &Addresses,
    slices: &[Arc<Stored<Slice>>],
) -> Option<DnsService> {
    let kind = match kind {
        ServiceType::ExternalName => {
            let target = spec.external_name.as_deref().filter(|target| !target.is_empty())?;
            DnsServiceKind::ExternalName { target: target.into() }
        }
        ServiceType::Headless => DnsServiceKind::Headless { endpoints: endpoints(slices) },
        ServiceType::ClusterIp | ServiceType::NodePort | ServiceType::LoadBalancer => {
            let ports = spec.ports.iter().flatten();
            let ports = ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect();
            DnsServiceKind::ClusterIp { ips: addresses.cluster_ips.clone(), ports }
        }
    };
    Some(DnsService { namespace: name.namespace.clone(), name: name.name.clone(), kind })
}

/// The endpoints a headless Service shows: the ready ones.
fn endpoints(slices: &[Arc<Stored<Slice>>]) -> Vec<DnsEndpoint> {
    let mut out: Vec<DnsEndpoint> = Vec::new();
    for slice in slices {
        let ports = slice.object.ports.iter();
        let ports: Vec<DnsPort> =
            ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port?)).collect();
        for endpoint in slice.object.endpoints.iter().filter(|endpoint| endpoint.conditions.ready) {
            match out.iter_mut().find(|held| held.ip == endpoint.ip) {
                Some(held) => held.ports.extend(ports.iter().cloned()),
                None => {
                    let hostname = endpoint.hostname.as_deref().map(Arc::from);
                    out.push(DnsEndpoint { ip: endpoint.ip, hostname, ports: ports.clone() });
                }
            }
        }
    }
    out
}

fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<DnsPort> {
    let protocol = match protocol {
        Some("UDP") => DnsProtocol::Udp,
        Some("SCTP") => DnsProtocol::Sctp,
        _ => DnsProtocol::Tcp,
    };
    Some(DnsPort { name: name.unwrap_or_default().into(), protocol, port: u16::try_from(number).ok()? })
}
