//! The usable endpoints of one port, and *the* choice among them: per connection at L4, per request in the gateway.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ahash::AHashMap;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    affinity::{AffinityTable, UnixMillis},
    balance,
    model::{Affinity, Balance, Endpoint},
};

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

/// What outlives a configuration: the counters of one endpoint of one port.
#[derive(Debug, Default)]
pub struct EndpointState {
    in_flight: AtomicU32,
    picks: AtomicU64,
    connect_failures: AtomicU64,
}

impl EndpointState {
    /// Connections or requests it carries now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How often it was chosen and answered.
    pub fn picks(&self) -> u64 {
        self.picks.load(Ordering::Relaxed)
    }

    /// How often a connect to it failed.
    pub fn connect_failures(&self) -> u64 {
        self.connect_failures.load(Ordering::Relaxed)
    }

    /// Notes that a connect to it failed.
    pub fn count_connect_failure(&self) {
        self.connect_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection or request for as long as the receipt lives.
    pub fn carry(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.picks.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }
}

/// Receipt for one connection or request an endpoint carries; dropping it ends the count.
#[derive(Debug)]
#[must_use = "dropping it at once counts nothing"]
pub struct InFlight(Arc<EndpointState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Cells of one service port that its sets share and a new configuration inherits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) states: AHashMap<SocketAddr, Arc<EndpointState>>,
    /// Only for a port with ClientIP affinity.
    pub(crate) affinity: Option<Arc<AffinityTable>>,
    pub(crate) cursor: Arc<AtomicUsize>,
}

/// The endpoints one kind of traffic may use, ready to be chosen from.
#[derive(Debug)]
pub struct EndpointSet {
    endpoints: Box<[Endpoint]>,
    states: Box<[Arc<EndpointState>]>,
    positions: AHashMap<SocketAddr, usize>,
    hashes: Box<[u64]>,
    weight_totals: Box<[u64]>,
    balance: Balance,
    cursor: Arc<AtomicUsize>,
    affinity: Option<(Arc<AffinityTable>, Duration)>,
}

impl EndpointSet {
    /// A set of `endpoints`, each once; counters and affinity come from `inherited`.
    pub(crate) fn build(
        endpoints: Vec<Endpoint>,
        balance: Balance,
        affinity: Affinity,
        inherited: &mut Inherited,
    ) -> Self {
        let states = endpoints.iter().map(|e| inherited.states.entry(e.addr).or_default().clone()).collect();
        let positions = endpoints.iter().enumerate().map(|(i, e)| (e.addr, i)).collect();
        let hashes = endpoints.iter().map(|e| xxh3_64(e.addr.to_string().as_bytes())).collect();
        let mut total = 0;
        let mut add = |weight: u32| {
            total += u64::from(weight);
            total
        };
        let weight_totals = match balance {
            Balance::Weighted => endpoints.iter().map(|e| add(e.weight)).collect(),
            Balance::Random | Balance::RoundRobin | Balance::LeastInFlight => Box::default(),
        };
        let affinity = match affinity {
            Affinity::None => None,
            Affinity::ClientIp { timeout } => Some((inherited.affinity.get_or_insert_default().clone(), timeout)),
        };
        let cursor = inherited.cursor.clone();
        Self { endpoints: endpoints.into(), states, positions, hashes, weight_totals, balance, cursor, affinity }
    }

    /// A set with nothing to choose from.
    pub fn empty() -> Self {
        Self::build(Vec::new(), Balance::Random, Affinity::None, &mut Inherited::default())
    }

    /// Candidates for a connection of `client`, in order of preference: the first is the choice, the others are for
    /// when it cannot be reached. Each endpoint comes once.
    pub fn candidates(&self, client: Client) -> Candidates<'_> {
        let Some((table, timeout)) = &self.affinity else { return self.balanced() };
        let epoch = client.now.0 / (timeout.as_millis() as u64).max(1);
        let remembered = table.find(client.ip, client.now, *timeout).and_then(|addr| self.position(addr));
        Candidates { set: self, order: Order::Ranked { client: client.ip, epoch, remembered, last: None }, given: 0 }
    }

    /// Candidates by the balancing rule alone: what a gateway uses, whose affinity is its own.
    pub fn balanced(&self) -> Candidates<'_> {
        let n = self.endpoints.len();
        let first = match self.balance {
            _ if n == 0 => 0,
            Balance::Random => balance::random(n),
            Balance::RoundRobin => balance::round_robin(n, &self.cursor),
            Balance::LeastInFlight => balance::least_of_two(n, |i| self.states[i].in_flight()),
            Balance::Weighted => balance::weighted(&self.weight_totals),
        };
        self.starting_at(EndpointIndex(first))
    }

    /// All candidates, beginning with one that is already decided (a cookie named it).
    pub fn starting_at(&self, first: EndpointIndex) -> Candidates<'_> {
        Candidates { set: self, order: Order::Rotation { first: first.0 }, given: 0 }
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
        self.position(addr).map(EndpointIndex)
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

    /// The rule of choice.
    pub fn balance(&self) -> Balance {
        self.balance
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

    fn position(&self, addr: SocketAddr) -> Option<usize> {
        self.positions.get(&addr).copied()
    }
}

/// Endpoints in order of preference; see [`EndpointSet::candidates`].
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    set: &'a EndpointSet,
    order: Order,
    given: usize,
}

#[derive(Clone, Debug)]
enum Order {
    /// A first one, then the rest in their own order.
    Rotation { first: usize },
    /// The remembered one, then by rendezvous score, best first. `last` is the score and position given before.
    Ranked { client: IpAddr, epoch: u64, remembered: Option<usize>, last: Option<(u64, usize)> },
}

impl Iterator for Candidates<'_> {
    type Item = EndpointIndex;

    fn next(&mut self) -> Option<EndpointIndex> {
        let n = self.set.endpoints.len();
        if self.given >= n {
            return None;
        }
        let given = self.given;
        self.given += 1;
        match &mut self.order {
            Order::Rotation { first } => Some(EndpointIndex((*first + given) % n)),
            Order::Ranked { remembered: Some(first), .. } if given == 0 => Some(EndpointIndex(*first)),
            Order::Ranked { client, epoch, remembered, last } => {
                // Retries are rare, so each looks over all scores again rather than sorting for a case that seldom comes.
                // Weights make no shares here, but 0 takes an endpoint out: it comes last.
                let out = |i: usize| self.set.balance == Balance::Weighted && self.set.endpoints[i].weight == 0;
                let rank = |i| if out(i) { 0 } else { balance::rendezvous_score(*client, *epoch, self.set.hashes[i]) };
                let score = |i: usize| (rank(i), i);
                let below = |s: &(u64, usize)| last.is_none_or(|last| *s < last) && Some(s.1) != *remembered;
                let best = (0..n).map(score).filter(below).max()?;
                *last = Some(best);
                Some(EndpointIndex(best.1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Conditions, Hints};

    fn endpoint(n: u8, weight: u32) -> Endpoint {
        let addr = SocketAddr::from(([10, 0, 0, n], 80));
        let hints = Hints::default();
        Endpoint { addr, conditions: Conditions::READY, node: None, zone: None, hints, weight, pod: None }
    }

    fn set(ns: impl IntoIterator<Item = u8>, affinity: Affinity, inherited: &mut Inherited) -> EndpointSet {
        EndpointSet::build(ns.into_iter().map(|n| endpoint(n, 1)).collect(), Balance::Random, affinity, inherited)
    }

    const STICKY: Affinity = Affinity::ClientIp { timeout: Duration::from_secs(10) };

    fn client(n: u8, now: u64) -> Client {
        Client { ip: IpAddr::from([192, 0, 2, n]), now: UnixMillis(now) }
    }

    #[test]
    fn every_endpoint_comes_once_whatever_the_order() {
        let mut inherited = Inherited::default();
        for affinity in [Affinity::None, STICKY] {
            let set = set(0..7, affinity, &mut inherited);
            for remember in [false, true] {
                if remember {
                    set.chosen(client(1, 0), EndpointIndex(3));
                }
                let mut seen: Vec<usize> = set.candidates(client(1, 1)).map(|i| i.0).collect();
                seen.sort_unstable();
                assert_eq!(seen, [0, 1, 2, 3, 4, 5, 6]);
            }
        }
        assert_eq!(set([], STICKY, &mut inherited).candidates(client(1, 0)).next(), None);
        assert_eq!(set([], Affinity::None, &mut inherited).candidates(client(1, 0)).next(), None);
    }

    #[test]
    fn affinity_survives_a_rebuild_in_another_order_and_expires_by_the_callers_clock() {
        let mut inherited = Inherited::default();
        let before = set([1, 2, 3], STICKY, &mut inherited);
        before.chosen(client(1, 0), EndpointIndex(1));
        let after = set([3, 9, 2, 1], STICKY, &mut inherited);
        let first = after.candidates(client(1, 9_999)).next().unwrap();
        assert_eq!(after.endpoint(first).addr, before.endpoint(EndpointIndex(1)).addr);
        assert_eq!(after.remembered(client(1, 10_000)), None);
    }

    #[test]
    fn two_replicas_agree_and_a_later_epoch_may_differ() {
        let (a, b) =
            (set(0..5, STICKY, &mut Inherited::default()), set((0..5).rev(), STICKY, &mut Inherited::default()));
        let choice = |set: &EndpointSet, c| set.endpoint(set.candidates(c).next().unwrap()).addr;
        assert!((0..200).all(|n| choice(&a, client(n, 5)) == choice(&b, client(n, 5))));
        assert!((0..20).any(|epoch| choice(&a, client(1, epoch * 10_000)) != choice(&a, client(1, 0))));
    }

    #[test]
    fn in_flight_is_counted_while_the_receipt_lives_and_inherited() {
        let mut inherited = Inherited::default();
        let before = set([1, 2], Affinity::None, &mut inherited);
        let receipt = before.state(EndpointIndex(0)).carry();
        let after = set([2, 1], Affinity::None, &mut inherited);
        assert_eq!(after.state(EndpointIndex(1)).in_flight(), 1);
        drop(receipt);
        assert_eq!(after.state(EndpointIndex(1)).in_flight(), 0);
        assert_eq!(after.state(EndpointIndex(1)).picks(), 1);
    }

    #[test]
    fn weight_0_takes_an_endpoint_out_with_affinity_too() {
        let endpoints = (0..4).map(|n| endpoint(n, u32::from(n % 2))).collect();
        let set = EndpointSet::build(endpoints, Balance::Weighted, STICKY, &mut Inherited::default());
        for n in 0..100 {
            let order: Vec<usize> = set.candidates(client(n, 0)).map(|i| i.0).collect();
            assert!(order.len() == 4 && order[..2].iter().all(|i| i % 2 == 1), "{order:?}");
        }
    }

    #[test]
    fn weighted_and_round_robin_do_what_they_say() {
        let mut inherited = Inherited::default();
        let endpoints = vec![endpoint(1, 3), endpoint(2, 0), endpoint(3, 1)];
        let set = EndpointSet::build(endpoints.clone(), Balance::Weighted, Affinity::None, &mut inherited);
        let mut seen = [0; 3];
        (0..8_000).for_each(|_| seen[set.balanced().next().unwrap().0] += 1);
        assert!(seen[1] == 0 && (5_500..6_500).contains(&seen[0]), "{seen:?}");
        let set = EndpointSet::build(endpoints, Balance::RoundRobin, Affinity::None, &mut inherited);
        let seen: Vec<usize> = (0..4).map(|_| set.balanced().next().unwrap().0).collect();
        assert_eq!(seen, [0, 1, 2, 0]);
    }
}
