//! `Fetches`: Secrets and ConfigMaps, of which only those that something refers to are read. Pure.
//!
//! Their watch tells of names alone. One that is referred to and there is fetched at once, and again whenever its watch says that it
//! has changed. What goes wrong with one concerns that one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Instant,
};

use tidegate_crd::{Object, ObjectRef};

use super::{backoff::Backoff, failure::Failure, kinds::Watched, mirror::LABEL};
use crate::{
    compile::finding::{Finding, Severity},
    control::{
        References,
        limits::{FETCHES_AT_ONCE, FORBIDDEN_PAUSE, FORBIDDEN_SETTLE},
    },
};

/// What came of a fetch.
#[derive(Debug)]
pub(super) enum Fetched {
    /// This, which is of use.
    Object { object: Object, version: String },
    /// Nothing that is of use, or nothing at all.
    Nothing,
    /// It is not what its kind should be.
    Unreadable(Finding),
    /// No answer, or one that we did not want.
    Failed(Failure),
}

/// A fetch to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fetch {
    pub(super) name: ObjectRef,
    /// No two have the same: an answer is taken only by whom it was asked for.
    number: u64,
}

/// Everything that is to be fetched, and how far that is.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// Which [`References`] are followed.
    number: u64,
    /// Fetches so far.
    count: u64,
    wanted: BTreeMap<ObjectRef, Wanted>,
    /// What is to be fetched when. Each at most once.
    queue: BTreeSet<(Instant, ObjectRef)>,
    under_way: usize,
    /// Those there of which nothing has been heard yet.
    open: BTreeSet<ObjectRef>,
    /// Those of which an earlier process has heard.
    remembered: BTreeSet<ObjectRef>,
}

#[derive(Debug, Default)]
struct Wanted {
    /// Whether its watch says that it is there.
    is_there: bool,
    /// What was fetched last.
    version: Option<String>,
    step: Step,
    backoff: Backoff,
    /// Since when we may not read it.
    forbidden: Option<Instant>,
    problem: Option<Finding>,
}

#[derive(Debug, Default, PartialEq)]
enum Step {
    #[default]
    Rest,
    Queued(Instant),
    /// `number`: of the [`Fetch`]; `again`: it has changed since.
    UnderWay {
        number: u64,
        again: bool,
    },
}

impl Fetches {
    /// Follows these references from now on; `is_there` is what their watches say. Those of before that are not referred to any more
    /// are given back.
    pub(super) fn follow(
        &mut self,
        references: &References,
        is_there: impl Fn(&ObjectRef) -> bool,
        now: Instant,
    ) -> Vec<ObjectRef> {
        self.number = references.number;
        let held = self.wanted.keys().chain(&self.remembered);
        let left: BTreeSet<ObjectRef> = held.filter(|name| !references.names.contains(*name)).cloned().collect();
        for name in &left {
            self.open.remove(name);
            if let Some(Wanted { step: Step::Queued(at), .. }) = self.wanted.remove(name) {
                self.queue.remove(&(at, name.clone()));
            }
        }
        for name in &references.names {
            if !self.wanted.contains_key(name) {
                self.wanted.insert(name.clone(), Wanted::default());
                if is_there(name) {
                    self.heard(name, None, now);
                }
            }
        }
        self.remembered.clear();
        left.into_iter().collect()
    }

    /// An earlier process has heard what it is: nobody needs to wait for it.
    pub(super) fn remember(&mut self, name: ObjectRef) {
        self.remembered.insert(name);
    }

    /// Its watch says that it is there, in this version if it is known which.
    pub(super) fn heard(&mut self, name: &ObjectRef, version: Option<&str>, now: Instant) {
        let Some(wanted) = self.wanted.get_mut(name) else { return };
        if !std::mem::replace(&mut wanted.is_there, true) {
            if !self.remembered.contains(name) {
                self.open.insert(name.clone());
            }
        } else if wanted.version.as_deref() == version && wanted.problem.is_none() {
            return;
        }
        match &mut wanted.step {
            Step::UnderWay { again, .. } => *again = true,
            Step::Rest | Step::Queued(_) => self.enqueue(name, now),
        }
    }

    /// Its watch says that it is gone.
    pub(super) fn gone(&mut self, name: &ObjectRef) {
        self.open.remove(name);
        let Some(wanted) = self.wanted.get_mut(name) else { return };
        (wanted.is_there, wanted.version, wanted.problem) = (false, None, None);
        if let Step::Queued(at) = wanted.step {
            wanted.step = Step::Rest;
            self.queue.remove(&(at, name.clone()));
        }
    }

    fn enqueue(&mut self, name: &ObjectRef, at: Instant) {
        let Some(wanted) = self.wanted.get_mut(name) else { return };
        if let Step::Queued(before) = std::mem::replace(&mut wanted.step, Step::Queued(at)) {
            self.queue.remove(&(before, name.clone()));
        }
        self.queue.insert((at, name.clone()));
    }

    /// When there is something to fetch, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        self.queue.first().filter(|_| self.under_way < FETCHES_AT_ONCE).map(|(at, _)| *at)
    }

    /// What to fetch now, if anything.
    pub(super) fn next(&mut self, now: Instant) -> Option<Fetch> {
        while self.due().is_some_and(|due| due <= now) {
            let (_, name) = self.queue.pop_first()?;
            let Some(wanted) = self.wanted.get_mut(&name) else { continue };
            self.count += 1;
            self.under_way += 1;
            wanted.step = Step::UnderWay { number: self.count, again: false };
            return Some(Fetch { name, number: self.count });
        }
        None
    }

    /// It is not fetched, as no watch knows of it.
    pub(super) fn unknown(&mut self, fetch: &Fetch) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(wanted) = self.wanted.get_mut(&fetch.name) {
            wanted.step = Step::Rest;
        }
        self.gone(&fetch.name);
    }

    /// Takes in what came of a fetch. What is to be passed on of it: the object, or that there is none; `None` if that is nothing.
    pub(super) fn fetched(
        &mut self,
        fetch: &Fetch,
        watched: &Watched,
        fetched: Fetched,
        now: Instant,
    ) -> Option<Option<Object>> {
        self.under_way = self.under_way.saturating_sub(1);
        let Fetch { name, number: asked } = fetch;
        // Nobody may want it any more; or again, and then that is another fetch, and what this one found may have changed before it began.
        let wanted = self.wanted.get_mut(name)?;
        let again = match wanted.step {
            Step::UnderWay { number, again } if number == *asked => again,
            Step::UnderWay { .. } | Step::Queued(_) | Step::Rest => return None,
        };
        wanted.step = Step::Rest;
        if !wanted.is_there {
            return None;
        }
        let mut next = again.then_some(now);
        let (problem, news) = match fetched {
            Fetched::Object { object, version } => {
                (wanted.version, wanted.forbidden) = (Some(version), None);
                (None, Some(Some(object)))
            }
            Fetched::Nothing => (None, Some(None)),
            Fetched::Unreadable(finding) => (Some(finding), None),
            Fetched::Failed(failure) => {
                let pause = wanted.backoff.pause(now, fastrand::f64());
                let is_forbidden = matches!(failure, Failure::Forbidden { .. });
                let since = is_forbidden.then(|| wanted.forbidden.unwrap_or(now));
                wanted.forbidden = since;
                let is_settled = since.is_none_or(|since| now - since >= FORBIDDEN_SETTLE);
                if matches!(failure, Failure::Unreachable { .. }) || !is_settled {
                    // It has not answered at all, so the watches say already; or has only begun.
                    self.enqueue(name, if again { now } else { now + pause });
                    return None;
                }
                next = next.or(Some(now + if is_forbidden { FORBIDDEN_PAUSE } else { pause }));
                (Some(problem(name, watched, &failure, wanted.version.is_some())), None)
            }
        };
        wanted.problem = problem;
        self.open.remove(name);
        if let Some(at) = next {
            self.enqueue(name, at);
        }
        news
    }

    /// Whether everything that is referred to and there has been answered for: [`References::number`].
    pub(super) fn answers(&self) -> Option<u64> {
        self.open.is_empty().then_some(self.number)
    }

    /// How many have not been answered for yet.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// What is wrong with single ones.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Finding> {
        self.wanted.values().filter_map(|wanted| wanted.problem.as_ref())
    }
}

/// The verdict on an object that could not be fetched.
fn problem(name: &ObjectRef, watched: &Watched, failure: &Failure, is_held: bool) -> Finding {
    let (reason, fix) = match failure {
        Failure::Forbidden { .. } => {
            ("Forbidden", format!("Grant get of {} there to the account that Tidegate runs as.", watched.resource))
        }
        _ => ("NotFetched", "It is asked for again and again; the log of the API server may say more.".to_owned()),
    };
    let so = if is_held { "what was known of it is served" } else { "it is as if there were none" };
    Finding {
        severity: Severity::Error,
        reason,
        object: Some(name.clone()),
        file: Path::new(LABEL).into(),
        line: 0,
        field: None,
        message: format!("{failure}; {so}."),
        fix,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_crd::{Kind, core::Secret};

    use super::{super::kinds::WATCHED, *};

    fn name(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Secret, "", name)
    }

    fn references(number: u64, names: &[&str]) -> References {
        References { number, names: names.iter().map(|one| name(one)).collect() }
    }

    fn secret(version: &str) -> Fetched {
        Fetched::Object { object: Object::Secret(Box::<Secret>::default()), version: version.to_owned() }
    }

    fn failed(code: u16) -> Fetched {
        Fetched::Failed(match code {
            0 => Failure::Unreachable { message: "gone".to_owned() },
            403 => Failure::Forbidden { verb: "get", message: "its words".to_owned() },
            code => Failure::Refused { code, message: "its words".to_owned() },
        })
    }

    /// A machine, its time, and what is under way.
    struct Bench(Fetches, Instant, Vec<Fetch>);

    impl Bench {
        fn new(names: &[&str]) -> Self {
            let (mut fetches, now) = (Fetches::default(), Instant::now());
            assert_eq!(fetches.follow(&references(1, names), |_| true, now), []);
            Self(fetches, now, Vec::new())
        }

        fn next(&mut self) -> Option<ObjectRef> {
            let fetch = self.0.next(self.1)?;
            self.2.push(fetch.clone());
            Some(fetch.name)
        }

        /// The answer to the first fetch of this one that is under way.
        fn fetched(&mut self, one: &str, fetched: Fetched) -> Option<bool> {
            let watched = WATCHED.iter().find(|watched| watched.kind == Kind::Secret).unwrap();
            let at = self.2.iter().position(|fetch| fetch.name == name(one)).expect("it is under way");
            let fetch = self.2.remove(at);
            self.0.fetched(&fetch, watched, fetched, self.1).map(|object| object.is_some())
        }
    }

    #[test]
    fn what_is_referred_to_and_there_is_fetched_once_for_each_change() {
        let mut bench = Bench::new(&["a"]);
        assert_eq!((bench.0.answers(), bench.next(), bench.next()), (None, Some(name("a")), None));
        assert_eq!(bench.fetched("a", secret("7")), Some(true));
        assert_eq!(bench.0.answers(), Some(1));
        // A list says it again.
        bench.0.heard(&name("a"), Some("7"), bench.1);
        bench.0.heard(&name("nobody's"), Some("8"), bench.1);
        assert_eq!(bench.next(), None);
        bench.0.heard(&name("a"), Some("9"), bench.1);
        assert_eq!(bench.next(), Some(name("a")));
        // Meanwhile it changes once more.
        bench.0.heard(&name("a"), Some("10"), bench.1);
        assert_eq!(bench.next(), None);
        assert_eq!(bench.fetched("a", secret("9")), Some(true));
        assert_eq!(bench.next(), Some(name("a")));
        // And is gone before the answer comes.
        bench.0.gone(&name("a"));
        assert_eq!(bench.fetched("a", secret("10")), None);
        assert_eq!((bench.next(), bench.0.answers()), (None, Some(1)));
        bench.0.heard(&name("a"), Some("11"), bench.1);
        assert_eq!((bench.0.answers(), bench.next()), (None, Some(name("a"))));
    }

    #[test]
    fn what_is_not_referred_to_any_more_is_given_back() {
        let mut bench = Bench::new(&["a", "b", "c"]);
        assert_eq!(bench.next(), Some(name("a")));
        let left = bench.0.follow(&references(2, &["c"]), |_| true, bench.1);
        assert_eq!(left, [name("a"), name("b")]);
        assert_eq!(bench.fetched("a", secret("1")), None, "nobody wants it");
        assert_eq!((bench.next(), bench.next()), (Some(name("c")), None));
        assert_eq!(bench.fetched("c", Fetched::Nothing), Some(false));
        assert_eq!(bench.0.answers(), Some(2));
    }

    #[test]
    fn an_answer_is_taken_only_by_whom_it_was_asked_for() {
        let mut bench = Bench::new(&["a"]);
        assert_eq!(bench.next(), Some(name("a")));
        // While that takes its time, nobody refers to it, and then somebody does again; and it has changed.
        assert_eq!(bench.0.follow(&references(2, &[]), |_| true, bench.1), [name("a")]);
        assert_eq!(bench.0.follow(&references(3, &["a"]), |_| true, bench.1), []);
        assert_eq!(bench.next(), Some(name("a")));
        assert_eq!((bench.fetched("a", secret("old")), bench.0.answers()), (None, None));
        assert_eq!((bench.fetched("a", secret("new")), bench.0.answers()), (Some(true), Some(3)));
        bench.0.heard(&name("a"), Some("new"), bench.1);
        assert_eq!((bench.next(), bench.0.under_way), (None, 0));
    }

    #[test]
    fn what_is_not_fetched_takes_no_slot() {
        let mut bench = Bench::new(&[]);
        for number in 0..FETCHES_AT_ONCE as u64 {
            // Whatever became of who wanted it.
            bench.0.queue.insert((bench.1, name("nobody's")));
            assert_eq!(bench.next(), None);
            bench.0.follow(&references(2 + number, &["a"]), |_| true, bench.1);
            let fetch = bench.0.next(bench.1).expect("it is there");
            bench.0.unknown(&fetch);
            bench.0.follow(&references(2 + number, &[]), |_| true, bench.1);
        }
        assert_eq!((bench.0.under_way, bench.0.answers()), (0, Some(1 + FETCHES_AT_ONCE as u64)));
        bench.0.follow(&references(100, &["a"]), |_| true, bench.1);
        assert_eq!(bench.next(), Some(name("a")));
    }

    #[test]
    fn trouble_with_one_is_its_own() {
        let mut bench = Bench::new(&["a", "b", "c"]);
        while bench.next().is_some() {}
        assert_eq!(bench.fetched("a", failed(403)), None);
        assert_eq!((bench.0.problems().count(), bench.0.answers()), (0, None), "the API server may only have begun");
        bench.1 += FORBIDDEN_SETTLE;
        assert_eq!(bench.next(), Some(name("a")));
        assert_eq!(bench.fetched("a", failed(403)), None);
        assert_eq!(bench.fetched("b", failed(500)), None);
        assert_eq!(bench.fetched("c", failed(0)), None);
        let said: Vec<String> = bench.0.problems().map(ToString::to_string).collect();
        assert_eq!(
            said[0],
            "kubernetes: error[Forbidden] Secret default/a: not permitted to get (its words); it is as if there were none. \
             Fix: Grant get of secrets there to the account that Tidegate runs as."
        );
        assert!(said[1].contains("[NotFetched] Secret default/b: answered 500"), "{said:?}");
        assert_eq!((said.len(), bench.0.answers(), bench.next()), (2, None, None), "c has not been answered for");
        bench.1 += Duration::from_secs(1);
        let again: BTreeSet<ObjectRef> = std::iter::from_fn(|| bench.next()).collect();
        assert_eq!(again, BTreeSet::from([name("b"), name("c")]));
        // What we may not read is asked for at once if it changes, as it may be another's from then on.
        bench.0.heard(&name("a"), Some("2"), bench.1);
        assert_eq!(bench.next(), Some(name("a")));
        assert_eq!((bench.fetched("a", secret("2")), bench.fetched("b", secret("1"))), (Some(true), Some(true)));
        assert_eq!((bench.fetched("c", secret("1")), bench.0.problems().count()), (Some(true), 0));
        assert_eq!(bench.0.answers(), Some(1));
    }

    #[test]
    fn few_at_once() {
        let names: Vec<String> = (0..40).map(|n| format!("s{n:02}")).collect();
        let mut bench = Bench::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let first: Vec<ObjectRef> = std::iter::from_fn(|| bench.next()).collect();
        assert_eq!((first.len(), bench.0.due()), (FETCHES_AT_ONCE, None));
        assert_eq!(bench.fetched("s00", secret("1")), Some(true));
        assert_eq!((bench.next(), bench.next()), (Some(name("s16")), None));
    }
}
