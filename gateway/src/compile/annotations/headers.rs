//! Fields of requests and answers, and what of an answer names the pod.

use super::{
    Row,
    Scope::Location,
    closing,
    values::{Expected, field_names, fields},
    yes,
};
use crate::route::filter::{HeaderEdit, Prefix, Text};
use crate::route::template::Template;

/// Fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HeaderOptions {
    pub(crate) request: HeaderEdit,
    pub(crate) response: HeaderEdit,
    /// `upstream-vhost`.
    pub(crate) host: Option<Text>,
    /// `custom-headers`: a ConfigMap, `namespace/name` or `name`.
    pub(crate) config_map: Option<String>,
    pub(crate) cookie_domain: Option<Prefix>,
    pub(crate) cookie_path: Option<Prefix>,
    pub(crate) location_from: Option<String>,
    pub(crate) location_to: Option<String>,
}

pub(super) const ROWS: &[Row] = &[
    closing(
        "custom-headers",
        "Sets the fields of answers that this ConfigMap of the same namespace lists; if it is not there, or lists what may not be set: 503.",
        Location,
        |options, value| {
            let parts = value.split('/').collect::<Vec<_>>();
            if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
                return Err("the name of a ConfigMap, namespace/name".into());
            }
            options.headers.config_map = Some(value.to_owned());
            Ok(())
        },
    ),
    yes(
        "proxy-cookie-domain",
        "`FROM TO`: this `Domain` of the pod's cookies becomes that one; `off`.",
        Location,
        |options, value| pair(value).map(|pair| options.headers.cookie_domain = pair),
    ),
    yes(
        "proxy-cookie-path",
        "`FROM TO`: a `Path` of the pod's cookies that begins so begins so; `off`.",
        Location,
        |options, value| pair(value).map(|pair| options.headers.cookie_path = pair),
    ),
    yes(
        "proxy-redirect-from",
        "A `Location` of the pod's that begins so begins with `proxy-redirect-to`; `default` and `off` change nothing.",
        Location,
        |options, value| plain(value).map(|value| options.headers.location_from = Some(value)),
    ),
    yes("proxy-redirect-to", "See `proxy-redirect-from`.", Location, |options, value| {
        plain(value).map(|value| options.headers.location_to = Some(value))
    }),
    yes(
        "upstream-vhost",
        "The `Host` that pods see, with variables if you like; `X-Forwarded-Host` keeps the client's.",
        Location,
        |options, value| {
            let template = Template::parse(value).map_err(|error| format!("a host of known variables: {error}"))?;
            let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
            if template.literal().is_some_and(|host| host.is_empty() || !host.chars().all(is_host)) {
                return Err("a host such as shop.internal".into());
            }
            options.headers.host = Some(Text::of(template).ok_or("a host such as shop.internal")?);
            Ok(())
        },
    ),
];

pub(super) const OWN: &[Row] = &[
    yes("request-headers-add", "Fields added to requests: lines `Name: value`.", Location, |options, value| {
        fields(value).map(|fields| options.headers.request.add = fields.into())
    }),
    yes("request-headers-remove", "Names of fields that pods do not see.", Location, |options, value| {
        field_names(value).map(|names| options.headers.request.remove = names.into())
    }),
    yes(
        "request-headers-set",
        "Fields of requests, in place of the client's: lines `Name: value`.",
        Location,
        |options, value| fields(value).map(|fields| options.headers.request.set = fields.into()),
    ),
    yes("response-headers-add", "Fields added to answers: lines `Name: value`.", Location, |options, value| {
        fields(value).map(|fields| options.headers.response.add = fields.into())
    }),
    yes("response-headers-remove", "Names of fields that clients do not see.", Location, |options, value| {
        field_names(value).map(|names| options.headers.response.remove = names.into())
    }),
    yes(
        "response-headers-set",
        "Fields of answers, in place of the pod's: lines `Name: value`.",
        Location,
        |options, value| fields(value).map(|fields| options.headers.response.set = fields.into()),
    ),
];

/// `from to`, both plain text.
fn pair(value: &str) -> Result<Option<Prefix>, Expected> {
    if value == "off" {
        return Ok(None);
    }
    let words: Vec<&str> = value.split_whitespace().collect();
    let is_plain = |word: &str| !word.starts_with('~') && !word.contains(['$', ';', '"', '\'', ',']);
    match &words[..] {
        [from, to] if is_plain(from) && is_plain(to) => Ok(Some(Prefix { from: (*from).into(), to: (*to).into() })),
        _ => Err("two words, from and to, without variables or regular expressions, or off".into()),
    }
}

fn plain(value: &str) -> Result<String, Expected> {
    if value.starts_with('~')
        || value.contains(['$', '"', '\''])
        || value.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err("a URL or the beginning of one, without variables or regular expressions".into());
    }
    Ok(value.to_owned())
}
