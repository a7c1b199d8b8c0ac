//! `Attempts`: what was written of late, or could not be, so that it is not tried all the time.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use tidegate_crd::ObjectRef;

use super::limits::{FORBIDDEN_PAUSE, STATUS_LONGEST_RETRY, STATUS_RATE, STATUS_RETRY, STATUS_REWRITE};
use crate::control::kubernetes::failure::Failure;

/// Objects that are written before it is looked again what is wanted: a second's worth.
const BATCH: usize = STATUS_RATE as usize;

/// What is to be written to an object; another value is another attempt.
pub(super) trait Wanted: Clone + PartialEq {
    /// The object.
    fn name(&self) -> &ObjectRef;
}

/// A write that was tried.
#[derive(Debug)]
struct Tried<W> {
    wanted: W,
    /// When the same may be tried again.
    again: Instant,
    failures: u32,
}

/// What was tried of late, so that it is not tried all the time.
#[derive(Debug)]
pub(super) struct Attempts<W> {
    tried: BTreeMap<ObjectRef, Tried<W>>,
    /// Namespaces where we may not write, when one is tried again, and how often that was forbidden in a row.
    forbidden: BTreeMap<Arc<str>, (Instant, u32)>,
}

impl<W: Wanted> Attempts<W> {
    /// What of a plan is to be written now, and when there is more to do if nothing changes.
    pub(super) fn due(&mut self, plan: Vec<W>, now: Instant) -> (Vec<W>, Option<Instant>) {
        // What is as it should be may be made something else by others right away.
        let mut kept = BTreeMap::new();
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        let mut later = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        let mut asked = Vec::new();
        for wanted in plan {
            let tried = self.tried.remove(wanted.name()).filter(|tried| tried.wanted == wanted);
            let again = tried.as_ref().map(|tried| tried.again).filter(|again| *again > now);
            if let Some(tried) = tried {
                kept.insert(wanted.name().clone(), tried);
            }
            let closed = self.forbidden.get(&wanted.name().namespace).map(|(again, _)| *again);
            if let Some(again) = again.max(closed.filter(|again| *again > now)) {
                later(again);
            } else if due.len() == BATCH || (closed.is_some() && asked.contains(&wanted.name().namespace)) {
                later(now);
            } else {
                asked.push(wanted.name().namespace.clone());
                due.push(wanted);
            }
        }
        self.tried.retain(|_, tried| tried.again > now);
        self.tried.append(&mut kept);
        (due, next)
    }

    /// It was tried; without a failure it was written.
    pub(super) fn done(&mut self, wanted: W, failure: Option<&Failure>, now: Instant) {
        let failures = self.tried.get(wanted.name()).map_or(0, |tried| tried.failures);
        let namespace = wanted.name().namespace.clone();
        let (pause, failures) = match failure {
            None | Some(Failure::Refused { code: 404, .. }) => (STATUS_REWRITE, 0),
            Some(Failure::Forbidden { .. }) => {
                let (again, times) = self.forbidden.entry(namespace.clone()).or_insert((now, 0));
                // Others of this namespace may have been under way with the one that was answered first.
                if *again <= now {
                    // An API server that has just begun forbids everything for a moment.
                    *again = now + STATUS_RETRY.saturating_mul(1 << (*times).min(10)).min(FORBIDDEN_PAUSE);
                    *times += 1;
                }
                (*again - now, 0)
            }
            Some(Failure::Gone { .. } | Failure::Refused { .. } | Failure::Unreachable { .. }) => {
                (STATUS_RETRY.saturating_mul(1 << failures.min(10)).min(STATUS_LONGEST_RETRY), failures + 1)
            }
        };
        match failure {
            Some(Failure::Forbidden { .. }) => {}
            Some(Failure::Unreachable { .. }) => {}
            _ => drop(self.forbidden.remove(&namespace)),
        }
        self.tried.insert(wanted.name().clone(), Tried { wanted, again: now + pause, failures });
    }
}

impl<W> Default for Attempts<W> {
    fn default() -> Self {
        Self { tried: BTreeMap::new(), forbidden: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_crd::Kind;

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

    fn wanted(of: &str, ip: &'static str) -> Address {
        Address { name: ObjectRef::new(Kind::Ingress, "default", of), ip }
    }

    #[test]
    fn the_same_is_not_written_again_at_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let (one, two) = (wanted("a", "192.0.2.1"), wanted("a", "192.0.2.2"));
        assert_eq!(attempts.due(vec![one.clone()], now), (vec![one.clone()], None));
        attempts.done(one.clone(), None, now);
        assert_eq!(attempts.due(vec![one.clone()], now), (vec![], Some(now + STATUS_REWRITE)));
        assert_eq!(attempts.due(vec![two.clone()], now), (vec![two], None), "another at once");
        attempts.done(one.clone(), None, now);
        assert_eq!(attempts.due(vec![], now), (vec![], None), "it was heard of");
        let quarrel = attempts.due(vec![one.clone()], now + STATUS_REWRITE / 2);
        assert_eq!(quarrel, (vec![], Some(now + STATUS_REWRITE)), "somebody else writes something else");
        assert_eq!(attempts.due(vec![one.clone()], now + STATUS_REWRITE).0, [one]);
        assert_eq!(attempts.due(vec![], now + STATUS_REWRITE), (vec![], None));
        assert!(attempts.tried.is_empty(), "after a while it is forgotten");
    }

    #[test]
    fn what_fails_is_tried_later_and_later() {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let one = wanted("a", "192.0.2.1");
        let away = Failure::Unreachable { message: "gone".to_owned() };
        let mut pauses = Vec::new();
        for _ in 0..8 {
            attempts.done(one.clone(), Some(&away), now);
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
        let elsewhere = Address { name: ObjectRef::new(Kind::Ingress, "shop", "a"), ip: "192.0.2.1" };
        let all = vec![wanted("a", "192.0.2.1"), wanted("b", "192.0.2.1"), elsewhere.clone()];
        let forbidden = Failure::Forbidden { verb: "patch", message: "its words".to_owned() };
        let (mut later, mut pauses) = (now, Vec::new());
        for _ in 0..8 {
            attempts.done(all[0].clone(), Some(&forbidden), later);
            attempts.done(all[1].clone(), Some(&forbidden), later);
            let (due, next) = attempts.due(all.clone(), later);
            assert_eq!(due, std::slice::from_ref(&elsewhere));
            pauses.push((next.unwrap() - later).as_secs());
            later = next.unwrap();
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60], "an API server that has just begun forbids everything");
        assert_eq!(attempts.due(all.clone(), later).0, [all[0].clone(), elsewhere]);
        attempts.done(all[0].clone(), None, later);
        assert_eq!(attempts.due(all.clone(), later).0, all[1..]);
    }

    #[test]
    fn a_new_leader_does_not_write_all_at_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let all: Vec<Address> = (0..500).map(|i| wanted(&format!("a{i:03}"), "192.0.2.1")).collect();
        let (due, next) = attempts.due(all.clone(), now);
        assert_eq!((due.len(), next), (BATCH, Some(now)));
        due.into_iter().for_each(|one| attempts.done(one, None, now));
        assert_eq!(attempts.due(all.clone(), now).0, all[BATCH..2 * BATCH]);
    }
}
