//! `ControllerStatus`: who leads, what was written, and which permission is missing; for the log, the metrics and readiness.
//!
//! The controller writes it, the admin interface reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use super::limits::FORBIDDEN_SETTLE;
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

/// What went wrong in a namespace last.
#[derive(Debug)]
struct Failing {
    failure: Failure,
    since: Instant,
    /// It has gone on for long enough to be believed.
    is_settled: bool,
}

impl Failing {
    fn is_forbidden(&self) -> bool {
        matches!(self.failure, Failure::Forbidden { .. })
    }
}

/// How the controller does.
#[derive(Debug, Default)]
pub struct ControllerStatus {
    leads: AtomicBool,
    written: [[AtomicU64; RESULTS.len()]; Writing::ALL.len()],
    failing: Mutex<BTreeMap<Writing, BTreeMap<Arc<str>, Failing>>>,
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
        let line = |(writing, failing): (&Writing, &BTreeMap<Arc<str>, Failing>)| {
            let failing = settled(failing, |_| true);
            let (place, failure) = (place(*writing, &failing), failing.values().next()?);
            Some(format!("{place}: {failure}; {}\n", writing.without()))
        };
        let unpublished = lock(&self.unpublished).clone().map(|why| format!("{why}; {UNPUBLISHED}\n"));
        lock(&self.failing).iter().filter_map(line).chain(unpublished).collect()
    }

    /// The permissions that are missing.
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |(writing, failing): (&Writing, &BTreeMap<Arc<str>, Failing>)| {
            let forbidden = settled(failing, Failing::is_forbidden);
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

    /// Somebody else was quicker, or what was to be written is gone: at least we might have.
    pub(super) fn conflicted(&self, writing: Writing, namespace: &str) {
        self.count(writing, 1);
        self.well(writing, namespace);
    }

    /// Something was written in a namespace, or could not be. Goes to the log when it is news. Whether a permission is missing is believed
    /// after a while: see [`FORBIDDEN_SETTLE`].
    pub(super) fn done(&self, writing: Writing, namespace: &str, failure: Option<&Failure>) {
        self.count(writing, failure.map_or(0, |failure| failure.reason() + 2));
        let Some(failure) = failure.cloned() else { return self.well(writing, namespace) };
        let now = Instant::now();
        let mut failing = Failing { failure, since: now, is_settled: true };
        let mut all = lock(&self.failing);
        let before = all.entry(writing).or_default().remove(namespace);
        if let Some(before) = before.as_ref().filter(|before| before.is_forbidden() == failing.is_forbidden()) {
            failing.since = before.since;
        }
        failing.is_settled = !failing.is_forbidden() || now - failing.since >= FORBIDDEN_SETTLE;
        let was_known = |before: &Failing| before.is_settled && before.failure.reason() == failing.failure.reason();
        if failing.is_settled && !before.as_ref().is_some_and(was_known) {
            tracing::warn!("{}: {}; {}", one_place(writing, namespace), failing.failure, writing.without());
        }
        all.entry(writing).or_default().insert(namespace.into(), failing);
    }

    /// Nothing is wrong there.
    pub(super) fn well(&self, writing: Writing, namespace: &str) {
        let mut all = lock(&self.failing);
        let Some(failing) = all.get_mut(&writing) else { return };
        if failing.remove(namespace).is_some_and(|failing| failing.is_settled) {
            tracing::info!("{} can be written again", one_place(writing, namespace));
        }
        if failing.is_empty() {
            all.remove(&writing);
        }
    }

    /// Where nothing is to be written any more, nothing fails: only these namespaces are left.
    pub(super) fn keep(&self, writing: Writing, planned: impl FnOnce() -> BTreeSet<Arc<str>>) {
        let mut all = lock(&self.failing);
        let Some(failing) = all.get_mut(&writing) else { return };
        let planned = planned();
        failing.retain(|namespace, _| planned.contains(namespace));
        if failing.is_empty() {
            all.remove(&writing);
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

/// Those that are to be believed, and of this kind.
fn settled(failing: &BTreeMap<Arc<str>, Failing>, of: fn(&Failing) -> bool) -> BTreeMap<&str, &Failure> {
    let settled = failing.iter().filter(|(_, failing)| failing.is_settled && of(failing));
    settled.map(|(namespace, failing)| (&**namespace, &failing.failure)).collect()
}

/// `ingresses/status in namespaces a, b and 3 more`.
fn place(writing: Writing, failing: &BTreeMap<&str, &Failure>) -> String {
    if let [namespace] = *failing.keys().collect::<Vec<_>>() {
        return one_place(writing, namespace);
    }
    let named: Vec<&str> = failing.keys().take(MAX_NAMED).copied().collect();
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

    fn said(status: &ControllerStatus) -> (String, usize) {
        (status.report(), status.findings().len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_permission_that_is_missing_is_named_with_its_consequence() {
        let status = ControllerStatus::default();
        status.done(Writing::IngressStatus, "shop", None);
        let namespaces = ["a", "b", "c", "d", "e", "f", "f"];
        for namespace in namespaces {
            status.done(Writing::IngressStatus, namespace, Some(&forbidden()));
        }
        assert_eq!(said(&status), (String::new(), 0), "an API server that has just begun forbids everything");
        tokio::time::advance(FORBIDDEN_SETTLE).await;
        for namespace in namespaces {
            status.done(Writing::IngressStatus, namespace, Some(&forbidden()));
        }
        let expected = "ingresses/status in namespaces a, b, c, d, e and 1 more: not permitted to patch (its words); \
                        Ingresses are served, but their status shows no address";
        assert_eq!(status.report(), format!("{expected}\n"));
        let findings = status.findings();
        assert_eq!((findings.len(), findings[0].reason), (1, "Forbidden"));
        assert_eq!(findings[0].message, format!("{expected}."));
        for namespace in namespaces {
            status.done(Writing::IngressStatus, namespace, None);
        }
        assert_eq!(said(&status), (String::new(), 0));
        let count = |wanted: &str| {
            let mut of_status = status.written().filter(|(writing, ..)| *writing == Writing::IngressStatus);
            of_status.find(|(_, result, _)| *result == wanted).map(|(.., count)| count)
        };
        assert_eq!((count("done"), count("forbidden"), count("refused")), (Some(8), Some(14), Some(0)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_to_be_written_any_more_fails_no_more() {
        let status = ControllerStatus::default();
        let fail = async |namespaces: &[&str]| {
            for _ in 0..2 {
                namespaces.iter().for_each(|one| status.done(Writing::Event, one, Some(&forbidden())));
                tokio::time::advance(FORBIDDEN_SETTLE).await;
            }
        };
        fail(&["gone", "shop"]).await;
        assert!(status.report().starts_with("events in namespaces gone, shop: "));
        status.keep(Writing::Event, || BTreeSet::from(["shop".into(), "new".into()]));
        assert!(status.report().starts_with("events in namespace shop: "));
        // It is gone meanwhile, or somebody else was quicker: so we may write there.
        status.conflicted(Writing::Event, "shop");
        assert_eq!(said(&status), (String::new(), 0));
        fail(&["shop"]).await;
        status.keep(Writing::Event, BTreeSet::new);
        assert_eq!(said(&status), (String::new(), 0));
        status.keep(Writing::Event, || panic!("nothing fails"));
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
