//! The annotations of an Ingress that concern TLS: rows as in `annotations`, and what they say.

use http::HeaderValue;

use super::{
    Row, Scope,
    values::{Expected, boolean, on_off},
    yes,
};
use crate::tls::{Demand, SubjectPattern, limits::MAX_VERIFY_DEPTH};

/// What the annotations of one Ingress say about TLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TlsOptions {
    /// `auth-tls-*`.
    pub(crate) auth: AuthTlsOptions,
    /// `ssl-passthrough`.
    pub(crate) passthrough: bool,
    /// `ssl-ciphers`, as written.
    pub(crate) ciphers: Option<Box<str>>,
    /// `ssl-prefer-server-ciphers`.
    pub(crate) prefer_server_ciphers: Option<bool>,
    /// `proxy-ssl-*`.
    pub(crate) proxy: ProxySslOptions,
}

/// What is asked of clients.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AuthTlsOptions {
    /// `NAMESPACE/NAME` or `NAME`, as written.
    pub(crate) secret: Option<Box<str>>,
    /// `None` for `off`.
    pub(crate) demand: Option<Demand>,
    pub(crate) depth: u8,
    pub(crate) pass_certificate: bool,
    /// As written; what is no pattern closes the Ingress, as it should have kept somebody out.
    pub(crate) match_cn: Option<Box<str>>,
    pub(crate) error_page: Option<HeaderValue>,
}

impl Default for AuthTlsOptions {
    fn default() -> Self {
        let demand = Some(Demand::Required);
        Self { secret: None, demand, depth: 1, pass_certificate: false, match_cn: None, error_page: None }
    }
}

/// How pods are spoken to with TLS. Without a Secret nothing of it has any effect (ingress-nginx).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProxySslOptions {
    /// `NAMESPACE/NAME` or `NAME`, as written.
    pub(crate) secret: Option<Box<str>>,
    /// Whether the pod's certificate is verified.
    pub(crate) verify: bool,
    pub(crate) depth: u8,
    /// The name it must be for, a DNS name or an address.
    pub(crate) name: Option<Box<str>>,
    /// Whether the name is sent as SNI.
    pub(crate) send_name: bool,
    /// TLS 1.2, TLS 1.3.
    pub(crate) versions: (bool, bool),
    /// As written.
    pub(crate) ciphers: Option<Box<str>>,
}

impl Default for ProxySslOptions {
    /// ingress-nginx's defaults, and TLS 1.3 besides 1.2.
    fn default() -> Self {
        Self {
            secret: None,
            verify: false,
            depth: 1,
            name: None,
            send_name: false,
            versions: (true, true),
            ciphers: None,
        }
    }
}

/// Rows in alphabetical order.
pub(super) const ROWS: &[Row] = &[
    yes(
        "auth-tls-error-page",
        "Where a client without a good certificate is sent (302) instead of being answered 400.",
        Scope::Host,
        |options, value| {
            let is_url = ["http://", "https://", "/"].iter().any(|begin| value.starts_with(begin));
            let page =
                HeaderValue::from_str(value).ok().filter(|_| is_url && value.bytes().all(|b| b.is_ascii_graphic()));
            options.tls.auth.error_page = page;
            if options.tls.auth.error_page.is_some() {
                Ok(())
            } else {
                Err("a URL such as https://example.com/certificate".into())
            }
        },
    ),
    yes(
        "auth-tls-match-cn",
        "Regular expression, beginning with CN=, for the subject of a client's certificate; else 403.",
        Scope::Host,
        |options, value| {
            options.tls.auth.match_cn = Some(value.into());
            Ok(())
        },
    ),
    yes(
        "auth-tls-pass-certificate-to-upstream",
        "Whether pods get the client's certificate, percent-encoded, in ssl-client-cert.",
        Scope::Host,
        |options, value| {
            options.tls.auth.pass_certificate = boolean(value)?;
            Ok(())
        },
    ),
    yes(
        "auth-tls-secret",
        "The Secret with the CAs of clients (ca.crt, ca.crl): the hosts of the Ingress demand a certificate.",
        Scope::Host,
        |options, value| {
            options.tls.auth.secret = Some(value.into());
            Ok(())
        },
    ),
    yes("auth-tls-verify-client", "Whether a certificate must be shown.", Scope::Host, |options, value| {
        options.tls.auth.demand = match value {
            "on" => Some(Demand::Required),
            "off" => None,
            "optional" => Some(Demand::Optional),
            "optional_no_ca" => Some(Demand::OptionalNoCa),
            _ => return Err("on, off, optional or optional_no_ca".into()),
        };
        Ok(())
    }),
    yes(
        "auth-tls-verify-depth",
        "Certificates allowed between a client's and a CA's.",
        Scope::Host,
        |options, value| {
            options.tls.auth.depth = depth(value)?;
            Ok(())
        },
    ),
    yes("proxy-ssl-ciphers", "Suites of TLS 1.2 to pods, in OpenSSL's words.", Scope::Location, |options, value| {
        options.tls.proxy.ciphers = Some(value.into());
        Ok(())
    }),
    yes("proxy-ssl-name", "The name that a pod's certificate must be for.", Scope::Location, |options, value| {
        rustls::pki_types::ServerName::try_from(value).map_err(|_| "a DNS name or an IP address")?;
        options.tls.proxy.name = Some(value.into());
        Ok(())
    }),
    yes("proxy-ssl-protocols", "Versions of TLS spoken to pods.", Scope::Location, |options, value| {
        let is_named = |name| value.split([' ', ',']).any(|word| word == name);
        let versions = (is_named("TLSv1.2"), is_named("TLSv1.3"));
        if versions == (false, false) {
            return Err("TLSv1.2, TLSv1.3 or both: older versions are broken".into());
        }
        options.tls.proxy.versions = versions;
        Ok(())
    }),
    yes(
        "proxy-ssl-secret",
        "The Secret with the CAs of pods (ca.crt), and the certificate to show them (tls.crt, tls.key).",
        Scope::Location,
        |options, value| {
            options.tls.proxy.secret = Some(value.into());
            Ok(())
        },
    ),
    yes("proxy-ssl-server-name", "Whether proxy-ssl-name is sent as SNI.", Scope::Location, |options, value| {
        options.tls.proxy.send_name = on_off(value)?;
        Ok(())
    }),
    yes("proxy-ssl-verify", "Whether pods' certificates are verified.", Scope::Location, |options, value| {
        options.tls.proxy.verify = on_off(value)?;
        Ok(())
    }),
    yes(
        "proxy-ssl-verify-depth",
        "Certificates allowed between a pod's and a CA's.",
        Scope::Location,
        |options, value| {
            options.tls.proxy.depth = depth(value)?;
            Ok(())
        },
    ),
    yes(
        "ssl-ciphers",
        "Suites of TLS 1.2 to clients, in OpenSSL's words. TLS 1.3 has good ones only.",
        Scope::Host,
        |options, value| {
            options.tls.ciphers = Some(value.into());
            Ok(())
        },
    ),
    yes(
        "ssl-passthrough",
        "The whole host goes to the Service of its path / as it comes, TLS and all.",
        Scope::Host,
        |options, value| {
            options.tls.passthrough = boolean(value)?;
            Ok(())
        },
    ),
    yes(
        "ssl-prefer-server-ciphers",
        "Whether our order of suites goes before the client's.",
        Scope::Host,
        |options, value| {
            options.tls.prefer_server_ciphers = Some(boolean(value)?);
            Ok(())
        },
    ),
];

/// All of them hold for a whole host. The line of doc says what a row means.
impl AuthTlsOptions {
    /// The pattern for the subject, if any.
    pub(crate) fn pattern(&self) -> Result<Option<SubjectPattern>, &'static str> {
        self.match_cn.as_deref().map(SubjectPattern::parse).transpose()
    }
}

fn depth(value: &str) -> Result<u8, Expected> {
    value.parse().ok().filter(|depth| *depth <= MAX_VERIFY_DEPTH).ok_or_else(|| "a whole number from 0 to 6".into())
}

#[cfg(test)]
mod tests {
    use tidegate_crd::{Kind, Origin, ingress::Ingress};

    use super::*;
    use crate::compile::{annotations::IngressOptions, finding::Report};

    fn read(annotations: &[(&str, &str)]) -> (TlsOptions, Vec<&'static str>) {
        let mut ingress = Ingress::default();
        let name = |name: &str| format!("nginx.ingress.kubernetes.io/{name}");
        let pairs = annotations.iter().map(|(short, value)| (name(short), (*value).to_owned()));
        ingress.metadata.annotations = Some(pairs.collect());
        let origin = Origin::synthetic("test");
        let mut report = Report::on(Kind::Ingress, "default", "test", &origin);
        let options = IngressOptions::read(&ingress, std::iter::empty(), &mut report);
        (options.tls, report.into_findings().into_iter().map(|finding| finding.reason).collect())
    }

    #[test]
    fn the_rows_are_sorted() {
        assert!(ROWS.windows(2).all(|pair| pair[0].name < pair[1].name));
    }

    #[test]
    fn all_of_them() {
        let (options, findings) = read(&[
            ("auth-tls-secret", "default/ca"),
            ("auth-tls-verify-client", "optional_no_ca"),
            ("auth-tls-verify-depth", "2"),
            ("auth-tls-pass-certificate-to-upstream", "true"),
            ("auth-tls-match-cn", "CN=alice"),
            ("auth-tls-error-page", "https://a.b/c"),
            ("proxy-ssl-secret", "default/pods"),
            ("proxy-ssl-verify", "on"),
            ("proxy-ssl-verify-depth", "0"),
            ("proxy-ssl-name", "web.internal"),
            ("proxy-ssl-server-name", "on"),
            ("proxy-ssl-protocols", "TLSv1.1 TLSv1.3"),
            ("proxy-ssl-ciphers", "DEFAULT"),
            ("ssl-ciphers", "HIGH"),
            ("ssl-passthrough", "true"),
            ("ssl-prefer-server-ciphers", "true"),
        ]);
        assert_eq!(findings, [""; 0]);
        let expected = TlsOptions {
            auth: AuthTlsOptions {
                secret: Some("default/ca".into()),
                demand: Some(Demand::OptionalNoCa),
                depth: 2,
                pass_certificate: true,
                match_cn: Some("CN=alice".into()),
                error_page: Some(HeaderValue::from_static("https://a.b/c")),
            },
            passthrough: true,
            ciphers: Some("HIGH".into()),
            prefer_server_ciphers: Some(true),
            proxy: ProxySslOptions {
                secret: Some("default/pods".into()),
                verify: true,
                depth: 0,
                name: Some("web.internal".into()),
                send_name: true,
                versions: (false, true),
                ciphers: Some("DEFAULT".into()),
            },
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn a_bad_value_is_reported_and_demands_no_less() {
        for (name, value) in [
            ("auth-tls-verify-client", "maybe"),
            ("auth-tls-verify-depth", "7"),
            ("auth-tls-pass-certificate-to-upstream", "on"),
            ("auth-tls-error-page", "javascript:x"),
            ("auth-tls-error-page", "https://a.b/c d"),
            ("proxy-ssl-name", "a b"),
            ("proxy-ssl-protocols", "SSLv3"),
            ("proxy-ssl-verify", "true"),
            ("proxy-ssl-server-name", "1"),
            ("proxy-ssl-verify-depth", "-1"),
            ("ssl-passthrough", "on"),
            ("ssl-prefer-server-ciphers", "yes"),
        ] {
            assert_eq!(read(&[(name, value)]), (TlsOptions::default(), vec!["InvalidAnnotation"]), "{name}: {value}");
        }
    }
}
