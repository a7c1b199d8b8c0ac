//! What becomes of two replicas, as processes that follow the API server of a real control plane, when that, its etcd or one of the
//! replicas goes away: they serve what they know, say so, and take up what has changed once it is back. The same with pods,
//! kubelets and kube-proxy is in `high_availability.rs`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tidegate::pod::{Listen, Pod, PodOptions};
use tidegate_tests::{
    Client, PATIENCE,
    cluster::{ControlPlane, Namespace},
    load::{Load, Traffic},
    network_namespace::NetworkNamespace,
    process::Process,
};
use tokio::{task::JoinSet, time::sleep};

/// How long the API server is away: longer than a leader goes on without it, and than the longest pause between two tries to reach it.
const AWAY: Duration = Duration::from_secs(20);

/// How long a Lease is good for, and how often it is looked at: the longest time without a leader.
const WITHOUT_LEADER: Duration = Duration::from_secs(15 + 3);

/// The longest pause between two tries to reach the API server, and the pauses of leader and status after it.
const NOTICED: Duration = Duration::from_secs(10 + 3);

/// What Ingresses show.
const PUBLISHED: &str = "192.0.2.9";

/// Replicas. Each is on an address of its own.
const REPLICAS: u8 = 2;

/// Requests of each kind between two events.
const SOME: u64 = 100;

/// A control plane, replicas that follow it, and pods, which only the replicas can reach.
struct World {
    // First of all: clients end before what they ask.
    load: Option<Load>,
    replicas: BTreeMap<u8, Process>,
    _pods: Vec<Pod>,
    _to_api_server: JoinSet<()>,
    network: NetworkNamespace,
    namespace: Namespace,
    control_plane: ControlPlane,
}

fn pod_ip(number: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, number).into()
}

fn addr(replica: u8, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(127, 0, 0, replica).into(), port)
}

/// A Service without a selector, and the pods it leads to.
fn slice(pods: &[u8]) -> String {
    let endpoints: Vec<String> =
        pods.iter().map(|pod| format!("{{addresses: ['{}'], conditions: {{ready: true}}}}", pod_ip(*pod))).collect();
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: web, labels: \
         {{kubernetes.io/service-name: web}}}}, ports: [{{name: '', port: 8080, protocol: TCP}}], endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

fn ingress(name: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}}}, spec: {{ingressClassName: \
         tidegate, rules: [{{host: {name}.example.com, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: \
         {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}}}\n"
    )
}

const SERVICE: &str =
    "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80, targetPort: 8080}]}}\n";

impl World {
    /// With an Ingress `web` that leads to the pods 1 and 2, and a leader. `None` where it cannot be had.
    async fn start(name: &str) -> Option<Self> {
        let network = NetworkNamespace::create(&[1, 2, 3].map(pod_ip))?;
        let control_plane = ControlPlane::own().await?;
        let url = control_plane.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
        let api_server = url.strip_prefix("https://").and_then(|addr| addr.parse().ok()).expect("an address");
        let namespace = control_plane.namespace(name);
        control_plane.apply_in(&namespace.name, &(SERVICE.to_owned() + &slice(&[1, 2]) + &ingress("web")));
        let mut pods = Vec::new();
        for number in 1..=3 {
            let options =
                PodOptions::new(format!("pod-{number}"), [Listen::Http(SocketAddr::new(pod_ip(number), 8080))]);
            pods.push(network.spawn(Pod::start(options)).await.expect("the pod starts"));
        }
        let to_api_server = network.forward_out(api_server);
        let replicas = BTreeMap::new();
        let mut world = Self {
            load: None,
            replicas,
            _pods: pods,
            _to_api_server: to_api_server,
            network,
            namespace,
            control_plane,
        };
        for replica in 1..=REPLICAS {
            world.start_replica(replica);
        }
        world.until_status("web", PATIENCE).await;
        Some(world)
    }

    fn start_replica(&mut self, replica: u8) {
        let kubeconfig = self.control_plane.kubeconfig();
        let text = format!(
            "run --kubernetes --kubeconfig {} --http {} --https {} --admin {} --workers 1 --leader-namespace {} \
             --publish-status-address {PUBLISHED}",
            kubeconfig.display(),
            addr(replica, 8080),
            addr(replica, 8443),
            addr(replica, 9901),
            self.namespace.name,
        );
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let process = self.network.run(|| Process::start(&std::env::temp_dir(), &args));
        self.replicas.insert(replica, process);
    }

    /// Clients of these replicas; nothing of what they ask may fail.
    async fn load(&mut self, replicas: impl IntoIterator<Item = u8>) {
        let host = "web.example.com";
        let kinds = [
            Traffic::Http1New { host },
            Traffic::Http1KeepAlive { host },
            Traffic::Http1Post { host, kept: false },
            Traffic::Http1Post { host, kept: true },
        ];
        let traffic = replicas.into_iter().flat_map(|replica| kinds.clone().map(|kind| (kind, addr(replica, 8080))));
        self.load = Some(Load::start_on(self.network.handle(), traffic, 1).await);
    }

    async fn progress(&self) {
        self.load.as_ref().expect("there are clients").progress(SOME).await;
    }

    async fn end_load(&mut self) {
        println!("{}", self.load.take().expect("there are clients").end().await);
    }

    /// What a port of a replica answers.
    async fn ask(
        &self,
        replica: u8,
        port: u16,
        host: &'static str,
        path: &'static str,
    ) -> Result<(u16, String), String> {
        let asked = async move {
            let mut client = Client::try_connect(addr(replica, port)).await.map_err(|error| error.to_string())?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let answer = client.ask(&request).await.map_err(|error| error.to_string())?;
            Ok((answer.status, answer.text()))
        };
        self.network.spawn(asked).await
    }

    /// Waits until every replica's admin interface answers so.
    async fn until_each_says(&self, path: &'static str, status: u16, within: Duration, is_it: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        for &replica in self.replicas.keys() {
            loop {
                let said = self.ask(replica, 9901, "localhost", path).await;
                if said.as_ref().is_ok_and(|(code, text)| *code == status && is_it(text)) {
                    break;
                }
                assert!(begun.elapsed() < within, "{path} of replica {replica} still says {said:?}");
                self.still_well();
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn still_well(&self) {
        self.load.iter().for_each(Load::assert_nothing_failed);
    }

    /// Who leads.
    async fn leaders(&self) -> Vec<u8> {
        let mut leaders = Vec::new();
        for &replica in self.replicas.keys() {
            let metrics = self.ask(replica, 9901, "localhost", "/metrics").await;
            if metrics.is_ok_and(|(_, text)| text.contains("\ntidegate_leader 1\n")) {
                leaders.push(replica);
            }
        }
        leaders
    }

    /// Waits for exactly one leader.
    async fn until_leader(&self, within: Duration) -> u8 {
        let begun = Instant::now();
        loop {
            let leaders = self.leaders().await;
            if let [leader] = leaders[..] {
                println!("replica {leader} leads after {:.1} s", begun.elapsed().as_secs_f64());
                return leader;
            }
            assert!(begun.elapsed() < within, "{leaders:?} lead after {within:?}");
            self.still_well();
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an Ingress shows the address.
    async fn until_status(&self, name: &str, within: Duration) {
        let begun = Instant::now();
        let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        loop {
            let shown =
                self.control_plane.try_kubectl(&["get", "ingress", name, "-n", &self.namespace.name, "-o", path]);
            if shown.as_deref() == Ok(PUBLISHED) {
                return;
            }
            assert!(begun.elapsed() < within, "Ingress {name} still shows {shown:?}");
            self.still_well();
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until each replica sends requests to these pods, and to no others.
    async fn until_pods(&self, expected: &[&str], within: Duration) {
        let begun = Instant::now();
        for &replica in self.replicas.keys() {
            loop {
                let mut pods = Vec::new();
                for _ in 0..12 {
                    let (_, said) = self.ask(replica, 8080, "web.example.com", "/").await.expect("it serves");
                    pods.push(said.trim_start_matches("You've hit ").trim_end().to_owned());
                }
                pods.sort_unstable();
                pods.dedup();
                if pods == expected {
                    break;
                }
                assert!(begun.elapsed() < within, "replica {replica} still sends requests to {pods:?}");
                self.still_well();
            }
        }
    }

    /// How many watches the API server serves of some kinds that Tidegate follows: those that nobody else opens and closes all the time.
    fn watches(&self) -> Option<BTreeMap<String, u64>> {
        let metrics = self.control_plane.try_kubectl(&["get", "--raw", "/metrics"]).ok()?;
        let mut watches = BTreeMap::new();
        for line in metrics.lines().filter(|line| line.starts_with("apiserver_longrunning_requests{")) {
            let label = |name: &str| line.split_once(&format!("{name}=\""))?.1.split_once('"').map(|(value, _)| value);
            let followed = ["services", "ingresses", "ingressclasses"];
            if let Some(resource) = label("resource").filter(|resource| followed.contains(resource))
                && label("verb") == Some("WATCH")
            {
                let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
                *watches.entry(resource.to_owned()).or_default() += count.expect("a number");
            }
        }
        Some(watches)
    }

    /// Waits until there are as many watches as there were: each that was cut is back, and none twice.
    async fn until_watches(&self, expected: &BTreeMap<String, u64>) {
        let begun = Instant::now();
        loop {
            let watches = self.watches();
            if watches.as_ref() == Some(expected) {
                return;
            }
            assert!(begun.elapsed() < 3 * PATIENCE, "there are {watches:?} instead of {expected:?}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// A change comes in, and a new Ingress is served and shows its address.
    async fn until_changes_arrive(&self, name: &str, pods: &[u8]) {
        self.control_plane.apply_in(&self.namespace.name, &(slice(pods) + &ingress(name)));
        let names: Vec<String> = pods.iter().map(|pod| format!("pod-{pod}")).collect();
        self.until_pods(&names.iter().map(String::as_str).collect::<Vec<_>>(), NOTICED).await;
        self.until_leader(WITHOUT_LEADER).await;
        self.until_status(name, WITHOUT_LEADER).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_goes_away_and_comes_back() {
    let Some(mut world) = World::start("away").await else { return };
    let watches = world.watches().expect("it answers");
    world.load(1..=REPLICAS).await;
    world.progress().await;
    let begun = Instant::now();
    world.control_plane.stop_api_server().await;
    world.until_each_says("/readyz", 200, PATIENCE, |text| text.contains("what was known is served")).await;
    let disconnected = "tidegate_kubernetes_connected{resource=\"ingresses\"} 0\n";
    world.until_each_says("/metrics", 200, PATIENCE, |text| text.contains(disconnected)).await;
    // Nobody leads whom nobody can hear: another one might.
    world.until_each_says("/metrics", 200, PATIENCE, |text| text.contains("\ntidegate_leader 0\n")).await;
    world.progress().await;
    sleep(AWAY.saturating_sub(begun.elapsed())).await;
    world.progress().await;

    world.control_plane.start_api_server().await;
    world.until_changes_arrive("after", &[3]).await;
    world.until_each_says("/readyz", 200, NOTICED, |text| text == "ok\n").await;
    world
        .until_each_says("/metrics", 200, NOTICED, |text| text.contains("tidegate_kubernetes_away_seconds 0.0\n"))
        .await;
    world.until_watches(&watches).await;
    world.progress().await;
    world.end_load().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_killed_and_comes_back() {
    let Some(mut world) = World::start("etcd").await else { return };
    let watches = world.watches().expect("it answers");
    world.load(1..=REPLICAS).await;
    world.progress().await;
    for (name, pods) in [("once", [2, 3]), ("twice", [1, 3])] {
        world.control_plane.restart_etcd().await;
        world.progress().await;
        world.until_changes_arrive(name, &pods).await;
    }
    world.until_each_says("/readyz", 200, NOTICED, |text| text == "ok\n").await;
    world.until_watches(&watches).await;
    world.end_load().await;
}

/// Killed, it has no time to say anything, and its Lease has to run out; told to end, it gives it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_leads_when_the_leader_ends() {
    let Some(mut world) = World::start("leader").await else { return };
    let killed = world.until_leader(WITHOUT_LEADER).await;
    let others: Vec<u8> = world.replicas.keys().copied().filter(|&replica| replica != killed).collect();
    world.load(others).await;
    // With SIGKILL.
    drop(world.replicas.remove(&killed));
    world.control_plane.apply_in(&world.namespace.name, &ingress("killed"));
    world.until_status("killed", WITHOUT_LEADER).await;
    world.progress().await;
    world.end_load().await;

    let told = world.until_leader(WITHOUT_LEADER).await;
    world.start_replica(killed);
    world.load([killed]).await;
    let mut ends = world.replicas.remove(&told).expect("it runs");
    ends.terminate();
    let begun = Instant::now();
    world.control_plane.apply_in(&world.namespace.name, &ingress("told"));
    world.until_status("told", WITHOUT_LEADER / 2).await;
    println!(
        "the new Ingress shows its address {:.1} s after the leader was told to end",
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(ends.ended().code(), Some(0), "{}", ends.log());
    world.end_load().await;
}
