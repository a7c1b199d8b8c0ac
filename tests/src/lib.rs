//! The test bed: a whole Tidegate in this process, on loopback addresses that no other test has, real pods behind it, and
//! clients that speak plain bytes.

pub mod api_server;
pub mod certificates;
pub mod chart;
pub mod client;
pub mod cluster;
pub mod demo;
pub mod echo;
pub mod h2;
pub mod http2;
pub mod image;
pub mod ingress_suite;
pub mod load;
pub mod net;
pub mod network_namespace;
pub mod oci;
pub mod permissions;
pub mod process;
pub mod tls;
pub mod web_socket;

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tidegate::{
    app::{App, Options, Source},
    pod::{Listen, Pod, PodOptions},
    snapshot::Snapshot,
};

pub use client::{Client, Response};
pub use net::Net;

/// No test waits longer than this for anything to happen; a busy machine may take its time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running Tidegate with manifests of its own.
#[derive(Debug)]
pub struct Bed {
    /// Its addresses.
    pub net: Net,
    /// The process under test.
    pub app: App,
    directory: PathBuf,
}

impl Bed {
    /// Starts Tidegate on `manifests` (written to one file, `main.yaml`).
    pub async fn start(net: Net, manifests: &str) -> Self {
        Self::start_with(net, manifests, |_| {}).await
    }

    /// The same, with options of the test's own.
    pub async fn start_with(net: Net, manifests: &str, change: impl FnOnce(&mut Options)) -> Self {
        let directory = std::env::temp_dir().join(format!("tidegate-bed-{}-{}", std::process::id(), net.number()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        fs::write(directory.join("main.yaml"), manifests).expect("the manifests are written");
        let mut options = Options {
            source: Source::Files(vec![directory.clone()]),
            settings: net.settings(),
            http: Some(SocketAddr::new(net.ip(1), 0)),
            https: Some(SocketAddr::new(net.ip(1), 0)),
            clients: tidegate::http::HttpOptions::default(),
            admin: SocketAddr::new(net.ip(1), 0),
            metrics: None,
            dns: Some(SocketAddr::new(net.ip(1), 0)),
            dns_forward: Vec::new(),
            workers: 2,
            drain_timeout: Duration::from_secs(1),
            remember: false,
            upgrade_socket: None,
            access_log: None,
            nginx_metrics: false,
            controller: None,
            demo: None,
        };
        change(&mut options);
        let app = App::start(options).await.expect("Tidegate starts");
        Self { net, app, directory }
    }

    /// The configuration that is live.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.app.snapshot().expect("the first configuration is live once Tidegate has started")
    }

    /// Writes a manifest file and waits until a configuration with it is live.
    pub async fn apply(&self, file: &str, manifests: &str) -> Arc<Snapshot> {
        let generation = self.snapshot().generation;
        self.write(file, manifests);
        self.until(|snapshot| snapshot.generation > generation).await
    }

    /// Writes a manifest file in one step, as `mv` does.
    pub fn write(&self, file: &str, manifests: &str) {
        let draft = self.directory.join(format!(".{file}"));
        fs::write(&draft, manifests).expect("the manifest is written");
        fs::rename(&draft, self.directory.join(file)).expect("the manifest takes its place");
    }

    /// Removes a manifest file and waits until a configuration without it is live.
    pub async fn remove(&self, file: &str) -> Arc<Snapshot> {
        let generation = self.snapshot().generation;
        fs::remove_file(self.directory.join(file)).expect("the manifest is there");
        self.until(|snapshot| snapshot.generation > generation).await
    }

    /// Waits for a configuration of this kind.
    ///
    /// # Panics
    /// If none is live within [`PATIENCE`].
    pub async fn until(&self, is_it: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut snapshots = self.app.snapshots();
        let wait = snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(|snapshot| is_it(snapshot)));
        let snapshot = tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the configuration is live in time")
            .expect("Tidegate runs")
            .clone();
        snapshot.expect("the condition holds for a snapshot only")
    }

    /// The ClusterIP and port of a Service in namespace `default`.
    pub fn cluster_addr(&self, service: &str) -> SocketAddr {
        let snapshot = self.snapshot();
        let row = snapshot.services.iter().find(|row| &*row.name == service).expect("the Service exists");
        SocketAddr::new(
            *row.cluster_ips.first().expect("it has a ClusterIP"),
            row.ports.first().expect("it has a port").port,
        )
    }

    /// The LoadBalancer IP and port of a Service in namespace `default`.
    pub fn load_balancer_addr(&self, service: &str) -> SocketAddr {
        let snapshot = self.snapshot();
        let row = snapshot.services.iter().find(|row| &*row.name == service).expect("the Service exists");
        let ip = row.external.first().expect("it has a LoadBalancer IP").parse().expect("which is an address");
        SocketAddr::new(ip, row.ports.first().expect("it has a port").port)
    }

    /// The reasons of all findings above Info, sorted.
    pub fn findings(&self) -> Vec<&'static str> {
        let snapshot = self.snapshot();
        let serious =
            snapshot.findings.iter().filter(|finding| finding.severity > tidegate::compile::finding::Severity::Info);
        let mut reasons: Vec<&'static str> = serious.map(|finding| finding.reason).collect();
        reasons.sort_unstable();
        reasons
    }

    /// A request to the HTTP listener on a connection of its own.
    pub async fn get(&self, host: &str, path: &str) -> Response {
        Client::connect(self.app.http()).await.get(host, path).await
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// Starts a pod that answers HTTP on port 8080 of an address.
pub async fn http_pod(name: &str, ip: std::net::IpAddr) -> Pod {
    start_pod(name, [Listen::Http(SocketAddr::new(ip, 8080))]).await
}

/// Starts a pod.
pub async fn start_pod(name: &str, listens: impl IntoIterator<Item = Listen>) -> Pod {
    Pod::start(PodOptions::new(name, listens)).await.expect("the pod starts")
}

/// The manifest of a ready Pod with label `app`, on node `here`.
pub fn pod_manifest(name: &str, app: &str, ip: std::net::IpAddr) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: here, containers: [{{name: main, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
         status: {{podIP: \"{ip}\", conditions: [{{type: Ready, status: \"True\"}}]}}\n"
    )
}

/// The manifest of a Service that selects `app`, port 80 to 8080; `more` is more of its spec, such as `type: NodePort, `.
pub fn service_manifest(name: &str, app: &str, more: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{{more}selector: {{app: {app}}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    )
}
