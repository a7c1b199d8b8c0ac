//! `LoadBalancerPool`: addresses that LoadBalancer Services may be given.

use serde::{Deserialize, Serialize};

use super::resource::cluster_resource;
use crate::core::{Condition, LabelSelector};

cluster_resource! {
    /// Addresses that Services of type LoadBalancer may be given.
    LoadBalancerPool, "loadbalancerpools", LoadBalancerPoolSpec, LoadBalancerPoolStatus
}

/// Which addresses a pool has, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerPoolSpec {
    /// The addresses: ranges such as 192.0.2.0/28, 192.0.2.16-192.0.2.31 or 2001:db8::/64, or single ones. The first and the
    /// last address of a CIDR are left out, unless it has only one or two; of a range with `-` all are used.
    #[cfg_attr(test, schemars(extend("minItems" = 1, "maxItems" = 64), schema_with = "super::schema::address_ranges"))]
    pub addresses: Vec<String>,
    /// Whether Services get addresses from here without asking for this pool by name (annotation
    /// `tidegate.io/load-balancer-pool`). True by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("default" = true)))]
    pub auto_assign: Option<bool>,
    /// Whose Services may have addresses from here, by the labels of their namespaces; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "super::schema::label_selector"))]
    pub namespace_selector: Option<LabelSelector>,
    /// Which Services may have addresses from here, by their labels; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "super::schema::label_selector"))]
    pub service_selector: Option<LabelSelector>,
    /// What is written beside the address as `ipMode`. `Proxy`, the default: Tidegate answers the address, and kube-proxy leaves it
    /// alone, so that connections from within the cluster come to Tidegate, too. `VIP`: kube-proxy answers it on every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(extend("default" = "Proxy", "enum" = ["Proxy", "VIP"])))]
    pub ip_mode: Option<String>,
}

/// How much of a pool is used.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerPoolStatus {
    /// How many addresses it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// How many of them Services have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<i64>,
    /// `Accepted`: whether its addresses can be read and are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "super::schema::conditions"))]
    pub conditions: Option<Vec<Condition>>,
}
