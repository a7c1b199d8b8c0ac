//! What can be changed about a request or an answer on its way: a closed set, applied in order by `http::filters`.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::{pattern::Pattern, template::Template};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Changes fields of the request.
    RequestHeaders(HeaderEdit),
    /// Changes fields of the answer.
    ResponseHeaders(HeaderEdit),
    /// Asks the pod for another path.
    RewritePath(PathRewrite),
    /// Asks the pod for another host. `X-Forwarded-Host` keeps the client's.
    RewriteHost(Text),
    /// Answers with a redirect instead of asking a pod.
    Redirect(Redirect),
    /// Changes where the pod's own redirects lead: `Location` and `Refresh`.
    RewriteLocation(Prefix),
    /// Changes `Domain` of the pod's cookies.
    CookieDomain(Prefix),
    /// Changes `Path` of the pod's cookies.
    CookiePath(Prefix),
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

/// A value of a field that is ready, or has yet to be made of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Ready.
    Fixed(HeaderValue),
    /// Made of the request.
    Template(Template),
}

impl Text {
    /// The value a template stands for; `None` if it is none that a field can have.
    pub fn of(template: Template) -> Option<Self> {
        match template.literal() {
            Some(literal) => HeaderValue::from_str(literal).ok().map(Self::Fixed),
            None => Some(Self::Template(template)),
        }
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(value) => f.write_str(&String::from_utf8_lossy(value.as_bytes())),
            Self::Template(template) => template.fmt(f),
        }
    }
}

/// How a path becomes another. The query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// The whole path becomes this.
    Full(Arc<str>),
    /// This prefix, by whole elements, becomes that one.
    Prefix(Prefix),
    /// Where the pattern matches, the whole path becomes the replacement, `$1` to `$9` being what the groups matched.
    Regex {
        /// The pattern.
        pattern: Pattern,
        /// The replacement.
        replacement: Arc<str>,
    },
}

/// A beginning that is replaced by another; the rest stays. (Of a cookie's domain, the whole is replaced.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// What is replaced.
    pub from: Arc<str>,
    /// By what.
    pub to: Arc<str>,
}

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 300 to 308.
    pub status: StatusCode,
    /// The `Location`.
    pub to: RedirectTo,
    /// Only for this very path; `None` for every request of the rule (`app-root` is for `/`).
    pub only_path: Option<Arc<str>>,
}

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTo {
    /// To this URL.
    Url(Text),
    /// To the same scheme and host, with this path.
    Path(Arc<str>),
    /// To the same scheme, port and target, on this host (`from-to-www-redirect`).
    Host(Arc<str>),
    /// To what the path is rewritten to, a whole URL; the query is kept.
    Rewrite(PathRewrite),
}
