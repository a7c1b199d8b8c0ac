//! Ingress → `route::Rule`.
//!
//! Precedence between Ingresses is ingress-nginx's: the older wins, and of two of the same age the one whose
//! `namespace/name` sorts last. What concerns an upstream (cookie affinity) is shared by every Ingress that uses the same
//! Service port.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ahash::AHashMap;
use tidegate_crd::{
    Kind,
    core::IntOrString,
    ingress::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec},
};
use tidegate_l4::model::{Protocol, ServicePortName};

use super::{
    annotations::IngressOptions,
    class::{Class, class_of},
    finding::{Finding, Report},
    objects::{Name, Objects, Stored},
    rows::IngressRow,
    settings::Settings,
    tls::{CompiledTls, TlsCompiler},
};
use crate::route::{
    Backend, HostName, Owner, PathMatch, RouteTable, Rule, UpstreamId, normalise::normalise, stats::RuleStats,
    sticky::CookieAffinity,
};

/// The rules of all Ingresses.
#[derive(Debug)]
pub(crate) struct CompiledIngresses {
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) tls: CompiledTls,
    pub(crate) upstreams: Vec<UpstreamSpec>,
    pub(crate) rows: Vec<Arc<IngressRow>>,
    pub(crate) findings: Vec<Finding>,
}

/// An upstream by name, before its endpoints are known.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamSpec {
    /// `namespace-service-port`.
    pub(crate) name: Arc<str>,
    pub(crate) port: ServicePortName,
    pub(crate) cookie: Option<Arc<CookieAffinity>>,
}

/// Ports that Ingresses ask of Services by number: an ExternalName Service need not list its ports.
pub(crate) fn asked_ports(objects: &Objects) -> BTreeMap<Name, Vec<u16>> {
    let mut asked: BTreeMap<Name, Vec<u16>> = BTreeMap::new();
    for (name, stored) in objects.ingresses.iter() {
        let Some(spec) = &stored.object.spec else { continue };
        let paths = spec.rules.iter().flatten().flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
        for backend in paths.map(|path| &path.backend).chain(&spec.default_backend) {
            let Some(service) = &backend.service else { continue };
            let service_name = Name { namespace: name.namespace.clone(), name: service.name.as_str().into() };
            let external = objects
                .services
                .get(&service_name)
                .is_some_and(|s| s.object.spec.as_ref().is_some_and(|s| s.external_name.is_some()));
            let number = service.port.as_ref().and_then(|port| u16::try_from(port.number?).ok()).filter(|n| *n != 0);
            if let (true, Some(number)) = (external, number) {
                asked.entry(service_name).or_default().push(number);
            }
        }
    }
    for ports in asked.values_mut() {
        ports.sort_unstable();
        ports.dedup();
    }
    asked
}

/// Compiles all Ingresses; counters of rules that stay come from `previous`.
pub(crate) fn compile(
    objects: &Objects,
    settings: &Settings,
    previous: Option<&CompiledIngresses>,
) -> CompiledIngresses {
    let mut all: Vec<(&Name, &Arc<Stored<Ingress>>)> = objects.ingresses.iter().collect();
    let created = |stored: &Stored<Ingress>| {
        stored.object.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |t| t.0.as_second())
    };
    all.sort_by(|(a, x), (b, y)| created(x).cmp(&created(y)).then_with(|| b.cmp(a)));
    let stats =
        previous.into_iter().flat_map(|p| p.routes.rules()).map(|rule| (stats_key(rule), rule.stats.clone())).collect();
    let tls = TlsCompiler::new(objects, settings, previous.map(|p| &p.tls));
    let mut builder = Builder { objects, routes: RouteTable::default(), upstreams: Upstreams::default(), stats, tls };
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    for (name, stored) in all {
        let mut report = Report::on(Kind::Ingress, &name.namespace, &name.name, &stored.origin);
        let ours = is_ours(&stored.object, objects, &mut report);
        if ours {
            builder.add(name, stored, &mut report);
        }
        rows.push(Arc::new(row(name, &stored.object, ours)));
        findings.extend(report.into_findings());
    }
    rows.sort_by(|a: &Arc<IngressRow>, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    if let Some(default) = &settings.default_backend {
        builder.add_global_default(&default.namespace, &default.service);
    }
    let (routes, upstreams) = (Arc::new(builder.routes), builder.upstreams.specs);
    CompiledIngresses { routes, tls: builder.tls.finish(), upstreams, rows, findings }
}

fn is_ours(ingress: &Ingress, objects: &Objects, report: &mut Report<'_>) -> bool {
    match class_of(ingress, objects) {
        Class::Ours => return true,
        Class::Other { controller } => {
            report.info(
                "OtherClass",
                "spec.ingressClassName",
                format!("its class belongs to {controller}, so it is not served here."),
                "Nothing, if that is as meant.",
            );
        }
        Class::Unknown { class, field } => {
            let fix =
                "Create the IngressClass with controller tidegate.io/ingress, or use the class tidegate or nginx.";
            report.error(
                "UnknownClass",
                field,
                format!("there is no IngressClass {class:?}, so the Ingress is not served."),
                fix,
            );
        }
        Class::NotDefault { class } => {
            let message = format!(
                "it names no class, and the default class {class:?} is another controller's, so it is not served."
            );
            report.warning("NotDefaultClass", "spec", message, "Write spec.ingressClassName: tidegate.");
        }
    }
    false
}

fn row(name: &Name, ingress: &Ingress, ours: bool) -> IngressRow {
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
        created: ingress.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
    }
}

type StatsKey = (Owner, Arc<str>, Option<PathMatch>);

fn stats_key(rule: &Rule) -> StatsKey {
    (rule.owner.clone(), rule.host.clone(), rule.path.clone())
}

struct Builder<'a> {
    objects: &'a Objects,
    routes: RouteTable,
    upstreams: Upstreams,
    stats: AHashMap<StatsKey, Arc<RuleStats>>,
    tls: TlsCompiler<'a>,
}

/// One Ingress on its way.
struct One<'a, 'b> {
    name: &'a Name,
    options: IngressOptions,
    report: &'a mut Report<'b>,
}

impl Builder<'_> {
    fn add(&mut self, name: &Name, stored: &Stored<Ingress>, report: &mut Report<'_>) {
        let options = IngressOptions::read(&stored.object, report);
        if options.canary {
            let message = "canary Ingresses are not supported yet: all traffic stays with the main Ingress.";
            return report.warning(
                "UnsupportedCanary",
                "metadata.annotations",
                message,
                "Nothing, if the main Ingress may have all traffic for now.",
            );
        }
        let empty = IngressSpec::default();
        let spec = stored.object.spec.as_ref().unwrap_or(&empty);
        self.tls.add(name, &stored.object, &options.tls, report);
        let has_tls = spec.tls.as_ref().is_some_and(|tls| !tls.is_empty());
        let mut one = One { name, options, report };
        let default =
            spec.default_backend.as_ref().and_then(|backend| self.backend(&mut one, backend, "spec.defaultBackend"));
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            let Some(host) = host_name(rule.host.as_deref(), &format!("spec.rules[{index}].host"), one.report) else {
                continue;
            };
            self.routes.host_mut(&host).tls |= has_tls && host != HostName::Any;
            for (at, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                self.add_path(&mut one, &host, path, &format!("spec.rules[{index}].http.paths[{at}]"));
            }
            if let Some(backend) = default.clone() {
                self.set_default(&mut one, &host, backend);
            }
        }
        match default {
            Some(backend) if spec.rules.as_ref().is_none_or(Vec::is_empty) => {
                self.set_default(&mut one, &HostName::Any, backend);
            }
            None if spec.rules.as_ref().is_none_or(Vec::is_empty) => {
                one.report.error(
                    "EmptyIngress",
                    "spec",
                    "the Ingress has neither a rule nor a default backend.",
                    "Add spec.rules or spec.defaultBackend.",
                );
            }
            Some(_) | None => {}
        }
    }

    fn add_path(&mut self, one: &mut One<'_, '_>, host: &HostName, path: &HTTPIngressPath, field: &str) {
        let Some(matcher) = path_match(path, field, one.report) else { return };
        let Some(backend) = self.backend(one, &path.backend, &format!("{field}.backend")) else { return };
        let rule = self.rule(one, host, Some(matcher.clone()), backend);
        if let Err(holder) = self.routes.host_mut(host).paths.insert(&matcher, rule) {
            let message = format!(
                "{host} {matcher} belongs to Ingress {} already, which is older or, of the same age, sorts last.",
                holder.owner
            );
            one.report.error(
                "DuplicatePath",
                &format!("{field}.path"),
                message,
                "Remove one of the two, or give them different hosts or paths.",
            );
        }
    }

    fn set_default(&mut self, one: &mut One<'_, '_>, host: &HostName, backend: Backend) {
        let rule = self.rule(one, host, None, backend);
        let place = &mut self.routes.host_mut(host).default;
        match place {
            Some(holder) if holder.owner != rule.owner => {
                let message = format!("{host} has its default backend from Ingress {} already.", holder.owner);
                one.report.warning("DuplicateDefaultBackend", "spec.defaultBackend", message, "Remove one of the two.");
            }
            _ => *place = Some(rule),
        }
    }

    fn add_global_default(&mut self, namespace: &Arc<str>, service: &Arc<str>) {
        let service_name = Name { namespace: namespace.clone(), name: service.clone() };
        let first = self
            .objects
            .services
            .get(&service_name)
            .and_then(|s| s.object.spec.as_ref()?.ports.as_ref()?.first().map(|port| port.port.to_string()));
        let backend = match first.and_then(|port| find_port(self.objects, &service_name, &port)) {
            Some((port, number)) => self.upstreams.backend(&service_name, &number.to_string(), port, number, None),
            None => Backend::Missing {
                service: service_name.to_string().into(),
                reason: "the default backend Service does not exist or has no port".into(),
            },
        };
        let owner = Owner { namespace: namespace.clone(), name: service.clone() };
        let key = (owner.clone(), Arc::from("*"), None);
        let stats = self.stats.get(&key).cloned().unwrap_or_default();
        self.routes.set_default(Arc::new(Rule {
            owner,
            host: "*".into(),
            path: None,
            backend,
            split: None,
            policy: Arc::default(),
            issues_cookie: false,
            stats,
        }));
    }

    fn rule(&self, one: &One<'_, '_>, host: &HostName, path: Option<PathMatch>, backend: Backend) -> Arc<Rule> {
        let owner = Owner { namespace: one.name.namespace.clone(), name: one.name.name.clone() };
        let key = (owner, Arc::from(host.to_string()), path);
        let stats = self.stats.get(&key).cloned().unwrap_or_default();
        let (owner, host, path) = key;
        Arc::new(Rule {
            owner,
            host,
            path,
            backend,
            split: None,
            policy: Arc::default(),
            issues_cookie: one.options.affinity,
            stats,
        })
    }

    /// Where a backend leads; `None` if it is none that can be served at all.
    fn backend(&mut self, one: &mut One<'_, '_>, backend: &IngressBackend, field: &str) -> Option<Backend> {
        let Some(service) = &backend.service else {
            let fix = "Name a Service and one of its ports.";
            if backend.resource.is_some() {
                one.report.error(
                    "ResourceBackend",
                    &format!("{field}.resource"),
                    "resource backends are not supported; the path answers 404.",
                    fix,
                );
            } else {
                one.report.error("NoBackend", field, "the backend names no Service; the path answers 404.", fix);
            }
            return None;
        };
        let service_name = Name { namespace: one.name.namespace.clone(), name: service.name.as_str().into() };
        let port = service.port.as_ref();
        let Some(written) = port.and_then(|p| p.name.clone().or_else(|| p.number.map(|n| n.to_string()))) else {
            one.report.error(
                "NoBackendPort",
                &format!("{field}.service.port"),
                "the backend names no port; the path answers 404.",
                "Write port.number or port.name.",
            );
            return None;
        };
        let label: Arc<str> = format!("{service_name}:{written}").into();
        if let Some(reason) = &one.options.closed {
            return Some(Backend::Missing { service: label, reason: reason.as_str().into() });
        }
        if self.objects.services.get(&service_name).is_none() {
            let message = format!("there is no Service {service_name}; requests are answered 503.");
            one.report.error(
                "MissingService",
                &format!("{field}.service.name"),
                message,
                "Create the Service, or correct the name.",
            );
            return Some(Backend::Missing { service: label, reason: "there is no such Service".into() });
        }
        let Some((port, number)) = find_port(self.objects, &service_name, &written) else {
            let message = format!("Service {service_name} has no TCP port {written}; requests are answered 503.");
            one.report.error(
                "MissingServicePort",
                &format!("{field}.service.port"),
                message,
                format!("Use one of its ports: {}.", port_list(self.objects, &service_name)),
            );
            return Some(Backend::Missing { service: label, reason: "the Service has no such port".into() });
        };
        let cookie = one.options.affinity.then_some(&one.options.cookie);
        Some(self.upstreams.backend(&service_name, &written, port, number, cookie))
    }
}

/// Upstreams by name, each once.
#[derive(Default)]
struct Upstreams {
    specs: Vec<UpstreamSpec>,
    ids: AHashMap<Arc<str>, usize>,
}

impl Upstreams {
    fn backend(
        &mut self,
        service: &Name,
        written: &str,
        port: ServicePortName,
        number: u16,
        cookie: Option<&CookieAffinity>,
    ) -> Backend {
        let name: Arc<str> = format!("{}-{}-{written}", service.namespace, service.name).into();
        let specs = &mut self.specs;
        let label = super::settings::label(&port, number);
        let id = *self.ids.entry(name.clone()).or_insert_with(|| {
            specs.push(UpstreamSpec { name, port, cookie: None });
            specs.len() - 1
        });
        if let Some(cookie) = cookie {
            // The mode is the first Ingress's, everything else the last one's (ingress-nginx; see its reference, "scopes").
            let held = &mut specs[id].cookie;
            let mode = held.as_ref().map_or(cookie.mode, |held| held.mode);
            *held = Some(Arc::new(CookieAffinity { mode, ..cookie.clone() }));
        }
        Backend::Upstream { id: UpstreamId(u32::try_from(id).unwrap_or(u32::MAX)), service: label }
    }
}

/// The TCP port of a Service that an Ingress means: by number, by target port, or by name (ingress-nginx's leniency).
pub(super) fn find_port(objects: &Objects, service: &Name, written: &str) -> Option<(ServicePortName, u16)> {
    let spec = objects.services.get(service)?.object.spec.as_ref()?;
    let tcp = spec.ports.iter().flatten().filter(|port| matches!(port.protocol.as_deref(), None | Some("" | "TCP")));
    let by_target = |target: &IntOrString| match target {
        IntOrString::Int(number) => number.to_string() == written,
        IntOrString::String(name) => name == written,
    };
    let name = |port: &str| ServicePortName {
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        port: port.into(),
        protocol: Protocol::Tcp,
    };
    let port = tcp.clone().find(|port| port.port.to_string() == written || port.name.as_deref() == Some(written));
    let port = port.or_else(|| tcp.clone().find(|port| port.target_port.as_ref().is_some_and(by_target)));
    if let Some(port) = port {
        return Some((name(port.name.as_deref().unwrap_or_default()), u16::try_from(port.port).ok()?));
    }
    let number: u16 = written.parse().ok().filter(|_| spec.external_name.is_some())?;
    Some((name(written), number))
}

fn port_list(objects: &Objects, service: &Name) -> String {
    let spec = objects.services.get(service).and_then(|service| service.object.spec.as_ref());
    let ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let ports = ports.map(|port| match &port.name {
        Some(name) => format!("{} ({name})", port.port),
        None => port.port.to_string(),
    });
    ports.collect::<Vec<_>>().join(", ")
}

pub(super) fn host_name(host: Option<&str>, field: &str, report: &mut Report<'_>) -> Option<HostName> {
    let host = match host {
        None | Some("" | "*") => return Some(HostName::Any),
        Some(host) => host.to_ascii_lowercase(),
    };
    let (wildcard, name) = match host.strip_prefix("*.") {
        Some(suffix) => (true, suffix),
        None => (false, host.as_str()),
    };
    if name.parse::<IpAddr>().is_ok() {
        report.error(
            "InvalidHost",
            field,
            format!("{host:?} is an address, and a host must be a name."),
            "Leave host out to serve every host.",
        );
        return None;
    }
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        report.error(
            "InvalidHost",
            field,
            format!("{host:?} is not a host name."),
            "Write a DNS name such as kubia.example.com, or *.example.com.",
        );
        return None;
    }
    Some(if wildcard { HostName::Wildcard(name.into()) } else { HostName::Exact(name.into()) })
}

fn path_match(path: &HTTPIngressPath, field: &str, report: &mut Report<'_>) -> Option<PathMatch> {
    let text: Arc<str> = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/").into();
    let bad = |report: &mut Report<'_>, message: String| {
        report.error("InvalidPath", &format!("{field}.path"), message, "Write a path such as /shop.");
        None
    };
    if !text.starts_with('/') {
        return bad(report, format!("{text:?} does not begin with /."));
    }
    let lower = text.to_ascii_lowercase();
    let strict = path.path_type != "ImplementationSpecific";
    if strict && let Some(part) = ["//", "/./", "/../", "%2f", "%5c"].into_iter().find(|part| lower.contains(part)) {
        return bad(report, format!("{text:?} contains {part:?}, which the API does not allow."));
    }
    // Requests are matched by what their path means, and so are rules: /caf%C3%A9 and /café are one.
    let text = match normalise(&text) {
        Ok(normal) => Arc::from(normal),
        Err(_) if strict => return bad(report, format!("{text:?} is not a path that a request can have.")),
        Err(_) => text,
    };
    match path.path_type.as_str() {
        "Exact" => Some(PathMatch::Exact(text)),
        // ingress-nginx takes ImplementationSpecific for Prefix, and so it is here.
        "Prefix" | "ImplementationSpecific" | "" => Some(PathMatch::Prefix(text)),
        other => {
            report.error(
                "InvalidPathType",
                &format!("{field}.pathType"),
                format!("there is no path type {other:?}."),
                "Write Prefix, Exact or ImplementationSpecific.",
            );
            None
        }
    }
}
