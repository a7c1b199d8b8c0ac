//! What all the clients talk to: pods for every protocol, the Services in front of them, and the Ingresses in front of those.

use std::net::SocketAddr;

use tidegate::pod::{Listen, Pod};
use tidegate_tests::{
    Net,
    echo::Echo,
    load::{Target, Traffic},
    pod_manifest, start_pod,
    tls::Made,
};

pub(super) const HOST: &str = "web.example.com";
pub(super) const GRPC: &str = "grpc.example.com";
pub(super) const CHAT: &str = "chat.example.com";

/// Who answers.
pub(super) const HOSTS: [&str; 3] = [HOST, GRPC, CHAT];

/// A name in the cluster.
pub(super) const NAME: &str = "web.default.svc.cluster.local";

/// Pods on the addresses 2 and up, and the Service `web` in front of them: HTTP, gRPC, WebSocket and UDP.
pub(super) struct World {
    pub(super) net: Net,
    pods: Vec<Everything>,
    /// The certificate of all hosts.
    pub(super) certificate: Made,
}

/// One pod with a server for each protocol.
struct Everything {
    last: u8,
    http: Pod,
    grpc: Echo,
    web_socket: Echo,
}

impl Everything {
    async fn start(net: Net, last: u8, web_socket: Echo) -> Self {
        let ip = net.ip(last);
        let listens = [Listen::Http(SocketAddr::new(ip, 8080)), Listen::Udp(SocketAddr::new(ip, 5353))];
        Self {
            last,
            http: start_pod(&format!("pod-{last}"), listens).await,
            grpc: Echo::grpc("grpc", SocketAddr::new(ip, 9090)).await,
            web_socket,
        }
    }
}

/// How long gRPC streams and WebSockets live.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// Well under a second, so that a pod or a process can wait for their end.
    Short,
    /// From the beginning of the load to its end.
    Lasting,
}

impl World {
    pub(super) async fn start(pods: u8) -> Self {
        let mut world = Self { net: Net::next(), pods: Vec::new(), certificate: Made::new(&HOSTS) };
        for last in 2..2 + pods {
            world.add_pod(last).await;
        }
        world
    }

    pub(super) async fn add_pod(&mut self, last: u8) {
        let web_socket = Echo::web_socket(SocketAddr::new(self.net.ip(last), 9091)).await;
        self.pods.push(Everything::start(self.net, last, web_socket).await);
    }

    /// Where a pod serves TCP.
    pub(super) fn pod_addrs(&self, last: u8) -> [SocketAddr; 3] {
        [8080, 9090, 9091].map(|port| SocketAddr::new(self.net.ip(last), port))
    }

    /// The oldest one ends; whoever still talks to it is cut.
    pub(super) async fn end_oldest_pod(&mut self) {
        self.pods.remove(0).http.shutdown().await;
    }

    /// The oldest one ends as at SIGTERM, at once and unannounced, and comes back; but not its WebSockets.
    pub(super) async fn restart_oldest_pod(&mut self) {
        let Everything { last, http, grpc, web_socket } = self.pods.remove(0);
        tokio::join!(http.shutdown(), grpc.leave());
        self.pods.push(Everything::start(self.net, last, web_socket).await);
    }

    /// The newest one is gone at once.
    pub(super) fn kill_pod(&mut self) {
        drop(self.pods.pop());
    }

    /// Service, Ingresses and certificate.
    pub(super) fn manifests(&self) -> String {
        self.changed(0)
    }

    /// The same, different in what no client asks for.
    pub(super) fn changed(&self, change: usize) -> String {
        self.service() + &ingresses(change) + &self.certificate.secret("certificate")
    }

    fn service(&self) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{clusterIP: {}, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}, \
             {{name: grpc, port: 90, targetPort: 9090}}, {{name: chat, port: 91, targetPort: 9091}}, \
             {{name: udp, protocol: UDP, port: 53, targetPort: 5353}}]}}\n",
            self.net.ip(70)
        )
    }

    pub(super) fn pod_manifests(&self, pods: impl IntoIterator<Item = u8>) -> String {
        pods.into_iter().map(|last| pod_manifest(&format!("pod-{last}"), "web", self.net.ip(last))).collect()
    }

    pub(super) fn tcp(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(70), 80)
    }

    pub(super) fn udp(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(70), 53)
    }

    /// Everything that a Tidegate with these addresses carries over TCP.
    pub(super) fn traffic(&self, http: SocketAddr, https: SocketAddr, streams: Streams) -> Vec<(Traffic, Target)> {
        let mut traffic = over_http(http, https, streams);
        traffic.push((Traffic::Connection, self.tcp().into()));
        traffic
    }
}

/// Every kind of HTTP, with and without TLS.
pub(super) fn over_http(http: SocketAddr, https: SocketAddr, streams: Streams) -> Vec<(Traffic, Target)> {
    let lasting = streams == Streams::Lasting;
    [
        (Traffic::Http1New { host: HOST }, HOST),
        (Traffic::Http1KeepAlive { host: HOST }, HOST),
        (Traffic::Http2 { host: HOST }, HOST),
        (Traffic::GrpcStream { host: GRPC, lasting }, GRPC),
        (Traffic::WebSocket { host: CHAT, lasting }, CHAT),
        (Traffic::Http2WebSocket { host: CHAT, lasting }, CHAT),
    ]
    .into_iter()
    .flat_map(|(traffic, host)| [(traffic.clone(), http.into()), (traffic, Target::tls(https, host))])
    .collect()
}

/// One for each host.
fn ingresses(change: usize) -> String {
    [(HOST, "http", ""), (GRPC, "grpc", "nginx.ingress.kubernetes.io/backend-protocol: GRPC, "), (CHAT, "chat", "")]
        .map(|(host, port, annotation)| {
            let path = |path: &str| {
                format!("{{path: {path}, pathType: Prefix, backend: {{service: {{name: web, port: {{name: {port}}}}}}}}}")
            };
            format!(
                "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n\
                 metadata: {{name: {port}, annotations: {{{annotation}nginx.ingress.kubernetes.io/ssl-redirect: \"false\"}}}}\n\
                 spec: {{tls: [{{hosts: [{host}], secretName: certificate}}], \
                 rules: [{{host: {host}, http: {{paths: [{}, {}]}}}}]}}\n",
                path("/"),
                path(&format!("/extra-{change}"))
            )
        })
        .concat()
}

/// A Service that comes and goes, with an address of its own each time.
pub(super) fn other_service(change: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: other-{change}}}\n\
         spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    )
}
