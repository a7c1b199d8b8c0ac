//! The JSON of the demo's page.

use serde::{Deserialize, Serialize};

/// The demo: the answer of `/demo/state`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DemoView {
    /// When the process began, in milliseconds since the Unix epoch: another one, and everything begins anew.
    pub started: u64,
    /// The URL of the demo's page.
    pub page: String,
    /// The URL of the admin interface.
    pub admin: String,
    /// IP and port of HTTP.
    pub http: String,
    /// IP and port of HTTPS.
    pub https: String,
    /// The pods that live.
    pub pods: Vec<DemoPodView>,
    /// Those that were killed last.
    pub gone: Vec<DemoPodView>,
    /// Whether there may be one more.
    pub can_add: bool,
    /// `sessionAffinity` of Service kubia-nodeport: `None` or `ClientIP`.
    pub affinity: String,
    /// What the page asks.
    pub lanes: LanesView,
}

/// A pod of the demo, with what it counts itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DemoPodView {
    /// Its name.
    pub name: String,
    /// Its label `app`.
    pub app: String,
    /// Its IP address.
    pub address: String,
    /// Requests and datagrams that reached it.
    pub requests: u64,
    /// Connections that brought it a request.
    pub connections: u64,
}

/// What the demo's page asks: URLs, each of which shows one thing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LanesView {
    /// A NodePort.
    pub node_port: String,
    /// A NodePort with affinity by client IP.
    pub client_ip: String,
    /// A path of an Ingress.
    pub ingress: String,
    /// One with affinity by cookie.
    pub cookie: String,
    /// The name of that cookie.
    pub cookie_name: String,
    /// The path it is for.
    pub cookie_path: String,
    /// Hosts and paths of one Ingress.
    pub hosts: Vec<String>,
    /// The path of the Ingress, over HTTP/2; empty without HTTPS.
    pub http2: String,
}
