//! Events as programs read them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tidegate_l4::watch::WhyRefused;

use super::{Connection, ConnectionEnd, Event, Refused, Request, What};

impl Event {
    /// As a JSON object, whose `kind` says what the other fields are.
    pub fn to_json(&self) -> Value {
        let mut value = match &self.what {
            What::Connection(connection) => began(connection),
            What::ConnectionEnd(end) => ended(end),
            What::Refused(refused) => turned_away(refused),
            What::Request(request) => answered(request),
        };
        value["id"] = self.id.into();
        value["time"] = unix_millis(self.time).into();
        value
    }
}

fn began(connection: &Connection) -> Value {
    json!({
        "kind": "connection",
        "service": connection.service.to_string(),
        "protocol": connection.frontend.protocol.to_string(),
        "frontend": std::net::SocketAddr::new(connection.frontend.ip, connection.frontend.port).to_string(),
        "frontendKind": connection.kind.as_str(),
        "client": connection.client.to_string(),
        "upstream": connection.upstream.map(|upstream| upstream.to_string()),
        "endpoint": connection.endpoint.to_string(),
        "pod": connection.pod.as_deref(),
        "reason": connection.reason.as_str(),
        "why": connection.reason.why(),
    })
}

fn ended(end: &ConnectionEnd) -> Value {
    json!({
        "kind": "connectionEnd",
        "of": end.of,
        "ms": end.took.as_secs_f64() * 1e3,
        "bytesIn": end.bytes_in,
        "bytesOut": end.bytes_out,
    })
}

fn turned_away(refused: &Refused) -> Value {
    let why = match refused.why {
        WhyRefused::NobodyToServe => "No endpoint may serve this client: none is ready, or its address is not allowed.",
        WhyRefused::Full => "As many connections are open or waiting as the Service allows.",
        WhyRefused::NotReached => "No endpoint could be connected.",
        WhyRefused::OurTrouble => "This machine could not open a connection to an endpoint: see the log.",
    };
    json!({
        "kind": "refused",
        "service": refused.service.to_string(),
        "protocol": refused.frontend.protocol.to_string(),
        "frontend": std::net::SocketAddr::new(refused.frontend.ip, refused.frontend.port).to_string(),
        "client": refused.client.to_string(),
        "why": why,
    })
}

fn answered(request: &Request) -> Value {
    json!({
        "kind": "request",
        "method": request.method,
        "scheme": if request.is_tls { "https" } else { "http" },
        "host": request.host,
        "path": request.path,
        "protocol": request.protocol,
        "client": request.client.to_string(),
        "nth": request.nth,
        "onBehalfOf": request.on_behalf_of.map(|ip| ip.to_string()),
        "requestId": request.id,
        "ingress": request.ingress.as_ref().map(ToString::to_string),
        "service": request.service.as_deref(),
        "endpoint": request.endpoint.map(|endpoint| endpoint.to_string()),
        "pod": request.pod.as_deref(),
        "tries": request.tries,
        "status": request.status,
        "failure": request.failure,
        "ms": request.took.as_secs_f64() * 1e3,
        "bytesIn": request.bytes_in,
        "bytesOut": request.bytes_out,
        "reason": request.reason.map(super::Reason::as_str),
        "why": request.reason.map(super::Reason::why),
    })
}

fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
