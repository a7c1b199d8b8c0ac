//! The addresses of LoadBalancer Services: what they ask for, what they have, and what there is.
//!
//! A laptop's Services ask first and keep second, so that the manifests alone decide. In a cluster whoever has an address keeps it,
//! whoever asks for it later: connections, DNS records and firewalls are made of it. There, what a Service has is what its status
//! says, and nowhere else is it written down: that is why there is nothing to lose over a restart, and no finaliser to clean up after
//! a Service that is gone.

use std::net::IpAddr;

use tidegate_crd::core::{LoadBalancerIngress, Service};

use super::{Desk, Family, Wish, seed};
use crate::compile::{
    objects::{Name, Objects, Stored},
    pools::{Applicant, Pools},
    service_annotations,
    settings::AddressSource,
};

/// Field of the older way to ask for an address.
const IP_FIELD: &str = "spec.loadBalancerIP";

/// A LoadBalancer Service of ours on its way to its addresses.
pub(super) struct Balancer<'a> {
    applicant: Applicant<'a>,
    asked: Asked<'a>,
    /// Families that it is to have an address of.
    families: Vec<Family>,
    /// Those that it still wants one of.
    missing: Vec<Family>,
    /// What it has by its status.
    held: Vec<IpAddr>,
    /// What it has but should have exchanged for what it asks for; until there is that, it is its own.
    reserved: Vec<IpAddr>,
    pub(super) assigned: Vec<IpAddr>,
    /// Why it has none.
    pub(super) pending: Option<String>,
}

/// What a Service asks for.
struct Asked<'a> {
    /// Where that is written.
    field: String,
    ips: Vec<IpAddr>,
    /// What cannot be read is not taken for "any".
    is_unreadable: bool,
    pool: Option<&'a str>,
}

impl<'a> Balancer<'a> {
    pub(super) fn new(name: &Name, stored: &'a Stored<Service>, families: &[Family], objects: &Objects) -> Self {
        Self {
            applicant: Applicant::new(name, &stored.object, objects),
            asked: Asked::of(&stored.object),
            families: families.to_vec(),
            missing: families.to_vec(),
            held: status_ips(&stored.object).collect(),
            reserved: Vec::new(),
            assigned: Vec::new(),
            pending: None,
        }
    }

    /// Whether an address is one that the Service asks for, or any if it asks for none.
    fn asks_for(&self, ip: IpAddr, pools: &Pools) -> bool {
        let mut same_family = self.asked.ips.iter().filter(|asked| Family::of(**asked) == Family::of(ip)).peekable();
        if same_family.peek().is_some() {
            return same_family.any(|asked| *asked == ip);
        }
        let pool = self.asked.pool.and_then(|name| pools.named(name));
        pool.is_none_or(|pool| pool.contains(ip))
    }
}

impl<'a> Asked<'a> {
    fn of(service: &'a Service) -> Self {
        let annotation = |name: &str| service_annotations::value(service, name);
        let pool = annotation(service_annotations::LOAD_BALANCER_POOL);
        let spec = service.spec.as_ref();
        let older = || spec.and_then(|spec| spec.load_balancer_ip.as_deref()).filter(|text| !text.is_empty());
        let (field, text) = match annotation(service_annotations::LOAD_BALANCER_IPS) {
            Some(text) => (service_annotations::field(service_annotations::LOAD_BALANCER_IPS), Some(text)),
            None => (IP_FIELD.to_owned(), older()),
        };
        let ips = text.map_or(Ok(Vec::new()), service_annotations::ips);
        Self { field, is_unreadable: ips.is_err(), ips: ips.unwrap_or_default(), pool }
    }
}

/// The addresses in the status of a Service.
pub(super) fn status_ips(service: &Service) -> impl Iterator<Item = IpAddr> {
    points(service).filter_map(|point| point.ip.as_deref()?.parse().ok())
}

/// What the status of a Service says of its load balancer.
pub(super) fn points(service: &Service) -> impl Iterator<Item = &LoadBalancerIngress> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    status.into_iter().flat_map(|status| status.ingress.iter().flatten())
}

impl Desk<'_> {
    /// Gives every LoadBalancer of ours in a cluster the addresses it is to have.
    pub(super) fn assign_in_cluster(&mut self, wishes: &mut [Wish<'_>]) {
        // Another's load balancer may use the same addresses as our pools: what it has given away is not free.
        for wish in wishes.iter().filter(|wish| wish.balancer.is_none()) {
            self.taken_ips.extend(status_ips(&wish.stored.object));
        }
        for wish in wishes.iter_mut() {
            self.keep_status(wish);
        }
        for wish in wishes.iter_mut() {
            self.keep_planned(wish);
        }
        for wish in wishes.iter_mut() {
            self.grant_asked(wish);
        }
        for wish in wishes.iter_mut() {
            self.hand_out_load_balancer_ips(wish);
        }
    }

    /// Whoever has an address keeps it, unless it asks for another itself.
    fn keep_status(&mut self, wish: &mut Wish<'_>) {
        let Some(balancer) = &wish.balancer else { return };
        for ip in balancer.held.clone() {
            let Some(balancer) = &mut wish.balancer else { return };
            if !balancer.missing.contains(&Family::of(ip)) {
                continue;
            }
            if !self.taken_ips.insert(ip) {
                let message = format!("{} It is given another.", self.belongs_to(ip));
                let fix = "Nothing; the older of the two keeps it.";
                wish.report.warning("LoadBalancerIpConflict", "status.loadBalancer", message, fix);
            } else if balancer.asks_for(ip, &self.pools) {
                self.assign(wish, ip);
            } else {
                balancer.reserved.push(ip);
            }
        }
    }

    /// What was decided before and is not in the status yet: it may be on its way there.
    fn keep_planned(&mut self, wish: &mut Wish<'_>) {
        let Some(balancer) = &wish.balancer else { return };
        for family in balancer.missing.clone() {
            let Some(&ip) = self.previous.load_balancer_ips.get(&(wish.name.clone(), family)) else { continue };
            let Some(balancer) = &wish.balancer else { return };
            let has_pool = self.pools.of(ip).is_some_and(|pool| pool.admits(&balancer.applicant));
            let is_free = !balancer.asked.is_unreadable && balancer.reserved.iter().all(|ip| Family::of(*ip) != family);
            if has_pool && is_free && balancer.asks_for(ip, &self.pools) && self.taken_ips.insert(ip) {
                self.assign(wish, ip);
            }
        }
    }

    /// On a laptop: what a Service had before, it keeps while a pool has it.
    pub(super) fn keep_load_balancer_ips(&mut self, wish: &mut Wish<'_>) {
        self.keep_planned(wish);
    }

    /// The addresses that a Service names, if it may have them.
    pub(super) fn grant_asked(&mut self, wish: &mut Wish<'_>) {
        let Some(balancer) = &wish.balancer else { return };
        if balancer.asked.is_unreadable && balancer.asked.field == IP_FIELD {
            // The annotation is reported with the others of the Service.
            let fix = "Write an address, or leave it out to be given one.";
            wish.report.error("InvalidLoadBalancerIp", IP_FIELD, "it is not an IP address, so none is given.", fix);
        }
        let Some(balancer) = &wish.balancer else { return };
        let field = balancer.asked.field.clone();
        for ip in balancer.asked.ips.clone() {
            let Some(balancer) = &mut wish.balancer else { return };
            if balancer.assigned.contains(&ip) {
                continue;
            }
            if !balancer.missing.contains(&Family::of(ip)) {
                let names: Vec<_> = balancer.families.iter().map(|family| family.as_str()).collect();
                let message =
                    format!("{ip} is not used: the Service has one address for each of {}.", names.join(", "));
                let fix = "Ask for one address of each of its spec.ipFamilies.";
                wish.report.error("LoadBalancerIpFamily", &field, message, fix);
                continue;
            }
            // Another one is not what it asks for.
            balancer.missing.retain(|family| *family != Family::of(ip));
            if let Some((reason, message, fix)) = self.refusal(wish, ip) {
                wish.report.error(reason, &field, message.as_str(), fix);
                let Some(balancer) = &mut wish.balancer else { return };
                balancer.pending = Some(message);
            } else {
                self.taken_ips.insert(ip);
                self.assign(wish, ip);
            }
        }
    }

    /// Why a Service may not have an address that it asks for.
    fn refusal(&self, wish: &Wish<'_>, ip: IpAddr) -> Option<(&'static str, String, &'static str)> {
        let balancer = wish.balancer.as_ref()?;
        let own = balancer.reserved.contains(&ip);
        match self.pools.of(ip) {
            Some(pool) if !pool.admits(&balancer.applicant) => {
                let name = pool.name.as_deref().unwrap_or_default();
                let message = format!("{ip} is of LoadBalancerPool {name}, whose selectors leave this Service out.");
                Some(("LoadBalancerIpOutOfPool", message, "Ask for an address of a pool that is for this Service."))
            }
            Some(pool) if balancer.asked.pool.is_some_and(|asked| pool.name.as_deref() != Some(asked)) => {
                let asked = balancer.asked.pool.unwrap_or_default();
                let message = format!("{ip} is not of LoadBalancerPool {asked}, which the Service asks for as well.");
                Some(("LoadBalancerIpOutOfPool", message, "Ask for the one or the other."))
            }
            // A laptop is its owner's; in a cluster any address would be somebody's.
            None if self.settings.addresses == AddressSource::Cluster => {
                let message = format!("no LoadBalancerPool has {ip}.");
                Some(("LoadBalancerIpOutOfPool", message, "Ask for an address of a pool, or add it to one."))
            }
            Some(_) | None if self.taken_ips.contains(&ip) && !own => {
                let fix = "Choose another, or leave it out to be given one.";
                Some(("LoadBalancerIpConflict", self.belongs_to(ip), fix))
            }
            Some(_) | None => None,
        }
    }

    /// An address of each family that is still missing, if there is one; and what is said if there is none at all.
    pub(super) fn hand_out_load_balancer_ips(&mut self, wish: &mut Wish<'_>) {
        let Some(balancer) = &mut wish.balancer else { return };
        let mut missing = std::mem::take(&mut balancer.missing);
        missing.retain(|_| !balancer.asked.is_unreadable);
        let seed = seed(&[&wish.name.namespace, &wish.name.name]);
        for family in missing {
            if let Some(ip) = self.free_load_balancer_ip(wish, family, seed) {
                self.taken_ips.insert(ip);
                self.assign(wish, ip);
            }
        }
        self.keep_reserved(wish);
        let Some(balancer) = &mut wish.balancer else { return };
        if balancer.assigned.is_empty() {
            // Of what it asks for and cannot have, that was said already.
            if balancer.asked.is_unreadable {
                balancer.pending = Some(format!("{} cannot be read.", balancer.asked.field));
            } else if balancer.pending.is_none() {
                let (message, fix) = self.why_pending(balancer);
                wish.report.warning("LoadBalancerPending", "spec.type", message.as_str(), fix);
                balancer.pending = Some(message);
            }
        } else if balancer.assigned.len() < balancer.families.len() && requires_both(&wish.stored.object) {
            let message = "dual stack is required, and there is an address of one IP family only.";
            let fix = "Add addresses of the other family to a LoadBalancerPool.";
            wish.report.warning("NoSecondFamily", "spec.ipFamilyPolicy", message, fix);
        }
        self.check_pools(wish);
    }

    /// A free address of a pool that the Service may have one from.
    fn free_load_balancer_ip(&self, wish: &Wish<'_>, family: Family, seed: u64) -> Option<IpAddr> {
        let balancer = wish.balancer.as_ref()?;
        let pools = self.pools.for_service(&balancer.applicant, balancer.asked.pool);
        let mut ranges = pools.flat_map(|pool| &pool.ranges).filter(|range| range.family() == family);
        ranges.find_map(|range| self.first_free(range, seed))
    }

    /// What it cannot exchange yet, it keeps.
    fn keep_reserved(&mut self, wish: &mut Wish<'_>) {
        let Some(balancer) = &mut wish.balancer else { return };
        for ip in std::mem::take(&mut balancer.reserved) {
            let Some(balancer) = &wish.balancer else { return };
            if balancer.assigned.iter().all(|assigned| Family::of(*assigned) != Family::of(ip)) {
                let message = format!("it keeps {ip} until it can have what it asks for.");
                let fix = "See to it that its pool has a free address, or ask for another.";
                wish.report.warning("LoadBalancerIpKept", "spec.type", message, fix);
                self.assign(wish, ip);
            }
        }
    }

    /// Says of addresses that they are in no pool (any more). They are kept: whoever takes an address away from a pool does not want
    /// to cut off the Services that have it at that moment.
    fn check_pools(&self, wish: &mut Wish<'_>) {
        let Some(balancer) = wish.balancer.as_ref().filter(|_| self.settings.addresses == AddressSource::Cluster)
        else {
            return;
        };
        for ip in balancer.assigned.clone() {
            if self.pools.of(ip).is_none() {
                let message = format!("no LoadBalancerPool has {ip} any more; the Service keeps it.");
                let fix = "Add it to a pool, or delete and create the Service to be given another.";
                wish.report.warning("LoadBalancerIpOutOfPool", "status.loadBalancer", message, fix);
            }
        }
    }

    /// Why a Service has no address, and what to do about it.
    fn why_pending(&self, balancer: &Balancer<'_>) -> (String, String) {
        let until = "until then the Service answers on its node ports and ClusterIP.";
        let in_cluster = self.settings.addresses == AddressSource::Cluster;
        if let Some(asked) = balancer.asked.pool
            && self.pools.named(asked).is_none()
        {
            let fix = format!("Create it, or correct {}; {until}", service_annotations::LOAD_BALANCER_POOL_NAME);
            return (format!("there is no LoadBalancerPool {asked:?}."), fix);
        }
        if self.pools.iter().next().is_none() {
            return ("there is no LoadBalancerPool.".to_owned(), format!("Create one; {until}"));
        }
        let mut pools = self.pools.for_service(&balancer.applicant, balancer.asked.pool).peekable();
        if pools.peek().is_none() {
            let message = match balancer.asked.pool {
                Some(asked) => format!("the selectors of LoadBalancerPool {asked} leave this Service out."),
                None => "no LoadBalancerPool is for this Service: their selectors leave it out, or they are only for \
                         those who ask for them (autoAssign: false)."
                    .to_owned(),
            };
            let name = service_annotations::LOAD_BALANCER_POOL_NAME;
            return (message, format!("Change the selectors of a pool, or ask for one with {name}; {until}"));
        }
        let ranges: Vec<_> = pools.flat_map(|pool| &pool.ranges).collect();
        if !balancer.families.iter().any(|family| ranges.iter().any(|range| range.family() == *family)) {
            let family = balancer.families.first().map_or("IPv4", |family| family.as_str());
            let message = format!("no pool that it may use has {family} addresses.");
            return (message, format!("Add {family} addresses to a pool; {until}"));
        }
        let what =
            if in_cluster { "Add addresses to a LoadBalancerPool" } else { "Start with a larger --load-balancer-pool" };
        ("no LoadBalancer IP is left to hand out.".to_owned(), format!("{what}; {until}"))
    }

    fn assign(&mut self, wish: &mut Wish<'_>, ip: IpAddr) {
        self.out.allocations.load_balancer_ips.insert((wish.name.clone(), Family::of(ip)), ip);
        if let Some(balancer) = &mut wish.balancer {
            balancer.missing.retain(|family| *family != Family::of(ip));
            balancer.assigned.push(ip);
        }
    }
}

fn requires_both(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.ip_family_policy.as_deref()) == Some("RequireDualStack")
}
