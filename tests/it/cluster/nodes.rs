//! The two nodes: pods that reach each other, what can be disturbed, and that nothing is left of them.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tidegate_tests::{
    PATIENCE,
    cluster::{
        AGNHOST, Cluster, Tier,
        directory::{Directory, remove_leftovers},
        machine, owner,
        programs::Programs,
    },
    oci::{File, Image},
};

use super::bed::{until, until_no_process_is_left, until_nothing_is_left};

/// Requests that are sure to find both of two pods: one of them is missed by one run in 2³⁹.
const ENOUGH: usize = 40;

/// A pod on a node, which answers on port 8080 with its name at `/hostname`.
fn pod(name: &str, node: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: single}}}}, spec: {{nodeName: {node}, \
         terminationGracePeriodSeconds: 0, containers: [{{name: main, image: '{AGNHOST}', args: [netexec], \
         readinessProbe: {{periodSeconds: 1, httpGet: {{path: /hostname, port: 8080}}}}}}]}}}}\n"
    )
}

/// A pod on each node, and a Service of both.
fn web() -> String {
    "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, selector: {app: single}, \
     ports: [{port: 80, targetPort: 8080}]}}\n"
        .to_owned()
        + &pod("web-1", "n1")
        + &pod("web-2", "n2")
}

fn wait_for_pods(cluster: &Cluster, namespace: &str) {
    let timeout = format!("--timeout={}s", 4 * PATIENCE.as_secs());
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "-n", namespace, &timeout]);
}

/// What a field of an object is.
fn field(cluster: &Cluster, namespace: &str, object: &str, path: &str) -> String {
    cluster.kubectl(&["get", object, "-n", namespace, "-o", &format!("jsonpath={{{path}}}")])
}

/// Asks from a pod until the answer is right: what kube-proxy knows may be a moment behind, also of the second of two pods.
#[track_caller]
fn ask(cluster: &Cluster, namespace: &str, command: &[&str], is_right: impl Fn(&String) -> bool) {
    let patience = Instant::now() + PATIENCE;
    loop {
        let answer = cluster.try_exec(namespace, "web-1", command);
        if answer.as_ref().is_ok_and(&is_right) {
            return;
        }
        assert!(Instant::now() < patience, "{command:?}: {answer:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until kube-proxy knows the Service.
#[track_caller]
fn wait_for_service(cluster: &Cluster, namespace: &str) {
    ask(cluster, namespace, &["curl", "-sS", "--max-time", "5", "http://web/hostname"], |_| true);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_both_nodes_are_reached_by_name_and_address() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace("pods");
    let name = &namespace.name[..];
    cluster.apply_in(name, &web());
    wait_for_pods(&cluster, name);
    let ips = ["web-1", "web-2"].map(|pod| field(&cluster, name, &format!("pod/{pod}"), ".status.podIP"));
    assert!(ips[0].starts_with("10.244.1.") && ips[1].starts_with("10.244.2."), "{ips:?}");

    let cluster_ip = field(&cluster, name, "service/web", ".spec.clusterIP");
    assert!(cluster_ip.starts_with("10.96."), "{cluster_ip}");
    let service = format!("web.{name}.svc.cluster.local");
    for host in [&cluster_ip, "web", &service] {
        let urls = format!("http://{host}/hostname?[1-{ENOUGH}]");
        let command = ["curl", "-sS", "--max-time", "5", "-w", "\n", "-H", "Connection: close", &urls];
        let both = |answers: &String| answers.split_whitespace().collect::<BTreeSet<_>>() == ["web-1", "web-2"].into();
        ask(&cluster, name, &command, both);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ports_are_left_to_us() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace("ports");
    let name = &namespace.name[..];
    cluster.apply_in(name, &web());
    wait_for_pods(&cluster, name);
    wait_for_service(&cluster, name);
    for node in ["n1", "n2"] {
        // Whether somebody answers there depends on whether another test has Tidegate installed on the nodes already.
        let theirs = cluster.on_node(node, &["nft", "list", "set", "ip", "kube-proxy", "nodeport-ips"]);
        assert!(theirs.contains("set nodeport-ips") && !theirs.contains("elements"), "{theirs}");
        let addresses = cluster.on_node(node, &["ip", "-brief", "address", "show", "eth0"]);
        assert!(addresses.contains(&format!(" {}/24 ", cluster.node_ip(node))), "{addresses}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_our_own_runs() {
    let Some(cluster) = Cluster::shared().await else { return };
    let namespace = cluster.namespace("image");
    let name = &namespace.name[..];
    let agnhost = Programs::find(Tier::TwoNodes).unwrap().path("agnhost");
    let image = Image {
        name: "tidegate.io/tests/own:1".to_owned(),
        entrypoint: ["/own", "netexec"].map(str::to_owned).to_vec(),
        files: vec![File::Regular { path: "/own".to_owned(), source: agnhost, mode: 0o755 }],
        ..Image::default()
    };
    let archive = cluster.directory().file("own.tar");
    image.write(&archive).unwrap();
    cluster.load_image(&archive);
    let manifests = web().replace(AGNHOST, &image.name).replace("args: [netexec], ", "");
    cluster.apply_in(name, &manifests);
    wait_for_pods(&cluster, name);
    assert_eq!(cluster.try_exec(name, "web-2", &["/own", "help"]).map(|help| help.is_empty()), Ok(false));
}

/// What runs goes on while the control plane is away; and the pods of a node that was killed come back with it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stopped_comes_back() {
    let Some(cluster) = Cluster::shared().await else { return };
    let cluster = cluster.disruptive().await;
    let namespace = cluster.namespace("stopped");
    let name = &namespace.name[..];
    cluster.apply_in(name, &web());
    wait_for_pods(&cluster, name);
    wait_for_service(&cluster, name);
    let cluster_ip = field(&cluster, name, "service/web", ".spec.clusterIP");
    cluster.stop_api_server().await;
    assert!(cluster.try_kubectl(&["get", "nodes", "--request-timeout=2s"]).is_err());
    let url = format!("http://{cluster_ip}/hostname");
    assert!(cluster.on_node("n2", &["curl", "-sS", "--max-time", "5", &url]).starts_with("web-"));
    cluster.restart_etcd().await;
    cluster.start_api_server().await;

    let started = ["get", "pod", "web-2", "-n", name, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"];
    until(&cluster, &started, "0");
    cluster.restart_node("n2").await;
    until(&cluster, &started, "1");
    wait_for_pods(&cluster, name);
}

/// A process that has a cluster, and does nothing else.
struct Keeper {
    child: Child,
    directory: Directory,
}

impl Keeper {
    fn start(name: &str) -> Self {
        let directory = Directory::named(&format!("{name}-{}", std::process::id())).unwrap();
        let mut shell = Command::new("sh");
        let pipe = "sleep infinity | \"$0\" supervise --name \"$1\"";
        shell.args(["-c", pipe, env!("CARGO_BIN_EXE_cluster"), &directory.name()]).process_group(0);
        let child = shell.stdout(Stdio::null()).spawn().unwrap();
        let keeper = Self { child, directory };
        let patience = Instant::now() + 4 * PATIENCE;
        while owner::ask(&keeper.directory, "status").is_err() {
            assert!(Instant::now() < patience, "the cluster does not start");
            thread::sleep(Duration::from_millis(50));
        }
        keeper
    }

    fn kubectl(&self, arguments: &[&str]) {
        let mut kubectl = Command::new(Programs::find(Tier::TwoNodes).unwrap().path("kubectl"));
        kubectl.env("KUBECONFIG", self.directory.file("admin.kubeconfig")).args(arguments);
        assert!(kubectl.status().unwrap().success(), "kubectl {arguments:?}");
    }

    /// Kills it, and nothing else.
    fn kill(&self) {
        // The supervisor is in a session of its own.
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).unwrap();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(owner::down(&self.directory));
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        drop(self.child.wait());
    }
}

/// The namespaces that live by a mount, not by a process.
fn kept_namespaces() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(" - nsfs ")).map(str::to_owned).collect()
}

#[test]
fn nothing_is_left_of_nodes_whose_owner_is_killed() {
    if let Err(why) = machine::check(Tier::TwoNodes).and_then(|()| Programs::find(Tier::TwoNodes)) {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        return eprintln!("skipped: {why}");
    }
    let kept = kept_namespaces();
    let keeper = Keeper::start("keeper");
    let manifest = keeper.directory.file("pod.yaml");
    fs::write(&manifest, pod("web", "n1")).unwrap();
    keeper.kubectl(&["create", "-f", manifest.to_str().unwrap()]);
    keeper.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=120s"]);
    let directory = keeper.directory.clone();
    let processes = directory.processes();
    assert!(processes.len() > 15 && !directory.cgroups().is_empty(), "{processes:?}");
    keeper.kill();
    until_nothing_is_left(&directory);
    // Its namespaces have ended with the processes in them.
    assert_eq!(kept_namespaces().difference(&kept).count(), 0);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&directory.path().display().to_string()), "{mounts}");
}

#[test]
fn nothing_is_left_of_nodes_whose_supervisor_is_killed() {
    if let Err(why) = machine::check(Tier::TwoNodes).and_then(|()| Programs::find(Tier::TwoNodes)) {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        return eprintln!("skipped: {why}");
    }
    let keeper = Keeper::start("orphan");
    let directory = keeper.directory.clone();
    let supervisor = owner::ask(&directory, "supervisor").unwrap();
    kill_process(Pid::from_raw(supervisor.trim().parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    until_no_process_is_left(&directory);
    // Files and cgroups nobody could remove; whoever starts the next cluster does.
    remove_leftovers().unwrap();
    until_nothing_is_left(&directory);
}
