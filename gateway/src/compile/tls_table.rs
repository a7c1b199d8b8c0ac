//! What Ingresses say of hosts → the entries of a `TlsTable`, with one `TlsConfig` for all hosts that are alike.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;

use super::{objects::Name, settings::Settings, tls::Draft, tls_choice::Choice};
use crate::{
    route::{HostName, Owner},
    tls::{Certificate, CertificateRow, ConfigSpec, Identity, Serve, Source, TlsConfig, TlsHost, TlsTable},
};

/// What makes one configuration another: what is asked of clients, and what is shown.
pub(super) type ConfigKey = (Identity, Vec<Identity>);

/// Configurations by what they are made of.
pub(super) type Configs = AHashMap<ConfigKey, Arc<TlsConfig>>;

pub(super) struct TableBuilder<'a> {
    settings: &'a Settings,
    /// Of the compile before.
    held: Option<&'a Configs>,
    configs: Configs,
    default: DefaultCertificates,
    /// What nothing special is asked of.
    plain: Identity,
    rows: BTreeMap<Name, CertificateRow>,
}

/// What is shown where nothing is configured.
struct DefaultCertificates {
    certificates: Vec<Arc<Certificate>>,
    secret: Option<Name>,
}

/// What a host shows.
#[derive(Clone)]
struct Shown {
    certificates: Vec<Arc<Certificate>>,
    source: Source,
    has_section: bool,
}

impl<'a> TableBuilder<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        default: Option<(Name, Arc<Certificate>)>,
        held: Option<&'a Configs>,
    ) -> Self {
        let mut rows = BTreeMap::new();
        let default = match default {
            Some((secret, certificate)) => {
                let row = CertificateRow {
                    secret: owner(&secret),
                    hosts: vec!["*".into()],
                    certificate: certificate.clone(),
                };
                rows.insert(secret.clone(), row);
                DefaultCertificates { certificates: vec![certificate], secret: Some(secret) }
            }
            None => DefaultCertificates {
                certificates: settings.tls.material.stand_in().into_iter().collect(),
                secret: None,
            },
        };
        let plain = ConfigSpec { min_version: settings.tls.min_version, ..ConfigSpec::default() }.security();
        Self { settings, held, configs: Configs::new(), default, plain, rows }
    }

    pub(super) fn build(
        mut self,
        mut drafts: AHashMap<HostName, Draft>,
        mut unruled: AHashMap<HostName, Choice>,
    ) -> (TlsTable, Configs) {
        unruled.retain(|name, _| !drafts.contains_key(name));
        let any = drafts.remove(&HostName::Any).unwrap_or_default();
        let shown = self.shown_by_default("it has no certificate of its own");
        let default = self.host(HostName::Any, any.without_choice(), shown);
        let (wildcards, exact): (Vec<_>, Vec<_>) =
            drafts.into_iter().partition(|(name, _)| matches!(name, HostName::Wildcard(_)));
        let mut hosts = Vec::new();
        // By suffix: what a host shows that has no section of its own, and whether there is anything special about it.
        let mut by_suffix: AHashMap<Arc<str>, (Shown, bool)> = AHashMap::new();
        for (name, draft) in wildcards {
            let shown = self.shown(&name, &draft, None);
            let host = self.host(name, draft, shown.clone());
            if let HostName::Wildcard(suffix) = &host.name {
                by_suffix.insert(suffix.clone(), (shown, self.is_special(&host)));
            }
            hosts.push(host);
        }
        let default_is_special = self.is_special(&default);
        for (name, draft) in exact {
            let wildcard = by_suffix.get(suffix(&name));
            // It would be found the same way without an entry.
            if draft.says_nothing() && !wildcard.map_or(default_is_special, |(_, is_special)| *is_special) {
                continue;
            }
            let shown = self.shown(&name, &draft, wildcard.map(|(shown, _)| shown));
            hosts.push(self.host(name, draft, shown));
        }
        for (name, choice) in unruled {
            // Its requests are for the rules of any host, and so it asks what they ask. Under a wildcard they are not.
            if !by_suffix.contains_key(suffix(&name)) {
                let draft = Draft { choice: Some(choice), ..Draft::default() };
                let shown = Shown { has_section: false, ..self.shown(&name, &draft, None) };
                hosts.push(self.host(name, any.without_choice(), shown));
            }
        }
        (TlsTable::new(default, hosts, self.rows.into_values().collect()), self.configs)
    }

    /// What a host is shown that has no certificate: its class's default, or that of all.
    fn shown_instead(&mut self, host: &HostName, draft: &Draft, why: &str) -> Shown {
        let Some((secret, certificate)) = &draft.of_class else { return self.shown_by_default(why) };
        self.row(secret, certificate).hosts.push(host.to_string().into());
        let source = Source::Default { secret: owner(secret), why: why.into() };
        Shown { certificates: vec![certificate.clone()], source, has_section: false }
    }

    fn row(&mut self, secret: &Name, certificate: &Arc<Certificate>) -> &mut CertificateRow {
        self.rows.entry(secret.clone()).or_insert_with(|| CertificateRow {
            secret: owner(secret),
            hosts: Vec::new(),
            certificate: certificate.clone(),
        })
    }

    fn shown_by_default(&self, why: &str) -> Shown {
        let source = match &self.default.secret {
            Some(secret) => Source::Default { secret: owner(secret), why: why.into() },
            None => Source::StandIn { why: why.into() },
        };
        Shown { certificates: self.default.certificates.clone(), source, has_section: false }
    }

    /// What a host shows: what its Ingress has for it; without a section, what its wildcard shows, as the look-up would find it.
    fn shown(&mut self, host: &HostName, draft: &Draft, wildcard: Option<&Shown>) -> Shown {
        let Some(choice) = &draft.choice else {
            let inherited = wildcard.filter(|shown| shown.has_section).cloned();
            return inherited.unwrap_or_else(|| self.shown_instead(host, draft, "no Ingress gives it a TLS section"));
        };
        if choice.certificates.is_empty() {
            return Shown { has_section: true, ..self.shown_instead(host, draft, &choice.why) };
        }
        for (secret, certificate) in &choice.certificates {
            self.row(secret, certificate).hosts.push(host.to_string().into());
        }
        let secrets = choice.certificates.iter().map(|(secret, _)| owner(secret)).collect();
        Shown {
            certificates: choice.certificates.iter().map(|(_, certificate)| certificate.clone()).collect(),
            source: Source::Ingress { ingress: choice.ingress.clone(), secrets, listed: choice.listed },
            has_section: true,
        }
    }

    fn host(&mut self, name: HostName, draft: Draft, shown: Shown) -> TlsHost {
        let client_auth = draft.client_auth.clone();
        let serve = match draft.root.filter(|_| draft.passthrough && name != HostName::Any) {
            Some(service) => Serve::Passthrough(service),
            None => Serve::Terminate(self.config(ConfigSpec {
                certificates: shown.certificates,
                client_auth: draft.client_auth,
                suites: draft.suites.map(|suites| suites.tls12.clone()),
                prefer_server_order: draft.prefer_server_order.unwrap_or(false),
                min_version: self.settings.tls.min_version,
            })),
        };
        TlsHost { name, serve, client_auth, source: shown.source, has_section: shown.has_section }
    }

    fn config(&mut self, spec: ConfigSpec) -> Arc<TlsConfig> {
        let is_plain = spec.client_auth.is_none() && spec.suites.is_none() && !spec.prefer_server_order;
        let security = if is_plain { self.plain } else { spec.security() };
        let key = (security, spec.certificates.iter().map(|certificate| certificate.identity).collect());
        if let Some(config) = self.configs.get(&key) {
            return config.clone();
        }
        let held = self.held.and_then(|held| held.get(&key)).cloned();
        let config = held.unwrap_or_else(|| Arc::new(TlsConfig::new(spec, &self.settings.tls.material)));
        self.configs.insert(key, config.clone());
        config
    }

    /// Whether there is more to a host than its certificate.
    fn is_special(&self, host: &TlsHost) -> bool {
        match &host.serve {
            Serve::Terminate(config) => host.client_auth.is_some() || config.security() != self.plain,
            Serve::Passthrough(_) => true,
        }
    }
}

impl Draft {
    /// Whether no Ingress says anything about TLS.
    fn says_nothing(&self) -> bool {
        let is_plain = self.suites.is_none() && self.prefer_server_order != Some(true) && !self.passthrough;
        self.choice.is_none() && self.of_class.is_none() && self.client_auth.is_none() && is_plain
    }

    /// What is asked of clients, as of another host.
    fn without_choice(&self) -> Self {
        Self {
            choice: None,
            of_class: None,
            client_auth: self.client_auth.clone(),
            suites: self.suites.clone(),
            prefer_server_order: self.prefer_server_order,
            passthrough: false,
            root: None,
        }
    }
}

/// What follows the first label; a name of one label has no wildcard.
fn suffix(name: &HostName) -> &str {
    match name {
        HostName::Exact(name) => name.split_once('.').map_or("", |(_, suffix)| suffix),
        HostName::Wildcard(_) | HostName::Any => "",
    }
}

fn owner(name: &Name) -> Owner {
    Owner { namespace: name.namespace.clone(), name: name.name.clone() }
}
