//! `ControllerStatus`: who leads, what was written, and which permission is missing; for the log, the metrics and readiness.
//!
//! The controller writes it, the admin interface reads it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    compile::finding::{Finding, Severity},
    control::kubernetes::failure::Failure,
};

/// Stands where the name of a file would.
const LABEL: &str = "kubernetes";

/// What is missing without the addresses.
const UNPUBLISHED: &str = "the status of Ingresses stays as it is";

/// Namespaces that are named one by one when a permission is missing in each of them.
const MAX_NAMED: usize = 5;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writing {
    /// The Lease of the leader.
    Lease,
    /// The status of Ingresses.
    IngressStatus,
    /// The status of LoadBalancer Services.
    ServiceStatus,
    /// The status of LoadBalancerPools.
    PoolStatus,
    /// The status of IngressClassParameters.
    ParametersStatus,
    /// Events about findings.
    Event,
}

impl Writing {
    /// Everything that is written.
    pub const ALL: [Self; 6] =
        [Self::Lease, Self::IngressStatus, Self::ServiceStatus, Self::PoolStatus, Self::ParametersStatus, Self::Event];

    /// Its name in permissions.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Lease => "leases",
            Self::IngressStatus => "ingresses/status",
            Self::ServiceStatus => "services/status",
            Self::PoolStatus => "loadbalancerpools/status",
            Self::ParametersStatus => "ingressclassparameters/status",
            Self::Event => "events",
        }
    }

    /// What one must be permitted to do with it.
    fn verbs(self) -> &'static str {
        match self {
            Self::Lease => "get, create and update",
            Self::IngressStatus | Self::ServiceStatus | Self::PoolStatus | Self::ParametersStatus => "patch",
            Self::Event => "create and patch",
        }
    }

    /// What is missing without it.
    fn without(self) -> &'static str {
        match self {
            Self::Lease => "no replica can lead, and nothing is written to the cluster; all is served as ever",
            Self::IngressStatus => "Ingresses are served, but their status shows no address",
            Self::ServiceStatus => "LoadBalancer Services are given no address",
            Self::PoolStatus => "LoadBalancerPools do not say how much of them is used",
            Self::ParametersStatus => "IngressClassParameters hold, but do not say so",
            Self::Event => "what is wrong with objects is in /findings and the log, but not in kubectl describe",
        }
    }
}

/// What came of something that was to be written.
const RESULTS: [&str; 6] = ["done", "conflict", "forbidden", "gone", "refused", "unreachable"];

/// How the controller does.
#[derive(Debug, Default)]
pub struct ControllerStatus {
    leads: AtomicBool,
    written: [[AtomicU64; RESULTS.len()]; Writing::ALL.len()],
    failing: Mutex<BTreeMap<Writing, BTreeMap<Arc<str>, Failure>>>,
    /// Why it is not known which addresses to show.
    unpublished: Mutex<Option<String>>,
}

impl ControllerStatus {
    /// Whether this replica is the leader.
    pub fn is_leader(&self) -> bool {
        self.leads.load(Relaxed)
    }

    /// What was written, by resource and result.
    pub fn written(&self) -> impl Iterator<Item = (Writing, &'static str, u64)> {
        Writing::ALL.into_iter().flat_map(move |writing| {
            let counts = &self.written[writing as usize];
            RESULTS.iter().zip(counts).map(move |(result, count)| (writing, *result, count.load(Relaxed)))
        })
    }

    /// What cannot be written, a line for each resource. It is so now.
    pub fn report(&self) -> String {
        let line = |(writing, failing): (&Writing, &BTreeMap<Arc<str>, Failure>)| {
            let (place, failure) = (place(*writing, failing), failing.values().next()?);
            Some(format!("{place}: {failure}; {}\n", writing.without()))
        };
        let unpublished = lock(&self.unpublished).clone().map(|why| format!("{why}; {UNPUBLISHED}\n"));
        lock(&self.failing).iter().filter_map(line).chain(unpublished).collect()
    }

    /// The permissions that are missing.
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |(writing, failing): (&Writing, &BTreeMap<Arc<str>, Failure>)| {
            let mut forbidden = failing.clone();
            forbidden.retain(|_, failure| matches!(failure, Failure::Forbidden { .. }));
            let failure = forbidden.values().next()?;
            let message = format!("{}: {failure}; {}.", place(*writing, &forbidden), writing.without());
            let (verbs, resource) = (writing.verbs(), writing.resource());
            let fix = format!("Grant {verbs} of {resource} to the account that Tidegate runs as.");
            Some(warning("Forbidden", message, fix))
        };
        let unpublished = lock(&self.unpublished).clone().map(|why| {
            let fix = "Name a Service that is there and may be listed with --publish-service.".to_owned();
            warning("NoAddress", format!("{why}; {UNPUBLISHED}."), fix)
        });
        lock(&self.failing).iter().filter_map(finding).chain(unpublished).collect()
    }

    pub(super) fn set_leader(&self, leads: bool) {
        self.leads.store(leads, Relaxed);
    }

    /// Somebody else was quicker.
    pub(super) fn conflicted(&self, writing: Writing) {
        self.count(writing, 1);
    }

    /// Something was written in a namespace, or could not be. Goes to the log when it is news.
    pub(super) fn done(&self, writing: Writing, namespace: &str, failure: Option<&Failure>) {
        self.count(writing, failure.map_or(0, |failure| failure.reason() + 2));
        let mut all = lock(&self.failing);
        let failing = all.entry(writing).or_default();
        let Some(failure) = failure else {
            if failing.remove(namespace).is_some() {
                tracing::info!("{} can be written again", one_place(writing, namespace));
            }
            if failing.is_empty() {
                all.remove(&writing);
            }
            return;
        };
        let before = failing.insert(namespace.into(), failure.clone());
        if before.is_none_or(|before| before.reason() != failure.reason()) {
            tracing::warn!("{}: {failure}; {}", one_place(writing, namespace), writing.without());
        }
    }

    /// Why it is not known which addresses Ingresses are to show, if it is not. Goes to the log when it is news.
    pub(super) fn set_unpublished(&self, why: Option<String>) {
        let mut unpublished = lock(&self.unpublished);
        if let Some(why) = why.as_ref().filter(|why| unpublished.as_ref() != Some(why)) {
            tracing::warn!("{why}; {UNPUBLISHED}");
        }
        *unpublished = why;
    }

    /// What is not ours to write any more fails no more.
    pub(super) fn forget(&self, writing: Writing) {
        lock(&self.failing).remove(&writing);
    }

    fn count(&self, writing: Writing, result: usize) {
        self.written[writing as usize][result].fetch_add(1, Relaxed);
    }
}

fn warning(reason: &'static str, message: String, fix: String) -> Finding {
    let (severity, file) = (Severity::Warning, Path::new(LABEL).into());
    Finding { severity, reason, object: None, file, line: 0, field: None, message, fix }
}

/// `ingresses/status in namespace a`; what is of the whole cluster has no namespace.
fn one_place(writing: Writing, namespace: &str) -> String {
    match namespace {
        "" => writing.resource().to_owned(),
        namespace => format!("{} in namespace {namespace}", writing.resource()),
    }
}

/// `ingresses/status in namespaces a, b and 3 more`.
fn place(writing: Writing, failing: &BTreeMap<Arc<str>, Failure>) -> String {
    if let [namespace] = *failing.keys().collect::<Vec<_>>() {
        return one_place(writing, namespace);
    }
    let named: Vec<&str> = failing.keys().take(MAX_NAMED).map(|namespace| &**namespace).collect();
    let plural = if failing.len() == 1 { "" } else { "s" };
    let more = failing.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{} in namespace{plural} {}{more}", writing.resource(), named.join(", "))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever holds the lock only puts and takes whole values.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden() -> Failure {
        Failure::Forbidden { verb: "patch", message: "its words".to_owned() }
    }

    #[test]
    fn a_permission_that_is_missing_is_named_with_its_consequence() {
        let status = ControllerStatus::default();
        status.done(Writing::IngressStatus, "shop", None);
        assert_eq!((status.report(), status.findings()), (String::new(), Vec::new()));
        for namespace in ["a", "b", "c", "d", "e", "f", "f"] {
            status.done(Writing::IngressStatus, namespace, Some(&forbidden()));
        }
        let expected = "ingresses/status in namespaces a, b, c, d, e and 1 more: not permitted to patch (its words); \
                        Ingresses are served, but their status shows no address";
        assert_eq!(status.report(), format!("{expected}\n"));
        let findings = status.findings();
        assert_eq!((findings.len(), findings[0].reason), (1, "Forbidden"));
        assert_eq!(findings[0].message, format!("{expected}."));
        for namespace in ["a", "b", "c", "d", "e", "f"] {
            status.done(Writing::IngressStatus, namespace, None);
        }
        assert_eq!((status.report(), status.findings()), (String::new(), Vec::new()));
        let count = |wanted: &str| {
            let mut of_status = status.written().filter(|(writing, ..)| *writing == Writing::IngressStatus);
            of_status.find(|(_, result, _)| *result == wanted).map(|(.., count)| count)
        };
        assert_eq!((count("done"), count("forbidden"), count("refused")), (Some(7), Some(7), Some(0)));
    }

    #[test]
    fn a_server_that_is_away_is_no_permission_that_is_missing() {
        let status = ControllerStatus::default();
        let away = Failure::Unreachable { message: "Connection refused".to_owned() };
        status.done(Writing::Lease, "tidegate", Some(&away));
        assert!(status.report().starts_with("leases in namespace tidegate: Connection refused; "));
        assert_eq!(status.findings(), []);
        status.forget(Writing::Lease);
        assert_eq!(status.report(), "");
    }
}
