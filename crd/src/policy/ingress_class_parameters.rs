//! `IngressClassParameters`: what holds for every Ingress of a class.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::resource::cluster_resource;
use crate::core::{Condition, IntOrString};

cluster_resource! {
    /// What holds for every Ingress of an IngressClass that names this object in `spec.parameters`.
    IngressClassParameters, "ingressclassparameters", IngressClassParametersSpec, IngressClassParametersStatus
}

/// What holds for the Ingresses of a class where they do not say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IngressClassParametersSpec {
    /// Annotations that every Ingress of the class has that does not have them itself. One that an Ingress has with an empty value
    /// is not taken from here. Canaries and `server-alias` are an Ingress's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "super::schema::annotations"))]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Where requests go that no rule takes: those to the hosts of the class's Ingresses, and to hosts that nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_backend: Option<DefaultBackend>,
    /// The Secret whose certificate hosts of the class's Ingresses are shown that have none, and hosts that nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_certificate: Option<SecretReference>,
}

/// A Service, and one of its ports.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct DefaultBackend {
    /// Namespace of the Service.
    #[cfg_attr(test, schemars(extend("minLength" = 1, "maxLength" = 63)))]
    pub namespace: String,
    /// Name of the Service.
    #[cfg_attr(test, schemars(extend("minLength" = 1, "maxLength" = 63)))]
    pub name: String,
    /// Number or name of one of its ports; its first by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "super::schema::port"))]
    pub port: Option<IntOrString>,
}

/// A Secret of type `kubernetes.io/tls`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Namespace of the Secret.
    #[cfg_attr(test, schemars(extend("minLength" = 1, "maxLength" = 63)))]
    pub namespace: String,
    /// Name of the Secret.
    #[cfg_attr(test, schemars(extend("minLength" = 1, "maxLength" = 253)))]
    pub name: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct IngressClassParametersStatus {
    /// `Accepted`: whether all of it could be read and is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(schema_with = "super::schema::conditions"))]
    pub conditions: Option<Vec<Condition>>,
}
