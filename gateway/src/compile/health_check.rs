//! What a load balancer outside may ask a node about a Service: how many endpoints it has here.

use std::{net::IpAddr, sync::Arc};

use tidegate_l4::model::{IpFamily, ServicePort};

/// What is answered on one health check node port (`spec.healthCheckNodePort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port, on every node address.
    pub port: u16,
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Addresses of the endpoints on this node that are ready, each once.
    local_ready: Vec<IpAddr>,
}

impl HealthCheck {
    /// A pod counts once however many ports it serves. One that terminates does not count (KEP-1669), not even if
    /// `publishNotReadyAddresses` calls it ready: the load balancer shall go elsewhere before it ends.
    pub(crate) fn new(
        port: u16,
        (namespace, service): (&Arc<str>, &Arc<str>),
        ports: &[Arc<ServicePort>],
        node: &str,
    ) -> Self {
        let endpoints = ports.iter().flat_map(|port| port.endpoints.iter());
        let local =
            endpoints.filter(|e| e.conditions.ready && !e.conditions.terminating && e.node.as_deref() == Some(node));
        let mut local_ready: Vec<IpAddr> = local.map(|e| e.addr.ip()).collect();
        local_ready.sort_unstable();
        local_ready.dedup();
        Self { port, namespace: namespace.clone(), service: service.clone(), local_ready }
    }

    /// How many endpoints on this node take what arrives on an address of `family`.
    pub fn local_ready(&self, family: IpFamily) -> usize {
        self.local_ready.iter().filter(|ip| IpFamily::of(**ip) == family).count()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::compile::{allocate::Allocations, compile, objects::Objects, settings::Settings};

    fn checks(slices: &str, labels: &str) -> Vec<(u16, [usize; 2])> {
        let yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, labels: {{{labels}}}}}\n\
             spec: {{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30007, \
             ports: [{{name: a, port: 80}}, {{name: b, port: 81}}]}}\n{slices}"
        );
        let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), &yaml);
        assert_eq!(parsed.problems, []);
        let mut objects = Objects::default();
        for document in parsed.documents {
            objects.apply(document);
        }
        let settings = Settings { node_name: "here".into(), ..Settings::default() };
        let snapshot = compile(&objects, &settings, &[], &Allocations::default(), None).snapshot;
        let count = |check: &HealthCheck| [IpFamily::V4, IpFamily::V6].map(|family| check.local_ready(family));
        snapshot.health_checks.iter().map(|check| (check.port, count(check))).collect()
    }

    fn slice(name: &str, family: &str, endpoints: &str) -> String {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {family}\n\
             ports: [{{name: a, port: 8080}}, {{name: b, port: 8081}}]\nendpoints: [{endpoints}]\n"
        )
    }

    #[test]
    fn local_pods_that_are_ready_count_once_each_and_by_family() {
        let four = slice(
            "four",
            "IPv4",
            "{addresses: [10.0.0.1], nodeName: here}, {addresses: [10.0.0.2], nodeName: here}, \
             {addresses: [10.0.0.3], nodeName: there}, {addresses: [10.0.0.4]}, \
             {addresses: [10.0.0.5], nodeName: here, conditions: {ready: false, serving: true, terminating: true}}, \
             {addresses: [10.0.0.6], nodeName: here, conditions: {ready: true, serving: true, terminating: true}}, \
             {addresses: [10.0.0.7], nodeName: here, conditions: {ready: false}}",
        );
        let six = slice("six", "IPv6", "{addresses: [\"fd00::1\"], nodeName: here}");
        assert_eq!(checks(&(four + &six), ""), [(30_007, [2, 1])]);
    }

    #[test]
    fn it_is_there_without_endpoints_but_not_for_another_proxys_service() {
        assert_eq!(checks("", ""), [(30_007, [0, 0])]);
        assert_eq!(checks("", "service.kubernetes.io/service-proxy-name: other"), []);
    }
}
