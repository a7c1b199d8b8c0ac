//! The command line: what was written, and what is meant by it.

mod commands;
mod demo;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::{
    access_log::{Format, LogOptions, Target},
    compile::settings::{AddressSource, ClassSettings, DefaultBackend, Settings, TlsSettings},
    controller::publish::{Address, Publish},
    pod::Listen,
    tls::MinVersion,
};

/// The front door of a Kubernetes cluster, or of a laptop without one.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, about, max_term_width = 110)]
pub struct Cli {
    /// How Tidegate's own log is written to stderr; what is in it, TIDEGATE_LOG or RUST_LOG says: info (the default), debug, or
    /// tidegate::http=debug,info
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve manifests until Ctrl-C or SIGTERM (drains; a second signal cuts)
    #[command(args_override_self = true)] // so that what a chart says can be said again
    Run(Box<RunArgs>),
    /// Start pods and the example manifests in this process, and say what to try
    Demo(DemoArgs),
    /// Say what is wrong with manifests; exits 0 if nothing is, 1 for warnings, 2 for errors
    Check(CheckArgs),
    /// Say step by step why a request or connection goes where it goes
    Explain(Box<ExplainArgs>),
    /// Print Services, endpoints or Ingresses of a running Tidegate as kubectl does
    Get(GetArgs),
    /// Run a pod that says who it is: HTTP and UDP, for demos and tests
    Pod(PodArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// Files and directories of Kubernetes YAML or JSON; they are watched
    #[arg(long, required_unless_present = "kubernetes", num_args = 1.., value_name = "PATH")]
    manifests: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    controller: ControllerArgs,
    /// Serve HTTP here, or nowhere
    #[arg(long, default_value = "0.0.0.0:8080", value_name = "ADDR|off", value_parser = place)]
    http: MaybeAddr,
    /// Serve HTTPS here, or nowhere
    #[arg(long, default_value = "0.0.0.0:8443", value_name = "ADDR|off", value_parser = place)]
    https: MaybeAddr,
    /// Believe these proxies what X-Forwarded-For and its like say of their clients [default: nobody]
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    trusted_proxies: Vec<IpNet>,
    /// Expect a PROXY protocol header (v1 or v2) at the beginning of each HTTP and HTTPS connection
    #[arg(long)]
    proxy_protocol: bool,
    /// Serve health, metrics and configuration here
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDR")]
    admin: SocketAddr,
    /// Serve health and metrics alone here, besides: for Prometheus on other machines, who is not to see more [default: off]
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Serve DNS here, over UDP and TCP [default: off]
    #[arg(long, value_name = "ADDR")]
    dns: Option<SocketAddr>,
    /// Ask these servers for names outside the cluster [default: refuse them]
    #[arg(long, num_args = 1.., value_name = "ADDR")]
    dns_forward: Vec<SocketAddr>,
    #[command(flatten)]
    serve: ServeArgs,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// How long connections may take to end after the first signal
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    drain_timeout: Duration,
    /// A Unix socket for upgrades in place: if an older process answers there, take over its sockets, and it leaves
    #[arg(long, value_name = "PATH")]
    upgrade_socket: Option<PathBuf>,
    #[command(flatten)]
    see: SeeArgs,
}

/// The cluster whose objects are served.
#[derive(Args, Debug)]
struct ClusterArgs {
    /// Serve the Ingresses of a Kubernetes cluster: the one whose pod this is, else the kubeconfig's
    #[arg(long, conflicts_with = "manifests")]
    kubernetes: bool,
    /// The kubeconfig that says where the API server is [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests", value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current one]
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests", value_name = "NAME")]
    context: Option<String>,
    /// Look at these namespaces only [default: all]
    #[arg(
        long,
        requires = "kubernetes",
        conflicts_with = "manifests",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    watch_namespace: Vec<String>,
    /// Serve Ingresses that name no class, too, where no class is the default
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests")]
    watch_ingress_without_class: bool,
    /// Remember in this directory what was heard of the cluster, for a start while its API server is away; private keys are in it
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests", value_name = "PATH")]
    cache_dir: Option<PathBuf>,
    /// Serve this node's part of the Services, too: node ports and LoadBalancer IPs. ClusterIPs are left to kube-proxy
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests")]
    node: bool,
}

/// Where to listen, if anywhere.
#[derive(Clone, Copy, Debug)]
struct MaybeAddr(Option<SocketAddr>);

/// What is written to the cluster.
#[derive(Args, Debug)]
struct ControllerArgs {
    /// NAMESPACE/NAME of the Service whose addresses the status of Ingresses shows [default: none, and it is not written]
    #[arg(
        long,
        requires = "kubernetes",
        conflicts_with_all = ["publish_status_address", "manifests"],
        value_name = "SERVICE",
        value_parser = service_name
    )]
    publish_service: Option<DefaultBackend>,
    /// IP addresses and names that the status of Ingresses shows
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests", value_delimiter = ',', value_name = "ADDRESS", value_parser = publish_address)]
    publish_status_address: Vec<Address>,
    /// The Lease by which the replicas agree which of them writes; other classes, another Lease. With off, this one never writes
    #[arg(long, default_value = "tidegate-leader", value_name = "NAME|off")]
    leader_election_id: String,
    /// The namespace of the Lease [default: $POD_NAMESPACE, else the service account's or the kubeconfig's]
    #[arg(long, requires = "kubernetes", conflicts_with = "manifests", value_name = "NAMESPACE")]
    leader_namespace: Option<String>,
}

impl ControllerArgs {
    fn publish(self) -> Publish {
        match self.publish_service {
            Some(DefaultBackend { namespace, service }) => Publish::Service { namespace, name: service },
            None if self.publish_status_address.is_empty() => Publish::Nothing,
            None => Publish::Addresses(self.publish_status_address),
        }
    }
}

/// What is written down about requests.
#[derive(Args, Debug)]
struct SeeArgs {
    /// Write a line for each request to this file, or to stdout if it is "-"; reopened on SIGHUP and after log rotation
    #[arg(long, default_value = "off", value_name = "PATH|-|off", value_parser = log_target)]
    access_log: LogTarget,
    /// json, combined, ingress-nginx, or a text with nginx's variables such as $status
    #[arg(long, default_value = "json", value_name = "FORMAT")]
    access_log_format: Format,
    /// Serve metrics under the names of ingress-nginx, too
    #[arg(long)]
    nginx_metrics: bool,
}

/// Where the access log goes, if anywhere.
#[derive(Clone, Debug)]
struct LogTarget(Option<Target>);

impl SeeArgs {
    fn access_log(&self) -> Option<LogOptions> {
        let target = self.access_log.0.clone()?;
        Some(LogOptions { target, format: self.access_log_format.clone() })
    }
}

/// What decides how manifests are compiled.
#[derive(Args, Debug)]
struct ServeArgs {
    /// The addresses that answer node ports [default: 127.0.0.1; with --kubernetes the InternalIPs of the Node]
    #[arg(long, num_args = 1.., value_name = "IP")]
    node_address: Vec<IpAddr>,
    /// What "local" means to traffic policies and hints [default: the host's name; with --kubernetes first $NODE_NAME]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// DNS suffix of the cluster
    #[arg(long, default_value = "cluster.local", value_name = "NAME", value_parser = domain)]
    cluster_domain: String,
    /// ClusterIPs to hand out; one range for each IP family, separated by a comma
    #[arg(long, value_delimiter = ',', default_value = "127.96.0.0/16", value_name = "CIDR")]
    service_cidr: Vec<IpNet>,
    /// LoadBalancer IPs to hand out where no LoadBalancerPool of the manifests has any
    #[arg(long, value_delimiter = ',', default_value = "127.97.0.0/24", value_name = "CIDR")]
    load_balancer_pool: Vec<IpNet>,
    /// In a cluster: give addresses to LoadBalancer Services that name no loadBalancerClass, too
    #[arg(long)]
    default_load_balancer: bool,
    /// Serve spec.externalIPs: only where all who may write Services are trusted (CVE-2020-8554)
    #[arg(long)]
    allow_external_ips: bool,
    /// NAMESPACE/NAME of the Service for requests that no rule takes [default: answer 404]
    #[arg(long, value_name = "SERVICE", value_parser = service_name)]
    default_backend_service: Option<DefaultBackend>,
    /// NAMESPACE/NAME of the Secret whose certificate is shown where none is configured [default: a stand-in]
    #[arg(long, value_name = "SECRET", value_parser = secret_name)]
    default_ssl_certificate: Option<SecretName>,
    /// The oldest TLS that is spoken with clients
    #[arg(long, default_value = "1.2", value_name = "VERSION")]
    tls_min_version: TlsVersion,
    #[command(flatten)]
    classes: ClassArgs,
}

/// Which Ingresses are ours.
#[derive(Args, Debug)]
struct ClassArgs {
    /// Values of an IngressClass's spec.controller that are ours
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "tidegate.io/ingress,k8s.io/ingress-nginx",
        value_name = "CONTROLLER"
    )]
    controller_class: Vec<String>,
    /// Classes that are ours where no IngressClass of that name exists
    #[arg(long, value_delimiter = ',', default_value = "tidegate,nginx", value_name = "NAME")]
    ingress_class: Vec<String>,
}

impl ClassArgs {
    fn settings(self, in_cluster: bool) -> ClassSettings {
        ClassSettings {
            controllers: self.controller_class.into_iter().map(Arc::from).collect(),
            implied: self.ingress_class.into_iter().map(Arc::from).collect(),
            without_class: !in_cluster,
            among_others: in_cluster,
        }
    }
}

impl ServeArgs {
    /// `in_cluster`: there is a Node that knows its addresses, and a pod that is told which one it is on.
    fn settings(self, in_cluster: bool) -> Settings {
        let node_addresses = match self.node_address {
            none if none.is_empty() && !in_cluster => vec![IpAddr::from([127, 0, 0, 1])],
            given => given,
        };
        let told = || std::env::var("NODE_NAME").ok().filter(|name| in_cluster && !name.is_empty());
        Settings {
            node_addresses,
            serves_node: false,
            node_name: self.node_name.or_else(told).unwrap_or_else(host_name).into(),
            cluster_domain: self.cluster_domain.into(),
            addresses: AddressSource::Ranges,
            service_cidrs: self.service_cidr,
            load_balancer_pools: self.load_balancer_pool,
            default_load_balancer: self.default_load_balancer,
            allow_external_ips: self.allow_external_ips,
            default_backend: self.default_backend_service,
            tls: TlsSettings {
                default_certificate: self.default_ssl_certificate.map(|secret| (secret.namespace, secret.name)),
                min_version: self.tls_min_version.into(),
                ..TlsSettings::default()
            },
            classes: self.classes.settings(in_cluster),
        }
    }
}

#[derive(Args, Debug)]
struct DemoArgs {
    /// Serve HTTP here
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    http: SocketAddr,
    /// Serve HTTPS here
    #[arg(long, default_value = "127.0.0.1:8443", value_name = "ADDR")]
    https: SocketAddr,
    /// Serve health, metrics and configuration here
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDR")]
    admin: SocketAddr,
    /// Serve DNS here, over UDP and TCP
    #[arg(long, default_value = "127.0.0.1:10053", value_name = "ADDR")]
    dns: SocketAddr,
    /// Open the demo's page in the browser
    #[arg(long)]
    open: bool,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// Files and directories of Kubernetes YAML or JSON
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    classes: ClassArgs,
    /// Print for programs
    #[arg(short, long, value_enum)]
    output: Option<JsonOutput>,
}

#[derive(Args, Debug)]
struct ExplainArgs {
    /// "GET http://host/path", tcp://IP:PORT or udp://IP:PORT
    target: String,
    /// A header of the request, as "Name: value"
    #[arg(long, value_name = "K:V")]
    header: Vec<String>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// Explain by these manifests
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with = "admin")]
    manifests: Vec<PathBuf>,
    /// Explain by what a running Tidegate serves [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    serve: ServeArgs,
    /// Print for programs
    #[arg(short, long, value_enum)]
    output: Option<JsonOutput>,
}

#[derive(Args, Debug)]
struct GetArgs {
    /// What to print
    #[arg(value_enum)]
    what: What,
    /// Print for programs, or more columns
    #[arg(short, long, value_enum)]
    output: Option<TableOutput>,
    /// The admin address of the running Tidegate
    #[arg(long, default_value = "127.0.0.1:9901", value_name = "ADDR")]
    admin: SocketAddr,
}

#[derive(Args, Debug)]
struct PodArgs {
    /// What it calls itself
    #[arg(long)]
    name: String,
    /// Where it listens: ADDR or http://ADDR for HTTP, udp://ADDR for UDP
    #[arg(long, required = true, num_args = 1.., value_name = "ADDR")]
    listen: Vec<Listen>,
    /// Expect a PROXY protocol header at the beginning of each TCP connection
    #[arg(long)]
    proxy_protocol: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum JsonOutput {
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TableOutput {
    Json,
    Wide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    #[value(aliases = ["service", "svc"])]
    Services,
    #[value(aliases = ["endpoint", "ep"])]
    Endpoints,
    #[value(aliases = ["ingress", "ing"])]
    Ingresses,
}

/// Namespace and name.
#[derive(Clone, Debug)]
struct SecretName {
    namespace: Arc<str>,
    name: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TlsVersion {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

impl From<TlsVersion> for MinVersion {
    fn from(version: TlsVersion) -> Self {
        match version {
            TlsVersion::Tls12 => Self::Tls12,
            TlsVersion::Tls13 => Self::Tls13,
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// An object a line, for programs.
    Json,
}

impl Cli {
    /// How the log is to be written.
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever keeps it from being done, in words for people.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => commands::run(*args),
            Command::Demo(args) => demo::run(&args),
            Command::Check(args) => commands::check(args),
            Command::Explain(args) => commands::explain(*args),
            Command::Get(args) => commands::get(&args),
            Command::Pod(args) => commands::pod(args),
        }
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn domain(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.len() <= 200 && text.split('.').all(label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("write a DNS name such as cluster.local".to_owned())
    }
}

fn place(text: &str) -> Result<MaybeAddr, String> {
    match text {
        "off" => Ok(MaybeAddr(None)),
        text => text.parse().map(|addr| MaybeAddr(Some(addr))).map_err(|_| "write IP:PORT, or off".to_owned()),
    }
}

fn publish_address(text: &str) -> Result<Address, String> {
    if let Ok(ip) = text.parse() {
        return Ok(Address::Ip(ip));
    }
    domain(text).map(Address::Name).map_err(|_| "write an IP address or a DNS name such as edge.example.com".to_owned())
}

/// Never an error: any path may name a file, and whether it can be opened is seen when it is.
fn log_target(text: &str) -> Result<LogTarget, std::convert::Infallible> {
    Ok(LogTarget(match text {
        "off" => None,
        "-" => Some(Target::Stdout),
        path => Some(Target::File(path.into())),
    }))
}

fn service_name(text: &str) -> Result<DefaultBackend, String> {
    let (namespace, service) = text.split_once('/').ok_or("write NAMESPACE/NAME")?;
    Ok(DefaultBackend { namespace: namespace.into(), service: service.into() })
}

fn secret_name(text: &str) -> Result<SecretName, String> {
    let (namespace, name) = text.split_once('/').ok_or("write NAMESPACE/NAME")?;
    Ok(SecretName { namespace: namespace.into(), name: name.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// clap forgives what is required where it conflicts with something that is there.
    #[test]
    fn what_is_for_a_cluster_is_refused_with_manifests() {
        for option in [
            "--node",
            "--kubeconfig=a",
            "--context=a",
            "--watch-namespace=a",
            "--cache-dir=a",
            "--publish-service=a/b",
            "--publish-status-address=192.0.2.1",
            "--leader-namespace=a",
            "--watch-ingress-without-class",
        ] {
            for source in [&["--manifests", "a"][..], &[]] {
                let words = [&["tidegate", "run", option], source].concat();
                assert!(Cli::try_parse_from(&words).is_err(), "{words:?}");
            }
            let error = Cli::try_parse_from(["tidegate", "run", "--kubernetes", option]).err();
            assert!(error.is_none(), "{}", error.unwrap());
        }
    }

    /// A chart says some of them; `extraArgs` come later.
    #[test]
    fn what_is_said_again_is_meant_and_lists_grow() {
        let words =
            "tidegate run --manifests a --admin=127.0.0.1:1 --ingress-class=a --admin=127.0.0.1:2 --ingress-class=b,c";
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Command::Run(args) = cli.command else { panic!("it is run") };
        assert_eq!(args.admin.port(), 2);
        assert_eq!(args.serve.classes.ingress_class, ["a", "b", "c"]);
    }
}
