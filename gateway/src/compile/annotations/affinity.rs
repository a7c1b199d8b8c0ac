//! Session cookies.

use super::{
    Row,
    Scope::Upstream,
    values::{boolean, cookie_seconds},
    yes,
};
use crate::route::sticky::{AffinityMode, SameSite};

pub(super) const ROWS: &[Row] = &[
    yes(
        "affinity",
        "`cookie`: requests with the same session cookie go to the same pod.",
        Upstream,
        |options, value| {
            options.affinity = value == "cookie";
            if options.affinity { Ok(()) } else { Err("cookie, the only affinity there is".into()) }
        },
    ),
    yes(
        "affinity-canary-behavior",
        "On a canary: `sticky` gives it the session cookie of the main Ingress, `legacy` does not.",
        Upstream,
        |options, value| {
            options.canary.own_affinity = match value {
                "sticky" => false,
                "legacy" => true,
                _ => return Err("sticky or legacy".into()),
            };
            Ok(())
        },
    ),
    yes(
        "affinity-mode",
        "`balanced` (default): new pods take over their share of the sessions. `persistent`: sessions stay while their pod exists.",
        Upstream,
        |options, value| {
            options.cookie.mode = match value {
                "balanced" => AffinityMode::Balanced,
                "persistent" => AffinityMode::Persistent,
                _ => return Err("balanced or persistent".into()),
            };
            Ok(())
        },
    ),
    yes(
        "session-cookie-change-on-failure",
        "`true`: a session moves to another pod when its own cannot be reached.",
        Upstream,
        |options, value| boolean(value).map(|value| options.cookie.change_on_failure = value),
    ),
    yes(
        "session-cookie-conditional-samesite-none",
        "`true`: leave `SameSite=None` out for browsers known to refuse it.",
        Upstream,
        |options, value| boolean(value).map(|value| options.cookie.conditional_samesite_none = value),
    ),
    yes("session-cookie-domain", "The cookie's `Domain`.", Upstream, |options, value| {
        if value.contains([';', ',']) || value.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("a host name".into());
        }
        options.cookie.domain = Some(value.into());
        Ok(())
    }),
    yes(
        "session-cookie-expires",
        "Seconds from the first answer to the cookie's `Expires`.",
        Upstream,
        |options, value| cookie_seconds(value).map(|seconds| options.cookie.expires = Some(seconds)),
    ),
    yes("session-cookie-max-age", "The cookie's `Max-Age` in seconds.", Upstream, |options, value| {
        cookie_seconds(value).map(|seconds| options.cookie.max_age = Some(seconds))
    }),
    yes("session-cookie-name", "The cookie's name; `INGRESSCOOKIE` otherwise.", Upstream, |options, value| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        if !value.chars().all(allowed) {
            return Err("a cookie's name: letters, digits and -._~".into());
        }
        options.cookie.name = value.into();
        Ok(())
    }),
    yes("session-cookie-path", "The cookie's `Path`; the path of the rule otherwise.", Upstream, |options, value| {
        if !value.starts_with('/') || value.contains(';') || value.chars().any(|c| c.is_ascii_control()) {
            return Err("a path that begins with /".into());
        }
        options.cookie.path = Some(value.into());
        Ok(())
    }),
    yes(
        "session-cookie-samesite",
        "The cookie's `SameSite`: `None`, `Lax` or `Strict`.",
        Upstream,
        |options, value| {
            options.cookie.samesite = SameSite::from_exact(value);
            if options.cookie.samesite.is_some() { Ok(()) } else { Err("None, Lax or Strict, spelled just so".into()) }
        },
    ),
    yes(
        "session-cookie-secure",
        "`true`: the cookie is always `Secure`; otherwise only where the client uses TLS.",
        Upstream,
        |options, value| boolean(value).map(|value| options.cookie.secure = value),
    ),
];
