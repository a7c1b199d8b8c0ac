//! HAProxy: a map from host and path to the back end, as its ingress controllers write it.

use std::{fmt::Write, process::Command};

use super::{File, Plane, Setup};
use crate::routes::Host;

pub(super) fn files(setup: &Setup, hosts: &[Host]) -> Vec<File> {
    let at = setup.directory.display();
    let mut text = format!(
        "global\n nbthread {workers}\n maxconn {connections}\n maxpipes 50\n tune.maxpollevents 512\n \
         stats socket {at}/admin.sock mode 600 level admin expose-fd listeners\n hard-stop-after 5s\n \
         ssl-default-bind-options ssl-min-ver TLSv1.2\n tune.h2.max-concurrent-streams 256\n\
         defaults\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n timeout http-keep-alive 300s\n \
         timeout tunnel 300s\n option splice-auto\n",
        workers = setup.workers,
        connections = setup.connections(),
    );
    let config = setup.directory.join("haproxy.cfg");
    if setup.plane == Plane::Tcp {
        // `splice-auto` is what makes HAProxy fast at bulk; it also costs it nothing elsewhere.
        let _ =
            write!(text, " mode tcp\nlisten bench\n bind {} backlog 8192\n server one {}\n", setup.addr, setup.backend);
        return vec![File { path: config, text }];
    }
    let routes = setup.directory.join("routes.map");
    let _ = write!(
        text,
        " mode http\n http-reuse always\n option forwardfor\n\
         frontend web\n bind {http} backlog 8192\n bind {https} backlog 8192 ssl crt {both} alpn h2,http/1.1\n \
         http-request del-header X-Forwarded-For\n \
         http-request set-header X-Real-IP %[src]\n \
         http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}\n \
         http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n \
         http-request set-header X-Forwarded-Host %[req.hdr(host)]\n \
         http-request set-var(txn.path) path\n \
         http-request set-var(txn.base) req.hdr(host),field(1,:),lower,concat(,txn.path)\n \
         use_backend %[var(txn.base),map_beg({routes},nobody)]\n\
         backend bench\n server one {backend} pool-max-conn 1024\n\
         backend nobody\n http-request return status 404\n",
        http = setup.addr,
        https = setup.https,
        both = setup.certificate.both.display(),
        routes = routes.display(),
        backend = setup.backend,
    );
    let mut map = String::new();
    for host in hosts {
        for prefix in &host.prefixes {
            let _ = writeln!(map, "{}{prefix} bench", host.name);
        }
    }
    vec![File { path: routes, text: map }, File { path: config, text }]
}

/// With a master, as a service manager runs it: otherwise it could not be told to reload.
pub(super) fn start(command: &mut Command, setup: &Setup) {
    command.args(["-W", "-db", "-f"]).arg(setup.directory.join("haproxy.cfg"));
}
