//! The next configuration where nothing but EndpointSlices has changed, which is what most changes are: only the Services of those
//! slices are looked at. It gives what a whole compile would give.

use std::{cell::OnceCell, collections::BTreeSet, sync::Arc};

use tidegate_l4::{model::ServicePort, table::ServiceTable};

use super::{
    Compiled, Found, Versions,
    finding::Finding,
    health_checks, node,
    objects::{Name, Objects},
    rows_of,
    services::{CompiledService, ServiceCompiler},
    settings::Settings,
    standing, upstream, zone,
};
use crate::snapshot::{Snapshot, Upstream};

/// Versions of all else that endpoints are made of, and how many changes of slices are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndpointVersions {
    pods: u64,
    nodes: u64,
    endpoints: u64,
    resolved: u64,
    touched: u64,
}

impl EndpointVersions {
    pub(super) fn of(objects: &Objects) -> Self {
        Self {
            pods: objects.pods.version(),
            nodes: objects.nodes.version(),
            endpoints: objects.endpoints.version(),
            resolved: objects.resolved_version(),
            touched: objects.touched(),
        }
    }

    /// The Services whose slices have changed since, if nothing else has.
    fn touched_since<'a>(&self, objects: &'a Objects) -> Option<BTreeSet<&'a Name>> {
        let now = Self { touched: self.touched, ..Self::of(objects) };
        if *self == now { Some(objects.touched_since(self.touched)?.collect()) } else { None }
    }
}

/// The Services as they are now.
struct Services {
    all: Vec<Arc<CompiledService>>,
    /// Those that are others than before: as they were, and as they are.
    changed: Vec<(Arc<CompiledService>, Arc<CompiledService>)>,
}

impl Services {
    /// Those of `previous`, but for the ones whose slices have changed; `None` if more than that has changed.
    fn compile(objects: &Objects, settings: &Settings, previous: &Compiled) -> Option<Self> {
        let touched = previous.endpoint_versions.touched_since(objects)?;
        let (asked_ports, pods) = (&*previous.asked_ports, OnceCell::new());
        let compiler = ServiceCompiler { objects, settings, asked_ports, pods };
        let (mut all, mut changed) = (previous.services.to_vec(), Vec::new());
        for name in touched {
            let key = (&name.namespace, &name.name);
            // A slice may name a Service that does not exist.
            let Ok(at) = all.binary_search_by(|held| held.name().cmp(&key)) else { continue };
            let held = &all[at];
            let now = compiler.compile(name, objects.services.get(name)?, held.addresses().clone(), Some(held));
            if !Arc::ptr_eq(held, &now) {
                changed.push((std::mem::replace(&mut all[at], now.clone()), now));
            }
        }
        Some(Self { all, changed })
    }

    /// The ports that are others than before; `None` if some are not there any more, or new.
    fn changed_ports(&self) -> Option<Vec<Arc<ServicePort>>> {
        let mut changed = Vec::new();
        for (held, now) in &self.changed {
            if !held.ports.iter().map(|port| &port.name).eq(now.ports.iter().map(|port| &port.name)) {
                return None;
            }
            let pairs = held.ports.iter().zip(&now.ports);
            changed.extend(pairs.filter(|(held, now)| !Arc::ptr_eq(held, now)).map(|(_, now)| now.clone()));
        }
        Some(changed)
    }

    /// Whether something of them is as it was.
    fn is_same(&self, same: fn(&CompiledService, &CompiledService) -> bool) -> bool {
        self.changed.iter().all(|(held, now)| same(held, now))
    }
}

/// The configuration after `previous`; `None` if more than EndpointSlices has changed.
pub(super) fn renew(
    objects: &Objects,
    settings: &Settings,
    problems: &[Finding],
    previous: &Compiled,
) -> Option<Compiled> {
    if previous.versions != Versions::of(objects) {
        return None;
    }
    let services = Services::compile(objects, settings, previous)?;
    let before = &*previous.snapshot;
    let table = before.table.renewed(&services.changed_ports()?, &node::place(objects, settings))?;
    let tls_findings: Arc<[Finding]> = previous.ingresses.tls.findings(objects.now).collect();
    let found = Found {
        objects,
        settings,
        problems,
        allocated: &previous.allocated,
        services: &services.all,
        table: &table,
        ingresses: &previous.ingresses,
        tls: &tls_findings,
    };
    let same_findings = *problems == *previous.problems
        && tls_findings == previous.tls_findings
        && services.is_same(|held, now| held.findings == now.findings);
    let same_rows = services.is_same(|held, now| Arc::ptr_eq(&held.row, &now.row));
    let same_dns =
        services.is_same(|held, now| held.dns.as_ref().map(Arc::as_ptr) == now.dns.as_ref().map(Arc::as_ptr));
    let same_checks = services.is_same(|held, now| held.health_check.is_none() && now.health_check.is_none());
    let snapshot = Snapshot {
        generation: before.generation + 1,
        routes: before.routes.clone(),
        tls: before.tls.clone(),
        upstreams: upstreams(previous, &table),
        zone: if same_dns { before.zone.clone() } else { zone(objects, settings, &services.all) },
        services: if same_rows { before.services.clone() } else { rows_of(&services.all) },
        health_checks: if same_checks { before.health_checks.clone() } else { health_checks(&services.all) },
        ingresses: before.ingresses.clone(),
        load_balancers: before.load_balancers.clone(),
        class_parameters: before.class_parameters.clone(),
        findings: if same_findings { before.findings.clone() } else { found.sorted() },
        table: Arc::new(table),
    };
    Some(Compiled {
        snapshot: Arc::new(snapshot),
        services: services.all.into(),
        problems: problems.into(),
        tls_findings,
        endpoint_versions: EndpointVersions::of(objects),
        ..previous.clone()
    })
}

/// Those whose port is the same are taken over.
fn upstreams(previous: &Compiled, table: &ServiceTable) -> Vec<Arc<Upstream>> {
    let before = &*previous.snapshot;
    let pairs = before.upstreams.iter().zip(&*previous.upstream_ports).zip(&previous.ingresses.upstreams);
    let renew = |((held, at), spec): ((&Arc<Upstream>, &Option<u32>), _)| {
        let (port, port_before) = (standing(table, *at), standing(&before.table, *at));
        let is_same = port.map(Arc::as_ptr) == port_before.map(Arc::as_ptr);
        if is_same { held.clone() } else { upstream(spec, port, Some(held)) }
    };
    pairs.map(renew).collect()
}
