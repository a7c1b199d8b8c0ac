//! What a rule does with a request besides choosing a pod: redirects, rewrites, the canary, and whatever its Ingress sets to something
//! else than the default.

use std::{ops::ControlFlow, time::Duration};

use super::{Outcome, Steps, listed};
use crate::{
    http::{
        Facts,
        filters::{Edits, on_request},
        split::{Turn, Why},
    },
    route::{
        Rule,
        filter::{Filter, HeaderEdit, Redirect, RedirectTo},
        policy::{BackendProtocol, HttpsWhen, Policy, Retry, Timeouts, Transport},
        split::{HeaderMatch, Split},
    },
};

/// What the rule's filters make of the request: an answer, or steps on the way to a pod.
pub(super) fn request(rule: &Rule, facts: &Facts<'_>, steps: &mut Steps) -> Option<Outcome> {
    match on_request(rule, facts) {
        ControlFlow::Continue(edits) => {
            changes(rule, &edits, steps);
            None
        }
        ControlFlow::Break(response) => {
            let code = response.status().as_u16();
            let Some(location) = response.headers().get(http::header::LOCATION) else {
                let reason = "what the Ingress would make of this request cannot be sent".to_owned();
                return Some(Outcome::Status { code, reason });
            };
            steps.add("Redirect", why_redirected(rule, facts));
            Some(Outcome::Status { code, reason: format!("to {}", String::from_utf8_lossy(location.as_bytes())) })
        }
    }
}

fn why_redirected(rule: &Rule, facts: &Facts<'_>) -> String {
    let applies = |redirect: &&Redirect| redirect.only_path.as_ref().is_none_or(|path| **path == *facts.path);
    let configured = rule.policy.filters.iter().find_map(|filter| match filter {
        Filter::Redirect(redirect) => Some(redirect).filter(applies),
        _ => None,
    });
    let owner = &rule.owner;
    match configured.map(|redirect| &redirect.to) {
        Some(RedirectTo::Path(path)) => format!("the host sends / to {path} (app-root)."),
        Some(RedirectTo::Url(url)) => format!("Ingress {owner} sends every request to {url}."),
        Some(RedirectTo::Host(host)) => format!("Ingress {owner} sends this host to {host} (from-to-www-redirect)."),
        Some(RedirectTo::Rewrite(_)) => format!("the rewrite-target of Ingress {owner} is a whole URL."),
        None => match rule.policy.https.when {
            HttpsWhen::Always => format!("Ingress {owner} wants TLS always (force-ssl-redirect)."),
            HttpsWhen::HostHasTls | HttpsWhen::Never => "the host has TLS, and the request came without.".to_owned(),
        },
    }
}

/// What pods are asked instead, and which fields change.
fn changes(rule: &Rule, edits: &Edits<'_>, steps: &mut Steps) {
    let mut asked = Vec::new();
    asked.extend(edits.target.as_ref().map(|target| format!("the path {target}")));
    asked.extend(edits.host.as_ref().map(|host| format!("the host {}", String::from_utf8_lossy(host.as_bytes()))));
    if !asked.is_empty() {
        steps.add("Rewrite", format!("the pod is asked for {}.", asked.join(" and ")));
    }
    for filter in &rule.policy.filters {
        match filter {
            Filter::RequestHeaders(edit) => steps.add("Request fields", edit_words(edit)),
            Filter::ResponseHeaders(edit) => steps.add("Answer fields", edit_words(edit)),
            Filter::RewriteLocation(prefix) => {
                steps.add("Answer fields", format!("a Location {}… becomes {}….", prefix.from, prefix.to));
            }
            Filter::CookieDomain(prefix) => {
                steps.add("Answer fields", format!("the Domain {} of cookies becomes {}.", prefix.from, prefix.to));
            }
            Filter::CookiePath(prefix) => {
                steps.add("Answer fields", format!("a Path {}… of cookies becomes {}….", prefix.from, prefix.to));
            }
            Filter::RewritePath(_) | Filter::RewriteHost(_) | Filter::Redirect(_) => {}
        }
    }
}

fn edit_words(edit: &HeaderEdit) -> String {
    let fields = |fields: &[(http::HeaderName, http::HeaderValue)]| {
        listed(fields.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))))
    };
    let mut words = Vec::new();
    if !edit.remove.is_empty() {
        words.push(format!("removes {}", listed(edit.remove.iter().map(ToString::to_string))));
    }
    if !edit.set.is_empty() {
        words.push(format!("sets {}", fields(&edit.set)));
    }
    if !edit.add.is_empty() {
        words.push(format!("adds {}", fields(&edit.add)));
    }
    format!("{}.", words.join("; "))
}

/// Who of main backend and canary gets the request, and why.
pub(super) fn split(split: &Split, turn: Turn) -> String {
    let canary = format!("Service {} (canary Ingress {})", split.backend.service(), split.owner);
    let header = split.header.as_ref().map_or("", |header| header.name.as_str());
    let cookie = split.cookie.as_deref().unwrap_or_default();
    match turn {
        Turn::Main(Why::Session) => "the session cookie was written by the main backend, which keeps it.".to_owned(),
        Turn::Main(Why::NoEndpoint) => format!("{canary} has no endpoint, so nothing is split off."),
        Turn::Main(Why::Header) => format!("the field {header} says never: not to {canary}."),
        Turn::Main(Why::Cookie) => format!("the cookie {cookie} says never: not to {canary}."),
        Turn::Canary(Why::Session) => format!("the session cookie was written by {canary}, which keeps it."),
        Turn::Canary(Why::Header) => {
            let how = match split.header.as_ref().map(|header| &header.value) {
                Some(HeaderMatch::Exact(value)) => format!("is {value}"),
                Some(HeaderMatch::Pattern(pattern)) => format!("matches {pattern}"),
                Some(HeaderMatch::AlwaysNever) | None => "says always".to_owned(),
            };
            format!("the field {header} {how}: to {canary}.")
        }
        Turn::Canary(Why::Cookie) => format!("the cookie {cookie} says always: to {canary}."),
        Turn::Canary(Why::NoEndpoint) => format!("to {canary}."),
        Turn::ByLot { weight, total } => {
            format!("{:.1} % of the requests go to {canary}, drawn by lot.", share(weight, total) * 100.0)
        }
    }
}

/// The canary's share of requests that are drawn for, 0 to 1.
pub(super) fn share(weight: u32, total: u32) -> f64 {
    if total == 0 { 0.0 } else { (f64::from(weight) / f64::from(total)).min(1.0) }
}

/// What the Ingress sets to something else than the default.
pub(super) fn settings(policy: &Policy, steps: &mut Steps) {
    let default = Policy::default();
    if policy.transport != default.transport {
        steps.add("Transport", transport(&policy.transport));
    }
    if policy.timeouts != default.timeouts {
        steps.add("Timeouts", timeouts(&policy.timeouts));
    }
    if policy.retry != default.retry {
        steps.add("Retries", retries(&policy.retry));
    }
    if policy.body_limit != default.body_limit {
        steps.add(
            "Body limit",
            match policy.body_limit {
                Some(bytes) => format!("content of more than {bytes} bytes is answered 413."),
                None => "content may be of any length.".to_owned(),
            },
        );
    }
    if !policy.access_log {
        steps.add("Access log", "the request is not logged.");
    }
}

fn transport(transport: &Transport) -> String {
    let protocol = match transport.protocol {
        BackendProtocol::Http1 => "HTTP/1.1",
        BackendProtocol::Http2 => "HTTP/2",
    };
    let tls = match &transport.tls {
        None => " in plain text",
        Some(_) if transport.as_the_client => ", with TLS if the client uses TLS",
        Some(tls) if tls.name.is_none() => " with TLS; the pod's certificate is not verified",
        Some(_) => " with TLS",
    };
    let close = if transport.close { "; each request on a connection of its own" } else { "" };
    format!("pods are asked in {protocol}{tls}{close}.")
}

fn timeouts(timeouts: &Timeouts) -> String {
    let time = |duration: Duration| humantime::format_duration(duration).to_string();
    let mut words = vec![
        format!("{} to connect", time(timeouts.connect)),
        format!("{} between two pieces of the request", time(timeouts.send)),
        format!("{} until and within the answer", time(timeouts.read)),
    ];
    words.extend(timeouts.per_try.map(|limit| format!("{} for each pod to begin its answer", time(limit))));
    words.extend(timeouts.request.map(|limit| format!("{} for all tries together", time(limit))));
    format!("{}.", words.join(", "))
}

fn retries(retry: &Retry) -> String {
    let mut when = Vec::new();
    when.extend(retry.on_error.then(|| "an error".to_owned()));
    when.extend(retry.on_timeout.then(|| "a timeout".to_owned()));
    when.extend(retry.on_invalid.then(|| "an answer that is no HTTP".to_owned()));
    when.extend(retry.on_status.iter().map(|status| status.as_u16().to_string()));
    if when.is_empty() {
        return "no other pod is tried.".to_owned();
    }
    let tries = match retry.tries {
        0 => "as many pods as there are".to_owned(),
        1 => "one pod".to_owned(),
        tries => format!("up to {tries} pods"),
    };
    let within = retry.within.map_or_else(String::new, |limit| format!(", for {}", humantime::format_duration(limit)));
    let which = if retry.non_idempotent { "" } else { " of requests that may be repeated" };
    format!(
        "after {}{which}, {tries} are tried{within}; at most {} % repetitions.",
        when.join(", "),
        retry.budget_percent
    )
}
