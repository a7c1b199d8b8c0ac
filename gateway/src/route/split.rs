//! Some requests of a rule go to another Service: a canary (ingress-nginx, "Canary").

use std::sync::Arc;

use http::HeaderName;

use super::{Backend, Owner, pattern::Pattern};

/// Which requests go to the other backend: the first of header, cookie and weight that decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Who wrote it.
    pub owner: Owner,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSplit {
    /// The field.
    pub name: HeaderName,
    /// What it must be.
    pub value: HeaderMatch,
}

/// What a field must be to send a request to the canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderMatch {
    /// `always` sends it there, `never` does not; anything else leaves the decision to the next rule.
    AlwaysNever,
    /// This very value (`canary-by-header-value`).
    Exact(Arc<str>),
    /// A value that matches (`canary-by-header-pattern`).
    Pattern(Pattern),
}
