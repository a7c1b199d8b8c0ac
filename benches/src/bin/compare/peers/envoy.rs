//! Envoy: listeners and cluster from one file, the routes from another that it watches, as from a control plane.

use std::process::Command;

use serde_json::{Value, json};

use super::{File, Plane, Setup};
use crate::routes::Host;

const TYPES: &str = "type.googleapis.com/envoy";

pub(super) fn files(setup: &Setup, hosts: &[Host]) -> Vec<File> {
    let listeners = match setup.plane {
        Plane::One | Plane::Many => {
            let (web, tls) = (http_filter(setup), tls(setup));
            vec![
                json!({"name": "http", "address": address(setup.addr), "filter_chains": [{"filters": [web]}]}),
                json!({"name": "https", "address": address(setup.https), "filter_chains": [{"filters": [web], "transport_socket": tls}]}),
            ]
        }
        Plane::Tcp => {
            let proxy = json!({
                "name": "envoy.filters.network.tcp_proxy",
                "typed_config": {"@type": format!("{TYPES}.extensions.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "tcp", "cluster": "bench"},
            });
            vec![json!({"name": "tcp", "address": address(setup.addr), "filter_chains": [{"filters": [proxy]}]})]
        }
    };
    // Its defaults stop at 1,024 connections, requests and what waits.
    let no_limits =
        json!({"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]});
    let endpoint = json!({"endpoint": {"address": address(setup.backend)}});
    let bootstrap = json!({
        "node": {"id": "bench", "cluster": "bench"},
        "static_resources": {
            "listeners": listeners,
            "clusters": [{
                "name": "bench", "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": no_limits,
                "load_assignment": {"cluster_name": "bench", "endpoints": [{"lb_endpoints": [endpoint]}]},
            }],
        },
    });
    let mut files = vec![File { path: setup.directory.join("envoy.json"), text: bootstrap.to_string() }];
    if setup.plane != Plane::Tcp {
        files.push(File { path: routes_path(setup), text: routes(hosts).to_string() });
    }
    files
}

pub(super) fn start(command: &mut Command, setup: &Setup) {
    command.args(["--concurrency", &setup.workers.to_string(), "-l", "error", "--disable-hot-restart", "-c"]);
    command.arg(setup.directory.join("envoy.json"));
}

fn routes_path(setup: &Setup) -> std::path::PathBuf {
    setup.directory.join("routes.json")
}

fn address(addr: std::net::SocketAddr) -> Value {
    json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}})
}

fn http_filter(setup: &Setup) -> Value {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router"),
            "suppress_envoy_headers": true, "dynamic_stats": false,
        },
    });
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "http", "use_remote_address": true, "generate_request_id": false,
            "stream_idle_timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http2_protocol_options": {"max_concurrent_streams": 256},
            "rds": {
                "route_config_name": "bench",
                "config_source": {"resource_api_version": "V3", "path_config_source": {"path": routes_path(setup)}},
            },
            "http_filters": [router],
        },
    })
}

fn tls(setup: &Setup) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [{
                    "certificate_chain": {"filename": setup.certificate.certificate},
                    "private_key": {"filename": setup.certificate.key},
                }],
            },
        },
    })
}

fn routes(hosts: &[Host]) -> Value {
    let field = |key: &str, value: &str| json!({"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
    let hosts: Vec<Value> = hosts
        .iter()
        .map(|host| {
            let route =
                |prefix: &String| json!({"match": {"prefix": prefix}, "route": {"cluster": "bench", "timeout": "0s"}});
            let routes: Vec<Value> = host.prefixes.iter().map(route).collect();
            json!({"name": host.name, "domains": [host.name], "routes": routes})
        })
        .collect();
    json!({
        "version_info": "1",
        "resources": [{
            "@type": format!("{TYPES}.config.route.v3.RouteConfiguration"),
            "name": "bench", "ignore_port_in_host_matching": true, "virtual_hosts": hosts,
            "request_headers_to_add": [
                field("x-real-ip", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
                field("x-forwarded-host", "%REQ(:authority)%"),
            ],
        }],
    })
}
