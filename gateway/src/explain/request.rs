//! Why a request goes where it goes: host, path, backend, endpoints, session cookie.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, header};
use tidegate_crd::Kind;
use tidegate_l4::{
    affinity::UnixMillis,
    endpoints::EndpointIndex,
    model::{Balance, IpFamily, TrafficPolicy},
    table::ServedPort,
};

use super::{
    Candidate, Outcome, Step, Steps,
    endpoints::{balanced, candidates, certain, equal_in_use, named, trouble, usable},
    listed, policy,
    question::Request,
};
use crate::{
    http::{
        Decision, Facts, cookie_affinity, decide,
        split::{Turn, turn},
    },
    route::{Backend, Host, Owner, PathMatch, Rule, sticky::AffinityMode},
    snapshot::{CookieUpstream, Snapshot, Upstream},
};

/// A request for a host and path.
pub(super) fn explain(
    snapshot: &Snapshot,
    request: &Request,
    from: Option<IpAddr>,
    now: UnixMillis,
) -> (Vec<Step>, Outcome) {
    let mut steps = Steps::default();
    if let Some(outcome) = super::tls::explain(snapshot, request, now, &mut steps) {
        return (steps.0, outcome);
    }
    let facts = request.facts(from);
    let found = snapshot.routes.find(facts.host, facts.path);
    steps.add("Host", host(snapshot, facts.host, found.host));
    // The last of all lots: the main backend, where it is a matter of chance.
    let decision = decide(snapshot, &facts, |total| total.saturating_sub(1));
    if let Decision::Health = decision {
        let reason =
            "no rule names this host or path: it is where load balancers ask whether Tidegate is there".to_owned();
        return (steps.0, Outcome::Status { code: 200, reason });
    }
    let Some(rule) = decision.rule() else {
        steps.add("Path", missed(found.host, facts.path));
        return (steps.0, not_found());
    };
    steps.add("Path", path(rule, facts.path, found.host));
    if let Some(inherited) = inherited(snapshot, rule) {
        steps.add("Class", inherited);
    }
    if let Some(other) = &request.other_path
        && !snapshot.routes.find(&request.host, other).rule.is_some_and(|found| Arc::ptr_eq(found, rule))
    {
        let reason = format!("some pods read the path as {other}, which comes under another rule");
        return (steps.0, Outcome::Status { code: 400, reason });
    }
    let losers = losers(snapshot, rule, facts.host, facts.path);
    if !losers.is_empty() {
        steps.add("Other rules", format!("these match too, but come later: {}.", listed(losers)));
    }
    let outcome = match policy::request(rule, &facts, &mut steps) {
        Some(answered) => answered,
        None => forward(snapshot, rule, &decision, &facts, now, &mut steps),
    };
    steps.add_findings(snapshot, Kind::Ingress, &rule.owner.namespace, &rule.owner.name);
    if let Decision::Forward { upstream, .. } = &decision
        && let Some(port) = port_of(snapshot, upstream)
    {
        steps.add_findings(snapshot, Kind::Service, &port.config.name.namespace, &port.config.name.service);
    }
    (steps.0, outcome)
}

/// What the Ingress of a rule has of its class.
fn inherited(snapshot: &Snapshot, rule: &Rule) -> Option<String> {
    let Owner { namespace, name } = &rule.owner;
    let row = snapshot.ingresses.iter().find(|row| row.namespace == *namespace && row.name == *name)?;
    let inherited = row.inherited.as_ref().filter(|inherited| !inherited.annotations.is_empty())?;
    let names = listed(inherited.annotations.iter().map(|name| name.to_string()));
    Some(format!("from IngressClassParameters {} Ingress {namespace}/{name} has {names}.", inherited.parameters))
}

fn not_found() -> Outcome {
    Outcome::Status { code: 404, reason: "no rule for this host and path".to_owned() }
}

/// On the way to a pod: backend, canary, endpoints, session.
fn forward(
    snapshot: &Snapshot,
    rule: &Rule,
    decision: &Decision<'_>,
    facts: &Facts<'_>,
    now: UnixMillis,
    steps: &mut Steps,
) -> Outcome {
    if let Backend::None { .. } = rule.backend {
        return not_found();
    }
    let service = rule.backend.service();
    steps.add("Backend", format!("the requests of this rule go to Service {service}."));
    let turn = split_off(snapshot, rule, facts);
    if let (Some(split), Some((turn, _))) = (&rule.split, turn) {
        steps.add("Canary", policy::split(split, turn));
    }
    let (backend, upstream, pinned, hash) = match decision {
        Decision::Forward { backend, upstream, pinned, hash, .. } => (*backend, Some(*upstream), *pinned, *hash),
        Decision::Health | Decision::Unavailable { .. } | Decision::NotFound { .. } => {
            (&rule.backend, upstream(snapshot, rule), None, None)
        }
    };
    if let Some(upstream) = upstream {
        endpoints(snapshot, upstream, steps);
        if let Some(trouble) = trouble(&upstream.endpoints, now) {
            steps.add("Health", trouble);
        }
    }
    let outcome = match (decision, upstream) {
        (Decision::Unavailable { reason, .. }, _) => Outcome::Status { code: 503, reason: reason.describe(service) },
        (Decision::Forward { .. }, Some(upstream)) => {
            if let Some(cookie) = &upstream.cookie {
                steps.add("Session cookie", session(rule, upstream, cookie, pinned, facts.headers));
            }
            choose(rule, upstream, pinned, hash.map(|key| (key, facts.client)), now)
        }
        (Decision::Health | Decision::NotFound { .. } | Decision::Forward { .. }, _) => not_found(),
    };
    policy::settings(&rule.policy, steps);
    match (turn, outcome) {
        (Some((Turn::ByLot { weight, total }, Some(canary))), Outcome::Endpoints { rule: how, candidates, sticky })
            if weight > 0 && *backend == rule.backend =>
        {
            by_lot(rule, canary, policy::share(weight, total), (how, candidates, sticky), now)
        }
        (_, outcome) => outcome,
    }
}

/// The candidates of main backend and canary together, where lots are drawn between the two.
fn by_lot(
    rule: &Rule,
    canary: &Upstream,
    share: f64,
    main: (String, Vec<Candidate>, bool),
    now: UnixMillis,
) -> Outcome {
    let (how, mut candidates, sticky) = main;
    for candidate in &mut candidates {
        candidate.share *= 1.0 - share;
        candidate.first = false;
    }
    if let Outcome::Endpoints { candidates: others, .. } = choose(rule, canary, None, None, now) {
        candidates.extend(others.into_iter().map(|candidate| Candidate {
            share: candidate.share * share,
            first: false,
            ..candidate
        }));
    }
    Outcome::Endpoints {
        rule: format!("lots are drawn between main backend and canary, then: {how}"),
        candidates,
        sticky,
    }
}

/// Whose turn it is, and the canary's upstream, if the rule has a canary and its own pods.
fn split_off<'a>(snapshot: &'a Snapshot, rule: &Rule, facts: &Facts<'_>) -> Option<(Turn, Option<&'a Arc<Upstream>>)> {
    let split = rule.split.as_ref()?;
    let main = upstream(snapshot, rule).filter(|main| !main.endpoints.is_empty())?;
    let canary = match &split.backend {
        Backend::Upstream { id, .. } => snapshot.upstreams.get(id.0 as usize),
        Backend::Missing { .. } | Backend::None { .. } => None,
    };
    Some((turn(split, main, canary.map(|canary| &**canary), facts), canary))
}

/// Which endpoints can be used.
fn endpoints(snapshot: &Snapshot, upstream: &Upstream, steps: &mut Steps) {
    if upstream.options.service_upstream {
        let alone = upstream.endpoints.endpoints().first();
        steps.add(
            "Endpoints",
            match alone {
                Some(endpoint) => format!("the ClusterIP {} alone, as service-upstream asks.", endpoint.addr),
                None => "service-upstream asks for the ClusterIP, and the Service has none.".to_owned(),
            },
        );
    } else if let Some(port) = port_of(snapshot, upstream) {
        // The set may be that of either family; only where it has endpoints is it clear of which.
        let family = upstream.endpoints.endpoints().first().map(|endpoint| IpFamily::of(endpoint.addr.ip()));
        steps.add("Endpoints", usable(&port.config, Some(&upstream.endpoints), family, TrafficPolicy::Cluster));
    }
}

/// How the host was found, or what hosts there are.
fn host(snapshot: &Snapshot, asked: &str, found: Option<&Host>) -> String {
    let Some(found) = found else {
        let mut hosts: Vec<String> = snapshot.routes.rules().map(|rule| rule.host.to_string()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        return match hosts.is_empty() {
            true => format!("no rule names {asked}, and there are no rules at all."),
            false => {
                format!("no rule names {asked}, and none is for every host; there are rules for {}.", listed(hosts))
            }
        };
    };
    let label = found.paths.iter().chain(&found.default).next().map(|rule| &*rule.host);
    match label {
        None => format!("{asked} is named by an Ingress, but none of its paths can be served."),
        Some("*") => format!("no rule names {asked}; the rules for every host take it."),
        Some(wildcard) if wildcard.starts_with("*.") => format!("no rule names {asked} exactly; {wildcard} takes it."),
        Some(name) if !host_is(name, asked) => format!("{asked} is an alias of {name}."),
        Some(_) => format!("there are rules for {asked} by name."),
    }
}

/// Why no path took the request.
fn missed(host: Option<&Host>, path: &str) -> String {
    let mut paths: Vec<String> = host
        .iter()
        .flat_map(|host| host.paths.iter())
        .filter_map(|rule| Some(rule.path.as_ref()?.to_string()))
        .collect();
    paths.sort_unstable();
    match paths.is_empty() {
        true => "there is no default backend either.".to_owned(),
        false => format!(
            "none of the host's paths takes {path}, and it has no default backend; there are {}.",
            listed(paths)
        ),
    }
}

/// Which path took the request, and whose it is.
fn path(rule: &Arc<Rule>, asked: &str, host: Option<&Host>) -> String {
    let owner = &rule.owner;
    match &rule.path {
        Some(path @ PathMatch::Regex(_)) => {
            format!(
                "{asked} is taken by {path} of Ingress {owner}, the longest pattern that matches; the host is in regex mode."
            )
        }
        Some(path @ PathMatch::Exact(_)) => format!("{asked} is taken by {path} of Ingress {owner}."),
        Some(path @ PathMatch::Prefix(_)) => {
            format!("{asked} is taken by {path} of Ingress {owner}, the longest prefix that matches.")
        }
        None if matches!(rule.backend, Backend::None { .. }) => {
            format!("no path takes {asked}; what Ingress {owner} says about the whole host applies.")
        }
        None if host.and_then(|host| host.default.as_ref()).is_some_and(|default| Arc::ptr_eq(default, rule)) => {
            format!("no path takes {asked}; the default backend of Ingress {owner} does.")
        }
        None => format!("no path takes {asked}; the global default backend, Service {owner}, does."),
    }
}

/// Rules that would take the request too, and why they do not.
fn losers(snapshot: &Snapshot, winner: &Arc<Rule>, host: &str, path: &str) -> Vec<String> {
    let found = snapshot.routes.find(host, path).host;
    let same_host: Vec<&Arc<Rule>> = found.iter().flat_map(|host| host.paths.iter()).collect();
    let others = snapshot.routes.rules().filter(|rule| !Arc::ptr_eq(rule, winner));
    let mut losers: Vec<(&Arc<Rule>, &str)> = Vec::new();
    for rule in others {
        if !rule.path.as_ref().is_some_and(|matcher| matcher.takes(path)) {
            continue;
        }
        if same_host.iter().any(|held| Arc::ptr_eq(held, rule)) {
            let why = match winner.path {
                Some(PathMatch::Exact(_)) => "Exact comes first",
                Some(PathMatch::Prefix(_) | PathMatch::Regex(_)) | None => "shorter",
            };
            losers.push((rule, why));
        } else if host_takes(&rule.host, host) && found.is_some() {
            losers.push((rule, "a less specific host, to which nothing falls back"));
        }
    }
    losers.sort_by(|(a, _), (b, _)| (&a.host, &a.path, &a.owner).cmp(&(&b.host, &b.path, &b.owner)));
    let text = |(rule, why): (&Arc<Rule>, &str)| {
        let path = rule.path.as_ref().map(ToString::to_string).unwrap_or_default();
        format!("{} {path} of Ingress {} ({why})", rule.host, rule.owner)
    };
    losers.into_iter().map(text).collect()
}

/// Whether a rule's host, as it is shown, takes a request's host at all. An exact one that does is the one that was found.
fn host_takes(label: &str, asked: &str) -> bool {
    let name = bare(asked);
    match label.strip_prefix("*.") {
        Some(suffix) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == suffix),
        None => label == "*",
    }
}

fn host_is(label: &str, asked: &str) -> bool {
    label == bare(asked)
}

/// A host without port and final dot, in lower case.
fn bare(asked: &str) -> String {
    asked.split(':').next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase()
}

fn upstream<'a>(snapshot: &'a Snapshot, rule: &Rule) -> Option<&'a Arc<Upstream>> {
    match &rule.backend {
        Backend::Upstream { id, .. } => snapshot.upstreams.get(id.0 as usize),
        Backend::Missing { .. } | Backend::None { .. } => None,
    }
}

/// The service port whose endpoints an upstream uses.
fn port_of<'a>(snapshot: &'a Snapshot, upstream: &Upstream) -> Option<&'a Arc<ServedPort>> {
    let is_of = |port: &&Arc<ServedPort>| {
        let families = [IpFamily::V4, IpFamily::V6].into_iter();
        let mut sets = families.flat_map(|family| [port.set(family, TrafficPolicy::Cluster), port.everywhere(family)]);
        sets.any(|set| Arc::ptr_eq(set, &upstream.endpoints))
    };
    snapshot.table.ports().find(is_of)
}

/// What the request's session cookie stands for.
fn session(
    rule: &Rule,
    upstream: &Upstream,
    cookie: &CookieUpstream,
    pinned: Option<EndpointIndex>,
    headers: &HeaderMap,
) -> String {
    let name = &cookie.affinity.name;
    let Some(session) = cookie_affinity::session(headers, name) else {
        return match rule.issues_cookie {
            true => format!("the request has no cookie {name}: a session begins, and the answer sets the cookie."),
            false => format!("the request has no cookie {name}, and Ingress {} does not ask for one.", rule.owner),
        };
    };
    let is_secret = headers.get_all(header::COOKIE).iter().any(HeaderValue::is_sensitive);
    let key = if is_secret { "(not shown)".into() } else { String::from_utf8_lossy(session.key) };
    let foreign = match session.backend {
        Some(_) if !session.belongs_to(&cookie.map) => " The cookie was written for another backend.",
        Some(_) | None => "",
    };
    match pinned {
        Some(index) => {
            let how = match cookie.map.mode() {
                AffinityMode::Balanced => "is nearest to it on the hash ring",
                AffinityMode::Persistent => "gave it out",
            };
            format!("{name} has the key {key}; {} {how}.{foreign}", named(upstream.endpoints.endpoint(index)))
        }
        None => format!("{name} has the key {key}, which is no endpoint's (any more): a session begins.{foreign}"),
    }
}

fn choose(
    rule: &Rule,
    upstream: &Upstream,
    pinned: Option<EndpointIndex>,
    hash: Option<(u64, IpAddr)>,
    now: UnixMillis,
) -> Outcome {
    let set = &upstream.endpoints;
    let of_client = hash.and_then(|(key, ip)| Some((ip, set.order(Balance::Hash, Some(key), now).next()?)));
    let (rule, candidates, sticky) = match (&upstream.cookie, pinned) {
        (Some(cookie), Some(index)) => {
            let rule = match cookie.affinity.change_on_failure {
                true => "the session cookie names it; if it cannot be reached, another is tried",
                false => "the session cookie names it; no other is tried, even if it cannot be reached",
            };
            (rule.to_owned(), certain(set, index), true)
        }
        (Some(cookie), None) if rule.issues_cookie => {
            let rule = match cookie.map.mode() {
                AffinityMode::Balanced => "a new session is about equally likely to begin on each",
                AffinityMode::Persistent => "a new session is equally likely to begin on each",
            };
            (rule.to_owned(), candidates(set, &equal_in_use(set, now), None), true)
        }
        (Some(_) | None, _) => match (upstream.hash_by(), of_client) {
            (Some(by), _) => {
                let rule = format!("requests with the same {by} go to the same one (upstream-hash-by)");
                (rule, candidates(set, &balanced(set, Balance::Hash, now).1, None), true)
            }
            (None, Some((client, first))) => {
                let rule =
                    format!("it follows from the client's address, {client}, on every replica (rendezvous hashing)");
                (rule, certain(set, first), true)
            }
            (None, None) => {
                let (rule, shares) = balanced(set, upstream.balance(None), now);
                (rule, candidates(set, &shares, None), false)
            }
        },
    };
    Outcome::Endpoints { rule, candidates, sticky }
}
