//! Whether an Ingress is ours, and its row for people.

use std::sync::Arc;

use tidegate_crd::ingress::Ingress;

use super::super::{
    class::{CLASS_ANNOTATION_FIELD, Class, class_of},
    class_parameters::Parameters,
    finding::Report,
    objects::{Name, Objects},
    rows::{IngressRow, Inherited},
    settings::ClassSettings,
};

/// Whether its class is ours; says so if it is not.
pub(super) fn is_ours(ingress: &Ingress, objects: &Objects, classes: &ClassSettings, report: &mut Report<'_>) -> bool {
    match class_of(ingress, objects, classes) {
        Class::Ours => return true,
        Class::Other { controller } => {
            report.info(
                "OtherClass",
                "spec.ingressClassName",
                format!("its class belongs to {controller}, so it is not served here."),
                "Nothing, if that is as meant.",
            );
        }
        // Others read the annotation without an IngressClass (`gce`), as we do.
        Class::Unknown { class, field } if classes.among_others && field == CLASS_ANNOTATION_FIELD => {
            report.info(
                "UnknownClass",
                field,
                format!("there is no IngressClass {class:?}, so it is not served here."),
                "Nothing, if another controller serves it; else correct the name.",
            );
        }
        Class::Unknown { class, field } => {
            let controller = classes.controllers.first().map_or("tidegate.io/ingress", |controller| controller);
            let implied = match &*classes.implied {
                [] => String::new(),
                implied => format!(", or use the class {}", implied.join(" or ")),
            };
            let fix = format!("Create the IngressClass with controller {controller}{implied}.");
            report.error(
                "UnknownClass",
                field,
                format!("there is no IngressClass {class:?}, so the Ingress is not served."),
                fix,
            );
        }
        Class::Nothing => {
            report.info(
                "NoClass",
                "spec",
                "it names no class, and no class is the default, so it is not served here.",
                "Write spec.ingressClassName: tidegate, or start with --watch-ingress-without-class.",
            );
        }
        Class::NotDefault { class } => {
            let message = format!(
                "it names no class, and the default class {class:?} is another controller's, so it is not served."
            );
            let fix = "Write spec.ingressClassName: tidegate.";
            // Where the other controller is there, that is as it should be.
            if classes.among_others {
                report.info("NotDefaultClass", "spec", message, fix);
            } else {
                report.warning("NotDefaultClass", "spec", message, fix);
            }
        }
    }
    false
}

/// A row, or the one `before` that says the same. Those are in the order of their names.
pub(super) fn held(row: IngressRow, before: &[Arc<IngressRow>]) -> Arc<IngressRow> {
    let name = (&row.namespace, &row.name);
    match before.binary_search_by(|held| (&held.namespace, &held.name).cmp(&name)) {
        Ok(at) if *before[at] == row => before[at].clone(),
        Ok(_) | Err(_) => Arc::new(row),
    }
}

/// The row of an Ingress; `class` is what holds for its class.
pub(super) fn row(name: &Name, ingress: &Ingress, ours: bool, class: Option<&Parameters>) -> IngressRow {
    let spec = ingress.spec.as_ref();
    let mut hosts: Vec<String> = spec
        .iter()
        .flat_map(|s| s.rules.iter().flatten())
        .map(|r| r.host.clone().unwrap_or_else(|| "*".to_owned()))
        .collect();
    if hosts.is_empty() {
        hosts.push("*".to_owned());
    }
    IngressRow {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        class: spec.and_then(|spec| spec.ingress_class_name.clone()),
        ours,
        hosts,
        tls: spec.is_some_and(|spec| spec.tls.as_ref().is_some_and(|tls| !tls.is_empty())),
        inherited: class.map(|class| Inherited {
            parameters: class.name.clone(),
            annotations: class.for_ingress(ingress).map(|(name, _)| name.into()).collect(),
        }),
        created: ingress.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
    }
}
