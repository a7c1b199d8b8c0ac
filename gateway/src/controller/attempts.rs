//! `Attempts`: what was written of late, or could not be, so that it is not tried all the time. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tidegate_crd::{Kind, ObjectRef};

use super::limits::{
    FORBIDDEN_PAUSE, MAX_DENIED, STATUS_AT_ONCE, STATUS_LONGEST_RETRY, STATUS_RETRIED_AT_ONCE, STATUS_RETRY,
    STATUS_REWRITE,
};
use crate::control::kubernetes::failure::Failure;

/// What is to be written to an object; another value is another attempt.
pub(super) trait Wanted: Clone + PartialEq {
    /// The object.
    fn name(&self) -> &ObjectRef;
}

/// A write that was tried, or is to be.
#[derive(Debug)]
struct Tried<W> {
    wanted: W,
    /// When the same may be tried (again), and from when on it waits.
    again: Instant,
    /// In a row.
    failures: u32,
    is_under_way: bool,
}

/// All objects of a kind in a namespace: who may write one may write all, as far as permissions go.
type Place = (Kind, Arc<str>);

/// Whether we may write in a place, as far as that is known.
#[derive(Debug, Default)]
struct Permission {
    /// Where we may not: when one object is tried again, and how often that was forbidden in a row.
    closed: Option<(Instant, u32)>,
    /// Whether anything was written. Then what is forbidden is so for the object alone, as by an admission webhook.
    written: bool,
    /// The objects of which that was so, since something was written last.
    denied: BTreeSet<Arc<str>>,
}

impl Permission {
    fn written(&mut self) {
        *self = Self { written: true, ..Self::default() };
    }

    /// It was forbidden to write this object. When one of this place is tried again; `None` if it is the object alone.
    fn forbidden(&mut self, name: &Arc<str>, now: Instant) -> Option<Instant> {
        if self.written {
            self.denied.insert(name.clone());
            if self.denied.len() <= MAX_DENIED {
                return None;
            }
        }
        let (again, times) = self.closed.unwrap_or((now, 0));
        // Others of this place may have been under way with the one that was answered first.
        let closed = if again > now { (again, times) } else { (now + pause(times, FORBIDDEN_PAUSE), times + 1) };
        *self = Self { closed: Some(closed), ..Self::default() };
        Some(closed.0)
    }
}

/// What was tried of late, so that it is not tried all the time.
#[derive(Debug)]
pub(super) struct Attempts<W> {
    tried: BTreeMap<ObjectRef, Tried<W>>,
    permissions: BTreeMap<Place, Permission>,
}

impl<W: Wanted> Attempts<W> {
    /// What of a plan is to be written now, and when there is more to do if nothing changes and nothing is [`Self::done`]. Whatever failed
    /// least goes first, and then what waits for longest: where some never come to an end, the others do.
    pub(super) fn due(&mut self, plan: Vec<W>, now: Instant) -> (Vec<W>, Option<Instant>) {
        let mut planned = self.take_over(plan, now);
        let under_way = self.tried.values().chain(planned.values()).filter(|tried| tried.is_under_way);
        let mut room = STATUS_AT_ONCE.saturating_sub(under_way.clone().count());
        let failed = under_way.clone().filter(|tried| tried.failures > 0).count();
        let mut room_of_failed = STATUS_RETRIED_AT_ONCE.saturating_sub(failed);
        let mut asked: BTreeSet<Place> = under_way.map(|tried| place(tried.wanted.name())).collect();
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        let mut waiting: Vec<&mut Tried<W>> = planned.values_mut().filter(|tried| !tried.is_under_way).collect();
        waiting.sort_by_key(|tried| (tried.failures, tried.again));
        for tried in waiting {
            let place = place(tried.wanted.name());
            let closed = self.permissions.get(&place).and_then(|permission| permission.closed);
            let at = closed.map_or(tried.again, |(again, _)| again.max(tried.again));
            if at > now {
                next = Some(next.map_or(at, |next| next.min(at)));
                continue;
            }
            let has_room = room > 0 && (tried.failures == 0 || room_of_failed > 0);
            if !has_room || (closed.is_some() && asked.contains(&place)) {
                continue;
            }
            room -= 1;
            room_of_failed -= usize::from(tried.failures > 0);
            asked.insert(place);
            tried.is_under_way = true;
            due.push(tried.wanted.clone());
        }
        self.tried.append(&mut planned);
        (due, next)
    }

    /// What is known of a plan's objects; of the others what may still be of use is left.
    fn take_over(&mut self, plan: Vec<W>, now: Instant) -> BTreeMap<ObjectRef, Tried<W>> {
        let mut planned = BTreeMap::new();
        for wanted in plan {
            let name = wanted.name().clone();
            let tried = self.tried.remove(&name).filter(|tried| tried.is_under_way || tried.wanted == wanted);
            let fresh = || Tried { wanted, again: now, failures: 0, is_under_way: false };
            planned.insert(name, tried.unwrap_or_else(fresh));
        }
        // What is as it should be may be made something else by others right away.
        self.tried.retain(|_, tried| tried.is_under_way || tried.again > now);
        self.permissions.retain(|(kind, namespace), _| {
            let first = ObjectRef { kind: *kind, namespace: namespace.clone(), name: Arc::default() };
            let is_of_it = |name: &ObjectRef| (name.kind, &name.namespace) == (*kind, namespace);
            planned.range(first..).next().is_some_and(|(name, _)| is_of_it(name))
        });
        planned
    }

    /// It was tried; without a failure it was written.
    pub(super) fn done(&mut self, wanted: W, failure: Option<&Failure>, now: Instant) {
        let failures = self.tried.get(wanted.name()).map_or(0, |tried| tried.failures);
        let permission = self.permissions.entry(place(wanted.name())).or_default();
        let failed = (now + pause(failures, STATUS_LONGEST_RETRY), failures + 1);
        let (again, failures) = match failure {
            None => {
                permission.written();
                (now + STATUS_REWRITE, 0)
            }
            Some(Failure::Forbidden { .. }) => {
                permission.forbidden(&wanted.name().name, now).map_or(failed, |again| (again, 0))
            }
            Some(Failure::Unreachable { .. }) => failed,
            Some(Failure::Gone { .. } | Failure::Refused { .. }) => {
                // For whatever reason, but not because we may not.
                permission.closed = None;
                match failure {
                    Some(Failure::Refused { code: 404, .. }) => (now + STATUS_REWRITE, 0),
                    _ => failed,
                }
            }
        };
        self.tried.insert(wanted.name().clone(), Tried { wanted, again, failures, is_under_way: false });
    }
}

fn place(name: &ObjectRef) -> Place {
    (name.kind, name.namespace.clone())
}

/// The pause after something that has failed so often before.
pub(super) fn pause(times: u32, longest: Duration) -> Duration {
    STATUS_RETRY.saturating_mul(1 << times.min(10)).min(longest)
}

impl<W> Default for Attempts<W> {
    fn default() -> Self {
        Self { tried: BTreeMap::new(), permissions: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Address {
        name: ObjectRef,
        ip: &'static str,
    }

    impl Wanted for Address {
        fn name(&self) -> &ObjectRef {
            &self.name
        }
    }

    fn of_kind(kind: Kind, namespace: &str, name: &str) -> Address {
        Address { name: ObjectRef::new(kind, namespace, name), ip: "192.0.2.1" }
    }

    fn wanted(of: &str, ip: &'static str) -> Address {
        Address { ip, ..of_kind(Kind::Ingress, "default", of) }
    }

    fn forbidden() -> Failure {
        Failure::Forbidden { verb: "patch", message: "its words".to_owned() }
    }

    fn away() -> Failure {
        Failure::Unreachable { message: "gone".to_owned() }
    }

    /// The names of what is due.
    fn due(attempts: &mut Attempts<Address>, plan: &[Address], now: Instant) -> Vec<String> {
        let (due, _) = attempts.due(plan.to_vec(), now);
        due.iter().map(|wanted| wanted.name.name.to_string()).collect()
    }

    #[test]
    fn the_same_is_not_written_again_at_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let (one, two) = (wanted("a", "192.0.2.1"), wanted("a", "192.0.2.2"));
        assert_eq!(attempts.due(vec![one.clone()], now), (vec![one.clone()], None));
        assert_eq!(attempts.due(vec![two.clone()], now), (vec![], None), "it is under way");
        attempts.done(one.clone(), None, now);
        assert_eq!(attempts.due(vec![one.clone()], now), (vec![], Some(now + STATUS_REWRITE)));
        assert_eq!(attempts.due(vec![two.clone()], now), (vec![two], None), "another at once");
        attempts.done(one.clone(), None, now);
        assert_eq!(attempts.due(vec![], now), (vec![], None), "it was heard of");
        let quarrel = attempts.due(vec![one.clone()], now + STATUS_REWRITE / 2);
        assert_eq!(quarrel, (vec![], Some(now + STATUS_REWRITE)), "somebody else writes something else");
        assert_eq!(attempts.due(vec![one.clone()], now + STATUS_REWRITE).0, std::slice::from_ref(&one));
        attempts.done(one, None, now);
        assert_eq!(attempts.due(vec![], now + STATUS_REWRITE), (vec![], None));
        assert!(attempts.tried.is_empty() && attempts.permissions.is_empty(), "after a while it is forgotten");
    }

    #[test]
    fn what_fails_is_tried_later_and_later() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let one = wanted("a", "192.0.2.1");
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(attempts.due(vec![one.clone()], now).0, std::slice::from_ref(&one));
            attempts.done(one.clone(), Some(&away()), now);
            let (due, next) = attempts.due(vec![one.clone()], now);
            assert_eq!(due, []);
            pauses.push((next.unwrap() - now).as_secs());
            now = next.unwrap();
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn where_we_may_not_write_one_is_tried_now_and_then() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let all = [wanted("a", "192.0.2.1"), wanted("b", "192.0.2.1"), of_kind(Kind::Ingress, "shop", "elsewhere")];
        assert_eq!(due(&mut attempts, &all, now), ["a", "b", "elsewhere"]);
        attempts.done(all[2].clone(), None, now);
        let (mut later, mut pauses, mut asked) = (now, Vec::new(), vec![all[0].clone(), all[1].clone()]);
        for _ in 0..8 {
            asked.drain(..).for_each(|one| attempts.done(one, Some(&forbidden()), later));
            let (none, next) = attempts.due(all[..2].to_vec(), later);
            assert_eq!(none, []);
            pauses.push((next.unwrap() - later).as_secs());
            later = next.unwrap();
            asked = attempts.due(all[..2].to_vec(), later).0;
            assert_eq!(asked.len(), 1, "one of them is enough to know");
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60], "an API server that has just begun forbids everything");
        let other = if asked[0] == all[0] { "b" } else { "a" };
        assert_eq!(due(&mut attempts, &all[..2], later), [] as [&str; 0], "until it is known");
        attempts.done(asked[0].clone(), None, later);
        assert_eq!(due(&mut attempts, &all[..2], later), [other]);
    }

    /// Without the permission for pools, which are as little in a namespace as parameters are.
    #[test]
    fn a_kind_that_is_forbidden_does_not_keep_the_others_of_its_namespace() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let pool = of_kind(Kind::LoadBalancerPool, "", "pool");
        let parameters = |name| of_kind(Kind::IngressClassParameters, "", name);
        assert_eq!(due(&mut attempts, std::slice::from_ref(&pool), now), ["pool"]);
        for name in ["one", "two", "three"] {
            attempts.done(pool.clone(), Some(&forbidden()), now);
            assert_eq!(due(&mut attempts, &[pool.clone(), parameters(name)], now), [name], "it is not kept waiting");
            attempts.done(parameters(name), None, now);
            now += FORBIDDEN_PAUSE;
            assert_eq!(due(&mut attempts, std::slice::from_ref(&pool), now), ["pool"]);
        }
    }

    #[test]
    fn an_object_that_is_denied_does_not_keep_its_namespace() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let (denied, other) = (wanted("a", "192.0.2.1"), wanted("b", "192.0.2.1"));
        // It is the first, and so it looks as if nothing may be written there.
        assert_eq!(due(&mut attempts, std::slice::from_ref(&denied), now), ["a"]);
        attempts.done(denied.clone(), Some(&forbidden()), now);
        let both = [denied.clone(), other.clone()];
        assert_eq!(due(&mut attempts, &both, now), [] as [&str; 0]);
        now += STATUS_RETRY;
        assert_eq!(due(&mut attempts, &both, now), ["b"], "it is the other's turn");
        attempts.done(other, None, now);
        assert_eq!(due(&mut attempts, &both, now), ["a"]);
        attempts.done(denied.clone(), Some(&forbidden()), now);
        // From now on it is known whose trouble that is.
        for name in ["c", "d"] {
            let new = wanted(name, "192.0.2.1");
            assert_eq!(due(&mut attempts, &[denied.clone(), new.clone()], now), [name]);
            attempts.done(new, None, now);
        }
        now += STATUS_RETRY;
        assert_eq!(due(&mut attempts, &[denied], now), ["a"], "it is tried again as whatever fails");
    }

    #[test]
    fn a_permission_that_is_taken_back_is_noticed() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let all: Vec<Address> = (0..30).map(|i| wanted(&format!("a{i:02}"), "192.0.2.1")).collect();
        assert_eq!(due(&mut attempts, &all[..1], now), ["a00"]);
        attempts.done(all[0].clone(), None, now);
        let mut tried = 0;
        loop {
            let (due, _) = attempts.due(all.clone(), now);
            tried += due.len();
            if due.is_empty() {
                break;
            }
            due.into_iter().for_each(|one| attempts.done(one, Some(&forbidden()), now));
        }
        assert_eq!(tried, 2 * STATUS_AT_ONCE, "{MAX_DENIED} may be trouble of their own, all of them cannot");
    }

    #[test]
    fn a_new_leader_does_not_write_all_at_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let all: Vec<Address> = (0..500).map(|i| wanted(&format!("a{i:03}"), "192.0.2.1")).collect();
        let (first, next) = attempts.due(all.clone(), now);
        assert_eq!((&first[..], next), (&all[..STATUS_AT_ONCE], None));
        attempts.done(first[3].clone(), None, now);
        assert_eq!(attempts.due(all.clone(), now).0, all[STATUS_AT_ONCE..=STATUS_AT_ONCE], "one for each that is done");
    }

    /// As behind a webhook that does not answer: each takes half a minute to fail.
    #[test]
    fn objects_whose_writes_hang_do_not_keep_the_others() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let hanging: Vec<Address> = (0..100).map(|i| wanted(&format!("a{i:02}"), "192.0.2.1")).collect();
        let mut all = hanging.clone();
        all.push(wanted("other", "192.0.2.1"));
        let mut rounds = 0;
        while attempts.tried.get(all[100].name()).is_none_or(|other| !other.is_under_way) {
            for one in attempts.due(all.clone(), now).0 {
                if one.name.name.starts_with('a') {
                    attempts.done(one, Some(&away()), now + Duration::from_secs(30));
                }
            }
            now += Duration::from_secs(30);
            rounds += 1;
            assert!(rounds <= 11, "once all others have had their turn, it has its own");
        }
        attempts.done(all[100].clone(), None, now);
        // And there is room for what comes later, however many of them are tried again.
        now += STATUS_LONGEST_RETRY;
        assert_eq!(attempts.due(hanging, now).0.len(), STATUS_RETRIED_AT_ONCE);
        all[100] = wanted("new", "192.0.2.1");
        assert_eq!(due(&mut attempts, &all, now), ["new"]);
    }
}
