//! Which of the certificates in `spec.tls` a host is shown, and what is said if it is none.

use std::sync::Arc;

use super::{
    annotations::{AuthTlsOptions, ProxySslOptions, TlsOptions},
    annotations::{PREFIX, annotation_field},
    finding::Report,
    objects::Name,
};
use crate::{
    route::{HostName, Owner},
    tls::{Certificate, Suites},
};

/// The certificates that an Ingress has for a host.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) ingress: Owner,
    /// At most one for each kind of key.
    pub(super) certificates: Vec<(Name, Arc<Certificate>)>,
    pub(super) listed: bool,
    /// Why there is none.
    pub(super) why: Arc<str>,
}

/// One entry of `spec.tls`.
pub(super) struct Section {
    pub(super) field: String,
    /// As written, in lower case.
    pub(super) hosts: Vec<String>,
    pub(super) secret: Option<Name>,
    pub(super) certificate: Option<Arc<Certificate>>,
    /// Why there is none; said already.
    pub(super) why: Arc<str>,
}

/// One Ingress on its way.
pub(super) struct One<'a, 'b> {
    pub(super) name: &'a Name,
    pub(super) report: &'a mut Report<'b>,
    /// Whether hosts without a certificate are shown one that somebody chose.
    pub(super) has_default: bool,
}

impl One<'_, '_> {
    /// The certificates for a host: of the sections that list it, else of those that fit.
    pub(super) fn choose(&mut self, host: &HostName, sections: &[Section], field: &str) -> Choice {
        let name = host.to_string();
        let listing: Vec<&Section> = sections.iter().filter(|section| section.hosts.contains(&name)).collect();
        let listed = !listing.is_empty();
        let candidates = if listed { listing } else { sections.iter().collect() };
        let mut certificates: Vec<(Name, Arc<Certificate>)> = Vec::new();
        for section in &candidates {
            let (Some(secret), Some(certificate)) = (&section.secret, &section.certificate) else { continue };
            let kind = certificate.key_type;
            if certificate.names.cover(&name) && !certificates.iter().any(|(_, held)| held.key_type == kind) {
                certificates.push((secret.clone(), certificate.clone()));
            }
        }
        let ingress = Owner { namespace: self.name.namespace.clone(), name: self.name.name.clone() };
        let why = if certificates.is_empty() {
            self.explain_missing(&name, &candidates, listed, field)
        } else {
            Arc::default()
        };
        Choice { ingress, certificates, listed, why }
    }

    /// Why no section has a certificate for a host. What is wrong with a section or its Secret was reported there.
    fn explain_missing(&mut self, host: &str, candidates: &[&Section], listed: bool, field: &str) -> Arc<str> {
        if let Some(broken) = candidates.iter().find(|section| section.certificate.is_none()) {
            return broken.why.clone();
        }
        let shown = shown_instead(self.has_default, "it is");
        let mismatched =
            candidates.iter().find_map(|section| section.secret.as_ref().zip(section.certificate.as_ref()));
        let (Some((secret, certificate)), true) = (mismatched, listed) else {
            let message = format!("none of the certificates in spec.tls is for {host}; {shown}.");
            let fix = "List the host in spec.tls, with a Secret whose certificate is for it.";
            self.report.warning("NoCertificate", field, message, fix);
            return "no certificate of its Ingress is for it".into();
        };
        let names: Vec<String> = certificate.names.iter().take(5).collect();
        let message =
            format!("the certificate of Secret {secret} is for {}, not for {host}; {shown}.", names.join(", "));
        let section = candidates.first().map_or(field, |section| &section.field);
        let fix = "Name a Secret whose certificate is for this host, or have one issued.";
        self.report.error("CertificateMismatch", &format!("{section}.secretName"), message, fix);
        format!("the certificate of Secret {secret} is not for it").into()
    }

    /// `ssl-ciphers`; `None` if there is nothing in it that could be used.
    pub(super) fn suites(&mut self, options: &TlsOptions) -> Option<Arc<Suites>> {
        let suites = Suites::parse(options.ciphers.as_deref()?);
        let field = annotation_field("ssl-ciphers");
        let fix = format!("Write some of {}.", Suites::all());
        if suites.tls12.is_empty() {
            let message = "there is no cipher of TLS 1.2 in it that is still safe; all that are, are used.";
            self.report.warning("InvalidAnnotation", &field, message, fix);
            return None;
        }
        if !suites.unknown.is_empty() {
            let message = format!("{} is not supported, and left out.", suites.unknown.join(", "));
            self.report.warning("InvalidAnnotation", &field, message, fix);
        }
        Some(Arc::new(suites))
    }

    pub(super) fn warn_of_unused(&mut self, options: &TlsOptions) {
        let (auth, proxy) = (AuthTlsOptions::default(), ProxySslOptions::default());
        let unused = [
            ("auth-tls", options.auth.secret.is_none() && options.auth != auth),
            ("proxy-ssl", options.proxy.secret.is_none() && options.proxy != proxy),
        ];
        for (family, is_unused) in unused {
            if is_unused {
                let message = format!("{family}-* has no effect without {family}-secret.");
                let fix = format!("Add {PREFIX}{family}-secret: NAMESPACE/NAME.");
                self.report.warning("UnusedAnnotation", "metadata.annotations", message, fix);
            }
        }
    }
}

/// What comes instead, in words that follow what is missing.
pub(super) fn shown_instead(has_default: bool, whose: &str) -> String {
    match has_default {
        true => format!("{whose} shown the default certificate"),
        false => format!("{whose} shown a stand-in certificate, which no client trusts"),
    }
}
