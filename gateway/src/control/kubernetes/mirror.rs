//! `Mirror`: what the watches have said, as changes of what is held. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use tidegate_crd::{Document, Object, ObjectRef, Origin};

use super::{
    failure::Failure,
    standing::{Standing, Standings},
    status::{KubernetesStatus, WatchStatus},
};
use crate::{
    compile::finding::{Finding, Severity},
    control::files::Batch,
};

/// Stands where the name of a file would.
const LABEL: &str = "kubernetes";

/// What one watch says.
#[derive(Debug)]
pub(super) struct Heard {
    /// Its number.
    pub(super) watch: usize,
    /// What it says.
    pub(super) news: News,
}

/// What a watch says.
#[derive(Debug)]
pub(super) enum News {
    /// A list begins. What is held and not in it is gone, but that is known at its end only.
    Listing,
    /// It is in the list.
    Listed(Object),
    /// The list is complete.
    Complete,
    /// It is new, or another than before.
    Applied(Object),
    /// It is gone.
    Deleted(ObjectRef),
    /// This went wrong; it will try again.
    Failed(Failure),
}

/// What is held of the cluster, by name, and what has not been passed on yet.
#[derive(Debug)]
pub(super) struct Mirror {
    status: Arc<KubernetesStatus>,
    standings: Arc<Standings>,
    watches: Vec<Known>,
    origin: Arc<Origin>,
    /// New or changed, or gone, by name: the last word counts.
    waiting: BTreeMap<ObjectRef, Option<Object>>,
    problems_changed: bool,
    /// Whether anything was passed on yet.
    began: bool,
}

/// What one watch has said.
#[derive(Debug, Default)]
struct Known {
    held: BTreeSet<ObjectRef>,
    /// Of a list that is not complete.
    listed: Option<BTreeSet<ObjectRef>>,
    /// A list was complete.
    synced: bool,
    forbidden: Option<Finding>,
}

impl Mirror {
    pub(super) fn new(status: Arc<KubernetesStatus>, standings: Arc<Standings>) -> Self {
        let watches = status.watches().iter().map(|_| Known::default()).collect();
        let (waiting, origin) = (BTreeMap::new(), Origin::synthetic(LABEL));
        Self { status, standings, watches, origin, waiting, problems_changed: false, began: false }
    }

    /// Takes in what a watch says.
    pub(super) fn hear(&mut self, heard: Heard) {
        let Some((known, status)) = self.watches.get_mut(heard.watch).zip(self.status.watches().get(heard.watch))
        else {
            return;
        };
        let permitted = match heard.news {
            News::Listing => {
                known.listed = Some(BTreeSet::new());
                false
            }
            News::Listed(object) => {
                let name = object.object_ref();
                known.listed.get_or_insert_default().insert(name.clone());
                known.held.insert(name.clone());
                self.waiting.insert(name, Some(object));
                false
            }
            News::Complete => {
                let listed = known.listed.take().unwrap_or_default();
                let gone = known.held.difference(&listed).cloned().map(|name| (name, None));
                self.waiting.extend(gone);
                known.held = listed;
                known.synced = true;
                status.listed();
                true
            }
            News::Applied(object) => {
                let name = object.object_ref();
                known.held.insert(name.clone());
                self.waiting.insert(name, Some(object));
                true
            }
            News::Deleted(name) => {
                if known.held.remove(&name) {
                    self.waiting.insert(name, None);
                }
                true
            }
            News::Failed(failure) => {
                if let Failure::Forbidden { .. } = failure {
                    let finding = forbidden(status, &failure);
                    self.problems_changed |= known.forbidden.as_ref() != Some(&finding);
                    known.forbidden = Some(finding);
                }
                false
            }
        };
        if permitted {
            self.problems_changed |= known.forbidden.take().is_some();
        }
        status.set_objects(known.held.len());
    }

    /// What is to be passed on, if there is anything: nothing before each kind is known, or known to be forbidden.
    pub(super) fn take(&mut self) -> Option<Batch> {
        if !self.began && !self.watches.iter().all(|known| known.synced || known.forbidden.is_some()) {
            return None;
        }
        let is_first = !std::mem::replace(&mut self.began, true);
        if !is_first && self.waiting.is_empty() && !self.problems_changed {
            return None;
        }
        self.problems_changed = false;
        let mut batch = Batch { problems: self.problems(), ..Batch::default() };
        let mut standings = Vec::new();
        for (name, object) in std::mem::take(&mut self.waiting) {
            match object {
                Some(mut object) => {
                    standings.push((name, Standing::take(&mut object)));
                    batch.apply.push(Document { object, origin: self.origin.clone() });
                }
                None => {
                    standings.push((name.clone(), None));
                    batch.delete.push(name);
                }
            }
        }
        self.standings.set(standings);
        Some(batch)
    }

    /// Nothing new, for whoever has heard of everything; but for what is permitted again where nothing has changed since.
    pub(super) fn again(&mut self) -> Option<Batch> {
        for (known, status) in self.watches.iter_mut().zip(self.status.watches()) {
            if known.synced && status.is_well() {
                known.forbidden = None;
            }
        }
        self.began.then(|| Batch { problems: self.problems(), ..Batch::default() })
    }

    fn problems(&self) -> Vec<Finding> {
        self.watches.iter().filter_map(|known| known.forbidden.clone()).collect()
    }
}

/// The verdict on a permission that is missing.
fn forbidden(status: &WatchStatus, failure: &Failure) -> Finding {
    let resource = status.watched().resource;
    let role = if status.namespace().is_some() { "Role" } else { "ClusterRole" };
    Finding {
        severity: if status.watched().is_needed { Severity::Error } else { Severity::Warning },
        reason: "Forbidden",
        object: None,
        file: Path::new(LABEL).into(),
        line: 0,
        field: None,
        message: format!("{}: {failure}; {}.", status.place(), status.watched().without),
        fix: format!("Grant list and watch of {resource} with a {role} to the account that Tidegate runs as."),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_crd::Kind;

    use super::{super::kinds::Kinds, *};

    fn mirror() -> Mirror {
        Mirror::new(Arc::new(KubernetesStatus::new(Kinds::new(&[], "here").watches())), Arc::default())
    }

    fn number_of(mirror: &Mirror, kind: Kind) -> usize {
        mirror.status.watches().iter().position(|watch| watch.watched().kind == kind).unwrap()
    }

    fn say(mirror: &mut Mirror, kind: Kind, news: News) {
        let watch = number_of(mirror, kind);
        mirror.hear(Heard { watch, news });
    }

    fn service(name: &str) -> Object {
        let mut service = tidegate_crd::core::Service::default();
        service.metadata.name = Some(name.to_owned());
        Object::Service(Box::new(service))
    }

    fn name(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Service, "", name)
    }

    fn forbidden() -> News {
        News::Failed(Failure::Forbidden { verb: "list", message: "its words".to_owned() })
    }

    /// All kinds but Services are there, and empty.
    fn almost_synced() -> Mirror {
        let mut mirror = mirror();
        for watch in 0..mirror.watches.len() {
            if watch != number_of(&mirror, Kind::Service) {
                mirror.hear(Heard { watch, news: News::Listing });
                mirror.hear(Heard { watch, news: News::Complete });
            }
        }
        mirror
    }

    fn synced(names: &[&str]) -> Mirror {
        let mut mirror = almost_synced();
        say(&mut mirror, Kind::Service, News::Listing);
        for name in names {
            say(&mut mirror, Kind::Service, News::Listed(service(name)));
        }
        assert!(mirror.take().is_none() && mirror.again().is_none(), "the list is not complete");
        say(&mut mirror, Kind::Service, News::Complete);
        assert_eq!(mirror.take().unwrap().apply.len(), names.len());
        assert!(mirror.take().is_none());
        mirror
    }

    #[test]
    fn what_vanished_unseen_is_deleted_at_the_end_of_the_next_list() {
        let mut mirror = synced(&["a", "b"]);
        say(&mut mirror, Kind::Service, News::Applied(service("c")));
        say(&mut mirror, Kind::Service, News::Failed(Failure::Gone { at_start: false }));
        say(&mut mirror, Kind::Service, News::Listing);
        say(&mut mirror, Kind::Service, News::Listed(service("b")));
        assert_eq!(mirror.take().unwrap().delete, [], "half a list says nothing of the others");
        // The list breaks off, and begins again: what it said so far does not count.
        say(&mut mirror, Kind::Service, News::Listing);
        say(&mut mirror, Kind::Service, News::Listed(service("d")));
        say(&mut mirror, Kind::Service, News::Complete);
        let batch = mirror.take().unwrap();
        assert_eq!(batch.delete, [name("a"), name("b"), name("c")]);
        assert_eq!(batch.apply.len(), 1);
    }

    #[test]
    fn the_last_word_counts() {
        let mut mirror = synced(&["a"]);
        say(&mut mirror, Kind::Service, News::Deleted(name("a")));
        say(&mut mirror, Kind::Service, News::Applied(service("a")));
        say(&mut mirror, Kind::Service, News::Applied(service("b")));
        say(&mut mirror, Kind::Service, News::Deleted(name("b")));
        say(&mut mirror, Kind::Service, News::Deleted(name("never seen")));
        let batch = mirror.take().unwrap();
        assert_eq!(batch.apply.iter().map(|document| document.object.object_ref()).collect::<Vec<_>>(), [name("a")]);
        assert_eq!(batch.delete, [name("b")]);
    }

    #[test]
    fn how_objects_stand_is_told_apart() {
        let mut mirror = synced(&[]);
        let standings = mirror.standings.clone();
        let mut changes = standings.changes();
        let of_uid = |uid: &str| {
            let mut object = service("a");
            object.metadata_mut().uid = Some(uid.to_owned());
            News::Applied(object)
        };
        let uid = || standings.read(|held| held.get(&name("a")).map(|standing| standing.uid.to_string()));
        say(&mut mirror, Kind::Service, of_uid("first"));
        assert_eq!(mirror.take().unwrap().apply[0].object, service("a"), "it is no part of the object");
        assert!(changes.has_changed().unwrap() && uid().as_deref() == Some("first"));
        changes.mark_unchanged();
        say(&mut mirror, Kind::Service, of_uid("first"));
        mirror.take();
        assert!(!changes.has_changed().unwrap(), "nothing is another");
        say(&mut mirror, Kind::Service, News::Deleted(name("a")));
        mirror.take();
        assert!(changes.has_changed().unwrap() && uid().is_none());
    }

    #[test]
    fn a_kind_that_is_forbidden_does_not_keep_the_others() {
        let mut mirror = almost_synced();
        say(&mut mirror, Kind::Service, News::Listing);
        say(&mut mirror, Kind::Service, News::Failed(Failure::Unreachable { message: "gone".to_owned() }));
        assert!(mirror.take().is_none(), "it may come yet");
        say(&mut mirror, Kind::Service, forbidden());
        let problems = mirror.take().unwrap().problems;
        assert_eq!(
            problems[0].to_string(),
            "kubernetes: error[Forbidden]: services in all namespaces: not permitted to list (its words); requests \
             are answered 503. Fix: Grant list and watch of services with a ClusterRole to the account that Tidegate runs as."
        );
        say(&mut mirror, Kind::Service, forbidden());
        assert!(mirror.take().is_none(), "that is known");
        say(&mut mirror, Kind::Service, News::Listing);
        say(&mut mirror, Kind::Service, News::Complete);
        assert_eq!(mirror.take().unwrap().problems, []);
        // The permission to watch goes, and comes again; nothing has changed meanwhile.
        let status = mirror.status.watches()[number_of(&mirror, Kind::Service)].clone();
        let failure = Failure::Forbidden { verb: "watch", message: "its words".to_owned() };
        status.failed(&failure);
        say(&mut mirror, Kind::Service, News::Failed(failure));
        assert_eq!(mirror.take().unwrap().problems.len(), 1);
        assert_eq!(mirror.again().unwrap().problems.len(), 1);
        status.answered();
        assert_eq!(mirror.again().unwrap().problems, []);
    }
}
