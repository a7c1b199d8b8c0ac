//! Which Secrets and ConfigMaps are referred to: the only ones of a cluster that are read.

use std::collections::BTreeSet;

use tidegate_crd::{Kind, ObjectRef, ingress::Ingress};

use super::{
    annotations,
    class::{Class, class_of},
    class_parameters::{ClassParameters, Parameters},
    objects::{Name, Objects},
    settings::Settings,
    tls::secret_name,
};

/// The annotations that name a Secret.
const SECRETS: [&str; 2] = ["auth-tls-secret", "proxy-ssl-secret"];

/// The annotation that names a ConfigMap.
const CONFIG_MAP: &str = "custom-headers";

/// What [`references`] depends on: as long as it is the same, so are they.
pub fn versions(objects: &Objects) -> [u64; 3] {
    [objects.ingresses.version(), objects.classes.version(), objects.parameters.version()]
}

/// The Secrets and ConfigMaps that our Ingresses, what their classes say of them, and the command line name, whether they are there or not. Those of another
/// controller's Ingresses are not ours to read.
pub fn references(objects: &Objects, settings: &Settings) -> BTreeSet<ObjectRef> {
    let mut names = BTreeSet::new();
    if let Some((namespace, name)) = &settings.tls.default_certificate {
        names.insert(ObjectRef::new(Kind::Secret, namespace, name));
    }
    let certificates =
        objects.parameters.iter().filter_map(|(_, stored)| stored.object.spec.default_certificate.as_ref());
    names.extend(certificates.map(|secret| ObjectRef::new(Kind::Secret, &secret.namespace, &secret.name)));
    let parameters = ClassParameters::read(objects, &settings.classes);
    for (name, stored) in objects.ingresses.iter() {
        if class_of(&stored.object, objects, &settings.classes) == Class::Ours {
            add(&mut names, name, &stored.object, parameters.of(&stored.object, objects).map(|of_class| &**of_class));
        }
    }
    names
}

fn add(names: &mut BTreeSet<ObjectRef>, owner: &Name, ingress: &Ingress, class: Option<&Parameters>) {
    let sections = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    let certificates = sections.filter_map(|section| section.secret_name.as_deref()).filter(|name| !name.is_empty());
    names.extend(certificates.map(|name| ObjectRef::new(Kind::Secret, &owner.namespace, name)));
    let (own, of_class) = (ingress.metadata.annotations.as_ref(), class.map(|class| &class.annotations));
    let written = |short: &str| {
        let name = [annotations::PREFIX, short].concat();
        let found = [own, of_class].into_iter().flatten().find_map(|annotations| annotations.get(&name));
        found.map(|value| value.trim())
    };
    // What names another namespace is refused where it is compiled.
    let mut name = |kind, written: Option<&str>| {
        if let Some(Ok(name)) = written.map(|written| secret_name(written, &owner.namespace)) {
            names.insert(ObjectRef::new(kind, &name.namespace, &name.name));
        }
    };
    SECRETS.iter().for_each(|short| name(Kind::Secret, written(short)));
    name(Kind::ConfigMap, written(CONFIG_MAP));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn those_that_our_ingresses_and_the_command_line_name() {
        let ingress = |class: &str, name: &str| {
            format!(
                "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}, namespace: shop, annotations: \
                 {{nginx.ingress.kubernetes.io/auth-tls-secret: {name}-ca, nginx.ingress.kubernetes.io/proxy-ssl-secret: \
                 other/pods, nginx.ingress.kubernetes.io/custom-headers: shop/{name}-fields}}}}, spec: {{ingressClassName: \
                 {class}, tls: [{{secretName: {name}}}, {{hosts: [a]}}, {{secretName: ''}}]}}}}\n"
            )
        };
        let mut objects = Objects::default();
        let class = "\
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: edge}, spec: {controller: tidegate.io/ingress,
 parameters: {apiGroup: tidegate.io, kind: IngressClassParameters, name: edge}}}
---
{apiVersion: tidegate.io/v1alpha1, kind: IngressClassParameters, metadata: {name: edge}, spec: {defaultCertificate:
 {namespace: edge, name: wildcard}, annotations: {nginx.ingress.kubernetes.io/custom-headers: of-class}}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: bare, namespace: blog}, spec: {ingressClassName: edge}}
";
        let text = ingress("nginx", "ours") + &ingress("elsewhere", "other") + class;
        for document in tidegate_crd::yaml::parse(Path::new("test.yaml"), &text).documents {
            objects.apply(document);
        }
        let mut settings = Settings::default();
        settings.tls.default_certificate = Some(("system".into(), "default".into()));
        let names: Vec<String> = references(&objects, &settings).iter().map(ToString::to_string).collect();
        let expected = [
            "ConfigMap blog/of-class",
            "ConfigMap shop/ours-fields",
            "Secret edge/wildcard",
            "Secret shop/ours",
            "Secret shop/ours-ca",
            "Secret system/default",
        ];
        assert_eq!(names, expected);
    }
}
