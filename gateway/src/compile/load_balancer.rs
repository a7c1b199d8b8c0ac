//! What is to be written about load balancers: the status of Services and of pools, beside the one they have.

use std::{net::IpAddr, sync::Arc};

use tidegate_crd::core::{Condition, LoadBalancerIngress, Service};

use super::{
    objects::Name,
    pools::{IpMode, Pool, Pools},
};

/// The condition of a Service that has its addresses from us. It is also how we know a status of ours again.
pub const SERVICE_CONDITION: &str = "tidegate.io/LoadBalancer";

/// The condition of our own kinds: whether all of it could be used.
pub const ACCEPTED: &str = "Accepted";

/// What is to be written.
#[derive(Clone, Debug, Default)]
pub struct LoadBalancers {
    /// The Services whose status is ours, by name.
    pub services: Vec<ServiceStatus>,
    /// The pools, by name.
    pub pools: Vec<PoolStatus>,
}

/// A condition, but for when it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is so.
    pub holds: bool,
    /// Why, in a word for programs.
    pub reason: String,
    /// Why, in a sentence for people.
    pub message: String,
}

impl Verdict {
    pub(crate) fn new(holds: bool, reason: &str, message: String) -> Self {
        Self { holds, reason: reason.to_owned(), message }
    }

    /// What a condition says.
    pub fn of(condition: &Condition) -> Self {
        let (reason, message) = (condition.reason.clone(), condition.message.clone());
        Self { holds: condition.status == "True", reason, message }
    }
}

/// The status of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceStatus {
    /// The Service.
    pub name: Name,
    /// `status.loadBalancer.ingress` as it is.
    pub has: Vec<LoadBalancerIngress>,
    /// Our condition as it is.
    pub says: Option<Condition>,
    /// The addresses it is to have.
    pub addresses: Vec<(IpAddr, IpMode)>,
    /// Our condition as it is to be; `None`: the Service is none of ours any more, and nothing of ours stays.
    pub verdict: Option<Verdict>,
}

impl ServiceStatus {
    /// `status.loadBalancer.ingress` as it is to be.
    pub fn ingress(&self) -> Vec<LoadBalancerIngress> {
        let point = |(ip, mode): &(IpAddr, IpMode)| LoadBalancerIngress {
            ip: Some(ip.to_string()),
            ip_mode: Some(mode.as_str().to_owned()),
            ..LoadBalancerIngress::default()
        };
        self.addresses.iter().map(point).collect()
    }

    /// Whether there is anything to write.
    pub fn is_stale(&self) -> bool {
        let says = self.says.as_ref().map(Verdict::of);
        self.has != self.ingress() || says != self.verdict
    }
}

/// The status that a pool is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// The pool.
    pub name: Arc<str>,
    /// `metadata.generation` of what was read.
    pub generation: Option<i64>,
    /// How many addresses it has.
    pub size: i64,
    /// How many of them Services have.
    pub allocated: i64,
    /// `Accepted`.
    pub accepted: Verdict,
}

/// Our condition in the status of a Service, if there is one.
pub(crate) fn condition_of(service: &Service) -> Option<&Condition> {
    let mut conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == SERVICE_CONDITION)
}

/// The status of a pool of which `allocated` addresses are in use.
pub(crate) fn pool_status(pool: &Pool, generation: Option<i64>, allocated: usize) -> Option<PoolStatus> {
    let accepted = match pool.fault() {
        Some((reason, message)) => Verdict::new(false, reason, message.to_owned()),
        None => Verdict::new(true, ACCEPTED, "Its addresses are given out.".to_owned()),
    };
    let size = i64::try_from(pool.size()).unwrap_or(i64::MAX);
    let allocated = i64::try_from(allocated).unwrap_or(i64::MAX);
    Some(PoolStatus { name: pool.name.clone()?, generation, size, allocated, accepted })
}

/// The addresses of a Service with the mode that their pools say; one of no pool keeps the one it has.
pub(crate) fn with_modes(ips: &[IpAddr], service: &Service, pools: &Pools) -> Vec<(IpAddr, IpMode)> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let mode_of = |ip: IpAddr| {
        let mut points = status.iter().flat_map(|status| status.ingress.iter().flatten());
        let point = points.find(|point| point.ip.as_deref().is_some_and(|text| text.parse() == Ok(ip)));
        let is_vip = point.is_some_and(|point| point.ip_mode.as_deref() == Some("VIP"));
        if is_vip { IpMode::Vip } else { IpMode::Proxy }
    };
    ips.iter().map(|ip| (*ip, pools.of(*ip).map_or_else(|| mode_of(*ip), |pool| pool.ip_mode))).collect()
}
