//! The compiler: `Objects` → `Snapshot` and findings. Pure: no async, no clock, no I/O.
//!
//! It cannot fail. It returns the best configuration there is and says what is wrong with the rest: a broken object takes
//! down only itself. What has not changed since the compile before is taken over, so a changed EndpointSlice costs what it
//! touches and not the size of the cluster.
//!
//! | step | file |
//! |---|---|
//! | everything that was said | [`objects`] |
//! | addresses and ports nobody chose | [`allocate`], from [`pools`] of `address_range`s |
//! | what is to be written about load balancers | [`load_balancer`] |
//! | Pods → EndpointSlices → endpoints | `slices`; how they are held: [`slice`] |
//! | Services → service ports | `services`, `service_port`, `service_annotations` |
//! | … → DNS records, rows for people | `dns_records`, `service_row` |
//! | where this node is, and at which addresses | `node` |
//! | what load balancers ask of this node | [`health_check`] |
//! | Ingresses → rules | `ingress` and its folder, `class`, [`class_parameters`], `annotations`, `backend_protocol` |
//! | Secrets and Ingresses → TLS | `tls`, `tls_choice`, `tls_secret`, `tls_table`, `tls_backend` |
//! | all of it again where only EndpointSlices have changed | `renew` |
//! | which Secrets and ConfigMaps all that needs | [`references`] |
//! | verdicts | [`finding`] |

mod address_range;
pub mod allocate;
mod annotations;
mod backend_protocol;
mod class;
pub mod class_parameters;
mod dns_records;
pub mod finding;
pub mod health_check;
mod ingress;
mod label_selector;
pub mod load_balancer;
mod node;
pub mod objects;
pub mod pools;
pub mod references;
mod renew;
pub mod rows;
mod service_annotations;
mod service_port;
mod service_row;
mod service_type;
pub(crate) mod services;
pub mod settings;
pub mod slice;
mod slices;
mod tls;
mod tls_backend;
mod tls_choice;
mod tls_secret;
mod tls_table;
mod words;

use std::{cell::OnceCell, collections::BTreeMap, net::SocketAddr, sync::Arc};

use tidegate_crd::Kind;
use tidegate_l4::{
    endpoints::EndpointSet,
    model::{Affinity, Conditions, Endpoint, Hints, IpFamily, Place, ServicePort, TrafficPolicy},
    table::{Conflict, ServedPort, ServiceTable},
};

use self::{
    allocate::{Allocated, Allocations, allocate},
    finding::{Finding, Report},
    health_check::HealthCheck,
    ingress::{CompiledIngresses, UpstreamSpec},
    objects::{Name, Objects},
    renew::{EndpointVersions, renew},
    rows::ServiceRow,
    services::{CompiledService, ServiceCompiler},
    settings::Settings,
};
use crate::{
    dns::Zone,
    route::sticky::StickyMap,
    snapshot::{CookieUpstream, Snapshot, Upstream},
};

/// One compile's result, and what the next one takes over from it.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    allocated: Arc<Allocated>,
    /// In the order of their names.
    services: Arc<[Arc<CompiledService>]>,
    asked_ports: Arc<BTreeMap<Name, Vec<u16>>>,
    /// The names elsewhere whose addresses Ingresses need: the targets of the ExternalName Services they send requests to.
    pub external_names: Arc<[Arc<str>]>,
    ingresses: Arc<CompiledIngresses>,
    /// Where the port of each upstream stands in the table.
    upstream_ports: Arc<[Option<u32>]>,
    problems: Arc<[Finding]>,
    tls_findings: Arc<[Finding]>,
    versions: Versions,
    endpoint_versions: EndpointVersions,
}

/// The versions of the stores that whole steps depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Versions {
    services: u64,
    routed_services: u64,
    pools: u64,
    ingresses: u64,
    classes: u64,
    parameters: u64,
    namespaces: u64,
    secrets: u64,
    config_maps: u64,
}

impl Versions {
    fn of(objects: &Objects) -> Self {
        Self {
            services: objects.services.version(),
            routed_services: objects.routed_services(),
            pools: objects.pools.version(),
            ingresses: objects.ingresses.version(),
            classes: objects.classes.version(),
            parameters: objects.parameters.version(),
            namespaces: objects.namespaces.version(),
            secrets: objects.secrets.version(),
            config_maps: objects.config_maps.version(),
        }
    }

    /// Whether Services, and all that their addresses depend on, are the same: pools may choose by the labels of namespaces.
    fn has_same_services(&self, now: Self, objects: &Objects) -> bool {
        let same_namespaces = objects.pools.is_empty() || self.namespaces == now.namespaces;
        self.services == now.services && self.pools == now.pools && same_namespaces
    }

    /// Whether all that rules are made of is the same.
    fn has_same_routes(&self, now: Self) -> bool {
        // Addresses are no part of them.
        *self == Self { services: self.services, pools: self.pools, ..now }
    }
}

impl Compiled {
    /// The addresses that are held, for whoever keeps them over a restart.
    pub fn allocations(&self) -> &Allocations {
        &self.allocated.allocations
    }

    /// Whether the same addresses are held as before.
    pub fn holds_the_same(&self, before: &Self) -> bool {
        Arc::ptr_eq(&self.allocated, &before.allocated) || self.allocations() == before.allocations()
    }
}

/// Compiles `objects`. `problems` are what the sources could not read; `held` are the addresses of an earlier process, used
/// while there is no `previous` compile.
pub fn compile(
    objects: &Objects,
    settings: &Settings,
    problems: &[Finding],
    held: &Allocations,
    previous: Option<&Compiled>,
) -> Compiled {
    if let Some(renewed) = previous.and_then(|previous| renew(objects, settings, problems, previous)) {
        return renewed;
    }
    let versions = Versions::of(objects);
    let same_services = previous.filter(|p| p.versions.has_same_services(versions, objects));
    let allocated = match same_services {
        Some(previous) => previous.allocated.clone(),
        None => Arc::new(allocate(objects, settings, previous.map_or(held, |p| &p.allocated.allocations))),
    };
    let same_routes = previous.filter(|p| p.versions.has_same_routes(versions));
    let asked_ports = same_routes.map_or_else(|| Arc::new(ingress::asked_ports(objects)), |p| p.asked_ports.clone());
    let compiler = ServiceCompiler { objects, settings, asked_ports: &asked_ports, pods: OnceCell::new() };
    let services = match same_services {
        Some(previous) => compile_same_services(&compiler, &previous.services),
        None => compile_services(&compiler, &allocated, previous.map_or(&[], |p| &*p.services)),
    };
    let ingresses = match same_routes {
        Some(previous) => previous.ingresses.clone(),
        None => Arc::new(ingress::compile(objects, settings, previous.map(|p| &*p.ingresses))),
    };
    let node_addresses = node::addresses(objects, settings);
    let ports = services.iter().flat_map(|service| service.ports.iter().cloned());
    let table = ServiceTable::build(
        ports,
        &node_addresses,
        &node::place(objects, settings),
        previous.map(|p| &*p.snapshot.table),
    );
    let before = previous.map(|p| &*p.snapshot);
    let upstream_ports = positions(&ingresses.upstreams, &table);
    let tls_findings: Arc<[Finding]> = ingresses.tls.findings(objects.now).collect();
    let findings = Found {
        objects,
        settings,
        problems,
        allocated: &allocated,
        services: &services,
        table: &table,
        ingresses: &ingresses,
        tls: &tls_findings,
    }
    .sorted();
    let snapshot = Snapshot {
        generation: before.map_or(1, |snapshot| snapshot.generation + 1),
        routes: ingresses.routes.clone(),
        tls: ingresses.tls.table.clone(),
        upstreams: upstreams(&ingresses.upstreams, &upstream_ports, &table, before),
        zone: held_zone(objects, &services, same_services).unwrap_or_else(|| zone(objects, settings, &services)),
        services: rows_of(&services),
        health_checks: health_checks(&services),
        ingresses: ingresses.rows.clone(),
        load_balancers: allocated.load_balancers.clone(),
        class_parameters: ingresses.parameters.clone(),
        findings,
        table: Arc::new(table),
    };
    Compiled {
        snapshot: Arc::new(snapshot),
        allocated,
        services: services.into(),
        external_names: external_names(objects, &asked_ports),
        asked_ports,
        ingresses,
        upstream_ports,
        problems: problems.into(),
        tls_findings,
        versions,
        endpoint_versions: EndpointVersions::of(objects),
    }
}

/// All that was found.
struct Found<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    problems: &'a [Finding],
    allocated: &'a Allocated,
    services: &'a [Arc<CompiledService>],
    table: &'a ServiceTable,
    ingresses: &'a CompiledIngresses,
    tls: &'a [Finding],
}

impl Found<'_> {
    fn sorted(&self) -> Arc<[Finding]> {
        let mut findings = self.problems.to_vec();
        findings.extend(node::finding(self.table.node_addresses(), self.objects, self.settings));
        findings.extend(self.allocated.findings.iter().cloned());
        findings.extend(self.services.iter().flat_map(|service| service.findings.iter().cloned()));
        findings.extend(self.table.conflicts().iter().filter_map(|conflict| conflict_finding(conflict, self.objects)));
        findings.extend(self.ingresses.findings.iter().chain(self.tls).cloned());
        findings.sort_by(|a, b| (&a.file, a.line, a.reason, &a.message).cmp(&(&b.file, b.line, b.reason, &b.message)));
        findings.into()
    }
}

/// Where the port of each upstream stands.
fn positions(upstreams: &[UpstreamSpec], table: &ServiceTable) -> Arc<[Option<u32>]> {
    upstreams.iter().map(|spec| u32::try_from(table.position(&spec.port)?).ok()).collect()
}

fn upstreams(
    specs: &[UpstreamSpec],
    positions: &[Option<u32>],
    table: &ServiceTable,
    before: Option<&Snapshot>,
) -> Vec<Arc<Upstream>> {
    let held = |i: usize| before?.upstreams.get(i);
    let all = specs.iter().zip(positions).enumerate();
    all.map(|(i, (spec, at))| upstream(spec, standing(table, *at), held(i))).collect()
}

/// The service port of an upstream, by its place in the table.
fn standing(table: &ServiceTable, at: Option<u32>) -> Option<&Arc<ServedPort>> {
    table.at(at? as usize)
}

fn rows_of(services: &[Arc<CompiledService>]) -> Arc<[Arc<ServiceRow>]> {
    services.iter().map(|service| service.row.clone()).collect()
}

/// The targets of the ExternalName Services among these.
fn external_names(objects: &Objects, services: &BTreeMap<Name, Vec<u16>>) -> Arc<[Arc<str>]> {
    let target = |name| objects.services.get(name)?.object.spec.as_ref()?.external_name.as_deref();
    let mut names: Vec<Arc<str>> = services.keys().filter_map(target).map(Arc::from).collect();
    names.sort_unstable();
    names.dedup();
    names.into()
}

fn compile_services(
    compiler: &ServiceCompiler<'_>,
    allocated: &Allocated,
    previous: &[Arc<CompiledService>],
) -> Vec<Arc<CompiledService>> {
    let compile = |(name, stored)| {
        let addresses = Arc::new(allocated.addresses.get(name).cloned().unwrap_or_default());
        let key = (&name.namespace, &name.name);
        let held = previous.binary_search_by(|held| held.name().cmp(&key)).ok();
        compiler.compile(name, stored, addresses, held.map(|at| &previous[at]))
    };
    compiler.objects.services.iter().map(compile).collect()
}

/// The same Services have the same addresses and stand where they stood: no name needs to be looked up.
fn compile_same_services(
    compiler: &ServiceCompiler<'_>,
    previous: &[Arc<CompiledService>],
) -> Vec<Arc<CompiledService>> {
    let compile = |((name, stored), held): ((&Name, _), &Arc<CompiledService>)| {
        compiler.compile(name, stored, held.addresses().clone(), Some(held))
    };
    compiler.objects.services.iter().zip(previous).map(compile).collect()
}

/// The upstream of a spec; the one that held its place is taken over if neither name, endpoints nor options changed.
fn upstream(spec: &UpstreamSpec, port: Option<&Arc<ServedPort>>, before: Option<&Arc<Upstream>>) -> Arc<Upstream> {
    let before = before.filter(|held| held.name == spec.name);
    let endpoints = match port {
        None => Arc::new(EndpointSet::empty()),
        Some(port) if spec.options.service_upstream => cluster_ip_alone(&port.config, before),
        Some(port) => {
            // What a cookie or a key stands for must not depend on the zone of the replica that reads it.
            let is_keyed = spec.cookie.is_some() || spec.options.hash_by.is_some();
            let of = |family| match is_keyed {
                true => port.everywhere(family),
                false => port.set(family, TrafficPolicy::Cluster),
            };
            let v4 = of(IpFamily::V4);
            let set = if v4.is_empty() { of(IpFamily::V6) } else { v4 };
            set.clone()
        }
    };
    if let Some(held) = before
        && Arc::ptr_eq(&held.endpoints, &endpoints)
        && held.cookie.as_ref().map(|cookie| &cookie.affinity) == spec.cookie.as_ref()
        && held.options == spec.options
    {
        return held.clone();
    }
    let cookie = spec.cookie.clone().map(|affinity| {
        let addresses: Vec<_> = endpoints.endpoints().iter().map(|endpoint| endpoint.addr).collect();
        let map = StickyMap::build(&spec.name, &addresses, affinity.mode);
        CookieUpstream { affinity, map }
    });
    Arc::new(Upstream { name: spec.name.clone(), endpoints, cookie, options: spec.options.clone() })
}

/// The Service's ClusterIP as the only endpoint (`service-upstream`); none for a Service without.
fn cluster_ip_alone(port: &ServicePort, before: Option<&Arc<Upstream>>) -> Arc<EndpointSet> {
    let Some(ip) = port.cluster_ips.first() else { return Arc::new(EndpointSet::empty()) };
    let addr = SocketAddr::new(*ip, port.port);
    if let Some(held) = before
        && held.options.service_upstream
        && let [only] = held.endpoints.endpoints()
        && only.addr == addr
    {
        return held.endpoints.clone();
    }
    // A table of that one endpoint: a set is only ever made as a part of one.
    let endpoint = Endpoint {
        addr,
        conditions: Conditions { ready: true, serving: true, terminating: false },
        node: None,
        zone: None,
        hints: Hints::default(),
        pod: None,
        weight: 1,
    };
    let alone = ServicePort {
        endpoints: [endpoint].into(),
        affinity: Affinity::None,
        internal_policy: TrafficPolicy::Cluster,
        cluster_ips: Vec::new(),
        ..port.clone()
    };
    let table = ServiceTable::build([Arc::new(alone)], &[], &Place::default(), None);
    table.port(&port.name).map_or_else(
        || Arc::new(EndpointSet::empty()),
        |port| port.set(IpFamily::of(*ip), TrafficPolicy::Cluster).clone(),
    )
}

fn health_checks(services: &[Arc<CompiledService>]) -> Arc<[Arc<HealthCheck>]> {
    let mut checks: Vec<_> = services.iter().filter_map(|service| service.health_check.clone()).collect();
    checks.sort_unstable_by_key(|check| check.port);
    checks.into()
}

/// The DNS zone of the compile before, if no record changed.
fn held_zone(
    objects: &Objects,
    services: &[Arc<CompiledService>],
    same_services: Option<&Compiled>,
) -> Option<Arc<Zone>> {
    let previous = same_services.filter(|previous| previous.versions.namespaces == objects.namespaces.version())?;
    let mut pairs = services.iter().zip(&*previous.services);
    let same = pairs.all(|(a, b)| a.dns.as_ref().map(Arc::as_ptr) == b.dns.as_ref().map(Arc::as_ptr));
    same.then(|| previous.snapshot.zone.clone())
}

fn zone(objects: &Objects, settings: &Settings, services: &[Arc<CompiledService>]) -> Arc<Zone> {
    let records = services.iter().filter_map(|service| service.dns.clone());
    let namespaces = objects.namespaces.iter().map(|(name, _)| name.name.clone());
    Arc::new(Zone::build(&settings.cluster_domain, records, namespaces))
}

fn conflict_finding(conflict: &Conflict, objects: &Objects) -> Option<Finding> {
    let loser = &conflict.loser;
    let name = Name { namespace: loser.namespace.clone(), name: loser.service.clone() };
    let service = objects.services.get(&name)?;
    let mut report = Report::on(Kind::Service, &name.namespace, &name.name, &service.origin);
    let message = format!("{} belongs to Service {} already.", conflict.frontend, conflict.winner);
    report.error("AddressConflict", "spec", message, "Give one of the two another address or port.");
    report.into_findings().pop()
}

#[cfg(test)]
mod tests;

/// What the tests of TLS need to see of this.
#[cfg(test)]
pub(crate) mod tls_for_tests {
    pub(crate) use super::{
        annotations::ProxySslOptions,
        tls_backend::{BackendTlsFault, backend_tls},
    };
}
