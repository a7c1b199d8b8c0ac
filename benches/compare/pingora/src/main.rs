//! The least proxy that does with pingora what the other peers do: host and path to a back end, who asked in the fields
//! for it, connections kept open both ways, no access log.
//!
//! `pingora-peer HTTP HTTPS CERTIFICATE KEY BACKEND WORKERS ROUTES`. ROUTES is a file of lines `host prefix`.

use std::{collections::HashMap, env, error::Error as StdError, fs, net::SocketAddr, process::ExitCode};

use async_trait::async_trait;
use pingora::{
    http::RequestHeader,
    listeners::tls::TlsSettings,
    prelude::*,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::configuration::ServerConf,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Peer {
    backend: SocketAddr,
    /// Prefixes by host, the longest first.
    routes: HashMap<String, Vec<String>>,
}

impl Peer {
    fn takes(&self, host: &str, path: &str) -> bool {
        let name = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
        self.routes.get(&name).is_some_and(|prefixes| prefixes.iter().any(|prefix| path.starts_with(prefix.as_str())))
    }
}

/// HTTP/2 has the name in `:authority`, HTTP/1 in `Host`.
fn host(request: &RequestHeader) -> String {
    let named = request.headers.get("host").and_then(|host| host.to_str().ok());
    named.or_else(|| request.uri.authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

#[async_trait]
impl ProxyHttp for Peer {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let request = session.req_header();
        if !self.takes(&host(request), request.uri.path()) {
            return Err(Error::new(ErrorType::HTTPStatus(404)));
        }
        Ok(Box::new(HttpPeer::new(self.backend, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        let client = session.client_addr().and_then(|addr| addr.as_inet()).map(|addr| addr.ip().to_string());
        let client = client.unwrap_or_default();
        let over_tls = session.digest().is_some_and(|digest| digest.ssl_digest.is_some());
        let host = host(session.req_header());
        upstream.insert_header("x-real-ip", &client)?;
        upstream.insert_header("x-forwarded-for", client)?;
        upstream.insert_header("x-forwarded-proto", if over_tls { "https" } else { "http" })?;
        upstream.insert_header("x-forwarded-host", &host)?;
        upstream.insert_header("host", host)
    }
}

fn read_routes(path: &str) -> std::io::Result<HashMap<String, Vec<String>>> {
    let mut routes: HashMap<String, Vec<String>> = HashMap::new();
    for line in fs::read_to_string(path)?.lines() {
        let Some((host, prefix)) = line.split_once(' ') else { continue };
        routes.entry(host.to_owned()).or_default().push(prefix.to_owned());
    }
    for prefixes in routes.values_mut() {
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
    }
    Ok(routes)
}

fn run(args: &[String]) -> std::result::Result<(), Box<dyn StdError>> {
    let [http, https, certificate, key, backend, workers, routes] = args else {
        return Err("usage: pingora-peer HTTP HTTPS CERTIFICATE KEY BACKEND WORKERS ROUTES".into());
    };
    let routes = read_routes(routes)?;
    let workers: usize = workers.parse()?;
    // Work is not stolen from one's only thread; without the attempt it is a little faster.
    let conf = ServerConf {
        threads: workers,
        work_stealing: workers > 1,
        upstream_keepalive_pool_size: 1024,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Peer { backend: backend.parse()?, routes });
    service.add_tcp(http);
    let mut tls = TlsSettings::intermediate(certificate, key)?;
    tls.enable_h2();
    service.add_tls_with_settings(https, None, tls);
    server.add_service(service);
    server.run_forever()
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if let Err(error) = run(&args) {
        eprintln!("{error}");
    }
    ExitCode::FAILURE
}
