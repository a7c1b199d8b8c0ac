//! `tidegate demo`: pods, the example manifests and Tidegate itself in one process, and what to try with them.
//!
//! | file | what it holds |
//! |---|---|
//! | `pods` | starting the pods |
//! | `play` | what its page sees and may do |

mod play;
mod pods;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::{ExitCode, Stdio},
    sync::{Arc, mpsc},
    thread,
};

use tidegate_crd::Document;

use self::play::Play;
use super::{DemoArgs, commands};
use crate::{
    admin::demo::Demo,
    app::{App, Options, Source},
    compile::settings::Settings,
    control::files::Batch,
    http::HttpOptions,
    snapshot::Snapshot,
};

/// The node the demo claims to be: some of the example pods run on it, others elsewhere.
const NODE_NAME: &str = "laptop";

/// Two, to show that a node port is open on every node address. (Where only the first exists, the other is reported.)
const NODE_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))];

macro_rules! examples {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("../../../../examples/", $name)))),*] };
}

/// The manifests of `examples/`.
const MANIFESTS: [(&str, &str); 49] = examples![
    "app-root.yaml",
    "backend-tls.yaml",
    "balance.yaml",
    "body-limit.yaml",
    "browser.yaml",
    "canary-cookie.yaml",
    "canary-header.yaml",
    "canary-weight.yaml",
    "class-parameters.yaml",
    "client-certificates.yaml",
    "clusterip.yaml",
    "cookie-options.yaml",
    "cookie.yaml",
    "ejection.yaml",
    "endpoints.yaml",
    "external-name.yaml",
    "force-https.yaml",
    "hash.yaml",
    "headers.yaml",
    "headless.yaml",
    "health-check.yaml",
    "https-redirect.yaml",
    "idle-timeout.yaml",
    "ingress.yaml",
    "limits.yaml",
    "load-balancer.yaml",
    "local.yaml",
    "multi-port.yaml",
    "names.yaml",
    "node-port.yaml",
    "passthrough.yaml",
    "pod-names.yaml",
    "pods.yaml",
    "pool.yaml",
    "proxy-protocol.yaml",
    "quiet.yaml",
    "redirect.yaml",
    "regex.yaml",
    "retries.yaml",
    "rewrite-prefix.yaml",
    "rewrite.yaml",
    "session-affinity.yaml",
    "slow-start.yaml",
    "streaming.yaml",
    "timeouts.yaml",
    "tls.yaml",
    "udp.yaml",
    "upstream-vhost.yaml",
    "upstream.yaml",
];

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let mut documents = documents();
    commands::runtime()?.block_on(async {
        let (changes, later) = mpsc::channel();
        let play = Arc::new(Play::start(&mut documents, changes).await?);
        let options = Options {
            source: Source::Given(Batch { apply: documents, ..Batch::default() }, later),
            settings: Settings {
                node_name: NODE_NAME.into(),
                node_addresses: NODE_ADDRESSES.to_vec(),
                ..Settings::default()
            },
            http: Some(args.http),
            https: Some(args.https),
            clients: HttpOptions::default(),
            admin: args.admin,
            metrics: None,
            dns: Some(args.dns),
            dns_forward: Vec::new(),
            workers: commands::default_workers(),
            drain_timeout: commands::DEMO_DRAIN,
            remember: false,
            upgrade_socket: None,
            access_log: None,
            nginx_metrics: false,
            controller: None,
            demo: Some(play.clone()),
        };
        commands::serve(options, |app| introduce(app, &play, args.open)).await
    })
}

fn documents() -> Vec<Document> {
    MANIFESTS
        .iter()
        .flat_map(|(name, text)| tidegate_crd::yaml::parse(&Path::new("examples").join(name), text).documents)
        .collect()
}

fn introduce(app: &App, play: &Play, open: bool) -> anyhow::Result<()> {
    commands::print(&app.listening())?;
    let Some((snapshot, view)) = app.snapshot().zip(play.view()) else { return Ok(()) };
    if open {
        open_page(&view.page);
    }
    let names = play.living();
    let running = if names.is_empty() { "no".to_owned() } else { names.join(", ") };
    commands::print(&format!("\nRunning pods: {running}. In another terminal:\n"))?;
    for (command, what) in things_to_try(app, &snapshot) {
        commands::print(&format!("  {command}\n      {what}"))?;
    }
    if !app.status().failed().is_empty() {
        commands::print("\nNot all of this will work: see the lines above that begin with \"failed\".")?;
    }
    commands::print(
        "\nWhat is warned of kubia-checked is meant: examples/health-check.yaml has a pod that fails its health check.",
    )?;
    commands::print(&format!("\nLook at it in a browser: {}\n\nCtrl-C ends the demo.", view.page))
}

/// Opens the page in the browser, which may take its time.
fn open_page(page: &str) {
    let say = |page: &str, error: io::Error| eprintln!("cannot open {page} in a browser: {error}");
    let url = page.to_owned();
    let begun = thread::Builder::new().name("open".to_owned()).spawn(move || {
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for mut command in open::commands(&url) {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            // Ctrl-C is meant for the demo, and not for a browser that it has started.
            #[cfg(unix)]
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            match command.status() {
                Ok(status) if status.success() => return,
                Ok(status) => failed = io::Error::other(status.to_string()),
                Err(error) => failed = error,
            }
        }
        say(&url, failed);
    });
    begun.map(drop).unwrap_or_else(|error| say(page, error));
}

/// Commands, and what is to be seen when they are run.
fn things_to_try(app: &App, snapshot: &Snapshot) -> Vec<(String, &'static str)> {
    let (http, admin) = (app.http(), app.admin());
    let [kubia, sticky, ports, balanced] =
        ["kubia", "kubia-sticky", "kubia-ports", "kubia-loadbalancer"].map(|name| cluster_urls(snapshot, name));
    let first = |urls: &[String]| urls.first().cloned().unwrap_or_default();
    let (kubia, sticky) = (first(&kubia), first(&sticky));
    let ours = if admin.port() == 9901 { String::new() } else { format!(" --admin {admin}") };
    let mut rows = vec![
        (format!("curl {kubia}"), "drawn anew each time: a Service chooses for each connection"),
        (format!("curl {kubia} {kubia} {kubia}"), "one pod: curl keeps its connection, as a browser does"),
        (format!("curl {sticky}"), "always the same pod: sessionAffinity: ClientIP"),
        (format!("curl {}", ports.join(" ")), "a Service with two named ports"),
        ("curl http://127.0.0.1:30123/ http://127.0.0.2:30123/".to_owned(), "a NodePort, on every node address"),
        (
            format!("curl {} http://127.0.0.1:30124/ {}", load_balancer_url(snapshot), first(&balanced)),
            "a LoadBalancer, which is also a NodePort and has a ClusterIP",
        ),
        (
            format!("curl -H 'Host: kubia.example.com' 'http://{http}/?[1-6]'"),
            "many pods: an Ingress chooses for each request, even on one connection",
        ),
        (format!("curl -H 'Host: quiz.example.com' http://{http}/"), "another Service on the same address"),
        (
            format!("curl -b '' -H 'Host: sticky.example.com' 'http://{http}/?[1-6]'"),
            "one pod: an Ingress may go by a cookie",
        ),
    ];
    rows.extend(app.dns().map(|dns| {
        let name = "external-service.default.svc.cluster.local CNAME";
        let command = format!("dig +short @{} -p {} {name}", dns.ip(), dns.port());
        (command, "an ExternalName is an alias in DNS, and nothing else")
    }));
    rows.extend([
        (format!("tidegate get services{ours}"), "what there is; also: get endpoints, get ingresses"),
        (
            format!("tidegate explain {}{ours}", kubia.replace("http", "tcp").trim_end_matches('/')),
            "why a connection goes where it goes",
        ),
        (format!("curl http://{admin}/metrics"), "connections, requests, bytes and picks, for Prometheus"),
    ]);
    rows
}

/// The URL of each port of a Service, by its ClusterIP.
fn cluster_urls(snapshot: &Snapshot, service: &str) -> Vec<String> {
    let row = snapshot.services.iter().find(|row| &*row.name == service);
    let addrs = row.into_iter().flat_map(|row| {
        row.cluster_ips.iter().flat_map(|ip| row.ports.iter().map(|port| SocketAddr::new(*ip, port.port)))
    });
    addrs.map(|addr| format!("http://{addr}/")).collect()
}

fn load_balancer_url(snapshot: &Snapshot) -> String {
    let row = snapshot.services.iter().find(|row| &*row.name == "kubia-loadbalancer");
    let addr = row.and_then(|row| Some((row.external.first()?, row.ports.first()?.port)));
    addr.map(|(ip, port)| format!("http://{ip}:{port}/")).unwrap_or_default()
}
