//! Canaries: some requests of another Ingress go to this one's Service.

use http::HeaderName;

use super::{
    Row,
    Scope::Location,
    values::{boolean, number},
    yes,
};
use crate::route::pattern::Pattern;

/// What `canary-*` says; it counts with `canary: "true"` only.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CanaryOptions {
    pub(crate) enabled: bool,
    pub(crate) header: Option<HeaderName>,
    pub(crate) header_value: Option<String>,
    pub(crate) header_pattern: Option<Pattern>,
    pub(crate) cookie: Option<String>,
    pub(crate) weight: u32,
    pub(crate) total: Option<u32>,
    /// `affinity-canary-behavior: legacy`.
    pub(crate) own_affinity: bool,
}

pub(super) const ROWS: &[Row] = &[
    yes(
        "canary",
        "`true`: this Ingress takes some requests of the main one that has the same host, path and path type.",
        Location,
        |options, value| boolean(value).map(|value| options.canary.enabled = value),
    ),
    yes(
        "canary-by-cookie",
        "A cookie of this name: `always` sends to the canary, `never` does not.",
        Location,
        |options, value| {
            options.canary.cookie = Some(value.to_owned());
            Ok(())
        },
    ),
    yes(
        "canary-by-header",
        "A field of this name: `always` sends to the canary, `never` does not.",
        Location,
        |options, value| {
            let name = HeaderName::from_bytes(value.as_bytes()).map_err(|_| "the name of a field")?;
            options.canary.header = Some(name);
            Ok(())
        },
    ),
    yes(
        "canary-by-header-pattern",
        "The field sends to the canary if its value matches; without effect beside `canary-by-header-value`.",
        Location,
        |options, value| {
            let pattern = Pattern::new(value).map_err(|error| format!("a regular expression: {error}"))?;
            options.canary.header_pattern = Some(pattern);
            Ok(())
        },
    ),
    yes(
        "canary-by-header-value",
        "The field sends to the canary if this is its value, instead of `always`.",
        Location,
        |options, value| {
            options.canary.header_value = Some(value.to_owned());
            Ok(())
        },
    ),
    yes(
        "canary-weight",
        "As many requests of `canary-weight-total` go to the canary, drawn by lot; header and cookie come first.",
        Location,
        |options, value| number(value).map(|value| options.canary.weight = value),
    ),
    yes("canary-weight-total", "What the weight is a part of: 100 (default) or more.", Location, |options, value| {
        options.canary.total =
            Some(number(value).ok().filter(|total| *total >= 100).ok_or("a whole number, 100 or more")?);
        Ok(())
    }),
];
