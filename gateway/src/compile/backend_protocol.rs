//! How pods are spoken to: `backend-protocol` of the Ingress, else `appProtocol` of the Service's port (KEP-3726).

use std::sync::Arc;

use super::{annotations::Protocol, finding::Report};
use crate::{
    route::policy::{BackendProtocol, Transport},
    tls::BackendTls,
};

/// The transport for a port; `None` if it needs TLS, which `tls_to_pods` (told whether HTTP/2 is spoken) cannot set up. An
/// `appProtocol` that nobody here knows is HTTP; TCP-ish names are common and harmless.
pub(crate) fn transport(
    annotation: Option<Protocol>,
    app_protocol: Option<&str>,
    tls_to_pods: &mut dyn FnMut(bool) -> Option<Arc<BackendTls>>,
) -> Option<Transport> {
    let (protocol, is_tls) = match annotation {
        Some(Protocol::Http) => (BackendProtocol::Http1, false),
        Some(Protocol::Https | Protocol::AsTheClient) => (BackendProtocol::Http1, true),
        Some(Protocol::Grpc) => (BackendProtocol::Http2, false),
        Some(Protocol::Grpcs) => (BackendProtocol::Http2, true),
        None => match app_protocol.unwrap_or_default().to_ascii_lowercase().as_str() {
            "kubernetes.io/h2c" | "grpc" => (BackendProtocol::Http2, false),
            "kubernetes.io/wss" | "https" => (BackendProtocol::Http1, true),
            "grpcs" => (BackendProtocol::Http2, true),
            // `http`, `kubernetes.io/ws`, and whatever else.
            _ => (BackendProtocol::Http1, false),
        },
    };
    let tls = if is_tls { Some(tls_to_pods(protocol == BackendProtocol::Http2)?) } else { None };
    let as_the_client = matches!(annotation, Some(Protocol::AsTheClient));
    Some(Transport { protocol, tls, as_the_client, ..Transport::default() })
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
    use crate::compile::{annotations::ProxySslOptions, tls_backend::backend_tls};

    #[test]
    fn the_annotation_comes_before_the_port() {
        let transport = |annotation, app_protocol| {
            let mut tls = |h2| backend_tls(None, &ProxySslOptions::default(), h2).ok();
            super::transport(annotation, app_protocol, &mut tls).unwrap()
        };
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
