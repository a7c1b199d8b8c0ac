//! The next configuration where nothing but EndpointSlices has changed, which is what most changes are: only the Services of those
//! slices are looked at. It gives what a whole compile would give.

use std::{collections::BTreeSet, sync::Arc};

use tidegate_l4::model::ServicePort;

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
use crate::snapshot::Snapshot;

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
    let touched = previous.endpoint_versions.touched_since(objects)?;
    let compiler = ServiceCompiler { objects, settings, asked_ports: &previous.asked_ports, pods: Default::default() };
    let mut services = previous.services.to_vec();
    let mut changed = Vec::new();
    for name in touched {
        // A slice may name a Service that does not exist.
        let Ok(at) = services.binary_search_by(|held| held.name().cmp(&(&name.namespace, &name.name))) else {
            continue;
        };
        let (held, stored) = (&services[at], objects.services.get(name)?);
        let now = compiler.compile(name, stored, held.addresses().clone(), Some(held));
        if !Arc::ptr_eq(held, &now) {
            changed.push((std::mem::replace(&mut services[at], now.clone()), now));
        }
    }
    let before = &*previous.snapshot;
    let ports: Vec<Arc<ServicePort>> = changed.iter().map(changed_ports).collect::<Option<Vec<_>>>()?.concat();
    let table = before.table.renewed(&ports, &node::place(objects, settings))?;
    let is_kept = |at: &Option<u32>| match (standing(&table, *at), standing(&before.table, *at)) {
        (Some(now), Some(held)) => Arc::ptr_eq(now, held),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let upstreams = before.upstreams.iter().zip(&*previous.upstream_ports).zip(&previous.ingresses.upstreams);
    let upstreams =
        upstreams.map(
            |((held, at), spec)| {
                if is_kept(at) { held.clone() } else { upstream(spec, standing(&table, *at), Some(held)) }
            },
        );
    let upstreams = upstreams.collect();
    let is_same =
        |same: fn(&CompiledService, &CompiledService) -> bool| changed.iter().all(|(held, now)| same(held, now));
    let tls_findings: Arc<[Finding]> = previous.ingresses.tls.findings(objects.now).collect();
    let same_findings = *problems == *previous.problems
        && tls_findings == previous.tls_findings
        && is_same(|held, now| held.findings == now.findings);
    let findings = match same_findings {
        true => before.findings.clone(),
        false => Found {
            objects,
            settings,
            problems,
            allocated: &previous.allocated,
            services: &services,
            table: &table,
            ingresses: &previous.ingresses,
            tls: &tls_findings,
        }
        .sorted(),
    };
    let same_rows = is_same(|held, now| Arc::ptr_eq(&held.row, &now.row));
    let same_dns = is_same(|held, now| held.dns.as_ref().map(Arc::as_ptr) == now.dns.as_ref().map(Arc::as_ptr));
    let same_checks = is_same(|held, now| held.health_check.is_none() && now.health_check.is_none());
    let snapshot = Snapshot {
        generation: before.generation + 1,
        table: Arc::new(table),
        routes: before.routes.clone(),
        tls: before.tls.clone(),
        upstreams,
        zone: if same_dns { before.zone.clone() } else { zone(objects, settings, &services) },
        services: if same_rows { before.services.clone() } else { rows_of(&services) },
        health_checks: if same_checks { before.health_checks.clone() } else { health_checks(&services) },
        ingresses: before.ingresses.clone(),
        load_balancers: before.load_balancers.clone(),
        class_parameters: before.class_parameters.clone(),
        findings,
    };
    Some(Compiled {
        snapshot: Arc::new(snapshot),
        services: services.into(),
        problems: problems.into(),
        tls_findings,
        endpoint_versions: EndpointVersions::of(objects),
        ..previous.clone()
    })
}

/// The ports of a Service that are others than before; `None` if they are not the same ones.
fn changed_ports((held, now): &(Arc<CompiledService>, Arc<CompiledService>)) -> Option<Vec<Arc<ServicePort>>> {
    let pairs = || held.ports.iter().zip(&now.ports);
    let changed = || pairs().filter(|(held, now)| !Arc::ptr_eq(held, now)).map(|(_, now)| now.clone()).collect();
    (held.ports.len() == now.ports.len() && pairs().all(|(held, now)| held.name == now.name)).then(changed)
}
