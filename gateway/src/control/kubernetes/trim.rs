//! What is kept of an object: what the compiler reads, what its [`Standing`](super::standing::Standing) is made of, and no more. The
//! rest would take most of the memory, and each change of it would look like a change of ours.
//!
//! Of what is fetched because something refers to it, its function says whether anything worth keeping is left.

use std::collections::BTreeMap;

use tidegate_crd::{
    core::{
        ConfigMap, EndpointSlice, Namespace, Node, NodeStatus, ObjectMeta, ObjectReference, Secret, Service,
        ServiceStatus,
    },
    ingress::{Ingress, IngressClass},
    policy::{IngressClassParameters, LoadBalancerPool},
};

use super::standing::keep_ours;
use crate::{
    compile::{
        load_balancer::SERVICE_CONDITION,
        services::{HEADLESS_LABEL, PROXY_NAME_LABEL},
    },
    control::limits::MAX_CONFIG_MAP_BYTES,
};

/// The keys of a Secret that TLS reads.
const SECRET_KEYS: [&str; 5] = ["ca.crl", "ca.crt", "tls.crt", "tls.key", "tls.ocsp"];

/// What `kubectl apply` leaves in every object: the object, once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn service(service: &mut Service) {
    metadata(&mut service.metadata);
    let is_load_balancer = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    if let Some(mut labels) = service.metadata.labels.take() {
        // Pools choose load balancers by them. A map of one label takes half a KiB.
        labels.retain(|label, _| is_load_balancer || [PROXY_NAME_LABEL, HEADLESS_LABEL].contains(&label.as_str()));
        service.metadata.labels = Some(labels).filter(|labels| !labels.is_empty());
    }
    if let Some(spec) = &mut service.spec {
        // A list has room for four at first, and most of these have one.
        spec.ports.iter_mut().for_each(Vec::shrink_to_fit);
        spec.cluster_ips.iter_mut().for_each(Vec::shrink_to_fit);
        spec.ip_families.iter_mut().for_each(Vec::shrink_to_fit);
    }
    if let Some(ServiceStatus { load_balancer, conditions }) = service.status.take() {
        let ours = conditions.into_iter().flatten().filter(|condition| condition.type_ == SERVICE_CONDITION);
        let conditions = Some(ours.collect::<Vec<_>>()).filter(|ours| !ours.is_empty());
        let is_there = load_balancer.is_some() || conditions.is_some();
        service.status = is_there.then_some(ServiceStatus { load_balancer, conditions });
    }
}

pub(super) fn endpoint_slice(slice: &mut EndpointSlice) {
    metadata(&mut slice.metadata);
    // Such as the time of the last change of a Pod, which changes more often than anything that matters.
    slice.metadata.annotations = None;
    slice.endpoints.iter_mut().for_each(|endpoint| {
        endpoint.deprecated_topology = None;
        if let Some(ObjectReference { kind, name, .. }) = endpoint.target_ref.take() {
            endpoint.target_ref = Some(ObjectReference { kind, name, ..ObjectReference::default() });
        }
        endpoint.addresses.shrink_to_fit();
    });
    // There may be ten endpoints for each Service, and 400 bytes for each: what a list leaves spare as it grows is a third of all
    // that waits until every kind is listed.
    slice.endpoints.shrink_to_fit();
    slice.ports.iter_mut().for_each(Vec::shrink_to_fit);
}

pub(super) fn ingress(ingress: &mut Ingress) {
    metadata(&mut ingress.metadata);
    ingress.metadata.labels = None;
    for rules in ingress.spec.iter_mut().filter_map(|spec| spec.rules.as_mut()) {
        rules.iter_mut().filter_map(|rule| rule.http.as_mut()).for_each(|http| http.paths.shrink_to_fit());
        rules.shrink_to_fit();
    }
}

pub(super) fn ingress_class(class: &mut IngressClass) {
    metadata(&mut class.metadata);
}

pub(super) fn ingress_class_parameters(parameters: &mut IngressClassParameters) {
    with_generation(&mut parameters.metadata);
}

pub(super) fn load_balancer_pool(pool: &mut LoadBalancerPool) {
    with_generation(&mut pool.metadata);
}

pub(super) fn namespace(namespace: &mut Namespace) {
    let labels = namespace.metadata.labels.take();
    bare(&mut namespace.metadata);
    namespace.metadata.labels = labels;
    (namespace.spec, namespace.status) = (None, None);
}

pub(super) fn node(node: &mut Node) {
    metadata(&mut node.metadata);
    node.metadata.annotations = None;
    // Its conditions are a heartbeat; where it is reached is all that counts.
    let addresses = node.status.take().and_then(|status| status.addresses);
    node.spec = None;
    node.status = addresses.map(|addresses| NodeStatus { addresses: Some(addresses), ..NodeStatus::default() });
}

/// Those without any key that TLS reads are somebody else's.
pub(super) fn secret(secret: &mut Secret) -> bool {
    bare(&mut secret.metadata);
    if let Some(data) = &mut secret.data {
        data.retain(|key, _| SECRET_KEYS.contains(&key.as_str()));
    }
    secret.data.as_ref().is_some_and(|data| !data.is_empty())
}

pub(super) fn config_map(map: &mut ConfigMap) -> bool {
    bare(&mut map.metadata);
    map.binary_data = None;
    let bytes = |data: &BTreeMap<String, String>| data.iter().map(|(key, value)| key.len() + value.len()).sum();
    let bytes: usize = map.data.as_ref().map_or(0, bytes);
    bytes <= MAX_CONFIG_MAP_BYTES
}

/// Name, uid, age, labels and annotations, and whether we wrote its status.
fn metadata(metadata: &mut ObjectMeta) {
    keep_ours(metadata);
    let ObjectMeta { name, namespace, uid, creation_timestamp, labels, mut annotations, managed_fields, .. } =
        std::mem::take(metadata);
    if let Some(annotations) = &mut annotations {
        annotations.remove(LAST_APPLIED);
    }
    let annotations = annotations.filter(|annotations| !annotations.is_empty());
    let rest = ObjectMeta::default();
    *metadata = ObjectMeta { name, namespace, uid, creation_timestamp, labels, annotations, managed_fields, ..rest };
}

/// What has a status of ours that says of which generation it speaks.
fn with_generation(of: &mut ObjectMeta) {
    let generation = of.generation;
    metadata(of);
    of.generation = generation;
}

/// The name alone, and the uid.
fn bare(metadata: &mut ObjectMeta) {
    let ObjectMeta { name, namespace, uid, .. } = std::mem::take(metadata);
    *metadata = ObjectMeta { name, namespace, uid, ..ObjectMeta::default() };
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tidegate_crd::Object;

    use super::{super::standing::Standing, *};

    fn parse(text: &str) -> Object {
        tidegate_crd::yaml::parse(Path::new("test.yaml"), text).documents.remove(0).object
    }

    #[test]
    fn what_only_the_api_server_and_controllers_care_for_is_no_change() {
        let one = |version: u32, manager: &str, status: &str| {
            let text = format!(
                "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: a, namespace: b, uid: c, \
                 resourceVersion: '{version}', generation: {version}, labels: {{l: m}}, creationTimestamp: \
                 '2026-01-01T00:00:00Z', annotations: {{a.b/c: d, {LAST_APPLIED}: '{manager}'}}, managedFields: \
                 [{{manager: tidegate/a/b, operation: Update}}, {{manager: {manager}, subresource: status, fieldsV1: {{}}}}]}}, \
                 status: {{loadBalancer: {{ingress: [{{ip: {status}}}]}}}}}}"
            );
            let Object::Ingress(mut object) = parse(&text) else { panic!("it is an Ingress") };
            ingress(&mut object);
            let mut object = Object::Ingress(object);
            let standing = Standing::take(&mut object).unwrap();
            (object, standing)
        };
        let (trimmed, standing) = one(1, "tidegate/a/b", "192.0.2.1");
        let (same, others) = one(2, "other", "192.0.2.2");
        assert_eq!(trimmed, same);
        assert_eq!(
            (&*standing.uid, standing.is_by("tidegate/a/b"), standing.is_by("tidegate/a/c")),
            ("c", true, false)
        );
        assert_eq!(others.managers, []);
        assert_eq!(standing.addresses[0].ip.as_deref(), Some("192.0.2.1"));
        let metadata = trimmed.metadata();
        assert_eq!(metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["a.b/c"]);
        assert!(metadata.creation_timestamp.is_some() && metadata.labels.is_none());
    }

    #[test]
    fn of_secrets_only_what_tls_reads() {
        let read = |data: &str| {
            let text = format!("{{apiVersion: v1, kind: Secret, metadata: {{name: a}}, data: {{{data}}}}}");
            let Object::Secret(mut object) = parse(&text) else { panic!("it is a Secret") };
            secret(&mut object).then(|| object.data.unwrap().into_keys().collect::<Vec<_>>())
        };
        assert_eq!(read("tls.crt: YQ==, password: YQ=="), Some(vec!["tls.crt".to_owned()]));
        assert_eq!(read("password: YQ=="), None);
    }

    #[test]
    fn config_maps_that_cannot_be_header_fields_are_not_held() {
        let read = |bytes: usize| {
            let value = "x".repeat(bytes);
            let text = format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: a}}, data: {{k: {value}}}}}");
            let Object::ConfigMap(mut object) = parse(&text) else { panic!("it is a ConfigMap") };
            config_map(&mut object)
        };
        assert!(read(MAX_CONFIG_MAP_BYTES - 1));
        assert!(!read(MAX_CONFIG_MAP_BYTES));
    }

    #[test]
    fn of_the_labels_of_a_service_those_stay_that_count() {
        let read = |kind: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: a, labels: {{version: '7', {HEADLESS_LABEL}: ''}}}}, \
                 spec: {{type: {kind}}}}}"
            );
            let Object::Service(mut object) = parse(&text) else { panic!("it is a Service") };
            service(&mut object);
            object.metadata.labels.unwrap_or_default().into_keys().collect::<Vec<_>>()
        };
        assert_eq!(read("ClusterIP"), [HEADLESS_LABEL]);
        assert_eq!(read("LoadBalancer"), [HEADLESS_LABEL, "version"]);
    }

    #[test]
    fn a_load_balancers_address_stays() {
        let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, status: {conditions: [], loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}";
        let Object::Service(mut object) = parse(text) else { panic!("it is a Service") };
        service(&mut object);
        let status = object.status.unwrap();
        assert_eq!(status.conditions, None);
        assert_eq!(status.load_balancer.unwrap().ingress.unwrap()[0].ip.as_deref(), Some("192.0.2.1"));
    }
}
