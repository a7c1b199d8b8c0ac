//! Nothing that happens to Tidegate or behind it fails a request: clients of every kind send all the while, and not one of
//! them may be refused, reset, left without an answer, or lose a datagram.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tidegate::{
    pod::{Listen, Pod},
    takeover::{
        client,
        message::{self, Message},
    },
};
use tidegate_l4::{
    endpoints::EndpointState,
    model::{IpFamily, TrafficPolicy},
};
use tidegate_tests::{
    Bed, Client, Net, PATIENCE,
    echo::Echo,
    load::{Load, Target, Traffic},
    pod_manifest,
    process::Process,
    start_pod,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

const HOST: &str = "web.example.com";
const NAME: &str = "web.default.svc.cluster.local";

/// Clients of each kind.
const CLIENTS: usize = 3;

/// What every kind of traffic must do between two events, so that each event happens under load.
const SOME: u64 = 40;

/// Pods on the addresses 2 and up, and the Service `web` in front of them, on HTTP, TCP and UDP.
struct World {
    net: Net,
    pods: Vec<Pod>,
}

impl World {
    async fn start(pods: u8) -> Self {
        let mut world = Self { net: Net::next(), pods: Vec::new() };
        for last in 2..2 + pods {
            world.add_pod(last).await;
        }
        world
    }

    async fn add_pod(&mut self, last: u8) {
        let ip = self.net.ip(last);
        let listens = [Listen::Http(SocketAddr::new(ip, 8080)), Listen::Udp(SocketAddr::new(ip, 5353))];
        self.pods.push(start_pod(&format!("pod-{last}"), listens).await);
    }

    fn service(&self) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
             spec: {{clusterIP: {}, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: 8080}}, \
             {{name: udp, protocol: UDP, port: 53, targetPort: 5353}}]}}\n",
            self.net.ip(70)
        ) + &ingress(0)
    }

    fn pod_manifests(&self, pods: impl IntoIterator<Item = u8>) -> String {
        pods.into_iter().map(|last| pod_manifest(&format!("pod-{last}"), "web", self.net.ip(last))).collect()
    }

    fn tcp(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(70), 80)
    }

    fn udp(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(70), 53)
    }

    /// Everything that the engine can carry today, for a Tidegate with these addresses.
    ///
    /// HTTP/2, gRPC streams and WebSockets are [`tidegate_tests::load`]'s to play as well.
    fn traffic(&self, http: SocketAddr) -> Vec<(Traffic, SocketAddr)> {
        vec![
            (Traffic::Http1New { host: HOST }, http),
            (Traffic::Http1KeepAlive { host: HOST }, http),
            (Traffic::Connection, self.tcp()),
        ]
    }
}

/// An Ingress that differs from change to change in what the load does not ask for.
fn ingress(change: usize) -> String {
    let path = |path: &str| {
        format!("{{path: {path}, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}")
    };
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web}}\n\
         spec: {{rules: [{{host: {HOST}, http: {{paths: [{}, {}]}}}}]}}\n",
        path("/"),
        path(&format!("/extra-{change}"))
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_the_load_generator_work_by_themselves() {
    let world = World::start(1).await;
    let net = world.net;
    let grpc = Echo::grpc("grpc", SocketAddr::new(net.ip(3), 8080)).await;
    let web_socket = Echo::web_socket(SocketAddr::new(net.ip(4), 8080)).await;
    let pod = SocketAddr::new(net.ip(2), 8080);
    let load = Load::start(
        [
            (Traffic::Http1New { host: HOST }, pod),
            (Traffic::Http1KeepAlive { host: HOST }, pod),
            (Traffic::Connection, pod),
            (Traffic::Flow { same_pod: true }, SocketAddr::new(net.ip(2), 5353)),
            (Traffic::Http2 { host: HOST }, grpc.addr),
            (Traffic::GrpcStream { host: HOST }, grpc.addr),
            (Traffic::WebSocket { host: HOST }, web_socket.addr),
        ],
        1,
    )
    .await;
    let tls = Echo::tls("tls", SocketAddr::new(net.ip(5), 8443)).await;
    let target = Target::tls(tls.addr, HOST);
    let behind_tls = Load::start(
        [
            (Traffic::Http1New { host: HOST }, target),
            (Traffic::Http1KeepAlive { host: HOST }, target),
            (Traffic::Http2 { host: HOST }, target),
            (Traffic::GrpcStream { host: HOST }, target),
        ],
        1,
    )
    .await;
    for load in [load, behind_tls] {
        load.progress(100).await;
        println!("{}", load.end().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "HTTP/1.1, keep-alive at ")]
async fn the_load_generator_notices_a_connection_that_is_cut() {
    let mut world = World::start(1).await;
    let pod = SocketAddr::new(world.net.ip(2), 8080);
    let load = Load::start([(Traffic::Http1KeepAlive { host: HOST }, pod)], 4).await;
    drop(world.pods.pop());
    load.progress(SOME).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_changes_of_the_configuration() {
    let world = World::start(4).await;
    let bed = Bed::start(world.net, &world.service()).await;
    bed.apply("pods.yaml", &world.pod_manifests(2..6)).await;
    let mut traffic = world.traffic(bed.app.http());
    traffic.push((Traffic::Flow { same_pod: true }, world.udp()));
    let load = Load::start(traffic, CLIENTS).await;
    for change in 0..200 {
        match change % 3 {
            0 => bed.apply("main.yaml", &world.service().replace(&ingress(0), &ingress(change + 1))).await,
            1 => bed.apply("other.yaml", &other_service(change)).await,
            _ => bed.apply("other.yaml", "").await,
        };
    }
    load.progress(SOME).await;
    println!("{}", load.end().await);
}

/// A Service that comes and goes, with an address of its own each time.
fn other_service(change: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: other-{change}}}\n\
         spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}\n"
    )
}

/// Pods leave as Kubernetes lets them: no longer ready, then, when nobody is served by them any more, gone.
///
/// Not for UDP: a flow whose pod is not ready any more is ended at once, as kube-proxy does it, and an answer that is on its way
/// at this moment is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_up_and_down() {
    let mut world = World::start(2).await;
    let bed = Bed::start(world.net, &world.service()).await;
    bed.apply("pods.yaml", &world.pod_manifests([2, 3])).await;
    let load = Load::start(world.traffic(bed.app.http()), CLIENTS).await;
    for last in 4..10 {
        world.add_pod(last).await;
        bed.apply("pods.yaml", &world.pod_manifests(last - 2..=last)).await;
        load.progress(SOME / 4).await;
        let leaving = state(&bed, SocketAddr::new(world.net.ip(last - 2), 8080));
        let manifest = world.pod_manifests([last - 2]).replace("status: \"True\"", "status: \"False\"");
        bed.apply("pods.yaml", &(manifest + &world.pod_manifests(last - 1..=last))).await;
        let begun = Instant::now();
        while leaving.in_flight() > 0 {
            assert!(begun.elapsed() < PATIENCE, "{} connections stay with the pod that leaves", leaving.in_flight());
            sleep(std::time::Duration::from_millis(1)).await;
        }
        world.pods.remove(0).shutdown().await;
        bed.apply("pods.yaml", &world.pod_manifests(last - 1..=last)).await;
        load.progress(SOME / 4).await;
    }
    println!("{}", load.end().await);
}

/// The counters of an endpoint, which outlive its place among those that are chosen from.
fn state(bed: &Bed, addr: SocketAddr) -> Arc<EndpointState> {
    let snapshot = bed.snapshot();
    let sets = snapshot.table.ports().map(|port| port.set(IpFamily::V4, TrafficPolicy::Cluster).clone());
    let mut found = sets.flat_map(|set| {
        let positions = 0..set.len();
        positions.filter_map(move |at| {
            let index = tidegate_l4::endpoints::EndpointIndex(at);
            (set.endpoint(index).addr == addr).then(|| set.state(index).clone())
        })
    });
    found.next().expect("the endpoint is there")
}

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(net: Net, name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-{name}-{}-{}", std::process::id(), net.number()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn write(&self, file: &str, text: &str) {
        let draft = self.0.join(format!(".{file}"));
        fs::write(&draft, text).expect("it is written");
        fs::rename(&draft, self.0.join(file)).expect("it takes its place");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// What one node runs: `tidegate run` with addresses of `net`.
struct Node {
    net: Net,
    manifests: Directory,
    state: Directory,
}

impl Node {
    fn new(net: Net, manifests: &str) -> Self {
        let node = Self { net, manifests: Directory::new(net, "manifests"), state: Directory::new(net, "state") };
        node.manifests.write("main.yaml", manifests);
        node
    }

    fn http(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(1), 8080)
    }

    fn admin(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(1), 9901)
    }

    fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.net.ip(1), 10053)
    }

    fn upgrade_socket(&self) -> PathBuf {
        self.state.0.join("upgrade.sock")
    }

    fn args(&self, workers: usize) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let range = |last| format!("{}/26", self.net.ip(last));
        [
            ("--manifests", text(&self.manifests.0)),
            ("--http", self.http().to_string()),
            ("--https", SocketAddr::new(self.net.ip(1), 8443).to_string()),
            ("--admin", self.admin().to_string()),
            ("--dns", self.dns().to_string()),
            ("--node-address", self.net.ip(1).to_string()),
            ("--node-name", "here".to_owned()),
            ("--service-cidr", range(64)),
            ("--load-balancer-pool", range(128)),
            ("--drain-timeout", "20s".to_owned()),
            ("--workers", workers.to_string()),
            ("--upgrade-socket", text(&self.upgrade_socket())),
        ]
        .into_iter()
        .fold(vec!["run".to_owned()], |mut args, (flag, value)| {
            args.extend([flag.to_owned(), value]);
            args
        })
    }

    fn start(&self, workers: usize) -> Process {
        Process::start(&self.state.0, &self.args(workers))
    }

    /// All that a node serves.
    fn traffic(&self, world: &World) -> Vec<(Traffic, SocketAddr)> {
        let mut traffic = world.traffic(self.http());
        traffic.extend([
            (Traffic::Flow { same_pod: true }, world.udp()),
            (Traffic::Dns { name: NAME }, self.dns()),
            (Traffic::Ready, self.admin()),
        ]);
        traffic
    }
}

/// Clients whose pod only affinity knows: by their addresses alone, most of them would have another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_ip_affinity_survives_an_upgrade() {
    let world = World::start(4).await;
    let sticky = SocketAddr::new(world.net.ip(72), 80);
    let slice = |pods: &[u8]| {
        let endpoints: Vec<String> =
            pods.iter().map(|pod| format!("{{addresses: [\"{}\"]}}", world.net.ip(*pod))).collect();
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: sticky}}\nspec: {{clusterIP: {}, sessionAffinity: ClientIP, \
             ports: [{{port: 80, targetPort: 8080}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: sticky, labels: {{kubernetes.io/service-name: sticky}}}}\naddressType: IPv4\n\
             ports: [{{name: \"\", port: 8080}}]\nendpoints: [{}]\n",
            sticky.ip(),
            endpoints.join(", ")
        )
    };
    let node = Node::new(world.net, &slice(&[2]));
    let mut older = node.start(2);
    let hit = async |last: u8| {
        let mut client = Client::from(world.net.ip(last), sticky).await.expect("it connects");
        client.get("sticky", "/").await.pod().expect("a pod answers")
    };
    for client in 200..216 {
        assert_eq!(hit(client).await, "pod-2");
    }
    node.manifests.write("main.yaml", &slice(&[2, 3, 4, 5]));
    // Others are spread: the change is live.
    let mut newcomer = 216;
    while hit(newcomer).await == "pod-2" {
        newcomer += 1;
    }
    let _newer = node.start(1);
    assert_eq!(older.ended().code(), Some(0), "{}", older.log());
    for client in 200..216 {
        assert_eq!(hit(client).await, "pod-2", "{client}");
    }
}

/// The binary is upgraded in place three times, and the number of workers changes with it: from two to one, so that a worker
/// has several sockets, from one to two, so that there are too few, and back to one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_in_place() {
    let world = World::start(3).await;
    let node = Node::new(world.net, &(world.service() + &world.pod_manifests(2..5)));
    let mut running = node.start(2);
    let mode = fs::metadata(node.upgrade_socket()).expect("it waits for a successor").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let load = Load::start(node.traffic(&world), CLIENTS).await;
    load.progress(SOME).await;
    for workers in [1, 2, 1] {
        let newer = node.start(workers);
        let mut older = std::mem::replace(&mut running, newer);
        load.progress(SOME).await;
        assert_eq!(older.ended().code(), Some(0), "{}", older.log());
        load.progress(SOME).await;
        assert!(older.log().contains("the newer process has taken over"), "{}", older.log());
        assert!(!running.log().contains("WARN"), "{}", running.log());
    }
    // It follows changes, closes what it inherited, and opens again.
    let other = SocketAddr::new(world.net.ip(71), 80);
    for _ in 0..2 {
        node.manifests
            .write("other.yaml", &other_service(0).replace("spec: {", &format!("spec: {{clusterIP: {}, ", other.ip())));
        until(|| std::net::TcpStream::connect(other).is_ok()).await;
        node.manifests.write("other.yaml", "");
        until(|| std::net::TcpStream::connect(other).is_err()).await;
    }
    println!("{}", load.end().await);
    running.terminate();
    assert_eq!(running.ended().code(), Some(0));
    assert!(!node.upgrade_socket().exists(), "whoever ends for good leaves nothing behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_that_fail() {
    let world = World::start(3).await;
    let node = Node::new(world.net, &(world.service() + &world.pod_manifests(2..5)));
    let mut running = node.start(2);
    let load = Load::start(node.traffic(&world), CLIENTS).await;
    // Bad flags.
    let mut args = node.args(2);
    args.push("--no-such-flag".to_owned());
    assert_eq!(Process::run_to_its_end(&node.state.0, &args).0.code(), Some(2));
    load.progress(SOME).await;
    // An address that another program has.
    let taken = std::net::TcpListener::bind((node.net.ip(1), 0)).expect("a port");
    let mut args = node.args(2);
    let http = args.iter().position(|arg| arg == "--http").expect("it is there");
    args[http + 1] = taken.local_addr().expect("bound").to_string();
    let (status, log) = Process::run_to_its_end(&node.state.0, &args);
    assert!(status.code() == Some(1) && log.contains("cannot listen on"), "{log}");
    load.progress(SOME).await;
    // Manifests that the running process has read when they were whole.
    node.manifests.write("broken.yaml", "kind: Service\n\tx: [\n");
    let (status, log) = Process::run_to_its_end(&node.state.0, &node.args(2));
    assert!(status.code() == Some(1) && log.contains("the running process goes on"), "{log}");
    fs::remove_file(node.manifests.0.join("broken.yaml")).expect("it is there");
    load.progress(SOME).await;
    // A crash with all sockets in hand.
    let path = node.upgrade_socket();
    let (inherited, predecessor) = client::inherit(&path).expect("it answers").expect("it is there");
    load.progress(SOME).await;
    drop((inherited, predecessor));
    load.progress(SOME).await;
    // Somebody who speaks another version, and somebody who speaks another protocol.
    let mut stranger = std::os::unix::net::UnixStream::connect(&path).expect("it answers");
    let hello = Message::Hello { version: message::VERSION + 1, pid: 1 };
    stranger.write_all(&hello.encode()).expect("it listens");
    let mut answer = Vec::new();
    stranger.read_to_end(&mut answer).expect("it answers and closes");
    assert!(matches!(Message::decode(&answer), Ok(Message::Refused(_))), "{answer:?}");
    let mut stranger = std::os::unix::net::UnixStream::connect(&path).expect("it answers");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it listens");
    assert!(!matches!(stranger.read_to_end(&mut answer), Ok(1..)), "it closes without a word");
    load.progress(SOME).await;
    // None of this has left a trace: it follows changes, and the next upgrade works.
    let other = SocketAddr::new(world.net.ip(71), 80);
    node.manifests
        .write("other.yaml", &other_service(0).replace("spec: {", &format!("spec: {{clusterIP: {}, ", other.ip())));
    until(|| std::net::TcpStream::connect(other).is_ok()).await;
    assert!(running.is_running(), "{}", running.log());
    let newer = node.start(2);
    assert_eq!(running.ended().code(), Some(0), "{}", running.log());
    load.progress(SOME).await;
    println!("{}", load.end().await);
    // A crash leaves a file at which nobody answers: the next process starts as the first one did.
    drop(newer);
    assert!(path.exists());
    let mut fresh = node.start(2);
    let _next = node.start(2);
    assert_eq!(fresh.ended().code(), Some(0), "{}", fresh.log());
}

/// As Kubernetes updates a Deployment: the new instance is ready, new connections go to it, and then the old one is told to
/// end. What goes through the old one meanwhile is finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_updates_behind_a_load_balancer() {
    let world = World::start(3).await;
    let manifests = |net: Net| world.service().replace(&world.net.ip(70).to_string(), &net.ip(70).to_string());
    let nodes = [Net::next(), Net::next()].map(|net| Node::new(net, &(manifests(net) + &world.pod_manifests(2..5))));
    let tcp = |node: &Node| SocketAddr::new(node.net.ip(70), 80);
    let mut running = nodes[0].start(2);
    let http = Switch::start(nodes[0].http()).await;
    let connections = Switch::start(tcp(&nodes[0])).await;
    let load = Load::start(
        [
            (Traffic::Http1New { host: HOST }, http.addr),
            (Traffic::Http1KeepAlive { host: HOST }, http.addr),
            (Traffic::Connection, connections.addr),
        ],
        CLIENTS,
    )
    .await;
    for n in 1..5 {
        let node = &nodes[n % 2];
        let newer = node.start(2);
        http.target.send_replace(node.http());
        connections.target.send_replace(tcp(node));
        load.progress(SOME / 4).await;
        let mut older = std::mem::replace(&mut running, newer);
        older.terminate();
        load.progress(SOME).await;
        assert_eq!(older.ended().code(), Some(0), "{}", older.log());
        assert!(older.log().contains("drained"), "{}", older.log());
    }
    println!("{}", load.end().await);
}

/// A load balancer for connections, as small as can be.
struct Switch {
    addr: SocketAddr,
    /// Where new connections go.
    target: watch::Sender<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Switch {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let (target, targets) = watch::channel(target);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *targets.borrow();
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, target, _tasks: tasks }
    }
}

/// A keep-alive client that pauses sees its connection closed a moment after the drain began, and not at once; and whoever
/// asks again within that moment is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_is_told_before_its_connection_is_closed() {
    let world = World::start(1).await;
    let bed = Bed::start(world.net, &(world.service() + &world.pod_manifests(2..3))).await;
    let mut client = Client::connect(bed.app.http()).await;
    assert_eq!(client.get(HOST, "/").await.status, 200);
    let drained = async {
        bed.app.drain(PATIENCE).await;
    };
    let asked = async {
        until(|| std::net::TcpStream::connect(bed.app.http()).is_err()).await;
        let last = client.get(HOST, "/").await;
        assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    };
    tokio::join!(drained, asked);
}

async fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "it does not come to pass");
        sleep(std::time::Duration::from_millis(2)).await;
    }
}
