//! What comes over the wire: an object, one that cannot be read, or the name of one.
//!
//! One object that is not what its type says must not take its kind's list with it, so each is read by itself.

use std::{borrow::Cow, marker::PhantomData, path::Path};

use kube::Resource;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};
use tidegate_crd::{
    Kind, ObjectRef, Severity as ProblemSeverity,
    core::{ObjectMeta, ObjectReference},
    yaml,
};

use super::mirror::{Item, LABEL};
use crate::compile::finding::{Finding, Severity};

/// An object of a kind.
#[derive(Clone, Debug)]
pub(super) enum Read<K> {
    /// As it is.
    Object(Box<K>),
    /// It is not what its kind should be.
    Unreadable {
        /// Its name.
        name: ObjectRef,
        /// Name, namespace and version.
        metadata: Box<ObjectMeta>,
        /// Why.
        finding: Box<Finding>,
    },
}

/// The name of an object of a kind, and its version; the rest is not asked for, and not looked at.
#[derive(Clone, Debug)]
pub(super) struct Named<K> {
    metadata: ObjectMeta,
    kind: PhantomData<fn() -> K>,
}

/// The little of an object's metadata that is read in any case. Annotations are not: `kubectl apply` leaves all of a Secret there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    resource_version: Option<String>,
}

impl From<Head> for ObjectMeta {
    fn from(head: Head) -> Self {
        let Head { name, namespace, resource_version } = head;
        Self { name: Some(name), namespace, resource_version, ..Self::default() }
    }
}

impl<'de, K> Deserialize<'de> for Named<K> {
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Body {
            metadata: Head,
        }
        let body = Body::deserialize(decoder)?;
        Ok(Self { metadata: body.metadata.into(), kind: PhantomData })
    }
}

impl<'de, K: Resource<DynamicType = ()>> Deserialize<'de> for Read<K>
where
    K: for<'a> Deserialize<'a>,
{
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(decoder)?;
        let error = match K::deserialize(&value) {
            Ok(object) => return Ok(Self::Object(Box::new(object))),
            Err(error) => error,
        };
        // Without a name nobody could be told which one it is.
        let head = value.get("metadata").map(Head::deserialize).transpose().ok().flatten();
        let metadata: ObjectMeta = head.ok_or_else(|| D::Error::custom(&error))?.into();
        let kind = Kind::ALL.iter().copied().find(|kind| *kind.as_str() == *K::kind(&()));
        let name = kind.map(|kind| name_of(kind, &metadata)).ok_or_else(|| D::Error::custom(&error))?;
        let finding = Box::new(finding::<K>(value, &name, &error));
        Ok(Self::Unreadable { name, metadata: Box::new(metadata), finding })
    }
}

impl<K> Named<K> {
    /// What it means to us.
    pub(super) fn item(self, kind: Kind) -> Item {
        Item::Named(name_of(kind, &self.metadata), self.metadata.resource_version.unwrap_or_default())
    }
}

fn name_of(kind: Kind, metadata: &ObjectMeta) -> ObjectRef {
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    ObjectRef::new(kind, namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// Where an object is not what its kind should be. The reader of manifests says it best: it knows the field, and what to write.
fn finding<K: Resource<DynamicType = ()>>(mut value: Value, name: &ObjectRef, error: &serde_json::Error) -> Finding {
    // An item of a list says neither.
    value["apiVersion"] = json!(K::api_version(&()));
    value["kind"] = json!(K::kind(&()));
    let problems = yaml::parse(Path::new(LABEL), &value.to_string()).problems;
    let found = problems.into_iter().find(|problem| problem.severity == ProblemSeverity::Error);
    let mut finding = found.map_or_else(
        || Finding {
            severity: Severity::Error,
            reason: "InvalidField",
            object: None,
            file: Path::new(LABEL).into(),
            line: 0,
            field: None,
            // What a Secret holds must not end in a log.
            message: if name.kind == Kind::Secret {
                "a field is not of its type".to_owned()
            } else {
                error.to_string()
            },
            fix: "See its fields in the Kubernetes API reference.".to_owned(),
        },
        Finding::from,
    );
    finding.object = Some(name.clone());
    // Here the object came on no line of anything.
    finding.line = 0;
    finding
}

/// Implements what the client needs to know of a kind for what stands in the place of its objects.
macro_rules! stands_for {
    ($type:ident, $metadata_api:literal, |$this:ident| $meta:expr, $meta_mut:expr) => {
        impl<K: Resource<DynamicType = ()>> Resource for $type<K> {
            type DynamicType = ();
            type Scope = K::Scope;

            fn kind(_: &()) -> Cow<'_, str> {
                K::kind(&())
            }

            fn group(_: &()) -> Cow<'_, str> {
                K::group(&())
            }

            fn version(_: &()) -> Cow<'_, str> {
                K::version(&())
            }

            fn plural(_: &()) -> Cow<'_, str> {
                K::plural(&())
            }

            fn metadata_api() -> bool {
                $metadata_api
            }

            fn meta(&self) -> &ObjectMeta {
                let $this = self;
                $meta
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                let $this = self;
                $meta_mut
            }

            fn object_ref(&self, _: &()) -> ObjectReference {
                let ObjectMeta { name, namespace, .. } = self.meta().clone();
                ObjectReference { kind: Some(K::kind(&()).into()), name, namespace, ..ObjectReference::default() }
            }
        }
    };
}

stands_for!(Named, true, |this| &this.metadata, &mut this.metadata);
stands_for!(
    Read,
    false,
    |this| match this {
        Self::Object(object) => object.meta(),
        Self::Unreadable { metadata, .. } => metadata,
    },
    match this {
        Self::Object(object) => object.meta_mut(),
        Self::Unreadable { metadata, .. } => metadata,
    }
);

#[cfg(test)]
mod tests {
    use tidegate_crd::core::{Secret, Service};

    use super::*;

    fn read<K>(text: &str) -> Result<Read<K>, serde_json::Error>
    where
        K: Resource<DynamicType = ()> + for<'a> Deserialize<'a>,
    {
        serde_json::from_str(text)
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_field() {
        let text = r#"{"metadata": {"name": "a", "namespace": "b", "resourceVersion": "7"}, "spec": {"ports": [{"port": "80"}]}}"#;
        let Ok(Read::Unreadable { metadata, finding, .. }) = read::<Service>(text) else {
            panic!("80 is no number there")
        };
        assert_eq!(metadata.resource_version.as_deref(), Some("7"));
        let said = finding.to_string();
        assert!(
            said.starts_with("kubernetes: error[InvalidField] Service b/a: spec.ports[0].port: expected "),
            "{said}"
        );
        assert!(matches!(read::<Service>(r#"{"metadata": {"name": "a"}, "spec": {}}"#), Ok(Read::Object(_))));
        assert!(read::<Service>(r#"{"metadata": {}, "spec": {"ports": 1}}"#).is_err(), "nobody knows which");
    }

    #[test]
    fn what_a_secret_holds_is_not_said() {
        let text = r#"{"metadata": {"name": "a"}, "data": {"tls.key": "hush! not base64"}}"#;
        let Ok(Read::Unreadable { finding, .. }) = read::<Secret>(text) else { panic!("that is not base64") };
        let said = finding.to_string();
        assert!(said.contains("Secret default/a") && said.contains("tls.key") && !said.contains("hush"), "{said}");
    }

    #[test]
    fn of_names_nothing_else_is_kept() {
        let text = r#"{"metadata": {"name": "a", "namespace": "b", "resourceVersion": "7", "annotations": {"c": "d"}}, "data": {"e": "Zg=="}}"#;
        let named: Named<Secret> = serde_json::from_str(text).unwrap();
        let expected = ObjectMeta { name: Some("a".to_owned()), namespace: Some("b".to_owned()), ..Default::default() };
        assert_eq!(named.meta(), &ObjectMeta { resource_version: Some("7".to_owned()), ..expected });
        assert!(Named::<Secret>::metadata_api());
    }
}
