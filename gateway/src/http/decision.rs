//! Where a request goes: the one decision that the data plane takes and `explain` explains.

use std::sync::Arc;

use http::HeaderMap;
use tidegate_l4::endpoints::EndpointIndex;

use super::cookie_affinity;
use crate::{
    route::{Backend, Rule},
    snapshot::{Snapshot, Upstream},
};

/// Where a request goes.
#[derive(Debug)]
pub enum Decision<'a> {
    /// To nobody: no rule takes it. The answer is 404.
    NotFound,
    /// A rule takes it, but nothing can serve it. The answer is 503.
    Unavailable {
        /// The rule.
        rule: &'a Arc<Rule>,
        /// What is missing.
        reason: Unavailable<'a>,
    },
    /// To a pod.
    Forward {
        /// The rule.
        rule: &'a Arc<Rule>,
        /// The pods it may go to.
        upstream: &'a Arc<Upstream>,
        /// The one that the request's session cookie names.
        pinned: Option<EndpointIndex>,
    },
}

/// Why a rule cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable<'a> {
    /// Its backend does not exist, for this reason.
    Missing(&'a str),
    /// Its Service has no usable endpoint.
    NoEndpoint,
}

impl Unavailable<'_> {
    /// The reason as a sentence about `service` (`namespace/service:port`).
    pub fn describe(&self, service: &str) -> String {
        match self {
            Self::Missing(reason) => format!("{service}: {reason}"),
            Self::NoEndpoint => format!("no endpoint of {service} is ready"),
        }
    }
}

/// Where a request for `host` (as in its `Host` field) and `path` goes under `snapshot`.
pub fn decide<'a>(snapshot: &'a Snapshot, host: &str, path: &str, headers: &HeaderMap) -> Decision<'a> {
    let Some(rule) = snapshot.routes.find(host, path).rule else { return Decision::NotFound };
    let id = match &rule.backend {
        Backend::Upstream { id, .. } => id,
        Backend::Missing { reason, .. } => {
            return Decision::Unavailable { rule, reason: Unavailable::Missing(reason) };
        }
    };
    let usable = snapshot.upstreams.get(id.0 as usize).filter(|upstream| !upstream.endpoints.is_empty());
    let Some(upstream) = usable else {
        return Decision::Unavailable { rule, reason: Unavailable::NoEndpoint };
    };
    let pinned = upstream.cookie.as_ref().and_then(|cookie| {
        let session = cookie_affinity::session(headers, &cookie.affinity.name)?;
        cookie.map.find(session.key).map(EndpointIndex)
    });
    Decision::Forward { rule, upstream, pinned }
}
