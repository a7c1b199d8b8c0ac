//! `Mirror`: what the watches have said, as changes of what is held. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use tidegate_crd::{Document, Kind, Object, ObjectRef, Origin};

use super::{
    failure::Failure,
    fetches::{Fetch, Fetched, Fetches},
    kinds::Watched,
    remembered,
    standing::{Standing, Standings},
    status::{KubernetesStatus, WatchStatus},
};
use crate::{
    compile::finding::{Finding, Severity},
    control::{
        References,
        cache::Remembered,
        files::Batch,
        limits::{MAX_PROBLEMS, RELIST},
    },
};

/// Stands where the name of a file would.
pub(super) const LABEL: &str = "kubernetes";

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
    Listed(Item),
    /// The list is complete.
    Complete,
    /// It is new, or another than before.
    Applied(Item),
    /// It is gone.
    Deleted(ObjectRef),
    /// The cluster does not have the kind; it is as good as an empty list.
    Missing,
    /// This went wrong; it will try again.
    Failed(Failure),
}

/// What a watch says of one object.
#[derive(Debug)]
pub(super) enum Item {
    /// This is it.
    Object(Object),
    /// It is there, in this version. What it is, is fetched if anything refers to it.
    Named(ObjectRef, String),
    /// It is there, and not what its kind should be.
    Unreadable(ObjectRef, Box<Finding>),
}

impl Item {
    pub(super) fn name(&self) -> ObjectRef {
        match self {
            Self::Object(object) => object.object_ref(),
            Self::Named(name, _) | Self::Unreadable(name, _) => name.clone(),
        }
    }
}

/// What is held of the cluster, by name, and what has not been passed on yet.
#[derive(Debug)]
pub(super) struct Mirror {
    status: Arc<KubernetesStatus>,
    standings: Arc<Standings>,
    watches: Vec<Known>,
    fetches: Fetches,
    origin: Arc<Origin>,
    /// New or changed, or gone, by name: the last word counts.
    waiting: BTreeMap<ObjectRef, Option<Object>>,
    /// Passed on last, of what there is besides objects.
    said: (Vec<Finding>, Option<u64>),
    problems_changed: bool,
    /// When what an earlier process remembered was so, as long as a part of it is served.
    remembered: Option<i64>,
    /// Whether anything was passed on yet.
    began: bool,
    /// Whether every kind is waited for; else only those that are needed, where others fail.
    is_patient: bool,
}

/// What one watch has said.
#[derive(Debug, Default)]
struct Known {
    held: BTreeSet<ObjectRef>,
    /// Of a list that is not complete.
    listed: Option<BTreeSet<ObjectRef>>,
    /// A list was complete.
    synced: bool,
    forbidden: Option<Forbidden>,
    /// What went wrong first, until a list is complete.
    failed: Option<Failure>,
    /// What is wrong with those that could not be read; what was known of them before still stands.
    unreadable: BTreeMap<ObjectRef, Finding>,
}

/// A permission that is missing.
#[derive(Debug, PartialEq)]
struct Forbidden {
    verb: &'static str,
    finding: Finding,
}

impl Known {
    /// Whether nothing of it is waited for.
    fn is_known(&self, status: &WatchStatus, is_patient: bool) -> bool {
        self.synced || self.forbidden.is_some() || (!is_patient && self.is_done_without(status))
    }

    /// Whether it fails, and a replica that begins without it is better than none. Where the classes are not known, Ingresses would be
    /// taken for others': then one that is not ready is better.
    fn is_done_without(&self, status: &WatchStatus) -> bool {
        let watched = status.watched();
        !watched.is_needed && watched.kind != Kind::IngressClass && self.failed.is_some()
    }

    /// What an item is to everybody else, if it is anything: a change that waits to be passed on.
    fn take_in(&mut self, item: Item, fetches: &mut Fetches) -> Option<(ObjectRef, Option<Object>)> {
        let name = item.name();
        self.held.insert(name.clone());
        match item {
            Item::Object(object) => {
                self.unreadable.remove(&name);
                Some((name, Some(object)))
            }
            Item::Named(name, version) => {
                fetches.heard(&name, Some(&version), Instant::now());
                None
            }
            Item::Unreadable(name, finding) => {
                self.unreadable.insert(name, *finding);
                None
            }
        }
    }
}

impl Mirror {
    pub(super) fn new(status: Arc<KubernetesStatus>, standings: Arc<Standings>) -> Self {
        let watches = status.watches().iter().map(|_| Known::default()).collect();
        let (waiting, origin) = (BTreeMap::new(), Origin::synthetic(LABEL));
        let (fetches, said) = Default::default();
        Self {
            status,
            standings,
            watches,
            fetches,
            origin,
            waiting,
            said,
            problems_changed: false,
            remembered: None,
            began: false,
            is_patient: true,
        }
    }

    /// Whether anything was passed on yet.
    pub(super) fn began(&self) -> bool {
        self.began
    }

    /// What an earlier process has heard stands for what has not been heard yet.
    pub(super) fn remember(&mut self, Remembered { heard, objects }: Remembered) {
        for object in objects {
            let name = object.object_ref();
            let is_its = |status: &Arc<WatchStatus>| {
                let namespace = status.namespace();
                status.watched().kind == name.kind && namespace.is_none_or(|only| only == &*name.namespace)
            };
            let Some(at) = self.status.watches().iter().position(is_its) else { continue };
            let known = &mut self.watches[at];
            if known.synced || known.forbidden.is_some() {
                continue;
            }
            if self.status.watches()[at].watched().is_fetched {
                self.fetches.remember(name.clone());
            } else if known.held.contains(&name) {
                // A list has told of it, though not to its end.
                continue;
            }
            known.held.insert(name.clone());
            self.waiting.insert(name, Some(object));
        }
        self.remembered = Some(heard);
        self.status.set_remembered(self.remembered);
        self.problems_changed = true;
    }

    /// What is referred to is another than before.
    pub(super) fn refer(&mut self, references: &References) {
        let is_there = |name: &ObjectRef| self.watches.iter().any(|known| known.held.contains(name));
        let left = self.fetches.follow(references, is_there, Instant::now());
        // Nobody needs it: it is not to be held.
        self.waiting.extend(left.into_iter().map(|name| (name, None)));
        self.problems_changed = true;
        self.count_open();
    }

    /// When there is something to fetch, if ever.
    pub(super) fn fetch_due(&self) -> Option<Instant> {
        self.fetches.due()
    }

    /// What to fetch now, and for which watch; if anything.
    pub(super) fn next_fetch(&mut self) -> Option<(usize, Fetch)> {
        loop {
            let fetch = self.fetches.next(Instant::now())?;
            // Whatever is there is held by its watch.
            if let Some(watch) = self.watches.iter().position(|known| known.held.contains(&fetch.name)) {
                return Some((watch, fetch));
            }
            self.fetches.unknown(&fetch);
        }
    }

    /// What came of a fetch.
    pub(super) fn fetched(&mut self, watch: usize, fetch: Fetch, fetched: Fetched) {
        let Some(status) = self.status.watches().get(watch) else { return };
        self.problems_changed = true;
        if let Some(object) = self.fetches.fetched(&fetch, status.watched(), fetched, Instant::now()) {
            self.waiting.insert(fetch.name, object);
        }
        self.count_open();
    }

    fn count_open(&self) {
        self.status.set_fetching(self.fetches.open());
    }

    /// Takes in what a watch says.
    pub(super) fn hear(&mut self, heard: Heard) {
        let Some((known, status)) = self.watches.get_mut(heard.watch).zip(self.status.watches().get(heard.watch))
        else {
            return;
        };
        let is_complete = matches!(heard.news, News::Complete);
        let permitted = match heard.news {
            News::Listing => {
                known.listed = Some(BTreeSet::new());
                None
            }
            News::Listed(item) => {
                known.listed.get_or_insert_default().insert(item.name());
                self.waiting.extend(known.take_in(item, &mut self.fetches));
                None
            }
            News::Complete | News::Missing => {
                let listed = known.listed.take().filter(|_| is_complete).unwrap_or_default();
                for name in known.held.difference(&listed) {
                    self.fetches.gone(name);
                    self.waiting.insert(name.clone(), None);
                }
                known.unreadable.retain(|name, _| listed.contains(name));
                known.held = listed;
                (known.synced, known.failed) = (true, None);
                status.listed();
                Some("list")
            }
            News::Applied(item) => {
                self.waiting.extend(known.take_in(item, &mut self.fetches));
                Some("watch")
            }
            News::Deleted(name) => {
                known.unreadable.remove(&name);
                self.fetches.gone(&name);
                if known.held.remove(&name) {
                    self.waiting.insert(name, None);
                }
                Some("watch")
            }
            News::Failed(failure) => {
                if let Failure::Forbidden { verb, .. } = failure {
                    known.forbidden = Some(Forbidden { verb, finding: forbidden(status, &failure) });
                } else if !known.synced {
                    // The first, as each change of it would be another configuration; what it is now, the status says.
                    known.failed.get_or_insert(failure);
                }
                None
            }
        };
        // Whoever may watch may list, as far as this can be told; but not the other way round.
        if permitted.is_some_and(|verb| verb == "watch" || known.forbidden.as_ref().is_some_and(|no| no.verb == verb)) {
            known.forbidden = None;
        }
        self.problems_changed = true;
        status.set_objects(known.held.len());
        self.count_open();
    }

    /// From now on no kind is waited for that fails and is not needed: see [`OPTIONAL_PATIENCE`](crate::control::limits::OPTIONAL_PATIENCE).
    pub(super) fn lose_patience(&mut self) {
        self.is_patient = false;
        self.problems_changed = true;
    }

    /// What is to be passed on, if there is anything: nothing before each kind is known, or known to be forbidden.
    pub(super) fn take(&mut self) -> Option<Batch> {
        let mut watches = self.watches.iter().zip(self.status.watches());
        let is_known = watches.all(|(known, status)| known.is_known(status, self.is_patient));
        if !self.began && !is_known && self.remembered.is_none() {
            return None;
        }
        if is_known && self.remembered.take().is_some() {
            self.status.set_remembered(None);
            self.problems_changed = true;
        }
        let is_first = !std::mem::replace(&mut self.began, true);
        if std::mem::take(&mut self.problems_changed) {
            let said = (self.problems(), self.fetches.answers());
            self.problems_changed = said != self.said;
            self.said = said;
        }
        if !is_first && self.waiting.is_empty() && !self.problems_changed {
            return None;
        }
        self.problems_changed = false;
        let mut batch = self.nothing();
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
        self.said = (self.problems(), self.fetches.answers());
        self.began.then(|| self.nothing())
    }

    /// No object, but what there is to say besides.
    fn nothing(&self) -> Batch {
        let (problems, answers) = self.said.clone();
        Batch { problems, answers, is_remembered: self.remembered.is_some(), ..Batch::default() }
    }

    fn problems(&self) -> Vec<Finding> {
        let forbidden = self.watches.iter().filter_map(|known| known.forbidden.as_ref()).map(|no| no.finding.clone());
        let forbidden = forbidden.chain(self.remembered.map(|heard| self.not_heard(heard)));
        let without = self.watches.iter().zip(self.status.watches()).filter(|_| !self.is_patient);
        let without = without.filter(|(known, status)| !known.synced && known.is_done_without(status));
        let without = without
            .filter_map(|(known, status)| Some(not_listed(status, known.failed.as_ref()?, !known.held.is_empty())));
        let forbidden = forbidden.chain(without);
        let unreadable = self.watches.iter().flat_map(|known| known.unreadable.values());
        forbidden.chain(unreadable.chain(self.fetches.problems()).take(MAX_PROBLEMS).cloned()).collect()
    }
}

impl Mirror {
    /// The verdict on what an earlier process has heard and this one has not.
    fn not_heard(&self, heard: i64) -> Finding {
        let open = self.watches.iter().zip(self.status.watches());
        let open = open.filter(|(known, _)| !known.synced && known.forbidden.is_none());
        let open: Vec<&str> = open.map(|(_, status)| status.watched().resource).collect();
        remembered::finding(&open, heard)
    }
}

/// The verdict on a kind that cannot be listed and is done without. `is_held`: some of it is known all the same.
fn not_listed(status: &WatchStatus, failure: &Failure, is_held: bool) -> Finding {
    let without = if is_held { "what is known of it is served" } else { status.watched().without };
    Finding {
        severity: Severity::Warning,
        reason: remembered::NOT_LISTED,
        object: None,
        file: Path::new(LABEL).into(),
        line: 0,
        field: None,
        message: format!("{}: {failure}; {without}.", status.place()),
        fix: "It is asked for again and again; the log of the API server may say more.".to_owned(),
    }
}

/// The verdict on a permission that is missing.
fn forbidden(status: &WatchStatus, failure: &Failure) -> Finding {
    let Watched { resource, is_needed, is_fetched, without, .. } = *status.watched();
    let role = if status.namespace().is_some() { "Role" } else { "ClusterRole" };
    let verbs = if is_fetched { "list, watch and get" } else { "list and watch" };
    let without = match failure {
        Failure::Forbidden { verb: "watch", .. } => {
            format!("what there is, is listed anew every {} s", RELIST.as_secs())
        }
        _ => without.to_owned(),
    };
    Finding {
        severity: if is_needed { Severity::Error } else { Severity::Warning },
        reason: "Forbidden",
        object: None,
        file: Path::new(LABEL).into(),
        line: 0,
        field: None,
        message: format!("{}: {failure}; {without}.", status.place()),
        fix: format!("Grant {verbs} of {resource} with a {role} to the account that Tidegate runs as."),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::kinds::{Kinds, WATCHED},
        *,
    };

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
            say(&mut mirror, Kind::Service, News::Listed(Item::Object(service(name))));
        }
        assert!(mirror.take().is_none() && mirror.again().is_none(), "the list is not complete");
        say(&mut mirror, Kind::Service, News::Complete);
        assert_eq!(mirror.take().unwrap().apply.len(), names.len());
        assert!(mirror.take().is_none());
        mirror
    }

    #[test]
    fn a_replica_that_does_not_know_the_classes_is_not_ready() {
        for (fails, begins) in [(Kind::ConfigMap, true), (Kind::IngressClass, false), (Kind::Ingress, false)] {
            let mut mirror = mirror();
            for watch in 0..mirror.watches.len() {
                if watch != number_of(&mirror, fails) {
                    mirror.hear(Heard { watch, news: News::Listing });
                    mirror.hear(Heard { watch, news: News::Complete });
                }
            }
            say(&mut mirror, fails, News::Failed(Failure::Refused { code: 500, message: "its words".to_owned() }));
            assert!(mirror.take().is_none(), "it may come yet");
            mirror.lose_patience();
            assert_eq!(mirror.take().is_some(), begins, "{fails:?}");
        }
    }

    #[test]
    fn a_kind_that_is_not_installed_is_an_empty_list() {
        let mut mirror = mirror();
        let pool =
            "{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: a}, spec: {addresses: []}}";
        let pool = tidegate_crd::yaml::parse(Path::new("test.yaml"), pool).documents.remove(0).object;
        let watches: Vec<Kind> = mirror.status.watches().iter().map(|watch| watch.watched().kind).collect();
        for kind in watches {
            assert!(mirror.take().is_none());
            say(&mut mirror, kind, News::Listing);
            say(&mut mirror, kind, if kind.is_own() { News::Missing } else { News::Complete });
        }
        assert_eq!(mirror.take().map(|batch| batch.problems.len()), Some(0));
        say(&mut mirror, Kind::LoadBalancerPool, News::Applied(Item::Object(pool.clone())));
        assert_eq!(mirror.take().unwrap().apply.len(), 1);
        say(&mut mirror, Kind::LoadBalancerPool, News::Missing);
        assert_eq!(mirror.take().unwrap().delete, [pool.object_ref()]);
    }

    #[test]
    fn what_vanished_unseen_is_deleted_at_the_end_of_the_next_list() {
        let mut mirror = synced(&["a", "b"]);
        say(&mut mirror, Kind::Service, News::Applied(Item::Object(service("c"))));
        say(&mut mirror, Kind::Service, News::Failed(Failure::Gone { at_start: false }));
        say(&mut mirror, Kind::Service, News::Listing);
        say(&mut mirror, Kind::Service, News::Listed(Item::Object(service("b"))));
        assert_eq!(mirror.take().unwrap().delete, [], "half a list says nothing of the others");
        // The list breaks off, and begins again: what it said so far does not count.
        say(&mut mirror, Kind::Service, News::Listing);
        say(&mut mirror, Kind::Service, News::Listed(Item::Object(service("d"))));
        say(&mut mirror, Kind::Service, News::Complete);
        let batch = mirror.take().unwrap();
        assert_eq!(batch.delete, [name("a"), name("b"), name("c")]);
        assert_eq!(batch.apply.len(), 1);
    }

    #[test]
    fn the_last_word_counts() {
        let mut mirror = synced(&["a"]);
        say(&mut mirror, Kind::Service, News::Deleted(name("a")));
        say(&mut mirror, Kind::Service, News::Applied(Item::Object(service("a"))));
        say(&mut mirror, Kind::Service, News::Applied(Item::Object(service("b"))));
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
            News::Applied(Item::Object(object))
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

    fn secret(text: &str) -> Object {
        let mut secret = tidegate_crd::core::Secret::default();
        secret.metadata.name = Some(text.to_owned());
        Object::Secret(Box::new(secret))
    }

    #[test]
    fn references_are_answered_once_everything_there_was_fetched() {
        let mut mirror = synced(&[]);
        let secret_name = |one: &str| ObjectRef::new(Kind::Secret, "", one);
        let refer = |mirror: &mut Mirror, number, names: &[&str]| {
            mirror.refer(&References { number, names: names.iter().map(|one| secret_name(one)).collect() });
        };
        refer(&mut mirror, 1, &["missing"]);
        assert_eq!(mirror.take().unwrap().answers, Some(1), "there is nothing to wait for");
        let named = |one: &str| News::Applied(Item::Named(secret_name(one), "1".to_owned()));
        say(&mut mirror, Kind::Secret, named("a"));
        say(&mut mirror, Kind::Secret, named("nobody's"));
        assert!(mirror.take().is_none() && mirror.next_fetch().is_none());
        refer(&mut mirror, 2, &["missing", "a"]);
        assert_eq!(mirror.take().map(|batch| batch.answers), Some(None));
        let (watch, fetch) = mirror.next_fetch().unwrap();
        assert_eq!((watch, &fetch.name), (number_of(&mirror, Kind::Secret), &secret_name("a")));
        mirror.fetched(watch, fetch, Fetched::Object { object: secret("a"), version: "1".to_owned() });
        let batch = mirror.take().unwrap();
        assert_eq!((batch.answers, batch.apply.len()), (Some(2), 1));
        // Nobody needs it any more.
        refer(&mut mirror, 3, &["missing"]);
        assert_eq!(mirror.take().unwrap().delete, [secret_name("a")]);
    }

    #[test]
    fn what_was_remembered_stands_until_it_is_heard() {
        let mut mirror = almost_synced();
        assert!(mirror.take().is_none());
        mirror.remember(Remembered { heard: 77, objects: vec![service("old"), service("kept"), secret("a")] });
        let batch = mirror.take().unwrap();
        assert!(mirror.began() && batch.is_remembered);
        let names: Vec<ObjectRef> = batch.apply.iter().map(|document| document.object.object_ref()).collect();
        assert_eq!(names, [name("kept"), name("old")], "of Secrets all is known");
        assert!(batch.problems[0].message.starts_with("the API server has not told of services since"));
        assert!(mirror.status.is_ready() && mirror.status.report().contains("as an earlier process heard it"));
        say(&mut mirror, Kind::Service, News::Listing);
        say(&mut mirror, Kind::Service, News::Listed(Item::Object(service("kept"))));
        say(&mut mirror, Kind::Service, News::Complete);
        let batch = mirror.take().unwrap();
        assert_eq!((batch.delete, batch.is_remembered, batch.problems), (vec![name("old")], false, vec![]));
        assert_eq!(mirror.status.remembered(), None);
    }

    #[test]
    fn a_kind_that_is_not_needed_and_fails_does_not_keep_the_others_for_ever() {
        let broken = || News::Failed(Failure::Refused { code: 500, message: "its words".to_owned() });
        let mut mirror = mirror();
        for kind in
            WATCHED.map(|watched| watched.kind).into_iter().filter(|kind| ![Kind::Node, Kind::Service].contains(kind))
        {
            say(&mut mirror, kind, News::Listing);
            say(&mut mirror, kind, News::Complete);
        }
        say(&mut mirror, Kind::Node, broken());
        say(&mut mirror, Kind::Service, broken());
        mirror.lose_patience();
        assert!(mirror.take().is_none(), "Services are needed");
        say(&mut mirror, Kind::Service, News::Listing);
        say(&mut mirror, Kind::Service, News::Complete);
        let said =
            |batch: Option<Batch>| -> Vec<String> { batch.unwrap().problems.iter().map(ToString::to_string).collect() };
        assert_eq!(
            said(mirror.take()),
            [
                "kubernetes: warning[NotListed]: nodes: answered 500 (its words); the zone of this node is not known, nor its \
              addresses. Fix: It is asked for again and again; the log of the API server may say more."
            ]
        );
        say(&mut mirror, Kind::Node, News::Failed(Failure::Unreachable { message: "another".to_owned() }));
        assert!(mirror.take().is_none(), "that is no other configuration");
        say(&mut mirror, Kind::Node, News::Listing);
        say(&mut mirror, Kind::Node, News::Complete);
        assert_eq!(said(mirror.take()), [] as [&str; 0]);
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
        status.answered(false);
        assert_eq!(mirror.again().unwrap().problems.len(), 1, "a list says nothing of watches");
        status.answered(true);
        assert_eq!(mirror.again().unwrap().problems, []);
    }
}
