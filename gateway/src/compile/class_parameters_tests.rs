//! What a class gives its Ingresses: annotations, a backend and a certificate.

use std::path::Path;

use super::*;
use crate::{
    compile::{Compiled, allocate::Allocations, compile, settings::Settings},
    route::{Backend, Rule},
    tls::{
        Source,
        tests::support::{Ca, tls_secret},
    },
};

const SERVICES: &str = "
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 127.96.0.5, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: rest, namespace: edge}, spec: {clusterIP: 127.96.0.6, ports: [{name: main, port: 80}, {name: alt, port: 81}]}}
";

fn class(name: &str, parameters: &str) -> String {
    let default = if name == "default" { "true" } else { "false" };
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {{name: {name}, annotations: \
         {{ingressclass.kubernetes.io/is-default-class: '{default}'}}}}, \
         spec: {{controller: tidegate.io/ingress, parameters: {{{parameters}}}}}}}\n"
    )
}

fn ours(name: &str) -> String {
    format!("apiGroup: tidegate.io, kind: IngressClassParameters, name: {name}")
}

fn parameters(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: tidegate.io/v1alpha1, kind: IngressClassParameters, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
    )
}

fn ingress(name: &str, class: &str, annotations: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}, annotations: {{{annotations}}}}}, \
         spec: {{{class}, {more}rules: [{{host: {name}.com, http: {{paths: [{{path: /shop, pathType: Prefix, \
         backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}}}\n"
    )
}

fn compiled(yaml: &str) -> Compiled {
    let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), &(SERVICES.to_owned() + yaml));
    assert_eq!(parsed.problems, []);
    let mut objects = Objects::default();
    for document in parsed.documents {
        objects.apply(document);
    }
    compile(&objects, &Settings::default(), &[], &Allocations::default(), None)
}

fn found(compiled: &Compiled) -> Vec<String> {
    let line = |finding: &Finding| {
        let object = finding.object.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{} {object} {}", finding.reason, finding.field.as_deref().unwrap_or_default())
    };
    compiled.snapshot.findings.iter().map(line).collect()
}

fn rule<'a>(compiled: &'a Compiled, host: &str, path: &str) -> Option<&'a Arc<Rule>> {
    compiled.snapshot.routes.find(host, path).rule
}

fn read_timeout(compiled: &Compiled, host: &str) -> u64 {
    rule(compiled, host, "/shop").unwrap().policy.timeouts.read.as_secs()
}

#[test]
fn an_ingress_has_the_annotations_of_its_class_that_it_does_not_have_itself() {
    let read = |value: &str| format!("nginx.ingress.kubernetes.io/proxy-read-timeout: {value:?}");
    let yaml = class("a", &ours("edge"))
        + &class("default", &ours("other"))
        + &parameters("edge", &format!("annotations: {{{}}}", read("7")))
        + &parameters("other", &format!("annotations: {{{}}}", read("9")))
        + &ingress("plain", "ingressClassName: a", "", "")
        + &ingress("own", "ingressClassName: a", &read("3"), "")
        + &ingress("empty", "ingressClassName: a", &read(""), "")
        + &ingress("by-annotation", "tls: []", "kubernetes.io/ingress.class: a", "")
        + &ingress("unnamed", "tls: []", "", "")
        + &ingress("implied", "ingressClassName: nginx", "", "");
    let compiled = compiled(&yaml);
    assert_eq!(found(&compiled), [""; 0]);
    let hosts = ["plain", "own", "empty", "by-annotation", "unnamed", "implied"];
    assert_eq!(hosts.map(|host| read_timeout(&compiled, &format!("{host}.com"))), [7, 3, 60, 7, 9, 60]);
    let row = compiled.snapshot.ingresses.iter().find(|row| &*row.name == "plain").unwrap();
    let inherited = row.inherited.as_ref().unwrap();
    assert_eq!((&*inherited.parameters, inherited.annotations.len()), ("edge", 1));
}

/// A finding stands where the mistake is, and once; its outcome is that of an Ingress.
#[test]
fn what_cannot_be_read_is_said_of_the_parameters() {
    let annotations = "nginx.ingress.kubernetes.io/proxy-read-timeout: soon, \
                       nginx.ingress.kubernetes.io/canary: 'true', \
                       nginx.ingress.kubernetes.io/auth-url: http://a.b, \
                       nginx.ingress.kubernetes.io/server-alias: a.com, \
                       example.com/other: x";
    let yaml = class("a", &ours("edge"))
        + &class("b", &ours("edge"))
        + &parameters("edge", &format!("annotations: {{{annotations}}}"))
        + &ingress("one", "ingressClassName: a", "", "")
        + &ingress("two", "ingressClassName: b", "", "");
    let compiled = compiled(&yaml);
    let mut reasons = found(&compiled);
    reasons.sort_unstable();
    let on = |reason: &str, name: &str| format!("{reason} IngressClassParameters edge spec.annotations[{name:?}]");
    assert_eq!(
        reasons,
        [
            on("InvalidAnnotation", "nginx.ingress.kubernetes.io/proxy-read-timeout"),
            on("NotForClasses", "nginx.ingress.kubernetes.io/canary"),
            on("NotForClasses", "nginx.ingress.kubernetes.io/server-alias"),
            on("UnknownAnnotation", "example.com/other"),
            on("UnsupportedGuard", "nginx.ingress.kubernetes.io/auth-url"),
        ]
    );
    let backend = &rule(&compiled, "one.com", "/shop").unwrap().backend;
    assert!(matches!(backend, Backend::Missing { .. }), "a guard closes the Ingresses of the class: {backend:?}");
    let [status] = &compiled.snapshot.class_parameters[..] else { panic!("there is one object") };
    assert!(!status.accepted.holds, "{status:?}");
}

#[test]
fn parameters_that_are_none_are_findings() {
    let other = "---\n{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: z}, \
                 spec: {controller: example.com/other, parameters: {apiGroup: example.com, kind: Any, name: a}}}\n";
    let yaml = class("a", "apiGroup: example.com, kind: IngressClassParameters, name: edge")
        + &class("b", "kind: IngressClassParameters, name: edge")
        + &class("c", "apiGroup: tidegate.io, kind: LoadBalancerPool, name: edge")
        + &class("d", &format!("{}, scope: Namespace, namespace: default", ours("edge")))
        + &class("e", &ours("nobody"))
        + other
        + &parameters("edge", "annotations: {}");
    let compiled = compiled(&yaml);
    assert_eq!(
        found(&compiled),
        [
            "WrongParameters IngressClass a spec.parameters.apiGroup",
            "WrongParameters IngressClass b spec.parameters.apiGroup",
            "WrongParameters IngressClass c spec.parameters.kind",
            "WrongParameters IngressClass d spec.parameters.scope",
            "MissingParameters IngressClass e spec.parameters.name",
        ]
    );
    assert!(compiled.snapshot.class_parameters.is_empty(), "no class of ours uses them: they may be another's");
}

#[test]
fn the_default_backend_of_a_class_takes_what_no_rule_takes() {
    let yaml = class("a", &ours("edge"))
        + &class("default", &ours("other"))
        + &parameters("edge", "defaultBackend: {namespace: edge, name: rest, port: alt}")
        + &parameters("other", "defaultBackend: {namespace: default, name: web}")
        + &ingress("one", "ingressClassName: a", "", "")
        + &ingress("two", "ingressClassName: default", "", "")
        + &ingress("own", "ingressClassName: a", "", "defaultBackend: {service: {name: web, port: {number: 80}}}, ");
    let compiled = compiled(&yaml);
    assert_eq!(found(&compiled), [""; 0]);
    let to = |host: &str, path: &str| rule(&compiled, host, path).map(|rule| rule.backend.service().to_string());
    assert_eq!(to("one.com", "/shop").as_deref(), Some("default/web:80"));
    assert_eq!(to("one.com", "/none").as_deref(), Some("edge/rest:81"));
    assert_eq!(to("two.com", "/none").as_deref(), Some("default/web:80"));
    assert_eq!(to("own.com", "/none").as_deref(), Some("default/web:80"), "the Ingress says so itself");
    assert_eq!(to("nobody.com", "/").as_deref(), Some("default/web:80"), "the default class speaks for the others");
    assert!(compiled.snapshot.class_parameters.iter().all(|status| status.accepted.holds));

    let missing = class("a", &ours("edge"))
        + &parameters(
            "edge",
            "defaultBackend: {namespace: edge, name: rest, port: 99}, defaultCertificate: {namespace: a, name: b}",
        )
        + &ingress("one", "ingressClassName: a", "", "");
    let compiled = super::tests::compiled(&missing);
    assert_eq!(
        found(&compiled),
        [
            "MissingSecret IngressClassParameters edge spec.defaultCertificate",
            "MissingServicePort IngressClassParameters edge spec.defaultBackend.port",
        ]
    );
    assert!(matches!(rule(&compiled, "one.com", "/none").unwrap().backend, Backend::Missing { .. }));
}

#[test]
fn the_default_certificate_of_a_class_is_shown_to_hosts_without_one() {
    let ca = Ca::new("ca");
    let yaml = tls_secret("first", &ca.leaf(&["*.com"]))
        + &tls_secret("second", &ca.leaf(&["*.com"]))
        + &tls_secret("own", &ca.leaf(&["own.com"]))
        + &class("a", &ours("edge"))
        + &class("default", &ours("other"))
        + &parameters("edge", "defaultCertificate: {namespace: default, name: first}")
        + &parameters("other", "defaultCertificate: {namespace: default, name: second}")
        + &ingress("one", "ingressClassName: a", "", "")
        + &ingress("section", "ingressClassName: a", "", "tls: [{hosts: [section.com]}], ")
        + &ingress("own", "ingressClassName: a", "", "tls: [{hosts: [own.com], secretName: own}], ")
        + &ingress("two", "ingressClassName: default", "", "");
    let compiled = compiled(&yaml);
    assert_eq!(found(&compiled), [""; 0]);
    let shown = |host: &str| match &compiled.snapshot.tls.find(host).source {
        Source::Ingress { secrets, .. } => secrets[0].name.to_string(),
        Source::Default { secret, .. } => format!("default {}", secret.name),
        Source::StandIn { .. } => "stand-in".to_owned(),
    };
    let hosts = ["one.com", "section.com", "own.com", "two.com", "nobody.com"];
    assert_eq!(hosts.map(shown), ["default first", "default first", "own", "default second", "default second"]);
}
