//! `IngressStatuses`: the addresses that `kubectl get ingress` shows, written by the leader.
//!
//! Only Ingresses of ours get them. Where one is not ours any more, what we wrote is taken back, and what others wrote stays: the
//! API server knows which is which (server-side apply). Where nothing would change, nothing is written.

use std::{collections::BTreeMap, sync::Arc};

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
        remembered::is_remembered,
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

/// The Ingresses whose status is another than it should be.
fn plan(
    snapshot: &Snapshot,
    standings: &BTreeMap<ObjectRef, Standing>,
    published: Option<&Arc<[IngressLoadBalancerIngress]>>,
) -> Vec<WantedAddresses> {
    let mut plan = Vec::new();
    // What was remembered is no reason to change any.
    if is_remembered(&snapshot.findings) {
        return plan;
    }
    for row in snapshot.ingresses.iter() {
        let name = ObjectRef { kind: Kind::Ingress, namespace: row.namespace.clone(), name: row.name.clone() };
        // It may be gone already, or not have been heard of by now.
        let Some(standing) = standings.get(&name).filter(|standing| !standing.uid.is_empty()) else { continue };
        let addresses = match (row.ours, published) {
            (true, Some(addresses)) => addresses.clone(),
            // It was ours. Where it shows others it is another installation's, for other classes: what that one writes is not ours to take.
            (false, Some(addresses)) if *standing.addresses == **addresses => Arc::default(),
            (false, Some(_)) | (true | false, None) => continue,
        };
        let is_so = if addresses.is_empty() { !standing.ours } else { *standing.addresses == *addresses };
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
                standings.read(|standings| plan(&snapshot, standings, shown.as_ref()))
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
    // By force: whoever wrote other addresses into an Ingress of ours is wrong.
    let params = PatchParams::apply(FIELD_MANAGER).force();
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

    fn standing(ips: &[&str], ours: bool) -> Standing {
        Standing { uid: "u".into(), addresses: addresses(ips).to_vec(), ours, ..Standing::default() }
    }

    fn wanted(of: &str, ips: &[&str]) -> WantedAddresses {
        WantedAddresses { name: name(of), uid: "u".into(), addresses: addresses(ips) }
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
        assert_eq!(plan(&ours, Some(&addresses(&[]))), [wanted("a", &[])]);
        assert_eq!(plan(&ours, None), [], "who publishes nothing takes nothing back");
        let of_another = [("other", standing(&["192.0.2.7"], true))];
        assert_eq!(plan(&of_another, Some(&published)), [], "another installation's, for other classes");
    }

    #[test]
    fn nothing_is_written_of_what_was_only_remembered() {
        let published = addresses(&["192.0.2.1"]);
        let held = |uid: &str| {
            let standing = Standing { uid: uid.into(), ..Standing::default() };
            BTreeMap::from([(name("a"), standing)])
        };
        let heard = snapshot();
        assert_eq!(plan(&heard, &held("u"), Some(&published)).len(), 1);
        assert_eq!(plan(&heard, &held(""), Some(&published)), [], "it has not been heard of yet");
        let remembered = compile_with(&[remembered::finding(&["services"], 0)]);
        assert_eq!(plan(&remembered, &held("u"), Some(&published)), [], "the rest has not");
    }
}
