//! `IngressStatuses`: the addresses that `kubectl get ingress` shows, written by the leader.
//!
//! Only Ingresses of ours get them. Where one is not ours any more, what we wrote is taken back, and what others wrote stays: the
//! API server knows which is which (server-side apply). Where nothing would change, nothing is written.

use std::{collections::BTreeMap, sync::Arc};

use kube::{Api, api::Patch};
use serde_json::json;
use tidegate_crd::{
    Kind, ObjectRef,
    ingress::{Ingress, IngressLoadBalancerIngress},
};
use tokio::sync::watch;

use super::{
    attempts::Wanted,
    leader::whenever_leading,
    publish::Published,
    status::{ControllerStatus, Writing},
    upkeep::keep_up,
    writer::Writer,
};
use crate::{
    control::kubernetes::{
        failure::Failure,
        remembered::{is_partial, is_remembered},
        standing::{Standing, Standings},
    },
    snapshot::Snapshot,
};

/// What the status of an Ingress should be.
#[derive(Clone, Debug, PartialEq)]
struct WantedAddresses {
    name: ObjectRef,
    uid: Box<str>,
    /// None: what we wrote is taken back.
    addresses: Arc<[IngressLoadBalancerIngress]>,
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

/// The Ingresses whose status is another than it should be. `manager`: who we are.
fn plan(
    snapshot: &Snapshot,
    standings: &BTreeMap<ObjectRef, Standing>,
    published: Option<&Arc<[IngressLoadBalancerIngress]>>,
    manager: &str,
) -> Vec<WantedAddresses> {
    let mut plan = Vec::new();
    // While it is not known which addresses to show, they stay; and what was remembered is no reason to change any.
    let Some(published) = published.filter(|_| !is_remembered(&snapshot.findings)) else { return plan };
    // Without IngressClasses, ours look like others'.
    let is_partial = is_partial(&snapshot.findings);
    for row in snapshot.ingresses.iter().filter(|row| row.ours || !is_partial) {
        let name = ObjectRef { kind: Kind::Ingress, namespace: row.namespace.clone(), name: row.name.clone() };
        // It may be gone already, or not have been heard of by now.
        let Some(standing) = standings.get(&name).filter(|standing| !standing.uid.is_empty()) else { continue };
        // Of one that is not ours, what this very installation wrote is taken back; what others write is not ours to take.
        let addresses = if row.ours { published.clone() } else { Arc::default() };
        let is_so = if addresses.is_empty() { !standing.is_by(manager) } else { *standing.addresses == *addresses };
        if !is_so {
            plan.push(WantedAddresses { name, uid: standing.uid.clone(), addresses });
        }
    }
    plan
}

impl Wanted for WantedAddresses {
    fn name(&self) -> &ObjectRef {
        &self.name
    }
}

impl IngressStatuses {
    /// Until there are no more configurations.
    pub(super) async fn run(mut self) {
        let (leads, status) = (self.leads.clone(), self.status.clone());
        whenever_leading(leads, &status, &[Writing::IngressStatus], async || self.lead().await).await;
    }

    /// As the leader: until there are no more configurations.
    async fn lead(&mut self) {
        let Self { snapshots, standings, published, writer, status, .. } = self;
        let (live, shown, mut changes) = (snapshots.clone(), published.clone(), standings.changes());
        let plan = || {
            let (live, shown) = (live.borrow().clone(), shown.borrow().clone());
            let plan = live.map_or_else(Vec::new, |snapshot| {
                standings.read(|standings| plan(&snapshot, standings, shown.as_ref(), writer.manager()))
            });
            status.keep(Writing::IngressStatus, || plan.iter().map(|wanted| wanted.name.namespace.clone()).collect());
            plan
        };
        let changed = async || {
            tokio::select! {
                changed = snapshots.changed() => changed.is_ok(),
                _ = published.changed() => true,
                _ = changes.changed() => true,
            }
        };
        keep_up(plan, changed, async |wanted| write(writer, wanted).await).await;
    }
}

async fn write(writer: &Writer, wanted: &WantedAddresses) -> Result<(), Failure> {
    let WantedAddresses { name, uid, addresses } = wanted;
    let mut body = json!({
        "apiVersion": Kind::Ingress.api_version(),
        "kind": Kind::Ingress.as_str(),
        // With another uid it is another Ingress of the same name, and this is refused.
        "metadata": {"name": &*name.name, "namespace": &*name.namespace, "uid": uid},
    });
    if !addresses.is_empty() {
        body["status"] = json!({"loadBalancer": {"ingress": addresses}});
    }
    let ingresses = Api::<Ingress>::namespaced(writer.client().clone(), &name.namespace);
    let params = writer.apply();
    let patch = Patch::Apply(&body);
    let request = ingresses.patch_status(&name.name, &params, &patch);
    writer.write("patch", &name.namespace, request).await?;
    let shown: Vec<&str> =
        addresses.iter().filter_map(|entry| entry.ip.as_deref().or(entry.hostname.as_deref())).collect();
    tracing::debug!("the status of {name} shows {shown:?} now");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        compile::{allocate::Allocations, compile, finding::Finding, objects::Objects, settings::Settings},
        control::kubernetes::remembered,
    };

    /// The Ingresses `a` and `b` of ours, and `other` of another controller.
    fn snapshot() -> Arc<Snapshot> {
        compile_with(&[])
    }

    fn compile_with(problems: &[Finding]) -> Arc<Snapshot> {
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
        compile(&objects, &Settings::default(), problems, &Allocations::default(), None).snapshot
    }

    fn addresses(ips: &[&str]) -> Arc<[IngressLoadBalancerIngress]> {
        let entry = |ip: &&str| IngressLoadBalancerIngress { ip: Some((*ip).to_owned()), ..Default::default() };
        ips.iter().map(entry).collect()
    }

    fn name(name: &str) -> ObjectRef {
        ObjectRef::new(Kind::Ingress, "default", name)
    }

    fn standing(ips: &[&str], managers: &[&str]) -> Standing {
        let managers = managers.iter().map(|manager| (*manager).into()).collect();
        Standing { uid: "u".into(), addresses: addresses(ips).to_vec(), managers, ..Standing::default() }
    }

    fn wanted(of: &str, ips: &[&str]) -> WantedAddresses {
        WantedAddresses { name: name(of), uid: "u".into(), addresses: addresses(ips) }
    }

    #[test]
    fn only_what_is_not_as_it_should_be_is_written() {
        let (snapshot, published) = (snapshot(), addresses(&["192.0.2.1"]));
        let plan = |held: &[(&str, Standing)], published: Option<&Arc<_>>| {
            let held = held.iter().map(|(of, standing)| (name(of), standing.clone())).collect();
            plan(&snapshot, &held, published, "we")
        };
        let fresh = [("a", standing(&[], &[])), ("b", standing(&["192.0.2.1"], &[]))];
        assert_eq!(plan(&fresh, Some(&published)), [wanted("a", &["192.0.2.1"])]);
        assert_eq!(plan(&fresh, None), [], "it is not known yet");
        assert_eq!(plan(&[], Some(&published)), [], "they are not known yet");
        let theirs = [("other", standing(&["203.0.113.1"], &[])), ("a", standing(&["203.0.113.1"], &[]))];
        assert_eq!(plan(&theirs, Some(&published)), [wanted("a", &["192.0.2.1"])]);
        assert_eq!(plan(&theirs, Some(&addresses(&[]))), [], "what others wrote stays");
        let ours = [("other", standing(&["192.0.2.1"], &["we"])), ("a", standing(&["192.0.2.1"], &["we"]))];
        assert_eq!(plan(&ours, Some(&published)), [wanted("other", &[])]);
        assert_eq!(plan(&ours, Some(&addresses(&[]))), [wanted("a", &[]), wanted("other", &[])]);
        assert_eq!(plan(&ours, None), [], "who publishes nothing takes nothing back");
    }

    #[test]
    fn two_installations_that_publish_the_same_address_leave_it_to_each_other() {
        let (snapshot, published) = (snapshot(), addresses(&["192.0.2.1"]));
        let of_another = BTreeMap::from([(name("other"), standing(&["192.0.2.1"], &["they"]))]);
        assert_eq!(plan(&snapshot, &of_another, Some(&published), "we"), []);
        assert_eq!(plan(&snapshot, &of_another, Some(&published), "they"), [wanted("other", &[])], "it was theirs");
    }

    #[test]
    fn nothing_is_taken_back_because_a_kind_cannot_be_listed() {
        let published = addresses(&["192.0.2.1"]);
        let held =
            BTreeMap::from([(name("a"), standing(&[], &[])), (name("other"), standing(&["192.0.2.1"], &["we"]))]);
        let not_listed = Finding { reason: remembered::NOT_LISTED, ..remembered::finding(&["ingressclasses"], 0) };
        let plan = plan(&compile_with(&[not_listed]), &held, Some(&published), "we");
        assert_eq!(plan, [wanted("a", &["192.0.2.1"])]);
    }

    #[test]
    fn nothing_is_written_of_what_was_only_remembered() {
        let published = addresses(&["192.0.2.1"]);
        let held = |uid: &str| {
            let standing = Standing { uid: uid.into(), ..Standing::default() };
            BTreeMap::from([(name("a"), standing)])
        };
        let heard = snapshot();
        assert_eq!(plan(&heard, &held("u"), Some(&published), "we").len(), 1);
        assert_eq!(plan(&heard, &held(""), Some(&published), "we"), [], "it has not been heard of yet");
        let remembered = compile_with(&[remembered::finding(&["services"], 0)]);
        assert_eq!(plan(&remembered, &held("u"), Some(&published), "we"), [], "the rest has not");
    }
}
