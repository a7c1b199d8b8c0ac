//! `Object`: one object of a kind Tidegate understands. `Kind` and `ObjectRef` name it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use crate::core::{self, ObjectMeta};
use crate::ingress;
use crate::policy;

/// The namespace of a namespaced object that names none, as `kubectl` has it.
const DEFAULT_NAMESPACE: &str = "default";

/// One row per kind: its name, its type, the apiVersion we read, and whether it lives in a namespace.
macro_rules! kinds {
    ($($kind:ident($type:ty), $api_version:literal, namespaced: $namespaced:literal;)*) => {
        /// A kind of object that Tidegate understands.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = concat!("`", $api_version, "` ", stringify!($kind))] $kind,)*
        }

        impl Kind {
            /// Every kind, in alphabetical order.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The name as a manifest's `kind` spells it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }

            /// The `apiVersion` under which we read it.
            pub fn api_version(self) -> &'static str {
                match self { $(Self::$kind => $api_version,)* }
            }

            /// Whether it is Tidegate's own, and not one of Kubernetes'.
            pub fn is_own(self) -> bool {
                self.api_version().split_once('/').is_some_and(|(group, _)| group == policy::GROUP)
            }

            /// Whether its objects live in a namespace, or belong to the whole cluster.
            pub fn is_namespaced(self) -> bool {
                match self { $(Self::$kind => $namespaced,)* }
            }
        }

        /// An object of a kind that Tidegate understands.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $(#[doc = concat!("`", $api_version, "` ", stringify!($kind))] $kind(Box<$type>),)*
        }

        impl Object {
            /// Which kind of object this is.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Name, namespace, labels and annotations.
            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Self::$kind(object) => &object.metadata,)* }
            }

            /// The same, to be changed.
            pub fn metadata_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Self::$kind(object) => &mut object.metadata,)* }
            }

            pub(crate) fn decode<'de, D: Deserializer<'de>>(kind: Kind, decoder: D) -> Result<Self, D::Error> {
                Ok(match kind { $(Kind::$kind => Self::$kind(Box::new(<$type>::deserialize(decoder)?)),)* })
            }
        }
    };
}

kinds! {
    ConfigMap(core::ConfigMap), "v1", namespaced: true;
    EndpointSlice(core::EndpointSlice), "discovery.k8s.io/v1", namespaced: true;
    Endpoints(core::Endpoints), "v1", namespaced: true;
    Ingress(ingress::Ingress), "networking.k8s.io/v1", namespaced: true;
    IngressClass(ingress::IngressClass), "networking.k8s.io/v1", namespaced: false;
    IngressClassParameters(policy::IngressClassParameters), "tidegate.io/v1alpha1", namespaced: false;
    LoadBalancerPool(policy::LoadBalancerPool), "tidegate.io/v1alpha1", namespaced: false;
    Namespace(core::Namespace), "v1", namespaced: false;
    Node(core::Node), "v1", namespaced: false;
    Pod(core::Pod), "v1", namespaced: true;
    Secret(core::Secret), "v1", namespaced: true;
    Service(core::Service), "v1", namespaced: true;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Object {
    /// What other objects, findings and people call this object.
    pub fn object_ref(&self) -> ObjectRef {
        let metadata = self.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        ObjectRef::new(self.kind(), namespace, metadata.name.as_deref().unwrap_or_default())
    }
}

/// The name of an object: kind, namespace and name; no two objects share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Kind of the object.
    pub kind: Kind,
    /// Its namespace; empty for objects of the whole cluster.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// An empty namespace means `default`; for kinds of the whole cluster the namespace does not matter.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = match namespace {
            _ if !kind.is_namespaced() => "",
            "" => DEFAULT_NAMESPACE,
            given => given,
        };
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_read_as_people_write_them() {
        assert_eq!(ObjectRef::new(Kind::Service, "", "kubia").to_string(), "Service default/kubia");
        assert_eq!(ObjectRef::new(Kind::Pod, "shop", "kubia-0").to_string(), "Pod shop/kubia-0");
        assert_eq!(ObjectRef::new(Kind::IngressClass, "shop", "nginx").to_string(), "IngressClass nginx");
    }

    #[test]
    fn kinds_are_listed_in_alphabetical_order() {
        assert!(Kind::ALL.is_sorted_by_key(|kind| kind.as_str()));
        assert!(Kind::ALL.is_sorted());
    }

    #[test]
    fn an_object_knows_its_name() {
        let mut service = core::Service::default();
        service.metadata.name = Some("kubia".to_owned());
        let object = Object::Service(Box::new(service));
        assert_eq!(object.object_ref(), ObjectRef::new(Kind::Service, "default", "kubia"));
    }
}
