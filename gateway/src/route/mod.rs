//! The intermediate representation of routing, and matching on it. Pure: no async, no clock, no I/O, no Kubernetes.
//!
//! Whatever API a rule came from, here it is a [`Rule`] under a [`Host`]; nobody downstream knows the difference. A
//! rule does not hold its endpoints but the number of its [`Upstream`](crate::snapshot::Upstream) in the snapshot:
//! endpoints change every second in a large cluster, rules do not, and so the table of rules is taken over whole.
//!
//! `hosts` finds the host, `paths` the rule, by the path as [`normalise`](mod@normalise) reads it; [`policy`] and [`filter`] are what is done with its requests, [`split`] sends
//! some of them elsewhere; `pattern` and `template` are texts of users', compiled; `sticky` is the data of cookie affinity,
//! `stats` the counters of a rule.

pub mod filter;
mod hosts;
pub mod normalise;
mod paths;
pub mod pattern;
pub mod policy;
pub mod split;
pub mod stats;
pub mod sticky;
pub mod template;

use std::sync::Arc;

pub use hosts::{Found, Host, HostName, RouteTable};
pub(crate) use hosts::{MAX_HOST_BYTES, normalise};
pub use paths::{PathMatch, Paths};

/// Position of an upstream in [`Snapshot::upstreams`](crate::snapshot::Snapshot::upstreams).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(pub u32);

/// One path of one host, and where its requests go.
#[derive(Debug)]
pub struct Rule {
    /// Who wrote it.
    pub owner: Owner,
    /// The host it belongs to, as a label for people and metrics; `*` for any.
    pub host: Arc<str>,
    /// What paths it takes; `None` for a default backend.
    pub path: Option<PathMatch>,
    /// Where requests go.
    pub backend: Backend,
    /// Which of them go elsewhere.
    pub split: Option<Box<split::Split>>,
    /// What else is done with them.
    pub policy: Arc<policy::Policy>,
    /// Whether a request on this rule may be given a cookie: only where the rule's own Ingress asks for affinity. A
    /// cookie that is already there is honoured on every rule of the same upstream.
    pub issues_cookie: bool,
    /// Counters, inherited from configuration to configuration.
    pub stats: Arc<stats::RuleStats>,
}

impl Rule {
    /// Whether the other differs in nothing but its counters.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let Self { owner, host, path, backend, split, policy, issues_cookie, stats: _ } = self;
        *owner == other.owner
            && *host == other.host
            && *path == other.path
            && *backend == other.backend
            && *split == other.split
            && (Arc::ptr_eq(policy, &other.policy) || *policy == other.policy)
            && *issues_cookie == other.issues_cookie
    }
}

/// The object a rule was written in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where the requests of a rule go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// To the endpoints of a service port.
    Upstream {
        /// Which one.
        id: UpstreamId,
        /// `namespace/service:port`, for people and metrics.
        service: Arc<str>,
    },
    /// To nothing that exists: the answer is 503, and the message says why.
    Missing {
        /// `namespace/service:port` as written.
        service: Arc<str>,
        /// Why there is nothing.
        reason: Arc<str>,
    },
    /// To nothing, as nothing is written: the answer is 404, unless a filter answers first. It carries what an Ingress says
    /// about its whole host to the paths that no rule takes.
    None {
        /// A name for it, for people and metrics.
        service: Arc<str>,
    },
}

impl Backend {
    /// `namespace/service:port`.
    pub fn service(&self) -> &Arc<str> {
        match self {
            Self::Upstream { service, .. } | Self::Missing { service, .. } | Self::None { service } => service,
        }
    }
}
