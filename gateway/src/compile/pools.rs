//! `Pools`: the addresses that LoadBalancer Services may be given, and by whom.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use tidegate_crd::{
    Kind,
    core::{LabelSelector, Service},
    policy::LoadBalancerPool,
};

use super::{
    address_range::AddressRange,
    finding::{Finding, Report, Severity},
    label_selector,
    objects::{Name, Objects, Stored},
    settings::{AddressSource, Settings},
};

/// The label by which Kubernetes names every namespace, whether or not its object is known here.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What is written beside an address (`ipMode`): whether kube-proxy answers it as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpMode {
    /// Tidegate alone answers it.
    #[default]
    Proxy,
    /// kube-proxy answers it on every node.
    Vip,
}

impl IpMode {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "Proxy",
            Self::Vip => "VIP",
        }
    }
}

/// One pool.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Its name; `None` for the pool of the command line.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) ranges: Vec<AddressRange>,
    pub(crate) ip_mode: IpMode,
    pub(crate) findings: Vec<Finding>,
    auto_assign: bool,
    namespaces: Option<LabelSelector>,
    services: Option<LabelSelector>,
}

/// A Service, as a pool looks at it.
pub(crate) struct Applicant<'a> {
    service: &'a Service,
    namespace_labels: BTreeMap<String, String>,
}

impl<'a> Applicant<'a> {
    pub(crate) fn new(name: &Name, service: &'a Service, objects: &Objects) -> Self {
        let namespace = objects.namespaces.get(&Name::new("", &name.namespace));
        let mut namespace_labels =
            namespace.and_then(|stored| stored.object.metadata.labels.clone()).unwrap_or_default();
        namespace_labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.namespace.to_string());
        Self { service, namespace_labels }
    }
}

impl Pool {
    /// How many addresses it has.
    pub(crate) fn size(&self) -> u128 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.len()))
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(ip))
    }

    /// Whether a Service may have an address from here, if it asks for it.
    pub(crate) fn admits(&self, applicant: &Applicant<'_>) -> bool {
        let empty = BTreeMap::new();
        let labels = applicant.service.metadata.labels.as_ref().unwrap_or(&empty);
        let takes = |selector: &Option<LabelSelector>, labels| {
            selector.as_ref().is_none_or(|selector| label_selector::takes(selector, labels))
        };
        takes(&self.namespaces, &applicant.namespace_labels) && takes(&self.services, labels)
    }

    fn read(name: &Name, stored: &Stored<LoadBalancerPool>, before: &[Self]) -> Self {
        let spec = &stored.object.spec;
        let mut report = Report::on(Kind::LoadBalancerPool, "", &name.name, &stored.origin);
        let mut ranges: Vec<AddressRange> = Vec::new();
        for (index, text) in spec.addresses.iter().enumerate() {
            let field = format!("spec.addresses[{index}]");
            let range = match text.parse::<AddressRange>() {
                Ok(range) => range,
                Err(why) => {
                    let fix =
                        "Write a CIDR such as 192.0.2.0/28, a range such as 192.0.2.16-192.0.2.31, or one address.";
                    report.error("InvalidAddressRange", &field, format!("{why}; it is not used."), fix);
                    continue;
                }
            };
            let own = ranges.iter().find(|held| held.overlaps(&range)).map(|held| format!("{held} of the same pool"));
            let others = before.iter().find_map(|pool| {
                let held = pool.ranges.iter().find(|held| held.overlaps(&range))?;
                Some(format!("{held} of LoadBalancerPool {}", pool.name.as_deref().unwrap_or_default()))
            });
            if let Some(held) = own.or(others) {
                let fix = "Give each address to one pool, and name it there once.";
                let message = format!("{range} has addresses of {held}, so it is not used.");
                report.error("PoolOverlap", &field, message, fix);
                continue;
            }
            ranges.push(range);
        }
        if spec.addresses.is_empty() {
            report.error("EmptyPool", "spec.addresses", "the pool has no address.", "Write the ranges it is to have.");
        }
        let selectors = [("namespaceSelector", &spec.namespace_selector), ("serviceSelector", &spec.service_selector)];
        for (field, selector) in selectors {
            if let Some((within, why)) = selector.as_ref().and_then(label_selector::fault) {
                let fix = "Write In or NotIn with values, or Exists or DoesNotExist without.";
                let message = format!("{why}; the pool may give addresses to nobody.");
                report.error("InvalidSelector", &format!("spec.{field}.{within}"), message, fix);
            }
        }
        let ip_mode = match spec.ip_mode.as_deref() {
            None | Some("" | "Proxy") => IpMode::Proxy,
            Some("VIP") => IpMode::Vip,
            Some(other) => {
                let message = format!("there is no ipMode {other:?}; Proxy is used.");
                report.error("InvalidIpMode", "spec.ipMode", message, "Write Proxy or VIP.");
                IpMode::Proxy
            }
        };
        Self {
            name: Some(name.name.clone()),
            ranges,
            ip_mode,
            findings: report.into_findings(),
            auto_assign: spec.auto_assign.unwrap_or(true),
            namespaces: spec.namespace_selector.clone(),
            services: spec.service_selector.clone(),
        }
    }
}

/// All pools.
#[derive(Debug)]
pub(crate) struct Pools {
    all: Vec<Pool>,
}

impl Pools {
    /// Reads the pools, the oldest first: of two with the same address the older has it. On a laptop the pool of the command line is the
    /// last resort.
    pub(crate) fn read(objects: &Objects, settings: &Settings) -> Self {
        let mut stored: Vec<_> = objects.pools.iter().collect();
        stored.sort_by_key(|(name, stored)| (stored.created().unwrap_or(i64::MAX), *name));
        let mut all: Vec<Pool> = Vec::new();
        for (name, stored) in stored {
            let pool = Pool::read(name, stored, &all);
            all.push(pool);
        }
        // Which one a Service is given an address from does not depend on when the pools were made.
        all.sort_by(|a, b| a.name.cmp(&b.name));
        if settings.addresses == AddressSource::Ranges {
            all.push(Pool {
                name: None,
                ranges: settings.load_balancer_pools.iter().map(AddressRange::of_net).collect(),
                ip_mode: IpMode::default(),
                findings: Vec::new(),
                auto_assign: true,
                namespaces: None,
                services: None,
            });
        }
        Self { all }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.all.iter()
    }

    /// The pool of a name.
    pub(crate) fn named(&self, name: &str) -> Option<&Pool> {
        self.all.iter().find(|pool| pool.name.as_deref() == Some(name))
    }

    /// The pool that has an address.
    pub(crate) fn of(&self, ip: IpAddr) -> Option<&Pool> {
        self.all.iter().find(|pool| pool.contains(ip))
    }

    /// Where a Service may be given an address from: the pool it asks for, or all that are for everybody.
    pub(crate) fn for_service(&self, applicant: &Applicant<'_>, asked: Option<&str>) -> impl Iterator<Item = &Pool> {
        self.all.iter().filter(move |pool| {
            let is_meant = match asked {
                Some(name) => pool.name.as_deref() == Some(name),
                None => pool.auto_assign,
            };
            is_meant && pool.admits(applicant)
        })
    }

    /// What is wrong with the pools themselves.
    pub(crate) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.all.iter().flat_map(|pool| &pool.findings)
    }
}

impl Pool {
    /// What is wrong with it, if anything that costs it addresses is: reason and message.
    pub(crate) fn fault(&self) -> Option<(&'static str, &str)> {
        let worst = self.findings.iter().find(|finding| finding.severity == Severity::Error)?;
        Some((worst.reason, &worst.message))
    }
}
