//! Secrets and the TLS sections and annotations of Ingresses → `TlsTable`.
//!
//! Whose certificate a host is shown is ingress-nginx's rule: the oldest Ingress with a rule for the host and any TLS section decides;
//! of its sections those that list the host, else those whose certificate fits. If that comes to nothing the default certificate
//! is shown, or the stand-in, and the host counts as one with TLS all the same: a broken Secret must not send its visitors back
//! to plain HTTP. `auth-tls-*`, `ssl-ciphers` and `ssl-passthrough` hold for a whole host, too, and the oldest Ingress that has them decides.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use ahash::AHashMap;
use tidegate_crd::{
    Kind, Origin,
    core::Secret,
    ingress::{Ingress, IngressBackend, IngressSpec},
};
use tidegate_l4::model::ServicePortName;

use super::{
    annotations::{AuthTlsOptions, TlsOptions, annotation_field},
    finding::{Finding, Report, Severity},
    ingress::{find_port, host_name},
    objects::{Name, Objects, Stored},
    settings::Settings,
    tls_choice::{Choice, One, Section, shown_instead},
    tls_secret::{self, CertificateSecret, SecretFault},
    tls_table::{ConfigKey, TableBuilder},
};
use crate::{
    route::HostName,
    tls::{Certificate, ClientAuth, ClientAuthOptions, SubjectPattern, Suites, TlsConfig, TlsTable, Trust},
};

/// The TLS of all hosts, and what the next compile takes over.
#[derive(Debug)]
pub(crate) struct CompiledTls {
    pub(crate) table: Arc<TlsTable>,
    secrets: BTreeMap<Name, CertificateSecret>,
    auths: Vec<CompiledAuth>,
    configs: AHashMap<ConfigKey, Arc<TlsConfig>>,
    findings: Vec<Finding>,
}

impl CompiledTls {
    /// What is wrong with the Secrets, at `now` in seconds since the Unix epoch if that is known.
    pub(crate) fn findings(&self, now: Option<i64>) -> impl Iterator<Item = Finding> {
        let of_secrets = self.secrets.iter().flat_map(move |(name, secret)| secret.findings(name, now));
        self.findings.iter().cloned().chain(of_secrets)
    }
}

/// The client authentication that one Secret and these options come to.
#[derive(Clone, Debug)]
struct CompiledAuth {
    name: Name,
    secret: Arc<Stored<Secret>>,
    options: AuthTlsOptions,
    auth: Arc<ClientAuth>,
    faults: Vec<SecretFault>,
}

/// Collects what Ingresses say, the oldest first.
pub(crate) struct TlsCompiler<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    previous: Option<&'a CompiledTls>,
    secrets: BTreeMap<Name, CertificateSecret>,
    auths: Vec<CompiledAuth>,
    hosts: AHashMap<HostName, Draft>,
    defaults: TlsDefaults,
    /// Hosts that only a TLS section names, of an Ingress that serves any host.
    unruled: AHashMap<HostName, Choice>,
    /// Other names, and whose they are.
    aliases: Vec<(HostName, HostName)>,
    findings: Vec<Finding>,
}

/// What is known before any Ingress is read.
#[derive(Debug, Default)]
pub(crate) struct TlsDefaults {
    /// The default certificate of the default class: it is shown where the command line names none.
    pub(crate) certificate: Option<Name>,
    /// Whether any Ingress asks for `ssl-passthrough`: where `/` leads is looked up only then.
    pub(crate) any_passthrough: bool,
}

/// What is known of a host so far.
#[derive(Clone, Default)]
pub(super) struct Draft {
    pub(super) choice: Option<Choice>,
    /// The default certificate of its class, if that is not the one of all.
    pub(super) of_class: Option<(Name, Arc<Certificate>)>,
    pub(super) client_auth: Option<Arc<ClientAuth>>,
    pub(super) suites: Option<Arc<Suites>>,
    pub(super) prefer_server_order: Option<bool>,
    pub(super) passthrough: bool,
    /// Where `/` leads.
    pub(super) root: Option<ServicePortName>,
}

impl<'a> TlsCompiler<'a> {
    pub(crate) fn new(
        objects: &'a Objects,
        settings: &'a Settings,
        defaults: TlsDefaults,
        previous: Option<&'a CompiledTls>,
    ) -> Self {
        Self {
            defaults,
            objects,
            settings,
            previous,
            secrets: BTreeMap::new(),
            auths: Vec::new(),
            hosts: AHashMap::new(),
            unruled: AHashMap::new(),
            aliases: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Takes an Ingress in; older ones first. `of_class` is the default certificate of its class.
    pub(crate) fn add(
        &mut self,
        name: &Name,
        ingress: &Ingress,
        options: &TlsOptions,
        of_class: Option<&Name>,
        report: &mut Report<'_>,
    ) {
        let empty = IngressSpec::default();
        let spec = ingress.spec.as_ref().unwrap_or(&empty);
        let of_class = of_class.filter(|secret| self.default_secret().as_ref() != Some(secret));
        let of_class = of_class.and_then(|secret| Some((secret.clone(), self.certificate(secret)??)));
        let has_default = of_class.is_some() || self.default_secret().is_some();
        let mut one = One { name, report, has_default };
        one.warn_of_unused(options);
        let sections = self.sections(&mut one, spec);
        let auth = self.client_auth(&mut one, &options.auth);
        let suites = one.suites(options);
        // What is wrong with a host was said where its rules were read.
        let origin = Origin::synthetic("");
        let mut said = Report::on(Kind::Ingress, &name.namespace, &name.name, &origin);
        let mut serves_any = spec.rules.as_ref().is_none_or(Vec::is_empty);
        for (index, rule) in spec.rules.iter().flatten().enumerate() {
            let Some(host) = host_name(rule.host.as_deref(), "", &mut said) else { continue };
            serves_any |= host == HostName::Any;
            let field = format!("spec.rules[{index}].host");
            let has_choice = self.hosts.get(&host).is_some_and(|draft| draft.choice.is_some());
            let choice = if sections.is_empty() || has_choice || host == HostName::Any {
                None
            } else {
                Some(one.choose(&host, &sections, &field))
            };
            let root = rule
                .http
                .iter()
                .flat_map(|http| &http.paths)
                .find(|path| matches!(path.path.as_deref(), None | Some("" | "/")));
            let root = root.filter(|_| self.defaults.any_passthrough);
            let root = root.and_then(|path| backend_port(self.objects, &name.namespace, &path.backend));
            let draft = self.hosts.entry(host).or_default();
            draft.choice = draft.choice.take().or(choice);
            draft.of_class = draft.of_class.take().or_else(|| of_class.clone());
            draft.client_auth = draft.client_auth.take().or_else(|| auth.clone());
            draft.suites = draft.suites.take().or_else(|| suites.clone());
            draft.prefer_server_order = draft.prefer_server_order.or(options.prefer_server_ciphers);
            draft.root = draft.root.take().or(root);
            draft.passthrough |= options.passthrough;
        }
        if serves_any {
            if spec.rules.as_ref().is_none_or(Vec::is_empty) {
                let draft = self.hosts.entry(HostName::Any).or_default();
                draft.client_auth = draft.client_auth.take().or(auth);
            }
            self.add_unruled(&mut one, &sections);
        }
        if options.passthrough {
            self.check_passthrough(&mut one, spec);
        }
    }

    /// Takes in another name of a host (`server-alias`): what is asked of clients is asked of them there, too, and its certificate
    /// is shown if it is for the alias as well (ingress-nginx). A name that is a host itself is no alias.
    pub(crate) fn add_alias(&mut self, alias: HostName, of: HostName) {
        self.aliases.push((alias, of));
    }

    /// Hosts that a section lists although no rule names them are shown its certificate if the Ingress serves any host. (With
    /// ingress-nginx they are shown the default certificate.)
    fn add_unruled(&mut self, one: &mut One<'_, '_>, sections: &[Section]) {
        let origin = Origin::synthetic("");
        let mut ignored = Report::on(Kind::Ingress, &one.name.namespace, &one.name.name, &origin);
        for section in sections {
            for written in &section.hosts {
                let Some(host) = host_name(Some(written), "", &mut ignored) else { continue };
                if host != HostName::Any && !self.hosts.contains_key(&host) && !self.unruled.contains_key(&host) {
                    let choice = one.choose(&host, sections, &section.field);
                    self.unruled.insert(host, choice);
                }
            }
        }
    }

    fn check_passthrough(&self, one: &mut One<'_, '_>, spec: &IngressSpec) {
        let field = annotation_field("ssl-passthrough");
        let hosts = spec.rules.iter().flatten().filter_map(|rule| rule.host.as_deref()).filter(|host| !host.is_empty());
        let mut hosts = hosts.peekable();
        if hosts.peek().is_none() {
            let message = "only a host can be passed through, as it is all that can be seen of a TLS connection.";
            one.report.warning("UnusedAnnotation", &field, message, "Write a rule with a host.");
        }
        let origin = Origin::synthetic("");
        let mut ignored = Report::on(Kind::Ingress, &one.name.namespace, &one.name.name, &origin);
        for host in hosts {
            let Some(name) = host_name(Some(host), "", &mut ignored) else { continue };
            if self.hosts.get(&name).is_some_and(|draft| draft.root.is_none()) {
                let message = format!("{host} has no Service on its path /, so its TLS connections end here.");
                one.report.error("NoPassthroughBackend", &field, message, "Add a path / with a Service that exists.");
            }
        }
    }

    fn sections(&mut self, one: &mut One<'_, '_>, spec: &IngressSpec) -> Vec<Section> {
        let mut sections = Vec::new();
        for (index, section) in spec.tls.iter().flatten().enumerate() {
            let hosts = section.hosts.iter().flatten().map(|host| host.to_ascii_lowercase()).collect();
            let field = format!("spec.tls[{index}]");
            let secret = section.secret_name.as_deref().filter(|name| !name.is_empty());
            let secret = secret.map(|secret| Name { namespace: one.name.namespace.clone(), name: secret.into() });
            let (certificate, why) = match &secret {
                Some(secret) => match self.certificate(secret) {
                    Some(Some(certificate)) => (Some(certificate), Arc::default()),
                    Some(None) => (None, format!("there is something wrong with Secret {secret}").into()),
                    None => {
                        let message = format!(
                            "there is no Secret {secret}; {}.",
                            shown_instead(one.has_default, "its hosts are")
                        );
                        let fix = "Create the Secret, with tls.crt and tls.key, or correct the name.";
                        one.report.error("MissingSecret", &format!("{field}.secretName"), message, fix);
                        (None, format!("there is no Secret {secret}").into())
                    }
                },
                None => {
                    if !one.has_default {
                        let message = format!(
                            "it names no Secret, and there is no default certificate; {}.",
                            shown_instead(one.has_default, "its hosts are")
                        );
                        let fix = "Write secretName, or start with --default-ssl-certificate NAMESPACE/NAME.";
                        one.report.warning("NoCertificate", &field, message, fix);
                    }
                    (None, "its TLS section names no Secret".into())
                }
            };
            sections.push(Section { field, hosts, secret, certificate, why });
        }
        sections
    }

    /// The certificate of a Secret: `None` if there is no such Secret, `Some(None)` if there is something wrong with it.
    fn certificate(&mut self, name: &Name) -> Option<Option<Arc<Certificate>>> {
        if let Some(read) = self.secrets.get(name) {
            return Some(read.certificate.clone());
        }
        let stored = self.objects.secrets.get(name)?;
        let (secret, certificate) = match self.previous.and_then(|previous| previous.secrets.get(name)) {
            Some(held) if Arc::ptr_eq(&held.stored, stored) => (held.clone(), held.certificate.clone()),
            Some(_) | None => {
                let read = CertificateSecret::read(stored);
                let certificate = read.certificate.clone();
                (read, certificate)
            }
        };
        self.secrets.insert(name.clone(), secret);
        Some(certificate)
    }

    /// What an Ingress asks of clients. What cannot be done as it says lets nobody in.
    fn client_auth(&mut self, one: &mut One<'_, '_>, options: &AuthTlsOptions) -> Option<Arc<ClientAuth>> {
        let written = options.secret.as_deref()?;
        options.demand?;
        let field = annotation_field("auth-tls-secret");
        let closed = |reason: &str| {
            let own = ClientAuthOptions { error_page: None, ..ClientAuthOptions::default() };
            Some(Arc::new(ClientAuth::new(own, Err(reason.into()), &[])))
        };
        let pattern = match options.pattern() {
            Ok(pattern) => pattern,
            Err(expected) => {
                let message = "it is no pattern for a subject; every request is answered 403.";
                let (field, fix) = (annotation_field("auth-tls-match-cn"), format!("Write {expected}."));
                one.report.error("InvalidAnnotation", &field, message, fix);
                return closed("auth-tls-match-cn is no pattern");
            }
        };
        let name = match secret_name(written, &one.name.namespace) {
            Ok(name) => name,
            Err(message) => {
                let fix = "Name a Secret of the Ingress's own namespace.";
                one.report.error(
                    "InvalidSecretName",
                    &field,
                    format!("{message}; every request is answered 403."),
                    fix,
                );
                return closed("auth-tls-secret names no Secret of its own namespace");
            }
        };
        let Some(stored) = self.objects.secrets.get(&name) else {
            let message = format!("there is no Secret {name}; every request is answered 403.");
            let fix = "Create the Secret, with the CAs of clients in ca.crt, or correct the name.";
            one.report.error("MissingSecret", &field, message, fix);
            return closed("the Secret of auth-tls-secret does not exist");
        };
        let is_it = |held: &&CompiledAuth| Arc::ptr_eq(&held.secret, stored) && held.options == *options;
        if let Some(held) = self.auths.iter().find(is_it) {
            return Some(held.auth.clone());
        }
        let held = self.previous.and_then(|previous| previous.auths.iter().find(is_it)).cloned();
        let auth = held.unwrap_or_else(|| CompiledAuth::new(name, stored, options, pattern));
        let client_auth = auth.auth.clone();
        self.auths.push(auth);
        Some(client_auth)
    }

    /// The Secret whose certificate is shown where nothing else is: the command line's, or that of the default class.
    fn default_secret(&self) -> Option<Name> {
        let named = self.settings.tls.default_certificate.clone().map(|(namespace, name)| Name { namespace, name });
        named.or_else(|| self.defaults.certificate.clone())
    }

    /// Its certificate, if there is one and it is good.
    fn default_certificate(&mut self) -> Option<(Name, Arc<Certificate>)> {
        let name = self.default_secret()?;
        match self.certificate(&name) {
            Some(certificate) => certificate.map(|certificate| (name, certificate)),
            None => {
                self.findings.push(Finding {
                    severity: Severity::Error,
                    reason: "MissingSecret",
                    object: None,
                    file: Arc::from(Path::new("--default-ssl-certificate")),
                    line: 0,
                    field: None,
                    message: format!("there is no Secret {name}: hosts without a certificate are shown a stand-in."),
                    fix: "Create the Secret, with tls.crt and tls.key, or correct the name.".to_owned(),
                });
                None
            }
        }
    }

    /// All that was collected, as a table.
    pub(crate) fn finish(mut self) -> CompiledTls {
        for (alias, of) in std::mem::take(&mut self.aliases) {
            let Some(host) = self.hosts.get(&of).filter(|_| !self.hosts.contains_key(&alias)) else { continue };
            let draft = host.as_alias(&alias);
            self.hosts.insert(alias, draft);
        }
        let default = self.default_certificate();
        let previous = self.previous.map(|previous| &previous.configs);
        let (table, configs) = TableBuilder::new(self.settings, default, previous).build(self.hosts, self.unruled);
        let (secrets, auths) = (self.secrets, self.auths);
        let mut findings = self.findings;
        findings.extend(auths.iter().flat_map(|auth| tls_secret::findings(&auth.name, &auth.secret, &auth.faults)));
        CompiledTls { table: Arc::new(table), secrets, auths, configs, findings }
    }
}

impl Draft {
    /// The same under another name.
    fn as_alias(&self, alias: &HostName) -> Self {
        let mut draft = self.clone();
        draft.choice = draft.choice.filter(|choice| {
            let name = alias.to_string();
            choice.certificates.iter().any(|(_, certificate)| certificate.names.cover(&name))
        });
        draft
    }
}

impl CompiledAuth {
    fn new(
        name: Name,
        secret: &Arc<Stored<Secret>>,
        options: &AuthTlsOptions,
        pattern: Option<SubjectPattern>,
    ) -> Self {
        let (trust, faults) = match trust(&secret.object, options.depth) {
            Ok((trust, faults)) => (Ok(trust), faults),
            Err(fault) => (Err(Arc::from(format!("{} of Secret {name} cannot be used", fault.key))), vec![fault]),
        };
        let own = ClientAuthOptions {
            demand: options.demand.unwrap_or_default(),
            match_cn: pattern,
            pass_certificate: options.pass_certificate,
            error_page: options.error_page.clone(),
        };
        let parts = [tls_secret::CA, tls_secret::CRL].map(|key| tls_secret::bytes(&secret.object, key));
        let auth = ClientAuth::new(own, trust, &parts.map(Option::unwrap_or_default));
        Self { name, secret: secret.clone(), options: options.clone(), auth: Arc::new(auth), faults }
    }
}

fn trust(secret: &Secret, depth: u8) -> Result<(Trust, Vec<SecretFault>), SecretFault> {
    let (roots, faults) = tls_secret::roots(secret)?;
    let trust = Trust::new(roots, tls_secret::crls(secret)?, depth).map_err(|why| tls_secret::bad_crl(&why))?;
    Ok((trust, faults))
}

/// The Secret that an annotation names, which must be in the Ingress's own namespace: whoever may write an Ingress must not get at
/// the Secrets of others through it (`allow-cross-namespace-resources` of ingress-nginx, off by default since 1.12).
pub(crate) fn secret_name(written: &str, namespace: &Arc<str>) -> Result<Name, String> {
    let (own, name) = match written.split_once('/') {
        Some((other, _)) if *other != **namespace => {
            return Err(format!("it names a Secret of namespace {other:?}, which is another's"));
        }
        Some((_, name)) => (namespace, name),
        None => (namespace, written),
    };
    match name.is_empty() || name.contains('/') {
        true => Err(format!("{written:?} is not the name of a Secret")),
        false => Ok(Name { namespace: own.clone(), name: name.into() }),
    }
}

/// The service port a backend means, if it is there.
fn backend_port(objects: &Objects, namespace: &Arc<str>, backend: &IngressBackend) -> Option<ServicePortName> {
    let service = backend.service.as_ref()?;
    let port = service.port.as_ref()?;
    let written = port.name.clone().or_else(|| Some(port.number?.to_string()))?;
    let name = Name { namespace: namespace.clone(), name: service.name.as_str().into() };
    find_port(objects, &name, &written).map(|port| port.name)
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
