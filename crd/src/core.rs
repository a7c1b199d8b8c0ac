//! The core and discovery types, and those of Leases and Events, re-exported so that nobody else names the crate they come from.
//!
//! Reference: <https://kubernetes.io/docs/reference/kubernetes-api/>.

pub use k8s_openapi::ByteString;
pub use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
pub use k8s_openapi::api::core::v1::{
    ClientIPConfig, ConfigMap, Container, ContainerPort, ContainerStatus, EndpointAddress,
    EndpointPort as CoreEndpointPort, EndpointSubset, Endpoints, HostIP, LoadBalancerIngress, LoadBalancerStatus,
    Namespace, NamespaceSpec, NamespaceStatus, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, ObjectReference,
    Pod, PodCondition, PodIP, PodReadinessGate, PodSpec, PodStatus, PortStatus, Probe, Secret, Service, ServicePort,
    ServiceSpec, ServiceStatus, SessionAffinityConfig, TypedLocalObjectReference,
};
pub use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
pub use k8s_openapi::api::events::v1::{Event, EventSeries};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    Condition, LabelSelector, ManagedFieldsEntry, MicroTime, ObjectMeta, OwnerReference, Time,
};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use k8s_openapi::jiff::Timestamp;
