//! Applies what a rule says about its requests and answers. Pure: the engine calls it, and `explain` asks it.
//!
//! [`on_request`] looks at a request and either answers it (a redirect) or says what is to be changed; [`Edits::apply`] changes it,
//! once the fields that belong to one hop are gone and those that say who asked are there: so `X-Forwarded-Host` keeps the
//! client's host, and a user may set any other field. [`on_response`] changes an answer's head.
//!
//! The order of the redirects is nginx's: `app-root` and configured redirects first, then `https`.

use std::ops::ControlFlow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header, request::Parts, uri::PathAndQuery};

use super::{
    cookie_edit,
    facts::{Facts, Scheme},
    rewrite, template,
};
use crate::route::{
    Rule,
    filter::{Filter, HeaderEdit, Prefix, Redirect, RedirectTo, Text},
    policy::{HttpsRedirect, HttpsWhen},
};

/// Where certificate authorities look whether a host is ours: never redirected to `https` (ingress-nginx's
/// `no-tls-redirect-locations`).
const ACME_CHALLENGE: &str = "/.well-known/acme-challenge";

/// What is to be changed about a request; nothing, mostly.
#[derive(Debug, Default)]
pub(crate) struct Edits<'r> {
    /// The target to ask the pod for.
    pub(crate) target: Option<PathAndQuery>,
    /// The host to ask the pod for.
    pub(crate) host: Option<HeaderValue>,
    /// Of these, the header edits are still to be made.
    filters: &'r [Filter],
}

/// What `rule` does to a request: an answer of our own, or edits. Allocates nothing for a plain policy.
pub(crate) fn on_request<'r>(rule: &'r Rule, facts: &Facts<'_>) -> ControlFlow<Response<Bytes>, Edits<'r>> {
    if rule.policy.is_plain() {
        return ControlFlow::Continue(Edits::default());
    }
    let filters = &*rule.policy.filters;
    for filter in filters {
        if let Filter::Redirect(to) = filter
            && let Some(location) = redirect(to, rule, facts)
        {
            return ControlFlow::Break(sent_elsewhere(to.status, location));
        }
    }
    if let Some(location) = https(&rule.policy.https, facts) {
        return ControlFlow::Break(sent_elsewhere(rule.policy.https.status, location));
    }
    let mut edits = Edits { target: None, host: None, filters };
    for filter in filters {
        match filter {
            Filter::RewritePath(path) => {
                let rewritten = rewrite::rewritten(path, facts.path);
                match rewritten.map(|path| rewrite::target(&path, facts.uri.query())) {
                    Some(None) => return ControlFlow::Break(refused("the rewritten path is no path")),
                    Some(target) => edits.target = target,
                    None => {}
                }
            }
            Filter::RewriteHost(host) => match value(host, rule, facts).filter(is_host) {
                Some(host) => edits.host = Some(host),
                None => return ControlFlow::Break(refused("the rewritten host is no host")),
            },
            Filter::RequestHeaders(_)
            | Filter::ResponseHeaders(_)
            | Filter::Redirect(_)
            | Filter::RewriteLocation(_)
            | Filter::CookieDomain(_)
            | Filter::CookiePath(_) => {}
        }
    }
    ControlFlow::Continue(edits)
}

impl Edits<'_> {
    /// Whether the request stays as it is.
    pub(crate) fn is_nothing(&self) -> bool {
        self.target.is_none()
            && self.host.is_none()
            && !self.filters.iter().any(|f| matches!(f, Filter::RequestHeaders(_)))
    }

    /// Changes the request.
    pub(crate) fn apply(self, parts: &mut Parts) {
        if let Some(target) = self.target {
            parts.uri = Uri::from(target);
        }
        for filter in self.filters {
            if let Filter::RequestHeaders(edit) = filter {
                edit_headers(edit, &mut parts.headers);
            }
        }
        if let Some(host) = self.host {
            parts.headers.insert(header::HOST, host);
        }
    }
}

/// What `rule` does to the head of a pod's answer.
pub(crate) fn on_response(rule: &Rule, headers: &mut HeaderMap) {
    for filter in &rule.policy.filters {
        match filter {
            Filter::ResponseHeaders(edit) => edit_headers(edit, headers),
            Filter::RewriteLocation(prefix) => rewrite_location(prefix, headers),
            Filter::CookieDomain(domain) => cookie_edit::domain(domain, headers),
            Filter::CookiePath(path) => cookie_edit::path(path, headers),
            Filter::RequestHeaders(_) | Filter::RewritePath(_) | Filter::RewriteHost(_) | Filter::Redirect(_) => {}
        }
    }
}

fn edit_headers(edit: &HeaderEdit, headers: &mut HeaderMap) {
    for name in &edit.remove {
        headers.remove(name);
    }
    for (name, value) in &edit.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edit.add {
        headers.append(name, value.clone());
    }
}

/// The `Location` of a redirect, if it is for this request; the inner `None` if there is none that could be sent.
fn redirect(redirect: &Redirect, rule: &Rule, facts: &Facts<'_>) -> Option<Option<HeaderValue>> {
    if redirect.only_path.as_ref().is_some_and(|path| **path != *facts.path) {
        return None;
    }
    let scheme = facts.scheme.as_str();
    let text = match &redirect.to {
        RedirectTo::Url(url) => return Some(value(url, rule, facts)),
        RedirectTo::Path(path) => format!("{scheme}://{}{path}", facts.host),
        RedirectTo::Host(host) => {
            // The port is always there, as in ingress-nginx: the one the client knows us by.
            let port = match facts.host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
                Some((_, port)) if !port.is_empty() => port,
                _ if facts.scheme == Scheme::Https => "443",
                _ => "80",
            };
            format!("{scheme}://{host}:{port}{}", without_slash(facts.target()))
        }
        RedirectTo::Rewrite(path) => {
            let url = rewrite::rewritten(path, facts.path)?;
            rewrite::location(&url, facts.uri.query())
        }
    };
    Some(HeaderValue::try_from(text).ok())
}

/// The `Location` for a request that is sent to `https`.
fn https(https: &HttpsRedirect, facts: &Facts<'_>) -> Option<Option<HeaderValue>> {
    let port = match (https.when, facts.https_port) {
        (HttpsWhen::Never, _) | (HttpsWhen::HostHasTls, None) => return None,
        (HttpsWhen::HostHasTls | HttpsWhen::Always, port) => port,
    };
    if facts.scheme == Scheme::Https || facts.path.starts_with(ACME_CHALLENGE) {
        return None;
    }
    let target = match https.preserve_trailing_slash {
        true => facts.target(),
        false => without_slash(facts.target()),
    };
    let text = match port.filter(|port| *port != 443) {
        Some(port) => format!("https://{}:{port}{target}", facts.host_name()),
        None => format!("https://{}{target}", facts.host_name()),
    };
    Some(HeaderValue::try_from(text).ok())
}

/// ingress-nginx takes a final slash off the target, be it the path's or the query's.
fn without_slash(target: &str) -> &str {
    target.strip_suffix('/').unwrap_or(target)
}

fn value(text: &Text, rule: &Rule, facts: &Facts<'_>) -> Option<HeaderValue> {
    match text {
        Text::Fixed(value) => Some(value.clone()),
        Text::Template(text) => HeaderValue::from_maybe_shared(Bytes::from(template::text(text, rule, facts))).ok(),
    }
}

/// What pods may be asked for as a host: a variable may hold anything a client wrote.
fn is_host(host: &HeaderValue) -> bool {
    let is_good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(byte);
    !host.is_empty() && host.as_bytes().iter().all(is_good)
}

fn sent_elsewhere(status: StatusCode, location: Option<HeaderValue>) -> Response<Bytes> {
    // A variable may hold a line break, decoded, and that is how answers are split.
    let Some(location) = location else { return refused("the redirect's target is no URL") };
    let mut response = answer(status, status.canonical_reason().unwrap_or("Redirect"));
    response.headers_mut().insert(header::LOCATION, location);
    response
}

fn refused(why: &str) -> Response<Bytes> {
    answer(StatusCode::BAD_REQUEST, why)
}

fn answer(status: StatusCode, text: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{}: {text}\n", status.as_u16())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// `Location` and the URL in `Refresh`, as nginx's `proxy_redirect` changes them.
fn rewrite_location(prefix: &Prefix, headers: &mut HeaderMap) {
    let changed = |value: &HeaderValue, from: usize| {
        let (before, url) = value.as_bytes().split_at(from);
        let rest = url.strip_prefix(prefix.from.as_bytes())?;
        HeaderValue::from_bytes(&[before, prefix.to.as_bytes(), rest].concat()).ok()
    };
    if let Some(new) = headers.get(header::LOCATION).and_then(|value| changed(value, 0)) {
        headers.insert(header::LOCATION, new);
    }
    let refresh = headers.get(header::REFRESH).and_then(|value| {
        let text = value.as_bytes().to_ascii_lowercase();
        let url = text.windows(4).position(|four| four == b"url=")?;
        changed(value, url + 4)
    });
    if let Some(new) = refresh {
        headers.insert(header::REFRESH, new);
    }
}

/// Rules to try filters on.
#[cfg(test)]
pub(crate) mod fixture {
    use std::sync::Arc;

    use super::*;
    use crate::route::{Backend, Owner, policy::Policy};

    /// A rule for `default/web:80` with these filters.
    pub(crate) fn rule(filters: impl IntoIterator<Item = Filter>) -> Rule {
        rule_with(Policy { filters: filters.into_iter().collect(), ..Policy::default() })
    }

    pub(crate) fn rule_with(policy: Policy) -> Rule {
        Rule {
            owner: Owner { namespace: "default".into(), name: "test".into() },
            host: "shop.example.com".into(),
            path: None,
            backend: Backend::Missing { service: "default/web:80".into(), reason: "a test".into() },
            split: None,
            policy: Arc::new(policy),
            issues_cookie: false,
            stats: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests;
