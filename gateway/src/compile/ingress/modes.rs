//! What concerns a whole host, and so the paths of all its Ingresses: found out before any path is compiled.

use std::sync::Arc;

use ahash::AHashMap;
use tidegate_crd::ingress::{Ingress, IngressTLS};

use super::{Ours, host};
use crate::route::{HostName, Owner};

/// What the Ingresses of one host make of it together.
#[derive(Debug, Default)]
pub(super) struct Mode {
    /// The Ingress that makes every path a pattern: the first with `use-regex` or a rewrite.
    pub(super) regex: Option<Owner>,
    /// Whether an Ingress gives it a TLS section.
    pub(super) tls: bool,
    /// `app-root`.
    pub(super) app_root: Option<Arc<str>>,
    /// `from-to-www-redirect`.
    pub(super) www: bool,
    /// Whether a rule names `/`. If none does, the oldest Ingress speaks for the paths that no rule takes.
    pub(super) has_root: bool,
    /// The oldest Ingress of the host, by its place in the list.
    pub(super) oldest: usize,
}

/// The modes of all hosts.
#[derive(Debug, Default)]
pub(super) struct Modes(AHashMap<HostName, Mode>);

impl Modes {
    /// Reads the main Ingresses, the oldest first.
    pub(super) fn read<'a>(ingresses: impl Iterator<Item = &'a Ours<'a>> + Clone) -> Self {
        let mut modes = Self::default();
        for (at, one) in ingresses.clone().enumerate() {
            for rule in one.stored.object.spec.iter().flat_map(|spec| spec.rules.iter().flatten()) {
                let Ok(name) = host::parse(rule.host.as_deref().unwrap_or_default()) else { continue };
                let tls = has_tls(&one.stored.object, rule.host.as_deref().unwrap_or_default());
                let mode = modes.0.entry(name).or_insert_with(|| Mode { oldest: at, ..Mode::default() });
                mode.tls |= tls;
                mode.www |= one.options.redirect.www;
                if mode.app_root.is_none() {
                    mode.app_root = one.options.redirect.app_root.as_deref().map(Arc::from);
                }
                let paths = rule.http.iter().flat_map(|http| &http.paths);
                let mut written = paths.map(|path| path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/"));
                let target = one.options.rewrite.target.as_deref();
                let is_pattern = one.options.rewrite.use_regex || written.clone().any(|path| rewrites(target, path));
                if mode.regex.is_none() && is_pattern {
                    mode.regex = Some(one.owner());
                }
                mode.has_root |= written.any(|path| path == "/");
            }
        }
        // Where no rule names `/`, there is one all the same, and it has the annotations of the oldest Ingress.
        let all: Vec<&Ours<'_>> = ingresses.collect();
        for mode in modes.0.values_mut().filter(|mode| mode.regex.is_none() && !mode.has_root) {
            let oldest = all[mode.oldest];
            if rewrites(oldest.options.rewrite.target.as_deref(), "/") {
                mode.regex = Some(oldest.owner());
            }
        }
        modes
    }

    pub(super) fn get(&self, host: &HostName) -> Option<&Mode> {
        self.0.get(host)
    }

    /// All hosts, by name.
    pub(super) fn sorted(&self) -> Vec<(&HostName, &Mode)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_unstable_by_key(|(host, _)| *host);
        all
    }
}

/// Whether `rewrite-target` has an effect on a path: one that is the path itself has none.
pub(super) fn rewrites(target: Option<&str>, path: &str) -> bool {
    target.is_some_and(|target| target != path)
}

/// Whether an Ingress gives a host of its rules a TLS section, be its Secret good or not.
fn has_tls(ingress: &Ingress, host: &str) -> bool {
    let sections = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    let names = |section: &IngressTLS| match section.hosts.as_deref() {
        None | Some([]) => true,
        Some(hosts) => hosts.iter().any(|named| covers(named, host)),
    };
    sections.into_iter().any(names)
}

/// Whether a host of a TLS section, perhaps a wildcard, covers a host of a rule.
fn covers(named: &str, host: &str) -> bool {
    named.eq_ignore_ascii_case(host)
        || named.strip_prefix("*.").is_some_and(|suffix| {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
        })
}
