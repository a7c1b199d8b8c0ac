//! Which Ingresses are ours: `spec.ingressClassName`, the older annotation, and the default class.

use tidegate_crd::ingress::Ingress;

use super::objects::{Name, Objects};

/// Value of `IngressClass.spec.controller` that is ours.
const CONTROLLER: &str = "tidegate.io/ingress";

/// ingress-nginx's controller name: its classes are served too, so that a cluster can change over without changing an Ingress.
const NGINX_CONTROLLER: &str = "k8s.io/ingress-nginx";

/// Classes that are ours where no IngressClass of that name exists: a laptop has nobody to install one.
const IMPLIED_CLASSES: [&str; 2] = ["tidegate", "nginx"];

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// Whether an Ingress is ours, and by what word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Served here.
    Ours,
    /// Another controller's.
    Other {
        /// The controller.
        controller: String,
    },
    /// It names a class that does not exist.
    Unknown {
        /// The class.
        class: String,
        /// The field that names it.
        field: &'static str,
    },
    /// It names no class, and the default class is another controller's.
    NotDefault {
        /// That class.
        class: String,
    },
}

/// Decides for one Ingress (reference: Ingress v1, `ingressClassName`).
pub(crate) fn class_of(ingress: &Ingress, objects: &Objects) -> Class {
    let spec = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotation = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION)).map(String::as_str);
    match (spec, annotation) {
        (Some(class), _) => named(class, "spec.ingressClassName", objects),
        (None, Some(class)) => named(class, "metadata.annotations[\"kubernetes.io/ingress.class\"]", objects),
        (None, None) => match default_class(objects) {
            Some((class, controller)) if !is_ours(controller) => Class::NotDefault { class: class.to_owned() },
            Some(_) | None => Class::Ours,
        },
    }
}

fn named(class: &str, field: &'static str, objects: &Objects) -> Class {
    match objects.classes.get(&Name::new("", class)) {
        Some(found) => {
            let controller = found.object.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default();
            if is_ours(controller) { Class::Ours } else { Class::Other { controller: controller.to_owned() } }
        }
        None if IMPLIED_CLASSES.contains(&class) => Class::Ours,
        None => Class::Unknown { class: class.to_owned(), field },
    }
}

fn default_class(objects: &Objects) -> Option<(&str, &str)> {
    let is_default = |class: &&std::sync::Arc<super::objects::Stored<tidegate_crd::ingress::IngressClass>>| {
        class
            .object
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|a| a.get(DEFAULT_CLASS_ANNOTATION).is_some_and(|v| v == "true"))
    };
    let class = objects.classes.iter().map(|(_, class)| class).find(is_default)?;
    let controller = class.object.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default();
    Some((class.object.metadata.name.as_deref().unwrap_or_default(), controller))
}

fn is_ours(controller: &str) -> bool {
    controller == CONTROLLER || controller == NGINX_CONTROLLER
}
