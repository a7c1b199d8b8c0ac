//! nginx: one `server` for each host and one `location` for each path, as ingress-nginx writes them.

use std::{fmt::Write, process::Command};

use super::{File, Plane, Setup};
use crate::{programs::Programs, routes::Host};

pub(super) fn files(setup: &Setup, hosts: &[Host], programs: &Programs) -> Vec<File> {
    let text = match setup.plane {
        Plane::One | Plane::Many => format!("{}{}", top(setup), http(setup, hosts)),
        Plane::Tcp => {
            let module = programs.nginx_stream_module.as_ref();
            let load = module.map(|path| format!("load_module {};\n", path.display())).unwrap_or_default();
            format!("{load}{}{}", top(setup), stream(setup))
        }
    };
    vec![File { path: setup.directory.join("nginx.conf"), text }]
}

pub(super) fn start(command: &mut Command, setup: &Setup) {
    command.arg("-p").arg(&setup.directory).arg("-c").arg(setup.directory.join("nginx.conf"));
}

fn top(setup: &Setup) -> String {
    // As root its workers would be somebody else, who may not write here.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    format!(
        "{user}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile {files};\npid {at}/nginx.pid;\n\
         error_log stderr crit;\nevents {{ worker_connections {files}; multi_accept on; use epoll; }}\n",
        workers = setup.workers,
        files = setup.files.saturating_sub(500).min(40_000),
        at = setup.directory.display(),
    )
}

/// Buffers are large enough for the bodies of the measurements, uploads stream, and connections are kept for good.
fn http(setup: &Setup, hosts: &[Host]) -> String {
    let Setup { addr, https, backend, certificate, .. } = setup;
    let mut text = format!(
        "http {{
 access_log off; server_tokens off; tcp_nodelay on; reset_timedout_connection on;
 keepalive_timeout 300s; keepalive_requests 1000000000;
 client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
 client_max_body_size 0; client_body_buffer_size 128k; proxy_request_buffering off;
 proxy_buffer_size 8k; proxy_buffers 16 32k; proxy_busy_buffers_size 64k; proxy_max_temp_file_size 0;
 server_names_hash_max_size 16384; server_names_hash_bucket_size 64;
 map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
 upstream backend {{ server {backend}; keepalive 512; keepalive_requests 1000000000; keepalive_timeout 300s; }}
 proxy_http_version 1.1;
 proxy_set_header Host $host;
 proxy_set_header Upgrade $http_upgrade;
 proxy_set_header Connection $connection_upgrade;
 proxy_set_header X-Real-IP $remote_addr;
 proxy_set_header X-Forwarded-For $remote_addr;
 proxy_set_header X-Forwarded-Proto $scheme;
 proxy_set_header X-Forwarded-Host $host;
 ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
 ssl_session_cache shared:tls:10m; ssl_session_tickets on;
 http2_max_concurrent_streams 256;
 server {{
  listen {addr} default_server reuseport backlog=8192;
  listen {https} default_server reuseport backlog=8192 ssl http2;
  return 404;
 }}
",
        certificate = certificate.certificate.display(),
        key = certificate.key.display(),
    );
    for host in hosts {
        let _ = writeln!(text, " server {{ listen {addr}; listen {https} ssl http2; server_name {};", host.name);
        for prefix in &host.prefixes {
            let _ = writeln!(text, "  location {prefix} {{ proxy_pass http://backend; }}");
        }
        text.push_str(" }\n");
    }
    text.push_str("}\n");
    text
}

/// The large buffer is what makes nginx fast at bulk; it costs it memory for each connection.
fn stream(setup: &Setup) -> String {
    format!(
        "stream {{\n proxy_buffer_size 64k; proxy_half_close on; tcp_nodelay on;\n server {{ listen {} reuseport backlog=8192; \
         proxy_pass {}; }}\n}}\n",
        setup.addr, setup.backend
    )
}
