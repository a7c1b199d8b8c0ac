//! `Watch`: follows the objects of one kind, for ever.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use kube::{
    Api, Resource,
    runtime::watcher::{self, watcher},
};
use tokio::sync::mpsc;

use super::{
    backoff::Backoff,
    failure::Failure,
    kinds::Wire,
    mirror::{Heard, Item, News},
    status::WatchStatus,
};

/// How often a kind is asked for that the cluster does not have: somebody may install it any time, and is not kept waiting for long.
const MISSING_PAUSE: Duration = Duration::from_secs(10);

/// How often objects are listed anew that may be listed and not watched: how late a change is noticed, and what it costs.
pub(super) const RELIST: Duration = Duration::from_secs(30);

/// One watch.
pub(super) struct Watch<K, F> {
    pub(super) api: Api<K>,
    pub(super) config: watcher::Config,
    /// What an object means to us.
    pub(super) item: F,
    /// Its number.
    pub(super) index: usize,
    pub(super) status: Arc<WatchStatus>,
    pub(super) heard: mpsc::Sender<Heard>,
}

/// Nobody listens any more.
struct Unheard;

impl<K: Resource<DynamicType = ()> + Wire, F: Fn(K) -> Item + Sync> Watch<K, F> {
    /// Until nobody listens.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::default();
        while self.follow(&mut backoff).await.is_ok() {}
    }

    /// From a list on, for as long as one stream can mend itself.
    async fn follow(&self, backoff: &mut Backoff) -> Result<(), Unheard> {
        let mut events = pin!(watcher(self.api.clone(), self.config.clone()));
        while let Some(event) = events.next().await {
            let error = match event {
                Ok(event) => {
                    self.tell(self.news(event)).await?;
                    continue;
                }
                Err(error) => error,
            };
            let failure = Failure::of(&error);
            if failure.is_missing_kind() && self.status.watched().kind.is_own() {
                self.status.answered(false);
                self.tell(News::Missing).await?;
                tokio::time::sleep(MISSING_PAUSE).await;
                return Ok(());
            }
            self.status.failed(&failure);
            self.tell(News::Failed(failure.clone())).await?;
            // The stream would ask for the same again.
            let begins_anew = match failure {
                Failure::Forbidden { verb: "watch", .. } => {
                    tokio::time::sleep(RELIST).await;
                    true
                }
                failure => {
                    tokio::time::sleep(backoff.pause(Instant::now(), fastrand::f64())).await;
                    failure == Failure::Gone { at_start: true }
                }
            };
            if begins_anew {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<(), Unheard> {
        self.heard.send(Heard { watch: self.index, news }).await.map_err(|_| Unheard)
    }

    fn news(&self, event: watcher::Event<K>) -> News {
        match event {
            watcher::Event::Init => News::Listing,
            watcher::Event::InitApply(object) => News::Listed((self.item)(object)),
            watcher::Event::InitDone => News::Complete,
            watcher::Event::Apply(object) => News::Applied((self.item)(object)),
            watcher::Event::Delete(object) => News::Deleted((self.item)(object).name()),
        }
    }
}
