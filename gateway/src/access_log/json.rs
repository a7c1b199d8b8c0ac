//! The `json` format: one object a line, with the same names whatever the rule or the pod; what there is not is left out.

use std::io::Write;

use super::{escape::Escape, record::Record};

/// Where in the values of [`Needs::json`](super::format::Needs::json) these fields are.
pub(super) const USER_AGENT: usize = 0;
pub(super) const REFERER: usize = 1;

/// Appends the object, without a line end.
pub(super) fn write(record: &Record<'_>, out: &mut Vec<u8>) {
    let (details, end) = (record.details, &record.end);
    let mut object = Object { out };
    let (_, millis) = record.clock.unix();
    object.first(format_args!("\"time\":\"{}.{millis:03}Z\"", record.clock.date()));
    object.text("request_id", details.id());
    object.own("client", details.client);
    object.text("method", details.method());
    object.text("scheme", Some(record.scheme().as_bytes()));
    object.text("host", details.host());
    object.text("path", record.path());
    object.text("query", record.query());
    object.text("protocol", record.protocol().map(str::as_bytes));
    object.number("status", Some(end.status));
    object.number("bytes_in", Some(end.bytes_in));
    object.number("bytes_out", Some(end.bytes_out));
    object.seconds("duration", Some(end.took));
    object.text("user_agent", details.value(USER_AGENT));
    object.text("referer", details.value(REFERER));
    if let Some(rule) = record.rule {
        object.text("namespace", Some(rule.owner.namespace.as_bytes()));
        object.text("ingress", Some(rule.owner.name.as_bytes()));
        object.text("rule_host", Some(rule.host.as_bytes()));
        object.text("rule_path", record.rule_path().map(str::as_bytes));
        // Of its namespace, as every backend of an Ingress.
        object.text("service", record.service().map(|(_, service, _)| service.as_bytes()));
        object.text("service_port", record.service().map(|(_, _, port)| port.as_bytes()));
        object.text("alternative_service", details.alternative());
    }
    if let Some(tried) = record.last_try() {
        object.text("pod", details.pod(tried));
        object.own("endpoint", Some(tried.endpoint));
        object.number("upstream_status", tried.status);
        object.seconds("upstream_connect", tried.connect);
        object.seconds("upstream_header", tried.header);
        object.seconds("upstream_response", tried.response);
        object.number("tries", Some(details.tries().len()));
    }
    if let Some(tls) = record.tls() {
        object.text("tls_version", Some(tls.version.as_bytes()));
        object.text("sni", tls.sni.as_ref().map(|sni| sni.as_bytes()));
    }
    object.text("failure", end.failure.map(str::as_bytes));
    object.out.push(b'}');
}

struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl Object<'_> {
    fn first(&mut self, member: std::fmt::Arguments<'_>) {
        self.out.push(b'{');
        self.write(member);
    }

    /// What a stranger may have written.
    fn text(&mut self, name: &str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.name(name);
            self.out.push(b'"');
            Escape::Json.write(value, self.out);
            self.out.push(b'"');
        }
    }

    /// An address.
    fn own(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.name(name);
            self.write(format_args!("\"{value}\""));
        }
    }

    fn number(&mut self, name: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.name(name);
            self.write(format_args!("{value}"));
        }
    }

    fn seconds(&mut self, name: &str, value: Option<std::time::Duration>) {
        if let Some(value) = value {
            self.name(name);
            self.write(format_args!("{}.{:06}", value.as_secs(), value.subsec_micros()));
        }
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to memory does not fail.
        drop(self.out.write_fmt(text));
    }
}
