//! What is left once every Ingress is there: the paths of a host that no rule takes, its other names, and canaries without a use.

use std::sync::Arc;

use super::{
    super::{
        annotations::{self, IngressOptions, ProxySslOptions},
        backend_protocol,
        class_parameters::ClassBackend,
        finding::Report,
        objects::Name,
        tls_backend::backend_tls,
    },
    Builder, One, Ours,
    canary::Found,
    host,
    policy::{Shared, Target},
    upstreams::find_port,
};
use crate::route::{
    Backend, HostName, Owner, Rule,
    filter::{Filter, Redirect, RedirectTo},
    policy::{HttpsWhen, Policy, Transport},
};

/// The name, for people and metrics, of what serves paths that nothing serves.
pub(super) const NOTHING: &str = "default-backend";

impl Builder<'_> {
    /// What is left once every Ingress is there.
    pub(super) fn finish(&mut self, mains: &[Ours<'_>], reports: &mut [Report<'_>]) {
        let main: Vec<usize> = (0..mains.len()).filter(|at| !mains[*at].options.canary.enabled).collect();
        for (host, mode) in self.modes.sorted() {
            let at = main[mode.oldest];
            let mut one = One {
                main: &mains[at],
                rank: at,
                report: &mut reports[at],
                policies: Shared::default(),
                tls_to_pods: [None, None],
            };
            let class_backend = one.main.class.as_ref().and_then(|class| class.backend.clone());
            let has_rest = !mode.has_root || class_backend.is_some();
            if has_rest && self.routes.host(host).is_some_and(|host| host.default.is_none()) {
                self.speak_for_the_rest(&mut one, host, class_backend.as_ref());
            }
            if mode.www {
                self.add_www(&one, host);
            }
        }
        for at in main {
            self.add_aliases(&mains[at], &mut reports[at]);
        }
        for (main, canary) in std::mem::take(&mut self.canaries.share_cookie) {
            self.upstreams.share_cookie(&main, &canary);
        }
        for (host, written, waiting) in self.canaries.unused() {
            let report = &mut reports[waiting.at];
            if waiting.found == Found::Same {
                let message = "the canary has the Service port of its main Ingress: there is nothing to split.";
                report.error("CanaryIsMain", &waiting.field, message, "Name another Service.");
            } else {
                let message = format!(
                    "no main Ingress has {host} {} with this path type, so the canary gets no requests.",
                    written.path
                );
                let fix = "Write host, path and pathType as in the Ingress whose requests are to be split.";
                report.error("CanaryWithoutMain", &waiting.field, message, fix);
            }
        }
    }

    /// Where no rule names `/`, the oldest Ingress of a host has it all the same: what it redirects or guards, it redirects or
    /// guards for the paths that no rule takes, too. The rest of them goes to the default backend of its class, or is answered 404.
    fn speak_for_the_rest(&mut self, one: &mut One<'_, '_>, host: &HostName, of_class: Option<&ClassBackend>) {
        let of_class =
            of_class.filter(|_| one.main.options.closed.is_none()).map(|backend| self.class_backend(backend));
        let transport = of_class.as_ref().map(|(_, transport)| transport.clone()).unwrap_or_default();
        let policy = self.policy(one, host, Target::Rest, transport);
        let answers = policy.https.when != HttpsWhen::Never
            || policy.filters.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
        let of_class = of_class.map(|(backend, _)| backend);
        let backend = match (&one.main.options.closed, of_class) {
            (None, Some(backend)) => backend,
            (Some(reason), _) => Backend::Missing { service: NOTHING.into(), reason: reason.as_str().into() },
            (None, None) if answers => Backend::None { service: NOTHING.into() },
            (None, None) => return,
        };
        let rule = Rule { issues_cookie: false, ..self.rule(one.main, host, None, backend, policy) };
        let rule = self.finished(rule);
        self.routes.host_mut(host).default = Some(rule);
    }

    /// `www.X` is sent to `X`, or `X` to `www.X`, unless an Ingress names both.
    fn add_www(&mut self, one: &One<'_, '_>, host: &HostName) {
        let HostName::Exact(name) = host else { return };
        let other = name.strip_prefix("www.").map_or_else(|| format!("www.{name}"), str::to_owned);
        let other = HostName::Exact(other.into());
        if self.routes.host(&other).is_some() {
            return;
        }
        let to = Redirect {
            status: http::StatusCode::PERMANENT_REDIRECT,
            to: RedirectTo::Host(name.clone()),
            only_path: None,
        };
        let policy = Policy { filters: [Filter::Redirect(to)].into(), ..Policy::default() };
        let backend = Backend::None { service: NOTHING.into() };
        let rule = Rule { issues_cookie: false, ..self.rule(one.main, &other, None, backend, Arc::new(policy)) };
        let rule = self.finished(rule);
        self.routes.host_mut(&other).default = Some(rule);
    }

    fn add_aliases(&mut self, main: &Ours<'_>, report: &mut Report<'_>) {
        let rules = main.stored.object.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
        for host in rules.filter_map(|rule| host::parse(rule.host.as_deref()?).ok()) {
            for alias in &main.options.aliases {
                if let Err(holder) = self.routes.add_alias(alias, &host) {
                    let field = format!("metadata.annotations[\"{}server-alias\"]", annotations::PREFIX);
                    let message = format!("{alias} belongs to {holder} already, so it is no alias of {host}.");
                    report.warning("AliasTaken", &field, message, "Remove the alias, or the other use of the name.");
                } else {
                    self.tls.add_alias(alias.clone(), host.clone());
                }
            }
        }
    }

    /// Where the default backend of a class, or of the command line, leads, and how it is spoken to.
    fn class_backend(&mut self, default: &ClassBackend) -> (Backend, Transport) {
        let first = || {
            let spec = self.objects.services.get(&default.service)?.object.spec.as_ref()?;
            Some(spec.ports.as_ref()?.first()?.port.to_string())
        };
        let port = default.port.clone().or_else(first);
        let port = port.and_then(|port| find_port(self.objects, &default.service, &port));
        let app_protocol = port.as_ref().and_then(|port| port.app_protocol);
        let mut unverified = |h2| backend_tls(None, &ProxySslOptions::default(), h2).ok();
        let transport = backend_protocol::transport(None, app_protocol, &mut unverified).unwrap_or_default();
        let backend = match port {
            Some(port) => {
                let (number, options) = (port.number.to_string(), IngressOptions::default());
                self.upstreams.backend(&default.service, &number, &port, &options, usize::MAX).0
            }
            None => Backend::Missing {
                service: default.service.to_string().into(),
                reason: "the default backend Service does not exist or has no such port".into(),
            },
        };
        (backend, transport)
    }

    /// The backend of what no rule and no default of a host takes.
    pub(super) fn add_global_default(&mut self, default: &ClassBackend) {
        let (backend, transport) = self.class_backend(default);
        let Name { namespace, name: service } = &default.service;
        let owner = Owner { namespace: namespace.clone(), name: service.clone() };
        let rule = self.finished(Rule {
            owner,
            host: "*".into(),
            path: None,
            backend,
            split: None,
            policy: Arc::new(Policy { transport, ..Policy::default() }),
            issues_cookie: false,
            stats: self.uncounted.clone(),
        });
        self.routes.set_default(rule);
    }
}
