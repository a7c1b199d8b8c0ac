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
use tidegate_crd::Object;
use tokio::sync::mpsc;

use super::{
    backoff::Backoff,
    failure::Failure,
    kinds::Wire,
    mirror::{Heard, News},
    status::WatchStatus,
};

/// How often a kind is asked for that the cluster does not have: somebody may install it any time, and is not kept waiting for long.
const MISSING_PAUSE: Duration = Duration::from_secs(10);

/// One watch.
pub(super) struct Watch<K> {
    pub(super) api: Api<K>,
    pub(super) config: watcher::Config,
    /// Leaves of an object what is of use, and says whether anything is.
    pub(super) trim: fn(&mut K) -> bool,
    pub(super) wrap: fn(Box<K>) -> Object,
    /// Its number.
    pub(super) index: usize,
    pub(super) status: Arc<WatchStatus>,
    pub(super) heard: mpsc::Sender<Heard>,
}

/// Nobody listens any more.
struct Unheard;

impl<K: Resource<DynamicType = ()> + Wire> Watch<K> {
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
                    if let Some(news) = self.news(event) {
                        self.tell(news).await?;
                    }
                    continue;
                }
                Err(error) => error,
            };
            let failure = Failure::of(&error);
            if failure.is_missing_kind() && self.status.watched().kind.is_own() {
                self.status.answered();
                self.tell(News::Missing).await?;
                tokio::time::sleep(MISSING_PAUSE).await;
                return Ok(());
            }
            self.status.failed(&failure);
            self.tell(News::Failed(failure.clone())).await?;
            tokio::time::sleep(backoff.pause(Instant::now(), fastrand::f64())).await;
            // The stream would ask for the same again.
            if failure == (Failure::Gone { at_start: true }) {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn tell(&self, news: News) -> Result<(), Unheard> {
        self.heard.send(Heard { watch: self.index, news }).await.map_err(|_| Unheard)
    }

    /// What an event means; `None` if it is about an object that is of no use.
    fn news(&self, event: watcher::Event<K>) -> Option<News> {
        match event {
            watcher::Event::Init => Some(News::Listing),
            watcher::Event::InitApply(object) => self.trimmed(object).ok().map(News::Listed),
            watcher::Event::InitDone => Some(News::Complete),
            // What was of use before may not be any more.
            watcher::Event::Apply(object) => {
                Some(self.trimmed(object).map_or_else(|object| News::Deleted(object.object_ref()), News::Applied))
            }
            watcher::Event::Delete(object) => Some(News::Deleted((self.wrap)(Box::new(object)).object_ref())),
        }
    }

    fn trimmed(&self, mut object: K) -> Result<Object, Object> {
        let is_of_use = (self.trim)(&mut object);
        let object = (self.wrap)(Box::new(object));
        if is_of_use { Ok(object) } else { Err(object) }
    }
}
