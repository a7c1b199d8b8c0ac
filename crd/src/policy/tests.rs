//! The definitions in `crd/yaml` are what the types say; and the kinds are read from manifests.

use std::{fs, path::Path};

use serde_json::Value;

use super::{schema::definition, *};
use crate::{Object, yaml};

/// Set it to write the files instead of comparing.
const WRITE: &str = "TIDEGATE_WRITE_DOCS";

const HEAD: &str =
    "# Made of the types in crd/src/policy by `TIDEGATE_WRITE_DOCS=1 cargo test -p tidegate-crd --lib policy`.\n";

fn definitions() -> [Value; 2] {
    [
        definition::<IngressClassParameters, IngressClassParametersSpec, IngressClassParametersStatus>(
            "What holds for every Ingress of an IngressClass that names this object in spec.parameters.",
            &[],
            &[
                ("Accepted", "string", ".status.conditions[?(@.type==\"Accepted\")].status"),
                ("Default backend", "string", ".spec.defaultBackend.name"),
                ("Default certificate", "string", ".spec.defaultCertificate.name"),
                ("Age", "date", ".metadata.creationTimestamp"),
            ],
        ),
        definition::<LoadBalancerPool, LoadBalancerPoolSpec, LoadBalancerPoolStatus>(
            "Addresses that Services of type LoadBalancer may be given.",
            &["lbpool"],
            &[
                ("Addresses", "string", ".spec.addresses"),
                ("Size", "integer", ".status.size"),
                ("Allocated", "integer", ".status.allocated"),
                ("Auto assign", "boolean", ".spec.autoAssign"),
                ("Accepted", "string", ".status.conditions[?(@.type==\"Accepted\")].status"),
                ("Age", "date", ".metadata.creationTimestamp"),
            ],
        ),
    ]
}

#[test]
fn the_definitions_are_what_the_types_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    for definition in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap();
        let path = directory.join(format!("{name}.yaml"));
        let text = HEAD.to_owned() + &serde_saphyr::to_string(&definition).unwrap();
        if std::env::var_os(WRITE).is_some() {
            fs::write(&path, &text).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "{path:?} is stale: run `{WRITE}=1 cargo test -p tidegate-crd --lib policy`");
    }
}

/// What the API server asks of a schema (structural schemas): each value has one type, named where the value stands.
#[test]
fn the_schemas_are_structural() {
    for definition in definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        check(schema, "");
    }
}

fn check(schema: &Value, path: &str) {
    let fields = schema.as_object().unwrap_or_else(|| panic!("{path} is no schema: {schema}"));
    let is_port = fields.contains_key("x-kubernetes-int-or-string");
    assert!(is_port || fields["type"].is_string(), "{path} has no type: {schema}");
    for word in ["$ref", "definitions", "oneOf", "allOf", "nullable", "title", "const"] {
        assert!(!fields.contains_key(word), "{path} has {word}");
    }
    let is_fixed = ["", ".apiVersion", ".kind", ".metadata"].contains(&path);
    assert!(is_fixed || path.ends_with("[]") || path.ends_with("{}") || is_described(fields, path), "{path}");
    for (name, field) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
        check(field, &format!("{path}.{name}"));
    }
    if let Some(items) = fields.get("items") {
        check(items, &format!("{path}[]"));
    }
    if let Some(values) = fields.get("additionalProperties") {
        check(values, &format!("{path}{{}}"));
    }
}

/// What `kubectl explain` shows is never empty.
fn is_described(fields: &serde_json::Map<String, Value>, path: &str) -> bool {
    let text = fields.get("description").and_then(Value::as_str);
    assert!(text.is_some_and(|text| text.len() > 8 && !text.contains('\n')), "{path} is not described: {text:?}");
    true
}

const POOL: &str = "\
apiVersion: tidegate.io/v1alpha1
kind: LoadBalancerPool
metadata: {name: edge}
spec:
  addresses: [192.0.2.0/28, 2001:db8::1-2001:db8::9]
  autoAssign: false
  namespaceSelector: {matchLabels: {team: shop}}
  ipMode: VIP
";

#[test]
fn a_pool_is_read_and_written() {
    let parsed = yaml::parse(Path::new("test.yaml"), POOL);
    assert_eq!(parsed.problems, []);
    let Object::LoadBalancerPool(pool) = &parsed.documents[0].object else { panic!("it is a pool") };
    assert_eq!(pool.spec.addresses, ["192.0.2.0/28", "2001:db8::1-2001:db8::9"]);
    assert_eq!((pool.spec.auto_assign, pool.spec.ip_mode.as_deref()), (Some(false), Some("VIP")));
    assert_eq!(pool.metadata.namespace, None);
    let json = serde_json::to_value(pool).unwrap();
    assert_eq!((&json["apiVersion"], &json["kind"]), (&"tidegate.io/v1alpha1".into(), &"LoadBalancerPool".into()));
    assert_eq!(json.get("status"), None);
    assert_eq!(serde_json::from_value::<LoadBalancerPool>(json).unwrap(), **pool);
}

#[test]
fn parameters_are_read() {
    let text = "{apiVersion: tidegate.io/v1alpha1, kind: IngressClassParameters, metadata: {name: edge}, \
                spec: {annotations: {tidegate.io/a: b}, defaultBackend: {namespace: a, name: b, port: 80}, \
                defaultCertificate: {namespace: a, name: c}}}";
    let parsed = yaml::parse(Path::new("test.yaml"), text);
    assert_eq!(parsed.problems, []);
    let Object::IngressClassParameters(parameters) = &parsed.documents[0].object else { panic!("it is one") };
    let backend = parameters.spec.default_backend.as_ref().unwrap();
    assert_eq!(backend.port, Some(crate::core::IntOrString::Int(80)));
    assert_eq!(parameters.spec.annotations.as_ref().unwrap()["tidegate.io/a"], "b");
}

#[test]
fn mistakes_are_named_where_they_stand() {
    let said = |text: &str| -> Vec<String> {
        let problems = yaml::parse(Path::new("test.yaml"), text).problems;
        problems.into_iter().map(|problem| format!("{} {problem} {}", problem.line, problem.fix)).collect()
    };
    let unknown = said(&POOL.replace("autoAssign", "autoasign"));
    assert!(unknown[0].contains("6 ") && unknown[0].contains("Did you mean `autoAssign`?"), "{unknown:?}");
    let missing = said("{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: a}, spec: {}}");
    assert!(
        missing[0].contains("missing field `addresses`") && missing[0].contains("docs/resources.md"),
        "{missing:?}"
    );
    let version = said(&POOL.replace("v1alpha1", "v1"));
    assert!(version[0].contains("WrongApiVersion") && version[0].contains("tidegate.io/v1alpha1"), "{version:?}");
    let kind = said(&POOL.replace("LoadBalancerPool", "LoadBalancerPol"));
    assert!(kind[0].contains("Did you mean `kind: LoadBalancerPool`?"), "{kind:?}");
}

#[test]
fn the_manifests_of_the_page_are_good() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/resources.md");
    let page = fs::read_to_string(page).unwrap();
    let blocks: Vec<&str> = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let parsed = yaml::parse(Path::new("docs/resources.md"), block);
        assert_eq!(parsed.problems, []);
        assert!(parsed.documents.iter().any(|document| document.object.kind().is_own()));
    }
}
