//! Where a request goes: the one decision that the data plane takes and `explain` explains.

use std::sync::Arc;

use tidegate_l4::{
    endpoints::{EndpointIndex, client_key},
    model::Balance,
};

use super::{
    cookie_affinity,
    facts::Facts,
    split::{self, Turn},
    template,
};
use crate::{
    route::{Backend, Found, Rule, UpstreamId},
    snapshot::{Snapshot, Upstream},
};

/// Where the load balancers of clouds ask whether we are there. They may ask the ports alone that they send connections to, and know no
/// host; ingress-nginx answers here, too (`--health-check-path`).
pub const HEALTH_PATH: &str = "/healthz";

/// Where a request goes.
#[derive(Debug)]
pub enum Decision<'a> {
    /// To nobody, as it asks for us: [`HEALTH_PATH`] of a host that no rule names, unless a rule names this path. The answer is 200,
    /// and 503 when we are about to end.
    Health,
    /// To nobody. The answer is 404.
    NotFound {
        /// A rule that takes it all the same: what an Ingress says about its whole host.
        rule: Option<&'a Arc<Rule>>,
    },
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
        /// The rule's backend, or that of its canary.
        backend: &'a Backend,
        /// The pods it may go to.
        upstream: &'a Arc<Upstream>,
        /// The one that the request's session cookie names.
        pinned: Option<EndpointIndex>,
        /// Requests with the same go to the same pod: what `upstream-hash-by` makes of it, or the client where the Service's
        /// rule of choice is a hash.
        hash: Option<u64>,
    },
}

impl<'a> Decision<'a> {
    /// The rule that takes it, whose filters apply whether or not there is anybody to forward to.
    pub fn rule(&self) -> Option<&'a Arc<Rule>> {
        match self {
            Self::Health => None,
            Self::NotFound { rule } => *rule,
            Self::Unavailable { rule, .. } | Self::Forward { rule, .. } => Some(rule),
        }
    }
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

/// Where a request goes under `snapshot`. `draw` gives a number below the one it is given, each equally likely; it is asked at
/// most once, and only where a weight decides.
pub fn decide<'a>(snapshot: &'a Snapshot, facts: &Facts<'_>, draw: impl FnOnce(u32) -> u32) -> Decision<'a> {
    let found = snapshot.routes.find(facts.host, facts.path);
    if facts.path == HEALTH_PATH && snapshot.routes.is_of_any_host(&found) && !names_health_path(&found) {
        return Decision::Health;
    }
    let Some(rule) = found.rule else {
        return Decision::NotFound { rule: None };
    };
    let mut backend = &rule.backend;
    let id = match backend {
        Backend::Upstream { id, .. } => *id,
        Backend::None { .. } => return Decision::NotFound { rule: Some(rule) },
        Backend::Missing { reason, .. } => {
            return Decision::Unavailable { rule, reason: Unavailable::Missing(reason) };
        }
    };
    let Some(mut upstream) = usable(snapshot, id) else {
        return Decision::Unavailable { rule, reason: Unavailable::NoEndpoint };
    };
    if let Some(split) = &rule.split {
        let canary = match &split.backend {
            Backend::Upstream { id, .. } => usable(snapshot, *id),
            Backend::Missing { .. } | Backend::None { .. } => None,
        };
        let chosen = match split::turn(split, upstream, canary.map(|canary| &**canary), facts) {
            Turn::Main(_) => false,
            Turn::Canary(_) => true,
            // ingress-nginx: a total below 100 is 100; the compiler sees to that.
            Turn::ByLot { weight: 0, .. } => false,
            Turn::ByLot { weight, total } => draw(total) < weight,
        };
        if let (true, Some(canary)) = (chosen, canary) {
            (backend, upstream) = (&split.backend, canary);
        }
    }
    let pinned = upstream.cookie.as_ref().and_then(|cookie| {
        let session = cookie_affinity::session(facts.headers, &cookie.affinity.name)?;
        cookie.map.find(session.key).map(EndpointIndex)
    });
    Decision::Forward { rule, backend, upstream, pinned, hash: hash(rule, upstream, facts) }
}

fn names_health_path(found: &Found<'_>) -> bool {
    let path = found.rule.and_then(|rule| rule.path.as_ref());
    path.is_some_and(|path| path.as_str().starts_with(HEALTH_PATH))
}

fn usable(snapshot: &Snapshot, id: UpstreamId) -> Option<&Arc<Upstream>> {
    snapshot.upstreams.get(id.0 as usize).filter(|upstream| !upstream.endpoints.is_empty())
}

/// The key of `upstream-hash-by`, or else of the client if that is the Service's rule of choice: then a client comes to the
/// same pod by its requests as by its connections to the Service. It is the same in every replica.
fn hash(rule: &Rule, upstream: &Upstream, facts: &Facts<'_>) -> Option<u64> {
    let Some(by) = upstream.hash_by() else {
        return (upstream.balance(None) == Balance::Hash).then(|| client_key(facts.client));
    };
    let mut hasher = crc32fast::Hasher::new();
    template::write(by, rule, facts, &mut |part| hasher.update(part));
    Some(u64::from(hasher.finalize()))
}

#[cfg(test)]
mod tests;
