//! The service table: from the address a client dialled to the endpoints that may answer.
//!
//! ClusterIP, NodePort, LoadBalancer and external IPs are all just frontends here. A table never changes; a new one is
//! built from the service ports and the table before it, and inherits what must survive (counters, affinity).
//! A service port that is the same `Arc` as before is taken over whole, so a change costs what changed.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ahash::{AHashMap, AHashSet};

use crate::{
    affinity::AffinityTable,
    eligible::{Reason, eligible},
    endpoints::{EndpointSet, EndpointState, Inherited},
    model::{Affinity, IpFamily, Place, Protocol, ServicePort, ServicePortName, TrafficPolicy},
    stats::PortStats,
};

/// An address a client can dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// IP address.
    pub ip: IpAddr,
    /// Port number.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl std::fmt::Display for Frontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.ip, self.port), self.protocol)
    }
}

/// Why a service port answers on a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrontendKind {
    /// A ClusterIP: `internalTrafficPolicy` applies.
    ClusterIp,
    /// A node address and the node port.
    NodePort,
    /// A LoadBalancer IP: `loadBalancerSourceRanges` applies.
    LoadBalancer,
    /// An external IP.
    ExternalIp,
}

impl FrontendKind {
    /// Its name, as Kubernetes and people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "external IP",
        }
    }
}

/// One service port as this node serves it.
#[derive(Debug)]
pub struct ServedPort {
    /// The configuration it was built from.
    pub config: Arc<ServicePort>,
    /// Its counters.
    pub stats: Arc<PortStats>,
    v4: FamilySets,
    v6: FamilySets,
    inherited: Inherited,
    place: Place,
}

/// The sets of one IP family.
#[derive(Debug)]
struct FamilySets {
    cluster: Arc<EndpointSet>,
    everywhere: Arc<EndpointSet>,
    local: Arc<EndpointSet>,
    reason: Reason,
    serving: AHashSet<SocketAddr>,
}

impl ServedPort {
    fn build(config: Arc<ServicePort>, place: &Place, previous: Option<&Self>) -> Self {
        let mut inherited = previous.map(|p| p.inherited.clone()).unwrap_or_default();
        if config.affinity == Affinity::None {
            inherited.affinity = None;
        }
        let v4 = FamilySets::build(&config, IpFamily::V4, place, &mut inherited);
        let v6 = FamilySets::build(&config, IpFamily::V6, place, &mut inherited);
        let usable = |set: &FamilySets, addr| {
            set.everywhere.endpoints().iter().chain(set.local.endpoints()).any(|e| e.addr == addr)
        };
        if let Some(affinity) = inherited.affinity.as_ref().filter(|table| !table.is_empty()) {
            let usable = |addr: &SocketAddr| usable(&v4, *addr) || usable(&v6, *addr);
            let usable: AHashSet<SocketAddr> = inherited.states.keys().filter(|a| usable(a)).copied().collect();
            affinity.keep_only(|addr| usable.contains(&addr));
        }
        if let Some(previous) = previous {
            renew(&config, [&v4, &v6], previous, &inherited);
        }
        let listed: AHashSet<_> = config.endpoints.iter().map(|e| e.addr).collect();
        inherited.states.retain(|addr, _| listed.contains(addr));
        let stats = previous.map(|p| p.stats.clone()).unwrap_or_default();
        Self { config, stats, v4, v6, inherited, place: place.clone() }
    }

    /// The endpoints for traffic of `policy` in `family`.
    pub fn set(&self, family: IpFamily, policy: TrafficPolicy) -> &Arc<EndpointSet> {
        match policy {
            TrafficPolicy::Cluster => &self.family(family).cluster,
            TrafficPolicy::Local => &self.family(family).local,
        }
    }

    /// The endpoints of [`TrafficPolicy::Cluster`] in `family`, topology hints apart: the same on every node, for choices that every
    /// replica is to make alike wherever it runs.
    pub fn everywhere(&self, family: IpFamily) -> &Arc<EndpointSet> {
        &self.family(family).everywhere
    }

    /// Which endpoints serve a client that came by no frontend: all of the cluster, those of IPv4 if there are any.
    pub fn decide(&self) -> Decision<'_> {
        let sets = [IpFamily::V4, IpFamily::V6].map(|family| self.set(family, TrafficPolicy::Cluster));
        match sets.into_iter().find(|set| !set.is_empty()) {
            Some(set) => Decision::Choose(set),
            None => Decision::Refuse(Refusal::NoEndpoints),
        }
    }

    /// Why the Cluster set of `family` is what it is.
    pub fn reason(&self, family: IpFamily) -> Reason {
        self.family(family).reason
    }

    /// Whether a UDP flow to `endpoint` may go on: it may while the endpoint serves, or while nothing does that could
    /// take its place (kube-proxy's conntrack rule; policies and hints play no part).
    pub fn keeps_flow(&self, endpoint: SocketAddr) -> bool {
        let serving = &self.family(IpFamily::of(endpoint.ip())).serving;
        serving.is_empty() || serving.contains(&endpoint)
    }

    /// The counters of an endpoint; new ones if it has none yet.
    pub(crate) fn state(&self, endpoint: SocketAddr) -> Arc<EndpointState> {
        self.inherited.states.get(&endpoint).cloned().unwrap_or_default()
    }

    /// What ClientIP affinity remembers, if the port has it.
    pub fn affinity(&self) -> Option<&AffinityTable> {
        self.inherited.affinity.as_deref()
    }

    /// How many clients ClientIP affinity remembers.
    pub fn affinity_entries(&self) -> usize {
        self.inherited.affinity.as_ref().map_or(0, |table| table.len())
    }

    /// How many connections and requests were turned away because as many as may be were under way, in both planes.
    pub fn turned_away(&self) -> u64 {
        self.inherited.gate.turned_away()
    }

    fn family(&self, family: IpFamily) -> &FamilySets {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }
}

/// Endpoints that are new, or were not usable before, begin without a past. Readiness is the truth: who is ready again is
/// no longer ejected, but may have a slow start; not so where there was nobody before, who could take the rest of its share.
fn renew(config: &ServicePort, now: [&FamilySets; 2], previous: &ServedPort, inherited: &Inherited) {
    if config.policy.ejection.is_none() && config.policy.probe.is_none() && config.policy.slow_start.is_zero() {
        return;
    }
    let before = [&previous.v4, &previous.v6];
    let slowly = before.iter().any(|sets| !sets.everywhere.is_empty() || !sets.local.is_empty());
    for (before, now) in before.into_iter().zip(now) {
        let was_there = |addr| before.everywhere.position(addr).or_else(|| before.local.position(addr)).is_some();
        let new = now.everywhere.endpoints().iter().chain(now.local.endpoints()).filter(|e| !was_there(e.addr));
        new.filter_map(|e| inherited.states.get(&e.addr)).for_each(|state| state.renew(slowly));
    }
}

impl FamilySets {
    fn build(config: &ServicePort, family: IpFamily, place: &Place, inherited: &mut Inherited) -> Self {
        let eligible = eligible(&config.endpoints, family, place);
        let mut set = |indexes: &[usize]| {
            // Most often it is all of them, in their order: a cluster's endpoints are then held once.
            let all = indexes.iter().copied().eq(0..config.endpoints.len());
            let some = || indexes.iter().map(|&i| config.endpoints[i].clone()).collect();
            let endpoints = if all { config.endpoints.clone() } else { some() };
            Arc::new(EndpointSet::build(endpoints, config.balance, &config.policy, config.affinity, inherited))
        };
        let cluster = set(&eligible.cluster);
        let everywhere =
            if eligible.everywhere == eligible.cluster { cluster.clone() } else { set(&eligible.everywhere) };
        let local = if eligible.local == eligible.cluster { cluster.clone() } else { set(&eligible.local) };
        let serving = config.endpoints.iter().filter(|e| IpFamily::of(e.addr.ip()) == family && e.conditions.serving);
        let serving =
            if config.name.protocol == Protocol::Udp { serving.map(|e| e.addr).collect() } else { AHashSet::new() };
        Self { cluster, everywhere, local, reason: eligible.reason, serving }
    }
}

/// What a frontend leads to.
#[derive(Clone, Debug)]
pub struct Target {
    /// Why it answers there.
    pub kind: FrontendKind,
    /// The service port behind it.
    pub port: Arc<ServedPort>,
}

/// Where a client on a frontend is sent, or why it is not served.
#[derive(Clone, Debug)]
pub enum Decision<'a> {
    /// Choose from these.
    Choose(&'a Arc<EndpointSet>),
    /// Turn the client away.
    Refuse(Refusal),
}

/// Why a client on an open frontend is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint is usable anywhere.
    NoEndpoints,
    /// Policy Local, and none of the usable endpoints is on this node.
    NoLocalEndpoints,
    /// Not within `loadBalancerSourceRanges`.
    SourceRange,
}

/// Two service ports want the same frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address both want.
    pub frontend: Frontend,
    /// Who has it.
    pub winner: ServicePortName,
    /// Who does not get it.
    pub loser: ServicePortName,
}

/// From frontends to endpoints; immutable.
#[derive(Debug, Default)]
pub struct ServiceTable {
    ports: Vec<Arc<ServedPort>>,
    targets: Vec<Target>,
    index: Arc<Index>,
}

/// Where each name and each frontend stands in the lists of a table. Endpoints come and go all the time, Services seldom:
/// as long as only endpoints change, one table after the other shares its index.
#[derive(Debug, Default)]
struct Index {
    ports: AHashMap<ServicePortName, usize>,
    frontends: AHashMap<Frontend, usize>,
    /// For each target its kind and its port.
    targets: Vec<(FrontendKind, usize)>,
    node_addresses: Vec<IpAddr>,
    conflicts: Vec<Conflict>,
}

impl ServiceTable {
    /// Builds the table of `ports`; where two want one frontend, the earlier gets it, and the other is among [`Self::conflicts`].
    pub fn build(
        ports: impl IntoIterator<Item = Arc<ServicePort>>,
        node_addresses: &[IpAddr],
        place: &Place,
        previous: Option<&Self>,
    ) -> Self {
        let build = |(position, config)| {
            let before = previous.and_then(|table| table.held(position, &config));
            match before {
                Some(same) if Arc::ptr_eq(&same.config, &config) && same.place == *place => same.clone(),
                before => Arc::new(ServedPort::build(config, place, before.map(|p| &**p))),
            }
        };
        let ports: Vec<_> = ports.into_iter().enumerate().map(build).collect();
        let index = match previous.filter(|table| table.index.holds_for(&table.ports, &ports, node_addresses)) {
            Some(previous) => previous.index.clone(),
            None => Arc::new(Index::build(&ports, node_addresses)),
        };
        let targets = index.targets.iter().map(|&(kind, at)| Target { kind, port: ports[at].clone() }).collect();
        Self { ports, targets, index }
    }

    /// The same table but for these ports, whose endpoints have changed; `None` if one of them is not in it, or more of it has
    /// changed than a whole build would leave as it was. Costs what changed.
    pub fn renewed(&self, changed: &[Arc<ServicePort>], place: &Place) -> Option<Self> {
        let (mut ports, mut at) = (self.ports.clone(), AHashSet::new());
        for config in changed {
            let position = *self.index.ports.get(&config.name)?;
            let before = &self.ports[position];
            if before.place != *place || dialled(&before.config) != dialled(config) {
                return None;
            }
            ports[position] = Arc::new(ServedPort::build(config.clone(), place, Some(before)));
            at.insert(position);
        }
        let mut targets = self.targets.clone();
        for (target, (_, position)) in targets.iter_mut().zip(&self.index.targets).filter(|(_, (_, p))| at.contains(p))
        {
            target.port = ports[*position].clone();
        }
        Some(Self { ports, targets, index: self.index.clone() })
    }

    /// The port a configuration was served as. Mostly it stands where it stood, so its name is seldom looked up.
    fn held(&self, position: usize, config: &Arc<ServicePort>) -> Option<&Arc<ServedPort>> {
        let same = |held: &&Arc<ServedPort>| Arc::ptr_eq(&held.config, config) || held.config.name == config.name;
        self.ports.get(position).filter(same).or_else(|| self.port(&config.name))
    }

    /// Whether the two have the very same frontends, so that only endpoints can differ.
    pub fn same_frontends(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.index, &other.index)
    }

    /// What answers on `frontend`.
    pub fn find(&self, frontend: &Frontend) -> Option<&Target> {
        self.index.frontends.get(frontend).map(|&at| &self.targets[at])
    }

    /// A service port by name.
    pub fn port(&self, name: &ServicePortName) -> Option<&Arc<ServedPort>> {
        self.position(name).map(|at| &self.ports[at])
    }

    /// Where a service port stands, by name: there as long as [`Self::same_frontends`].
    pub fn position(&self, name: &ServicePortName) -> Option<usize> {
        self.index.ports.get(name).copied()
    }

    /// The service port that stands there.
    pub fn at(&self, position: usize) -> Option<&Arc<ServedPort>> {
        self.ports.get(position)
    }

    /// Frontends that two ports want.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.index.conflicts
    }

    /// Every service port, in no order.
    pub fn ports(&self) -> impl Iterator<Item = &Arc<ServedPort>> {
        self.ports.iter()
    }

    /// Every frontend, in no order.
    pub fn frontends(&self) -> impl Iterator<Item = (&Frontend, &Target)> {
        self.index.frontends.iter().map(|(frontend, &at)| (frontend, &self.targets[at]))
    }

    /// The frontends that must accept connections. One without any usable endpoint is left out, so that the kernel
    /// refuses its clients at once (kube-proxy's REJECT).
    pub fn listening(&self) -> impl Iterator<Item = (Frontend, FrontendKind)> {
        let open = |(f, target): &(&Frontend, &Target)| target.sets(f.ip).any(|set| !set.is_empty());
        self.frontends().filter(open).map(|(f, target)| (*f, target.kind))
    }

    /// The addresses that answer node ports; a client with one of them is this node itself.
    pub fn node_addresses(&self) -> &[IpAddr] {
        &self.index.node_addresses
    }
}

impl Index {
    fn build(ports: &[Arc<ServedPort>], node_addresses: &[IpAddr]) -> Self {
        let mut index = Self { node_addresses: node_addresses.to_vec(), ..Self::default() };
        index.ports.reserve(ports.len());
        index.frontends.reserve(ports.len());
        for (position, port) in ports.iter().enumerate() {
            index.ports.insert(port.config.name.clone(), position);
            index.add_frontends(position, ports);
        }
        index
    }

    /// Whether it is the index of `now` as well as of `before`, for which it was made.
    fn holds_for(&self, before: &[Arc<ServedPort>], now: &[Arc<ServedPort>], node_addresses: &[IpAddr]) -> bool {
        let same = |(a, b): (&Arc<ServedPort>, &Arc<ServedPort>)| {
            Arc::ptr_eq(a, b) || (a.config.name == b.config.name && dialled(&a.config) == dialled(&b.config))
        };
        self.node_addresses == node_addresses && before.len() == now.len() && before.iter().zip(now).all(same)
    }

    fn add_frontends(&mut self, position: usize, ports: &[Arc<ServedPort>]) {
        let config = &ports[position].config;
        let [cluster_ips, load_balancer_ips, external_ips] = dialled(config).ips;
        let node_port = config.node_port.unwrap_or(0);
        let node_addresses = if node_port == 0 { Vec::new() } else { self.node_addresses.clone() };
        let all = [
            (FrontendKind::ClusterIp, cluster_ips, config.port),
            (FrontendKind::LoadBalancer, load_balancer_ips, config.port),
            (FrontendKind::ExternalIp, external_ips, config.port),
            (FrontendKind::NodePort, &node_addresses, node_port),
        ];
        for (kind, ips, number) in all {
            for &ip in ips {
                let frontend = Frontend { ip, port: number, protocol: config.name.protocol };
                if let Some(&holder) = self.frontends.get(&frontend) {
                    let winner = ports[self.targets[holder].1].config.name.clone();
                    self.conflicts.push(Conflict { frontend, winner, loser: config.name.clone() });
                } else {
                    self.frontends.insert(frontend, self.targets.len());
                    self.targets.push((kind, position));
                }
            }
        }
    }
}

/// All of a configuration that decides on which frontends it answers.
#[derive(PartialEq)]
struct Dialled<'a> {
    port: u16,
    node_port: Option<u16>,
    ips: [&'a [IpAddr]; 3],
}

fn dialled(config: &ServicePort) -> Dialled<'_> {
    let ips = [&config.cluster_ips[..], &config.load_balancer_ips, &config.external_ips];
    Dialled { port: config.port, node_port: config.node_port, ips }
}

impl Target {
    /// Which endpoints serve a client at `client` that dialled `frontend`.
    ///
    /// Under `externalTrafficPolicy: Local` this node itself still reaches all of the cluster: what it sends never
    /// left the cluster, so it has no source address that Local could keep (kube-proxy does the same).
    pub fn decide(&self, frontend: &Frontend, client: IpAddr, table: &ServiceTable) -> Decision<'_> {
        let config = &self.port.config;
        let client = client.to_canonical();
        if self.kind == FrontendKind::LoadBalancer && !self.allows_source(frontend, client, table.node_addresses()) {
            return Decision::Refuse(Refusal::SourceRange);
        }
        let policy = match self.kind {
            FrontendKind::ClusterIp => config.internal_policy,
            _ if table.node_addresses().contains(&client) => TrafficPolicy::Cluster,
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => config.external_policy,
        };
        let family = IpFamily::of(frontend.ip);
        let set = self.port.set(family, policy);
        if !set.is_empty() {
            Decision::Choose(set)
        } else if self.port.reason(family) == Reason::Nothing {
            Decision::Refuse(Refusal::NoEndpoints)
        } else {
            Decision::Refuse(Refusal::NoLocalEndpoints)
        }
    }

    /// The set the policy of this frontend asks for, and the one its exceptions may ask for.
    fn sets(&self, ip: IpAddr) -> impl Iterator<Item = &Arc<EndpointSet>> {
        let family = IpFamily::of(ip);
        let (policy, exception) = match self.kind {
            FrontendKind::ClusterIp => (self.port.config.internal_policy, None),
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
                (self.port.config.external_policy, Some(TrafficPolicy::Cluster))
            }
        };
        std::iter::once(policy).chain(exception).map(move |policy| self.port.set(family, policy))
    }

    /// `loadBalancerSourceRanges`. Unlike kube-proxy, ranges of one family shut the other family out: a user who
    /// wrote them did not mean to leave the other door open.
    fn allows_source(&self, frontend: &Frontend, client: IpAddr, node_addresses: &[IpAddr]) -> bool {
        let ranges = &self.port.config.source_ranges;
        let within = |ip: IpAddr| ranges.iter().any(|range| range.contains(&ip));
        // A node inside a range may come from the LoadBalancer IP itself, as its own traffic to it does.
        ranges.is_empty() || within(client) || (client == frontend.ip && node_addresses.iter().any(|ip| within(*ip)))
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
