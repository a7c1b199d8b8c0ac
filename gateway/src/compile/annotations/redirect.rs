//! Answers that send the client elsewhere.

use http::StatusCode;

use super::{
    Row,
    Scope::{Host, Location},
    closing,
    values::{Expected, boolean, path},
    yes,
};
use crate::route::{filter::Text, template::Template};

/// Redirects.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RedirectOptions {
    pub(crate) app_root: Option<String>,
    pub(crate) permanent: Option<Text>,
    pub(crate) permanent_code: StatusCode,
    pub(crate) temporal: Option<Text>,
    pub(crate) temporal_code: StatusCode,
    pub(crate) https: bool,
    pub(crate) https_always: bool,
    pub(crate) preserve_trailing_slash: bool,
    pub(crate) www: bool,
}

impl Default for RedirectOptions {
    fn default() -> Self {
        Self {
            app_root: None,
            permanent: None,
            permanent_code: StatusCode::MOVED_PERMANENTLY,
            temporal: None,
            temporal_code: StatusCode::FOUND,
            https: true,
            https_always: false,
            preserve_trailing_slash: false,
            www: false,
        }
    }
}

pub(super) const ROWS: &[Row] = &[
    yes("app-root", "`GET /` is sent to this path, with 302.", Host, |options, value| {
        path(value).map(|path| options.redirect.app_root = Some(path.to_owned()))
    }),
    yes(
        "force-ssl-redirect",
        "`true`: requests without TLS are sent to `https`, even if the host has no certificate here.",
        Location,
        |options, value| boolean(value).map(|value| options.redirect.https_always = value),
    ),
    yes(
        "from-to-www-redirect",
        "`true`: `www.HOST` is sent to `HOST`, or the other way round, with 308, unless an Ingress names both.",
        Host,
        |options, value| boolean(value).map(|value| options.redirect.www = value),
    ),
    closing(
        "permanent-redirect",
        "Every request is sent to this URL; variables are replaced, the request's path is not appended.",
        Location,
        |options, value| url(value).map(|url| options.redirect.permanent = Some(url)),
    ),
    yes("permanent-redirect-code", "Its status: 300 to 308, 301 otherwise.", Location, |options, value| {
        code(value, 300..=308).map(|code| options.redirect.permanent_code = code)
    }),
    yes(
        "preserve-trailing-slash",
        "`true`: the redirect to `https` keeps a final `/` of the target.",
        Location,
        |options, value| boolean(value).map(|value| options.redirect.preserve_trailing_slash = value),
    ),
    yes(
        "ssl-redirect",
        "`false`: requests without TLS are served, though the host has TLS; otherwise they are sent to `https` with 308.",
        Location,
        |options, value| boolean(value).map(|value| options.redirect.https = value),
    ),
    closing(
        "temporal-redirect",
        "The same as `permanent-redirect`, with 302; of both, this one counts.",
        Location,
        |options, value| url(value).map(|url| options.redirect.temporal = Some(url)),
    ),
    yes("temporal-redirect-code", "Its status: 300 to 307, 302 otherwise.", Location, |options, value| {
        code(value, 300..=307).map(|code| options.redirect.temporal_code = code)
    }),
];

/// A URL, perhaps with variables. What a browser would take for a script is none.
fn url(value: &str) -> Result<Text, Expected> {
    let expected = || Expected::from("a URL such as https://example.com/new");
    let good_start = ["http://", "https://", "/", "$"].iter().any(|start| value.starts_with(start));
    if !good_start || value.chars().any(|c| c.is_whitespace() || c.is_control() || "\"'\\<>".contains(c)) {
        return Err(expected());
    }
    let template = Template::parse(value).map_err(|error| format!("a URL of known variables: {error}"))?;
    Text::of(template).ok_or_else(expected)
}

fn code(value: &str, allowed: std::ops::RangeInclusive<u16>) -> Result<StatusCode, Expected> {
    let code =
        value.parse().ok().filter(|code| allowed.contains(code)).and_then(|code| StatusCode::from_u16(code).ok());
    code.ok_or_else(|| format!("a status from {} to {}", allowed.start(), allowed.end()).into())
}
