//! Tidegate in a cluster with two nodes, as its chart installs it, once for all tests of this process: two replicas that serve Ingresses
//! behind a Service of type LoadBalancer, and one on each node that serves the Services of the cluster there.

use std::{
    any::Any,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::OnceCell;

use super::nodes::Cluster;
use crate::{
    PATIENCE,
    chart::{Chart, DEPLOYMENT, Form, NODE},
    image, process,
};

/// Where the replicas are, and the release's name.
pub const NAMESPACE: &str = "tidegate";

/// Where those of the nodes are.
pub const NODE_NAMESPACE: &str = "tidegate-node";

/// Namespaces with this label, as `NAME=VALUE`, have LoadBalancer Services with addresses.
pub const HAS_ADDRESSES: &str = "addresses=yes";

/// The addresses that there are for LoadBalancer Services. Outside the nodes, they are led to the first node.
const ADDRESSES: &str = "10.89.1.0/24";

/// How long a machine that compiles meanwhile may take for pods to be ready.
pub const PODS_READY: Duration = Duration::from_secs(240);

/// What the gateway's release is told beyond its form: the nodes' Tidegates announce its address.
const GATEWAY: [&str; 1] = ["service.loadBalancerClass=tidegate.io/load-balancer"];

/// What the nodes' is told: what there is only once in a cluster is the gateway's, and so is what is written to it.
const NODES: [&str; 5] = [
    "node.netAdmin=true",
    "crds.install=false",
    "service.enabled=false",
    "ingressClass.enabled=false",
    "leaderElection.enabled=false",
];

/// An installation.
#[derive(Debug)]
pub struct Installed {
    address: IpAddr,
}

impl Installed {
    /// The one that all tests of this process have together. `None` where there is no Helm to render the chart, which is said on stderr.
    ///
    /// # Panics
    /// If it does not become ready; and in CI, if there is no Helm. Outside a runtime with several threads.
    pub async fn shared(cluster: &Cluster) -> Option<&'static Self> {
        static SHARED: OnceCell<Result<Option<Installed>, String>> = OnceCell::const_new();
        let install = || catch_unwind(AssertUnwindSafe(|| Self::install(cluster))).map_err(|panic| words(&*panic));
        // Whoever comes after a failure is told of the same, and does not wait for another.
        let installed = SHARED.get_or_init(async || tokio::task::block_in_place(install)).await;
        match installed {
            Ok(installed) => installed.as_ref(),
            Err(why) => panic!("Tidegate is not installed: {why}"),
        }
    }

    /// Where Ingresses are served, from outside the nodes.
    pub fn http_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, 80)
    }

    /// Where they are served with TLS.
    pub fn https_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, 443)
    }

    /// The address of the gateway's Service, which is what the status of Ingresses shows.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Where the replicas are: Deployment, Service and Lease.
    pub fn namespace(&self) -> &'static str {
        NAMESPACE
    }

    /// The Deployment of the replicas, and its Service.
    pub fn name(&self) -> &'static str {
        "tidegate"
    }

    /// The image that both run: its program is also the book's pod, `tidegate pod --name $(POD_NAME) --listen 0.0.0.0:8080`.
    pub fn image() -> String {
        format!("{}:{}", image::REPOSITORY, tidegate::VERSION)
    }

    /// Waits until every replica serves an Ingress, or until none does.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    #[track_caller]
    pub fn all_serve(&self, cluster: &Cluster, namespace: &str, ingress: &str, serve: bool) {
        let begin = Instant::now();
        loop {
            let configurations = configurations(cluster);
            let has = |configuration: &Value| {
                let ingresses = configuration["ingresses"].as_array();
                let is_it =
                    |one: &Value| one["namespace"] == namespace && one["name"] == ingress && one["served"] == true;
                ingresses.is_some_and(|ingresses| ingresses.iter().any(is_it))
            };
            if configurations.as_ref().is_ok_and(|all| all.iter().all(|one| has(one) == serve)) {
                return;
            }
            let error = configurations.err().unwrap_or_default();
            assert!(begin.elapsed() < PATIENCE, "{namespace}/{ingress}: not every replica agrees: {serve} {error}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn install(cluster: &Cluster) -> Option<Self> {
        let chart = Chart::find()?;
        load_image(cluster);
        let begin = Instant::now();
        release(cluster, &chart, NAMESPACE, DEPLOYMENT, &GATEWAY, "restricted");
        cluster.kubectl(&["wait", "--for=condition=Established", "crd/loadbalancerpools.tidegate.io"]);
        let (label, value) = HAS_ADDRESSES.split_once('=').expect("it is a label");
        cluster.apply(&format!(
            "---\n{{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {{name: outside}}, spec: {{addresses: \
             [{ADDRESSES}], namespaceSelector: {{matchLabels: {{{label}: '{value}'}}}}}}}}"
        ));
        cluster.kubectl(&["label", "namespace", NAMESPACE, HAS_ADDRESSES, "--overwrite"]);
        let first = cluster.node_ip("n1").to_string();
        cluster.outside(&["ip", "route", "replace", ADDRESSES, "via", &first]);
        release(cluster, &chart, NODE_NAMESPACE, NODE, &NODES, "privileged");
        is_rolled_out(cluster, NAMESPACE, "deployment/tidegate");
        is_rolled_out(cluster, NODE_NAMESPACE, "daemonset/tidegate");
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let address = loop {
            let answer = cluster.kubectl(&["get", "service", "tidegate", "-n", NAMESPACE, "-o", path]);
            if let Ok(address) = answer.parse() {
                break address;
            }
            assert!(begin.elapsed() < PODS_READY, "the gateway's Service is given no address");
            thread::sleep(Duration::from_millis(100));
        };
        Some(Self { address })
    }
}

/// What each replica serves now, as its `/config` tells.
fn configurations(cluster: &Cluster) -> Result<Vec<Value>, String> {
    let path = "jsonpath={.items[?(@.status.phase=='Running')].status.podIP}";
    let ips =
        cluster.try_kubectl(&["get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=tidegate", "-o", path])?;
    let ask = |ip: &str| {
        let url = format!("http://{ip}:9901/config");
        let answer = cluster.try_outside(&["curl", "-sS", "--max-time", "10", &url])?;
        serde_json::from_str(&answer).map_err(|error| error.to_string())
    };
    ips.split_whitespace().map(ask).collect()
}

/// Gives the nodes the image: with the program that is beside this test, and its libraries.
fn load_image(cluster: &Cluster) {
    let archive = cluster.directory().file("tidegate.tar");
    let image = image::image(&Installed::image(), process::program(), 0).expect("the program's libraries are here");
    image.write(&archive).expect("the directory is ours");
    cluster.load_image(&archive);
}

/// What `helm install` does.
fn release(cluster: &Cluster, chart: &Chart, namespace: &str, form: Form, values: &[&str], pod_security: &str) {
    let label = format!("{{pod-security.kubernetes.io/enforce: {pod_security}}}");
    cluster.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {label}}}}}"));
    let values = [form.values, values].concat();
    let manifests = chart.run(&["template", "tidegate", "--namespace", namespace], &values);
    cluster.apply(&manifests.unwrap_or_else(|error| panic!("helm template: {error}")));
}

/// Waits until every pod of a workload is of its newest version, and ready.
///
/// # Panics
/// If that takes longer than [`PODS_READY`]; says what the pods are waiting for, or have logged.
#[track_caller]
pub fn is_rolled_out(cluster: &Cluster, namespace: &str, workload: &str) {
    let timeout = format!("--timeout={}s", PODS_READY.as_secs());
    let Err(error) = cluster.try_kubectl(&["rollout", "status", workload, "-n", namespace, &timeout]) else { return };
    let ask = |arguments: &[&str]| cluster.try_kubectl(arguments).unwrap_or_else(|error| error);
    let events = ask(&["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"]);
    let logs = ask(&["logs", workload, "-n", namespace, "--all-pods", "--tail=20"]);
    let pods = ask(&["get", "pods", "-n", namespace, "-o", "wide"]);
    panic!("{workload} in {namespace}: {error}\n{pods}\n{events}\n{logs}");
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned())).unwrap_or_else(|| "it panicked".to_owned())
}
