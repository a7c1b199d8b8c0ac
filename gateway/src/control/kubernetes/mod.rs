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
//! | log, metrics, readiness | [`status`] |
//!
//! Nothing is written to the cluster here: that is the [`controller`](crate::controller).

pub mod api_server;
mod backoff;
pub mod failure;
mod fetches;
pub mod kinds;
mod mirror;
pub mod standing;
pub mod status;
mod trim;
mod watch;
mod wire;

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use kube::Client;
use tokio::{
    sync::{mpsc, watch as tokio_watch},
    time::{MissedTickBehavior, sleep_until, timeout},
};

use self::{
    api_server::{ANSWER_TIMEOUT, ApiServer},
    failure::Failure,
    fetches::Fetched,
    kinds::{Kinds, fetch},
    mirror::{Heard, Mirror},
    standing::Standings,
    status::KubernetesStatus,
};
use super::{References, files::Batch};

/// How much may have been heard without having been taken in: a page of a list, and a few more.
const WAITING: usize = 1_024;

/// How often it is looked whether anybody listens still.
const LOOK: Duration = Duration::from_secs(5);

/// A cluster to be followed.
#[derive(Debug)]
pub struct Cluster {
    server: ApiServer,
    kinds: Kinds,
    status: Arc<KubernetesStatus>,
    /// What is to be read of what is only listed by name.
    references: tokio_watch::Sender<Arc<References>>,
    standings: Arc<Standings>,
}

impl Cluster {
    /// The cluster of an API server. `namespaces`: only these, or all if there is none. `node_name`: the Node we are on.
    pub fn new(server: ApiServer, namespaces: &[String], node_name: &str) -> Self {
        let kinds = Kinds::new(namespaces, node_name);
        let status = Arc::new(KubernetesStatus::new(kinds.watches()));
        let references = tokio_watch::Sender::default();
        Self { server, kinds, status, references, standings: Arc::default() }
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
                let (heard, inbox) = mpsc::channel(WAITING);
                self.kinds.start(&client, &self.status, &heard);
                drop(heard);
                let references = self.references.subscribe();
                drop(self.references);
                pass_on(Mirror::new(self.status, self.standings), inbox, references, client, send).await;
            });
        };
        thread::Builder::new().name("kubernetes".to_owned()).spawn(follow).map(drop)
    }
}

/// Sends on what was heard, and fetches what is asked for; all that waits goes together.
async fn pass_on(
    mut mirror: Mirror,
    mut inbox: mpsc::Receiver<Heard>,
    mut references: tokio_watch::Receiver<Arc<References>>,
    client: Client,
    mut send: impl FnMut(Batch) -> bool,
) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Vec::with_capacity(WAITING);
    let mut fetching = FuturesUnordered::new();
    loop {
        while let Some((watch, name)) = mirror.next_fetch() {
            let client = client.clone();
            fetching.push(async move {
                let late =
                    || Failure::Unreachable { message: format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()) };
                let fetched = timeout(ANSWER_TIMEOUT, fetch(client, &name)).await;
                (watch, name, fetched.unwrap_or_else(|_| Fetched::Failed(late())))
            });
        }
        let due = mirror.fetch_due().unwrap_or_else(|| Instant::now() + LOOK);
        let batch = tokio::select! {
            count = inbox.recv_many(&mut waiting, WAITING) => {
                if count == 0 {
                    return;
                }
                waiting.drain(..).for_each(|heard| mirror.hear(heard));
                mirror.take()
            }
            Some((watch, name, fetched)) = fetching.next() => {
                mirror.fetched(watch, name, fetched);
                mirror.take()
            }
            Ok(()) = references.changed() => {
                mirror.refer(&references.borrow_and_update().clone());
                mirror.take()
            }
            () = sleep_until(due.into()) => None,
            // Says nothing new, but is how it is learned that nobody listens.
            _ = look.tick() => mirror.again(),
        };
        if batch.is_some_and(|batch| !send(batch)) {
            return;
        }
    }
}
