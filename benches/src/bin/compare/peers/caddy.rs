//! Caddy, by its own JSON. Hosts are tried one after the other, as its Caddyfile would have them; with many routes one proxy
//! serves them all, so that they share its connections to the back end.

use std::process::Command;

use serde_json::{Value, json};

use super::{File, Setup};
use crate::routes::Host;

pub(super) fn files(setup: &Setup, hosts: &[Host]) -> Vec<File> {
    let backend = setup.backend.to_string();
    let proxy = json!({
        "handler": "reverse_proxy",
        "upstreams": [{"dial": backend}],
        "headers": {"request": {"set": {"X-Real-Ip": ["{http.request.remote.host}"]}}},
        "transport": {"protocol": "http", "compression": false, "keep_alive": {"max_idle_conns_per_host": 1024, "idle_timeout": "300s"}},
    });
    let mut routes: Vec<Value> = match hosts {
        [host] => {
            vec![json!({"match": [{"host": [host.name], "path": paths(host)}], "handle": [proxy], "terminal": true})]
        }
        hosts => {
            // The first host that matches takes the request; its paths decide whether the proxy gets it.
            let mut routes: Vec<Value> = hosts.iter().map(|host| mark(host, &backend)).collect();
            let is_marked = json!({"vars": {"{http.vars.backend}": [backend]}});
            routes.push(json!({"match": [is_marked], "handle": [proxy], "terminal": true}));
            routes
        }
    };
    routes.push(json!({"handle": [{"handler": "static_response", "status_code": 404}]}));
    let server = |addr: std::net::SocketAddr| json!({"listen": [addr.to_string()], "routes": routes, "protocols": ["h1", "h2"], "automatic_https": {"disable": true}, "idle_timeout": "300s"});
    let mut https = server(setup.https);
    https["tls_connection_policies"] = json!([{}]);
    let certificate = json!({"certificate": setup.certificate.certificate, "key": setup.certificate.key});
    let config = json!({
        "admin": {"listen": setup.admin.to_string()},
        "logging": {"logs": {"default": {"level": "ERROR"}}},
        "apps": {
            "http": {"servers": {"http": server(setup.addr), "https": https}, "grace_period": "5s"},
            "tls": {"certificates": {"load_files": [certificate]}},
        },
    });
    vec![File { path: setup.directory.join("caddy.json"), text: config.to_string() }]
}

pub(super) fn start(command: &mut Command, setup: &Setup) {
    command.arg("run").arg("--config").arg(setup.directory.join("caddy.json"));
    command.env("GOMAXPROCS", setup.workers.to_string());
    for variable in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"] {
        command.env(variable, &setup.directory);
    }
}

fn paths(host: &Host) -> Vec<String> {
    host.prefixes.iter().map(|prefix| format!("{prefix}*")).collect()
}

fn mark(host: &Host, backend: &str) -> Value {
    let routes: Vec<Value> = paths(host)
        .into_iter()
        .map(|path| json!({"match": [{"path": [path]}], "handle": [{"handler": "vars", "backend": backend}], "group": "paths"}))
        .collect();
    json!({"group": "hosts", "match": [{"host": [host.name]}], "handle": [{"handler": "subroute", "routes": routes}]})
}
