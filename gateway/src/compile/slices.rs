//! EndpointSlices: made from Pods or from Endpoints where nobody wrote any, and lowered to endpoints of a port.
//!
//! In a cluster the EndpointSlice controllers do the first half; here it is done by the same rules, into the same type, so that
//! there is one way from a slice to an endpoint.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ahash::AHashMap;
use tidegate_crd::{
    Origin,
    core::{
        ContainerPort, Endpoint as WireEndpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice,
        Endpoints, ForNode, ForZone, IntOrString, Node, ObjectReference, Pod, ServicePort, ServiceSpec,
    },
};
use tidegate_l4::model::{Endpoint, Protocol};

use super::{
    objects::{Name, Store, Stored},
    slice::{Slice, SliceEndpoint},
    words::Words,
};

/// Label of a Node that names its zone.
pub(crate) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Pods by label, so that a selector looks at few of them.
#[derive(Debug)]
pub(crate) struct PodIndex<'a> {
    by_label: AHashMap<Label<'a>, Vec<&'a Arc<Stored<Pod>>>>,
}

/// A label within a namespace.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Label<'a> {
    namespace: &'a str,
    key: &'a str,
    value: &'a str,
}

/// What the endpoints of one slice have in common: the IP family, and the number behind each port of the Service.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    family: &'static str,
    targets: Vec<(usize, i32)>,
}

impl<'a> PodIndex<'a> {
    pub(crate) fn new(pods: &'a Store<Pod>) -> Self {
        let mut by_label: AHashMap<_, Vec<_>> = AHashMap::new();
        for (name, pod) in pods.iter() {
            for (key, value) in pod.object.metadata.labels.iter().flatten() {
                by_label.entry(Label { namespace: &name.namespace, key, value }).or_default().push(pod);
            }
        }
        Self { by_label }
    }

    /// The Pods of a namespace that carry every label of a selector, by name. An empty selector selects none.
    fn select(&self, namespace: &str, selector: &BTreeMap<String, String>) -> Vec<&'a Arc<Stored<Pod>>> {
        let lists = selector.iter().map(|(k, v)| self.by_label.get(&Label { namespace, key: k, value: v }));
        let Some(shortest) = lists.min_by_key(|list| list.map_or(0, Vec::len)).flatten() else { return Vec::new() };
        let all = |pod: &&&Arc<Stored<Pod>>| {
            let labels = pod.object.metadata.labels.as_ref();
            selector.iter().all(|(k, v)| labels.is_some_and(|labels| labels.get(k) == Some(v)))
        };
        shortest.iter().filter(all).copied().collect()
    }
}

/// What the cluster's part made of the Pods of one Service.
#[derive(Debug, Default)]
pub(crate) struct FromPods {
    pub(crate) slices: Vec<Arc<Stored<Slice>>>,
    /// How many Pods the selector took.
    pub(crate) selected: usize,
    /// Pods without an address, by name.
    pub(crate) without_ip: Vec<String>,
    /// Ports whose named target no container of some Pod has: port index and Pod.
    pub(crate) unnamed_targets: Vec<(usize, String)>,
}

/// Builds the slices of a Service from the Pods its selector takes.
pub(crate) fn from_pods(service: &Name, spec: &ServiceSpec, pods: &PodIndex<'_>, nodes: &Store<Node>) -> FromPods {
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return FromPods::default();
    };
    let mut out = FromPods::default();
    let mut groups: BTreeMap<Group, Vec<WireEndpoint>> = BTreeMap::new();
    for pod in pods.select(&service.namespace, selector) {
        if matches!(phase(&pod.object), Some("Succeeded" | "Failed")) {
            continue;
        }
        out.selected += 1;
        let name = pod.object.metadata.name.clone().unwrap_or_default();
        let mut targets = Vec::new();
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            match target_port(&pod.object, port) {
                Some(number) => targets.push((index, number)),
                None => out.unnamed_targets.push((index, name.clone())),
            }
        }
        let ips = pod_ips(&pod.object);
        if ips.is_empty() {
            out.without_ip.push(name);
        }
        for ip in ips {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = Group { family, targets: targets.clone() };
            groups.entry(group).or_default().push(endpoint_of(&pod.object, ip, spec, nodes));
        }
    }
    let origin = Origin::synthetic("pods");
    for (Group { family, targets }, endpoints) in groups {
        let ports = targets.iter().filter_map(|(index, number)| {
            let port = spec.ports.as_ref()?.get(*index)?;
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(*number),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        });
        let object = EndpointSlice {
            address_type: family.to_owned(),
            endpoints,
            metadata: Default::default(),
            ports: Some(ports.collect()),
        };
        out.slices.push(stored(object, &origin));
    }
    out
}

/// Mirrors an Endpoints object, as the mirroring controller does for Services without a selector.
pub(crate) fn from_endpoints(endpoints: &Endpoints) -> Vec<Arc<Stored<Slice>>> {
    let origin = Origin::synthetic("endpoints");
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for family in ["IPv4", "IPv6"] {
            let of_family = ready
                .clone()
                .chain(not_ready.clone())
                .filter(|(address, _)| address.ip.contains(':') == (family == "IPv6"));
            let endpoints: Vec<WireEndpoint> = of_family
                .map(|(address, ready)| WireEndpoint {
                    addresses: vec![address.ip.clone()],
                    conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
                    hostname: address.hostname.clone(),
                    node_name: address.node_name.clone(),
                    target_ref: address.target_ref.clone(),
                    ..Default::default()
                })
                .collect();
            if !endpoints.is_empty() {
                let object = EndpointSlice {
                    address_type: family.to_owned(),
                    endpoints,
                    metadata: Default::default(),
                    ports: Some(ports.clone()),
                };
                slices.push(stored(object, &origin));
            }
        }
    }
    slices
}

/// A slice that nobody wrote.
fn stored(slice: EndpointSlice, origin: &Arc<Origin>) -> Arc<Stored<Slice>> {
    Arc::new(Stored { object: Slice::new(slice, &mut Words::default()), origin: origin.clone() })
}

/// The endpoints that slices list for one port. Two slices may name one address; a copy on this node wins (kube-proxy's rule).
pub(crate) fn endpoints_of(
    slices: &[Arc<Stored<Slice>>],
    port_name: &str,
    protocol: Protocol,
    this_node: &str,
    weight: impl Fn(&str, IpAddr) -> u32,
) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut positions: AHashMap<SocketAddr, usize> = AHashMap::new();
    for slice in slices.iter().map(|slice| &slice.object) {
        let ports = slice
            .ports
            .iter()
            .filter(|port| port.name.as_deref().unwrap_or_default() == port_name && protocol_of(port) == protocol);
        for number in ports.filter_map(|port| u16::try_from(port.port?).ok()).filter(|number| *number != 0) {
            for endpoint in &slice.endpoints {
                let lowered = lower(endpoint, number, &weight);
                match positions.get(&lowered.addr) {
                    None => {
                        positions.insert(lowered.addr, endpoints.len());
                        endpoints.push(lowered);
                    }
                    Some(&held) if lowered.node.as_deref() == Some(this_node) => endpoints[held] = lowered,
                    Some(_) => {}
                }
            }
        }
    }
    endpoints
}

fn lower(endpoint: &SliceEndpoint, port: u16, weight: impl Fn(&str, IpAddr) -> u32) -> Endpoint {
    let SliceEndpoint { ip, conditions, node, zone, pod, hints, .. } = endpoint;
    Endpoint {
        addr: SocketAddr::new(*ip, port),
        conditions: *conditions,
        node: node.clone(),
        zone: zone.clone(),
        hints: hints.as_deref().cloned().unwrap_or_default(),
        weight: weight(pod.as_deref().unwrap_or_default(), *ip),
        pod: pod.clone(),
    }
}

/// The protocol of a slice's port; TCP unless it says otherwise. SCTP never equals what a Service here can ask for.
pub(crate) fn protocol_of(port: &EndpointPort) -> Protocol {
    if port.protocol.as_deref() == Some("UDP") { Protocol::Udp } else { Protocol::Tcp }
}

fn endpoint_of(pod: &Pod, ip: IpAddr, service: &ServiceSpec, nodes: &Store<Node>) -> WireEndpoint {
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let node = node_name.as_ref().and_then(|name| nodes.get(&Name::new("", name)));
    let zone = node.and_then(|node| node.object.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned());
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = is_ready(pod);
    let ready = service.publish_not_ready_addresses == Some(true) || (serving && !terminating);
    let spec = pod.spec.as_ref();
    // A Pod has a DNS name under its Service only if it asks for one with the Service's name as subdomain.
    let hostname =
        spec.and_then(|spec| spec.hostname.clone()).filter(|_| spec.is_some_and(|spec| spec.subdomain.is_some()));
    WireEndpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(service.traffic_distribution.as_deref(), zone.as_ref(), node_name.as_ref()),
        hostname,
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            ..Default::default()
        }),
        zone,
        ..Default::default()
    }
}

/// Hints for `spec.trafficDistribution` (KEP-4444, KEP-3015): every endpoint is meant for where it is.
fn hints(distribution: Option<&str>, zone: Option<&String>, node: Option<&String>) -> Option<EndpointHints> {
    let for_zones = || zone.map(|zone| vec![ForZone { name: zone.clone() }]);
    let for_nodes = || node.map(|node| vec![ForNode { name: node.clone() }]);
    match distribution? {
        "PreferClose" | "PreferSameZone" => Some(EndpointHints { for_zones: for_zones(), for_nodes: None }),
        "PreferSameNode" => Some(EndpointHints { for_zones: for_zones(), for_nodes: for_nodes() }),
        _ => None,
    }
}

/// The Ready condition. A Pod written by hand has none; then it is ready unless it says that it still waits to start.
fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    match conditions.find(|condition| condition.type_ == "Ready") {
        Some(condition) => condition.status == "True",
        None => phase(pod) != Some("Pending"),
    }
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn pod_ips(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut ips: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    if let Some(ip) = status.pod_ip.as_ref().and_then(|ip| ip.parse().ok())
        && !ips.contains(&ip)
    {
        ips.insert(0, ip);
    }
    ips
}

/// The number a Service port leads to on a Pod: a number as it stands, or the container port of that name and protocol.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(text)) => match text.parse() {
            Ok(number) => return Some(number),
            Err(_) => text,
        },
    };
    let spec = pod.spec.as_ref()?;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let same =
        |p: &&ContainerPort| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol;
    containers.flat_map(|container| container.ports.iter().flatten()).find(same).map(|port| port.container_port)
}
