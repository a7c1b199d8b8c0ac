//! Whether a request goes to a rule's canary, in the order of ingress-nginx ("Canary"): a session that exists stays where it is;
//! then header, cookie and weight, the first that decides.

use super::{cookie_affinity, facts::Facts};
use crate::{
    route::split::{HeaderMatch, Split},
    snapshot::Upstream,
};

/// Where a request goes, and what decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// To the main backend.
    Main(Why),
    /// To the canary.
    Canary(Why),
    /// Lots are drawn: the canary gets so many …
    ByLot {
        /// … this many …
        weight: u32,
        /// … of this many.
        total: u32,
    },
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The session cookie was written by this backend.
    Session,
    /// The field of the request.
    Header,
    /// The cookie of the request.
    Cookie,
    /// The canary has no endpoint.
    NoEndpoint,
}

/// What is decided without drawing lots.
pub(crate) fn turn(split: &Split, main: &Upstream, canary: Option<&Upstream>, facts: &Facts<'_>) -> Turn {
    if has_session(main, facts) {
        return Turn::Main(Why::Session);
    }
    let Some(canary) = canary.filter(|canary| !canary.endpoints.is_empty()) else {
        return Turn::Main(Why::NoEndpoint);
    };
    if has_session(canary, facts) {
        return Turn::Canary(Why::Session);
    }
    if let Some(header) = &split.header
        && let Some(value) = facts.headers.get(&header.name).and_then(|value| value.to_str().ok())
    {
        match (&header.value, value) {
            (HeaderMatch::Exact(wanted), value) if **wanted == *value => return Turn::Canary(Why::Header),
            (HeaderMatch::Pattern(wanted), value) if wanted.is_match(value) => return Turn::Canary(Why::Header),
            (HeaderMatch::AlwaysNever, "always") => return Turn::Canary(Why::Header),
            (HeaderMatch::AlwaysNever, "never") => return Turn::Main(Why::Header),
            (HeaderMatch::Exact(_) | HeaderMatch::Pattern(_) | HeaderMatch::AlwaysNever, _) => {}
        }
    }
    match split.cookie.as_ref().and_then(|name| facts.cookie(name)) {
        Some(b"always") => Turn::Canary(Why::Cookie),
        Some(b"never") => Turn::Main(Why::Cookie),
        _ => Turn::ByLot { weight: split.weight, total: split.total },
    }
}

/// Whether the request carries a session that `upstream` opened.
fn has_session(upstream: &Upstream, facts: &Facts<'_>) -> bool {
    upstream.cookie.as_ref().is_some_and(|cookie| {
        cookie_affinity::session(facts.headers, &cookie.affinity.name)
            .is_some_and(|session| session.belongs_to(&cookie.map))
    })
}
