//! Which pods a request tries, in which order.

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, header};
use tidegate_l4::{
    affinity::UnixMillis,
    endpoints::{Candidates, EndpointIndex},
    worker::now,
};

use super::{
    cookie_affinity::{self, Choice, KeySource},
    forward::Trip,
};
use crate::{
    snapshot::CookieUpstream,
    tail::{Reason, Told},
};

/// One pod to try.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) endpoint: EndpointIndex,
    /// The `Set-Cookie` that goes with its answer.
    pub(crate) cookie: Option<HeaderValue>,
}

/// The pods to try: as the balancer orders them, or as the session asks for.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    trip: &'a Trip<'a>,
    order: Order<'a>,
    failed: Vec<usize>,
    left: usize,
}

#[derive(Debug)]
enum Order<'a> {
    Listed(Candidates<'a>),
    /// The pinned one first, then each a new session.
    Session(&'a CookieUpstream),
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(trip: &'a Trip<'a>) -> Self {
        let endpoints = &trip.upstream.endpoints;
        let cookie = trip.upstream.cookie.as_ref();
        // A session stays on its pod even if the pod cannot be reached, unless the Ingress says otherwise.
        let may_move = trip.pinned.is_none() || cookie.is_some_and(|cookie| cookie.affinity.change_on_failure);
        // Only what is timed looks at the clock.
        let moment = || if endpoints.is_timed(trip.balance) { now() } else { UnixMillis::default() };
        let order = match (cookie, trip.pinned) {
            (Some(cookie), _) if trip.rule.issues_cookie => Order::Session(cookie),
            (_, Some(pinned)) => Order::Listed(endpoints.starting_at(pinned).at(now())),
            (_, None) => Order::Listed(endpoints.order(trip.balance, trip.hash, moment())),
        };
        let left = match trip.rule.policy.retry.tries {
            _ if !may_move => 1,
            0 => endpoints.len(),
            tries => tries as usize,
        };
        Self { trip, order, failed: Vec::new(), left }
    }

    /// The next pod for the request with these fields; `failed` are those that gave no answer.
    pub(crate) fn next(&mut self, headers: &HeaderMap) -> Option<Attempt> {
        self.left = self.left.checked_sub(1)?;
        let cookie = match &mut self.order {
            Order::Listed(candidates) => {
                return candidates.next().map(|endpoint| Attempt { endpoint, cookie: None });
            }
            Order::Session(cookie) => *cookie,
        };
        if let (Some(endpoint), []) = (self.trip.pinned, &self.failed[..]) {
            return Some(Attempt { endpoint, cookie: None });
        }
        let (date, moment) = (SystemTime::now(), now());
        let mut source = KeySource { now: date, pid: std::process::id(), rng: &mut fastrand::Rng::new() };
        let is_out = |index| self.trip.upstream.endpoints.is_out(EndpointIndex(index), moment);
        match cookie_affinity::choose(&cookie.affinity, &cookie.map, headers, &self.failed, is_out, &mut source) {
            Choice::Sticky { index } => Some(Attempt { endpoint: EndpointIndex(index), cookie: None }),
            Choice::New { index, value } => {
                let path = self.trip.rule.path.as_ref().map_or("/", |path| path.as_str());
                let is_tls = self.trip.client.tls.is_some();
                let agent = headers.get(header::USER_AGENT);
                let cookie = cookie_affinity::set_cookie(&cookie.affinity, &value, path, is_tls, agent, date);
                Some(Attempt { endpoint: EndpointIndex(index), cookie: Some(cookie) })
            }
            Choice::NoneLeft => None,
        }
    }

    /// Tells that this pod is tried, and why this one. `is_new`: a session begins with it.
    pub(crate) fn tell(&self, told: &Told, endpoint: EndpointIndex, is_new: bool) {
        let trip = self.trip;
        let reason = match trip.hash {
            _ if !self.failed.is_empty() => Reason::AnotherFailed,
            _ if trip.pinned == Some(endpoint) => Reason::Cookie,
            _ if is_new => Reason::NewSession,
            _ if trip.upstream.endpoints.len() == 1 => Reason::Only,
            Some(_) => Reason::Hash,
            None => Reason::Rule(trip.balance),
        };
        let cookie = trip.upstream.cookie.as_ref().filter(|_| reason == Reason::Cookie);
        let session = cookie.and_then(|cookie| cookie_affinity::pair(&trip.parts.headers, &cookie.affinity.name));
        let session = session.map(|pair| String::from_utf8_lossy(pair).into());
        let target = trip.upstream.endpoints.endpoint(endpoint);
        told.trying(trip.backend.service(), (target.addr, target.pod.clone()), reason, session);
    }

    /// Whether there is another pod that may be tried.
    pub(crate) fn has_more(&self) -> bool {
        self.left > 0 && self.failed.len() + 1 < self.trip.upstream.endpoints.len()
    }

    /// This pod gave no answer.
    pub(crate) fn failed(&mut self, endpoint: EndpointIndex) {
        self.failed.push(endpoint.0);
    }
}
