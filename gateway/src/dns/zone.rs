//! The records of the cluster's domain: name and type in, records out.
//!
//! Records are made when they are asked for, from the shared [`DnsService`] values: a zone of ten thousand Services is a few
//! maps of pointers, and a name that does not exist (most questions, because of `ndots:5` search lists) costs two look-ups.

use std::net::IpAddr;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use hickory_proto::rr::rdata::{CNAME, HINFO, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

pub use super::service::{DnsEndpoint, DnsPort, DnsProtocol, DnsService, DnsServiceKind};

/// How long a record, or the absence of one, may be cached: `CoreDNS`'s default. Endpoints come and go within seconds.
pub const TTL_SECONDS: u32 = 5;

/// The version of the specification this zone follows, served as `TXT dns-version.<domain>`.
const SCHEMA_VERSION: &str = "1.1.0";

/// The domain used when the one given is not a DNS name; the command line checks it before that.
const DEFAULT_DOMAIN: &str = "cluster.local.";

/// `ExternalName`s that point at each other are followed this many times, as in `CoreDNS`; then the chain is sent as it is.
const MAX_ALIASES: usize = 8;

/// The deepest name there is: `_port._protocol.service.namespace.svc`.
const MAX_LABELS: usize = 5;

/// All names of one cluster at one moment. Immutable: a change is a new zone.
#[derive(Debug)]
pub struct Zone {
    origin: Name,
    namespaces: AHashMap<Arc<str>, AHashMap<Arc<str>, Arc<DnsService>>>,
    /// Sorted by address; within one address the Services' own addresses come first.
    reverse: Vec<Reverse>,
}

/// What the zone says to one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Whether there is anything to say.
    pub verdict: Verdict,
    /// The answers. Aliases stay here even when the name at their end has no record.
    pub answers: Vec<Record>,
    /// Addresses of the names in SRV answers.
    pub additionals: Vec<Record>,
    /// A name outside the zone at which an `ExternalName` ends: its records complete the answer, if someone can ask for them.
    pub target: Option<Name>,
}

/// The kinds of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There are records.
    Found,
    /// The name exists, but has no record of this type.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// Zone transfers are not offered.
    Refused,
    /// The name is not ours.
    Outside,
}

/// A name of one address, for PTR.
#[derive(Debug)]
struct Reverse {
    ip: IpAddr,
    service: Arc<DnsService>,
    /// `None` for the Service's own address, else the endpoint's.
    hostname: Option<Arc<str>>,
}

/// What a name in the zone stands for.
enum Node {
    Missing,
    /// Exists, without records of its own (a namespace, or a name that only has names below it).
    Empty,
    Apex,
    Version,
    Addresses(Vec<IpAddr>),
    Alias(Name),
    Ports(Vec<PortTarget>),
}

/// One SRV record to be, with the addresses of its target.
struct PortTarget {
    host: Name,
    port: u16,
    ips: Vec<IpAddr>,
}

impl Zone {
    /// The zone of these Services. `namespaces` adds those that exist without a Service; `domain` is `cluster.local` or alike.
    pub fn build(
        domain: &str,
        services: impl IntoIterator<Item = Arc<DnsService>>,
        namespaces: impl IntoIterator<Item = Arc<str>>,
    ) -> Self {
        let mut by_namespace: AHashMap<Arc<str>, AHashMap<Arc<str>, Arc<DnsService>>> = AHashMap::new();
        for namespace in namespaces {
            by_namespace.entry(namespace).or_default();
        }
        let mut reverse = Vec::new();
        for service in services {
            reverse_names(&service, &mut reverse);
            by_namespace.entry(service.namespace.clone()).or_default().insert(service.name.clone(), service);
        }
        reverse.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
        Self { origin: origin_of(domain), namespaces: by_namespace, reverse }
    }

    /// What to say to a question. The case of `name` does not matter, and comes back in the records.
    pub fn answer(&self, name: &Name, record_type: RecordType) -> Answer {
        let mut answer = Answer::empty(Verdict::Found);
        if matches!(record_type, RecordType::AXFR | RecordType::IXFR) {
            return Answer::empty(Verdict::Refused);
        }
        if !self.origin.zone_of(name) {
            return self.reverse_answer(name, record_type);
        }
        let mut owner = name.clone();
        for _ in 0..MAX_ALIASES {
            let target = match self.find(&owner) {
                Node::Alias(target) if is_alias_type(record_type) => target,
                node => {
                    answer.verdict = self.add_records(node, &owner, record_type, &mut answer);
                    return answer;
                }
            };
            answer.answers.push(record(owner, RData::CNAME(CNAME(target.clone()))));
            if record_type == RecordType::CNAME {
                return answer;
            }
            if !self.origin.zone_of(&target) {
                answer.target = Some(target);
                return answer;
            }
            owner = target;
        }
        answer
    }

    /// The SOA that goes with a negative answer (RFC 2308, section 3). An `arpa` name of ours is a zone of its own.
    pub fn soa(&self, name: &Name) -> Record {
        let owner = if self.origin.zone_of(name) { &self.origin } else { name };
        let (host, mailbox) = (self.below(&["ns", "dns"]), self.below(&["hostmaster"]));
        // No transfers, so the serial number has no reader; the other times are CoreDNS's.
        let soa = SOA::new(host, mailbox, 1, 7200, 1800, 86400, TTL_SECONDS);
        record(owner.clone(), RData::SOA(soa))
    }

    fn find(&self, name: &Name) -> Node {
        let depth = name.iter().len().saturating_sub(self.origin.iter().len());
        if depth > MAX_LABELS {
            return Node::Missing;
        }
        let lower = name.to_lowercase();
        let mut labels = [""; MAX_LABELS];
        for (slot, label) in labels.iter_mut().zip(lower.iter().take(depth)) {
            let Ok(label) = std::str::from_utf8(label) else { return Node::Missing };
            *slot = label;
        }
        match &labels[..depth] {
            [] => Node::Apex,
            ["dns-version"] => Node::Version,
            // `ns.dns` is the name in our SOA and NS records.
            ["svc"] | ["pod"] | ["dns"] | ["ns", "dns"] => Node::Empty,
            [namespace, "svc"] if self.namespaces.contains_key(*namespace) => Node::Empty,
            [service, namespace, "svc"] => self.service(namespace, service).map_or(Node::Missing, service_node),
            [label, service, namespace, "svc"] => {
                self.service(namespace, service).map_or(Node::Missing, |service| child_node(service, label))
            }
            [port, protocol, service, namespace, "svc"] => {
                self.service(namespace, service).map_or(Node::Missing, |found| self.port_node(found, port, protocol))
            }
            _ => Node::Missing,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&DnsService> {
        self.namespaces.get(namespace)?.get(name).map(Arc::as_ref)
    }

    /// `_port._protocol.service`: every endpoint that serves the port, or the Service itself.
    fn port_node(&self, service: &DnsService, port: &str, protocol: &str) -> Node {
        let (Some(name), Some(protocol)) = (port.strip_prefix('_'), DnsProtocol::from_label(protocol)) else {
            return Node::Missing;
        };
        let asked =
            |port: &&DnsPort| port.has_name() && port.name.eq_ignore_ascii_case(name) && port.protocol == protocol;
        let host = self.below(&[&service.name, &service.namespace, "svc"]);
        let mut targets = Vec::new();
        match &service.kind {
            DnsServiceKind::ClusterIp { ips, ports } => {
                targets.extend(ports.iter().filter(asked).map(|port| PortTarget {
                    host: host.clone(),
                    port: port.port,
                    ips: ips.clone(),
                }));
            }
            DnsServiceKind::Headless { endpoints } => {
                // The two addresses of a dual-stack pod share a host name, and so one SRV record.
                let mut places: AHashMap<(String, u16), usize> = AHashMap::new();
                for endpoint in endpoints {
                    for port in endpoint.ports.iter().filter(asked) {
                        let label = endpoint.label();
                        let Ok(host) = host.prepend_label(label.as_bytes()) else { continue };
                        let place = *places.entry((label, port.port)).or_insert(targets.len());
                        if place == targets.len() {
                            targets.push(PortTarget { host, port: port.port, ips: Vec::new() });
                        }
                        targets[place].ips.push(endpoint.ip);
                    }
                }
            }
            DnsServiceKind::ExternalName { .. } => {}
        }
        if targets.is_empty() { Node::Missing } else { Node::Ports(targets) }
    }

    fn add_records(&self, node: Node, owner: &Name, record_type: RecordType, answer: &mut Answer) -> Verdict {
        let before = answer.answers.len();
        let mut add = |data| answer.answers.push(record(owner.clone(), data));
        match (node, record_type) {
            (Node::Missing, _) => return Verdict::NxDomain,
            (_, RecordType::ANY) => add(minimal_any()),
            (Node::Apex, RecordType::SOA) => answer.answers.push(self.soa(owner)),
            (Node::Apex, RecordType::NS) => add(RData::NS(NS(self.below(&["ns", "dns"])))),
            (Node::Version, RecordType::TXT) => add(RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]))),
            (Node::Addresses(ips), _) => ips.iter().filter_map(|ip| address(*ip, record_type)).for_each(add),
            (Node::Ports(targets), RecordType::SRV) => add_ports(&targets, owner, answer),
            (Node::Empty | Node::Apex | Node::Version | Node::Alias(_) | Node::Ports(_), _) => {}
        }
        if answer.answers.len() > before { Verdict::Found } else { Verdict::NoData }
    }

    fn reverse_answer(&self, name: &Name, record_type: RecordType) -> Answer {
        let Ok(net) = name.parse_arpa_name() else { return Answer::empty(Verdict::Outside) };
        let start = self.reverse.partition_point(|entry| entry.ip < net.addr());
        let same = self.reverse[start..].iter().take_while(|entry| entry.ip == net.addr());
        let entries: Vec<&Reverse> = same.collect();
        let Some(first) = entries.first().filter(|_| net.prefix_len() == net.max_prefix_len()) else {
            return Answer::empty(Verdict::Outside);
        };
        let mut answer = Answer::empty(Verdict::Found);
        match record_type {
            // A cluster IP has one meaning; only a pod's address can be in several Services.
            RecordType::PTR => {
                for entry in entries.iter().filter(|entry| entry.hostname.is_some() == first.hostname.is_some()) {
                    let service = self.below(&[&entry.service.name, &entry.service.namespace, "svc"]);
                    let label = entry.hostname.as_deref().map(str::to_ascii_lowercase);
                    let host = match label {
                        Some(label) => service.prepend_label(label.as_bytes()),
                        None => Ok(service),
                    };
                    answer.answers.extend(host.map(|host| record(name.clone(), RData::PTR(PTR(host)))));
                }
            }
            RecordType::ANY => answer.answers.push(record(name.clone(), minimal_any())),
            _ => answer.verdict = Verdict::NoData,
        }
        answer
    }

    /// A name under the domain. Labels that do not fit in a name are left out: such a Service was never found by name either.
    fn below(&self, labels: &[&str]) -> Name {
        let prepend = |name: Name, label: &&str| name.prepend_label(label.as_bytes()).unwrap_or(name);
        labels.iter().rev().fold(self.origin.clone(), prepend)
    }
}

impl Answer {
    fn empty(verdict: Verdict) -> Self {
        Self { verdict, answers: Vec::new(), additionals: Vec::new(), target: None }
    }
}

impl Reverse {
    fn order(&self) -> (IpAddr, bool, &str, &str, Option<&str>) {
        let service = &self.service;
        (self.ip, self.hostname.is_some(), &service.namespace, &service.name, self.hostname.as_deref())
    }
}

fn service_node(service: &DnsService) -> Node {
    match &service.kind {
        DnsServiceKind::ClusterIp { ips, .. } => Node::Addresses(ips.clone()),
        // "If there are no ready endpoints, the answer should be NXDOMAIN" (specification, 2.4.1).
        DnsServiceKind::Headless { endpoints } if endpoints.is_empty() => Node::Missing,
        DnsServiceKind::Headless { endpoints } => Node::Addresses(unique(endpoints.iter().map(|endpoint| endpoint.ip))),
        DnsServiceKind::ExternalName { target } => alias(target),
    }
}

/// `label.service`: an endpoint's name, or the `_protocol` above named ports, which exists without records (RFC 8020).
fn child_node(service: &DnsService, label: &str) -> Node {
    let serves = |ports: &[DnsPort]| {
        let protocol = DnsProtocol::from_label(label);
        ports.iter().any(|port| port.has_name() && Some(port.protocol) == protocol)
    };
    match &service.kind {
        DnsServiceKind::ClusterIp { ports, .. } if serves(ports) => Node::Empty,
        DnsServiceKind::Headless { endpoints } if endpoints.iter().any(|endpoint| serves(&endpoint.ports)) => {
            Node::Empty
        }
        DnsServiceKind::Headless { endpoints } => {
            let ips = unique(endpoints.iter().filter(|endpoint| endpoint.has_label(label)).map(|endpoint| endpoint.ip));
            if ips.is_empty() { Node::Missing } else { Node::Addresses(ips) }
        }
        DnsServiceKind::ClusterIp { .. } | DnsServiceKind::ExternalName { .. } => Node::Missing,
    }
}

/// An `ExternalName`'s target; one that is an address, or no name at all, cannot be the target of a CNAME.
fn alias(target: &str) -> Node {
    if target.parse::<IpAddr>().is_ok() {
        return Node::Empty;
    }
    match Name::from_ascii(target) {
        Ok(mut name) if name.iter().len() > 0 => {
            name.set_fqdn(true);
            Node::Alias(name)
        }
        Ok(_) | Err(_) => Node::Empty,
    }
}

fn add_ports(targets: &[PortTarget], owner: &Name, answer: &mut Answer) {
    // CoreDNS shares 100 between the records; zero would mean "almost never" (RFC 2782).
    let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(100).max(1);
    let mut glued = AHashSet::new();
    for target in targets {
        let srv = SRV::new(0, weight, target.port, target.host.clone());
        answer.answers.push(record(owner.clone(), RData::SRV(srv)));
        for ip in target.ips.iter().filter(|ip| glued.insert((&target.host, **ip))) {
            answer.additionals.push(record(target.host.clone(), RData::from(*ip)));
        }
    }
}

fn reverse_names(service: &Arc<DnsService>, reverse: &mut Vec<Reverse>) {
    match &service.kind {
        DnsServiceKind::ClusterIp { ips, .. } => {
            reverse.extend(ips.iter().map(|ip| Reverse { ip: *ip, service: service.clone(), hostname: None }));
        }
        DnsServiceKind::Headless { endpoints } => reverse.extend(endpoints.iter().filter_map(|endpoint| {
            let hostname = Some(endpoint.hostname.clone()?);
            Some(Reverse { ip: endpoint.ip, service: service.clone(), hostname })
        })),
        DnsServiceKind::ExternalName { .. } => {}
    }
}

fn origin_of(domain: &str) -> Name {
    let mut origin = match Name::from_ascii(domain) {
        Ok(name) if name.iter().len() > 0 => name.to_lowercase(),
        Ok(_) | Err(_) => Name::from_ascii(DEFAULT_DOMAIN).expect("the constant is a name"),
    };
    origin.set_fqdn(true);
    origin
}

fn is_alias_type(record_type: RecordType) -> bool {
    matches!(record_type, RecordType::A | RecordType::AAAA | RecordType::CNAME)
}

fn address(ip: IpAddr, record_type: RecordType) -> Option<RData> {
    let data = RData::from(ip);
    (data.record_type() == record_type).then_some(data)
}

/// The one record that answers ANY without inviting amplification (RFC 8482, section 4.2).
fn minimal_any() -> RData {
    RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()))
}

fn record(owner: Name, data: RData) -> Record {
    Record::from_rdata(owner, TTL_SECONDS, data)
}

fn unique(ips: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = AHashSet::new();
    ips.filter(|ip| seen.insert(*ip)).collect()
}

#[cfg(test)]
mod tests;
