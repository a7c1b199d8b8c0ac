//! `IngressStatuses`: the addresses that `kubectl get ingress` shows, written by the leader.
//!
//! Only Ingresses of ours get them. Where one is not ours any more, what we wrote is taken back, and what others wrote stays: the
//! API server knows which is which (server-side apply). Where nothing would change, nothing is written.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use futures_util::{StreamExt, stream};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tidegate_crd::{
    Kind, ObjectRef,
    ingress::{Ingress, IngressLoadBalancerIngress},
};
use tokio::sync::watch;

use super::{
    FIELD_MANAGER,
    limits::{
        FORBIDDEN_PAUSE, STATUS_AT_ONCE, STATUS_LONGEST_RETRY, STATUS_LOOK, STATUS_RATE, STATUS_RETRY, STATUS_REWRITE,
    },
    publish::Published,
    status::{ControllerStatus, Writing},
    writer::Writer,
};
use crate::{
    control::kubernetes::{
        failure::Failure,
        standing::{Standing, Standings},
    },
    snapshot::Snapshot,
};

/// Ingresses that are written before it is looked again what is wanted: a second's worth.
const BATCH: usize = STATUS_RATE as usize;

/// What the status of an Ingress should be.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    name: ObjectRef,
    uid: Box<str>,
    /// None: what we wrote is taken back.
    addresses: Arc<[IngressLoadBalancerIngress]>,
}

/// A write that was tried.
#[derive(Debug)]
struct Tried {
    wanted: Wanted,
    /// When the same may be tried again.
    again: Instant,
    failures: u32,
}

/// All that is read to know what to write.
#[derive(Debug)]
pub(super) struct IngressStatuses {
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(super) standings: Arc<Standings>,
    pub(super) published: watch::Receiver<Published>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) writer: Writer,
    pub(super) status: Arc<ControllerStatus>,
}

/// The Ingresses whose status is another than it should be.
fn plan(
    snapshot: &Snapshot,
    standings: &BTreeMap<ObjectRef, Standing>,
    published: Option<&Arc<[IngressLoadBalancerIngress]>>,
) -> Vec<Wanted> {
    let mut plan = Vec::new();
    for row in &snapshot.ingresses {
        let name = ObjectRef { kind: Kind::Ingress, namespace: row.namespace.clone(), name: row.name.clone() };
        // It may be gone already, or not have been heard of by now.
        let Some(standing) = standings.get(&name) else { continue };
        let addresses = match (row.ours, published) {
            (true, Some(addresses)) => addresses.clone(),
            (true, None) => continue,
            (false, _) => Arc::default(),
        };
        let is_so = if addresses.is_empty() { !standing.ours } else { *standing.addresses == *addresses };
        if !is_so {
            plan.push(Wanted { name, uid: standing.uid.clone(), addresses });
        }
    }
    plan
}

/// What was tried of late, so that it is not tried all the time.
#[derive(Debug, Default)]
struct Attempts {
    tried: BTreeMap<ObjectRef, Tried>,
    /// Namespaces where we may not write, and when one is tried again.
    forbidden: BTreeMap<Arc<str>, Instant>,
}

impl Attempts {
    /// What of a plan is to be written now, and when there is more to do if nothing changes.
    fn due(&mut self, plan: Vec<Wanted>, now: Instant) -> (Vec<Wanted>, Option<Instant>) {
        // What is as it should be may be made something else by others right away.
        let mut kept = BTreeMap::new();
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        let mut later = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        let mut asked = Vec::new();
        for wanted in plan {
            let tried = self.tried.remove(&wanted.name).filter(|tried| tried.wanted == wanted);
            let again = tried.as_ref().map(|tried| tried.again).filter(|again| *again > now);
            if let Some(tried) = tried {
                kept.insert(wanted.name.clone(), tried);
            }
            let closed = self.forbidden.get(&wanted.name.namespace).copied();
            if let Some(again) = again.max(closed.filter(|again| *again > now)) {
                later(again);
            } else if due.len() == BATCH || (closed.is_some() && asked.contains(&wanted.name.namespace)) {
                later(now);
            } else {
                asked.push(wanted.name.namespace.clone());
                due.push(wanted);
            }
        }
        self.tried.retain(|_, tried| tried.again > now);
        self.tried.append(&mut kept);
        (due, next)
    }

    fn done(&mut self, wanted: Wanted, failure: Option<&Failure>, now: Instant) {
        let failures = self.tried.get(&wanted.name).map_or(0, |tried| tried.failures);
        let namespace = wanted.name.namespace.clone();
        let (pause, failures) = match failure {
            None | Some(Failure::Refused { code: 404, .. }) => (STATUS_REWRITE, 0),
            Some(Failure::Forbidden { .. }) => (FORBIDDEN_PAUSE, 0),
            Some(Failure::Gone { .. } | Failure::Refused { .. } | Failure::Unreachable { .. }) => {
                (STATUS_RETRY.saturating_mul(1 << failures.min(10)).min(STATUS_LONGEST_RETRY), failures + 1)
            }
        };
        match failure {
            Some(Failure::Forbidden { .. }) => drop(self.forbidden.insert(namespace, now + FORBIDDEN_PAUSE)),
            Some(Failure::Unreachable { .. }) => {}
            _ => drop(self.forbidden.remove(&namespace)),
        }
        self.tried.insert(wanted.name.clone(), Tried { wanted, again: now + pause, failures });
    }
}

impl IngressStatuses {
    /// Until there are no more configurations.
    pub(super) async fn run(mut self) {
        loop {
            if self.leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            let mut leads = self.leads.clone();
            tokio::select! {
                () = self.lead() => return,
                _ = leads.wait_for(|leads| !*leads) => {}
            }
            // It is the next leader's to fail.
            self.status.forget(Writing::IngressStatus);
        }
    }

    /// As the leader: until there are no more configurations.
    async fn lead(&mut self) {
        let mut attempts = Attempts::default();
        let mut changes = self.standings.changes();
        loop {
            changes.mark_unchanged();
            let snapshot = self.snapshots.borrow_and_update().clone();
            let published = self.published.borrow_and_update().clone();
            let plan = snapshot.map_or_else(Vec::new, |snapshot| {
                self.standings.read(|standings| plan(&snapshot, standings, published.as_ref()))
            });
            let (due, next) = attempts.due(plan, Instant::now());
            for (wanted, failure) in self.write(due).await {
                attempts.done(wanted, failure.as_ref(), Instant::now());
            }
            let next = next.map(|next| tokio::time::sleep_until(next.into()));
            tokio::select! {
                changed = self.snapshots.changed() => if changed.is_err() { return },
                _ = self.published.changed() => {}
                _ = changes.changed() => {}
                Some(()) = async { Some(next?.await) } => {}
            }
            tokio::time::sleep(STATUS_LOOK).await;
        }
    }

    async fn write(&self, due: Vec<Wanted>) -> Vec<(Wanted, Option<Failure>)> {
        let one = |wanted: Wanted| async move {
            let failure = self.write_one(&wanted).await.err();
            (wanted, failure)
        };
        stream::iter(due).map(one).buffer_unordered(STATUS_AT_ONCE).collect().await
    }

    async fn write_one(&self, wanted: &Wanted) -> Result<(), Failure> {
        let Wanted { name, uid, addresses } = wanted;
        let mut body = json!({
            "apiVersion": Kind::Ingress.api_version(),
            "kind": Kind::Ingress.as_str(),
            // With another uid it is another Ingress of the same name, and this is refused.
            "metadata": {"name": &*name.name, "namespace": &*name.namespace, "uid": uid},
        });
        if !addresses.is_empty() {
            body["status"] = json!({"loadBalancer": {"ingress": addresses}});
        }
        let ingresses = Api::<Ingress>::namespaced(self.writer.client().clone(), &name.namespace);
        // By force: whoever wrote other addresses into an Ingress of ours is wrong.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&body);
        let request = ingresses.patch_status(&name.name, &params, &patch);
        self.writer.write("patch", &name.namespace, request).await?;
        let shown: Vec<&str> =
            addresses.iter().filter_map(|entry| entry.ip.as_deref().or(entry.hostname.as_deref())).collect();
        tracing::debug!("the status of {name} shows {shown:?} now");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::compile::{allocate::Allocations, compile, objects::Objects, settings::Settings};

    /// The Ingresses `a` and `b` of ours, and `other` of another controller.
    fn snapshot() -> Arc<Snapshot> {
        let class =
            "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: them}, spec: {controller: x.y/z}}";
        let ingress = |name: &str, class: &str| {
            format!(
                "\n---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}}}, spec: \
                 {{ingressClassName: {class}}}}}"
            )
        };
        let text = class.to_owned() + &ingress("a", "tidegate") + &ingress("b", "tidegate") + &ingress("other", "them");
        let mut objects = Objects::default();
        for document in tidegate_crd::yaml::parse(Path::new("test.yaml"), &text).documents {
            objects.apply(document);
        }
        compile(&objects, &Settings::default(), &[], &Allocations::default(), None).snapshot
    }

    fn addresses(ips: &[&str]) -> Arc<[IngressLoadBalancerIngress]> {
        let entry = |ip: &&str| IngressLoadBalancerIngress { ip: Some((*ip).to_owned()), ..Default::default() };
        ips.iter().map(entry).collect()
    }

    fn name(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Ingress, "default", name)
    }

    fn standing(ips: &[&str], ours: bool) -> Standing {
        Standing { uid: "u".into(), addresses: addresses(ips).to_vec(), ours }
    }

    fn wanted(of: &str, ips: &[&str]) -> Wanted {
        Wanted { name: name(of), uid: "u".into(), addresses: addresses(ips) }
    }

    #[test]
    fn only_what_is_not_as_it_should_be_is_written() {
        let (snapshot, published) = (snapshot(), addresses(&["192.0.2.1"]));
        let plan = |held: &[(&str, Standing)], published: Option<&Arc<_>>| {
            let held = held.iter().map(|(of, standing)| (name(of), standing.clone())).collect();
            plan(&snapshot, &held, published)
        };
        let fresh = [("a", standing(&[], false)), ("b", standing(&["192.0.2.1"], false))];
        assert_eq!(plan(&fresh, Some(&published)), [wanted("a", &["192.0.2.1"])]);
        assert_eq!(plan(&fresh, None), [], "it is not known yet");
        assert_eq!(plan(&[], Some(&published)), [], "they are not known yet");
        let theirs = [("other", standing(&["203.0.113.1"], false)), ("a", standing(&["203.0.113.1"], false))];
        assert_eq!(plan(&theirs, Some(&published)), [wanted("a", &["192.0.2.1"])]);
        assert_eq!(plan(&theirs, Some(&addresses(&[]))), [], "what others wrote stays");
        let ours = [("other", standing(&["192.0.2.1"], true)), ("a", standing(&["192.0.2.1"], true))];
        assert_eq!(plan(&ours, Some(&published)), [wanted("other", &[])]);
        assert_eq!(plan(&ours, Some(&addresses(&[]))), [wanted("a", &[]), wanted("other", &[])]);
    }

    #[test]
    fn the_same_is_not_written_again_at_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let (one, two) = (wanted("a", &["192.0.2.1"]), wanted("a", &["192.0.2.2"]));
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
        let one = wanted("a", &["192.0.2.1"]);
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
        let elsewhere = Wanted { name: ObjectRef::new(Kind::Ingress, "shop", "a"), ..wanted("a", &["192.0.2.1"]) };
        let all = vec![wanted("a", &["192.0.2.1"]), wanted("b", &["192.0.2.1"]), elsewhere.clone()];
        let forbidden = Failure::Forbidden { verb: "patch", message: "its words".to_owned() };
        attempts.done(all[0].clone(), Some(&forbidden), now);
        assert_eq!(attempts.due(all.clone(), now), (vec![elsewhere.clone()], Some(now + FORBIDDEN_PAUSE)));
        let later = now + FORBIDDEN_PAUSE;
        assert_eq!(attempts.due(all.clone(), later).0, [all[0].clone(), elsewhere]);
        attempts.done(all[0].clone(), None, later);
        assert_eq!(attempts.due(all.clone(), later).0, all[1..]);
    }

    #[test]
    fn a_new_leader_does_not_write_all_at_once() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let all: Vec<Wanted> = (0..500).map(|i| wanted(&format!("a{i:03}"), &["192.0.2.1"])).collect();
        let (due, next) = attempts.due(all.clone(), now);
        assert_eq!((due.len(), next), (BATCH, Some(now)));
        due.into_iter().for_each(|one| attempts.done(one, None, now));
        assert_eq!(attempts.due(all.clone(), now).0, all[BATCH..2 * BATCH]);
    }
}
