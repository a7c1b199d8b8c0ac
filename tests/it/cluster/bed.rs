//! The cluster itself: that it is a real one, can be hurt, and leaves nothing behind.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tidegate_tests::{
    PATIENCE,
    cluster::{ControlPlane, Tier, directory::Directory, owner, owner::Owner, programs::Programs},
};

/// A Service that selects `app: web`, a pod of it on a node that never beats, and that node.
const WEB: &str = "\
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-0, labels: {app: web}}, spec: {nodeName: NODE,
 tolerations: [{operator: Exists}], containers: [{name: main, image: none}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: NODE}}
";

/// What a kubelet would say of the pod.
const READY: &str = r#"{"status": {"phase": "Running", "podIP": "192.0.2.7", "podIPs": [{"ip": "192.0.2.7"}],
    "conditions": [{"type": "Ready", "status": "True"}]}}"#;

/// Asks until the answer is this one.
pub(super) fn until(control_plane: &ControlPlane, arguments: &[&str], expected: &str) {
    let patience = Instant::now() + PATIENCE;
    loop {
        let answer = control_plane.try_kubectl(arguments);
        if answer.as_deref() == Ok(expected) {
            return;
        }
        assert!(Instant::now() < patience, "kubectl {arguments:?} still says {answer:?} instead of {expected:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_status_is_patched_is_an_endpoint() {
    let Some(control_plane) = ControlPlane::shared().await else { return };
    let namespace = control_plane.namespace("endpoint");
    let name = &namespace.name[..];
    control_plane.apply_in(name, &WEB.replace("NODE", name));
    control_plane.kubectl(&["patch", "pod", "web-0", "-n", name, "--subresource=status", "-p", READY]);
    let slices = ["get", "endpointslices", "-n", name, "-l", "kubernetes.io/service-name=web", "-o"];
    let addresses = "jsonpath={.items[*].endpoints[*].addresses[*]} {.items[*].endpoints[*].conditions.ready}";
    until(control_plane, &[&slices[..], &[addresses]].concat(), "192.0.2.7 true");
    control_plane.kubectl(&["delete", "node", name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_service_account_are_known() {
    let Some(control_plane) = ControlPlane::shared().await else { return };
    let namespace = control_plane.namespace("known");
    let version = control_plane.client().apiserver_version().await.unwrap();
    assert!(version.git_version.starts_with("v1."), "{version:?}");
    let user = control_plane.user_kubeconfig(&control_plane.token(&namespace.name, "default"));
    let mut who = control_plane.kubectl_command();
    let said = who.args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).env("KUBECONFIG", user);
    let said = String::from_utf8(said.output().unwrap().stdout).unwrap();
    assert_eq!(said, format!("system:serviceaccount:{}:default", namespace.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_tests_own_can_be_hurt() {
    let Some(control_plane) = ControlPlane::own().await else { return };
    let namespace = control_plane.namespace("hurt");
    control_plane.stop_api_server().await;
    assert!(control_plane.try_kubectl(&["get", "namespaces", "--request-timeout=1s"]).is_err(), "nobody answers");
    control_plane.start_api_server().await;
    control_plane.restart_etcd().await;
    until(&control_plane, &["get", "namespace", &namespace.name, "-o", "jsonpath={.status.phase}"], "Active");
    let directory = control_plane.directory().clone();
    drop((namespace, control_plane));
    until_nothing_is_left(&directory);
}

/// Everything ends with whoever has it, also if that had no time to say so; and if the supervisor is killed, the next one
/// removes what it has left.
#[test]
fn nothing_is_left_of_what_was_killed() {
    if let Err(why) = Programs::find(Tier::ControlPlane) {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        return eprintln!("skipped: {why}");
    }
    let start = |name: &str| {
        let directory = Directory::named(&format!("{name}-{}", std::process::id())).unwrap();
        let program = env!("CARGO_BIN_EXE_cluster").as_ref();
        Owner::start(program, directory, Tier::ControlPlane, false, &mut |_| {}).unwrap()
    };
    let killed = start("killed");
    assert_eq!(killed.directory().processes().len(), 5, "four programs, and who supervises them");
    kill(killed.id());
    let directory = killed.directory().clone();
    drop(killed);
    until_no_process_is_left(&directory);
    let next = start("next");
    until_nothing_is_left(&directory);
    owner::down(next.directory()).unwrap();
    until_nothing_is_left(next.directory());
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-KILL", &process.to_string()]).status().unwrap().success());
}

pub(super) fn until_no_process_is_left(directory: &Directory) {
    let patience = Instant::now() + PATIENCE;
    while !directory.processes().is_empty() {
        assert!(Instant::now() < patience, "{:?} are left", directory.processes());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Every start of a cluster removes what is left of others, and so those of other tests do. It is done when all of them are.
pub(super) fn until_nothing_is_left(directory: &Directory) {
    let patience = Instant::now() + PATIENCE;
    while directory.path().exists() {
        assert!(Instant::now() < patience, "{} is left", directory.path().display());
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((directory.processes(), directory.cgroups()), (Vec::new(), Vec::new()));
}
