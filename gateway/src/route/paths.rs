//! The path table of one host: Exact, then patterns, then Prefix by element, longest first (Ingress v1, ingress-nginx).
//!
//! Patterns are asked one after the other, as there is no other way. For the rest there are two hash maps, probed from the longest prefix to the shortest, instead of a radix tree: it allocates nothing, needs no
//! escaping of `{` and `}`, and hardly grows with the number of paths. `benches/benches/route.rs` measures both beside each other;
//! the figures are in `benches/RESULTS.md`.

use std::{fmt, sync::Arc};

use ahash::AHashMap;

use super::pattern::Pattern;

/// Which paths a rule takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathMatch {
    /// The very path, byte for byte.
    Exact(Arc<str>),
    /// The path and all below it, by whole elements; a trailing slash counts for nothing.
    Prefix(Arc<str>),
    /// What begins as the pattern says, in either case. On an ingress-nginx host with a pattern, every path is one.
    Regex(Pattern),
}

impl PathMatch {
    /// The path as written.
    pub fn as_str(&self) -> &Arc<str> {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path,
            Self::Regex(pattern) => pattern.as_str(),
        }
    }

    /// Its path type, as people write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exact(_) => "Exact",
            Self::Prefix(_) => "Prefix",
            Self::Regex(_) => "Regex",
        }
    }

    /// Whether it takes a path, whoever else may take it.
    pub fn takes(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(prefix) => {
                let rest = path.strip_prefix(prefix.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(pattern) => pattern.is_match(path),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.as_str())
    }
}

/// Rules by path. Immutable once built.
#[derive(Debug)]
pub struct Paths<T> {
    exact: AHashMap<Arc<str>, T>,
    /// The longest first, and of the same length the one that sorts last: ingress-nginx's order.
    patterns: Vec<(Pattern, T)>,
    /// Keys have no trailing slash; `/` is the empty key.
    prefix: AHashMap<Arc<str>, T>,
    /// Elements of the deepest prefix: deeper slashes of a request cannot matter, so they are never looked at.
    depth: usize,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { exact: AHashMap::new(), patterns: Vec::new(), prefix: AHashMap::new(), depth: 0 }
    }
}

impl<T> Paths<T> {
    /// Adds a rule; if the same paths are taken already, gives back who has them and changes nothing.
    pub fn insert(&mut self, path: &PathMatch, rule: T) -> Result<(), &T> {
        let (map, key) = match path {
            PathMatch::Exact(path) => (&mut self.exact, path.clone()),
            PathMatch::Prefix(path) => {
                let key = path.trim_end_matches('/');
                self.depth = self.depth.max(key.matches('/').count());
                (&mut self.prefix, if key.len() == path.len() { path.clone() } else { Arc::from(key) })
            }
            PathMatch::Regex(pattern) => return self.insert_pattern(pattern, rule),
        };
        match map.entry(key) {
            std::collections::hash_map::Entry::Occupied(holder) => Err(holder.into_mut()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(rule);
                Ok(())
            }
        }
    }

    fn insert_pattern(&mut self, pattern: &Pattern, rule: T) -> Result<(), &T> {
        let longest_first =
            |(held, _): &(Pattern, T)| pattern.as_str().len().cmp(&held.as_str().len()).then_with(|| pattern.cmp(held));
        match self.patterns.binary_search_by(longest_first) {
            Ok(at) => Err(&self.patterns[at].1),
            Err(at) => {
                self.patterns.insert(at, (pattern.clone(), rule));
                Ok(())
            }
        }
    }

    /// The rule that wins for a request path: Exact, else the longest pattern, else the longest Prefix.
    pub fn find(&self, path: &str) -> Option<&T> {
        if let Some(rule) = self.exact.get(path) {
            return Some(rule);
        }
        if let Some((_, rule)) = self.patterns.iter().find(|(pattern, _)| pattern.is_match(path)) {
            return Some(rule);
        }
        if self.prefix.is_empty() {
            return None;
        }
        let mut rest = self.cut(path);
        loop {
            if let Some(rule) = self.prefix.get(rest) {
                return Some(rule);
            }
            rest = &rest[..rest.rfind('/')?];
        }
    }

    /// Every rule, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.patterns.iter().map(|(_, rule)| rule)).chain(self.prefix.values())
    }

    /// The path up to the depth of the deepest prefix, without a trailing slash.
    fn cut<'a>(&self, path: &'a str) -> &'a str {
        let mut slashes = path.bytes().enumerate().filter(|(_, b)| *b == b'/').map(|(i, _)| i);
        match slashes.nth(self.depth) {
            Some(end) => &path[..end],
            None => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn elements(path: &str) -> Vec<&str> {
        path.trim_end_matches('/').split('/').skip(1).collect()
    }

    /// Ingress v1 read naively: an Exact match wins, else the Prefix with the most elements that are the request's first.
    fn naive<'a>(rules: &'a [PathMatch], path: &str) -> Option<&'a PathMatch> {
        let exact = rules.iter().find(|rule| matches!(rule, PathMatch::Exact(p) if **p == *path));
        let prefixes =
            rules.iter().filter(|r| matches!(r, PathMatch::Prefix(p) if elements(path).starts_with(&elements(p))));
        exact.or_else(|| prefixes.rev().max_by_key(|rule| elements(rule.as_str()).len()))
    }

    fn path() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]{0,2}", 0..5).prop_map(|elements| format!("/{}", elements.join("/")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn agrees_with_the_specification_read_naively(
            written in prop::collection::vec((any::<bool>(), path()), 0..12), requests in prop::collection::vec(path(), 20),
        ) {
            let mut paths = Paths::default();
            let mut rules = Vec::new();
            for (exact, path) in written {
                let rule = if exact { PathMatch::Exact(path.into()) } else { PathMatch::Prefix(path.into()) };
                if paths.insert(&rule, rule.clone()).is_ok() {
                    rules.push(rule);
                }
            }
            for request in requests {
                prop_assert_eq!(paths.find(&request), naive(&rules, &request), "{} in {:?}", request, rules);
            }
        }
    }

    fn found(rules: &[PathMatch], path: &str) -> Option<String> {
        let mut paths = Paths::default();
        rules.iter().for_each(|rule| paths.insert(rule, rule.to_string()).unwrap());
        paths.find(path).cloned()
    }

    #[test]
    fn the_examples_of_the_kubernetes_documentation() {
        let prefix = |p: &str| PathMatch::Prefix(p.into());
        let exact = |p: &str| PathMatch::Exact(p.into());
        assert!(found(&[prefix("/")], "/anything").is_some());
        assert!(found(&[exact("/foo")], "/foo").is_some());
        assert!(found(&[exact("/foo")], "/bar").is_none());
        assert!(found(&[exact("/foo")], "/foo/").is_none());
        assert!(found(&[exact("/foo/")], "/foo").is_none());
        assert!(found(&[prefix("/foo")], "/foo/").is_some());
        assert!(found(&[prefix("/foo/")], "/foo").is_some());
        assert!(found(&[prefix("/aaa/bb")], "/aaa/bbb").is_none());
        assert!(found(&[prefix("/aaa/bbb/")], "/aaa/bbb/ccc").is_some());
        assert!(found(&[prefix("/aaa")], "/aaaccc").is_none());
        assert_eq!(found(&[prefix("/"), prefix("/aaa"), prefix("/aaa/bbb")], "/aaa/bbb").unwrap(), "Prefix /aaa/bbb");
        assert_eq!(found(&[prefix("/foo"), exact("/foo")], "/foo").unwrap(), "Exact /foo");
    }

    #[test]
    fn of_patterns_the_longest_text_wins_and_none_is_there_twice() {
        let pattern = |p: &str| PathMatch::Regex(Pattern::of_path(p).unwrap());
        let rules = [pattern("/"), pattern("/foo"), pattern("/bar/[a-z]+"), pattern("/fo.*x")];
        assert_eq!(found(&rules, "/foobar").unwrap(), "Regex /foo");
        assert_eq!(found(&rules, "/FOO/x").unwrap(), "Regex /fo.*x");
        assert_eq!(found(&rules, "/bar/1").unwrap(), "Regex /");
        assert_eq!(found(&[pattern("/a"), pattern("/[ab]")], "/a").unwrap(), "Regex /[ab]");
        assert_eq!(found(&[pattern("/aa?"), pattern("/ab?")], "/a").unwrap(), "Regex /ab?", "equal length: the last");
        let mut paths = Paths::default();
        assert!(paths.insert(&rules[1], 1).is_ok());
        assert_eq!(paths.insert(&rules[1], 2), Err(&1));
        assert_eq!(paths.iter().count(), 1);
    }

    #[test]
    fn a_path_of_ten_thousand_slashes_costs_no_more_than_the_deepest_prefix() {
        let rules = [PathMatch::Prefix("/a/b".into()), PathMatch::Prefix("/".into())];
        let mut paths = Paths::default();
        rules.iter().for_each(|rule| paths.insert(rule, ()).unwrap());
        assert_eq!(paths.cut(&"/".repeat(10_000)), "//");
        assert!(paths.find(&"/".repeat(10_000)).is_some());
    }
}
