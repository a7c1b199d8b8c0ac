//! `Election`: of all replicas one writes to the cluster, the one that holds the Lease.
//!
//! As client-go does it: who has seen a Lease unchanged for as long as it is good for takes it, and each clock measures only what it has seen
//! itself. (The crates for it compare the time that the holder wrote with their own clock: two clocks that differ make two leaders.)
//! A leader that cannot renew stops a while before anybody else may begin.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tidegate_crd::core::{Lease, LeaseSpec, MicroTime, Timestamp};
use tokio::{sync::watch, time::timeout};

use super::{
    FIELD_MANAGER,
    limits::{LEASE_DURATION, LEASE_RETRY, LEASE_TIMEOUT, RELEASE_TIMEOUT, RENEW_DEADLINE},
    status::{ControllerStatus, Writing},
};
use crate::control::kubernetes::failure::Failure;

/// How much later a candidate looks at random, as a part of [`LEASE_RETRY`]: those that began together do not ask together.
const JITTER: f64 = 0.2;

/// How long a Lease is good for that was given back, in seconds: the API server takes no 0.
const RELEASED_SECONDS: i32 = 1;

/// Has `lead` run whenever this replica leads, until it ends by itself. What of these writings failed is then the next leader's to fail.
pub(super) async fn whenever_leading(
    mut leads: watch::Receiver<bool>,
    status: &ControllerStatus,
    writings: &[Writing],
    mut lead: impl AsyncFnMut(),
) {
    while leads.wait_for(|leads| *leads).await.is_ok() {
        tokio::select! {
            () = lead() => return,
            _ = leads.wait_for(|leads| !*leads) => writings.iter().for_each(|one| status.forget(*one)),
        }
    }
}

/// What a candidate knows of the Lease. Pure: time comes in.
#[derive(Debug)]
struct Candidate {
    identity: Arc<str>,
    /// The Lease as it was last seen, and since when it has been so.
    seen: Option<(Lease, Instant)>,
    /// While we hold it: when the renewal was begun that went well last.
    renewed: Option<Instant>,
}

impl Candidate {
    fn new(identity: Arc<str>) -> Self {
        Self { identity, seen: None, renewed: None }
    }

    /// Until when we lead, if we do.
    fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + RENEW_DEADLINE)
    }

    fn leads(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// Takes note of the Lease as it is; `None` if there is none.
    fn see(&mut self, lease: Option<Lease>, now: Instant) {
        let same_since = |lease: &Lease| {
            let (before, since) = self.seen.as_ref()?;
            (before.spec == lease.spec).then_some(*since)
        };
        self.seen = lease.map(|lease| {
            let since = same_since(&lease).unwrap_or(now);
            (lease, since)
        });
        if !self.is_holder() {
            self.renewed = None;
        }
    }

    /// The Lease as we may write it now; `None` if it is another's still. `clock` is for people to read.
    fn claim(&self, now: Instant, clock: Timestamp) -> Option<Lease> {
        let time = Some(MicroTime(clock));
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.to_string()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: time.clone(),
            renew_time: time,
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let Some((lease, since)) = &self.seen else {
            return Some(Lease { metadata: ObjectMeta::default(), spec: Some(spec) });
        };
        let held = lease.spec.clone().unwrap_or_default();
        let (acquire_time, transitions) = (held.acquire_time, held.lease_transitions.unwrap_or(0));
        let spec = if self.is_holder() {
            LeaseSpec { acquire_time, lease_transitions: Some(transitions), ..spec }
        } else {
            let seconds = held.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
            let good_for = seconds.map_or(LEASE_DURATION, Duration::from_secs);
            let is_free = held.holder_identity.is_none_or(|holder| holder.is_empty());
            if !is_free && now < *since + good_for {
                return None;
            }
            LeaseSpec { lease_transitions: Some(transitions.saturating_add(1)), ..spec }
        };
        // With its version: if somebody was quicker, this is refused.
        Some(Lease { metadata: lease.metadata.clone(), spec: Some(spec) })
    }

    /// A claim was written; it was begun at `begun`.
    fn written(&mut self, lease: Lease, begun: Instant) {
        self.seen = Some((lease, begun));
        self.renewed = Some(begun);
    }

    /// The Lease as we give it back, if we hold it.
    fn release(&self, clock: Timestamp) -> Option<Lease> {
        let (lease, _) = self.seen.as_ref().filter(|_| self.renewed.is_some() && self.is_holder())?;
        let time = Some(MicroTime(clock));
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(RELEASED_SECONDS),
            acquire_time: time.clone(),
            renew_time: time,
            ..lease.spec.clone().unwrap_or_default()
        };
        Some(Lease { metadata: lease.metadata.clone(), spec: Some(spec) })
    }

    fn holder(&self) -> &str {
        let spec = self.seen.as_ref().and_then(|(lease, _)| lease.spec.as_ref());
        spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    fn is_holder(&self) -> bool {
        self.holder() == &*self.identity
    }
}

/// A candidate, and the API server that decides.
#[derive(Debug)]
pub(super) struct Election {
    leases: Api<Lease>,
    namespace: Arc<str>,
    name: Arc<str>,
    candidate: Candidate,
    /// Who was the leader when it was last said.
    leader: Arc<str>,
    leads: watch::Sender<bool>,
    status: Arc<ControllerStatus>,
}

impl Election {
    /// An election by the Lease of this namespace and name, in which we are known as `identity`.
    pub(super) fn new(
        client: Client,
        namespace: Arc<str>,
        name: Arc<str>,
        identity: Arc<str>,
        status: Arc<ControllerStatus>,
    ) -> Self {
        let leases = Api::namespaced(client, &namespace);
        let candidate = Candidate::new(identity);
        Self { leases, namespace, name, candidate, leader: Arc::default(), leads: watch::Sender::default(), status }
    }

    /// Whether we are the leader.
    pub(super) fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Takes part until told to stop, and then gives back what it holds.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            // Not cut short by the stop: whether it was written must be known.
            self.attempt().await;
            self.tell();
            let rest = self.candidate.leads_until().map(|until| until.saturating_duration_since(Instant::now()));
            let pause = LEASE_RETRY.mul_f64(fastrand::f64().mul_add(JITTER, 1.0)).min(rest.unwrap_or(Duration::MAX));
            if timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok() {
                break;
            }
            self.tell();
        }
        let release = self.candidate.release(Timestamp::now());
        self.candidate.renewed = None;
        self.tell();
        if let Some(lease) = release {
            let params = params();
            let request = self.leases.replace(&self.name, &params, &lease);
            let released = timeout(RELEASE_TIMEOUT, request).await;
            tracing::info!(
                "the Lease {}/{} {}",
                self.namespace,
                self.name,
                if matches!(released, Ok(Ok(_))) {
                    "is given back"
                } else {
                    "could not be given back: it will run out"
                }
            );
        }
    }

    /// Looks, and takes or renews if it can, in time.
    async fn attempt(&mut self) {
        let begun = Instant::now();
        let rest = self.candidate.leads_until().map(|until| until.saturating_duration_since(begun));
        let limit = rest.map_or(LEASE_TIMEOUT, |rest| rest.min(LEASE_TIMEOUT));
        let done = timeout(limit, self.take_or_renew(begun)).await.unwrap_or_else(|_| {
            let message = format!("no answer within {:.1} s", limit.as_secs_f64());
            Err(Failure::Unreachable { message })
        });
        match done {
            Ok(true) => self.status.done(Writing::Lease, &self.namespace, None),
            Ok(false) => self.status.well(Writing::Lease, &self.namespace),
            // Somebody was quicker: that is how it is decided, and no failure.
            Err(Failure::Refused { code: 409, .. }) => self.status.conflicted(Writing::Lease, &self.namespace),
            Err(failure) => self.status.done(Writing::Lease, &self.namespace, Some(&failure)),
        }
    }

    /// Whether it was written; or if not, because it is another's still.
    async fn take_or_renew(&mut self, begun: Instant) -> Result<bool, Failure> {
        let lease = self.leases.get_opt(&self.name).await.map_err(|error| Failure::of_client("get", &error))?;
        self.candidate.see(lease, Instant::now());
        let Some(mut claim) = self.candidate.claim(Instant::now(), Timestamp::now()) else { return Ok(false) };
        let written = if self.candidate.seen.is_some() {
            let written = self.leases.replace(&self.name, &params(), &claim).await;
            written.map_err(|error| Failure::of_client("update", &error))
        } else {
            claim.metadata.name = Some(self.name.to_string());
            self.leases.create(&params(), &claim).await.map_err(|error| Failure::of_client("create", &error))
        };
        self.candidate.written(written?, begun);
        Ok(true)
    }

    /// Says whether we lead, if that has changed.
    fn tell(&mut self) {
        let leads = self.candidate.leads(Instant::now());
        if !leads {
            self.candidate.renewed = None;
        }
        let (namespace, name) = (&self.namespace, &self.name);
        if *self.leader != *self.candidate.holder() {
            self.leader = self.candidate.holder().into();
            if !self.leader.is_empty() && !self.candidate.is_holder() {
                tracing::info!("the leader is {}", self.leader);
            }
        }
        let changed = self.leads.send_if_modified(|led| std::mem::replace(led, leads) != leads);
        match (changed, leads) {
            (true, true) => tracing::info!("this replica is the leader now: it holds the Lease {namespace}/{name}"),
            (true, false) => tracing::info!("this replica is the leader no more"),
            (false, _) => {}
        }
        self.status.set_leader(leads);
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Method, Request, Response};
    use kube::client::Body;

    use super::*;

    /// An API server with one Lease: who writes an old version is refused.
    #[derive(Default)]
    struct Server {
        version: u64,
        lease: Option<Lease>,
    }

    impl Server {
        fn write(&mut self, mut lease: Lease) -> Result<Lease, ()> {
            let held = self.lease.as_ref().and_then(|held| held.metadata.resource_version.clone());
            if lease.metadata.resource_version != held {
                return Err(());
            }
            self.version += 1;
            lease.metadata.resource_version = Some(self.version.to_string());
            self.lease = Some(lease.clone());
            Ok(lease)
        }

        /// A whole attempt of a candidate, whose clock for people is `clock` seconds off.
        fn attempt(&mut self, candidate: &mut Candidate, now: Instant, clock: i64) -> bool {
            candidate.see(self.lease.clone(), now);
            // It goes on.
            let clock = Timestamp::new(1_800_000_000 + clock + self.version as i64, 0).unwrap();
            if let Some(Ok(written)) = candidate.claim(now, clock).map(|claim| self.write(claim)) {
                candidate.written(written, now);
            }
            candidate.leads(now)
        }

        fn transitions(&self) -> i32 {
            self.lease.as_ref().and_then(|lease| lease.spec.as_ref()?.lease_transitions).unwrap()
        }
    }

    fn two() -> (Server, Candidate, Candidate, Instant) {
        (Server::default(), Candidate::new("a".into()), Candidate::new("b".into()), Instant::now())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_leads_and_when_it_dies_the_other_does_once_the_lease_has_run_out() {
        let (mut server, mut a, mut b, begin) = two();
        assert!(server.attempt(&mut a, begin, 0) && !server.attempt(&mut b, begin, 0));
        for second in (2..=60).step_by(2) {
            let now = begin + SECOND * second;
            assert!(server.attempt(&mut a, now, 0) && !server.attempt(&mut b, now, 0), "after {second} s");
        }
        assert_eq!(server.transitions(), 0);
        // Nobody hears of it any more.
        let died = begin + SECOND * 60;
        let took = (1..=30).find(|second| server.attempt(&mut b, died + SECOND * *second, 0));
        assert_eq!(took, Some(15));
        assert!(!a.leads(died + RENEW_DEADLINE), "it has stopped long before");
        assert_eq!(server.transitions(), 1);
        assert!(!server.attempt(&mut a, died + SECOND * 20, 0), "it sees who leads now");
    }

    #[test]
    fn the_clocks_of_the_others_are_of_no_interest() {
        for skew in [-3_600, 3_600] {
            let (mut server, mut a, mut b, begin) = two();
            for second in (0..60).step_by(2) {
                let now = begin + SECOND * second;
                assert!(server.attempt(&mut a, now, skew) && !server.attempt(&mut b, now, 0), "{skew} s off");
            }
        }
    }

    #[test]
    fn what_was_given_back_is_taken_at_once() {
        let (mut server, mut a, mut b, begin) = two();
        assert!(b.release(Timestamp::now()).is_none());
        assert!(server.attempt(&mut a, begin, 0) && !server.attempt(&mut b, begin, 0));
        let given_back = a.release(Timestamp::now()).unwrap();
        server.write(given_back).unwrap();
        assert!(server.attempt(&mut b, begin + SECOND, 0));
        assert_eq!(server.lease.unwrap().spec.unwrap().holder_identity.as_deref(), Some("b"));
    }

    #[test]
    fn of_two_that_take_it_together_one_is_refused() {
        let (mut server, mut a, mut b, begin) = two();
        a.see(None, begin);
        b.see(None, begin);
        let (of_a, of_b) = (a.claim(begin, Timestamp::now()).unwrap(), b.claim(begin, Timestamp::now()).unwrap());
        assert!(server.write(of_a).is_ok() && server.write(of_b).is_err());
        let later = begin + LEASE_DURATION + SECOND;
        let held = server.lease.clone();
        a.see(held.clone(), begin);
        b.see(held.clone(), begin);
        b.see(held, later);
        let of_b = b.claim(later, Timestamp::now()).unwrap();
        // It was only slow.
        assert!(server.attempt(&mut a, later, 0));
        assert!(server.write(of_b).is_err());
    }

    #[test]
    fn a_process_that_begins_anew_under_the_same_name_goes_on() {
        let (mut server, mut a, _, begin) = two();
        assert!(server.attempt(&mut a, begin, 0));
        let mut again = Candidate::new("a".into());
        assert!(server.attempt(&mut again, begin + SECOND, 0));
        assert_eq!(server.transitions(), 0);
    }

    #[test]
    fn whoever_takes_the_lease_by_hand_has_it() {
        let (mut server, mut a, mut b, begin) = two();
        assert!(server.attempt(&mut a, begin, 0));
        let lease = server.lease.as_mut().unwrap();
        lease.spec.as_mut().unwrap().holder_identity = Some("b".to_owned());
        assert!(!server.attempt(&mut a, begin + SECOND, 0));
        assert!(server.attempt(&mut b, begin + SECOND, 0));
        // And whoever deletes it leaves it to the next.
        server.lease = None;
        assert!(server.attempt(&mut a, begin + SECOND * 2, 0));
    }

    /// What is counted as (done, conflict) after one attempt, where GET is answered so and POST so.
    async fn counted(get: (u16, &'static str), post: (u16, &'static str)) -> (u64, u64) {
        let service = tower::service_fn(move |request: Request<Body>| async move {
            let (code, text) = if request.method() == Method::GET { get } else { post };
            let answer = Response::builder().status(code).body(Body::from(text.as_bytes().to_vec())).unwrap();
            Ok::<_, Infallible>(answer)
        });
        let status = Arc::<ControllerStatus>::default();
        let client = Client::new(service, "default");
        let mut election = Election::new(client, "n".into(), "l".into(), "a".into(), status.clone());
        election.attempt().await;
        let count = |result: &str| {
            let mut of_leases = status.written().filter(|(writing, ..)| *writing == Writing::Lease);
            of_leases.find(|(_, name, _)| *name == result).map_or(0, |(.., count)| count)
        };
        (count("done"), count("conflict"))
    }

    #[tokio::test]
    async fn each_request_to_write_is_counted_once_and_a_look_is_none() {
        const NONE: (u16, &str) = (404, r#"{"status": "Failure", "message": "no", "reason": "NotFound", "code": 404}"#);
        const LATE: (u16, &str) =
            (409, r#"{"status": "Failure", "message": "no", "reason": "AlreadyExists", "code": 409}"#);
        const HELD: (u16, &str) =
            (200, r#"{"metadata": {"name": "l"}, "spec": {"holderIdentity": "b", "leaseDurationSeconds": 15}}"#);
        assert_eq!(counted(NONE, HELD).await, (1, 0));
        assert_eq!(counted(NONE, LATE).await, (0, 1));
        assert_eq!(counted(HELD, LATE).await, (0, 0), "it is another's still");
    }
}
