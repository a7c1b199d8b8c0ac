//! `Statuses`: what came of LoadBalancer Services, of LoadBalancerPools and of IngressClassParameters, written by the leader.
//!
//! Which addresses a Service is to have is decided where everything else is ([`compile::allocate`](crate::compile::allocate)), by every
//! replica from the same objects. What is written says so, and from then on the status is what holds: there is no other list of
//! who has which address. That is why nothing is lost with a leader, and why no finaliser is needed: with the Service its
//! address is free. Where nothing would change, nothing is written, and what others have written into a status stays.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use kube::{Api, Client, api::Patch};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_crd::{
    Kind, ObjectRef,
    core::{Condition, Service, Time, Timestamp},
    policy::{IngressClassParameters, LoadBalancerPool},
};
use tokio::sync::watch;

use super::{
    attempts::Wanted,
    leader::whenever_leading,
    status::{ControllerStatus, Writing},
    upkeep::keep_up,
    writer::Writer,
};
use crate::{
    compile::load_balancer::{ACCEPTED, SERVICE_CONDITION, Verdict},
    control::kubernetes::{
        failure::Failure,
        remembered::is_remembered,
        standing::{Standing, Standings},
    },
    snapshot::Snapshot,
};

/// All that is written here.
const WRITINGS: [Writing; 3] = [Writing::ServiceStatus, Writing::PoolStatus, Writing::ParametersStatus];

/// Which of it the status of a kind is.
fn writing_of(kind: Kind) -> Writing {
    match kind {
        Kind::LoadBalancerPool => Writing::PoolStatus,
        Kind::IngressClassParameters => Writing::ParametersStatus,
        _ => Writing::ServiceStatus,
    }
}

/// What a status is to say.
#[derive(Clone, Debug, PartialEq)]
struct WantedStatus {
    name: ObjectRef,
    uid: Box<str>,
    /// What it says besides the condition.
    fields: Value,
    /// None: nothing of ours stays.
    condition: Option<WantedCondition>,
}

#[derive(Clone, Debug, PartialEq)]
struct WantedCondition {
    kind: &'static str,
    verdict: Verdict,
    generation: Option<i64>,
    /// Since when it has been so; None: from now on.
    since: Option<Time>,
}

impl Wanted for WantedStatus {
    fn name(&self) -> &ObjectRef {
        &self.name
    }
}

impl WantedCondition {
    fn new(kind: &'static str, verdict: &Verdict, generation: Option<i64>, before: Option<&Condition>) -> Self {
        let same = before.filter(|before| Verdict::of(before).holds == verdict.holds);
        let since = same.map(|before| before.last_transition_time.clone());
        Self { kind, verdict: verdict.clone(), generation, since }
    }

    fn condition(&self, now: Timestamp) -> Condition {
        Condition {
            type_: self.kind.to_owned(),
            status: if self.verdict.holds { "True" } else { "False" }.to_owned(),
            reason: self.verdict.reason.clone(),
            message: self.verdict.message.clone(),
            observed_generation: self.generation,
            last_transition_time: self.since.clone().unwrap_or(Time(now)),
        }
    }
}

impl WantedStatus {
    /// The object with what we say of it, and no more: the rest is others'.
    fn body(&self, now: Timestamp) -> Value {
        let mut body = json!({
            "apiVersion": self.name.kind.api_version(),
            "kind": self.name.kind.as_str(),
            // With another uid it is another object of the same name, and this is refused.
            "metadata": {"name": &*self.name.name, "uid": self.uid},
        });
        if let Some(condition) = &self.condition {
            body["status"] = self.fields.clone();
            body["status"]["conditions"] = json!([condition.condition(now)]);
        }
        body
    }
}

/// How an object stands. It may be gone already, or have been remembered and not been heard of by now.
fn standing<'a>(standings: &'a BTreeMap<ObjectRef, Standing>, name: &ObjectRef) -> Option<&'a Standing> {
    standings.get(name).filter(|standing| !standing.uid.is_empty())
}

/// The statuses that are another than they should be.
fn plan(snapshot: &Snapshot, standings: &BTreeMap<ObjectRef, Standing>) -> Vec<WantedStatus> {
    if is_remembered(&snapshot.findings) {
        return Vec::new();
    }
    let mut plan = services(snapshot, standings);
    for pool in &snapshot.load_balancers.pools {
        let name = ObjectRef::new(Kind::LoadBalancerPool, "", &pool.name);
        let Some(standing) = standing(standings, &name) else { continue };
        let counts_are_so = standing.counts == Some((pool.size, pool.allocated));
        if let Some(condition) = stale(standing, &pool.accepted, pool.generation, counts_are_so) {
            let fields = json!({"size": pool.size, "allocated": pool.allocated});
            plan.push(WantedStatus { name, uid: standing.uid.clone(), fields, condition: Some(condition) });
        }
    }
    for parameters in &*snapshot.class_parameters {
        let name = ObjectRef::new(Kind::IngressClassParameters, "", &parameters.name);
        let Some(standing) = standing(standings, &name) else { continue };
        if let Some(condition) = stale(standing, &parameters.accepted, parameters.generation, true) {
            let uid = standing.uid.clone();
            plan.push(WantedStatus { name, uid, fields: json!({}), condition: Some(condition) });
        }
    }
    plan
}

/// The condition that an object of ours is to have, if its status is not as it should be.
fn stale(
    standing: &Standing,
    accepted: &Verdict,
    generation: Option<i64>,
    rest_is_so: bool,
) -> Option<WantedCondition> {
    let before = standing.conditions.iter().find(|condition| condition.type_ == ACCEPTED);
    let is_so =
        before.is_some_and(|before| Verdict::of(before) == *accepted && before.observed_generation == generation);
    (!is_so || !rest_is_so).then(|| WantedCondition::new(ACCEPTED, accepted, generation, before))
}

fn services(snapshot: &Snapshot, standings: &BTreeMap<ObjectRef, Standing>) -> Vec<WantedStatus> {
    let stale = snapshot.load_balancers.services.iter().filter(|service| service.is_stale());
    let wanted = stale.filter_map(|service| {
        let name = ObjectRef::new(Kind::Service, &service.name.namespace, &service.name.name);
        let condition = service.verdict.as_ref();
        let condition =
            condition.map(|verdict| WantedCondition::new(SERVICE_CONDITION, verdict, None, service.says.as_ref()));
        let uid = standing(standings, &name)?.uid.clone();
        // A list without an entry is said as well: a pending Service has no address of ours any more.
        let fields = json!({"loadBalancer": {"ingress": service.ingress()}});
        Some(WantedStatus { name, uid, fields, condition })
    });
    wanted.collect()
}

/// All that is read to know what to write.
#[derive(Debug)]
pub(super) struct Statuses {
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(super) standings: Arc<Standings>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) services: Writer,
    pub(super) pools: Writer,
    pub(super) parameters: Writer,
    pub(super) status: Arc<ControllerStatus>,
}

impl Statuses {
    /// Until there are no more configurations.
    pub(super) async fn run(mut self) {
        let (leads, status) = (self.leads.clone(), self.status.clone());
        whenever_leading(leads, &status, &WRITINGS, async || self.lead().await).await;
    }

    /// As the leader: until there are no more configurations.
    async fn lead(&mut self) {
        let Self { snapshots, standings, services, pools, parameters, status, .. } = self;
        let (live, mut changes) = (snapshots.clone(), standings.changes());
        let plan = || {
            let live = live.borrow().clone();
            let plan = live.map_or_else(Vec::new, |snapshot| standings.read(|standings| plan(&snapshot, standings)));
            for writing in WRITINGS {
                let of_it = plan.iter().filter(|wanted| writing_of(wanted.name.kind) == writing);
                status.keep(writing, || of_it.map(|wanted| wanted.name.namespace.clone()).collect());
            }
            plan
        };
        let changed = async || {
            tokio::select! {
                changed = snapshots.changed() => changed.is_ok(),
                _ = changes.changed() => true,
            }
        };
        let write = async |wanted: &WantedStatus| match writing_of(wanted.name.kind) {
            Writing::PoolStatus => write::<LoadBalancerPool>(pools, wanted, Api::all).await,
            Writing::ParametersStatus => write::<IngressClassParameters>(parameters, wanted, Api::all).await,
            _ => {
                let of_namespace = |client| Api::namespaced(client, &wanted.name.namespace);
                write::<Service>(services, wanted, of_namespace).await
            }
        };
        keep_up(plan, changed, write).await;
    }
}

async fn write<K>(writer: &Writer, wanted: &WantedStatus, api: impl FnOnce(Client) -> Api<K>) -> Result<(), Failure>
where
    K: Clone + Debug + DeserializeOwned,
{
    let (api, body, params) = (api(writer.client().clone()), wanted.body(Timestamp::now()), writer.apply());
    let patch = Patch::Apply(&body);
    let request = api.patch_status(&wanted.name.name, &params, &patch);
    writer.write("patch", &wanted.name.namespace, request).await?;
    tracing::debug!("the status of {} is written", wanted.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        compile::{
            allocate::Allocations,
            compile,
            finding::Finding,
            objects::Objects,
            settings::{AddressSource, Settings},
        },
        control::kubernetes::remembered,
    };

    const MANIFESTS: &str = "
{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: p, generation: 3}, spec: {addresses: [192.0.2.7]}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: c}, spec: {controller: tidegate.io/ingress, \
parameters: {apiGroup: tidegate.io, kind: IngressClassParameters, name: c}}}
---
{apiVersion: tidegate.io/v1alpha1, kind: IngressClassParameters, metadata: {name: c}, spec: {}}
---
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, \
loadBalancerClass: tidegate.io/load-balancer, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {type: LoadBalancer, ports: [{port: 80}]}}
";

    fn snapshot() -> Arc<Snapshot> {
        compile_with(&[])
    }

    fn compile_with(problems: &[Finding]) -> Arc<Snapshot> {
        let mut objects = Objects::default();
        let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), &MANIFESTS.replace("\\\n", ""));
        assert_eq!(parsed.problems, []);
        for document in parsed.documents {
            objects.apply(document);
        }
        let settings = Settings { addresses: AddressSource::Cluster, ..Settings::default() };
        compile(&objects, &settings, problems, &Allocations::default(), None).snapshot
    }

    fn names() -> [ObjectRef; 3] {
        let own = |kind, name| ObjectRef::new(kind, "", name);
        [
            ObjectRef::new(Kind::Service, "default", "a"),
            own(Kind::LoadBalancerPool, "p"),
            own(Kind::IngressClassParameters, "c"),
        ]
    }

    fn bare() -> BTreeMap<ObjectRef, Standing> {
        names().map(|name| (name, Standing { uid: "u".into(), ..Standing::default() })).into()
    }

    #[test]
    fn each_status_is_said_once_and_others_are_left_alone() {
        let (snapshot, now) = (snapshot(), "2026-01-02T03:04:05Z".parse().unwrap());
        assert_eq!(plan(&snapshot, &BTreeMap::new()), [], "they are not known yet");
        let wanted = plan(&snapshot, &bare());
        assert_eq!(wanted.iter().map(|wanted| wanted.name.clone()).collect::<Vec<_>>(), names());
        let body = wanted[0].body(now);
        assert_eq!(body["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.7", "ipMode": "Proxy"}]));
        let condition = &body["status"]["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!(SERVICE_CONDITION), &json!("True")));
        assert_eq!(condition["message"], "192.0.2.7 of LoadBalancerPool p.");
        let body = wanted[1].body(now);
        assert_eq!((&body["status"]["size"], &body["status"]["allocated"]), (&json!(1), &json!(1)));
        assert_eq!(body["status"]["conditions"][0]["observedGeneration"], 3);
        assert_eq!(body["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
        assert_eq!(wanted[2].body(now)["status"]["conditions"][0]["type"], "Accepted");

        // What was written comes back.
        let mut held = bare();
        for wanted in &wanted[1..] {
            let standing = held.get_mut(&wanted.name).unwrap();
            standing.conditions = vec![wanted.condition.as_ref().unwrap().condition(now)];
            standing.counts = Some((1, 1));
        }
        assert_eq!(plan(&snapshot, &held).iter().map(|wanted| &wanted.name.kind).collect::<Vec<_>>(), [&Kind::Service]);
        // A count that has changed is news; since when the pool is good is not.
        held.get_mut(&names()[1]).unwrap().counts = Some((1, 0));
        let again = plan(&snapshot, &held);
        let later = "2026-02-02T03:04:05Z".parse().unwrap();
        assert_eq!(again[1].body(later)["status"]["conditions"][0]["lastTransitionTime"], "2026-01-02T03:04:05Z");
    }

    #[test]
    fn nothing_is_written_of_what_was_only_remembered() {
        let of_cache = names().map(|name| (name, Standing::default())).into();
        assert_eq!(plan(&snapshot(), &of_cache), [], "they have not been heard of yet");
        let remembered = compile_with(&[remembered::finding(&["endpointslices"], 0)]);
        assert_eq!(plan(&remembered, &bare()), [], "the rest has not");
    }

    #[test]
    fn what_is_taken_back_leaves_nothing_of_ours() {
        let wanted = WantedStatus {
            name: names()[0].clone(),
            uid: "u".into(),
            fields: json!({"loadBalancer": {"ingress": []}}),
            condition: None,
        };
        assert_eq!(wanted.body(Timestamp::UNIX_EPOCH).get("status"), None);
    }
}
