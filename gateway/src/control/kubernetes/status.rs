//! `KubernetesStatus`: how the watches do, for the log, the metrics and readiness.
//!
//! The watches write it, the admin interface reads it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{failure::Failure, kinds::Watched};
use crate::control::{limits::FORBIDDEN_SETTLE, unix_seconds};

/// How all watches do.
#[derive(Debug)]
pub struct KubernetesStatus {
    watches: Vec<Arc<WatchStatus>>,
    /// Secrets and ConfigMaps that are referred to and there, and have not been read.
    fetching: AtomicU64,
    /// When what an earlier process remembered was so, in seconds since the Unix epoch, as long as a part of it is served; else 0.
    remembered: AtomicI64,
}

/// How one watch does.
#[derive(Debug)]
pub struct WatchStatus {
    watched: &'static Watched,
    namespace: Option<Arc<str>>,
    synced: AtomicBool,
    objects: AtomicU64,
    lists: AtomicU64,
    failures: [AtomicU64; Failure::REASONS.len()],
    /// What went wrong last, unless it has gone well since.
    failing: Mutex<Option<Failing>>,
    server: Arc<Server>,
}

#[derive(Clone, Debug)]
struct Failing {
    failure: Failure,
    since: Instant,
    /// It has gone on for long enough to be believed.
    is_settled: bool,
}

/// The API server, as all watches together see it.
#[derive(Debug, Default)]
struct Server {
    /// How many watches it does not answer, and since when it does not answer the first of them.
    away: Mutex<(usize, Option<Instant>)>,
}

impl KubernetesStatus {
    pub(super) fn new(watches: Vec<(&'static Watched, Option<Arc<str>>)>) -> Self {
        let server = Arc::<Server>::default();
        let status = |(watched, namespace)| Arc::new(WatchStatus::new(watched, namespace, server.clone()));
        Self {
            watches: watches.into_iter().map(status).collect(),
            fetching: AtomicU64::new(0),
            remembered: AtomicI64::new(0),
        }
    }

    /// Each watch.
    pub fn watches(&self) -> &[Arc<WatchStatus>] {
        &self.watches
    }

    /// Whether all is known that this process is not ready without.
    pub fn is_ready(&self) -> bool {
        self.remembered().is_some() || self.watches.iter().all(|watch| watch.is_synced() || !watch.watched.is_needed)
    }

    /// What is not as it should be, a line for each watch. Not an hour's news: it is so now.
    pub fn report(&self) -> String {
        let lines = self.watches.iter().filter_map(|watch| {
            let failing = watch.failing().clone();
            let place = watch.place();
            match (failing, watch.is_synced()) {
                (None, true) => None,
                (None, false) => Some(format!("{place}: being listed\n")),
                (Some(Failing { failure, since, .. }), synced) => {
                    let seconds = since.elapsed().as_secs();
                    let rest = if synced { "what was known is served" } else { watch.watched.without };
                    Some(format!("{place}: {failure}, for {seconds} s; {rest}\n"))
                }
            }
        });
        let fetching = match self.fetching() {
            0 => None,
            count => Some(format!("{count} Secrets and ConfigMaps that something refers to: being fetched\n")),
        };
        let remembered = self.remembered().map(|heard| {
            format!(
                "what is not known yet is served as an earlier process heard it, {} s ago\n",
                unix_seconds() - heard
            )
        });
        lines.chain(fetching).chain(remembered).collect()
    }

    /// When what an earlier process remembered was so, as long as a part of it is served.
    pub fn remembered(&self) -> Option<i64> {
        Some(self.remembered.load(Relaxed)).filter(|heard| *heard != 0)
    }

    pub(super) fn set_remembered(&self, heard: Option<i64>) {
        self.remembered.store(heard.unwrap_or(0), Relaxed);
    }

    /// How many Secrets and ConfigMaps are referred to and there, and have not been read.
    pub fn fetching(&self) -> u64 {
        self.fetching.load(Relaxed)
    }

    pub(super) fn set_fetching(&self, count: usize) {
        self.fetching.store(count as u64, Relaxed);
    }

    /// For how long the API server has not answered every watch; `None` while it does.
    pub fn away(&self) -> Option<Duration> {
        let (_, since) = *lock(&self.watches.first()?.server.away);
        since.map(|since| since.elapsed())
    }
}

impl WatchStatus {
    fn new(watched: &'static Watched, namespace: Option<Arc<str>>, server: Arc<Server>) -> Self {
        Self {
            watched,
            namespace,
            synced: AtomicBool::new(false),
            objects: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            failures: Default::default(),
            failing: Mutex::default(),
            server,
        }
    }

    /// The kind it is for.
    pub fn watched(&self) -> &'static Watched {
        self.watched
    }

    /// The only namespace it is for, if it is one.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// What it is for, as permissions have it: `secrets in namespace shop`.
    pub fn place(&self) -> impl fmt::Display {
        let (resource, kind) = (self.watched.resource, self.watched.kind);
        fmt::from_fn(move |f| match &self.namespace {
            Some(namespace) => write!(f, "{resource} in namespace {namespace}"),
            None if kind.is_namespaced() => write!(f, "{resource} in all namespaces"),
            None => write!(f, "{resource}"),
        })
    }

    /// Whether all there are have been listed once.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Relaxed)
    }

    /// Whether the last request was answered as it should be.
    pub fn is_well(&self) -> bool {
        self.failing().is_none()
    }

    /// How many objects of it are held.
    pub fn objects(&self) -> u64 {
        self.objects.load(Relaxed)
    }

    /// How many lists were read to the end.
    pub fn lists(&self) -> u64 {
        self.lists.load(Relaxed)
    }

    /// How often it failed, in the order of [`Failure::REASONS`].
    pub fn failures(&self) -> [u64; Failure::REASONS.len()] {
        std::array::from_fn(|reason| self.failures[reason].load(Relaxed))
    }

    pub(super) fn set_objects(&self, count: usize) {
        self.objects.store(count as u64, Relaxed);
    }

    pub(super) fn listed(&self) {
        self.lists.fetch_add(1, Relaxed);
        self.synced.store(true, Relaxed);
    }

    /// A request was answered as it should be. `is_watch`: it asked to watch; who may list may not always do so.
    pub(super) fn answered(&self, is_watch: bool) {
        let may_not_watch = |failing: &mut Failing| matches!(failing.failure, Failure::Forbidden { verb: "watch", .. });
        let Some(before) = self.failing().take_if(|failing| is_watch || !may_not_watch(failing)) else { return };
        match before.failure {
            Failure::Forbidden { verb, .. } if before.is_settled => {
                tracing::info!("permitted now: {verb} {}", self.place());
            }
            Failure::Forbidden { .. } => {}
            Failure::Refused { .. } | Failure::Unreachable { .. } => self.server.back(),
            Failure::Gone { .. } => {}
        }
    }

    /// Something went wrong. Goes to the log when it is news. Whether it is to be believed: see [`FORBIDDEN_SETTLE`].
    pub(super) fn failed(&self, failure: &Failure) -> bool {
        self.failures[failure.reason()].fetch_add(1, Relaxed);
        let (now, is_forbidden) = (Instant::now(), matches!(failure, Failure::Forbidden { .. }));
        let mut failing = self.failing();
        let before = failing.take();
        let was_forbidden = before.as_ref().is_some_and(|before| matches!(before.failure, Failure::Forbidden { .. }));
        let since = before.as_ref().filter(|_| is_forbidden == was_forbidden).map_or(now, |before| before.since);
        let is_settled = !is_forbidden || now - since >= FORBIDDEN_SETTLE;
        *failing = Some(Failing { failure: failure.clone(), since, is_settled });
        drop(failing);
        let was_away = before.as_ref().is_some_and(|before| before.failure.is_of_server());
        match (was_away, failure.is_of_server()) {
            (false, true) => self.server.gone(self, failure),
            (true, false) => self.server.back(),
            (true, true) | (false, false) => {}
        }
        let was_settled = was_forbidden && before.is_some_and(|before| before.is_settled);
        if is_forbidden && is_settled && !was_settled {
            let without = match failure {
                Failure::Forbidden { verb: "watch", .. } => "it is listed again and again",
                _ => self.watched.without,
            };
            tracing::warn!("{}: {failure}; {without}", self.place());
        }
        is_settled
    }

    fn failing(&self) -> MutexGuard<'_, Option<Failing>> {
        lock(&self.failing)
    }
}

impl Server {
    fn gone(&self, watch: &WatchStatus, failure: &Failure) {
        let mut away = lock(&self.away);
        away.0 += 1;
        if away.0 == 1 {
            away.1 = Some(Instant::now());
            tracing::warn!(
                "the API server does not answer ({}: {failure}); what is known is served, and it is asked again and again",
                watch.place()
            );
        }
    }

    fn back(&self) {
        let mut away = lock(&self.away);
        away.0 = away.0.saturating_sub(1);
        if away.0 == 0
            && let Some(since) = away.1.take()
        {
            tracing::info!("the API server answers again, after {:.1} s", since.elapsed().as_secs_f64());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever holds the lock only assigns: nothing is ever half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tidegate_crd::Kind;

    use super::{super::kinds::Kinds, *};

    fn status() -> KubernetesStatus {
        KubernetesStatus::new(Kinds::new(&["shop".to_owned()], "here").watches())
    }

    fn of(status: &KubernetesStatus, kind: Kind) -> &Arc<WatchStatus> {
        status.watches().iter().find(|watch| watch.watched().kind == kind).unwrap()
    }

    fn unreachable() -> Failure {
        Failure::Unreachable { message: "Connection refused".to_owned() }
    }

    fn forbidden() -> Failure {
        Failure::Forbidden { verb: "list", message: "its words".to_owned() }
    }

    #[test]
    fn ready_without_what_can_be_done_without() {
        let status = status();
        assert!(!status.is_ready());
        for watch in status.watches().iter().filter(|watch| watch.watched().is_needed) {
            assert!(!status.is_ready());
            watch.listed();
        }
        assert!(status.is_ready());
        let nodes = of(&status, Kind::Node);
        nodes.failed(&forbidden());
        assert!(status.is_ready());
        let report = status.report();
        let line = "nodes: not permitted to list (its words), for 0 s; the zone of this node is not known, nor its addresses\n";
        assert!(report.contains(line), "{report}");
        assert!(!report.contains("secrets"), "{report}");
    }

    #[test]
    fn the_server_is_away_until_every_watch_is_answered() {
        let status = status();
        let (secrets, services) = (of(&status, Kind::Secret), of(&status, Kind::Service));
        assert_eq!(secrets.place().to_string(), "secrets in namespace shop");
        secrets.listed();
        assert!(status.away().is_none());
        for watch in [secrets, services, secrets] {
            watch.failed(&unreachable());
        }
        assert!(status.away().is_some() && !secrets.is_well());
        assert!(status.report().contains("secrets in namespace shop: Connection refused, for 0 s; what was known"));
        secrets.answered(false);
        assert!(status.away().is_some() && secrets.is_well());
        // It answers: only not what we want to hear.
        services.failed(&forbidden());
        assert!(status.away().is_none() && !services.is_well());
        assert_eq!((secrets.failures(), services.failures()), ([0, 0, 0, 2], [1, 0, 0, 1]));
    }
}
