//! Hosts and paths of an Ingress as they are written.

use std::{net::IpAddr, sync::Arc};

use tidegate_crd::ingress::HTTPIngressPath;

use super::super::finding::Report;
use crate::route::{HostName, normalise::normalise};

/// A host, in any case; empty or `*` for any. The error says what is wrong with it, and what to do.
pub(crate) fn parse(host: &str) -> Result<HostName, (String, &'static str)> {
    if host.is_empty() || host == "*" {
        return Ok(HostName::Any);
    }
    let host = host.to_ascii_lowercase();
    let (wildcard, name) = match host.strip_prefix("*.") {
        Some(suffix) => (true, suffix),
        None => (false, host.as_str()),
    };
    if name.parse::<IpAddr>().is_ok() {
        let message = format!("{host:?} is an address, and a host must be a name.");
        return Err((message, "Leave host out to serve every host."));
    }
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        let fix = "Write a DNS name such as kubia.example.com, or *.example.com.";
        return Err((format!("{host:?} is not a host name."), fix));
    }
    Ok(if wildcard { HostName::Wildcard(name.into()) } else { HostName::Exact(name.into()) })
}

/// A path as it is written, before it is known how its host reads paths.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Written {
    pub(crate) path: Arc<str>,
    pub(crate) kind: PathType,
}

/// `pathType`. ingress-nginx takes `ImplementationSpecific` for `Prefix`, and so it is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PathType {
    Exact,
    Prefix,
}

impl Written {
    /// Reads a path; `None` if it cannot be served.
    pub(crate) fn read(path: &HTTPIngressPath, field: &str, report: &mut Report<'_>) -> Option<Self> {
        let text: Arc<str> = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/").into();
        let bad = |report: &mut Report<'_>, message: String| {
            report.error("InvalidPath", &format!("{field}.path"), message, "Write a path such as /shop.");
            None
        };
        if !text.starts_with('/') {
            return bad(report, format!("{text:?} does not begin with /."));
        }
        let lower = text.to_ascii_lowercase();
        let strict = path.path_type != "ImplementationSpecific";
        if strict && let Some(part) = ["//", "/./", "/../", "%2f", "%5c"].into_iter().find(|part| lower.contains(part))
        {
            return bad(report, format!("{text:?} contains {part:?}, which the API does not allow."));
        }
        if strict && normalise(&text).is_err() {
            return bad(report, format!("{text:?} is not a path that a request can have."));
        }
        let kind = match path.path_type.as_str() {
            "Exact" => PathType::Exact,
            "Prefix" | "ImplementationSpecific" | "" => PathType::Prefix,
            other => {
                report.error(
                    "InvalidPathType",
                    &format!("{field}.pathType"),
                    format!("there is no path type {other:?}."),
                    "Write Prefix, Exact or ImplementationSpecific.",
                );
                return None;
            }
        };
        Some(Self { path: text, kind })
    }
}
