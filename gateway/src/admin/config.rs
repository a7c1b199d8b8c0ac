//! Fills in the views: from a snapshot and the counters to what people read.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ahash::AHashMap;
use tidegate_l4::{
    affinity::UnixMillis,
    endpoints::{EndpointIndex, EndpointState, Standing, Verdict},
    model::{Endpoint, IpFamily, Protocol, ServicePortName, TrafficPolicy},
    table::ServedPort,
    worker::now,
};

use super::{
    status::{BindFailed, Listening, RuntimeStatus},
    view::{
        ConfigView, CookieView, EligibleView, EndpointView, FindingView, IngressView, LatencyView, ListenerView,
        ObjectView, PortView, RuleView, ServiceView, StatsView,
    },
};
use crate::{
    compile::{
        finding::Finding,
        rows::{IngressRow, PortRow, ServiceRow},
    },
    controller::status::ControllerStatus,
    route::{Backend, Owner, Rule, sticky::AffinityMode},
    snapshot::Snapshot,
};

impl ConfigView {
    /// The configuration in use, with what the counters say at this moment.
    pub fn new(snapshot: &Snapshot, runtime: &RuntimeStatus) -> Self {
        let mut rules: AHashMap<&Owner, Vec<RuleView>> = AHashMap::new();
        for rule in snapshot.routes.rules() {
            rules.entry(&rule.owner).or_default().push(rule_view(rule, snapshot));
        }
        let addresses = http_addresses(runtime, snapshot);
        let ingress = |row: &Arc<IngressRow>| {
            let owner = Owner { namespace: row.namespace.clone(), name: row.name.clone() };
            let mut rules = if row.ours { rules.remove(&owner).unwrap_or_default() } else { Vec::new() };
            sort_rules(&mut rules);
            ingress_view(row, rules, &addresses)
        };
        let ingresses = snapshot.ingresses.iter().map(ingress).collect();
        let mut other_rules: Vec<RuleView> = rules.into_values().flatten().collect();
        sort_rules(&mut other_rules);
        let mut listeners: Vec<ListenerView> = runtime.http().into_iter().map(http_view).collect();
        listeners.extend(runtime.listening().iter().map(listener_view));
        listeners.extend(runtime.failed().iter().map(failed_view));
        Self {
            generation: snapshot.generation,
            draining: runtime.is_draining(),
            services: snapshot.services.iter().map(|row| service_view(row, snapshot, usize::MAX)).collect(),
            ingresses,
            other_rules,
            listeners,
            findings: findings(snapshot, runtime),
        }
    }
}

/// What is wrong: what the compiler found, what could not be opened, and what could not be written to the cluster.
pub(super) fn findings(snapshot: &Snapshot, runtime: &RuntimeStatus) -> Vec<FindingView> {
    let (failed, notes) = (runtime.failed(), runtime.notes());
    let of_listeners = failed.iter().map(|failed| FindingView::from(&failed.finding()));
    let notes = notes.iter().map(FindingView::from);
    let of_controller = runtime.controller().map_or_else(Vec::new, ControllerStatus::findings);
    let of_controller = of_controller.iter().map(FindingView::from);
    snapshot.findings.iter().map(FindingView::from).chain(of_listeners).chain(notes).chain(of_controller).collect()
}

impl From<&Finding> for FindingView {
    fn from(finding: &Finding) -> Self {
        let object = finding.object.as_ref().map(|object| ObjectView {
            kind: object.kind.to_string(),
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
        });
        Self {
            severity: finding.severity.as_str().to_owned(),
            reason: finding.reason.to_owned(),
            object,
            file: finding.file.display().to_string(),
            line: finding.line,
            field: finding.field.clone(),
            message: finding.message.clone(),
            fix: finding.fix.clone(),
        }
    }
}

/// What an endpoint does at present.
#[derive(Debug)]
pub(crate) struct InUse<'a> {
    pub(crate) state: &'a EndpointState,
    pub(crate) standing: Standing,
    pub(crate) eligible: EligibleView,
}

/// The endpoints of `port` that some traffic may use.
pub(crate) fn in_use(port: &ServedPort) -> AHashMap<SocketAddr, InUse<'_>> {
    let mut out: AHashMap<SocketAddr, InUse<'_>> = AHashMap::new();
    let now = now();
    for family in [IpFamily::V4, IpFamily::V6] {
        for policy in [TrafficPolicy::Cluster, TrafficPolicy::Local] {
            let set = port.set(family, policy);
            for (position, endpoint) in set.endpoints().iter().enumerate() {
                let (state, standing) =
                    (set.state(EndpointIndex(position)), set.standing(EndpointIndex(position), now));
                let new = || InUse { state, standing, eligible: EligibleView::default() };
                let entry = out.entry(endpoint.addr).or_insert_with(new);
                match policy {
                    TrafficPolicy::Cluster => entry.eligible.cluster = true,
                    TrafficPolicy::Local => entry.eligible.local = true,
                }
            }
        }
    }
    out
}

/// What the endpoint at `addr` does, if some traffic may use it.
fn in_use_at(port: &ServedPort, addr: SocketAddr, now: UnixMillis) -> Option<InUse<'_>> {
    let find = |policy| {
        let set = port.set(IpFamily::of(addr.ip()), policy);
        set.position(addr).map(|at| (set.state(at), set.standing(at, now)))
    };
    let (cluster, local) = (find(TrafficPolicy::Cluster), find(TrafficPolicy::Local));
    let eligible = EligibleView { cluster: cluster.is_some(), local: local.is_some() };
    cluster.or(local).map(|(state, standing)| InUse { state, standing, eligible })
}

/// A Service with at most so many endpoints of each port.
pub(super) fn service_view(row: &ServiceRow, snapshot: &Snapshot, endpoints: usize) -> ServiceView {
    ServiceView {
        namespace: row.namespace.to_string(),
        name: row.name.to_string(),
        kind: row.kind.to_owned(),
        cluster_ips: row.cluster_ips.iter().map(IpAddr::to_string).collect(),
        external: row.external.clone(),
        pending: row.pending,
        ports: row.ports.iter().map(|port| port_view(row, port, snapshot, endpoints)).collect(),
        health_check_node_port: row.health_check_port,
        selector: row.selector.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        affinity_timeout_seconds: row.affinity_seconds,
        created: row.created,
    }
}

/// A port as it is served, if it is.
pub(super) fn served<'a>(row: &ServiceRow, port: &PortRow, snapshot: &'a Snapshot) -> Option<&'a Arc<ServedPort>> {
    let protocol = match port.protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    let (namespace, service) = (row.namespace.clone(), row.name.clone());
    snapshot.table.port(&ServicePortName { namespace, service, port: port.name.clone(), protocol })
}

fn port_view(row: &ServiceRow, port: &PortRow, snapshot: &Snapshot, most: usize) -> PortView {
    let served = served(row, port, snapshot);
    let endpoints = served.map(|served| {
        let (is_probed, now) = (served.config.policy.probe.is_some(), now());
        let view =
            |endpoint: &Endpoint| endpoint_view(endpoint, in_use_at(served, endpoint.addr, now).as_ref(), is_probed);
        served.config.endpoints.iter().take(most).map(view).collect()
    });
    PortView {
        name: port.name.to_string(),
        port: port.port,
        node_port: port.node_port,
        protocol: port.protocol.to_owned(),
        target_port: port.target.clone(),
        endpoints: endpoints.unwrap_or_default(),
        endpoints_left_out: served.map_or(0, |served| served.config.endpoints.len().saturating_sub(most)),
        stats: served.map(|served| stats_view(served)),
    }
}

fn endpoint_view(endpoint: &Endpoint, in_use: Option<&InUse<'_>>, is_probed: bool) -> EndpointView {
    let text = |text: &Option<Arc<str>>| text.as_ref().map(|text| text.to_string());
    let standing = in_use.map_or(Standing::InUse, |in_use| in_use.standing);
    EndpointView {
        address: endpoint.addr.to_string(),
        pod: text(&endpoint.pod),
        node: text(&endpoint.node),
        zone: text(&endpoint.zone),
        ready: endpoint.conditions.ready,
        serving: endpoint.conditions.serving,
        terminating: endpoint.conditions.terminating,
        weight: endpoint.weight,
        eligible: in_use.map(|in_use| in_use.eligible).unwrap_or_default(),
        in_flight: in_use.map(|in_use| in_use.state.in_flight()),
        picks: in_use.map(|in_use| in_use.state.picks()),
        ejected_seconds: match standing {
            Standing::Ejected { until } => Some(until.0.saturating_sub(now().0).div_ceil(1_000)),
            Standing::InUse | Standing::SlowStart { .. } | Standing::ProbeFails => None,
        },
        slow_start_percent: match standing {
            Standing::SlowStart { share } => Some((share * 100.0) as u8),
            Standing::InUse | Standing::Ejected { .. } | Standing::ProbeFails => None,
        },
        health_check: in_use.filter(|_| is_probed).map(|in_use| verdict(in_use.state.verdict()).to_owned()),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unknown => "unknown",
        Verdict::Passing => "passing",
        Verdict::Failing => "failing",
    }
}

fn stats_view(port: &ServedPort) -> StatsView {
    let stats = &port.stats;
    StatsView {
        accepted: stats.sum(|s| &s.accepted),
        open: stats.active(),
        bytes_in: stats.sum(|s| &s.bytes_in),
        bytes_out: stats.sum(|s| &s.bytes_out),
        affinity_hits: stats.sum(|s| &s.affinity_hits),
        affinity_misses: stats.sum(|s| &s.affinity_misses),
        affinity_entries: port.affinity_entries(),
        refused: stats.sum(|s| &s.refused),
        connect_failed: stats.sum(|s| &s.connect_failed),
        turned_away: port.turned_away(),
    }
}

pub(super) fn ingress_view(row: &IngressRow, rules: Vec<RuleView>, addresses: &[String]) -> IngressView {
    IngressView {
        namespace: row.namespace.to_string(),
        name: row.name.to_string(),
        class: row.class.clone(),
        served: row.ours,
        hosts: row.hosts.clone(),
        tls: row.tls,
        addresses: if row.ours { addresses.to_vec() } else { Vec::new() },
        rules,
        rules_left_out: 0,
        created: row.created,
    }
}

/// By host and path.
pub(super) fn sort_rules(rules: &mut [RuleView]) {
    rules.sort_unstable_by(|a, b| {
        (&a.host, &a.path, &a.path_type, &a.backend).cmp(&(&b.host, &b.path, &b.path_type, &b.backend))
    });
}

pub(super) fn rule_view(rule: &Rule, snapshot: &Snapshot) -> RuleView {
    let (upstream, problem) = match &rule.backend {
        Backend::Upstream { id, .. } => (snapshot.upstreams.get(id.0 as usize), None),
        Backend::Missing { reason, .. } => (None, Some(reason.to_string())),
        Backend::None { .. } => (None, None),
    };
    let cookie = upstream.and_then(|upstream| upstream.cookie.as_ref()).map(|cookie| CookieView {
        name: cookie.affinity.name.to_string(),
        mode: match cookie.affinity.mode {
            AffinityMode::Balanced => "balanced".to_owned(),
            AffinityMode::Persistent => "persistent".to_owned(),
        },
        issued: rule.issues_cookie,
    });
    let latency = rule.stats.latency();
    RuleView {
        host: rule.host.to_string(),
        path: rule.path.as_ref().map(|path| path.as_str().to_string()),
        path_type: rule.path.as_ref().map(|path| path.kind().to_owned()),
        backend: rule.backend.service().to_string(),
        problem,
        upstream: upstream.map(|upstream| upstream.name.to_string()),
        cookie,
        requests: rule.stats.by_code().collect::<BTreeMap<_, _>>(),
        latency: LatencyView { buckets: latency.buckets.to_vec(), seconds: latency.seconds },
    }
}

/// Where Ingresses answer: on the address that was bound, or on every address of this node.
pub(super) fn http_addresses(runtime: &RuntimeStatus, snapshot: &Snapshot) -> Vec<String> {
    let Some(bound) = runtime.http().map(|http| http.ip()) else { return Vec::new() };
    if !bound.is_unspecified() {
        return vec![bound.to_string()];
    }
    let addresses = snapshot.table.node_addresses().iter();
    addresses.filter(|ip| bound.is_ipv6() || ip.is_ipv4()).map(IpAddr::to_string).collect()
}

fn http_view(addr: SocketAddr) -> ListenerView {
    ListenerView { address: format!("{addr}/TCP"), kind: "HTTP".to_owned(), open: true, ..ListenerView::default() }
}

fn listener_view(listening: &Listening) -> ListenerView {
    ListenerView {
        address: listening.frontend.to_string(),
        kind: listening.kind.to_owned(),
        service: Some(listening.service.clone()),
        open: true,
        ..ListenerView::default()
    }
}

pub(super) fn failed_view(failed: &BindFailed) -> ListenerView {
    ListenerView {
        address: failed.frontend.to_string(),
        service: Some(failed.service.clone()),
        message: Some(failed.message.clone()),
        fix: Some(failed.fix.clone()),
        ..ListenerView::default()
    }
}
