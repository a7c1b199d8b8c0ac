//! The `nginx.ingress.kubernetes.io/…` annotations of an Ingress: a table, one row each.
//!
//! A row says what is done with an annotation. One that is not in the table is reported, never silently ignored; one that guards
//! something (authentication, address lists, snippets) and is not supported closes the Ingress: it answers 503 rather than let in
//! whom the guard would have kept out.

use std::collections::BTreeMap;

use tidegate_crd::ingress::Ingress;

use super::{
    annotations_tls::{self, TlsOptions},
    finding::Report,
};
use crate::route::sticky::{AffinityMode, CookieAffinity, SameSite};

/// The prefix of ingress-nginx's annotations.
const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What the annotations of one Ingress say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct IngressOptions {
    /// `affinity: cookie`, with its family.
    pub(crate) affinity: bool,
    pub(crate) cookie: CookieAffinity,
    /// Another's traffic is to be split off: the Ingress is no main one.
    pub(crate) canary: bool,
    /// What concerns TLS.
    pub(crate) tls: TlsOptions,
    /// A guard that cannot be honoured: why every request gets 503.
    pub(crate) closed: Option<String>,
}

pub(super) type Apply = fn(&mut IngressOptions, &str) -> Result<(), &'static str>;

/// What is done with an annotation.
pub(super) enum Support {
    /// It is honoured.
    Yes(Apply),
    /// It is not supported, and without it the Ingress would let in whom it should not.
    Guard,
    /// It runs text of the user's as configuration: refused by design.
    Refused,
}

/// An annotation, by its name without the prefix.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) support: Support,
}

/// Whether an Ingress has an annotation, by its name without the prefix.
pub(super) fn has_annotation(ingress: &Ingress, name: &str) -> bool {
    let annotations = ingress.metadata.annotations.iter().flat_map(BTreeMap::keys);
    annotations.filter_map(|key| key.strip_prefix(PREFIX)).any(|short| short == name)
}

/// The field of an annotation, by its name without the prefix.
pub(super) fn annotation_field(name: &str) -> String {
    format!("metadata.annotations[\"{PREFIX}{name}\"]")
}

impl IngressOptions {
    /// Reads the annotations; what cannot be read is reported and has its default.
    pub(crate) fn read(ingress: &Ingress, report: &mut Report<'_>) -> Self {
        let mut options = Self::default();
        let empty = BTreeMap::new();
        let annotations = ingress.metadata.annotations.as_ref().unwrap_or(&empty);
        for (name, value) in annotations {
            let Some(short) = name.strip_prefix(PREFIX) else { continue };
            let field = format!("metadata.annotations[{name:?}]");
            let value = value.trim();
            if value.is_empty() {
                continue;
            }
            match ROWS.iter().chain(annotations_tls::ROWS).find(|row| row.name == short).map(|row| &row.support) {
                Some(Support::Yes(apply)) => {
                    if let Err(expected) = apply(&mut options, value) {
                        let message = format!("{value:?} is not a value of {short}; the default is used.");
                        report.error("InvalidAnnotation", &field, message, format!("Write {expected}."));
                    }
                }
                Some(Support::Guard) => {
                    options.closed = Some(format!("{short} is not supported yet"));
                    let message = format!(
                        "{short} guards this Ingress and is not supported yet, so every request is answered 503."
                    );
                    report.error(
                        "UnsupportedGuard",
                        &field,
                        message,
                        "Remove the annotation if the Ingress may be open, or leave it to its old controller.",
                    );
                }
                Some(Support::Refused) => {
                    options.closed = Some(format!("{short} is refused"));
                    let message = format!(
                        "{short} runs text as configuration, which is refused by design; every request is answered 503."
                    );
                    report.error(
                        "RefusedAnnotation",
                        &field,
                        message,
                        "Say the same with typed annotations and remove the snippet.",
                    );
                }
                None => {
                    let message = format!("{short} is not supported and has no effect.");
                    report.warning(
                        "UnsupportedAnnotation",
                        &field,
                        message,
                        "Remove it if you can do without; see README for what is supported.",
                    );
                }
            }
        }
        if !options.affinity && annotations.keys().any(|name| name.starts_with(&format!("{PREFIX}session-cookie-"))) {
            let fix = format!("Add {PREFIX}affinity: cookie.");
            report.warning(
                "UnusedAnnotation",
                "metadata.annotations",
                "session-cookie-* has no effect without affinity.",
                fix,
            );
        }
        options
    }
}

/// Rows in alphabetical order.
const ROWS: &[Row] = &[
    Row {
        name: "affinity",
        support: Support::Yes(|options, value| {
            options.affinity = value == "cookie";
            if options.affinity { Ok(()) } else { Err("cookie, the only affinity there is") }
        }),
    },
    Row {
        name: "affinity-mode",
        support: Support::Yes(|options, value| {
            options.cookie.mode = match value {
                "balanced" => AffinityMode::Balanced,
                "persistent" => AffinityMode::Persistent,
                _ => return Err("balanced or persistent"),
            };
            Ok(())
        }),
    },
    Row { name: "allowlist-source-range", support: Support::Guard },
    Row { name: "auth-secret", support: Support::Guard },
    Row { name: "auth-snippet", support: Support::Refused },
    Row { name: "auth-type", support: Support::Guard },
    Row { name: "auth-url", support: Support::Guard },
    Row {
        name: "canary",
        support: Support::Yes(|options, value| {
            options.canary = boolean(value)?;
            Ok(())
        }),
    },
    Row { name: "configuration-snippet", support: Support::Refused },
    Row { name: "denylist-source-range", support: Support::Guard },
    Row { name: "enable-global-auth", support: Support::Guard },
    Row { name: "enable-modsecurity", support: Support::Guard },
    Row { name: "enable-owasp-core-rules", support: Support::Guard },
    Row { name: "modsecurity-snippet", support: Support::Refused },
    Row { name: "server-snippet", support: Support::Refused },
    Row {
        name: "session-cookie-change-on-failure",
        support: Support::Yes(|options, value| {
            options.cookie.change_on_failure = boolean(value)?;
            Ok(())
        }),
    },
    Row {
        name: "session-cookie-conditional-samesite-none",
        support: Support::Yes(|options, value| {
            options.cookie.conditional_samesite_none = boolean(value)?;
            Ok(())
        }),
    },
    Row {
        name: "session-cookie-domain",
        support: Support::Yes(|options, value| {
            options.cookie.domain = Some(value.into());
            Ok(())
        }),
    },
    Row {
        name: "session-cookie-expires",
        support: Support::Yes(|options, value| {
            options.cookie.expires = Some(seconds(value)?);
            Ok(())
        }),
    },
    Row {
        name: "session-cookie-max-age",
        support: Support::Yes(|options, value| {
            options.cookie.max_age = Some(seconds(value)?);
            Ok(())
        }),
    },
    Row {
        name: "session-cookie-name",
        support: Support::Yes(|options, value| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
            if !value.chars().all(allowed) {
                return Err("a cookie's name: letters, digits and -._~");
            }
            options.cookie.name = value.into();
            Ok(())
        }),
    },
    Row {
        name: "session-cookie-path",
        support: Support::Yes(|options, value| {
            if !value.starts_with('/') || value.contains(';') || value.chars().any(|c| c.is_ascii_control()) {
                return Err("a path that begins with /");
            }
            options.cookie.path = Some(value.into());
            Ok(())
        }),
    },
    Row {
        name: "session-cookie-samesite",
        support: Support::Yes(|options, value| {
            options.cookie.samesite = SameSite::from_exact(value);
            if options.cookie.samesite.is_some() { Ok(()) } else { Err("None, Lax or Strict, spelled just so") }
        }),
    },
    Row {
        name: "session-cookie-secure",
        support: Support::Yes(|options, value| {
            options.cookie.secure = boolean(value)?;
            Ok(())
        }),
    },
    Row { name: "stream-snippet", support: Support::Refused },
    Row { name: "whitelist-source-range", support: Support::Guard },
];

/// The spellings of Go's `strconv.ParseBool`, which ingress-nginx uses.
pub(super) fn boolean(value: &str) -> Result<bool, &'static str> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("true or false"),
    }
}

fn seconds(value: &str) -> Result<i64, &'static str> {
    value.parse().map_err(|_| "a whole number of seconds")
}

#[cfg(test)]
mod tests {
    use tidegate_crd::{Kind, Origin};

    use super::*;

    fn read(annotations: &[(&str, &str)]) -> (IngressOptions, Vec<&'static str>) {
        let mut ingress = Ingress::default();
        let pairs = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        ingress.metadata.annotations = Some(pairs.collect());
        let origin = Origin::synthetic("test");
        let mut report = Report::on(Kind::Ingress, "default", "test", &origin);
        let options = IngressOptions::read(&ingress, &mut report);
        (options, report.into_findings().into_iter().map(|finding| finding.reason).collect())
    }

    #[test]
    fn the_rows_are_sorted_and_each_name_stands_once() {
        assert!(ROWS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn the_cookie_family() {
        let (options, findings) = read(&[
            ("affinity", "cookie"),
            ("affinity-mode", "persistent"),
            ("session-cookie-name", "route"),
            ("session-cookie-max-age", "60"),
            ("session-cookie-expires", "70"),
            ("session-cookie-path", "/x"),
            ("session-cookie-domain", "a.b"),
            ("session-cookie-samesite", "Lax"),
            ("session-cookie-secure", "true"),
            ("session-cookie-change-on-failure", "1"),
            ("session-cookie-conditional-samesite-none", "True"),
        ]);
        assert_eq!(findings, [""; 0]);
        let expected = CookieAffinity {
            name: "route".into(),
            mode: AffinityMode::Persistent,
            expires: Some(70),
            max_age: Some(60),
            path: Some("/x".into()),
            domain: Some("a.b".into()),
            samesite: Some(SameSite::Lax),
            conditional_samesite_none: true,
            secure: true,
            change_on_failure: true,
        };
        assert!(options.affinity);
        assert_eq!(options.cookie, expected);
    }

    #[test]
    fn a_bad_value_is_reported_and_has_its_default() {
        for (name, value) in [
            ("affinity", "ip"),
            ("affinity-mode", "sticky"),
            ("canary", "yes"),
            ("session-cookie-max-age", "60s"),
            ("session-cookie-name", "a;b"),
            ("session-cookie-path", "x"),
            ("session-cookie-samesite", "lax"),
            ("session-cookie-secure", "on"),
        ] {
            let (options, findings) = read(&[("affinity", "cookie"), (name, value)]);
            assert_eq!(findings, ["InvalidAnnotation"], "{name}: {value}");
            assert_eq!(options.cookie, CookieAffinity::default(), "{name}: {value}");
        }
    }

    #[test]
    fn a_guard_closes_and_the_unknown_is_reported() {
        assert!(read(&[("auth-url", "http://x")]).0.closed.is_some());
        assert!(read(&[("configuration-snippet", "x")]).0.closed.is_some());
        assert_eq!(read(&[("proxy-body-sise", "8m")]), (IngressOptions::default(), vec!["UnsupportedAnnotation"]));
        assert_eq!(read(&[("session-cookie-name", "x")]).1, ["UnusedAnnotation"]);
    }
}
