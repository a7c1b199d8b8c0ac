//! The names a certificate is for.

use std::net::IpAddr;

use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

/// Names of a certificate: of its subject alternative names those for hosts, or its common name if it has none (long deprecated,
/// RFC 9110 4.3.4, but what ingress-nginx accepts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// In lower case, without a final dot.
    exact: Vec<Box<str>>,
    /// `foo.com` for `*.foo.com`.
    wildcard: Vec<Box<str>>,
    addresses: Vec<IpAddr>,
}

impl Names {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let mut names = Self::default();
        if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.add(name),
                    GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        if names.is_empty() {
            let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            common.for_each(|name| names.add(name));
        }
        names
    }

    /// Whether it is for nothing that has a name.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.addresses.is_empty()
    }

    /// Whether it is for `host`, which is in lower case and without a final dot. A wildcard is for one label (RFC 9525 6.3);
    /// `host` may be one itself, as in an Ingress.
    pub fn cover(&self, host: &str) -> bool {
        if let Some(suffix) = host.strip_prefix("*.") {
            return self.wildcard.iter().any(|wildcard| **wildcard == *suffix);
        }
        let by_wildcard = || {
            let (label, suffix) = host.split_once('.')?;
            Some(!label.is_empty() && self.wildcard.iter().any(|wildcard| **wildcard == *suffix))
        };
        let by_address = || Some(self.addresses.contains(&host.parse().ok()?));
        self.exact.iter().any(|name| **name == *host)
            || by_wildcard().unwrap_or(false)
            || (!self.addresses.is_empty() && by_address().unwrap_or(false))
    }

    /// All, as people write them.
    pub fn iter(&self) -> impl Iterator<Item = String> {
        let exact = self.exact.iter().map(ToString::to_string);
        let wildcard = self.wildcard.iter().map(|suffix| format!("*.{suffix}"));
        exact.chain(wildcard).chain(self.addresses.iter().map(ToString::to_string))
    }

    fn add(&mut self, name: &str) {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(suffix) => self.wildcard.push(suffix.into()),
            None => self.exact.push(name.into()),
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_is_for() {
        let mut names = Names { addresses: vec!["10.0.0.1".parse().unwrap()], ..Names::default() };
        ["A.com.", "*.Foo.com"].iter().for_each(|name| names.add(name));
        for host in ["a.com", "x.foo.com", "*.foo.com", "10.0.0.1"] {
            assert!(names.cover(host), "{host}");
        }
        for host in ["", "foo.com", "x.y.foo.com", ".foo.com", "*.com", "*.a.com", "b.com", "10.0.0.2", "*"] {
            assert!(!names.cover(host), "{host}");
        }
        assert_eq!(names.iter().collect::<Vec<_>>(), ["a.com", "*.foo.com", "10.0.0.1"]);
    }
}
