//! Which Ingresses are ours: `spec.ingressClassName`, the older annotation, and the default class.

use tidegate_crd::ingress::{Ingress, IngressClass};

use super::{
    objects::{Name, Objects},
    settings::ClassSettings,
};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// The same as a field.
pub(crate) const CLASS_ANNOTATION_FIELD: &str = "metadata.annotations[\"kubernetes.io/ingress.class\"]";

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
    /// It names no class, and no class is the default.
    Nothing,
    /// It names no class, and the default class is another controller's.
    NotDefault {
        /// That class.
        class: String,
    },
}

/// Decides for one Ingress (reference: Ingress v1, `ingressClassName`).
pub(crate) fn class_of(ingress: &Ingress, objects: &Objects, settings: &ClassSettings) -> Class {
    let spec = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotation = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION)).map(String::as_str);
    match (spec, annotation) {
        (Some(class), _) => named(class, "spec.ingressClassName", objects, settings),
        (None, Some(class)) => named(class, CLASS_ANNOTATION_FIELD, objects, settings),
        (None, None) => match default_class(objects) {
            Some((class, controller)) if !is_ours(controller, settings) => {
                Class::NotDefault { class: class.to_owned() }
            }
            Some(_) => Class::Ours,
            None if settings.without_class => Class::Ours,
            None => Class::Nothing,
        },
    }
}

fn named(class: &str, field: &'static str, objects: &Objects, settings: &ClassSettings) -> Class {
    match objects.classes.get(&Name::new("", class)) {
        Some(found) => {
            let controller = found.object.spec.as_ref().and_then(|spec| spec.controller.as_deref()).unwrap_or_default();
            if is_ours(controller, settings) { Class::Ours } else { Class::Other { controller: controller.to_owned() } }
        }
        None if settings.implied.iter().any(|implied| **implied == *class) => Class::Ours,
        None => Class::Unknown { class: class.to_owned(), field },
    }
}

/// The class that an Ingress is of, by name.
pub(crate) fn name_of<'a>(ingress: &'a Ingress, objects: &'a Objects) -> Option<&'a str> {
    let spec = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let annotation = || ingress.metadata.annotations.as_ref()?.get(CLASS_ANNOTATION).map(String::as_str);
    spec.or_else(annotation).or_else(|| default_class(objects).map(|(class, _)| class))
}

/// Whether a class is ours.
pub(crate) fn is_of_ours(class: &IngressClass, settings: &ClassSettings) -> bool {
    class.spec.as_ref().and_then(|spec| spec.controller.as_deref()).is_some_and(|named| is_ours(named, settings))
}

/// The default class, and its controller.
pub(crate) fn default_class(objects: &Objects) -> Option<(&str, &str)> {
    let is_default = |class: &&std::sync::Arc<super::objects::Stored<IngressClass>>| {
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

fn is_ours(controller: &str, settings: &ClassSettings) -> bool {
    settings.controllers.iter().any(|ours| **ours == *controller)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tidegate_crd::Object;

    use super::*;

    fn ingress(spec: &str) -> Ingress {
        let text = format!("{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: a}}, spec: {spec}}}");
        let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), &text);
        let Object::Ingress(ingress) = &parsed.documents[0].object else { panic!("it is an Ingress") };
        (**ingress).clone()
    }

    /// In a cluster, others serve Ingresses too: one that names no class is theirs, unless it is said otherwise.
    #[test]
    fn who_names_no_class_is_ours_only_where_that_is_said() {
        let class = |name: &str, controller: &str| {
            let text = format!(
                "{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: {name}, annotations: \
                 {{ingressclass.kubernetes.io/is-default-class: 'true'}}}}, spec: {{controller: {controller}}}}}"
            );
            let mut objects = Objects::default();
            for document in tidegate_crd::yaml::parse(Path::new("test.yaml"), &text).documents {
                objects.apply(document);
            }
            objects
        };
        let (ours, theirs) = (class("a", "tidegate.io/ingress"), class("b", "a.b/c"));
        for (without_class, expected) in [(true, Class::Ours), (false, Class::Nothing)] {
            let settings = ClassSettings { without_class, ..ClassSettings::default() };
            let of = |objects: &Objects| class_of(&ingress("{}"), objects, &settings);
            assert_eq!(of(&Objects::default()), expected);
            assert_eq!((of(&ours), of(&theirs)), (Class::Ours, Class::NotDefault { class: "b".to_owned() }));
        }
    }

    #[test]
    fn the_operator_says_which_classes_are_ours() {
        let text = "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: inner}, spec: {controller: a.b/inner}}";
        let mut objects = Objects::default();
        tidegate_crd::yaml::parse(Path::new("test.yaml"), text).documents.into_iter().for_each(|document| {
            objects.apply(document);
        });
        let settings = |controller: &str, implied: &str| ClassSettings {
            controllers: vec![controller.into()],
            implied: vec![implied.into()],
            ..ClassSettings::default()
        };
        let of = |class: &str, settings: &ClassSettings| {
            class_of(&ingress(&format!("{{ingressClassName: {class}}}")), &objects, settings)
        };
        assert_eq!(of("inner", &settings("a.b/inner", "edge")), Class::Ours);
        assert_eq!(of("inner", &settings("a.b/outer", "inner")), Class::Other { controller: "a.b/inner".to_owned() });
        assert_eq!(of("edge", &settings("a.b/inner", "edge")), Class::Ours);
        assert!(matches!(of("tidegate", &settings("a.b/inner", "edge")), Class::Unknown { .. }));
        assert_eq!(of("tidegate", &ClassSettings::default()), Class::Ours);
    }
}
