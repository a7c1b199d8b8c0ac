//! From the annotations of an Ingress to the policy of one of its rules.

use std::{collections::VecDeque, sync::Arc};

use http::{HeaderName, HeaderValue, StatusCode};

use super::{super::annotations::IngressOptions, modes::Mode};
use crate::route::{
    PathMatch,
    filter::{Filter, HeaderEdit, PathRewrite, Prefix, Redirect, RedirectTo},
    pattern::Pattern,
    policy::{HttpsRedirect, HttpsWhen, Policy, Transport},
};

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// What a policy is made for.
#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    /// A path; as it is written, and as it matches.
    Path(&'a str, &'a PathMatch),
    /// The paths of a host that no rule takes.
    Rest,
    /// The paths of every host that no rule takes. ingress-nginx: no redirect and no rewrite there.
    Global,
}

/// The policy of a rule of an Ingress that is not closed.
pub(super) fn policy(
    options: &IngressOptions,
    mode: Option<&Mode>,
    target: Target<'_>,
    transport: Transport,
) -> Policy {
    let mut filters = Vec::new();
    let mut when = HttpsWhen::Never;
    if !matches!(target, Target::Global) {
        filters.extend(redirects(options, mode, target));
        let has_tls = mode.is_some_and(|mode| mode.tls);
        when = match &options.redirect {
            redirect if redirect.https_always => HttpsWhen::Always,
            redirect if redirect.https && has_tls => HttpsWhen::HostHasTls,
            _ => HttpsWhen::Never,
        };
        filters.extend(rewrites(options, target));
    }
    filters.extend(fields(options));
    let proxy = &options.proxy;
    Policy {
        filters: filters.into(),
        https: HttpsRedirect {
            when,
            status: StatusCode::PERMANENT_REDIRECT,
            preserve_trailing_slash: options.redirect.preserve_trailing_slash && when != HttpsWhen::Never,
        },
        timeouts: proxy.timeouts,
        retry: proxy.retry.clone(),
        body_limit: proxy.body_limit,
        transport: Transport { close: proxy.close, ..transport },
        access_log: proxy.access_log,
    }
}

/// The redirects, in the order in which nginx comes to them.
fn redirects(options: &IngressOptions, mode: Option<&Mode>, target: Target<'_>) -> Vec<Filter> {
    let mut filters = Vec::new();
    let takes_root = match target {
        Target::Path(_, matcher) => matcher.takes("/"),
        Target::Rest => true,
        Target::Global => false,
    };
    if let Some(path) = mode.and_then(|mode| mode.app_root.clone()).filter(|_| takes_root) {
        filters.push(Filter::Redirect(Redirect {
            status: StatusCode::FOUND,
            to: RedirectTo::Path(path),
            only_path: Some("/".into()),
        }));
    }
    let redirect = &options.redirect;
    let permanent = redirect.permanent.as_ref().map(|url| (url, redirect.permanent_code));
    if let Some((url, status)) = redirect.temporal.as_ref().map(|url| (url, redirect.temporal_code)).or(permanent) {
        filters.push(Filter::Redirect(Redirect { status, to: RedirectTo::Url(url.clone()), only_path: None }));
    }
    filters
}

/// The rewrite of a path, and the field that says what was there before.
fn rewrites(options: &IngressOptions, target: Target<'_>) -> Vec<Filter> {
    let (written, matcher) = match target {
        Target::Path(written, matcher) => (written, matcher),
        // `/` as a pattern takes every path, and has no group to keep anything of it.
        Target::Rest => {
            let pattern = replacement(options, "/").and_then(|target| Some((Pattern::of_path("/").ok()?, target)));
            return pattern.map(|(pattern, target)| rewrite(&pattern, target)).into_iter().collect();
        }
        Target::Global => return Vec::new(),
    };
    let mut filters = Vec::new();
    if let (Some(replacement), PathMatch::Regex(pattern)) = (replacement(options, written), matcher) {
        filters.push(rewrite(pattern, replacement));
        if let Some(prefix) = &options.rewrite.forwarded_prefix {
            let set = [(FORWARDED_PREFIX, prefix.clone())].into();
            filters.push(Filter::RequestHeaders(HeaderEdit { set, ..HeaderEdit::default() }));
        }
    } else if let Some(to) = options.rewrite.prefix.as_deref() {
        match matcher {
            PathMatch::Exact(_) => filters.push(Filter::RewritePath(PathRewrite::Full(to.into()))),
            PathMatch::Prefix(from) => {
                let prefix = Prefix { from: from.clone(), to: to.into() };
                filters.push(Filter::RewritePath(PathRewrite::Prefix(prefix)));
            }
            // The caller reports it: a pattern has no elements.
            PathMatch::Regex(_) => {}
        }
    }
    filters
}

/// `rewrite-target`, if it has an effect on this path.
pub(super) fn replacement<'a>(options: &'a IngressOptions, written: &str) -> Option<&'a str> {
    options.rewrite.target.as_deref().filter(|target| super::modes::rewrites(Some(target), written))
}

/// nginx answers a rewrite to a whole URL with a redirect.
fn rewrite(pattern: &Pattern, replacement: &str) -> Filter {
    let path = PathRewrite::Regex { pattern: pattern.clone(), replacement: replacement.into() };
    if replacement.starts_with("http://") || replacement.starts_with("https://") {
        return Filter::Redirect(Redirect {
            status: StatusCode::FOUND,
            to: RedirectTo::Rewrite(path),
            only_path: None,
        });
    }
    Filter::RewritePath(path)
}

/// Edits of fields, of requests and of answers.
fn fields(options: &IngressOptions) -> Vec<Filter> {
    let headers = &options.headers;
    let mut filters = Vec::new();
    if headers.request != HeaderEdit::default() {
        filters.push(Filter::RequestHeaders(headers.request.clone()));
    }
    if let Some(host) = &headers.host {
        filters.push(Filter::RewriteHost(host.clone()));
    }
    let is_switch = |value: &str| value == "off" || value == "default";
    if let (Some(from), Some(to)) = (headers.location_from.as_deref(), headers.location_to.as_deref())
        && !is_switch(from)
        && !is_switch(to)
    {
        filters.push(Filter::RewriteLocation(Prefix { from: from.into(), to: to.into() }));
    }
    filters.extend(headers.cookie_domain.clone().map(Filter::CookieDomain));
    filters.extend(headers.cookie_path.clone().map(Filter::CookiePath));
    if headers.response != HeaderEdit::default() {
        filters.push(Filter::ResponseHeaders(headers.response.clone()));
    }
    filters
}

/// Sets fields of answers besides those that are set already (`custom-headers`).
pub(super) fn set_on_answers(options: &mut IngressOptions, fields: Vec<(HeaderName, HeaderValue)>) {
    let response = &mut options.headers.response;
    response.set = fields.into_iter().chain(std::mem::take(&mut response.set)).collect();
}

/// What many have the same of: policies of the paths of one Ingress, options of Ingresses. They share one.
pub(super) struct Shared<T>(VecDeque<Arc<T>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: PartialEq> Shared<T> {
    /// The last few are enough: those that are the same mostly stand together.
    const KEPT: usize = 8;

    pub(super) fn of(&mut self, one: T) -> Arc<T> {
        if let Some(same) = self.0.iter().find(|held| ***held == one) {
            return same.clone();
        }
        let one = Arc::new(one);
        self.0.truncate(Self::KEPT - 1);
        self.0.push_front(one.clone());
        one
    }
}
