//! Metrics of service ports and their endpoints.

use std::{borrow::Cow, fmt, net::SocketAddr};

use prometheus_client::encoding::DescriptorEncoder;
use tidegate_l4::{
    endpoints::{EndpointState, Standing, Verdict},
    model::{Affinity, IpFamily, Protocol, TrafficPolicy},
    policy::Admission,
    table::ServedPort,
};

use super::Family;
use crate::{
    admin::config::{InUse, in_use},
    snapshot::Snapshot,
};

/// Service ports in one scrape: a cluster of 10,000 Services of one port, with 100,000 series or 15 MB.
const MAX_PORTS: usize = 10_000;

/// Endpoints in one scrape. Only those that were used at least once, or fail their health check, are counted.
const MAX_ENDPOINTS: usize = 10_000;

type PortLabels<'a> = [(&'static str, &'a str); 4];

/// A metric of a service port; `None` where it makes no sense.
struct PortMetric(Family, fn(&ServedPort) -> Option<u64>);

const PORT_METRICS: [PortMetric; 12] = [
    PortMetric(Family::counter("connections", "Connections, or UDP flows, accepted."), |port| {
        Some(port.stats.sum(|s| &s.accepted))
    }),
    PortMetric(Family::gauge("connections_open", "Connections, or UDP flows, open now."), |port| {
        Some(port.stats.active())
    }),
    PortMetric(Family::counter("received_bytes", "Bytes from clients to endpoints."), |port| {
        Some(port.stats.sum(|s| &s.bytes_in))
    }),
    PortMetric(Family::counter("sent_bytes", "Bytes from endpoints to clients."), |port| {
        Some(port.stats.sum(|s| &s.bytes_out))
    }),
    PortMetric(
        Family::counter("connections_refused", "Clients turned away, for want of an endpoint or by source range."),
        |port| Some(port.stats.sum(|s| &s.refused)),
    ),
    PortMetric(
        Family::counter("turned_away", "Connections and requests turned away as the Service's limits were reached."),
        |port| (port.config.policy.admission != Admission::default()).then(|| port.turned_away()),
    ),
    PortMetric(Family::counter("connect_failed", "Clients for whom no endpoint could be connected."), |port| {
        Some(port.stats.sum(|s| &s.connect_failed))
    }),
    PortMetric(
        Family::counter("bad_proxy_headers", "Clients whose PROXY protocol header was missing or wrong."),
        |port| port.config.connection.accept_proxy_protocol.then(|| port.stats.sum(|s| &s.bad_proxy_header)),
    ),
    PortMetric(Family::counter("affinity_hits", "Choices that ClientIP affinity made."), |port| {
        sticky(port).then(|| port.stats.sum(|s| &s.affinity_hits))
    }),
    PortMetric(Family::counter("affinity_misses", "Choices made anew although there is ClientIP affinity."), |port| {
        sticky(port).then(|| port.stats.sum(|s| &s.affinity_misses))
    }),
    PortMetric(Family::gauge("affinity_entries", "Clients that ClientIP affinity remembers."), |port| {
        sticky(port).then(|| port.affinity_entries() as u64)
    }),
    PortMetric(Family::gauge("endpoints_eligible", "Endpoints that traffic of the policy Cluster may use."), |port| {
        Some(eligible(port))
    }),
];

fn sticky(port: &ServedPort) -> bool {
    port.config.affinity != Affinity::None
}

fn eligible(port: &ServedPort) -> u64 {
    let count = |family| port.set(family, TrafficPolicy::Cluster).len() as u64;
    count(IpFamily::V4) + count(IpFamily::V6)
}

/// A metric of an endpoint; `None` where it makes no sense.
struct EndpointMetric(Family, fn(&Used<'_>) -> Option<u64>);

const ENDPOINT_METRICS: [EndpointMetric; 6] = [
    EndpointMetric(
        Family::counter("endpoint_picks", "Connections and requests that the endpoint was chosen for, and took."),
        |used| Some(used.state.picks()),
    ),
    EndpointMetric(
        Family::gauge("endpoint_in_flight", "Connections and requests that the endpoint carries now."),
        |used| Some(u64::from(used.state.in_flight())),
    ),
    EndpointMetric(Family::counter("endpoint_connect_failures", "Connects to the endpoint that failed."), |used| {
        Some(used.state.connect_failures())
    }),
    EndpointMetric(Family::gauge("endpoint_ejected", "1 while the endpoint is left out for its failures."), |used| {
        let is_ejected = || u64::from(matches!(used.standing, Standing::Ejected { .. }));
        used.port.config.policy.ejection.is_some().then(is_ejected)
    }),
    EndpointMetric(
        Family::counter("endpoint_ejections", "How often the endpoint was left out for its failures."),
        |used| used.port.config.policy.ejection.is_some().then(|| used.state.ejections()),
    ),
    EndpointMetric(
        Family::gauge("endpoint_healthy", "1 if the endpoint passes its health check, 0 if it fails."),
        |used| match used.state.verdict() {
            Verdict::Unknown => None,
            Verdict::Passing => Some(1),
            Verdict::Failing => Some(0),
        },
    ),
];

/// Writes the metrics, and gives back how many were left out, by kind.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    snapshot: &Snapshot,
) -> Result<[(&'static str, u64); 2], fmt::Error> {
    let mut ports: Vec<&ServedPort> = snapshot.table.ports().map(|port| &**port).collect();
    ports.sort_unstable_by(|a, b| a.config.name.cmp(&b.config.name));
    let mut endpoints = used_endpoints(&ports);
    let left_out = [
        ("service_port", ports.len().saturating_sub(MAX_PORTS) as u64),
        ("endpoint", endpoints.len().saturating_sub(MAX_ENDPOINTS) as u64),
    ];
    ports.truncate(MAX_PORTS);
    endpoints.truncate(MAX_ENDPOINTS);
    let names: Vec<Cow<'_, str>> = ports.iter().map(|port| port_label(port)).collect();
    for PortMetric(family, value) in &PORT_METRICS {
        let samples = ports.iter().zip(&names).filter_map(|(port, name)| Some((labels(port, name), value(port)?)));
        family.encode(encoder, samples)?;
    }
    for EndpointMetric(family, value) in &ENDPOINT_METRICS {
        family.encode(encoder, endpoints.iter().filter_map(|used| Some((used.labels(), value(used)?))))?;
    }
    Ok(left_out)
}

/// An endpoint of which there is something to say.
struct Used<'a> {
    port: &'a ServedPort,
    name: Cow<'a, str>,
    addr: SocketAddr,
    state: &'a EndpointState,
    standing: Standing,
}

impl Used<'_> {
    fn labels(&self) -> (PortLabels<'_>, [(&'static str, String); 1]) {
        (labels(self.port, &self.name), [("endpoint", self.addr.to_string())])
    }
}

/// Sorted, so that the same ones are left out in every scrape.
fn used_endpoints<'a>(ports: &[&'a ServedPort]) -> Vec<Used<'a>> {
    let mut out = Vec::new();
    for port in ports {
        let begin = out.len();
        let is_used =
            |e: &InUse<'_>| e.state.picks() + e.state.connect_failures() > 0 || e.state.verdict() == Verdict::Failing;
        let used = in_use(port).into_iter().filter(|(_, e)| is_used(e));
        out.extend(used.map(|(addr, e)| {
            let (state, standing) = (e.state, e.standing);
            Used { port, name: port_label(port), addr, state, standing }
        }));
        out[begin..].sort_unstable_by_key(|used| used.addr);
    }
    out
}

fn labels<'a>(port: &'a ServedPort, port_name: &'a str) -> PortLabels<'a> {
    let name = &port.config.name;
    let protocol = match name.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    [("namespace", &*name.namespace), ("service", &*name.service), ("port", port_name), ("protocol", protocol)]
}

/// The name of a port; its number if it has none, which only one port of a Service may.
fn port_label(port: &ServedPort) -> Cow<'_, str> {
    match &*port.config.name.port {
        "" => Cow::Owned(port.config.port.to_string()),
        name => Cow::Borrowed(name),
    }
}
