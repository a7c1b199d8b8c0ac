//! The JSON of the admin interface: what a [`Snapshot`](crate::snapshot::Snapshot) and the [`status`](super::status) look like
//! from outside.
//!
//! Besides the wire types of `crd`, these are the only types that derive `Serialize` and `Deserialize`. They do so in order that
//! the types of the core need not: those may change with every release, while scripts rely on these. `tidegate get` reads them
//! back, so a newer instance must be readable too: unknown fields are ignored, absent ones have their empty value.

mod demo;
mod live;

use std::collections::BTreeMap;

pub use demo::{DemoPodView, DemoView, LanesView};
pub use live::{CertificateView, LiveView, TotalsView};
use serde::{Deserialize, Serialize};

/// The whole configuration: the answer of `/config`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigView {
    /// Counts the configurations of the process, from 1.
    pub generation: u64,
    /// Whether the process is on its way out.
    pub draining: bool,
    /// By namespace and name.
    pub services: Vec<ServiceView>,
    /// By namespace and name.
    pub ingresses: Vec<IngressView>,
    /// Rules that no Ingress wrote: the default backend of the command line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_rules: Vec<RuleView>,
    /// Open ones, and those that could not be opened.
    pub listeners: Vec<ListenerView>,
    /// What is wrong.
    pub findings: Vec<FindingView>,
}

/// One Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Empty for headless Services.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    /// LoadBalancer IPs and external IPs, or the name an ExternalName points to.
    pub external: Vec<String>,
    /// Whether it is a LoadBalancer without an address.
    pub pending: bool,
    /// Its ports.
    pub ports: Vec<PortView>,
    /// Where load balancers ask whether this node has endpoints of it, if they may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    /// Its selector.
    pub selector: BTreeMap<String, String>,
    /// How long ClientIP affinity lasts, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_timeout_seconds: Option<u64>,
    /// Seconds since the Unix epoch, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
}

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortView {
    /// Its name, or empty.
    pub name: String,
    /// The port.
    pub port: u16,
    /// The node port, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// `targetPort` as written.
    pub target_port: String,
    /// Every endpoint, usable or not.
    pub endpoints: Vec<EndpointView>,
    /// Endpoints that are not shown, which only `/live` does.
    #[serde(skip_serializing_if = "is_zero")]
    pub endpoints_left_out: usize,
    /// What it has done, if it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<StatsView>,
}

/// One endpoint of a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointView {
    /// IP and port.
    pub address: String,
    /// The pod behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node it runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The zone it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Ready for new connections.
    pub ready: bool,
    /// Passes its readiness probe, terminating or not.
    pub serving: bool,
    /// Being deleted.
    pub terminating: bool,
    /// Its share of a weighted choice.
    pub weight: u32,
    /// Which traffic may use it now.
    pub eligible: EligibleView,
    /// Connections and requests it carries now; unknown if it is not eligible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
    /// How often it was chosen and answered; unknown if it is not eligible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picks: Option<u64>,
    /// For how long it is left out yet because it failed too often in a row; absent if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejected_seconds: Option<u64>,
    /// What it has of a full share while it starts slowly; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_percent: Option<u8>,
    /// What its health check says: `unknown`, `passing` or `failing`; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<String>,
}

/// Which traffic may use an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EligibleView {
    /// Under traffic policy Cluster.
    pub cluster: bool,
    /// Under traffic policy Local.
    pub local: bool,
}

/// Counters of one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatsView {
    /// Connections or flows accepted.
    pub accepted: u64,
    /// Connections or flows open now.
    pub open: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Choices that ClientIP affinity made.
    pub affinity_hits: u64,
    /// Choices made anew although there is affinity.
    pub affinity_misses: u64,
    /// Clients that ClientIP affinity remembers.
    pub affinity_entries: usize,
    /// Clients turned away.
    pub refused: u64,
    /// Clients for whom no endpoint could be connected.
    pub connect_failed: u64,
    /// Clients and requests turned away because as many as may be were under way.
    pub turned_away: u64,
}

/// One Ingress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its class, if it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Whether it is served here, or another controller's.
    pub served: bool,
    /// Its hosts; `*` for any.
    pub hosts: Vec<String>,
    /// Whether it asks for TLS.
    pub tls: bool,
    /// The IP addresses it answers on.
    pub addresses: Vec<String>,
    /// Its rules, as far as they are served; by host and path.
    pub rules: Vec<RuleView>,
    /// Rules that are not shown, which only `/live` does; it leaves out hosts in the same way.
    #[serde(skip_serializing_if = "is_zero")]
    pub rules_left_out: usize,
    /// Seconds since the Unix epoch, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
}

/// One path of one host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleView {
    /// `*` for any.
    pub host: String,
    /// `None` for a default backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Exact` or `Prefix`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_type: Option<String>,
    /// `namespace/service:port`.
    pub backend: String,
    /// Why the backend does not exist; requests are answered 503 then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// `namespace-service-port`, the name cookies are derived from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Cookie affinity of the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<CookieView>,
    /// Requests answered, by status code.
    pub requests: BTreeMap<u16, u64>,
    /// How long they took to the end of their answer.
    pub latency: LatencyView,
}

/// How long things took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LatencyView {
    /// How many, by bucket of [`LATENCY_BUCKETS`](crate::route::stats::LATENCY_BUCKETS), not cumulative; the last is over every bound.
    pub buckets: Vec<u64>,
    /// All of them together.
    pub seconds: f64,
}

/// Cookie affinity as one rule has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CookieView {
    /// The cookie's name.
    pub name: String,
    /// `balanced` or `persistent`.
    pub mode: String,
    /// Whether this rule gives the cookie out, or only honours it.
    pub issued: bool,
}

/// One listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerView {
    /// IP, port and protocol.
    pub address: String,
    /// What it is for: `ClusterIP`, `NodePort`, `LoadBalancer`, `external IP`, `health check` or `HTTP`.
    pub kind: String,
    /// The Service port it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Whether it is open.
    pub open: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// One finding.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FindingView {
    /// `info`, `warning` or `error`.
    pub severity: String,
    /// One CamelCase word for programs.
    pub reason: String,
    /// The object it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectView>,
    /// Where the object was written.
    pub file: String,
    /// Line in that file, from 1; 0 where there are no lines.
    pub line: usize,
    /// The field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

/// The name of an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectView {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for objects of the whole cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
