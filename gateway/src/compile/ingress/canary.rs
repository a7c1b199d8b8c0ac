//! Canary Ingresses: each is attached to the rule of another Ingress that has its host, path and path type.

use std::sync::Arc;

use ahash::AHashMap;

use super::{Ours, host::Written};
use crate::route::{
    Backend, HostName,
    split::{HeaderMatch, HeaderSplit, Split},
};

/// The canaries that wait for their main rule.
#[derive(Default)]
pub(super) struct Canaries {
    waiting: AHashMap<(HostName, Written), Waiting>,
    /// Pairs of main and canary backends that share a session cookie.
    pub(super) share_cookie: Vec<(Backend, Backend)>,
}

/// A canary path.
pub(super) struct Waiting {
    pub(super) split: Split,
    /// The place of its Ingress in the list.
    pub(super) at: usize,
    /// The field of its path, for findings.
    pub(super) field: String,
    pub(super) found: Found,
    own_affinity: bool,
}

/// What became of a canary path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No main rule, so far.
    Nothing,
    /// A main rule, which it splits.
    Main,
    /// A main rule that sends to the same Service port.
    Same,
}

impl Canaries {
    /// Adds a path; if there is one of that host, path and type already, gives back whose.
    pub(super) fn add(
        &mut self,
        host: HostName,
        written: Written,
        one: &Ours<'_>,
        at: usize,
        field: String,
        backend: Backend,
    ) -> Result<(), &Split> {
        let options = &one.options.canary;
        let value = match (&options.header_value, &options.header_pattern) {
            (Some(value), _) => HeaderMatch::Exact(value.as_str().into()),
            (None, Some(pattern)) => HeaderMatch::Pattern(pattern.clone()),
            (None, None) => HeaderMatch::AlwaysNever,
        };
        let split = Split {
            owner: one.owner(),
            backend,
            header: options.header.clone().map(|name| HeaderSplit { name, value }),
            cookie: options.cookie.as_deref().map(Arc::from),
            weight: options.weight,
            total: options.total.unwrap_or(100),
        };
        match self.waiting.entry((host, written)) {
            std::collections::hash_map::Entry::Occupied(held) => Err(&held.into_mut().split),
            std::collections::hash_map::Entry::Vacant(free) => {
                let own_affinity = options.own_affinity;
                free.insert(Waiting { split, at, field, found: Found::Nothing, own_affinity });
                Ok(())
            }
        }
    }

    /// The split of a main rule.
    pub(super) fn split(&mut self, host: &HostName, written: &Written, main: &Backend) -> Option<Box<Split>> {
        if self.waiting.is_empty() {
            return None;
        }
        let waiting = self.waiting.get_mut(&(host.clone(), written.clone()))?;
        if waiting.split.backend == *main {
            waiting.found = Found::Same;
            return None;
        }
        waiting.found = Found::Main;
        if !waiting.own_affinity {
            self.share_cookie.push((main.clone(), waiting.split.backend.clone()));
        }
        Some(Box::new(waiting.split.clone()))
    }

    /// Those that split nothing.
    pub(super) fn unused(&self) -> impl Iterator<Item = (&HostName, &Written, &Waiting)> {
        let all = self.waiting.iter().filter(|(_, waiting)| waiting.found != Found::Main);
        all.map(|((host, written), waiting)| (host, written, waiting))
    }
}
