//! What can be changed about a request or an answer on its way: a closed set, applied in order by `http::filters`.

use std::sync::Arc;

use fancy_regex::Regex;
use http::{HeaderName, HeaderValue, StatusCode};

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Changes fields of the request.
    RequestHeaders(HeaderEdit),
    /// Changes fields of the answer.
    ResponseHeaders(HeaderEdit),
    /// Asks the pod for another path.
    RewritePath(PathRewrite),
    /// Asks the pod for another host.
    RewriteHost(HeaderValue),
    /// Answers with a redirect instead of asking a pod.
    Redirect(Redirect),
}

/// Fields to remove, then to set, then to add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Removed.
    pub remove: Box<[HeaderName]>,
    /// Replaced, or added if there was none.
    pub set: Box<[(HeaderName, HeaderValue)]>,
    /// Added to those that are there.
    pub add: Box<[(HeaderName, HeaderValue)]>,
}

/// How a path becomes another. The query stays.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The whole path becomes this.
    Full(Arc<str>),
    /// This prefix, by whole elements, becomes that one.
    Prefix {
        /// What is replaced.
        from: Arc<str>,
        /// By what.
        to: Arc<str>,
    },
    /// Where the pattern matches, the whole path becomes the replacement, `$1` to `$9` being what the groups matched.
    Regex {
        /// The pattern, compiled.
        pattern: Arc<Regex>,
        /// The replacement.
        replacement: Arc<str>,
    },
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full(a), Self::Full(b)) => a == b,
            (Self::Prefix { from, to }, Self::Prefix { from: other_from, to: other_to }) => {
                from == other_from && to == other_to
            }
            (
                Self::Regex { pattern, replacement },
                Self::Regex { pattern: other_pattern, replacement: other_replacement },
            ) => pattern.as_str() == other_pattern.as_str() && replacement == other_replacement,
            (Self::Full(_) | Self::Prefix { .. } | Self::Regex { .. }, _) => false,
        }
    }
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308; what `permanent-redirect-code` allows.
    pub status: StatusCode,
    /// The `Location`.
    pub to: RedirectTo,
    /// Only for this very path; `None` for every request of the rule (`app-root` is for `/`).
    pub only_path: Option<Arc<str>>,
}

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTo {
    /// To this very URL.
    Url(HeaderValue),
    /// To the same scheme and host, with this path.
    Path(Arc<str>),
}
