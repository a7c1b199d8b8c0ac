//! Some requests of a rule go to another Service: a canary (ingress-nginx, "Canary").

use std::sync::Arc;

use http::HeaderName;

use super::Backend;

/// Which requests go to the other backend: the first of header, cookie and weight that decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Where they go.
    pub backend: Backend,
    /// By a field of the request (`canary-by-header`).
    pub header: Option<HeaderSplit>,
    /// By a cookie of this name: `always` or `never` (`canary-by-cookie`).
    pub cookie: Option<Arc<str>>,
    /// As many requests (`canary-weight`) …
    pub weight: u32,
    /// … of so many (`canary-weight-total`), drawn by lot.
    pub total: u32,
}

/// A split by a field of the request.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderSplit {
    /// The field.
    pub name: HeaderName,
    /// What it must be.
    pub value: HeaderMatch,
}

/// What a field must be to send a request to the canary.
#[derive(Clone, Debug)]
pub enum HeaderMatch {
    /// `always` sends it there, `never` does not; anything else leaves the decision to the next rule.
    AlwaysNever,
    /// This very value (`canary-by-header-value`).
    Exact(Arc<str>),
    /// A value that matches (`canary-by-header-pattern`).
    Pattern(Arc<fancy_regex::Regex>),
}

impl PartialEq for HeaderMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::AlwaysNever, Self::AlwaysNever) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Pattern(a), Self::Pattern(b)) => a.as_str() == b.as_str(),
            (Self::AlwaysNever | Self::Exact(_) | Self::Pattern(_), _) => false,
        }
    }
}
