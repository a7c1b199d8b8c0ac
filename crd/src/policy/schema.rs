//! From the types to the CustomResourceDefinitions of `crd/yaml`. Only tests need it: no program makes a definition.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Map, Value, json};

/// Field by field, what Kubernetes' own `Condition` asks for.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 8,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "What it is about."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it is so."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, in a word for programs."},
                "message": {"type": "string", "maxLength": 32768, "description": "Why, in a sentence for people."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "Since when."},
                "observedGeneration": {
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "description": "Of which metadata.generation that is said.",
                },
            },
        },
    })
}

pub(super) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 32,
                "additionalProperties": {"type": "string", "maxLength": 63},
                "description": "Labels that must be there with these values.",
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "description": "What must be true of labels; all of it.",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string", "maxLength": 317, "description": "The label."},
                        "operator": {
                            "type": "string",
                            "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                            "description": "What must be true of it.",
                        },
                        "values": {
                            "type": "array",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63},
                            "description": "For In and NotIn: the values.",
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : \
                                 !has(self.values) || size(self.values) == 0",
                        "message": "In and NotIn need values; Exists and DoesNotExist have none",
                    }],
                },
            },
        },
    })
}

/// The longest text is two IPv6 addresses in full.
pub(super) fn address_ranges(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 91,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self) || isIP(self) || (self.split('-').size() == 2 && \
                         isIP(self.split('-')[0]) && isIP(self.split('-')[1]) && \
                         ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family())",
                "message": "write a CIDR such as 192.0.2.0/28, a range such as 192.0.2.16-192.0.2.31, or one address",
            }],
        },
    })
}

pub(super) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 128,
        "additionalProperties": {"type": "string", "maxLength": 16384},
        "x-kubernetes-validations": [{
            "rule": "self.all(name, name.startsWith('nginx.ingress.kubernetes.io/') || name.startsWith('tidegate.io/'))",
            "message": "only annotations that begin with nginx.ingress.kubernetes.io/ or tidegate.io/ mean anything here",
        }, {
            "rule": "!self.exists(name, name.startsWith('nginx.ingress.kubernetes.io/canary') || \
                     name == 'nginx.ingress.kubernetes.io/server-alias')",
            "message": "canary annotations and server-alias are an Ingress's own and cannot hold for a whole class",
        }],
    })
}

pub(super) fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-validations": [{
            "rule": "type(self) == int ? self >= 1 && self <= 65535 : string(self).size() >= 1 && string(self).size() <= 15",
            "message": "write a port number from 1 to 65535, or the name of a port of the Service",
        }],
    })
}

/// A column of `kubectl get`: its title, its type and where its value stands.
pub(super) type Column = (&'static str, &'static str, &'static str);

/// The definition of a kind of the whole cluster.
pub(super) fn definition<K, Spec, Status>(description: &str, short_names: &[&str], columns: &[Column]) -> Value
where
    K: k8s_openapi::Resource,
    Spec: JsonSchema,
    Status: JsonSchema,
{
    let plural = K::URL_PATH_SEGMENT;
    let columns: Vec<Value> =
        columns.iter().map(|(name, kind, path)| json!({"name": name, "type": kind, "jsonPath": path})).collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{}", K::GROUP)},
        "spec": {
            "group": K::GROUP,
            "scope": "Cluster",
            "names": {
                "kind": K::KIND,
                "listKind": format!("{}List", K::KIND),
                "plural": plural,
                "singular": K::KIND.to_lowercase(),
                "shortNames": short_names,
                "categories": ["tidegate"],
            },
            "versions": [{
                "name": K::VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": description,
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": structural::<Spec>(),
                        "status": structural::<Status>(),
                    },
                }},
            }],
        },
    })
}

/// The schema of a type as the API server takes it: nothing by reference, and nothing said that it does not know.
fn structural<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    strip(&mut schema);
    schema
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            strip_fields(fields);
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A title repeats the type's name, and a field that may be left out need not be `null` as well.
fn strip_fields(fields: &mut Map<String, Value>) {
    let is_schema = fields.contains_key("type") || fields.contains_key("x-kubernetes-int-or-string");
    if is_schema && !fields.get("type").is_some_and(Value::is_object) {
        fields.remove("title");
        fields.remove("nullable");
        if let Some(Value::String(text)) = fields.get_mut("description") {
            *text = text.replace('\n', " ");
        }
    }
}
