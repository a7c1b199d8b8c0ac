//! The JSON of `/live`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FindingView, IngressView, ListenerView, RuleView, ServiceView, is_zero};

/// What happens at this moment, as `/live` tells it: of everything only so many, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiveView {
    /// The version of this Tidegate.
    pub version: String,
    /// When it was looked at, in milliseconds since the Unix epoch.
    pub time: u64,
    /// For how long the process has been there.
    pub uptime_seconds: u64,
    /// Counts the configurations of the process, from 1.
    pub generation: u64,
    /// Whether the process is on its way out.
    pub draining: bool,
    /// Whether it is the demo, which has a page of its own.
    pub demo: bool,
    /// The process as a whole, whatever the filter.
    pub totals: TotalsView,
    /// By namespace and name.
    pub services: Vec<ServiceView>,
    /// Services that the filter takes, shown or not.
    pub services_total: usize,
    /// By namespace and name.
    pub ingresses: Vec<IngressView>,
    /// Ingresses that the filter takes, shown or not.
    pub ingresses_total: usize,
    /// Rules that no Ingress wrote: the default backend of the command line.
    pub other_rules: Vec<RuleView>,
    /// What is wrong, the worst first.
    pub findings: Vec<FindingView>,
    /// Findings that the filter takes, shown or not.
    pub findings_total: usize,
    /// Certificates that are shown to some client; the first to end comes first.
    pub certificates: Vec<CertificateView>,
    /// Certificates that the filter takes, shown or not.
    pub certificates_total: usize,
    /// Listeners that could not be opened.
    pub listeners_failed: Vec<ListenerView>,
}

/// Counters of the process as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TotalsView {
    /// Connections and flows of Services, accepted.
    pub l4_accepted: u64,
    /// Connections and flows of Services, open now.
    pub l4_open: u64,
    /// Requests begun.
    pub requests: u64,
    /// Requests begun and not ended.
    pub requests_under_way: u64,
    /// Connections of HTTP clients, open now.
    pub http_connections: u64,
    /// Requests ended, by status code. It falls when a rule goes and takes its counters along.
    pub answers: BTreeMap<u16, u64>,
    /// Bytes from clients, of Services and HTTP.
    pub bytes_in: u64,
    /// Bytes to clients, of Services and HTTP.
    pub bytes_out: u64,
    /// Events that the live tail left out, as there were too many.
    pub tail_skipped: u64,
}

/// A certificate: what everybody sees who connects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertificateView {
    /// `namespace/name` of its Secret.
    pub secret: String,
    /// Hosts it is shown for, `*` for all that have none.
    pub hosts: Vec<String>,
    /// Hosts that are not shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub hosts_left_out: usize,
    /// From when it is good, in seconds since the Unix epoch.
    pub not_before: i64,
    /// Until when it is good, in seconds since the Unix epoch.
    pub not_after: i64,
    /// Subject, as RFC 4514 writes it.
    pub subject: String,
}
