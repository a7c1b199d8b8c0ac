//! `Events`: what is wrong with an object, where `kubectl describe` shows it, written by the leader.
//!
//! One Event for each finding that is no mere information. Its name says which finding it is, so that the next leader, or the same process
//! begun anew, goes on with the Events there are. (The recorder of kube-runtime names them by the time, and has one for all
//! findings of the same reason.)

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use futures_util::{StreamExt, stream};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tidegate_crd::{
    ObjectRef,
    core::{Event, EventSeries, MicroTime, ObjectReference, Timestamp},
};
use tokio::sync::watch;

use super::{
    FIELD_MANAGER,
    attempts::pause,
    leader::whenever_leading,
    limits::{
        EVENT_AT_ONCE, EVENT_LOOK, EVENT_RATE, EVENT_REPEAT, EVENT_RETRY, EVENT_SETTLE, FORBIDDEN_PAUSE,
        MAX_EVENT_NAME, MAX_EVENT_NOTE, MAX_EVENTS_OF_OBJECT,
    },
    status::{ControllerStatus, Writing},
    writer::{Writer, sleep_until},
};
use crate::{
    compile::finding::{Finding, Severity},
    control::kubernetes::{
        failure::Failure,
        standing::{Standing, Standings},
    },
    snapshot::Snapshot,
};

/// Events that are written before it is looked again what is wrong.
const BATCH: usize = EVENT_RATE as usize;

/// How much of a digest tells one finding of an object from another.
const DIGEST: usize = 16;

/// What was done, as Events have it.
const ACTION: &str = "Configure";

/// Who says so, as Events have it.
const CONTROLLER: &str = "tidegate.io/ingress";

/// The namespace of Events on objects that have none.
const DEFAULT_NAMESPACE: &str = "default";

/// An Event that there should be.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    name: String,
    namespace: Arc<str>,
    reason: &'static str,
    note: String,
    regarding: ObjectReference,
}

impl Wanted {
    fn new(finding: &Finding, object: &ObjectRef, uid: &str) -> Self {
        let mut note = match &finding.field {
            Some(field) => format!("{field}: {} Fix: {}", finding.message, finding.fix),
            None => format!("{} Fix: {}", finding.message, finding.fix),
        };
        let which = [uid, finding.reason, &note].join("\n");
        let digest = digest(&SHA256, which.as_bytes());
        let digest = &HEXLOWER.encode(digest.as_ref())[..DIGEST];
        note.truncate(note.floor_char_boundary(MAX_EVENT_NOTE));
        let mut name = object.name.to_string();
        name.truncate(name.floor_char_boundary(MAX_EVENT_NAME));
        let namespace = if object.namespace.is_empty() { DEFAULT_NAMESPACE.into() } else { object.namespace.clone() };
        let regarding = ObjectReference {
            api_version: Some(object.kind.api_version().to_owned()),
            kind: Some(object.kind.as_str().to_owned()),
            namespace: Some(object.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
            name: Some(object.name.to_string()),
            uid: Some(uid.to_owned()),
            field_path: finding.field.clone(),
            ..ObjectReference::default()
        };
        let name = format!("{name}.{digest}");
        Self { name, namespace, reason: finding.reason, note, regarding }
    }

    fn event(&self, instance: &str, now: Timestamp) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.to_string()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some("Warning".to_owned()),
            reason: Some(self.reason.to_owned()),
            action: Some(ACTION.to_owned()),
            note: Some(self.note.clone()),
            regarding: Some(self.regarding.clone()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(instance.to_owned()),
            ..Event::default()
        }
    }
}

/// The Events that there should be, for the objects that are known.
fn plan(findings: &[Finding], standings: &BTreeMap<ObjectRef, Standing>) -> Vec<Wanted> {
    let mut counts: BTreeMap<&ObjectRef, usize> = BTreeMap::new();
    let mut plan = Vec::new();
    for finding in findings.iter().filter(|finding| finding.severity > Severity::Info) {
        let Some((object, standing)) = finding.object.as_ref().and_then(|object| standings.get_key_value(object))
        else {
            continue;
        };
        let count = counts.entry(object).or_default();
        *count += 1;
        if *count <= MAX_EVENTS_OF_OBJECT && !standing.uid.is_empty() {
            plan.push(Wanted::new(finding, object, &standing.uid));
        }
    }
    plan
}

/// What was told, so that it is not told all the time.
#[derive(Debug, Default)]
struct Told {
    /// When each finding is to be told (again), by the name of its Event.
    next: BTreeMap<String, Instant>,
    /// Namespaces where we may not write, when it is tried again, and how often that was forbidden in a row.
    forbidden: BTreeMap<Arc<str>, (Instant, u32)>,
}

impl Told {
    /// What of a plan is to be told now, and when there is more to tell if nothing changes. What waits for longest goes first: where some
    /// cannot be told, the others are.
    fn due(&mut self, plan: Vec<Wanted>, now: Instant) -> (Vec<Wanted>, Option<Instant>) {
        let namespaces: BTreeSet<&Arc<str>> = plan.iter().map(|wanted| &wanted.namespace).collect();
        self.forbidden.retain(|namespace, _| namespaces.contains(namespace));
        let (mut planned, mut due) = (BTreeMap::new(), Vec::new());
        for wanted in plan {
            let at = self.next.remove(&wanted.name).unwrap_or(now + EVENT_SETTLE);
            let at = self.forbidden.get(&wanted.namespace).map_or(at, |(open, _)| at.max(*open));
            planned.insert(wanted.name.clone(), at);
            if at <= now {
                due.push((at, wanted));
            }
        }
        self.next = planned;
        due.sort_by_key(|(at, _)| *at);
        due.truncate(BATCH);
        let due: Vec<Wanted> = due.into_iter().map(|(_, wanted)| wanted).collect();
        let told = |name: &String| due.iter().any(|wanted| wanted.name == *name);
        let next = self.next.iter().filter(|(name, _)| !told(name)).map(|(_, at)| *at).min();
        (due, next)
    }

    /// It was told, or could not be; says when it is to be told again.
    fn done(&mut self, wanted: Wanted, told: Result<Duration, &Failure>, now: Instant) -> Instant {
        let next = match told {
            Ok(rest) => {
                self.forbidden.remove(&wanted.namespace);
                now + rest
            }
            Err(Failure::Forbidden { .. }) => {
                let (again, times) = self.forbidden.entry(wanted.namespace).or_insert((now, 0));
                // Others of this namespace may have been under way with the one that was answered first.
                if *again <= now {
                    (*again, *times) = (now + pause(*times, FORBIDDEN_PAUSE), *times + 1);
                }
                *again
            }
            Err(_) => now + EVENT_RETRY,
        };
        self.next.insert(wanted.name, next);
        next
    }
}

/// All that is read to know what to tell.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(super) standings: Arc<Standings>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) writer: Writer,
    pub(super) status: Arc<ControllerStatus>,
    /// Who we are.
    pub(super) instance: Arc<str>,
}

impl Events {
    /// Until there are no more configurations.
    pub(super) async fn run(mut self) {
        let (leads, status) = (self.leads.clone(), self.status.clone());
        whenever_leading(leads, &status, &[Writing::Event], async || self.lead().await).await;
    }

    /// As the leader: until there are no more configurations.
    async fn lead(&mut self) {
        let mut told = Told::default();
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone();
            let plan = snapshot
                .map_or_else(Vec::new, |snapshot| self.standings.read(|standings| plan(&snapshot.findings, standings)));
            self.status.keep(Writing::Event, || plan.iter().map(|wanted| wanted.namespace.clone()).collect());
            let (due, mut next) = told.due(plan, Instant::now());
            let one = |wanted: Wanted| async {
                let told = self.tell(&wanted).await;
                (wanted, told)
            };
            let done: Vec<_> = stream::iter(due).map(one).buffer_unordered(EVENT_AT_ONCE).collect().await;
            for (wanted, result) in done {
                let again = told.done(wanted, result.as_ref().copied(), Instant::now());
                next = Some(next.map_or(again, |next| next.min(again)));
            }
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { return },
                () = sleep_until(next) => {}
            }
            tokio::time::sleep(EVENT_LOOK).await;
        }
    }

    /// Writes an Event, or goes on with the one there is; says when to do so again.
    async fn tell(&self, wanted: &Wanted) -> Result<Duration, Failure> {
        let events = Api::<Event>::namespaced(self.writer.client().clone(), &wanted.namespace);
        let now = Timestamp::now();
        let event = wanted.event(&self.instance, now);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let created = self.writer.write("create", &wanted.namespace, events.create(&params, &event)).await;
        match created {
            Ok(_) => return Ok(EVENT_REPEAT),
            Err(Failure::Refused { code: 409, .. }) => {}
            Err(failure) => return Err(failure),
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        // A patch that changes nothing says how it is, and needs no permission to read.
        let (nothing, name) = (Patch::Merge(json!({})), &wanted.name);
        let held = self.writer.write("patch", &wanted.namespace, events.patch(name, &params, &nothing)).await?;
        let series = held
            .series
            .unwrap_or_else(|| EventSeries { count: 1, last_observed_time: held.event_time.unwrap_or(MicroTime(now)) });
        let age = now.duration_since(series.last_observed_time.0).unsigned_abs();
        if let Some(rest) = EVENT_REPEAT.checked_sub(age).filter(|rest| !rest.is_zero()) {
            return Ok(rest);
        }
        let series = EventSeries { count: series.count.saturating_add(1), last_observed_time: MicroTime(now) };
        let patch = Patch::Merge(json!({"series": series}));
        self.writer.write("patch", &wanted.namespace, events.patch(name, &params, &patch)).await?;
        Ok(EVENT_REPEAT)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tidegate_crd::Kind;

    use super::*;

    fn finding(severity: Severity, name: &str, field: &str) -> Finding {
        Finding {
            severity,
            reason: "MissingService",
            object: Some(ObjectRef::new(Kind::Ingress, "shop", name)),
            file: Path::new("kubernetes").into(),
            line: 0,
            field: Some(field.to_owned()),
            message: "there is no Service shop/web.".to_owned(),
            fix: "Create it.".to_owned(),
        }
    }

    fn standings(uid: &str) -> BTreeMap<ObjectRef, Standing> {
        let standing = Standing { uid: uid.into(), ..Standing::default() };
        BTreeMap::from([(ObjectRef::new(Kind::Ingress, "shop", "a"), standing)])
    }

    #[test]
    fn a_finding_has_one_event_and_it_says_where_and_what() {
        let found = finding(Severity::Error, "a", "spec.rules[0]");
        let [wanted] = plan(std::slice::from_ref(&found), &standings("u1")).try_into().unwrap();
        assert_eq!(wanted.note, "spec.rules[0]: there is no Service shop/web. Fix: Create it.");
        assert_eq!((wanted.regarding.uid.as_deref(), &*wanted.namespace), (Some("u1"), "shop"));
        let name = |found: &Finding, uid: &str| plan(std::slice::from_ref(found), &standings(uid))[0].name.clone();
        assert_eq!(name(&found, "u1"), wanted.name, "whoever writes it, and whenever");
        assert!(wanted.name.starts_with("a.") && wanted.name.len() == 2 + 16, "{}", wanted.name);
        for other in [name(&found, "u2"), name(&finding(Severity::Error, "a", "spec.rules[1]"), "u1")] {
            assert_ne!(other, wanted.name);
        }
    }

    #[test]
    fn information_and_unknown_objects_have_none_and_one_object_has_not_too_many() {
        assert_eq!(plan(&[finding(Severity::Info, "a", "f"), finding(Severity::Error, "b", "f")], &standings("u")), []);
        let many: Vec<Finding> =
            (0..50).map(|i| finding(Severity::Warning, "a", &format!("spec.rules[{i}]"))).collect();
        assert_eq!(plan(&many, &standings("u")).len(), MAX_EVENTS_OF_OBJECT);
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let mut found = finding(Severity::Error, "a", "f");
        found.message = "ä".repeat(1_000);
        let [wanted] = plan(&[found], &standings("u")).try_into().unwrap();
        assert!(
            wanted.note.len() <= MAX_EVENT_NOTE && wanted.note.len() > MAX_EVENT_NOTE - 2 && wanted.note.ends_with('ä')
        );
    }

    #[test]
    fn it_is_told_once_it_has_settled_and_again_after_a_while() {
        let (mut told, now) = (Told::default(), Instant::now());
        let all = plan(&[finding(Severity::Error, "a", "f")], &standings("u"));
        assert_eq!(told.due(all.clone(), now), (vec![], Some(now + EVENT_SETTLE)));
        assert_eq!(told.due(vec![], now + EVENT_SETTLE), (vec![], None), "it was mended in time");
        assert_eq!(told.due(all.clone(), now).0, []);
        let settled = now + EVENT_SETTLE;
        assert_eq!(told.due(all.clone(), settled), (all.clone(), None));
        told.done(all[0].clone(), Ok(EVENT_REPEAT), settled);
        assert_eq!(told.due(all.clone(), settled), (vec![], Some(settled + EVENT_REPEAT)));
        assert_eq!(told.due(all.clone(), settled + EVENT_REPEAT).0, all);
    }

    #[test]
    fn where_we_may_not_tell_it_is_tried_later_and_later() {
        let (mut told, mut now) = (Told::default(), Instant::now());
        let forbidden = Failure::Forbidden { verb: "create", message: "its words".to_owned() };
        let all = plan(&[finding(Severity::Error, "a", "f"), finding(Severity::Error, "a", "g")], &standings("u"));
        told.due(all.clone(), now);
        now += EVENT_SETTLE;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(told.due(all.clone(), now).0.len(), 2);
            for one in &all {
                told.done(one.clone(), Err(&forbidden), now);
            }
            let (none, next) = told.due(all.clone(), now);
            assert_eq!(none, []);
            pauses.push((next.unwrap() - now).as_secs());
            now = next.unwrap();
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60], "an API server that has just begun forbids everything");
        told.due(vec![], now);
        assert!(told.forbidden.is_empty(), "there is nothing to be told there any more");
    }

    #[test]
    fn what_cannot_be_told_does_not_keep_the_others() {
        let (mut told, mut now) = (Told::default(), Instant::now());
        let findings: Vec<Finding> = (0..10).map(|i| finding(Severity::Error, "a", &format!("f{i}"))).collect();
        let all = plan(&findings, &standings("u"));
        let away = Failure::Unreachable { message: "no answer".to_owned() };
        let mut tried = BTreeSet::new();
        told.due(all.clone(), now);
        for _ in 0..2 {
            now += EVENT_RETRY;
            for one in told.due(all.clone(), now).0 {
                tried.insert(one.name.clone());
                told.done(one, Err(&away), now);
            }
        }
        assert_eq!(tried.len(), 10);
    }
}
