//! `tidegate demo`: pods, the example manifests and Tidegate itself in one process, and what to try with them.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use tidegate_crd::{Document, Object, core::Pod as WirePod};

use super::{DemoArgs, commands};
use crate::{
    app::{App, Options, Source},
    compile::settings::Settings,
    control::files::Batch,
    pod::{Listen, Pod, PodOptions},
    snapshot::Snapshot,
};

/// The node the demo claims to be: some of the example pods run on it, others elsewhere.
const NODE_NAME: &str = "laptop";

macro_rules! examples {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("../../../examples/", $name)))),*] };
}

/// The manifests of `examples/`.
const MANIFESTS: [(&str, &str); 14] = examples![
    "balance.yaml",
    "clusterip.yaml",
    "cookie.yaml",
    "endpoints.yaml",
    "external-name.yaml",
    "headless.yaml",
    "ingress.yaml",
    "load-balancer.yaml",
    "local.yaml",
    "multi-port.yaml",
    "node-port.yaml",
    "pods.yaml",
    "session-affinity.yaml",
    "udp.yaml",
];

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let documents = documents();
    commands::runtime()?.block_on(async {
        let pods = start_pods(&documents).await?;
        let options = Options {
            source: Source::Given(Batch { apply: documents, ..Batch::default() }),
            settings: Settings { node_name: NODE_NAME.into(), ..Settings::default() },
            http: args.http,
            admin: args.admin,
            dns: Some(args.dns),
            dns_forward: Vec::new(),
            workers: commands::default_workers(),
            drain_timeout: commands::DEMO_DRAIN,
            remember: false,
        };
        let code = commands::serve(options, |app| introduce(app, &pods)).await;
        drop(pods);
        code
    })
}

fn documents() -> Vec<Document> {
    MANIFESTS
        .iter()
        .flat_map(|(name, text)| tidegate_crd::yaml::parse(&Path::new("examples").join(name), text).documents)
        .collect()
}

/// Starts every Pod that the manifests describe, on the addresses they give it.
async fn start_pods(documents: &[Document]) -> anyhow::Result<Vec<Pod>> {
    let mut pods = Vec::new();
    for document in documents {
        let Object::Pod(pod) = &document.object else { continue };
        let Some(options) = pod_options(pod) else { continue };
        let name = options.name.clone();
        match Pod::start(options).await {
            Ok(pod) => pods.push(pod),
            // Linux answers on all of 127.0.0.0/8; elsewhere only 127.0.0.1 may exist.
            Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
                eprintln!("{name} cannot be shown: this system has no address but 127.0.0.1 for it. {error}");
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{name} cannot be started; is another demo running?"));
            }
        }
    }
    Ok(pods)
}

fn pod_options(pod: &WirePod) -> Option<PodOptions> {
    let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let ports =
        pod.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| container.ports.iter().flatten());
    let listens = ports.filter_map(|port| {
        let addr = SocketAddr::new(ip, u16::try_from(port.container_port).ok()?);
        Some(if port.protocol.as_deref() == Some("UDP") { Listen::Udp(addr) } else { Listen::Http(addr) })
    });
    Some(PodOptions::new(pod.metadata.name.clone()?, listens))
}

fn introduce(app: &App, pods: &[Pod]) -> anyhow::Result<()> {
    commands::print(&app.listening())?;
    let Some(snapshot) = app.snapshot() else { return Ok(()) };
    let names: Vec<&str> = pods.iter().map(Pod::name).collect();
    let (http, admin) = (app.http(), app.admin());
    let dns = app.dns().map_or_else(String::new, |dns| format!("dig +short @{} -p {}", dns.ip(), dns.port()));
    let [kubia, sticky, ports, balanced] =
        ["kubia", "kubia-sticky", "kubia-ports", "kubia-loadbalancer"].map(|name| cluster_ip(&snapshot, name));
    let external = snapshot
        .services
        .iter()
        .find(|row| &*row.name == "kubia-loadbalancer")
        .and_then(|row| row.external.first().cloned())
        .unwrap_or_default();
    commands::print(&format!(
        "
Pods {} are running. In another terminal:

  curl http://{kubia}/                       another pod each time: a Service chooses for each connection
  curl http://{kubia}/ http://{kubia}/       one pod twice: curl keeps its connection, as a browser does
  curl http://{sticky}/                      always the same pod: sessionAffinity: ClientIP
  curl http://{ports}/ http://{ports}:8443/  a Service with two named ports
  curl http://127.0.0.1:30123/               a NodePort
  curl http://{external}/                    a LoadBalancer; also http://127.0.0.1:30124/ and http://{balanced}/
  curl -H 'Host: kubia.example.com' 'http://{http}/?[1-6]'
                                             an Ingress chooses for each request, even on one connection
  curl -H 'Host: quiz.example.com' http://{http}/
                                             another Service on the same address
  curl -c jar -b jar -H 'Host: sticky.example.com' http://{http}/
                                             always the same pod, by a cookie
  {dns} external-service.default.svc.cluster.local CNAME
                                             an ExternalName is an alias in DNS, and nothing else

  tidegate get services{admin_flag}
  tidegate explain tcp://{kubia}:80{admin_flag}
  curl http://{admin}/metrics

Ctrl-C ends the demo.",
        names.join(", "),
        admin_flag = if admin.port() == 9901 { String::new() } else { format!(" --admin {admin}") },
    ))
}

fn cluster_ip(snapshot: &Snapshot, service: &str) -> String {
    let row = snapshot.services.iter().find(|row| &*row.name == service);
    row.and_then(|row| row.cluster_ips.first()).map(ToString::to_string).unwrap_or_default()
}
