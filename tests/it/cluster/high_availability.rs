//! Two replicas in a cluster with two nodes, and everything that happens to a cluster: no request fails.
//!
//! Clients outside the nodes ask all the while, with GET and POST, on connections that are kept and on new ones. They come two ways: to the
//! ClusterIP of Tidegate's Service by the kube-proxy of one node, and to its LoadBalancer address by the Tidegate that serves the other
//! node. What a failed request is: one that is not answered with 200 by a pod. No client repeats any, but for one test, which says why.
//!
//! Each time a replica leads in the end: a new Ingress shows its address within the time that a Lease is good for.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tidegate_tests::{
    PATIENCE,
    cluster::{
        Cluster, Disruptive, owner,
        tidegate::{Installed, PODS_READY, is_rolled_out},
    },
    load::{Load, Traffic},
    network_namespace::NetworkNamespace,
};
use tokio::{sync::OnceCell, time::sleep};

/// Clients of each kind, on each of the two ways.
const CLIENTS: usize = 2;

/// Requests of each kind before something happens, and after.
const SOME: u64 = 50;

/// How long a Lease is good for, and how often it is looked at; and the write, on a machine that has much to do.
const WITHOUT_LEADER: Duration = Duration::from_secs(15 + 3 + 5);

/// How long the API server is away. An hour is the same, and takes an hour.
const AWAY: Duration = Duration::from_secs(120);

/// How long kube-proxy may send new connections to a replica that was killed: kubelet looks once a second whether its containers run, and
/// then its word goes by the API server, the controller of EndpointSlices and kube-proxy. Mostly the replica runs again before.
const NOT_NOTICED: Duration = Duration::from_secs(15);

/// Where the pods behind Tidegate are.
const NAMESPACE: &str = "ha";

/// What clients ask for.
const HOST: &str = "ha.example.com";

/// Pods as they should be: a moment's pause between the end that is announced and that which comes, and no two away at once.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 2}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
        - topologyKey: kubernetes.io/hostname
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {matchLabels: {app: web}}
          matchLabelKeys: [pod-template-hash]
      containers:
        - name: main
          image: IMAGE
          args: [pod, --name, $(POD_NAME), --listen, '0.0.0.0:8080']
          env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
          readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8080}}
          lifecycle: {preStop: {sleep: {seconds: 3}}}
---
";

fn ingress(name: &str, host: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}}}, spec: {{ingressClassName: tidegate, \
         rules: [{{host: {host}, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: \
         {{number: 80}}}}}}}}]}}}}]}}}}\n"
    )
}

/// The cluster for one test alone, with Tidegate and pods behind it.
struct World {
    // First of all: clients end before whom they ask.
    load: Option<Load>,
    network: NetworkNamespace,
    /// The ClusterIP, and the LoadBalancer address.
    ways: [SocketAddr; 2],
    installed: &'static Installed,
    begun: Instant,
    cluster: Disruptive,
}

impl World {
    /// `None` where there is no such cluster.
    async fn start() -> Option<Self> {
        static PREPARED: OnceCell<SocketAddr> = OnceCell::const_new();
        let shared = Cluster::shared().await?;
        let installed = Installed::shared(&shared).await?;
        let cluster = shared.disruptive().await;
        let cluster_addr = *PREPARED.get_or_init(async || prepare(&cluster, installed)).await;
        let network = cluster.network_outside();
        let ways = [cluster_addr, installed.http_addr()];
        let world = Self { load: None, network, ways, installed, begun: Instant::now(), cluster };
        // As a test before that failed may have left it.
        world.cluster.kubectl(&["uncordon", "n1", "n2"]);
        is_rolled_out(&world.cluster, NAMESPACE, "deployment/web");
        is_rolled_out(&world.cluster, installed.namespace(), "deployment/tidegate");
        Some(world)
    }

    /// Clients that repeat nothing.
    async fn load(&mut self) {
        let host = HOST;
        let kinds = [
            Traffic::Http1New { host },
            Traffic::Http1KeepAlive { host },
            Traffic::Http1Post { host, kept: false },
            Traffic::Http1Post { host, kept: true },
        ];
        let traffic: Vec<_> = self.ways.iter().flat_map(|way| kinds.clone().map(|kind| (kind, *way))).collect();
        self.load = Some(Load::start_on(self.network.handle(), traffic, CLIENTS).await);
        self.progress().await;
    }

    /// Clients that repeat, on one of the ways.
    async fn load_repeating(&self, way: usize) -> Load {
        let traffic = [false, true].map(|post| (Traffic::Http1Repeating { host: HOST, post }, self.ways[way]));
        Load::start_on(self.network.handle(), traffic, CLIENTS).await
    }

    async fn progress(&self) {
        self.load.as_ref().expect("there are clients").progress(SOME).await;
    }

    async fn end(mut self, what: &str) {
        self.progress().await;
        let report = self.load.take().expect("there are clients").end().await;
        println!("{what}: {:.0} s; {report}", self.begun.elapsed().as_secs_f64());
    }

    fn still_well(&self) {
        self.load.iter().for_each(Load::assert_nothing_failed);
    }

    /// Waits for something that the cluster is to do, while nothing fails.
    async fn until(&self, what: &str, within: Duration, mut is_it: impl FnMut() -> Result<(), String>) -> Duration {
        let begun = Instant::now();
        loop {
            let Err(why_not) = is_it() else { return begun.elapsed() };
            assert!(begun.elapsed() < within, "{what}: {why_not} after {within:?}");
            self.still_well();
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn kubectl(&self, namespace: &str, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["-n", namespace], arguments].concat())
    }

    /// The pods of Tidegate, or of the Service behind it, with a field of each.
    fn pods(&self, namespace: &str, field: &str) -> Vec<(String, String)> {
        let path = format!("jsonpath={{range .items[*]}}{{.metadata.name}} {{{field}}}{{\"\\n\"}}{{end}}");
        let pods = self.kubectl(namespace, &["get", "pods", "-o", &path]);
        let pair = |line: &str| line.split_once(' ').map(|(name, value)| (name.to_owned(), value.to_owned()));
        pods.lines().filter_map(pair).collect()
    }

    /// Waits until none of these is there any more.
    async fn until_gone(&self, namespace: &str, pods: &[(String, String)]) {
        let gone = || {
            let now = self.pods(namespace, ".status.phase");
            let left: Vec<_> = now.into_iter().filter(|(name, _)| pods.iter().any(|(old, _)| old == name)).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are left")) }
        };
        self.until("pods that were replaced", PODS_READY, gone).await;
    }

    /// The pod that leads.
    async fn leader(&self) -> String {
        let lease = ["get", "lease", "tidegate-leader", "-o", "jsonpath={.spec.holderIdentity}"];
        let mut leader = String::new();
        let is_there = || {
            leader = self.kubectl(self.installed.namespace(), &lease);
            if leader.is_empty() { Err("nobody has the Lease".to_owned()) } else { Ok(()) }
        };
        self.until("a leader", WITHOUT_LEADER, is_there).await;
        leader
    }

    /// A new Ingress is served, and shows its address.
    async fn until_a_new_ingress_is_whole(&self, name: &str) {
        self.cluster.apply_in(NAMESPACE, &ingress(name, &format!("{name}.example.com")));
        let expected = self.installed.address().to_string();
        let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        let shows = || {
            let shown = self.cluster.try_kubectl(&["get", "ingress", name, "-n", NAMESPACE, "-o", path])?;
            if shown == expected { Ok(()) } else { Err(format!("it shows {shown:?}")) }
        };
        let took = self.until(&format!("the status of Ingress {name}"), WITHOUT_LEADER, shows).await;
        println!("{name}: a new Ingress shows its address after {:.1} s", took.as_secs_f64());
        let host = format!("{name}.example.com");
        let is_served = || self.curl(self.ways[0], &host).map(drop);
        self.until(&format!("Ingress {name}"), PATIENCE, is_served).await;
    }

    /// What is answered with 200, from outside the nodes.
    fn curl(&self, addr: SocketAddr, host: &str) -> Result<String, String> {
        let mut curl = self.cluster.command_outside();
        curl.args(["curl", "-sSf", "--max-time", "5", "-H", &format!("Host: {host}"), &format!("http://{addr}/")]);
        let output = curl.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn order(&self, orders: &[&str]) {
        for order in orders {
            owner::ask(self.cluster.directory(), order).unwrap_or_else(|error| panic!("{order}: {error}"));
        }
    }

    /// Replaces every pod of the Deployment behind Tidegate.
    async fn replace_back_ends(&self) {
        let before = self.pods(NAMESPACE, ".status.phase");
        self.kubectl(NAMESPACE, &["rollout", "restart", "deployment/web"]);
        is_rolled_out(&self.cluster, NAMESPACE, "deployment/web");
        self.until_gone(NAMESPACE, &before).await;
    }
}

/// Pods behind Tidegate, an Ingress, and a way to the ClusterIP of Tidegate's Service, for all tests of this file.
fn prepare(cluster: &Cluster, installed: &Installed) -> SocketAddr {
    cluster.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}"));
    let web = WEB.replace("IMAGE", &Installed::image());
    cluster.apply_in(NAMESPACE, &(web + &ingress("web", HOST)));
    is_rolled_out(cluster, NAMESPACE, "deployment/web");
    let service = ["get", "service", installed.name(), "-n", installed.namespace(), "-o", "jsonpath={.spec.clusterIP}"];
    let cluster_ip = cluster.kubectl(&service);
    cluster.outside(&["ip", "route", "replace", &cluster_ip, "via", &cluster.node_ip("n2").to_string()]);
    SocketAddr::new(cluster_ip.parse().expect("an address"), 80)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tidegate_is_updated() {
    let Some(mut world) = World::start().await else { return };
    let namespace = world.installed.namespace();
    world.load().await;
    let before = world.pods(namespace, ".status.phase");
    world.kubectl(namespace, &["rollout", "restart", "deployment/tidegate"]);
    is_rolled_out(&world.cluster, namespace, "deployment/tidegate");
    world.until_a_new_ingress_is_whole("updated").await;
    world.until_gone(namespace, &before).await;
    let leader = world.leader().await;
    assert!(!before.iter().any(|(pod, _)| *pod == leader), "{leader} leads, which was replaced");
    world.end("Tidegate is updated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pods_behind_it_are_updated() {
    let Some(mut world) = World::start().await else { return };
    world.load().await;
    world.replace_back_ends().await;
    world.until_a_new_ingress_is_whole("back-ends").await;
    world.end("the pods behind it are updated").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained() {
    let Some(mut world) = World::start().await else { return };
    let namespace = world.installed.namespace();
    world.load().await;
    let leader = world.leader().await;
    let pods = world.pods(namespace, ".spec.nodeName");
    let (_, node) = pods.iter().find(|(pod, _)| *pod == leader).expect("a pod leads");
    let on_node = |namespace| {
        let pods = world.pods(namespace, ".spec.nodeName");
        pods.into_iter().filter(|(_, at)| at == node).collect::<Vec<_>>()
    };
    if on_node(NAMESPACE).is_empty() {
        // New ones are spread.
        world.replace_back_ends().await;
    }
    let on_node = [namespace, NAMESPACE].map(on_node);
    assert!(on_node.iter().all(|pods| !pods.is_empty()), "{on_node:?}");
    let timeout = format!("--timeout={}s", PODS_READY.as_secs());
    // Not the single pods of other tests, which nobody would make anew.
    let pods = "--pod-selector=app notin (client, quiz, ready, single)";
    world.cluster.kubectl(&["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", pods, &timeout]);
    world.until_gone(namespace, &on_node[0]).await;
    world.until_gone(NAMESPACE, &on_node[1]).await;
    world.until_a_new_ingress_is_whole("drained").await;
    world.cluster.kubectl(&["uncordon", node]);
    is_rolled_out(&world.cluster, namespace, "deployment/tidegate");
    world.end("a node is drained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_is_killed() {
    let Some(mut world) = World::start().await else { return };
    world.load().await;
    world.cluster.restart_etcd().await;
    world.progress().await;
    world.until_a_new_ingress_is_whole("etcd").await;
    world.replace_back_ends().await;
    world.end("etcd is killed").await;
}

/// The control plane is away as a whole: controller manager and scheduler end by themselves when they cannot renew their Leases. (One
/// that did not would take the nodes for dead when the API server is back, and with them every pod.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_is_away_for_two_minutes() {
    let Some(mut world) = World::start().await else { return };
    world.load().await;
    world.order(&["stop kube-controller-manager", "stop kube-scheduler", "stop kube-apiserver"]);
    let begun = Instant::now();
    while begun.elapsed() < AWAY {
        sleep(Duration::from_secs(1)).await;
        world.progress().await;
    }
    world.order(&["start kube-apiserver", "start kube-controller-manager", "start kube-scheduler"]);
    world.until_a_new_ingress_is_whole("away").await;
    world.replace_back_ends().await;
    world.end("the API server is away").await;
}

/// The process of a pod of Tidegate, as it is called here.
fn process_of(pod: &str) -> Option<Pid> {
    let named = format!("POD_NAME={pod}");
    let is_it = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == named.as_bytes())
    };
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find(is_it).and_then(Pid::from_raw)
}

/// Kills a replica while clients ask that repeat, once, what was lost: the kernel resets the connections of a process that is killed, and
/// nobody can bring back what was under way on them. Beyond that nothing may fail: no more is lost than there were connections, and
/// the repetition is answered. Who comes by the other Tidegate sees no connection refused, because it tries another replica; with
/// kube-proxy, which looks at no connection, one may be refused until the replica runs again, or is known not to.
async fn kill(world: &World, pod: &str, until_it_is_back: impl AsyncFnOnce()) {
    let loads = [world.load_repeating(0).await, world.load_repeating(1).await];
    for load in &loads {
        load.progress(SOME).await;
    }
    let killed = Instant::now();
    kill_process(process_of(pod).expect("it runs"), Signal::KILL).expect("it is ours to kill");
    until_it_is_back().await;
    println!("{pod} is back {:.1} s after it was killed", killed.elapsed().as_secs_f64());
    for (load, by) in loads.into_iter().zip(["kube-proxy", "Tidegate"]) {
        load.progress(4 * SOME).await;
        let losses = load.losses();
        let report = load.end().await;
        let last = losses.refused.last().map_or(Duration::ZERO, |refused| refused.duration_since(killed));
        let (lost, refused) = (losses.lost.len(), losses.refused.len());
        println!(
            "by {by}: {report}; lost: {lost}; refused: {refused}, the last one after {:.1} s; longest: {:.1} s",
            last.as_secs_f64(),
            losses.longest.as_secs_f64()
        );
        assert!(lost <= 2 * CLIENTS, "each client has one connection, but {lost} were lost");
        assert!(last < NOT_NOTICED, "connections are refused for {last:?}");
        assert!(refused == 0 || by == "kube-proxy", "{refused} connections were refused");
    }
}

impl World {
    fn restarts(&self, pod: &str) -> u32 {
        let pods = self.pods(self.installed.namespace(), ".status.containerStatuses[0].restartCount");
        let found = pods.iter().find(|(name, _)| name == pod);
        found.and_then(|(_, count)| count.parse().ok()).unwrap_or_else(|| panic!("{pod} is not among {pods:?}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed() {
    let Some(world) = World::start().await else { return };
    let (leader, namespace) = (world.leader().await, world.installed.namespace());
    let restarts = world.restarts(&leader);
    kill(&world, &leader, async || {
        let is_back = || {
            let ready = world.pods(namespace, ".status.containerStatuses[0].ready");
            let is_back = world.restarts(&leader) > restarts && ready.contains(&(leader.clone(), "true".to_owned()));
            if is_back { Ok(()) } else { Err(format!("{ready:?}")) }
        };
        world.until("the replica that was killed", PODS_READY, is_back).await;
        world.until_a_new_ingress_is_whole("killed").await;
    })
    .await;
}

/// It serves what it knew, from the cache in its Pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_killed_while_the_api_server_is_away() {
    let Some(world) = World::start().await else { return };
    let pods = world.pods(world.installed.namespace(), ".status.podIP");
    // Kubelet waits before it restarts the same one again.
    let (pod, ip) = pods.iter().min_by_key(|(pod, _)| world.restarts(pod)).expect("there are two");
    let at = |port| SocketAddr::new(ip.parse().expect("an address"), port);
    world.order(&["stop kube-controller-manager", "stop kube-scheduler", "stop kube-apiserver"]);
    let dead = process_of(pod);
    kill(&world, pod, async || {
        let is_another = || match process_of(pod) {
            now if now != dead && now.is_some() => Ok(()),
            now => Err(format!("it is process {now:?}")),
        };
        world.until("the replica that was killed", PODS_READY, is_another).await;
        let serves = || world.curl(at(8080), HOST).map(drop);
        world.until("the replica that was killed serves", PATIENCE, serves).await;
    })
    .await;
    world.order(&["start kube-apiserver", "start kube-controller-manager", "start kube-scheduler"]);
    world.until_a_new_ingress_is_whole("restarted").await;
}
