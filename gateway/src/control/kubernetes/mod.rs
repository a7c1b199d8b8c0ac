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
//! | what is kept of an object | `trim` |
//! | what is kept apart from it, for those who write | [`standing`] |
//! | the life of one watch | `watch`; when it tries again: `backoff` |
//! | what went wrong, which permission is missing | [`failure`] |
//! | all that was heard, as changes of what is held | `mirror` |
//! | log, metrics, readiness | [`status`] |
//!
//! Nothing is written to the cluster here: that is the [`controller`](crate::controller).

pub mod api_server;
mod backoff;
pub mod failure;
pub mod kinds;
mod mirror;
pub mod standing;
pub mod status;
mod trim;
mod watch;

use std::{io, sync::Arc, thread, time::Duration};

use tokio::{sync::mpsc, time::MissedTickBehavior};

use self::{
    api_server::ApiServer,
    kinds::Kinds,
    mirror::{Heard, Mirror},
    standing::Standings,
    status::KubernetesStatus,
};
use super::files::Batch;

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
    standings: Arc<Standings>,
}

impl Cluster {
    /// The cluster of an API server. `namespaces`: only these, or all if there is none. `node_name`: the Node we are on.
    pub fn new(server: ApiServer, namespaces: &[String], node_name: &str) -> Self {
        let kinds = Kinds::new(namespaces, node_name);
        let status = Arc::new(KubernetesStatus::new(kinds.watches()));
        Self { server, kinds, status, standings: Arc::default() }
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
                pass_on(Mirror::new(self.status, self.standings), inbox, send).await;
            });
        };
        thread::Builder::new().name("kubernetes".to_owned()).spawn(follow).map(drop)
    }
}

/// Sends on what was heard; all that waits goes together.
async fn pass_on(mut mirror: Mirror, mut inbox: mpsc::Receiver<Heard>, mut send: impl FnMut(Batch) -> bool) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = Vec::with_capacity(WAITING);
    loop {
        tokio::select! {
            count = inbox.recv_many(&mut waiting, WAITING) => {
                if count == 0 {
                    return;
                }
                waiting.drain(..).for_each(|heard| mirror.hear(heard));
                if mirror.take().is_some_and(|batch| !send(batch)) {
                    return;
                }
            }
            // Says nothing new, but is how it is learned that nobody listens.
            _ = look.tick() => {
                if mirror.again().is_some_and(|batch| !send(batch)) {
                    return;
                }
            }
        }
    }
}
