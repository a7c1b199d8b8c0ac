//! How pods are spoken to: `backend-protocol` of the Ingress, else `appProtocol` of the Service's port (KEP-3726).

use std::sync::Arc;

use super::{annotations::Protocol, finding::Report};
use crate::{
    route::policy::{BackendProtocol, Transport},
    tls::{BackendTls, unverified},
};

/// The transport for a port. An `appProtocol` that nobody here knows is HTTP; TCP-ish names are common and harmless.
pub(crate) fn transport(annotation: Option<Protocol>, app_protocol: Option<&str>) -> Transport {
    let plain = |protocol| Transport { protocol, ..Transport::default() };
    let tls = |protocol| Transport { protocol, tls: Some(tls_to_pods()), ..Transport::default() };
    match annotation {
        Some(Protocol::Http) => plain(BackendProtocol::Http1),
        Some(Protocol::Https) => tls(BackendProtocol::Http1),
        Some(Protocol::AsTheClient) => Transport { as_the_client: true, ..tls(BackendProtocol::Http1) },
        Some(Protocol::Grpc) => plain(BackendProtocol::Http2),
        Some(Protocol::Grpcs) => tls(BackendProtocol::Http2),
        None => match app_protocol.unwrap_or_default().to_ascii_lowercase().as_str() {
            "kubernetes.io/h2c" | "grpc" => plain(BackendProtocol::Http2),
            "kubernetes.io/wss" | "https" => tls(BackendProtocol::Http1),
            "grpcs" => tls(BackendProtocol::Http2),
            // `http`, `kubernetes.io/ws`, and whatever else.
            _ => plain(BackendProtocol::Http1),
        },
    }
}

/// How TLS to pods is secured: not at all beyond encryption, as in ingress-nginx without `proxy-ssl-secret`.
fn tls_to_pods() -> Arc<BackendTls> {
    unverified()
}

/// FastCGI in `appProtocol` cannot be served, and is worth a word.
pub(crate) fn check(app_protocol: Option<&str>, field: &str, report: &mut Report<'_>) {
    if let Some(name) =
        app_protocol.filter(|name| name.eq_ignore_ascii_case("fcgi") || name.eq_ignore_ascii_case("fastcgi"))
    {
        let message =
            format!("the Service's port has appProtocol {name}, which is not spoken here; it is asked in HTTP.");
        report.warning("UnsupportedAppProtocol", field, message, "Put a web server into the pod.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_comes_before_the_port() {
        let words = |transport: Transport| {
            let protocol = if transport.protocol == BackendProtocol::Http2 { "h2" } else { "h1" };
            let tls = if transport.tls.is_some() { " tls" } else { "" };
            let auto = if transport.as_the_client { " auto" } else { "" };
            format!("{protocol}{tls}{auto}")
        };
        for (annotation, app_protocol, expected) in [
            (None, None, "h1"),
            (None, Some("kubernetes.io/h2c"), "h2"),
            (None, Some("kubernetes.io/ws"), "h1"),
            (None, Some("kubernetes.io/wss"), "h1 tls"),
            (None, Some("HTTPS"), "h1 tls"),
            (None, Some("http"), "h1"),
            (None, Some("grpc"), "h2"),
            (None, Some("mongo"), "h1"),
            (Some(Protocol::Http), Some("https"), "h1"),
            (Some(Protocol::Https), None, "h1 tls"),
            (Some(Protocol::AsTheClient), None, "h1 tls auto"),
            (Some(Protocol::Grpc), None, "h2"),
            (Some(Protocol::Grpcs), None, "h2 tls"),
        ] {
            assert_eq!(words(transport(annotation, app_protocol)), expected, "{annotation:?} {app_protocol:?}");
        }
        let auto = transport(Some(Protocol::AsTheClient), None);
        assert!(auto.tls_for(true).is_some() && auto.tls_for(false).is_none());
        assert_eq!(transport(Some(Protocol::Https), None), transport(None, Some("https")), "one configuration for all");
    }
}
