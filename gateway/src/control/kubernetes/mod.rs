//! The `kubernetes` source: the objects of a cluster, as its API server tells of them.
//!
//! One watch for each kind (and namespace, with `--watch-namespace`): it lists, follows what changes, and starts over where it has missed
//! something. What they hear is put together in one place, which says nothing before every kind has been heard of once. While
//! the API server is away nothing is taken back: what was known is served, the watches try again, and the [`status`] says so.
//!
//! | question | answer |
//! |---|---|
//! | where the API server is, who we are to it | [`api_server`] |
//! | which kinds are watched, what they are for | [`kinds`] |
//! | what comes over the wire; what is kept of it | `wire`; `trim` |
//! | what is kept apart from it, for those who write | [`standing`] |
//! | the life of one watch | `watch`; when it tries again: `backoff` |
//! | what went wrong, which permission is missing | [`failure`] |
//! | Secrets and ConfigMaps, which are read only if something refers to them | `fetches` |
//! | all that was heard, as changes of what is held | `mirror` |
//! | what was only remembered | `remembered` |
//! | log, metrics, readiness | [`status`] |
//!
//! Nothing is written to the cluster here: that is the [`controller`](crate::controller).

pub mod api_server;
mod backoff;
pub mod failure;
mod fetches;
pub mod kinds;
mod mirror;
pub(crate) mod remembered;
pub mod standing;
pub mod status;
mod trim;
mod watch;
mod wire;

use std::{io, path::Path, sync::Arc, thread};

use futures_util::{StreamExt, stream::FuturesUnordered};
use kube::Client;
use tokio::{
    sync::{mpsc, watch as tokio_watch},
    time::{Instant, MissedTickBehavior, sleep_until, timeout},
};

use self::{
    api_server::ApiServer,
    failure::Failure,
    fetches::Fetched,
    kinds::{Kinds, fetch},
    mirror::{Heard, Mirror},
    standing::Standings,
    status::KubernetesStatus,
};
use super::{
    References,
    cache::CacheFile,
    files::Batch,
    limits::{ANSWER_TIMEOUT, CACHE_GRACE, LISTENER_LOOK, MAX_WAITING, OPTIONAL_PATIENCE},
};

/// A cluster to be followed.
#[derive(Debug)]
pub struct Cluster {
    server: ApiServer,
    kinds: Kinds,
    status: Arc<KubernetesStatus>,
    /// What is to be read of what is only listed by name.
    references: tokio_watch::Sender<Arc<References>>,
    standings: Arc<Standings>,
    cache: Option<CacheFile>,
}

impl Cluster {
    /// The cluster of an API server. `namespaces`: only these, or all if there is none. `node_name`: the Node we are on.
    pub fn new(server: ApiServer, namespaces: &[String], node_name: &str) -> Self {
        let kinds = Kinds::new(namespaces, node_name);
        let status = Arc::new(KubernetesStatus::new(kinds.watches()));
        let references = tokio_watch::Sender::default();
        Self { server, kinds, status, references, standings: Arc::default(), cache: None }
    }

    /// What is heard is remembered in this directory, for a process that begins while the API server is away.
    #[must_use]
    pub fn remembered_in(self, directory: &Path) -> Self {
        let cache = CacheFile::new(directory, &self.server.url().to_string(), &self.kinds.namespaces());
        Self { cache: Some(cache), ..self }
    }

    /// Where it is remembered, if it is.
    pub fn cache(&self) -> Option<&CacheFile> {
        self.cache.as_ref()
    }

    /// Where to say what is referred to.
    pub fn references(&self) -> tokio_watch::Sender<Arc<References>> {
        self.references.clone()
    }

    /// Its API server.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// How its objects stand, from now on.
    pub fn standings(&self) -> &Arc<Standings> {
        &self.standings
    }

    /// How it goes, from now on.
    pub fn status(&self) -> &Arc<KubernetesStatus> {
        &self.status
    }

    /// Starts to follow it, in a thread of its own, until `send` says that nobody listens.
    ///
    /// # Errors
    /// If the API server cannot be spoken to whatever it answers (certificates that cannot be read, and the like), or a
    /// thread cannot be started.
    pub fn start(self, send: impl FnMut(Batch) -> bool + Send + 'static) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = {
            let _context = runtime.enter();
            self.server.client().map_err(io::Error::other)?
        };
        let follow = move || {
            runtime.block_on(async {
                let (heard, inbox) = mpsc::channel(MAX_WAITING);
                self.kinds.start(&client, &self.status, &heard);
                drop(heard);
                let references = self.references.subscribe();
                drop(self.references);
                let mirror = Mirror::new(self.status, self.standings);
                pass_on(mirror, inbox, Sources { references, client, cache: self.cache }, send).await;
            });
        };
        thread::Builder::new().name("kubernetes".to_owned()).spawn(follow).map(drop)
    }
}

/// Where the rest comes from.
struct Sources {
    references: tokio_watch::Receiver<Arc<References>>,
    client: Client,
    cache: Option<CacheFile>,
}

/// Sends on what was heard, and fetches what is asked for; all that waits goes together.
async fn pass_on(
    mut mirror: Mirror,
    mut inbox: mpsc::Receiver<Heard>,
    Sources { mut references, client, mut cache }: Sources,
    mut send: impl FnMut(Batch) -> bool,
) {
    let (grace, patience) = (Instant::now() + CACHE_GRACE, Instant::now() + OPTIONAL_PATIENCE);
    let mut is_patient = true;
    let mut look = tokio::time::interval(LISTENER_LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Vec::with_capacity(MAX_WAITING);
    let mut fetching = FuturesUnordered::new();
    let mut is_listed = false;
    loop {
        while let Some((watch, wanted)) = mirror.next_fetch() {
            let client = client.clone();
            fetching.push(async move {
                let late =
                    || Failure::Unreachable { message: format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()) };
                let fetched = timeout(ANSWER_TIMEOUT, fetch(client, &wanted.name)).await;
                (watch, wanted, fetched.unwrap_or_else(|_| Fetched::Failed(late())))
            });
        }
        let due = mirror.fetch_due().map_or_else(|| Instant::now() + LISTENER_LOOK, Instant::from_std);
        let batch = tokio::select! {
            count = inbox.recv_many(&mut waiting, MAX_WAITING) => {
                if count == 0 {
                    return;
                }
                waiting.drain(..).for_each(|heard| mirror.hear(heard));
                mirror.take()
            }
            Some((watch, wanted, fetched)) = fetching.next() => {
                mirror.fetched(watch, wanted, fetched);
                mirror.take()
            }
            Ok(()) = references.changed() => {
                mirror.refer(&references.borrow_and_update().clone());
                mirror.take()
            }
            () = sleep_until(grace), if cache.is_some() => {
                remember(&mut mirror, cache.take()).await;
                mirror.take()
            }
            () = sleep_until(patience), if is_patient => {
                is_patient = false;
                mirror.lose_patience();
                mirror.take()
            }
            () = sleep_until(due) => None,
            // Says nothing new, but is how it is learned that nobody listens.
            _ = look.tick() => mirror.again(),
        };
        let Some(batch) = batch else { continue };
        if !std::mem::replace(&mut is_listed, true) {
            tracing::info!(objects = batch.apply.len(), "the cluster's objects are known");
        }
        if !send(batch) {
            return;
        }
    }
}

/// Serves what an earlier process remembered, if not enough has been heard yet.
async fn remember(mirror: &mut Mirror, cache: Option<CacheFile>) {
    let Some(file) = cache.filter(|_| !mirror.began()) else { return };
    let path = file.path().display().to_string();
    match tokio::task::spawn_blocking(move || file.load()).await {
        Ok(Ok(remembered)) => {
            tracing::warn!("the API server has not told everything yet: what was remembered in {path} is served");
            mirror.remember(remembered);
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(Err(error)) => tracing::warn!("what was remembered in {path} cannot be used: {error}"),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use tidegate_crd::Kind;

    use super::{mirror::News, *};

    /// As one does whose CustomResourceDefinition has a conversion webhook that is gone.
    #[tokio::test(start_paused = true)]
    async fn a_kind_that_is_not_needed_and_always_fails_keeps_nobody_from_becoming_ready() {
        let status = Arc::new(KubernetesStatus::new(Kinds::new(&[], "here").watches()));
        let (heard, inbox) = mpsc::channel(MAX_WAITING);
        for (watch, one) in status.watches().iter().enumerate() {
            let failure = Failure::Refused { code: 500, message: "its words".to_owned() };
            let is_pools = one.watched().kind == Kind::LoadBalancerPool;
            let news = if is_pools { vec![News::Failed(failure)] } else { vec![News::Listing, News::Complete] };
            for news in news {
                heard.send(Heard { watch, news }).await.unwrap();
            }
        }
        let nobody = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>()
        });
        let (_references, references) = tokio_watch::channel(Arc::default());
        let sources = Sources { references, client: Client::new(nobody, "default"), cache: None };
        let (passed_on, mut batches) = mpsc::unbounded_channel();
        let begun = Instant::now();
        let mirror = Mirror::new(status.clone(), Arc::default());
        tokio::spawn(pass_on(mirror, inbox, sources, move |batch| passed_on.send(batch).is_ok()));
        let first: Batch = timeout(2 * OPTIONAL_PATIENCE, batches.recv()).await.expect("it begins").unwrap();
        assert_eq!(first.problems.iter().map(|problem| problem.reason).collect::<Vec<_>>(), ["NotListed"]);
        assert!(begun.elapsed() >= OPTIONAL_PATIENCE, "it may come yet");
        // And it is noticed when that is over.
        let watch = status.watches().iter().position(|one| one.watched().kind == Kind::LoadBalancerPool).unwrap();
        for news in [News::Listing, News::Complete] {
            heard.send(Heard { watch, news }).await.unwrap();
        }
        while !batches.recv().await.unwrap().problems.is_empty() {}
    }
}
