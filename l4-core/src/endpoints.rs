//! The usable endpoints of one port, and *the* choice among them: per connection at L4, per request in the gateway.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use ahash::AHashMap;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    affinity::{AffinityTable, DEFAULT_AFFINITY_TIMEOUT, UnixMillis},
    balance,
    candidates::Ranking,
    gate::Gate,
    model::{Affinity, Balance, Endpoint},
    policy::EndpointPolicy,
};
pub use crate::{
    candidates::Candidates,
    gate::{Full, Permit},
    health::{Standing, Verdict},
    state::{EndpointState, InFlight},
};

/// A time at which every ejection and every slow start is over: for callers without a clock.
pub(crate) const LATER: UnixMillis = UnixMillis(u64::MAX);

/// The key of some bytes; the same in every process.
fn hash_key(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// The key by which [`Balance::Hash`] chooses for a client; the same in every process. An IPv4 address is another client than
/// the IPv6 one it is mapped to (`::ffff:a.b.c.d`).
pub fn client_key(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => hash_key(&ip.octets()),
        IpAddr::V6(ip) => hash_key(&ip.octets()),
    }
}

/// Position of an endpoint in its [`EndpointSet`]. Planes may keep arrays of their own under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointIndex(pub usize);

/// Who asks for an endpoint, and when.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The client's address: the key of ClientIP affinity.
    pub ip: IpAddr,
    /// The time, by the caller's clock.
    pub now: UnixMillis,
}

/// Cells of one service port that its sets share and a new configuration inherits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) states: AHashMap<SocketAddr, Arc<EndpointState>>,
    /// Only for a port with ClientIP affinity.
    pub(crate) affinity: Option<Arc<AffinityTable>>,
    pub(crate) cursor: Arc<AtomicUsize>,
    pub(crate) gate: Arc<Gate>,
    /// Held while it is decided whether one more endpoint may be ejected, which is seldom.
    pub(crate) ejecting: Arc<Mutex<()>>,
}

/// The endpoints one kind of traffic may use, ready to be chosen from.
#[derive(Debug)]
pub struct EndpointSet {
    endpoints: Arc<[Endpoint]>,
    states: Box<[Arc<EndpointState>]>,
    /// Empty where there are [few](FEW).
    positions: AHashMap<SocketAddr, usize>,
    hashes: Box<[u64]>,
    /// Empty where all weights are the same.
    weight_totals: Box<[u64]>,
    balance: Balance,
    policy: EndpointPolicy,
    /// Whether an endpoint can be left out of the choice at all, so that its state must be looked at.
    guarded: bool,
    cursor: Arc<AtomicUsize>,
    gate: Arc<Gate>,
    ejecting: Arc<Mutex<()>>,
    affinity: Option<(Arc<AffinityTable>, Duration)>,
}

impl EndpointSet {
    /// A set of `endpoints`, each once; counters and affinity come from `inherited`.
    pub(crate) fn build(
        endpoints: Arc<[Endpoint]>,
        balance: Balance,
        policy: &EndpointPolicy,
        affinity: Affinity,
        inherited: &mut Inherited,
    ) -> Self {
        let affinity = match affinity {
            Affinity::None => None,
            Affinity::ClientIp { timeout } => Some((inherited.affinity.get_or_insert_default().clone(), timeout)),
        };
        Self {
            states: endpoints.iter().map(|e| inherited.states.entry(e.addr).or_default().clone()).collect(),
            positions: positions(&endpoints),
            hashes: endpoints.iter().map(|e| xxh3_64(e.addr.to_string().as_bytes())).collect(),
            weight_totals: weight_totals(&endpoints),
            endpoints,
            balance,
            policy: policy.clone(),
            guarded: policy.ejection.is_some() || policy.probe.is_some() || policy.slow_start > Duration::ZERO,
            cursor: inherited.cursor.clone(),
            gate: inherited.gate.clone(),
            ejecting: inherited.ejecting.clone(),
            affinity,
        }
    }

    /// A set with nothing to choose from.
    pub fn empty() -> Self {
        let policy = EndpointPolicy::default();
        Self::build([].into(), Balance::Random, &policy, Affinity::None, &mut Inherited::default())
    }

    /// Candidates for a connection of `client`, in order of preference: the first is the choice, the others are for
    /// when it cannot be reached. Each endpoint comes once.
    ///
    /// With ClientIP affinity, whoever is not remembered gets what follows from its address: replicas and nodes that know the same
    /// endpoints agree without a word, and one that begins anew sends nobody elsewhere. A timeout shorter than the default says that
    /// clients are to be spread anew after a while, so the order changes once in each.
    pub fn candidates(&self, client: Client) -> Candidates<'_> {
        let Some((_, timeout)) = &self.affinity else {
            let key = (self.balance == Balance::Hash).then(|| client_key(client.ip));
            return self.order(self.balance, key, client.now);
        };
        let epoch =
            if *timeout < DEFAULT_AFFINITY_TIMEOUT { client.now.0 / (timeout.as_millis() as u64).max(1) } else { 0 };
        // One that is left out would not answer; what answers instead is remembered in its place.
        let remembered = self.remembered(client).filter(|&i| !self.is_out(i, client.now)).map(|i| i.0);
        let ranking = Ranking::Client { ip: client.ip, epoch };
        Candidates::ranked(self, ranking, remembered, self.balance, client.now)
    }

    /// Candidates by a rule of choice alone, be it the Service's or another: what a gateway uses, whose affinity is its own.
    ///
    /// [`Balance::Hash`] goes by `key`, such as a [`client_key`]; without one it is random.
    pub fn order(&self, balance: Balance, key: Option<u64>, now: UnixMillis) -> Candidates<'_> {
        let n = self.len();
        if n == 0 {
            return Candidates::rotation(self, None, balance, now);
        }
        let accepts = |i: usize| !self.guarded || self.accepts(i, now);
        let first = match (balance, key) {
            (Balance::Hash, Some(key)) => {
                return Candidates::ranked(self, Ranking::Key(key), None, balance, now);
            }
            (Balance::Random, _) | (Balance::Hash, None) => balance::accepted(|| balance::random(n), accepts),
            (Balance::RoundRobin, _) => balance::accepted(|| balance::round_robin(n, &self.cursor), accepts),
            (Balance::LeastInFlight, _) => balance::least_of_two(n, accepts, |i| self.states[i].in_flight()),
            (Balance::Ewma, _) => balance::least_of_two(n, accepts, |i| self.states[i].cost(now)),
            (Balance::Weighted, _) => balance::accepted(|| balance::weighted(n, &self.weight_totals), accepts),
        };
        if first.is_some() {
            return Candidates::rotation(self, first, balance, now);
        }
        // Every draw was in vain: the nearest that is in use will do; and if there is none, all are as good as ejected, and
        // any is. Trouble that all endpoints share is none of theirs.
        let mut rest = Candidates::rotation(self, Some(balance::random(n)), balance, now);
        rest.settle();
        rest
    }

    /// All candidates, beginning with one that is already decided (a cookie named it). Say [at](Candidates::at) what
    /// time it is, so that those that are ejected come last.
    pub fn starting_at(&self, first: EndpointIndex) -> Candidates<'_> {
        Candidates::rotation(self, Some(first.0), self.balance, LATER)
    }

    /// A candidate answered `client`: only now does affinity remember it.
    pub fn chosen(&self, client: Client, endpoint: EndpointIndex) {
        if let Some((table, timeout)) = &self.affinity {
            table.remember(client.ip, self.endpoints[endpoint.0].addr, client.now, *timeout);
        }
    }

    /// The endpoint ClientIP affinity holds for `client`, if any.
    pub fn remembered(&self, client: Client) -> Option<EndpointIndex> {
        let (table, timeout) = self.affinity.as_ref()?;
        let addr = table.find(client.ip, client.now, *timeout)?;
        self.position(addr)
    }

    /// An endpoint failed: it could not be reached, or gave no proper answer. Whether that ejected it.
    ///
    /// Does nothing where there is no ejection. Never takes out more than the policy's share; an endpoint that was spared
    /// for that is asked about again with its next failure.
    pub fn failed(&self, endpoint: EndpointIndex, now: UnixMillis) -> bool {
        let Some(ejection) = &self.policy.ejection else { return false };
        let health = &self.states[endpoint.0].health;
        if !health.failed(ejection, now) {
            return false;
        }
        // No code under this lock can panic half way through a change.
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let out = self.states.iter().filter(|state| state.is_ejected(now)).count();
        let may = !health.is_ejected(now) && out < self.len() * usize::from(ejection.max_share) / 100;
        if may {
            health.eject(ejection, now);
        }
        may
    }

    /// Lets in one more connection or request, for as long as the permit lives.
    ///
    /// # Errors
    /// If as many are in, or wait for a connection, as the Service allows. It is counted as turned away.
    pub fn admit(&self) -> Result<Permit, Full> {
        self.gate.admit(self.policy.admission)
    }

    /// Whether an endpoint is chosen at present, and if not, why.
    pub fn standing(&self, endpoint: EndpointIndex, now: UnixMillis) -> Standing {
        self.states[endpoint.0].health.standing(&self.policy, now)
    }

    /// Whether an endpoint is left out of the choice at present: ejected, or failing its probe.
    pub fn is_out(&self, endpoint: EndpointIndex, now: UnixMillis) -> bool {
        self.guarded && matches!(self.standing(endpoint, now), Standing::Ejected { .. } | Standing::ProbeFails)
    }

    /// The endpoint at a position.
    pub fn endpoint(&self, index: EndpointIndex) -> &Endpoint {
        &self.endpoints[index.0]
    }

    /// The counters of the endpoint at a position.
    pub fn state(&self, index: EndpointIndex) -> &Arc<EndpointState> {
        &self.states[index.0]
    }

    /// All endpoints, in order of their positions.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The rule of choice for connections.
    pub fn balance(&self) -> Balance {
        self.balance
    }

    /// How it treats its endpoints, and the rule of choice for requests.
    pub fn policy(&self) -> &EndpointPolicy {
        &self.policy
    }

    /// How long ClientIP affinity lasts here; `None` without affinity.
    pub fn affinity_timeout(&self) -> Option<Duration> {
        self.affinity.as_ref().map(|(_, timeout)| *timeout)
    }

    /// Whether nothing can be chosen.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Where an address is.
    pub fn position(&self, addr: SocketAddr) -> Option<EndpointIndex> {
        let found = match self.len() {
            ..=FEW => self.endpoints.iter().position(|endpoint| endpoint.addr == addr),
            _ => self.positions.get(&addr).copied(),
        };
        found.map(EndpointIndex)
    }

    /// A hash of each endpoint's address.
    pub(crate) fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// Whether [`order`](Self::order) by this rule depends on the time.
    pub fn is_timed(&self, balance: Balance) -> bool {
        self.guarded || balance == Balance::Ewma
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.guarded
    }

    /// Whether the dice may fall on an endpoint: never if it is left out, and now and then while it starts slowly.
    fn accepts(&self, i: usize, now: UnixMillis) -> bool {
        match self.standing(EndpointIndex(i), now) {
            Standing::InUse => true,
            Standing::SlowStart { share } => {
                self.states[i].health.begin(now);
                fastrand::f32() < share
            }
            Standing::Ejected { .. } | Standing::ProbeFails => false,
        }
    }
}

/// Among so many endpoints one is found as quickly by looking at each, and most Services have no more.
const FEW: usize = 16;

fn positions(endpoints: &[Endpoint]) -> AHashMap<SocketAddr, usize> {
    if endpoints.len() <= FEW {
        return AHashMap::new();
    }
    endpoints.iter().enumerate().map(|(i, endpoint)| (endpoint.addr, i)).collect()
}

fn weight_totals(endpoints: &[Endpoint]) -> Box<[u64]> {
    if endpoints.windows(2).all(|two| two[0].weight == two[1].weight) {
        return Box::default();
    }
    let mut total = 0;
    let mut add = |weight: u32| {
        total += u64::from(weight);
        total
    };
    endpoints.iter().map(|e| add(e.weight)).collect()
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
