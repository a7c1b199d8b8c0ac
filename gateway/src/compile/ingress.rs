//! Ingress → `route::Rule`.
//!
//! Precedence between Ingresses is ingress-nginx's: the older wins, and of two of the same age the one whose
//! `namespace/name` sorts last. What concerns a host (`modes`) or an upstream (`upstreams`) is shared by every Ingress that has the
//! same host or uses the same Service port; `policy` makes of annotations what is done with the requests of one rule, and `canary`
//! attaches Ingresses that split off some of another's requests.

mod canary;
mod checks;
pub(crate) mod host;
mod modes;
mod policy;
mod rest;
mod row;
mod upstreams;

use std::sync::Arc;

use ahash::AHashMap;
use tidegate_crd::{
    Kind,
    ingress::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec},
};

pub(crate) use self::upstreams::{UpstreamSpec, asked_ports, find_port, port_list};
use self::{
    canary::Canaries,
    host::{PathType, Written},
    modes::Modes,
    policy::{Shared, Target},
    upstreams::Upstreams,
};
use super::{
    annotations::IngressOptions,
    backend_protocol,
    class_parameters::{ClassBackend, ClassParameters, Parameters, ParametersStatus},
    finding::{Finding, Report},
    objects::{Name, Objects, Stored},
    rows::IngressRow,
    settings::{DefaultBackend, Settings},
    tls::{CompiledTls, TlsCompiler, TlsDefaults},
    tls_backend,
};
use crate::route::{
    Backend, HostName, Owner, PathMatch, RouteTable, Rule,
    normalise::normalise,
    pattern::Pattern,
    policy::{Policy, Transport},
    stats::RuleStats,
};
use crate::tls::BackendTls;

/// The rules of all Ingresses.
#[derive(Debug)]
pub(crate) struct CompiledIngresses {
    pub(crate) routes: Arc<RouteTable>,
    pub(crate) tls: CompiledTls,
    pub(crate) upstreams: Vec<UpstreamSpec>,
    pub(crate) rows: Arc<[Arc<IngressRow>]>,
    pub(crate) findings: Vec<Finding>,
    /// The status of the parameters of our classes.
    pub(crate) parameters: Arc<[ParametersStatus]>,
}

/// An Ingress that is ours, with its annotations read.
struct Ours<'a> {
    name: &'a Name,
    stored: &'a Stored<Ingress>,
    options: Arc<IngressOptions>,
    /// What holds for its class.
    class: Option<Arc<Parameters>>,
}

impl Ours<'_> {
    fn owner(&self) -> Owner {
        Owner { namespace: self.name.namespace.clone(), name: self.name.name.clone() }
    }
}

/// Compiles all Ingresses. Rows and rules that say what they said, the counters of the others, and what TLS is made of, come from
/// `previous`.
pub(crate) fn compile(
    objects: &Objects,
    settings: &Settings,
    previous: Option<&CompiledIngresses>,
) -> CompiledIngresses {
    let parameters = ClassParameters::read(objects, &settings.classes);
    let rows_before = previous.map_or(&[][..], |previous| &*previous.rows);
    let mut all: Vec<(&Name, &Arc<Stored<Ingress>>)> = objects.ingresses.iter().collect();
    let created = |stored: &Stored<Ingress>| stored.created().unwrap_or(i64::MAX);
    all.sort_by(|(a, x), (b, y)| created(x).cmp(&created(y)).then_with(|| b.cmp(a)));
    let (mut rows, mut findings) = (Vec::new(), Vec::new());
    let (mut mains, mut reports) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
    let mut alike = Shared::default();
    for (name, stored) in all {
        let mut report = Report::on(Kind::Ingress, &name.namespace, &name.name, &stored.origin);
        let ours = row::is_ours(&stored.object, objects, &settings.classes, &mut report);
        let class = parameters.of(&stored.object, objects).filter(|_| ours).cloned();
        rows.push(row::held(row::row(name, &stored.object, ours, class.as_deref()), rows_before));
        if ours {
            let defaults = class.iter().flat_map(|class| class.for_ingress(&stored.object));
            let mut options = IngressOptions::read(&stored.object, defaults, &mut report);
            checks::custom_headers(objects, name, &mut options, &mut report);
            mains.push(Ours { name, stored, options: alike.of(options), class });
            reports.push(report);
        } else {
            findings.extend(report.into_findings());
        }
    }
    rows.sort_by(|a: &Arc<IngressRow>, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let held = previous.into_iter().flat_map(|p| p.routes.rules()).map(|rule| (place(rule), rule)).collect();
    let modes = Modes::read(mains.iter().filter(|one| !one.options.canary.enabled));
    let any_passthrough = mains.iter().any(|one| one.options.tls.passthrough);
    let defaults = TlsDefaults { certificate: parameters.certificate().cloned(), any_passthrough };
    let tls = TlsCompiler::new(objects, settings, defaults, previous.map(|p| &p.tls));
    let mut builder = Builder::new(objects, &modes, held, tls);
    builder.add_all(&mains, &mut reports);
    builder.finish(&mains, &mut reports);
    let named = |default: &DefaultBackend| ClassBackend {
        service: Name { namespace: default.namespace.clone(), name: default.service.clone() },
        port: None,
    };
    if let Some(default) = settings.default_backend.as_ref().map(named).as_ref().or_else(|| parameters.backend()) {
        builder.add_global_default(default);
    }
    findings.extend(parameters.findings().cloned());
    findings.extend(reports.into_iter().flat_map(Report::into_findings));
    let (routes, upstreams) = (Arc::new(builder.routes), builder.upstreams.specs);
    let parameters = parameters.statuses.into();
    CompiledIngresses { routes, tls: builder.tls.finish(), upstreams, rows: rows.into(), findings, parameters }
}

/// The rules of the configuration before, by their places.
type Held<'a> = AHashMap<(&'a Owner, &'a str, Option<&'a PathMatch>), &'a Arc<Rule>>;

/// A rule's counters are those of the one that had its place before.
fn place(rule: &Rule) -> (&Owner, &str, Option<&PathMatch>) {
    (&rule.owner, &rule.host, rule.path.as_ref())
}

struct Builder<'a> {
    objects: &'a Objects,
    modes: &'a Modes,
    routes: RouteTable,
    upstreams: Upstreams,
    tls: TlsCompiler<'a>,
    canaries: Canaries,
    held: Held<'a>,
    /// What most rules have: they share it.
    plain: Arc<Policy>,
    /// No rule's counters, for one that is not finished.
    uncounted: Arc<RuleStats>,
}

/// One Ingress on its way.
struct One<'a, 'b> {
    main: &'a Ours<'a>,
    /// Its place among all, the oldest first.
    rank: usize,
    report: &'a mut Report<'b>,
    policies: Shared<Policy>,
    /// TLS to its pods, by HTTP/1 and HTTP/2, once it was made or could not be.
    tls_to_pods: [Option<Option<Arc<BackendTls>>>; 2],
}

impl One<'_, '_> {
    /// TLS to its pods; `None` if it cannot be as the annotations say, which is reported once.
    fn tls_to_pods(&mut self, objects: &Objects, h2: bool) -> Option<Arc<BackendTls>> {
        let (namespace, options) = (&self.main.name.namespace, &self.main.options.tls.proxy);
        let report = &mut *self.report;
        let make = || tls_backend::for_ingress(objects, namespace, options, h2, report);
        self.tls_to_pods[usize::from(h2)].get_or_insert_with(make).clone()
    }
}

impl<'a> Builder<'a> {
    fn new(objects: &'a Objects, modes: &'a Modes, held: Held<'a>, tls: TlsCompiler<'a>) -> Self {
        Self {
            objects,
            modes,
            routes: RouteTable::default(),
            upstreams: Upstreams::default(),
            tls,
            canaries: Canaries::default(),
            held,
            plain: Arc::default(),
            uncounted: Arc::default(),
        }
    }

    /// The canaries first: a main rule must know its own.
    fn add_all(&mut self, mains: &[Ours<'_>], reports: &mut [Report<'_>]) {
        for canaries in [true, false] {
            let all = mains.iter().zip(reports.iter_mut()).enumerate();
            for (rank, (main, report)) in all.filter(|(_, (main, _))| main.options.canary.enabled == canaries) {
                let mut one = One { main, rank, report, policies: Shared::default(), tls_to_pods: [None, None] };
                if canaries { self.add_canary(&mut one) } else { self.add(&mut one) }
            }
        }
    }

    fn add(&mut self, one: &mut One<'_, '_>) {
        let empty = IngressSpec::default();
        let spec = one.main.stored.object.spec.as_ref().unwrap_or(&empty);
        let certificate = one.main.class.as_ref().and_then(|class| class.certificate.as_ref());
        self.tls.add(one.main.name, &one.main.stored.object, &one.main.options.tls, certificate, one.report);
        checks::forwarded_prefix(&one.main.options, spec, one.report);
        let default =
            spec.default_backend.as_ref().and_then(|backend| self.backend(one, backend, "spec.defaultBackend"));
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            let Some(host) = host_name(rule.host.as_deref(), &format!("spec.rules[{index}].host"), one.report) else {
                continue;
            };
            self.routes.host_mut(&host).tls = self.modes.get(&host).is_some_and(|mode| mode.tls);
            for (at, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                self.add_path(one, &host, path, &path_field(index, at));
            }
            if let Some((backend, transport)) = default.clone() {
                self.set_default(one, &host, Target::Rest, backend, transport);
            }
        }
        match default {
            Some((backend, transport)) if spec.rules.as_ref().is_none_or(Vec::is_empty) => {
                self.set_default(one, &HostName::Any, Target::Global, backend, transport);
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

    fn add_canary(&mut self, one: &mut One<'_, '_>) {
        let rules = one.main.stored.object.spec.iter().flat_map(|spec| spec.rules.iter().flatten()).enumerate();
        for (index, rule) in rules {
            let Some(host) = host_name(rule.host.as_deref(), &format!("spec.rules[{index}].host"), one.report) else {
                continue;
            };
            for (at, path) in rule.http.iter().flat_map(|http| &http.paths).enumerate() {
                let field = path_field(index, at);
                let Some(written) = Written::read(path, &field, one.report) else { continue };
                let Some((backend, _)) = self.backend(one, &path.backend, &format!("{field}.backend")) else {
                    continue;
                };
                let place = format!("{field}.path");
                if let Err(holder) =
                    self.canaries.add(host.clone(), written, one.main, one.rank, place.clone(), backend)
                {
                    let message = format!("Ingress {} is a canary of this path already, and one is all.", holder.owner);
                    one.report.error("DuplicateCanary", &place, message, "Remove one of the two.");
                }
            }
        }
    }

    fn add_path(&mut self, one: &mut One<'_, '_>, host: &HostName, path: &HTTPIngressPath, field: &str) {
        let Some(written) = Written::read(path, field, one.report) else { return };
        let Some(matcher) = self.matcher(one, host, &written, field) else { return };
        let Some((backend, transport)) = self.backend(one, &path.backend, &[field, ".backend"].concat()) else {
            return;
        };
        let split = self.canaries.split(host, &written, &backend);
        let policy = self.policy(one, host, Target::Path(&written.path, &matcher), transport);
        let rule = self.rule(one.main, host, Some(matcher.clone()), backend, policy);
        let rule = self.finished(Rule { split, ..rule });
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

    /// How a path matches on its host: on one in regex mode, everything is a pattern.
    fn matcher(&self, one: &mut One<'_, '_>, host: &HostName, written: &Written, field: &str) -> Option<PathMatch> {
        let options = &one.main.options;
        let Some(by) = self.modes.get(host).and_then(|mode| mode.regex.as_ref()) else {
            // Requests are matched by what their path means, and so are rules: /caf%C3%A9 and /café are one.
            let path = normalise(&written.path).map_or_else(|_| written.path.clone(), Arc::from);
            return Some(match written.kind {
                PathType::Exact => PathMatch::Exact(path),
                PathType::Prefix => PathMatch::Prefix(path),
            });
        };
        let field = format!("{field}.path");
        let pattern = match Pattern::of_path(&written.path) {
            Ok(pattern) => pattern,
            Err(error) => {
                let message =
                    format!("{:?} is no regular expression, and {host} is in regex mode: {error}.", written.path);
                one.report.error(
                    "InvalidPattern",
                    &field,
                    message,
                    "Correct the pattern; its path answers 404 until then.",
                );
                return None;
            }
        };
        if written.kind == PathType::Exact || *by != one.main.owner() {
            let kind = if written.kind == PathType::Exact { "Exact" } else { "Prefix" };
            let message = format!(
                "Ingress {by} puts {host} into regex mode, so {kind} {} takes every path that begins so, in upper and lower case.",
                written.path
            );
            let fix = "Give the paths with use-regex or rewrite-target a host of their own, or end this one with $.";
            one.report.warning("RegexHost", &field, message, fix);
        }
        if let Some(target) = policy::replacement(options, &written.path) {
            checks::captures(target, &pattern, &field, one.report);
        }
        if options.rewrite.prefix.is_some() {
            let message = format!("tidegate.io/rewrite-prefix has no effect: {host} is in regex mode by Ingress {by}.");
            let fix = "Use rewrite-target with groups, or a host of its own.";
            one.report.warning("UnusedAnnotation", &field, message, fix);
        }
        Some(PathMatch::Regex(pattern))
    }

    fn set_default(
        &mut self,
        one: &mut One<'_, '_>,
        host: &HostName,
        target: Target<'_>,
        backend: Backend,
        transport: Transport,
    ) {
        let policy = self.policy(one, host, target, transport);
        let rule = self.finished(self.rule(one.main, host, None, backend, policy));
        let place = &mut self.routes.host_mut(host).default;
        match place {
            Some(holder) if holder.owner != rule.owner => {
                let message = format!("{host} has its default backend from Ingress {} already.", holder.owner);
                one.report.warning("DuplicateDefaultBackend", "spec.defaultBackend", message, "Remove one of the two.");
            }
            _ => *place = Some(rule),
        }
    }

    /// The policy of a rule. An Ingress that is closed does nothing but refuse.
    fn policy(&self, one: &mut One<'_, '_>, host: &HostName, target: Target<'_>, transport: Transport) -> Arc<Policy> {
        let options = &one.main.options;
        if options.closed.is_some() {
            return self.plain.clone();
        }
        let policy = policy::policy(options, self.modes.get(host), target, transport);
        if policy == *self.plain { self.plain.clone() } else { one.policies.of(policy) }
    }

    fn rule(
        &self,
        main: &Ours<'_>,
        host: &HostName,
        path: Option<PathMatch>,
        backend: Backend,
        policy: Arc<Policy>,
    ) -> Rule {
        let (owner, host, stats) = (main.owner(), Arc::from(host.to_string()), self.uncounted.clone());
        Rule { owner, host, path, backend, split: None, policy, issues_cookie: main.options.affinity, stats }
    }

    /// A rule with its counters; it is the one before if that says the same: then there is only one of them, however many
    /// configurations are still in use.
    fn finished(&self, rule: Rule) -> Arc<Rule> {
        match self.held.get(&place(&rule)) {
            Some(held) if held.says_the_same(&rule) => (*held).clone(),
            Some(held) => Arc::new(Rule { stats: held.stats.clone(), ..rule }),
            None => Arc::new(Rule { stats: Arc::default(), ..rule }),
        }
    }

    /// Where a backend leads, and how it is spoken to; `None` if it is none that can be served at all.
    fn backend(
        &mut self,
        one: &mut One<'_, '_>,
        backend: &IngressBackend,
        field: &str,
    ) -> Option<(Backend, Transport)> {
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
        let service_name = Name { namespace: one.main.name.namespace.clone(), name: service.name.as_str().into() };
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
        let options = &one.main.options;
        let missing = |reason: &str| {
            let service = format!("{service_name}:{written}").into();
            Some((Backend::Missing { service, reason: reason.into() }, Transport::default()))
        };
        if let Some(reason) = &options.closed {
            return missing(reason);
        }
        if self.objects.services.get(&service_name).is_none() {
            let message = format!("there is no Service {service_name}; requests are answered 503.");
            one.report.error(
                "MissingService",
                &format!("{field}.service.name"),
                message,
                "Create the Service, or correct the name.",
            );
            return missing("there is no such Service");
        }
        let Some(port) = find_port(self.objects, &service_name, &written) else {
            let message = format!("Service {service_name} has no TCP port {written}; requests are answered 503.");
            one.report.error(
                "MissingServicePort",
                &format!("{field}.service.port"),
                message,
                format!("Use one of its ports: {}.", port_list(self.objects, &service_name)),
            );
            return missing("the Service has no such port");
        };
        backend_protocol::check(port.app_protocol, field, one.report);
        let objects = self.objects;
        let mut tls_to_pods = |h2| one.tls_to_pods(objects, h2);
        let transport = backend_protocol::transport(options.proxy.protocol, port.app_protocol, &mut tls_to_pods);
        let Some(transport) = transport else { return missing("TLS to its pods cannot be set up as it should be") };
        let (backend, overruled) = self.upstreams.backend(&service_name, &written, &port, options, one.rank);
        if overruled {
            let message = format!(
                "an older Ingress uses {} too, and its load-balance, upstream-hash-by and service-upstream count for all.",
                backend.service()
            );
            let fix = "Say the same in all Ingresses that use the port, or give the Service another port.";
            one.report.warning("SharedUpstream", field, message, fix);
        }
        Some((backend, transport))
    }
}

/// Where a path is written. Each has one, and hardly any is ever shown, so it is not left to the general formatter.
fn path_field(rule: usize, path: usize) -> String {
    let (mut one, mut other) = (itoa::Buffer::new(), itoa::Buffer::new());
    ["spec.rules[", one.format(rule), "].http.paths[", other.format(path), "]"].concat()
}

pub(super) fn host_name(host: Option<&str>, field: &str, report: &mut Report<'_>) -> Option<HostName> {
    match host::parse(host.unwrap_or_default()) {
        Ok(host) => Some(host),
        Err((message, fix)) => {
            report.error("InvalidHost", field, message, fix);
            None
        }
    }
}

#[cfg(test)]
mod tests;
