//! What holds for every Ingress of a class: `spec.parameters` of an IngressClass, and the IngressClassParameters it names.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tidegate_crd::{
    Kind, Origin,
    core::IntOrString,
    ingress::{Ingress, IngressClass, IngressClassParametersReference},
    policy::{GROUP, IngressClassParameters},
};

use super::{
    annotations::{self, IngressOptions},
    class,
    finding::{Finding, Report, Severity},
    ingress::{find_port, port_list},
    load_balancer::{ACCEPTED, Verdict},
    objects::{Name, Objects, Stored},
    settings::ClassSettings,
};

/// What holds for the Ingresses of one class.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    /// The object that says so.
    pub(crate) name: Arc<str>,
    /// Annotations that an Ingress has unless it says otherwise.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Where requests go that no rule takes.
    pub(crate) backend: Option<ClassBackend>,
    /// What hosts without a certificate are shown; the Secret is there.
    pub(crate) certificate: Option<Name>,
    findings: Vec<Finding>,
}

/// The default backend of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassBackend {
    pub(crate) service: Name,
    /// Number or name of a port; its first if there is none.
    pub(crate) port: Option<String>,
}

/// The parameters of all classes that are ours.
#[derive(Debug, Default)]
pub(crate) struct ClassParameters {
    /// By class; several may name one object.
    by_class: BTreeMap<Arc<str>, Arc<Parameters>>,
    /// The default class first, then by name.
    order: Vec<Arc<str>>,
    findings: Vec<Finding>,
    /// The status of the objects, by name.
    pub(crate) statuses: Vec<ParametersStatus>,
}

/// The status that an IngressClassParameters is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParametersStatus {
    /// The object.
    pub name: Arc<str>,
    /// `metadata.generation` of what was read.
    pub generation: Option<i64>,
    /// `Accepted`.
    pub accepted: Verdict,
}

/// Parameters, and the classes that name them.
type Used = (Arc<Parameters>, BTreeSet<Arc<str>>);

impl ClassParameters {
    /// Reads the parameters of the classes that are ours.
    pub(crate) fn read(objects: &Objects, settings: &ClassSettings) -> Self {
        let mut all = Self::default();
        let mut used: BTreeMap<Arc<str>, Used> = BTreeMap::new();
        let default = class::default_class(objects).map(|(name, _)| name);
        let mut classes: Vec<_> =
            objects.classes.iter().filter(|(_, stored)| class::is_of_ours(&stored.object, settings)).collect();
        classes.sort_by_key(|(name, _)| (Some(&*name.name) != default, *name));
        for (name, stored) in classes {
            let Some(reference) = stored.object.spec.as_ref().and_then(|spec| spec.parameters.as_ref()) else {
                continue;
            };
            let Some(found) = all.resolve(name, stored, reference, objects) else { continue };
            let (parameters, classes) = used.entry(reference.name.as_str().into()).or_insert_with(|| {
                (Arc::new(Parameters::read(&found.object, &found.origin, objects)), BTreeSet::new())
            });
            classes.insert(name.name.clone());
            all.by_class.insert(name.name.clone(), parameters.clone());
            all.order.push(name.name.clone());
        }
        for (name, (parameters, classes)) in used {
            all.findings.extend(parameters.findings.iter().cloned());
            let stored = objects.parameters.get(&Name::new("", &name));
            all.statuses.extend(stored.map(|stored| parameters.status(stored, &classes)));
        }
        all
    }

    /// The object that a class names, or what is wrong with the name.
    fn resolve<'a>(
        &mut self,
        name: &Name,
        stored: &Stored<IngressClass>,
        reference: &IngressClassParametersReference,
        objects: &'a Objects,
    ) -> Option<&'a Arc<Stored<IngressClassParameters>>> {
        let mut report = Report::on(Kind::IngressClass, "", &name.name, &stored.origin);
        let wrong = |report: &mut Report<'_>, field: &str, message: String| {
            let fix = format!(
                "Name an object of apiGroup {GROUP} and kind IngressClassParameters, which is in no namespace."
            );
            report.error("WrongParameters", field, format!("{message}; the class has no parameters."), fix);
        };
        let kind = Kind::IngressClassParameters.as_str();
        let mut found = None;
        if reference.api_group.as_deref() != Some(GROUP) {
            let message = match reference.api_group.as_deref() {
                Some(group) => format!("the parameters are of API group {group}, which is not ours"),
                None => "the parameters are of no API group".to_owned(),
            };
            wrong(&mut report, "spec.parameters.apiGroup", message);
        } else if reference.kind != kind {
            wrong(&mut report, "spec.parameters.kind", format!("there are no parameters of kind {:?}", reference.kind));
        } else if reference.scope.as_deref() == Some("Namespace") || reference.namespace.is_some() {
            wrong(&mut report, "spec.parameters.scope", format!("{kind} are in no namespace"));
        } else {
            found = objects.parameters.get(&Name::new("", &reference.name));
            if found.is_none() {
                let message = format!("there are no {kind} {}; the class has no parameters.", reference.name);
                let fix = "Create them, or correct the name.";
                report.error("MissingParameters", "spec.parameters.name", message, fix);
            }
        }
        self.findings.extend(report.into_findings());
        found
    }

    /// What holds for an Ingress of ours.
    pub(crate) fn of(&self, ingress: &Ingress, objects: &Objects) -> Option<&Arc<Parameters>> {
        if self.by_class.is_empty() {
            return None;
        }
        self.by_class.get(class::name_of(ingress, objects)?)
    }

    /// Where requests go to hosts that nobody knows: the default class says so, or the first that says anything.
    pub(crate) fn backend(&self) -> Option<&ClassBackend> {
        self.in_order().find_map(|parameters| parameters.backend.as_ref())
    }

    /// What hosts are shown that nobody knows.
    pub(crate) fn certificate(&self) -> Option<&Name> {
        self.in_order().find_map(|parameters| parameters.certificate.as_ref())
    }

    pub(crate) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter()
    }

    fn in_order(&self) -> impl Iterator<Item = &Arc<Parameters>> {
        self.order.iter().filter_map(|class| self.by_class.get(class))
    }
}

impl Parameters {
    fn read(object: &IngressClassParameters, origin: &Origin, objects: &Objects) -> Self {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let mut report = Report::on(Kind::IngressClassParameters, "", name, origin);
        let mut annotations = object.spec.annotations.clone().unwrap_or_default();
        annotations.retain(|name, value| IngressOptions::check_default(name, value, &mut report));
        let backend = object.spec.default_backend.as_ref().map(|backend| {
            let service = Name::new(&backend.namespace, &backend.name);
            let port = backend.port.as_ref().map(|port| match port {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            });
            check_backend(objects, &service, port.as_deref(), &mut report);
            ClassBackend { service, port }
        });
        let certificate = object.spec.default_certificate.as_ref();
        let certificate = certificate.map(|secret| Name::new(&secret.namespace, &secret.name)).filter(|secret| {
            let is_there = objects.secrets.get(secret).is_some();
            if !is_there {
                let message = format!("there is no Secret {secret}; hosts without a certificate are shown another.");
                let fix = "Create the Secret, with tls.crt and tls.key, or correct the name.";
                report.error("MissingSecret", "spec.defaultCertificate", message, fix);
            }
            is_there
        });
        Self { name: name.into(), annotations, backend, certificate, findings: report.into_findings() }
    }

    /// The annotations that an Ingress takes from here.
    pub(crate) fn for_ingress<'a>(&'a self, ingress: &Ingress) -> impl Iterator<Item = (&'a str, &'a str)> {
        let own = ingress.metadata.annotations.as_ref();
        let is_free = move |name: &str| own.is_none_or(|own| !own.contains_key(name));
        let all = self.annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        all.filter(|(name, _)| is_free(name)).collect::<Vec<_>>().into_iter()
    }

    fn status(&self, stored: &Stored<IngressClassParameters>, classes: &BTreeSet<Arc<str>>) -> ParametersStatus {
        let accepted = match self.findings.iter().find(|finding| finding.severity == Severity::Error) {
            Some(finding) => Verdict::new(false, finding.reason, finding.message.clone()),
            None => {
                let classes: Vec<&str> = classes.iter().map(|class| &**class).collect();
                Verdict::new(true, ACCEPTED, format!("They hold for the Ingresses of class {}.", classes.join(", ")))
            }
        };
        let generation = stored.object.metadata.generation;
        ParametersStatus { name: self.name.clone(), generation, accepted }
    }
}

fn check_backend(objects: &Objects, service: &Name, port: Option<&str>, report: &mut Report<'_>) {
    if objects.services.get(service).is_none() {
        let message = format!("there is no Service {service}; requests that no rule takes are answered 503.");
        let fix = "Create the Service, or correct the name.";
        report.error("MissingService", "spec.defaultBackend.name", message, fix);
    } else if let Some(port) = port
        && find_port(objects, service, port).is_none()
    {
        let message =
            format!("Service {service} has no TCP port {port}; requests that no rule takes are answered 503.");
        let fix = format!("Use one of its ports: {}.", port_list(objects, service));
        report.error("MissingServicePort", "spec.defaultBackend.port", message, fix);
    }
}

impl IngressOptions {
    /// Whether an annotation may hold for a whole class; says so if it may not, or cannot be read. What cannot be read has the outcome it has
    /// at an Ingress: a guard closes all of them.
    fn check_default(name: &str, value: &str, report: &mut Report<'_>) -> bool {
        let field = format!("spec.annotations[{name:?}]");
        if annotations::is_own_alone(name) {
            let message = format!("{name} is an Ingress's own and cannot hold for a whole class; it has no effect.");
            report.error("NotForClasses", &field, message, "Write it on the Ingresses that it is meant for.");
            return false;
        }
        if !Self::default().read_one(name, value, &field, report) {
            let message = format!("{name} is no annotation of ours; it has no effect.");
            let fix =
                format!("Remove it; annotations begin with {} or {}.", annotations::PREFIX, annotations::OWN_PREFIX);
            report.error("UnknownAnnotation", &field, message, fix);
            return false;
        }
        true
    }
}

#[cfg(test)]
#[path = "class_parameters_tests.rs"]
mod tests;
