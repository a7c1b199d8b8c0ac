//! Paths: how they are matched, and what pods are asked for instead.

use super::{
    Row,
    Scope::{Host, Location},
    values::{Expected, boolean, path},
    yes,
};

/// Paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RewriteOptions {
    pub(crate) target: Option<String>,
    pub(crate) use_regex: bool,
    pub(crate) forwarded_prefix: Option<http::HeaderValue>,
    /// `tidegate.io/rewrite-prefix`.
    pub(crate) prefix: Option<String>,
}

pub(super) const ROWS: &[Row] = &[
    yes(
        "rewrite-target",
        "Pods are asked for this path instead, `$1` to `$9` being the groups of the rule's path. Puts the host into regex mode.",
        Location,
        |options, value| target(value).map(|target| options.rewrite.target = Some(target)),
    ),
    yes(
        "use-regex",
        "`true`: every path of the host, in all its Ingresses, is a pattern: bound in front, open behind, blind to case; the \
         longest comes first.",
        Host,
        |options, value| boolean(value).map(|value| options.rewrite.use_regex = value),
    ),
    yes(
        "x-forwarded-prefix",
        "Sets `X-Forwarded-Prefix` on requests whose path is rewritten.",
        Location,
        |options, value| {
            let value = path(value)?;
            options.rewrite.forwarded_prefix = http::HeaderValue::from_str(value).ok();
            Ok(())
        },
    ),
];

pub(super) const OWN: &[Row] = &[yes(
    "rewrite-prefix",
    "The rule's path, by whole elements, becomes this path; the rest of the request's path stays.",
    Location,
    |options, value| path(value).map(|path| options.rewrite.prefix = Some(path.to_owned())),
)];

/// ingress-nginx's alphabet for a target; `$` is for groups only.
fn target(value: &str) -> Result<String, Expected> {
    let expected = || Expected::from("a path of letters, digits and -._~/: with $1 to $9 for groups");
    let starts = ["/", "$", "http://", "https://"].iter().any(|start| value.starts_with(start));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:$".contains(c);
    let groups = value.split('$').skip(1).all(|after| after.starts_with(|c: char| c.is_ascii_digit()));
    if starts && value.chars().all(is_plain) && groups { Ok(value.to_owned()) } else { Err(expected()) }
}
