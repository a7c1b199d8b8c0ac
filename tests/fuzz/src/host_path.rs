//! The table of rules: what it finds is what Ingress v1 says, read naively.
//!
//! The input is lines: `e HOST PATH` and `p HOST PATH` make rules (Exact, Prefix), any other line is a request's host and path.

use std::sync::Arc;

use tidegate::route::{Backend, HostName, Owner, PathMatch, RouteTable, Rule};

/// More rules show nothing that these do not.
const RULES: usize = 64;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (mut table, mut rules) = (RouteTable::default(), Vec::new());
    let mut requests = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match &words[..] {
            &[kind @ ("e" | "p"), host, path] if path.starts_with('/') && rules.len() < RULES => {
                let path = if kind == "e" { PathMatch::Exact(path.into()) } else { PathMatch::Prefix(path.into()) };
                let host = host_name(host);
                let rule = rule(&host, &path);
                if table.host_mut(&host).paths.insert(&path, rule.clone()).is_ok() {
                    rules.push((host, path, rule));
                }
            }
            // Other paths are refused before there is a table.
            &[host, path] if path.starts_with('/') => requests.push((host, path)),
            _ => {}
        }
    }
    for (host, path) in requests {
        let found = table.find(host, path).rule;
        let expected = naive(&rules, host, path);
        assert_eq!(found.map(label), expected.map(label), "{host:?} {path:?} in {rules:?}");
        assert!(found.zip(expected).is_none_or(|(a, b)| Arc::ptr_eq(a, b)), "another rule of the same name");
    }
}

fn label(rule: &Arc<Rule>) -> String {
    format!("{} {}", rule.host, rule.path.as_ref().expect("it has a path"))
}

/// A host as `compile` would read it.
fn host_name(host: &str) -> HostName {
    let host = host.to_ascii_lowercase();
    match host.strip_prefix("*.") {
        _ if host == "*" => HostName::Any,
        Some(suffix) => HostName::Wildcard(suffix.into()),
        None => HostName::Exact(host.into()),
    }
}

fn rule(host: &HostName, path: &PathMatch) -> Arc<Rule> {
    Arc::new(Rule {
        owner: Owner { namespace: "default".into(), name: "fuzz".into() },
        host: host.to_string().into(),
        path: Some(path.clone()),
        backend: Backend::Missing { service: "default/x:80".into(), reason: "a fuzz target".into() },
        split: None,
        policy: Arc::default(),
        issues_cookie: false,
        stats: Arc::default(),
    })
}

type Written = (HostName, PathMatch, Arc<Rule>);

/// The host by name, else by a wildcard for its first label, else any; then Exact, else the Prefix with the most elements.
fn naive<'a>(rules: &'a [Written], host: &str, path: &str) -> Option<&'a Arc<Rule>> {
    // A port is behind the last colon, unless that is within the brackets of an IPv6 address.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let known = |wanted: &HostName| rules.iter().any(|(host, ..)| host == wanted);
    let exact = HostName::Exact(name.as_str().into());
    let wildcard = name.split_once('.').filter(|(label, _)| !label.is_empty());
    let wildcard = wildcard.map(|(_, suffix)| HostName::Wildcard(suffix.into()));
    let is_name = name.len() <= 253;
    let host = match wildcard {
        _ if is_name && known(&exact) => exact,
        Some(wildcard) if is_name && known(&wildcard) => wildcard,
        _ => HostName::Any,
    };
    let elements = |path: &'a str| path.trim_end_matches('/').split('/').skip(1).collect::<Vec<_>>();
    let wanted: Vec<String> = path.trim_end_matches('/').split('/').skip(1).map(str::to_owned).collect();
    let of_host = || rules.iter().filter(|(of, ..)| *of == host);
    let exact = of_host().find(|(_, rule, _)| matches!(rule, PathMatch::Exact(p) if **p == *path));
    let prefixes = of_host().filter_map(|written @ (_, rule, _)| match rule {
        PathMatch::Prefix(prefix) => Some((elements(prefix), written)),
        PathMatch::Exact(_) | PathMatch::Regex(_) => None,
    });
    let matching = prefixes.filter(|(elements, _)| wanted.starts_with(&owned(elements)));
    let longest = matching.max_by_key(|(elements, _)| elements.len()).map(|(_, written)| written);
    exact.or(longest).map(|(_, _, rule)| rule)
}

fn owned(elements: &[&str]) -> Vec<String> {
    elements.iter().map(|element| (*element).to_owned()).collect()
}
