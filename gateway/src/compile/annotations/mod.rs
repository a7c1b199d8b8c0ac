//! The annotations of an Ingress: a table, one row each, by family.
//!
//! A row says what is done with an annotation. One that is not in the table is reported, never silently ignored; one that guards
//! something (authentication, address lists, snippets) and is not supported closes the Ingress: it answers 503 rather than let in
//! whom the guard would have kept out. A value that cannot be read is reported, and has the outcome it has in ingress-nginx: the
//! default, or 503 where serving would do what nobody asked for.
//!
//! `docs/annotations.md` is made of the rows.

mod affinity;
mod canary;
#[cfg(test)]
mod docs;
mod guards;
mod headers;
mod proxy;
mod redirect;
mod rewrite;
mod tls;
mod upstream;
mod values;

use std::{collections::BTreeMap, sync::LazyLock};

use ahash::AHashMap;
use http::{HeaderName, HeaderValue};
use tidegate_crd::{Kind, Origin, ingress::Ingress, suggest};

use self::values::Expected;
pub(crate) use self::{
    canary::CanaryOptions,
    headers::HeaderOptions,
    proxy::{Protocol, ProxyOptions},
    redirect::RedirectOptions,
    rewrite::RewriteOptions,
    tls::{AuthTlsOptions, ProxySslOptions, TlsOptions},
};
use super::{finding::Report, service_annotations};
use crate::route::{HostName, policy::UpstreamOptions, sticky::CookieAffinity};

/// The prefix of ingress-nginx's annotations.
pub(crate) const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// The prefix of our own, for what ingress-nginx has no word for.
pub(crate) const OWN_PREFIX: &str = "tidegate.io/";

/// What the annotations of one Ingress say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct IngressOptions {
    /// `affinity: cookie`, with its family.
    pub(crate) affinity: bool,
    pub(crate) cookie: CookieAffinity,
    pub(crate) canary: CanaryOptions,
    pub(crate) redirect: RedirectOptions,
    pub(crate) rewrite: RewriteOptions,
    pub(crate) proxy: ProxyOptions,
    pub(crate) headers: HeaderOptions,
    pub(crate) upstream: UpstreamOptions,
    /// What concerns TLS, on both sides.
    pub(crate) tls: TlsOptions,
    /// `server-alias`.
    pub(crate) aliases: Vec<HostName>,
    /// A guard that cannot be honoured: why every request gets 503.
    pub(crate) closed: Option<String>,
}

/// Reads a value, or says what it should have been.
type Apply = fn(&mut IngressOptions, &str) -> Result<(), Expected>;

/// One annotation.
struct Row {
    /// Its name, without the prefix.
    name: &'static str,
    /// What it means, in a line of `docs/annotations.md`.
    doc: &'static str,
    /// Whom it concerns.
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers, and the page that a test makes of the rows"))]
    scope: Scope,
    support: Support,
}

/// What an annotation is about, and so who wins where several Ingresses say different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The paths of its own Ingress.
    Location,
    /// The whole host: the oldest Ingress that says anything.
    Host,
    /// The Service port: the oldest Ingress that uses it.
    Upstream,
}

/// What is done with an annotation.
enum Support {
    /// It is honoured; a bad value has its default.
    Yes(Apply),
    /// It is honoured; a bad value closes the Ingress.
    Closes(Apply),
    /// There is nothing to do for it; the doc line says why.
    Accepted(fn(&str) -> Result<(), Expected>),
    /// It is not honoured, which does no harm; the doc line says what happens instead.
    Ignored,
    /// It is not supported, and without it the Ingress would let in whom it should not.
    Guard,
    /// It runs text of the user's as configuration: refused by design.
    Refused,
}

const fn yes(name: &'static str, doc: &'static str, scope: Scope, apply: Apply) -> Row {
    Row { name, doc, scope, support: Support::Yes(apply) }
}

const fn closing(name: &'static str, doc: &'static str, scope: Scope, apply: Apply) -> Row {
    Row { name, doc, scope, support: Support::Closes(apply) }
}

const fn accepted(name: &'static str, doc: &'static str, scope: Scope, check: fn(&str) -> Result<(), Expected>) -> Row {
    Row { name, doc, scope, support: Support::Accepted(check) }
}

const fn ignored(name: &'static str, doc: &'static str, scope: Scope) -> Row {
    Row { name, doc, scope, support: Support::Ignored }
}

/// A family of rows: its title, the prefix, and the rows.
type Family = (&'static str, &'static str, &'static [Row]);

const FAMILIES: &[Family] = &[
    ("Paths", PREFIX, rewrite::ROWS),
    ("Redirects", PREFIX, redirect::ROWS),
    ("Canaries", PREFIX, canary::ROWS),
    ("The exchange with pods", PREFIX, proxy::ROWS),
    ("Fields of requests and answers", PREFIX, headers::ROWS),
    ("How a pod is chosen, and names of a host", PREFIX, upstream::ROWS),
    ("Session cookies", PREFIX, affinity::ROWS),
    ("TLS", PREFIX, tls::ROWS),
    ("Guards that are not supported yet, and what is refused", PREFIX, guards::ROWS),
    ("Tidegate's own: paths", OWN_PREFIX, rewrite::OWN),
    ("Tidegate's own: times and retries", OWN_PREFIX, proxy::OWN),
    ("Tidegate's own: fields", OWN_PREFIX, headers::OWN),
];

/// What becomes of an Ingress that would let in whom it should not, or do what nobody asked for.
const CLOSED: &str = "every request is answered 503";

/// Rows by prefix and name.
static ROWS: LazyLock<AHashMap<(&str, &str), &Row>> = LazyLock::new(|| {
    FAMILIES.iter().flat_map(|(_, prefix, rows)| rows.iter().map(move |row| ((*prefix, row.name), row))).collect()
});

impl IngressOptions {
    /// Reads the annotations; what cannot be read is reported. `defaults` are those of its class that it does not have itself; of
    /// them, what cannot be read was reported where they are written.
    pub(crate) fn read<'a>(
        ingress: &Ingress,
        defaults: impl Iterator<Item = (&'a str, &'a str)>,
        report: &mut Report<'_>,
    ) -> Self {
        let mut options = Self::default();
        let origin = Origin::synthetic("");
        let mut said = Report::on(Kind::Ingress, "", "", &origin);
        for (name, value) in defaults {
            options.read_one(name, value, "", &mut said);
        }
        let empty = BTreeMap::new();
        let annotations = ingress.metadata.annotations.as_ref().unwrap_or(&empty);
        for (name, value) in annotations.iter().filter(|(name, _)| split(name).is_some()) {
            options.read_one(name, value, &format!("metadata.annotations[{name:?}]"), report);
        }
        options.without_effect(annotations, report);
        options
    }

    /// Reads one annotation; whether it is one of ours.
    pub(crate) fn read_one(&mut self, name: &str, value: &str, field: &str, report: &mut Report<'_>) -> bool {
        let Some((prefix, short)) = split(name) else { return false };
        let value = value.trim();
        if !value.is_empty() {
            match ROWS.get(&(prefix, short)) {
                Some(row) => self.apply(row, value, field, report),
                None => unknown(prefix, short, field, report),
            }
        }
        true
    }

    fn apply(&mut self, row: &Row, value: &str, field: &str, report: &mut Report<'_>) {
        let short = row.name;
        let mut invalid = |expected: Expected, outcome: &str| {
            let message = format!("{value:?} is not a value of {short}; {outcome}.");
            report.error("InvalidAnnotation", field, message, format!("Write {expected}."));
        };
        match &row.support {
            Support::Yes(apply) => {
                let was_closed = self.closed.is_some();
                if let Err(expected) = apply(self, value) {
                    let closes = self.closed.is_some() && !was_closed;
                    invalid(expected, if closes { CLOSED } else { "the default is used" });
                }
            }
            Support::Closes(apply) => {
                if let Err(expected) = apply(self, value) {
                    invalid(expected, CLOSED);
                    self.closed = Some(format!("{short} cannot be read"));
                }
            }
            Support::Accepted(check) => {
                if let Err(expected) = check(value) {
                    invalid(expected, "it would have no effect here either way");
                }
            }
            Support::Ignored => {
                let message = format!("{short} has no effect. {}", row.doc);
                report.warning("UnsupportedAnnotation", field, message, "Remove it if you can do without.");
            }
            Support::Guard => {
                self.closed = Some(format!("{short} is not supported yet"));
                let message =
                    format!("{short} guards this Ingress and is not supported yet, so every request is answered 503.");
                let fix = "Remove the annotation if the Ingress may be open, or leave it to its old controller.";
                report.error("UnsupportedGuard", field, message, fix);
            }
            Support::Refused => {
                self.closed = Some(format!("{short} is refused"));
                let message = format!(
                    "{short} runs text as configuration, which is refused by design; every request is answered 503."
                );
                let fix = "Say the same with typed annotations and remove the snippet.";
                report.error("RefusedAnnotation", field, message, fix);
            }
        }
    }

    /// Annotations that do nothing without another, or make another useless.
    fn without_effect(&self, annotations: &BTreeMap<String, String>, report: &mut Report<'_>) {
        let (weight, total) = (self.canary.weight, self.canary.total.unwrap_or(100));
        if weight > total {
            let message = format!("canary-weight is {weight} of {total}: the canary gets every request.");
            let fix = "Write a weight up to canary-weight-total, which is 100 unless you say otherwise.";
            report.warning("InvalidAnnotation", &annotation_field("canary-weight"), message, fix);
        }
        let has_family = |start: &str| {
            annotations.keys().any(|name| name.strip_prefix(PREFIX).is_some_and(|short| short.starts_with(start)))
        };
        let mut unused = |what: &str, without: &str, fix: String| {
            let message = format!("{what} has no effect without {without}.");
            report.warning("UnusedAnnotation", "metadata.annotations", message, fix);
        };
        if !self.affinity && has_family("session-cookie-") {
            unused("session-cookie-*", "affinity", format!("Add {PREFIX}affinity: cookie."));
        }
        if !self.canary.enabled && has_family("canary-") {
            unused("canary-*", "canary", format!("Add {PREFIX}canary: \"true\"."));
        }
        let match_alone = self.canary.header_value.is_some() || self.canary.header_pattern.is_some();
        if self.canary.header.is_none() && match_alone {
            let fix = format!("Name the field with {PREFIX}canary-by-header.");
            unused("canary-by-header-value or -pattern", "canary-by-header", fix);
        }
        if self.headers.location_from.is_some() != self.headers.location_to.is_some()
            && ![&self.headers.location_from, &self.headers.location_to]
                .iter()
                .any(|value| matches!(value.as_deref(), Some("off" | "default")))
        {
            let fix = format!("Write both {PREFIX}proxy-redirect-from and -to.");
            unused("one of proxy-redirect-from and -to", "the other", fix);
        }
    }
}

/// Whether this is one of our annotations of an Ingress, by its name without the prefix.
pub(crate) fn is_own(name: &str) -> bool {
    ROWS.contains_key(&(OWN_PREFIX, name))
}

/// Says that there is no such annotation, and which may be meant.
fn unknown(prefix: &str, short: &str, field: &str, report: &mut Report<'_>) {
    let names = || FAMILIES.iter().filter(|(_, p, _)| *p == prefix).flat_map(|(_, _, rows)| *rows).map(|row| row.name);
    let meant = suggest::nearest(short, names()).map(|meant| format!("Did you mean {prefix}{meant}?"));
    if prefix == PREFIX {
        let message = format!("{short} is not supported and has no effect.");
        let usual = || "Remove it if you can do without; docs/annotations.md lists what is supported.".to_owned();
        report.warning("UnsupportedAnnotation", field, message, meant.unwrap_or_else(usual));
        return;
    }
    let message = format!("there is no annotation {prefix}{short} of an Ingress.");
    let fix = match meant {
        _ if service_annotations::has(short) => "Write it on the Service instead: it is one of a Service.".to_owned(),
        Some(meant) => meant,
        None => format!("Those of an Ingress are {OWN_PREFIX}… {}.", names().collect::<Vec<_>>().join(", ")),
    };
    report.warning("UnknownAnnotation", field, message, fix);
}

/// The fields that a ConfigMap lists (`custom-headers`); the error names one that may not be set.
pub(crate) fn config_map_fields<'a>(
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let field = |(name, value)| Some((values::field_name(name).ok()?, values::field_value(value).ok()?));
    pairs.map(|pair| field(pair).ok_or_else(|| format!("{} cannot be set on answers", pair.0))).collect()
}

/// Whether an annotation says something about one Ingress that cannot be true of several: it splits another's requests, or names a host.
pub(crate) fn is_own_alone(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|short| short.starts_with("canary") || short == "server-alias")
}

/// The field of one of ingress-nginx's annotations, by its name without the prefix.
pub(crate) fn annotation_field(name: &str) -> String {
    format!("metadata.annotations[\"{PREFIX}{name}\"]")
}

/// Prefix and name of an annotation that is for us.
fn split(name: &str) -> Option<(&'static str, &str)> {
    [PREFIX, OWN_PREFIX].into_iter().find_map(|prefix| Some((prefix, name.strip_prefix(prefix)?)))
}

#[cfg(test)]
mod tests;
