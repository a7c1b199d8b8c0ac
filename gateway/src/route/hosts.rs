//! Hosts: exact, then a wildcard of one label, then any (Ingress v1).

use std::{fmt, sync::Arc};

use ahash::AHashMap;

use super::{Paths, Rule};

/// Longest name DNS allows (RFC 1035 2.3.4); a longer `Host` matches no rule.
pub(crate) const MAX_HOST_BYTES: usize = 253;

/// Which hosts a set of rules is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostName {
    /// Any host that nothing else names.
    Any,
    /// This name, in lower case.
    Exact(Arc<str>),
    /// One label and this suffix: `foo.com` for `*.foo.com`.
    Wildcard(Arc<str>),
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The rules of one host.
#[derive(Debug, Default)]
pub struct Host {
    /// By path.
    pub paths: Paths<Arc<Rule>>,
    /// For paths that no rule takes.
    pub default: Option<Arc<Rule>>,
    /// Whether an Ingress gives it a TLS section, be its certificate good or not: then plain requests are sent to `https`.
    pub tls: bool,
}

/// All hosts. Immutable once built.
#[derive(Debug, Default)]
pub struct RouteTable {
    any: Option<Host>,
    exact: AHashMap<Arc<str>, Host>,
    wildcard: AHashMap<Arc<str>, Host>,
    /// Other names of hosts (`server-alias`), by the name or by the suffix of a wildcard.
    aliases: AHashMap<Arc<str>, HostName>,
    wildcard_aliases: AHashMap<Arc<str>, HostName>,
    /// For what no host's own default takes: the global default backend.
    default: Option<Arc<Rule>>,
}

/// What was found for a request, step by step; `explain` tells it, the data plane only takes the rule.
#[derive(Debug)]
pub struct Found<'a> {
    /// How the host was found.
    pub host: Option<&'a Host>,
    /// The rule that won.
    pub rule: Option<&'a Arc<Rule>>,
}

impl RouteTable {
    /// The host entry for `name`, made if it is not there yet.
    pub fn host_mut(&mut self, name: &HostName) -> &mut Host {
        match name {
            HostName::Any => self.any.get_or_insert_default(),
            HostName::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostName::Wildcard(suffix) => self.wildcard.entry(suffix.clone()).or_default(),
        }
    }

    /// The host entry of this very name, if there is one.
    pub fn host(&self, name: &HostName) -> Option<&Host> {
        match name {
            HostName::Any => self.any.as_ref(),
            HostName::Exact(name) => self.exact.get(name),
            HostName::Wildcard(suffix) => self.wildcard.get(suffix),
        }
    }

    /// Gives `host` another name. If the name is taken, by a host or as an alias, gives back whose it is and changes nothing.
    pub fn add_alias(&mut self, alias: &HostName, host: &HostName) -> Result<(), HostName> {
        if self.host(alias).is_some() {
            return Err(alias.clone());
        }
        let (aliases, name) = match alias {
            HostName::Any => return Err(HostName::Any),
            HostName::Exact(name) => (&mut self.aliases, name),
            HostName::Wildcard(suffix) => (&mut self.wildcard_aliases, suffix),
        };
        match aliases.get(name) {
            Some(holder) if holder != host => Err(holder.clone()),
            Some(_) => Ok(()),
            None => {
                aliases.insert(name.clone(), host.clone());
                Ok(())
            }
        }
    }

    /// Sets the global default backend.
    pub fn set_default(&mut self, rule: Arc<Rule>) {
        self.default = Some(rule);
    }

    /// The rule for a request to `host` (as in the `Host` field: any case, perhaps with a port or a final dot) and
    /// `path`. A host that is known does not fall through to others when none of its paths match.
    pub fn find(&self, host: &str, path: &str) -> Found<'_> {
        let host = self.find_host(host);
        let rule = host.and_then(|host| host.paths.find(path).or(host.default.as_ref())).or(self.default.as_ref());
        Found { host, rule }
    }

    /// Whether what was found for a request is of any host: no rule names its own.
    pub fn is_of_any_host(&self, found: &Found<'_>) -> bool {
        found.host.is_none_or(|host| self.any.as_ref().is_some_and(|any| std::ptr::eq(any, host)))
    }

    /// Every rule, in no order.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        let hosts = self.exact.values().chain(self.wildcard.values()).chain(&self.any);
        hosts.flat_map(|host| host.paths.iter().chain(&host.default)).chain(&self.default)
    }

    fn find_host(&self, host: &str) -> Option<&Host> {
        let mut buffer = [0u8; MAX_HOST_BYTES];
        let name = normalise(host, &mut buffer);
        if let Some(name) = name {
            if let Some(host) = self.exact.get(name).or_else(|| self.host(self.aliases.get(name)?)) {
                return Some(host);
            }
            if let Some((label, suffix)) = name.split_once('.')
                && !label.is_empty()
                && let Some(host) = self.wildcard.get(suffix).or_else(|| self.host(self.wildcard_aliases.get(suffix)?))
            {
                return Some(host);
            }
        }
        self.any.as_ref()
    }
}

/// The host name alone, in lower case, without port and final dot. `buffer` is for a name that has to be changed.
pub(crate) fn normalise<'a>(host: &'a str, buffer: &'a mut [u8; MAX_HOST_BYTES]) -> Option<&'a str> {
    let name = match memchr::memrchr(b':', host.as_bytes()) {
        // An IPv6 literal has colons inside its brackets.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let buffer = buffer.get_mut(..name.len())?;
    if !name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(name);
    }
    buffer.copy_from_slice(name.as_bytes());
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Backend, Owner, PathMatch};

    fn table(hosts: &[HostName]) -> RouteTable {
        let mut table = RouteTable::default();
        for name in hosts {
            let path = PathMatch::Prefix("/".into());
            let rule = Arc::new(Rule {
                owner: Owner { namespace: "default".into(), name: "test".into() },
                host: name.to_string().into(),
                path: Some(path.clone()),
                backend: Backend::Missing { service: "default/x:80".into(), reason: "a test".into() },
                split: None,
                policy: Arc::default(),
                issues_cookie: false,
                stats: Arc::default(),
            });
            table.host_mut(name).paths.insert(&path, rule).unwrap();
        }
        table
    }

    fn found(table: &RouteTable, host: &str) -> Option<String> {
        table.find(host, "/").rule.map(|rule| rule.host.to_string())
    }

    #[test]
    fn exact_beats_wildcard_beats_any() {
        let (exact, wildcard) = (HostName::Exact("a.foo.com".into()), HostName::Wildcard("foo.com".into()));
        let hosts = table(&[exact, wildcard, HostName::Any]);
        for (asked, expected) in [
            ("a.foo.com", "a.foo.com"),
            ("A.Foo.COM:8080", "a.foo.com"),
            ("a.foo.com.", "a.foo.com"),
            ("b.foo.com", "*.foo.com"),
            ("b.foo.com.:80", "*.foo.com"),
            ("x_y.foo.com", "*.foo.com"),
            ("foo.com", "*"),
            ("c.b.foo.com", "*"),
            (".foo.com", "*"),
            ("", "*"),
            ("[::1]:8080", "*"),
            ("[::1]", "*"),
        ] {
            assert_eq!(found(&hosts, asked).as_deref(), Some(expected), "{asked}");
        }
        assert_eq!(found(&hosts, &"x".repeat(10_000)).as_deref(), Some("*"));
        assert_eq!(found(&table(&[HostName::Exact("a.b".into())]), "c.b"), None);
    }

    /// Ingress v1 read naively: the exact name, else a wildcard with one label in its place, else any.
    fn naive(hosts: &[HostName], asked: &str) -> Option<String> {
        let asked = asked.to_lowercase();
        let labels: Vec<&str> = asked.split('.').collect();
        let is_wildcard =
            |h: &&HostName| matches!(h, HostName::Wildcard(s) if !labels[0].is_empty() && labels[1..].join(".") == **s);
        let exact = hosts.iter().find(|h| matches!(h, HostName::Exact(name) if **name == *asked));
        let wildcard = hosts.iter().filter(|_| labels.len() > 1).find(is_wildcard);
        let any = hosts.iter().find(|h| **h == HostName::Any);
        exact.or(wildcard).or(any).map(ToString::to_string)
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_specification_read_naively(
            written in proptest::collection::btree_set((0..3u8, "[ab](\\.[ab]){0,2}"), 0..6),
            asked in proptest::collection::vec("[abAB]{0,1}(\\.[abB]){0,3}", 10),
        ) {
            let hosts: Vec<HostName> = written.into_iter().map(|(kind, name)| match kind {
                0 => HostName::Exact(name.into()),
                1 => HostName::Wildcard(name.into()),
                _ => HostName::Any,
            }).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            let table = table(&hosts);
            for asked in asked {
                proptest::prop_assert_eq!(found(&table, &asked), naive(&hosts, &asked), "{} in {:?}", asked, hosts);
            }
        }
    }

    #[test]
    fn an_alias_is_another_name_and_takes_nobodys() {
        let main = HostName::Exact("a.b".into());
        let mut hosts = table(&[main.clone(), HostName::Exact("taken.b".into()), HostName::Any]);
        assert_eq!(hosts.add_alias(&HostName::Exact("c.d".into()), &main), Ok(()));
        assert_eq!(hosts.add_alias(&HostName::Wildcard("e.f".into()), &main), Ok(()));
        for asked in ["c.d", "C.D:80", "x.e.f"] {
            assert_eq!(found(&hosts, asked).as_deref(), Some("a.b"), "{asked}");
        }
        assert_eq!(found(&hosts, "e.f").as_deref(), Some("*"));
        let taken = HostName::Exact("taken.b".into());
        assert_eq!(hosts.add_alias(&taken, &main), Err(taken.clone()));
        assert_eq!(hosts.add_alias(&HostName::Exact("c.d".into()), &taken), Err(main));
        assert_eq!(hosts.rules().count(), 3, "a rule is listed once, whatever its host is called");
    }

    #[test]
    fn a_known_host_does_not_fall_through() {
        let mut hosts = table(&[HostName::Any]);
        hosts.host_mut(&HostName::Exact("a.b".into()));
        assert_eq!(found(&hosts, "a.b"), None);
        assert_eq!(found(&hosts, "c.b").as_deref(), Some("*"));
    }
}
