//! Service and EndpointSlices → `l4_core::ServicePort`, DNS records and a row for people.
//!
//! A Service is compiled again only when something it is made of has changed; otherwise it is taken over whole.

use std::{cell::OnceCell, collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use tidegate_crd::{
    Kind,
    core::{Endpoints, IntOrString, Service, ServiceSpec},
};
use tidegate_l4::model::{
    Affinity, Balance, Conditions, Endpoint, Hints, Protocol, ServicePort, ServicePortName, TrafficPolicy,
};

use super::{
    allocate::Addresses,
    dns_records,
    finding::{Finding, Report},
    health_check::HealthCheck,
    objects::{Name, Objects, ServiceSlices, Stored},
    rows::ServiceRow,
    service_annotations::ServiceOptions,
    service_port, service_row,
    service_type::ServiceType,
    settings::Settings,
    slice::Slice,
    slices::{self, FromPods, PodIndex},
};
use crate::dns::DnsService;

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where none is given (API default: three hours).
const DEFAULT_AFFINITY_SECONDS: i32 = tidegate_l4::affinity::DEFAULT_AFFINITY_TIMEOUT.as_secs() as i32;

/// What the API server allows (one day at most).
const AFFINITY_SECONDS: std::ops::RangeInclusive<i32> = 1..=86_400;

/// A Service with this label is another proxy's (any value).
pub(crate) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// A Service with this label is not proxied.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Where a health check is asked for.
const HEALTH_CHECK: &str = "metadata.annotations[\"tidegate.io/health-check\"]";

/// One Service, compiled.
#[derive(Debug)]
pub(crate) struct CompiledService {
    inputs: Inputs,
    pub(crate) ports: Vec<Arc<ServicePort>>,
    pub(crate) dns: Option<Arc<DnsService>>,
    pub(crate) row: Arc<ServiceRow>,
    pub(crate) health_check: Option<Arc<HealthCheck>>,
    pub(crate) findings: Vec<Finding>,
}

impl CompiledService {
    /// Namespace and name, by which they are sorted.
    pub(crate) fn name(&self) -> (&Arc<str>, &Arc<str>) {
        (&self.row.namespace, &self.row.name)
    }

    /// What it was given.
    pub(crate) fn addresses(&self) -> &Arc<Addresses> {
        &self.inputs.addresses
    }
}

/// All that a compiled Service depends on.
#[derive(Debug)]
struct Inputs {
    service: Arc<Stored<Service>>,
    slices: Option<Arc<ServiceSlices>>,
    endpoints: Option<Arc<Stored<Endpoints>>>,
    /// Versions of Pods and Nodes, for a Service whose slices are made from them.
    pods: Option<(u64, u64)>,
    addresses: Arc<Addresses>,
    /// Ports that Ingresses ask of an ExternalName, and its addresses.
    external: Option<(Vec<u16>, Arc<[IpAddr]>)>,
}

impl Inputs {
    fn same(&self, other: &Self) -> bool {
        fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
            a.map(Arc::as_ptr) == b.map(Arc::as_ptr)
        }
        Arc::ptr_eq(&self.service, &other.service)
            && same(self.slices.as_ref(), other.slices.as_ref())
            && same(self.endpoints.as_ref(), other.endpoints.as_ref())
            && self.pods == other.pods
            && self.addresses == other.addresses
            && self.external == other.external
    }

    fn row(
        &self,
        name: &Name,
        spec: &ServiceSpec,
        kind: ServiceType,
        affinity: Affinity,
        settings: &Settings,
    ) -> ServiceRow {
        let created = self.service.object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
        service_row::row(name, spec, kind, &self.addresses, affinity, settings, created)
    }
}

/// Compiles Services; holds what all of them share.
#[derive(Debug)]
pub(crate) struct ServiceCompiler<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) settings: &'a Settings,
    /// Ports that Ingresses ask of Services without any of their own (ExternalName).
    pub(crate) asked_ports: &'a BTreeMap<Name, Vec<u16>>,
    pub(crate) pods: OnceCell<PodIndex<'a>>,
}

impl ServiceCompiler<'_> {
    /// The Service as it is now, or as it was if nothing has changed.
    pub(crate) fn compile(
        &self,
        name: &Name,
        service: &Arc<Stored<Service>>,
        addresses: Arc<Addresses>,
        previous: Option<&Arc<CompiledService>>,
    ) -> Arc<CompiledService> {
        let inputs = self.inputs(name, service, addresses);
        if let Some(previous) = previous
            && previous.inputs.same(&inputs)
        {
            return previous.clone();
        }
        let mut one = One {
            name,
            inputs: &inputs,
            settings: self.settings,
            report: Report::on(Kind::Service, &name.namespace, &name.name, &service.origin),
        };
        let empty = ServiceSpec::default();
        let spec = service.object.spec.as_ref().unwrap_or(&empty);
        let Some(kind) = ServiceType::of(spec) else {
            let written = spec.type_.clone().unwrap_or_default();
            one.report.error(
                "InvalidServiceType",
                "spec.type",
                format!("there is no Service type {written:?}."),
                "Write ClusterIP, NodePort, LoadBalancer or ExternalName.",
            );
            let row = inputs.row(name, spec, ServiceType::ClusterIp, Affinity::None, self.settings);
            let row = Arc::new(row);
            let findings = one.report.into_findings();
            return Arc::new(CompiledService {
                inputs,
                ports: Vec::new(),
                dns: None,
                row,
                health_check: None,
                findings,
            });
        };
        let slices = self.slices(name, spec, kind, &inputs, &mut one.report);
        let affinity = one.affinity(spec);
        let ports = one.ports(spec, kind, affinity, &slices);
        let held = |port: &ServicePort| previous?.ports.iter().find(|held| held.name == port.name);
        let mut ports: Vec<_> = ports.into_iter().map(|port| keep(held(&port), port)).collect();
        // They are collected in the place of the ports themselves, each of which is some forty times as large as what is left.
        ports.shrink_to_fit();
        let health_check = one.health_check(kind, &ports);
        one.require_external_name(spec, kind);
        let dns = dns_records::of_service(name, spec, kind, &inputs.addresses, &slices);
        let dns = dns.map(|dns| keep(previous.and_then(|p| p.dns.as_ref()), dns));
        let row = keep(previous.map(|p| &p.row), inputs.row(name, spec, kind, affinity, self.settings));
        let findings = one.report.into_findings();
        Arc::new(CompiledService { inputs, ports, dns, row, health_check, findings })
    }

    fn inputs(&self, name: &Name, service: &Arc<Stored<Service>>, addresses: Arc<Addresses>) -> Inputs {
        let slices = self.objects.slices_of(name).cloned();
        let spec = service.object.spec.as_ref();
        let selects = spec.is_some_and(|spec| spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()));
        let versions = || (self.objects.pods.version(), self.objects.nodes.version());
        let external = spec.and_then(|spec| spec.external_name.as_deref()).map(|target| {
            let ports = self.asked_ports.get(name).cloned().unwrap_or_default();
            (ports, self.objects.resolved(target).cloned().unwrap_or_default())
        });
        Inputs {
            service: service.clone(),
            pods: (selects && slices.is_none()).then(versions),
            endpoints: if selects || slices.is_some() { None } else { self.objects.endpoints.get(name).cloned() },
            slices,
            addresses,
            external,
        }
    }

    /// The slices that were written; failing these, made from Pods or Endpoints.
    fn slices(
        &self,
        name: &Name,
        spec: &ServiceSpec,
        kind: ServiceType,
        inputs: &Inputs,
        report: &mut Report<'_>,
    ) -> Vec<Arc<Stored<Slice>>> {
        if kind == ServiceType::ExternalName {
            return Vec::new();
        }
        if inputs.pods.is_some() {
            let index = self.pods.get_or_init(|| PodIndex::new(&self.objects.pods));
            let made = slices::from_pods(name, spec, index, &self.objects.nodes);
            report_pods(spec, &made, report);
            return made.slices;
        }
        match &inputs.endpoints {
            Some(endpoints) => slices::from_endpoints(&endpoints.object),
            None => inputs.slices.iter().flat_map(|slices| slices.values().cloned()).collect(),
        }
    }
}

/// What came out as it was before keeps its `Arc`, and with it everything built from it.
fn keep<T: PartialEq>(held: Option<&Arc<T>>, now: T) -> Arc<T> {
    held.filter(|held| ***held == now).cloned().unwrap_or_else(|| Arc::new(now))
}

fn report_pods(spec: &ServiceSpec, made: &FromPods, report: &mut Report<'_>) {
    if made.selected == 0 {
        let fix = "Compare the selector with the labels of your Pods; until one matches, connections are refused.";
        report.info("NoPods", "spec.selector", "no Pod matches the selector.", fix);
    }
    if let Some(pod) = made.without_ip.first() {
        let others = and_others(made.without_ip.len() - 1);
        let message = format!("Pod {pod}{others} has no status.podIP, so nothing can be sent to it.");
        report.warning("PodWithoutIp", "spec.selector", message, "Write status.podIP in the Pod's manifest.");
    }
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let mut pods = made.unnamed_targets.iter().filter(|(i, _)| *i == index).map(|(_, pod)| pod);
        if let Some(pod) = pods.next()
            && let Some(IntOrString::String(target)) = &port.target_port
        {
            let field = format!("spec.ports[{index}].targetPort");
            let others = and_others(pods.count());
            let message = format!("no container of Pod {pod}{others} has a port named {target:?}.");
            report.error("UnknownTargetPort", &field, message, "Name the container's port so, or write its number.");
        }
    }
}

fn and_others(count: usize) -> String {
    if count == 0 { String::new() } else { format!(" (and {count} more)") }
}

/// One Service on its way.
struct One<'a> {
    name: &'a Name,
    inputs: &'a Inputs,
    settings: &'a Settings,
    report: Report<'a>,
}

impl One<'_> {
    fn ports(
        &mut self,
        spec: &ServiceSpec,
        kind: ServiceType,
        affinity: Affinity,
        slices: &[Arc<Stored<Slice>>],
    ) -> Vec<ServicePort> {
        let options = ServiceOptions::read(&self.inputs.service.object, &mut self.report);
        let shared = Shared {
            proxied: self.is_proxied(kind),
            source_ranges: self.source_ranges(spec),
            internal_policy: self.policy(spec.internal_traffic_policy.as_deref(), "spec.internalTrafficPolicy"),
            external_policy: self.policy(spec.external_traffic_policy.as_deref(), "spec.externalTrafficPolicy"),
            external_ips: self.external_ips(spec),
            affinity,
            options,
        };
        if shared.options.balance != Balance::Weighted && !shared.options.weights.is_empty() {
            let fix = "Add tidegate.io/balance: weighted.";
            self.report.warning(
                "UnusedWeights",
                "metadata.annotations[\"tidegate.io/weights\"]",
                "the weights are not used.",
                fix,
            );
        }
        if spec.ports.as_ref().is_none_or(Vec::is_empty)
            && !matches!(kind, ServiceType::ExternalName | ServiceType::Headless)
        {
            self.report.error("NoPorts", "spec.ports", "the Service has no port.", "Add at least one port.");
        }
        let mut out: Vec<ServicePort> = Vec::new();
        for (index, wire) in spec.ports.iter().flatten().enumerate() {
            let checked = match service_port::check(wire, spec, &out) {
                Ok(checked) => checked,
                Err(fault) => {
                    let field = format!("spec.ports[{index}].{}", fault.field);
                    self.report.error(fault.reason, &field, fault.message, fault.fix);
                    continue;
                }
            };
            let (name, number) = (self.service_port_name(checked.label, checked.protocol), checked.number);
            let weight = |pod: &str, ip| shared.options.weight(pod, ip);
            let endpoints = slices::endpoints_of(slices, &name.port, name.protocol, &self.settings.node_name, weight);
            let endpoints = if kind == ServiceType::ExternalName { self.resolved(number) } else { endpoints };
            let port = self.lower(name, number, index, &shared, endpoints);
            if shared.options.policy.probe.is_some() && port.policy.probe.is_none() {
                let message =
                    format!("port {number} is UDP, on which nothing can be asked: its endpoints are not checked.");
                let fix = "Name a TCP port to ask with tidegate.io/health-check-port.";
                self.report.warning("UdpHealthCheck", HEALTH_CHECK, message, fix);
            }
            out.push(port);
        }
        if kind == ServiceType::ExternalName {
            for number in self.inputs.external.iter().flat_map(|(ports, _)| ports.clone()) {
                if !out.iter().any(|port| port.port == number) {
                    let name = self.service_port_name(&number.to_string(), Protocol::Tcp);
                    out.push(self.lower(name, number, usize::MAX, &shared, self.resolved(number)));
                }
            }
        }
        out
    }

    /// Whether this proxy is the one to answer for the Service.
    fn is_proxied(&self, kind: ServiceType) -> bool {
        let labels = self.inputs.service.object.metadata.labels.as_ref();
        let labelled = |label| labels.is_some_and(|labels| labels.contains_key(label));
        !labelled(PROXY_NAME_LABEL) && !labelled(HEADLESS_LABEL) && kind != ServiceType::ExternalName
    }

    fn health_check(&self, kind: ServiceType, ports: &[Arc<ServicePort>]) -> Option<Arc<HealthCheck>> {
        let number = self.inputs.addresses.health_check_port.filter(|_| self.is_proxied(kind))?;
        let service = (&self.name.namespace, &self.name.name);
        Some(Arc::new(HealthCheck::new(number, service, ports, &self.settings.node_name)))
    }

    fn lower(
        &self,
        name: ServicePortName,
        port: u16,
        index: usize,
        shared: &Shared,
        endpoints: Vec<Endpoint>,
    ) -> ServicePort {
        let addresses = &self.inputs.addresses;
        let mut policy = shared.options.policy.clone();
        policy.probe = policy.probe.filter(|probe| name.protocol == Protocol::Tcp || probe.port.is_some());
        let here = |ips: &[IpAddr]| if shared.proxied { ips.to_vec() } else { Vec::new() };
        ServicePort {
            name,
            port,
            node_port: addresses.node_ports.get(index).copied().flatten().filter(|_| shared.proxied),
            cluster_ips: here(&addresses.cluster_ips),
            load_balancer_ips: here(&addresses.load_balancer_ips),
            external_ips: here(&shared.external_ips),
            source_ranges: shared.source_ranges.clone(),
            internal_policy: shared.internal_policy,
            external_policy: shared.external_policy,
            affinity: shared.affinity,
            balance: shared.options.balance,
            policy,
            connection: shared.options.connection,
            endpoints: endpoints.into(),
        }
    }

    fn service_port_name(&self, port: &str, protocol: Protocol) -> ServicePortName {
        ServicePortName {
            namespace: self.name.namespace.clone(),
            service: self.name.name.clone(),
            port: port.into(),
            protocol,
        }
    }

    fn affinity(&mut self, spec: &ServiceSpec) -> Affinity {
        match spec.session_affinity.as_deref() {
            None | Some("" | "None") => return Affinity::None,
            Some("ClientIP") => {}
            Some(other) => {
                self.report.error(
                    "InvalidSessionAffinity",
                    "spec.sessionAffinity",
                    format!("there is no session affinity {other:?}."),
                    "Write ClientIP or None.",
                );
                return Affinity::None;
            }
        }
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
        let seconds = if AFFINITY_SECONDS.contains(&seconds) {
            seconds
        } else {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            let message = format!("{seconds} is not within 1..86400; {DEFAULT_AFFINITY_SECONDS} is used.");
            self.report.error("InvalidAffinityTimeout", field, message, "Write a number of seconds from 1 to 86400.");
            DEFAULT_AFFINITY_SECONDS
        };
        Affinity::ClientIp { timeout: Duration::from_secs(u64::from(seconds.unsigned_abs())) }
    }

    fn policy(&mut self, value: Option<&str>, field: &str) -> TrafficPolicy {
        match value {
            None | Some("" | "Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(other) => {
                self.report.error(
                    "InvalidTrafficPolicy",
                    field,
                    format!("there is no traffic policy {other:?}; Cluster is used."),
                    "Write Cluster or Local.",
                );
                TrafficPolicy::Cluster
            }
        }
    }

    /// `loadBalancerSourceRanges`. One that cannot be read lets nobody in: a guard must not fail open.
    fn source_ranges(&mut self, spec: &ServiceSpec) -> Vec<ipnet::IpNet> {
        let written = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
        let mut ranges = Vec::new();
        for (index, text) in written.iter().enumerate() {
            match text.trim().parse() {
                Ok(range) => ranges.push(range),
                Err(_) => {
                    let field = format!("spec.loadBalancerSourceRanges[{index}]");
                    self.report.error(
                        "InvalidCidr",
                        &field,
                        format!("{text:?} is not a CIDR; it lets nobody in."),
                        "Write a range such as 10.0.0.0/8.",
                    );
                }
            }
        }
        if ranges.is_empty() && !written.is_empty() {
            // The all-ones address is never a source: this range holds nobody.
            ranges.push(ipnet::IpNet::from(IpAddr::from([255, 255, 255, 255])));
        }
        ranges
    }

    fn external_ips(&mut self, spec: &ServiceSpec) -> Vec<IpAddr> {
        let written = spec.external_ips.as_deref().unwrap_or_default();
        if !written.is_empty() && !self.settings.allow_external_ips {
            let fix = "Use a LoadBalancer Service, or start with --allow-external-ips if you trust all who may write Services (CVE-2020-8554).";
            self.report.warning("ExternalIpsOff", "spec.externalIPs", "external IPs are not served.", fix);
            return Vec::new();
        }
        written.iter().filter_map(|ip| ip.parse().ok()).collect()
    }

    fn require_external_name(&mut self, spec: &ServiceSpec, kind: ServiceType) {
        if kind == ServiceType::ExternalName && spec.external_name.as_ref().is_none_or(String::is_empty) {
            self.report.error(
                "NoExternalName",
                "spec.externalName",
                "an ExternalName Service must say of what name it is the alias.",
                "Write spec.externalName.",
            );
        }
    }

    /// The addresses an ExternalName resolved to, as endpoints for an Ingress.
    fn resolved(&self, port: u16) -> Vec<Endpoint> {
        let ips = self.inputs.external.iter().flat_map(|(_, ips)| ips.iter());
        let endpoint = |ip: &IpAddr| Endpoint {
            addr: (*ip, port).into(),
            conditions: Conditions::READY,
            node: None,
            zone: None,
            hints: Hints::default(),
            weight: 1,
            pod: None,
        };
        ips.map(endpoint).collect()
    }
}

/// What all ports of a Service have in common.
struct Shared {
    proxied: bool,
    source_ranges: Vec<ipnet::IpNet>,
    internal_policy: TrafficPolicy,
    external_policy: TrafficPolicy,
    external_ips: Vec<IpAddr>,
    affinity: Affinity,
    options: ServiceOptions,
}
