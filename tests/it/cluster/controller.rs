//! Two replicas write to a real cluster, with the permissions that docs/controller.md names and no others.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Client, Net, PATIENCE,
    cluster::{ControlPlane, Namespace},
    process::Process,
};

const EDGE: &str = "192.0.2.200";

/// How long the Lease is good for without a leader, and how long until the next look at it, a write and what is slow here.
const TAKEOVER: Duration = Duration::from_secs(15 + 5);

const ROLE: &str = "\
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: tidegate}, rules: [
  {apiGroups: [''], resources: [services, secrets, configmaps], verbs: [get, list, watch]},
  {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]},
  {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [list, watch]},
  {apiGroups: [networking.k8s.io], resources: [ingresses/status], verbs: [patch]},
  {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]},
  {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: tidegate},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tidegate},
 subjects: [{kind: ServiceAccount, name: default}]}
";

fn ingress(name: &str, class: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}}}, spec: {{ingressClassName: {class}, \
         rules: [{{host: {name}.example.com, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: lost, \
         port: {{number: 80}}}}}}}}]}}}}]}}}}\n"
    )
}

/// A replica, and where its admin interface is.
struct Replica {
    process: Process,
    admin: SocketAddr,
}

impl Replica {
    fn start(control_plane: &ControlPlane, namespace: &Namespace) -> Self {
        let (net, name) = (Net::next(), &namespace.name);
        let kubeconfig = control_plane.user_kubeconfig(&control_plane.token(name, "default"));
        let admin = SocketAddr::new(net.ip(1), 9901);
        let text = format!(
            "run --kubernetes --watch-namespace {name} --ingress-class {name} --leader-namespace {name} --workers 1 \
             --publish-status-address {EDGE} --http {ip}:8080 --https {ip}:8443 --admin {admin} --kubeconfig {}",
            kubeconfig.display(),
            ip = net.ip(1),
        );
        let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Self { process: Process::start(&std::env::temp_dir(), &args), admin }
    }

    async fn metrics(&self) -> String {
        Client::connect(self.admin).await.get("localhost", "/metrics").await.text()
    }

    async fn leads(&self) -> bool {
        self.metrics().await.contains("tidegate_leader 1\n")
    }
}

/// What kubectl says of something in the namespace.
fn said(control_plane: &ControlPlane, namespace: &Namespace, arguments: &str) -> String {
    let arguments: Vec<&str> = arguments.split(' ').chain(["-n", &namespace.name]).collect();
    control_plane.kubectl(&arguments)
}

async fn until(what: &str, patience: Duration, is_it: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_it() {
        assert!(begun.elapsed() < patience, "{what}: not within {patience:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_writes_and_when_it_is_killed_the_other_does() {
    let Some(control_plane) = ControlPlane::shared().await else { return };
    let namespace = control_plane.namespace("controller");
    let said = |arguments: &str| said(control_plane, &namespace, arguments);
    let shown = |name: &str| said(&format!("get ingress {name} -o jsonpath={{.status.loadBalancer.ingress[*].ip}}"));
    control_plane.apply_in(&namespace.name, ROLE);
    control_plane.apply_in(&namespace.name, &ingress("web", &namespace.name));
    control_plane.apply_in(&namespace.name, &ingress("other", "somebody-elses"));
    let mut replicas = vec![Replica::start(control_plane, &namespace), Replica::start(control_plane, &namespace)];
    until("the address is shown", PATIENCE, || shown("web") == EDGE).await;
    assert_eq!(shown("other"), "");
    until("the finding is an Event", PATIENCE, || {
        let described = said("describe ingress web");
        described.contains("MissingService") && described.contains("tidegate.io/ingress")
    })
    .await;

    let leads = [replicas[0].leads().await, replicas[1].leads().await];
    assert_eq!(leads.iter().filter(|leads| **leads).count(), 1, "{leads:?}");
    let at = leads.iter().position(|leads| *leads).unwrap();
    // With no time to say anything.
    drop(replicas.remove(at));
    control_plane.apply_in(&namespace.name, &ingress("new", &namespace.name));
    until("the other one writes", TAKEOVER, || shown("new") == EDGE).await;
    let survivor = &mut replicas[0];
    assert!(survivor.leads().await);
    let transitions = said("get lease tidegate-leader -o jsonpath={.spec.leaseTransitions}");
    assert_eq!(transitions, "1");

    // It is not ours any more; what somebody else wrote stays.
    control_plane.apply_in(&namespace.name, &ingress("new", "somebody-elses"));
    until("it is taken back", PATIENCE, || shown("new").is_empty()).await;
    said(
        r#"patch ingress other --subresource=status --type=merge -p={"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}"#,
    );
    // The new leader has found that the finding is told already.
    let begun = Instant::now();
    while !survivor.metrics().await.contains("tidegate_writes_total{resource=\"events\",result=\"conflict\"} 1\n") {
        assert!(begun.elapsed() < PATIENCE, "{}", survivor.metrics().await);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let of_web = "get events --field-selector=reason=MissingService,involvedObject.name=web -o name";
    assert_eq!(said(of_web).lines().count(), 1);
    assert_eq!((shown("web"), shown("other")), (EDGE.to_owned(), "203.0.113.1".to_owned()));
    survivor.process.terminate();
    assert!(survivor.process.ended().success(), "{}", survivor.process.log());
    assert_eq!(said("get lease tidegate-leader -o jsonpath={.spec.holderIdentity}"), "", "it is given back");
    let log = survivor.process.log();
    assert!(!log.contains("panicked") && !log.contains("not permitted to patch"), "{log}");
}
