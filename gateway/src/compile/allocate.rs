//! The cluster's part that a laptop has nobody for: ClusterIPs, node ports and LoadBalancer IPs.
//!
//! Explicit values are honoured first, then everybody keeps what they had, then the rest is handed out. What is handed out
//! depends on the Service's name alone as long as nobody else holds it, so that the same manifests get the same addresses
//! after every restart. Pure: what was held before comes in as an argument.
//!
//! In a cluster only the LoadBalancer IPs are left to do, and whether they are is the leader's to write.

mod load_balancers;
mod ports;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use md5::{Digest, Md5};
use tidegate_crd::{Kind, core::Service};
use tidegate_l4::model::{IpFamily, Protocol};

use self::load_balancers::Balancer;
pub use self::ports::NODE_PORTS;
use super::{
    address_range::AddressRange,
    finding::{Finding, Report},
    load_balancer::{self, LoadBalancers, ServiceStatus, Verdict},
    objects::{Name, Objects, Stored},
    pools::Pools,
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
    pub(crate) fn of(ip: IpAddr) -> Self {
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
    /// In a cluster: what is to be written about load balancers.
    pub load_balancers: Arc<LoadBalancers>,
}

/// Gives every Service its addresses.
pub fn allocate(objects: &Objects, settings: &Settings, previous: &Allocations) -> Allocated {
    let mut desk = Desk {
        settings,
        previous,
        pools: Pools::read(objects, settings),
        taken_ips: BTreeSet::new(),
        taken_ports: BTreeSet::new(),
        out: Allocated::default(),
    };
    let mut wishes: Vec<Wish<'_>> =
        objects.services.iter().filter_map(|(name, stored)| Wish::of(name, stored, objects, &desk)).collect();
    // Of two who ask for the same value the older has it, as it would have been the first at the API server.
    wishes.sort_by_key(|wish| (wish.stored.created().unwrap_or(i64::MAX), wish.name));
    desk.grant_explicit(&mut wishes);
    match settings.addresses {
        AddressSource::Ranges => {
            desk.keep_previous(&mut wishes);
            desk.hand_out(&mut wishes);
        }
        AddressSource::Cluster => {
            desk.take_over_status(&mut wishes);
            desk.assign_in_cluster(&mut wishes);
            desk.out.load_balancers = Arc::new(desk.load_balancers(objects, &wishes));
        }
    }
    desk.out.findings.extend(desk.pools.findings().cloned());
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
    /// Families that still want a ClusterIP.
    cluster: Vec<Family>,
    /// Of a LoadBalancer that is ours.
    balancer: Option<Balancer<'a>>,
}

impl<'a> Wish<'a> {
    fn of(name: &'a Name, stored: &'a Stored<Service>, objects: &Objects, desk: &Desk<'_>) -> Option<Self> {
        let spec = stored.object.spec.as_ref()?;
        let kind = ServiceType::of(spec)?;
        let mut report = Report::on(Kind::Service, &name.namespace, &name.name, &stored.origin);
        let ports = spec.ports.as_ref().map_or(0, Vec::len);
        let granted = Addresses { node_ports: vec![None; ports], ..Addresses::default() };
        let cluster = match kind {
            ServiceType::ExternalName | ServiceType::Headless => Vec::new(),
            ServiceType::ClusterIp | ServiceType::NodePort | ServiceType::LoadBalancer => {
                families(stored, desk.settings, &mut report)
            }
        };
        let ours = kind == ServiceType::LoadBalancer && desk.is_ours(stored, &mut report);
        let balancer = ours.then(|| Balancer::new(name, stored, &cluster, objects));
        Some(Self { name, stored, kind, report, granted, cluster, balancer })
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
    pools: Pools,
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
            if self.settings.addresses == AddressSource::Ranges {
                self.grant_asked(wish);
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
            self.keep_load_balancer_ips(wish);
            self.keep_ports(wish);
        }
    }

    /// LoadBalancer IPs are what the cluster's load balancers, of any class, say they are; ours are served once they are written.
    fn take_over_status(&self, wishes: &mut [Wish<'_>]) {
        for wish in wishes.iter_mut().filter(|wish| wish.kind == ServiceType::LoadBalancer) {
            wish.granted.pending = load_balancers::points(&wish.stored.object).next().is_none();
            // Several Services may share one, on ports of their own.
            let ips: BTreeSet<IpAddr> = load_balancers::status_ips(&wish.stored.object).collect();
            wish.granted.load_balancer_ips = ips.into_iter().collect();
        }
    }

    fn hand_out(&mut self, wishes: &mut [Wish<'_>]) {
        for wish in wishes.iter_mut() {
            let seed = seed(&[&wish.name.namespace, &wish.name.name]);
            for family in std::mem::take(&mut wish.cluster) {
                match self.free_cluster_ip(family, seed) {
                    Some(ip) => {
                        self.taken_ips.insert(ip);
                        self.give_cluster_ip(wish, ip);
                    }
                    None => no_cluster_ip(wish, family),
                }
            }
            self.hand_out_load_balancer_ips(wish);
            if let Some(balancer) = &wish.balancer {
                wish.granted.load_balancer_ips = balancer.assigned.clone();
                wish.granted.pending = balancer.assigned.is_empty();
            }
            self.hand_out_ports(wish, seed);
        }
    }

    /// A free address of the cluster's ranges.
    fn free_cluster_ip(&self, family: Family, seed: u64) -> Option<IpAddr> {
        let mut ranges = self.settings.service_cidrs.iter().map(AddressRange::of_net);
        ranges.find_map(|range| if range.family() == family { self.first_free(&range, seed) } else { None })
    }

    /// The first free address from a place in the range that depends on the seed alone.
    fn first_free(&self, range: &AddressRange, seed: u64) -> Option<IpAddr> {
        // A range may be as large as IPv6 makes them; one more try than there are addresses taken is enough.
        range.beginning_at(seed).take(self.taken_ips.len() + 1).find(|ip| !self.taken_ips.contains(ip))
    }

    fn give_cluster_ip(&mut self, wish: &mut Wish<'_>, ip: IpAddr) {
        wish.granted.cluster_ips.push(ip);
        self.out.allocations.cluster_ips.insert((wish.name.clone(), Family::of(ip)), ip);
    }

    /// Whether the addresses of a LoadBalancer are ours to give.
    fn is_ours(&self, stored: &Stored<Service>, report: &mut Report<'_>) -> bool {
        let class = stored.object.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
        if class == Some(LOAD_BALANCER_CLASS) {
            return true;
        }
        let in_cluster = self.settings.addresses == AddressSource::Cluster;
        let fix = format!("For an address from Tidegate's pool, write {LOAD_BALANCER_CLASS}.");
        if class.is_some() {
            let message = "the load balancer class is another's, so no address is assigned here.";
            report.info("OtherLoadBalancerClass", "spec.loadBalancerClass", message, fix);
            return false;
        }
        if in_cluster && !self.settings.default_load_balancer {
            let message = "it names no load balancer class, so it is left to the cluster's own load balancer.";
            let fix = format!("{fix} Or start with --default-load-balancer, if the cluster has none.");
            report.info("NoLoadBalancerClass", "spec.loadBalancerClass", message, fix);
            return false;
        }
        // An address that we have not given is the cloud's, or that of whoever was here before.
        let is_foreign = in_cluster
            && load_balancer::condition_of(&stored.object).is_none()
            && load_balancers::points(&stored.object).next().is_some()
            && load_balancers::status_ips(&stored.object).all(|ip| self.pools.of(ip).is_none());
        if is_foreign {
            let message = "another load balancer has given it an address already, so none is assigned here.";
            report.info("OtherLoadBalancer", "status.loadBalancer", message, fix);
        }
        !is_foreign
    }

    /// What is to be written, once every LoadBalancer has its addresses.
    fn load_balancers(&self, objects: &Objects, wishes: &[Wish<'_>]) -> LoadBalancers {
        let mut services: Vec<ServiceStatus> = wishes.iter().filter_map(|wish| self.service_status(wish)).collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let assigned = || wishes.iter().filter_map(|wish| wish.balancer.as_ref()).flat_map(|b| &b.assigned);
        let pools = self.pools.iter().filter_map(|pool| {
            let stored = objects.pools.get(&Name::new("", pool.name.as_deref()?))?;
            load_balancer::pool_status(
                pool,
                stored.object.metadata.generation,
                assigned().filter(|ip| pool.contains(**ip)).count(),
            )
        });
        LoadBalancers { services, pools: pools.collect() }
    }

    fn service_status(&self, wish: &Wish<'_>) -> Option<ServiceStatus> {
        let service = &wish.stored.object;
        let says = load_balancer::condition_of(service).cloned();
        let has = load_balancers::points(service).cloned().collect();
        let (addresses, verdict) = match &wish.balancer {
            Some(balancer) => {
                let addresses = load_balancer::with_modes(&balancer.assigned, service, &self.pools);
                let assigned: Vec<String> = balancer.assigned.iter().map(|ip| self.with_pool(*ip)).collect();
                let verdict = match &balancer.pending {
                    Some(why) if assigned.is_empty() => Verdict::new(false, "LoadBalancerPending", why.clone()),
                    Some(_) | None => Verdict::new(true, "Assigned", format!("{}.", assigned.join(", "))),
                };
                (addresses, Some(verdict))
            }
            // It was ours: what we wrote is taken back.
            None if says.is_some() => (Vec::new(), None),
            None => return None,
        };
        Some(ServiceStatus { name: wish.name.clone(), has, says, addresses, verdict })
    }

    fn with_pool(&self, ip: IpAddr) -> String {
        match self.pools.of(ip).and_then(|pool| pool.name.as_deref()) {
            Some(pool) => format!("{ip} of LoadBalancerPool {pool}"),
            None => format!("{ip}, which is of no LoadBalancerPool any more"),
        }
    }
}

fn no_cluster_ip(wish: &mut Wish<'_>, family: Family) {
    let message = format!("no {} ClusterIP is left to hand out.", family.as_str());
    wish.report.error("NoClusterIp", "spec", message, "Start with a larger --service-cidr, or one for this IP family.");
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

#[cfg(test)]
#[path = "allocate_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "allocate/load_balancers_tests.rs"]
mod load_balancers_tests;
