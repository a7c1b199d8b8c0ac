//! The objects of a large cluster, as its controllers and its people would have written them.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_crd::{
    core::{EndpointSlice, Namespace, Service},
    ingress::{Ingress, IngressClass},
};

use crate::addresses::Block;

/// Endpoints of every Service.
pub(crate) const ENDPOINTS: usize = 10;

/// Namespaces that all this is in.
pub(crate) const NAMESPACES: usize = 50;

/// Nodes that the pods are on, and their zones.
const NODES: usize = 100;
const ZONES: usize = 3;

/// The port of every pod.
pub(crate) const POD_PORT: u16 = 8080;

/// The class of all Ingresses.
const CLASS: &str = "tidegate";

/// An application: a Service, its EndpointSlice and its Ingress.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// The name of its Service and of its Ingress.
    pub(crate) name: String,
    pub(crate) namespace: String,
}

impl App {
    /// Number `number` of those that stay.
    pub(crate) fn new(number: usize) -> Self {
        Self::named(&format!("app-{number}"), number)
    }

    /// One of this name.
    pub(crate) fn named(name: &str, number: usize) -> Self {
        Self { name: name.to_owned(), namespace: namespace_name(number % NAMESPACES) }
    }

    /// The host of its Ingress.
    pub(crate) fn host(&self) -> String {
        format!("{}.{}.example.com", self.name, self.namespace)
    }

    /// The name of its EndpointSlice.
    pub(crate) fn slice_name(&self) -> String {
        format!("{}-x7k2p", self.name)
    }

    /// Its Service, which selects nothing: what its pods are is said by whoever writes the EndpointSlice.
    pub(crate) fn service(&self) -> anyhow::Result<Service> {
        typed(json!({
            "metadata": {
                "name": self.name, "namespace": self.namespace,
                "labels": {"app.kubernetes.io/name": self.name, "app.kubernetes.io/managed-by": "Helm"},
            },
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": POD_PORT}]},
        }))
    }

    /// Its EndpointSlice, with pods at these addresses.
    pub(crate) fn slice(&self, block: Block) -> anyhow::Result<EndpointSlice> {
        let endpoint = |pod: usize| {
            json!({
                "addresses": [block.ip(pod)],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", (usize::from(block.number()) + pod) % NODES),
                "zone": format!("zone-{}", (usize::from(block.number()) + pod) % NODES % ZONES),
                "targetRef": {
                    "kind": "Pod", "namespace": self.namespace,
                    "name": format!("{}-7c9d8f6b5-{:04x}{pod}", self.name, block.number()),
                    "uid": format!("6f1c9d3e-0000-4000-8000-{:08x}{pod:04}", block.number()),
                },
            })
        };
        typed(json!({
            "metadata": {
                "name": self.slice_name(), "namespace": self.namespace,
                "labels": {
                    "kubernetes.io/service-name": self.name,
                    "endpointslice.kubernetes.io/managed-by": "scale.tidegate.io",
                },
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": POD_PORT, "protocol": "TCP"}],
            "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
        }))
    }

    /// Its Ingress: one host, one path.
    pub(crate) fn ingress(&self) -> anyhow::Result<Ingress> {
        let backend = json!({"service": {"name": self.name, "port": {"name": "http"}}});
        typed(json!({
            "metadata": {"name": self.name, "namespace": self.namespace, "labels": {"app.kubernetes.io/name": self.name}},
            "spec": {
                "ingressClassName": CLASS,
                "rules": [{
                    "host": self.host(),
                    "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
                }],
            },
        }))
    }
}

/// Namespace `number`.
pub(crate) fn namespace(number: usize) -> anyhow::Result<Namespace> {
    typed(json!({"metadata": {"name": namespace_name(number)}}))
}

/// The class of all Ingresses.
pub(crate) fn class() -> anyhow::Result<IngressClass> {
    typed(json!({"metadata": {"name": CLASS}, "spec": {"controller": "tidegate.io/ingress"}}))
}

fn namespace_name(number: usize) -> String {
    format!("team-{number}")
}

fn typed<K: DeserializeOwned>(value: Value) -> anyhow::Result<K> {
    Ok(serde_json::from_value(value)?)
}
