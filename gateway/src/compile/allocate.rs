//! The cluster's part that a laptop has nobody for: ClusterIPs, node ports and LoadBalancer IPs.
//!
//! Explicit values are honoured first, then everybody keeps what they had, then the rest is handed out. What is handed out
//! depends on the Service's name alone as long as nobody else holds it, so that the same manifests get the same addresses
//! after every restart. Pure: what was held before comes in as an argument.

mod ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use md5::{Digest, Md5};
use tidegate_crd::{Kind, core::Service};
use tidegate_l4::model::{IpFamily, Protocol};

pub use self::ports::NODE_PORTS;
use super::{
    finding::{Finding, Report},
    objects::{Name, Store, Stored},
    service_type::ServiceType,
    settings::{AddressSource, Settings},
};

/// The class of LoadBalancer Services that is ours; one of another class is left to its own implementation.
pub const LOAD_BALANCER_CLASS: &str = "tidegate.io/load-balancer";

/// Addresses that are held, by whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocations {
    /// ClusterIPs, at most one for each family.
    pub cluster_ips: BTreeMap<(Name, Family), IpAddr>,
    /// LoadBalancer IPs, at most one for each family.
    pub load_balancer_ips: BTreeMap<(Name, Family), IpAddr>,
    /// Node ports, by port of the Service.
    pub node_ports: BTreeMap<(Name, Protocol, u16), u16>,
    /// Health check node ports. They are TCP ports of every node like the others.
    pub health_check_ports: BTreeMap<Name, u16>,
}

/// An IP family as a sortable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        match IpFamily::of(ip) {
            IpFamily::V4 => Self::V4,
            IpFamily::V6 => Self::V6,
        }
    }

    /// `IPv4` or `IPv6`, as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// The addresses of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// ClusterIPs.
    pub cluster_ips: Vec<IpAddr>,
    /// LoadBalancer IPs.
    pub load_balancer_ips: Vec<IpAddr>,
    /// A LoadBalancer that has no address.
    pub pending: bool,
    /// The node port of each of its ports, in their order.
    pub node_ports: Vec<Option<u16>>,
    /// `healthCheckNodePort`, of a Service that has one.
    pub health_check_port: Option<u16>,
}

/// What [`allocate`] decided.
#[derive(Clone, Debug, Default)]
pub struct Allocated {
    /// By Service.
    pub addresses: BTreeMap<Name, Addresses>,
    /// Everything held, to be handed in the next time.
    pub allocations: Allocations,
    /// What could not be given.
    pub findings: Vec<Finding>,
}

/// Gives every Service its addresses.
pub fn allocate(services: &Store<Service>, settings: &Settings, previous: &Allocations) -> Allocated {
    let mut desk = Desk {
        settings,
        previous,
        taken_ips: BTreeSet::new(),
        taken_ports: BTreeSet::new(),
        out: Allocated::default(),
    };
    let mut wishes: Vec<Wish<'_>> =
        services.iter().filter_map(|(name, stored)| Wish::of(name, stored, settings)).collect();
    // Of two who ask for the same value the older has it, as it would have been the first at the API server.
    wishes.sort_by_key(|wish| {
        (wish.stored.object.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |t| t.0.as_second()), wish.name)
    });
    desk.grant_explicit(&mut wishes);
    match settings.addresses {
        AddressSource::Ranges => {
            desk.keep_previous(&mut wishes);
            desk.hand_out(&mut wishes);
        }
        AddressSource::Cluster => desk.take_over_status(&mut wishes),
    }
    for wish in wishes {
        desk.out.findings.extend(wish.report.into_findings());
        desk.out.addresses.insert(wish.name.clone(), wish.granted);
    }
    desk.out
}

/// What one Service asks for and has been given so far.
struct Wish<'a> {
    name: &'a Name,
    stored: &'a Stored<Service>,
    kind: ServiceType,
    report: Report<'a>,
    granted: Addresses,
    /// Families that still want a ClusterIP or a LoadBalancer IP.
    cluster: Vec<Family>,
    load_balancer: Vec<Family>,
}

impl<'a> Wish<'a> {
    fn of(name: &'a Name, stored: &'a Stored<Service>, settings: &Settings) -> Option<Self> {
        let spec = stored.object.spec.as_ref()?;
        let kind = ServiceType::of(spec)?;
        let mut report = Report::on(Kind::Service, &name.namespace, &name.name, &stored.origin);
        let ports = spec.ports.as_ref().map_or(0, Vec::len);
        let granted = Addresses { node_ports: vec![None; ports], ..Addresses::default() };
        let cluster = match kind {
            ServiceType::ExternalName | ServiceType::Headless => Vec::new(),
            ServiceType::ClusterIp | ServiceType::NodePort | ServiceType::LoadBalancer => {
                families(stored, settings, &mut report)
            }
        };
        let ours = spec.load_balancer_class.as_deref().is_none_or(|class| class == LOAD_BALANCER_CLASS);
        let load_balancer = if kind == ServiceType::LoadBalancer && ours { cluster.clone() } else { Vec::new() };
        if kind == ServiceType::LoadBalancer && !ours {
            let message = "the load balancer class is another's, so no address is assigned here.";
            report.info(
                "OtherLoadBalancerClass",
                "spec.loadBalancerClass",
                message,
                format!("For an address from Tidegate's pool, write {LOAD_BALANCER_CLASS}."),
            );
        }
        Some(Self { name, stored, kind, report, granted, cluster, load_balancer })
    }
}

/// The families a Service is to have (`ipFamilyPolicy`, `ipFamilies`), the primary first.
fn families(stored: &Stored<Service>, settings: &Settings, report: &mut Report<'_>) -> Vec<Family> {
    let Some(spec) = &stored.object.spec else { return Vec::new() };
    let available: Vec<Family> = settings.service_cidrs.iter().map(|net| Family::of(net.addr())).collect();
    let explicit = spec.ip_families.iter().flatten().map(|f| if f == "IPv6" { Family::V6 } else { Family::V4 });
    let mut families: Vec<Family> = explicit.collect();
    let policy = spec.ip_family_policy.as_deref().unwrap_or("SingleStack");
    let given = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse::<IpAddr>().ok());
    for family in given.map(Family::of).chain(available.iter().copied()) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let dual = policy != "SingleStack" || spec.ip_families.as_ref().is_some_and(|f| f.len() > 1);
    families.truncate(if dual { 2 } else { 1 });
    if policy == "RequireDualStack" && families.len() < 2 {
        let fix = "Start with a --service-cidr for each family, or write PreferDualStack.";
        report.error(
            "NoSecondFamily",
            "spec.ipFamilyPolicy",
            "dual stack is required, but ClusterIPs exist for one IP family only.",
            fix,
        );
    }
    families
}

struct Desk<'a> {
    settings: &'a Settings,
    previous: &'a Allocations,
    taken_ips: BTreeSet<IpAddr>,
    taken_ports: BTreeSet<(Protocol, u16)>,
    out: Allocated,
}

impl Desk<'_> {
    fn grant_explicit(&mut self, wishes: &mut [Wish<'_>]) {
        for wish in wishes {
            let Some(spec) = &wish.stored.object.spec else { continue };
            let listed = spec.cluster_ips.as_deref().unwrap_or_default();
            let single = spec.cluster_ip.iter().filter(|_| listed.is_empty());
            let fields =
                (0..listed.len()).map(|i| format!("spec.clusterIPs[{i}]")).chain(["spec.clusterIP".to_owned()]);
            if !wish.cluster.is_empty() {
                for (field, text) in fields.zip(listed.iter().chain(single)) {
                    self.grant_cluster_ip(wish, &field, text);
                }
            }
            // A cluster's load balancer says in the status whether it heeded the wish.
            let heeded = self.settings.addresses == AddressSource::Ranges && !wish.load_balancer.is_empty();
            if let Some(text) = spec.load_balancer_ip.as_deref().filter(|_| heeded) {
                self.grant_load_balancer_ip(wish, text);
            }
            self.grant_node_ports(wish);
            self.grant_health_check_port(wish);
        }
    }

    fn grant_cluster_ip(&mut self, wish: &mut Wish<'_>, field: &str, text: &str) {
        if text.is_empty() || text == "None" {
            return;
        }
        let Ok(ip) = text.parse::<IpAddr>() else {
            let fix =
                "Write an address such as 127.96.0.10, None for a headless Service, or leave it out to be given one.";
            return wish.report.error("InvalidClusterIp", field, format!("{text:?} is not an IP address."), fix);
        };
        wish.cluster.retain(|family| *family != Family::of(ip));
        if !self.taken_ips.insert(ip) {
            let fix = "Choose another, or leave it out to be given one.";
            return wish.report.error("ClusterIpConflict", field, self.belongs_to(ip), fix);
        }
        if self.settings.addresses == AddressSource::Ranges
            && !self.settings.service_cidrs.iter().any(|net| net.contains(&ip))
        {
            let fix = "Leave it out to be given an address from --service-cidr, or make sure that this machine has the address.";
            wish.report.info("ClusterIpOutOfRange", field, format!("{ip} is not within --service-cidr."), fix);
        }
        self.give_cluster_ip(wish, ip);
    }

    fn grant_load_balancer_ip(&mut self, wish: &mut Wish<'_>, text: &str) {
        let field = "spec.loadBalancerIP";
        let Ok(ip) = text.parse::<IpAddr>() else {
            let fix = "Write an address, or leave it out to be given one.";
            wish.load_balancer.clear();
            wish.granted.pending = true;
            return wish.report.error("InvalidLoadBalancerIp", field, format!("{text:?} is not an IP address."), fix);
        };
        wish.load_balancer.retain(|family| *family != Family::of(ip));
        if !self.taken_ips.insert(ip) {
            wish.granted.pending = true;
            let fix = "Choose another, or leave it out to be given one.";
            return wish.report.error("LoadBalancerIpConflict", field, self.belongs_to(ip), fix);
        }
        self.give_load_balancer_ip(wish, ip);
    }

    /// Who has an address. Conflicts are rare, so it is looked for only then.
    fn belongs_to(&self, ip: IpAddr) -> String {
        let held = &self.out.allocations;
        let mut held = held.cluster_ips.iter().chain(&held.load_balancer_ips);
        match held.find(|(_, held)| **held == ip) {
            Some(((name, _), _)) => format!("{ip} belongs to Service {name} already."),
            None => format!("{ip} belongs to another Service already."),
        }
    }

    fn keep_previous(&mut self, wishes: &mut [Wish<'_>]) {
        let previous = self.previous;
        for wish in wishes.iter_mut() {
            for family in wish.cluster.clone() {
                let Some(&ip) = previous.cluster_ips.get(&(wish.name.clone(), family)) else { continue };
                if self.settings.service_cidrs.iter().any(|net| net.contains(&ip)) && self.taken_ips.insert(ip) {
                    wish.cluster.retain(|f| *f != family);
                    self.give_cluster_ip(wish, ip);
                }
            }
            for family in wish.load_balancer.clone() {
                let Some(&ip) = previous.load_balancer_ips.get(&(wish.name.clone(), family)) else { continue };
                if self.settings.load_balancer_pools.iter().any(|net| net.contains(&ip)) && self.taken_ips.insert(ip) {
                    wish.load_balancer.retain(|f| *f != family);
                    self.give_load_balancer_ip(wish, ip);
                }
            }
            self.keep_ports(wish);
        }
    }

    /// LoadBalancer IPs are what the cluster's load balancers, of any class, say they are.
    fn take_over_status(&mut self, wishes: &mut [Wish<'_>]) {
        for wish in wishes.iter_mut().filter(|wish| wish.kind == ServiceType::LoadBalancer) {
            let status = wish.stored.object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let points = || status.iter().flat_map(|status| status.ingress.iter().flatten());
            let ips: BTreeSet<IpAddr> = points().filter_map(|point| point.ip.as_deref()?.parse().ok()).collect();
            wish.granted.pending = points().next().is_none();
            for ip in ips {
                // Several Services may share one, on ports of their own.
                self.give_load_balancer_ip(wish, ip);
            }
        }
    }

    fn hand_out(&mut self, wishes: &mut [Wish<'_>]) {
        for wish in wishes.iter_mut() {
            let seed = seed(&[&wish.name.namespace, &wish.name.name]);
            for family in std::mem::take(&mut wish.cluster) {
                match self.free_ip(&self.settings.service_cidrs, family, seed) {
                    Some(ip) => self.give_cluster_ip(wish, ip),
                    None => no_cluster_ip(wish, family),
                }
            }
            for family in std::mem::take(&mut wish.load_balancer) {
                match self.free_ip(&self.settings.load_balancer_pools, family, seed) {
                    Some(ip) => self.give_load_balancer_ip(wish, ip),
                    None if wish.granted.load_balancer_ips.is_empty() => no_load_balancer_ip(wish),
                    None => {}
                }
            }
            self.hand_out_ports(wish, seed);
        }
    }

    /// The first free address from a place in the range that depends on the seed alone.
    fn free_ip(&mut self, ranges: &[IpNet], family: Family, seed: u64) -> Option<IpAddr> {
        for range in ranges.iter().filter(|net| Family::of(net.addr()) == family) {
            let (first, size) = span(range);
            let start = u128::from(seed) % size;
            let ips = (0..size).map(|i| at(family, first + (start + i) % size));
            // A range may be as large as IPv6 makes them; one more try than there are addresses taken is enough.
            if let Some(ip) = ips.take(self.taken_ips.len() + 1).find(|ip| !self.taken_ips.contains(ip)) {
                self.taken_ips.insert(ip);
                return Some(ip);
            }
        }
        None
    }

    fn give_cluster_ip(&mut self, wish: &mut Wish<'_>, ip: IpAddr) {
        wish.granted.cluster_ips.push(ip);
        self.out.allocations.cluster_ips.insert((wish.name.clone(), Family::of(ip)), ip);
    }

    fn give_load_balancer_ip(&mut self, wish: &mut Wish<'_>, ip: IpAddr) {
        wish.granted.load_balancer_ips.push(ip);
        self.out.allocations.load_balancer_ips.insert((wish.name.clone(), Family::of(ip)), ip);
    }
}

fn no_cluster_ip(wish: &mut Wish<'_>, family: Family) {
    let message = format!("no {} ClusterIP is left to hand out.", family.as_str());
    wish.report.error("NoClusterIp", "spec", message, "Start with a larger --service-cidr, or one for this IP family.");
}

fn no_load_balancer_ip(wish: &mut Wish<'_>) {
    wish.granted.pending = true;
    let fix =
        "Start with a larger --load-balancer-pool; until then the Service answers on its node ports and ClusterIP.";
    wish.report.warning("LoadBalancerPending", "spec.type", "no LoadBalancer IP is left to hand out.", fix);
}

/// A number that depends on the words alone, the same on every machine and in every version.
fn seed(words: &[&str]) -> u64 {
    let mut hash = Md5::new();
    for word in words {
        hash.update(word.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    digest.iter().take(7).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

/// First usable address of a range as a number, and how many there are: without the network and broadcast addresses.
fn span(range: &IpNet) -> (u128, u128) {
    match range {
        IpNet::V4(net) => {
            let (first, size) = (u128::from(u32::from(net.network())), 1u128 << (32 - net.prefix_len()));
            if size > 2 { (first + 1, size - 2) } else { (first, size) }
        }
        IpNet::V6(net) => {
            let (first, size) =
                (u128::from(net.network()), 1u128.checked_shl(128 - u32::from(net.prefix_len())).unwrap_or(u128::MAX));
            if size > 2 { (first + 1, size - 2) } else { (first, size) }
        }
    }
}

fn at(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from((number as u32).to_be_bytes()),
        Family::V6 => IpAddr::from(number.to_be_bytes()),
    }
}

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;
