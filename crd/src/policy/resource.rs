//! What every kind of our own has in common: how it is written, and what Kubernetes' API calls it.

use serde::{Deserialize, Serialize};

use crate::core::ObjectMeta;

/// An object as it is written: the fields that every object has, with its own `spec` and `status`.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written<Spec, Status> {
    #[serde(default)]
    pub(super) api_version: String,
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    pub(super) spec: Spec,
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<Status>,
}

fn none<T>() -> Option<T> {
    None
}

/// A kind of the whole cluster, with a `spec` and a `status`.
macro_rules! cluster_resource {
    ($(#[$doc:meta])* $kind:ident, $plural:literal, $spec:ident, $status:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
        #[serde(
            from = "crate::policy::resource::Written<_, _>",
            into = "crate::policy::resource::Written<_, _>"
        )]
        pub struct $kind {
            /// Its name, labels and annotations.
            pub metadata: crate::core::ObjectMeta,
            /// What is asked for.
            pub spec: $spec,
            /// What came of it, as Tidegate says.
            pub status: Option<$status>,
        }

        impl From<crate::policy::resource::Written<$spec, $status>> for $kind {
            fn from(written: crate::policy::resource::Written<$spec, $status>) -> Self {
                Self { metadata: written.metadata, spec: written.spec, status: written.status }
            }
        }

        impl From<$kind> for crate::policy::resource::Written<$spec, $status> {
            fn from(object: $kind) -> Self {
                Self {
                    api_version: <$kind as k8s_openapi::Resource>::API_VERSION.to_owned(),
                    kind: <$kind as k8s_openapi::Resource>::KIND.to_owned(),
                    metadata: object.metadata,
                    spec: object.spec,
                    status: object.status,
                }
            }
        }

        impl k8s_openapi::Resource for $kind {
            const API_VERSION: &'static str = "tidegate.io/v1alpha1";
            const GROUP: &'static str = crate::policy::GROUP;
            const KIND: &'static str = stringify!($kind);
            const VERSION: &'static str = "v1alpha1";
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::ClusterResourceScope;
        }

        impl k8s_openapi::Metadata for $kind {
            type Ty = crate::core::ObjectMeta;

            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }
    };
}

pub(super) use cluster_resource;
