//! `Slice`: an EndpointSlice as it is held, which is what is read of it. As it comes from the API server it takes four times as much, and
//! there may be ten endpoints for each Service of a cluster.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use tidegate_crd::core::{
    Endpoint as WireEndpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
    ObjectMeta, ObjectReference,
};
use tidegate_l4::model::{Conditions, Hints};

use super::{objects::Name, words::Words};

/// The label by which an EndpointSlice names its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The endpoints of a Service, or some of them, that have the same ports.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The Service that it names as its own.
    pub(crate) service: Option<Box<str>>,
    pub(crate) ports: Box<[EndpointPort]>,
    pub(crate) endpoints: Box<[SliceEndpoint]>,
}

/// An endpoint of all those ports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SliceEndpoint {
    /// The first address (API: "consumers may only use the first").
    pub(crate) ip: IpAddr,
    pub(crate) conditions: Conditions,
    pub(crate) hostname: Option<Box<str>>,
    pub(crate) node: Option<Arc<str>>,
    pub(crate) zone: Option<Arc<str>>,
    /// The name of the Pod that it is.
    pub(crate) pod: Option<Arc<str>>,
    pub(crate) hints: Option<Box<Hints>>,
}

impl Slice {
    /// What is read of an EndpointSlice. Names are not addresses: of FQDN slices no endpoint is left.
    pub(crate) fn new(slice: EndpointSlice, words: &mut Words) -> Self {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        let is_fqdn = slice.address_type == "FQDN";
        Self {
            service: service.map(|service| service.as_str().into()),
            ports: slice.ports.unwrap_or_default().into(),
            endpoints: slice
                .endpoints
                .into_iter()
                .filter(|_| !is_fqdn)
                .filter_map(|endpoint| SliceEndpoint::new(endpoint, words))
                .collect(),
        }
    }

    /// As somebody could have written it, but for what is not read.
    pub(crate) fn to_object(&self, name: &Name) -> EndpointSlice {
        let label = |service: &str| BTreeMap::from([(SERVICE_NAME_LABEL.to_owned(), service.to_owned())]);
        let is_v6 = self.endpoints.first().is_some_and(|endpoint| endpoint.ip.is_ipv6());
        EndpointSlice {
            address_type: if is_v6 { "IPv6" } else { "IPv4" }.to_owned(),
            endpoints: self.endpoints.iter().map(SliceEndpoint::to_object).collect(),
            metadata: ObjectMeta {
                name: Some(name.name.to_string()),
                namespace: Some(name.namespace.to_string()),
                labels: self.service.as_deref().map(label),
                ..ObjectMeta::default()
            },
            ports: Some(self.ports.to_vec()),
        }
    }
}

impl SliceEndpoint {
    /// `None` for one without an address.
    fn new(endpoint: WireEndpoint, words: &mut Words) -> Option<Self> {
        let ip = endpoint.addresses.first()?.parse().ok()?;
        let is_pod = |target: &ObjectReference| target.kind.as_deref() == Some("Pod");
        let pod = endpoint.target_ref.filter(is_pod).and_then(|target| target.name);
        Some(Self {
            ip,
            conditions: conditions(endpoint.conditions.as_ref()),
            hostname: endpoint.hostname.map(String::into_boxed_str),
            node: endpoint.node_name.map(|node| words.share(&node)),
            zone: endpoint.zone.map(|zone| words.share(&zone)),
            pod: pod.map(Arc::from),
            hints: endpoint.hints.map(|hints| Box::new(lower_hints(hints, words))),
        })
    }

    fn to_object(&self) -> WireEndpoint {
        let word = |word: &Arc<str>| word.to_string();
        let Conditions { ready, serving, terminating } = self.conditions;
        let pod = self.pod.as_ref().map(|pod| ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_string()),
            ..ObjectReference::default()
        });
        WireEndpoint {
            addresses: vec![self.ip.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(ready),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hints: self.hints.as_ref().map(|hints| EndpointHints {
                for_zones: Some(hints.zones.iter().map(|zone| ForZone { name: word(zone) }).collect()),
                for_nodes: Some(hints.nodes.iter().map(|node| ForNode { name: word(node) }).collect()),
            }),
            hostname: self.hostname.as_ref().map(ToString::to_string),
            node_name: self.node.as_ref().map(word),
            target_ref: pod,
            zone: self.zone.as_ref().map(word),
            ..WireEndpoint::default()
        }
    }
}

/// The conditions with the API's defaults: nobody saying otherwise, an endpoint is ready.
fn conditions(given: Option<&EndpointConditions>) -> Conditions {
    let ready = given.and_then(|c| c.ready).unwrap_or(true);
    Conditions {
        ready,
        serving: given.and_then(|c| c.serving).unwrap_or(ready),
        terminating: given.and_then(|c| c.terminating).unwrap_or(false),
    }
}

fn lower_hints(hints: EndpointHints, words: &mut Words) -> Hints {
    Hints {
        zones: hints.for_zones.into_iter().flatten().map(|zone| words.share(&zone.name)).collect(),
        nodes: hints.for_nodes.into_iter().flatten().map(|node| words.share(&node.name)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tidegate_crd::Object;

    use super::*;

    fn read(text: &str) -> Slice {
        let documents = tidegate_crd::yaml::parse(Path::new("test.yaml"), text).documents;
        let Some(Object::EndpointSlice(slice)) = documents.into_iter().next().map(|document| document.object) else {
            panic!("it is an EndpointSlice")
        };
        Slice::new(*slice, &mut Words::default())
    }

    #[test]
    fn what_is_read_of_it_can_be_written_and_read_again() {
        let slice = read(
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv6, \
             metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web, other: label}}, \
             ports: [{name: http, port: 8080, protocol: TCP, appProtocol: http}], endpoints: [\
             {addresses: ['2001:db8::1', '2001:db8::2'], conditions: {ready: false, terminating: true, serving: true}, hostname: a, \
             nodeName: node-a, zone: zone-a, hints: {forZones: [{name: zone-b}], forNodes: [{name: node-b}]}, \
             targetRef: {kind: Pod, name: web-x}}, {addresses: ['2001:db8::3'], targetRef: {kind: Node, name: node-c}}, {addresses: [web]}]}",
        );
        assert_eq!(slice.service.as_deref(), Some("web"));
        let [first, second] = &*slice.endpoints else { panic!("{slice:?}") };
        assert_eq!(first.ip, "2001:db8::1".parse::<IpAddr>().unwrap());
        assert_eq!(first.conditions, Conditions { ready: false, serving: true, terminating: true });
        assert_eq!(first.pod.as_deref(), Some("web-x"));
        assert_eq!(first.hints.as_ref().map(|hints| (&*hints.zones[0], &*hints.nodes[0])), Some(("zone-b", "node-b")));
        assert_eq!((second.conditions, &second.pod), (Conditions::READY, &None));
        let object = slice.to_object(&Name::new("shop", "web-1"));
        assert_eq!(object.metadata.name.as_deref(), Some("web-1"));
        assert_eq!(object.address_type, "IPv6");
        assert_eq!(Slice::new(object, &mut Words::default()), slice);
    }

    #[test]
    fn names_are_no_addresses() {
        let text = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: FQDN, metadata: {name: a}, \
                    endpoints: [{addresses: [10.0.0.1]}]}";
        assert!(read(text).endpoints.is_empty());
    }
}
