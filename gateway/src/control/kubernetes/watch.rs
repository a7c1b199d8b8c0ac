//! `Watch`: follows the objects of one kind, for ever.

use std::{pin::pin, sync::Arc, time::Instant};

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
use crate::control::limits::{MISSING_PAUSE, RELIST};

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
            let is_settled = self.status.failed(&failure);
            if is_settled {
                self.tell(News::Failed(failure.clone())).await?;
            }
            // The stream would ask for the same again.
            let begins_anew = match failure {
                Failure::Forbidden { verb: "watch", .. } if is_settled => {
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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex, time::Duration};

    use http::{Request, Response, StatusCode};
    use kube::{Client, client::Body};
    use tidegate_crd::{Kind, core::Service};

    use super::{
        super::{kinds::Kinds, status::KubernetesStatus, wire::Named},
        *,
    };

    const FORBIDDEN: (StatusCode, &str) =
        (StatusCode::FORBIDDEN, r#"{"status": "Failure", "message": "no", "reason": "Forbidden", "code": 403}"#);
    const LIST: (StatusCode, &str) =
        (StatusCode::OK, r#"{"metadata": {"resourceVersion": "1"}, "items": [{"metadata": {"name": "a"}}]}"#);

    /// A watch of Services, and what it says. `answer` is told whether a request is to watch; without an answer there is none.
    fn services(
        mut answer: impl FnMut(bool) -> Option<(StatusCode, &'static str)> + Send + 'static,
    ) -> (Arc<WatchStatus>, mpsc::Receiver<Heard>) {
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = answer(request.uri().query().is_some_and(|query| query.contains("watch=")));
            async move {
                let Some((code, text)) = answer else { return std::future::pending().await };
                let mut response = Response::new(Body::from(text.as_bytes().to_vec()));
                *response.status_mut() = code;
                Ok::<_, Infallible>(response)
            }
        });
        let statuses = KubernetesStatus::new(Kinds::new(&[], "here").watches());
        let (heard, inbox) = mpsc::channel(64);
        let status = statuses.watches()[0].clone();
        let watch = Watch {
            api: Api::<Named<Service>>::all(Client::new(service, "default")),
            config: watcher::Config::default(),
            item: |named: Named<Service>| named.item(Kind::Service),
            index: 0,
            status: status.clone(),
            heard,
        };
        tokio::spawn(watch.run());
        (status, inbox)
    }

    /// It has not read its rules yet, and then it forbids everything: nothing is missing, and nobody waits for long.
    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_has_just_begun_forbids_everything_for_a_moment() {
        let begun = tokio::time::Instant::now();
        let mut watches = 0;
        let (status, mut inbox) = services(move |is_watch| {
            watches += usize::from(is_watch);
            let is_allowed = begun.elapsed() > Duration::from_secs(1);
            match is_watch {
                false => Some(if is_allowed { LIST } else { FORBIDDEN }),
                // The other half of its rules.
                true => (watches < 2).then_some(FORBIDDEN),
            }
        });
        let mut heard = Vec::new();
        while let Ok(Some(Heard { news, .. })) = tokio::time::timeout(RELIST / 2, inbox.recv()).await {
            heard.push(news);
        }
        assert!(matches!(&heard[..], [.., News::Listed(_), News::Complete]), "{heard:?}");
        assert!(!heard.iter().any(|news| matches!(news, News::Failed(_))), "{heard:?}");
        assert_eq!(
            (status.lists(), status.failures()[0] > 2),
            (0, true),
            "it was asked again and again, but listed once"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_watch_lists_again_and_again() {
        let lists = Arc::<Mutex<Vec<tokio::time::Instant>>>::default();
        let noted = lists.clone();
        let (_, mut inbox) = services(move |is_watch| {
            if !is_watch {
                noted.lock().unwrap().push(tokio::time::Instant::now());
            }
            Some(if is_watch { FORBIDDEN } else { LIST })
        });
        let mut forbidden = 0;
        while forbidden < 3 {
            if let News::Failed(failure) = inbox.recv().await.unwrap().news {
                assert!(matches!(failure, Failure::Forbidden { verb: "watch", .. }), "{failure}");
                forbidden += 1;
            }
        }
        let lists = lists.lock().unwrap().clone();
        assert_eq!(lists.len(), 3);
        assert!(lists.windows(2).all(|two| two[1] - two[0] >= RELIST), "{lists:?}");
    }
}
