//! What Tidegate's account may do, as a real API server sees it, and what is missing without each permission.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tidegate_tests::{
    Client, Net, PATIENCE,
    certificates::{Ca, Pair, TlsClient, secret_manifest},
    chart::objects,
    cluster::{
        ControlPlane,
        audit::{Asked, asked_by},
    },
    image::root,
    permissions::{Permission, documented},
    process::Process,
};

/// Who runs in the manifests.
const ACCOUNT: &str = "system:serviceaccount:tidegate:tidegate";

/// Ingresses that say where to go instead, so that no pod is needed to see them at work.
const OBJECTS: &str = "\
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{port: 8080, name: '', protocol: TCP}],
 metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}},
 endpoints: [{addresses: [192.0.2.1], conditions: {ready: true}}]}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: fields, namespace: shop}, data: {X-A: b}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: edge}, spec: {controller: tidegate.io/ingress,
 parameters: {apiGroup: tidegate.io, kind: IngressClassParameters, name: edge}}}
---
{apiVersion: tidegate.io/v1alpha1, kind: IngressClassParameters, metadata: {name: edge},
 spec: {annotations: {nginx.ingress.kubernetes.io/permanent-redirect: 'https://edge.example.org/'}}}
---
{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {name: edge}, spec: {addresses: [192.0.2.0/24]}}
---
{apiVersion: v1, kind: Service, metadata: {name: balanced, namespace: shop}, spec: {type: LoadBalancer,
 loadBalancerClass: tidegate.io/load-balancer, ports: [{port: 80}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: broken, namespace: shop}, spec: {ingressClassName: tidegate,
 defaultBackend: {service: {name: nobody, port: {number: 80}}}}}
";

fn ingress(name: &str, class: &str, annotations: &Value) -> String {
    let rule = json!({
        "host": format!("{name}.example.com"),
        "http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "web", "port": {"number": 80}}}}]},
    });
    let tls = json!([{"hosts": ["tls.example.com"], "secretName": "tls"}]);
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
        "spec": {"ingressClassName": class, "rules": [rule], "tls": if name == "tls" { tls } else { json!([]) }},
    });
    format!("---\n{object}\n")
}

/// A control plane with the manifests of the Deployment form, and something to serve.
struct World {
    control_plane: ControlPlane,
    net: Net,
    ca: Ca,
    /// The rules that the manifests grant, with the role that has them.
    roles: Vec<Value>,
    kubeconfig: std::path::PathBuf,
}

impl World {
    async fn start() -> Option<Self> {
        let control_plane = ControlPlane::own().await?;
        let manifests = fs::read_to_string(root().join("deploy/manifests/deployment.yaml")).unwrap();
        let (definitions, others): (Vec<Value>, Vec<Value>) =
            objects(&manifests).into_iter().partition(|object| object["kind"] == "CustomResourceDefinition");
        control_plane.apply(&stream(&definitions));
        control_plane.apply(&stream(&others));
        for definition in &definitions {
            let name = format!("crd/{}", definition["metadata"]["name"].as_str().unwrap());
            control_plane.kubectl(&["wait", "--for=condition=Established", &name, "--timeout=30s"]);
        }
        let ca = Ca::new("shop");
        let Pair { chain, key } = ca.leaf(&["tls.example.com"]);
        control_plane.apply(OBJECTS);
        control_plane.apply_in("shop", &secret_manifest("tls", &[("tls.crt", &chain), ("tls.key", &key)]));
        let redirect = ("nginx.ingress.kubernetes.io/permanent-redirect", "https://example.org/");
        let plain = json!({redirect.0: redirect.1});
        let fields = json!({redirect.0: redirect.1, "nginx.ingress.kubernetes.io/custom-headers": "shop/fields"});
        for (name, class, annotations) in [
            ("plain", "tidegate", &plain),
            ("tls", "tidegate", &plain),
            ("fields", "tidegate", &fields),
            ("class", "edge", &plain),
            ("parameters", "edge", &json!({})),
        ] {
            control_plane.apply(&ingress(name, class, annotations));
        }
        let roles = others.into_iter().filter(|object| ["ClusterRole", "Role"].contains(&kind(object))).collect();
        let kubeconfig = control_plane.user_kubeconfig(&control_plane.token("tidegate", "tidegate"));
        Some(Self { control_plane, net: Net::next(), ca, roles, kubeconfig })
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.net.ip(1), port)
    }

    /// Has the account do all that the manifests grant, but nothing with this resource.
    fn grant_all_but(&self, resource: &str) {
        let mut roles = self.roles.clone();
        let mut taken = None;
        for role in &mut roles {
            // A rule may be about several resources: the others stay.
            for rule in role["rules"].as_array_mut().unwrap() {
                let resources = rule["resources"].as_array_mut().unwrap();
                let before = resources.len();
                resources.retain(|listed| *listed != resource);
                if resources.len() < before {
                    let string = |value: &Value| value.as_str().unwrap().to_owned();
                    taken = Some((string(&rule["verbs"][0]), string(&rule["apiGroups"][0])));
                }
            }
            role["rules"].as_array_mut().unwrap().retain(|rule| rule["resources"] != json!([]));
        }
        let (verb, group) = taken.unwrap_or_else(|| panic!("nothing is granted for {resource}"));
        self.control_plane.apply(&stream(&roles));
        let (name, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let name = if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") };
        let subresource = format!("--subresource={subresource}");
        let question = ["auth", "can-i", &verb, &name, &subresource, "--as", ACCOUNT, "-n", "tidegate", "--quiet"];
        // It fails when the answer is no.
        until(&format!("may {verb} {resource} still"), || self.control_plane.try_kubectl(&question).is_err());
    }

    fn run(&self) -> Process {
        let state = std::env::temp_dir().join(format!("tidegate-rbac-{}", std::process::id()));
        let path = self.kubeconfig.display().to_string();
        let [http, https, admin] = [8080, 8443, 9901].map(|port| self.at(port).to_string());
        let arguments = [
            "run",
            "--kubernetes",
            "--kubeconfig",
            &path,
            "--http",
            &http,
            "--https",
            &https,
            "--admin",
            &admin,
            "--node-name",
            "n1",
            "--controller-class",
            "tidegate.io/ingress",
            "--ingress-class",
            "tidegate",
            "--leader-namespace",
            "tidegate",
            "--publish-status-address",
            "192.0.2.200",
            "--drain-timeout",
            "0s",
        ];
        Process::start(&state, &arguments.map(str::to_owned))
    }

    async fn ask(&self, path: &str) -> (u16, String) {
        let answer = Client::connect(self.at(9901)).await.get("localhost", path).await;
        (answer.status, answer.text())
    }

    /// What a host answers.
    async fn status(&self, name: &str) -> u16 {
        Client::connect(self.at(8080)).await.get(&format!("{name}.example.com"), "/").await.status
    }

    fn json_path(&self, what: &str, name: &str, path: &str) -> String {
        self.control_plane.kubectl(&["get", what, name, "-n", "shop", "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Takes back what a Tidegate before has written.
    fn clear(&self) {
        let nothing = r#"{"status": {"loadBalancer": null}}"#;
        for what in ["ingress/plain", "service/balanced"] {
            let patch = ["patch", what, "-n", "shop", "--subresource=status", "--type=merge", "-p", nothing];
            self.control_plane.kubectl(&patch);
        }
        for what in ["ingressclassparameters/edge", "loadbalancerpools/edge"] {
            let nothing = r#"{"status": {"conditions": null}}"#;
            self.control_plane.kubectl(&["patch", what, "--subresource=status", "--type=merge", "-p", nothing]);
        }
        self.control_plane.kubectl(&["delete", "events.events.k8s.io", "--all", "-n", "shop"]);
    }

    fn events(&self) -> String {
        let columns = "jsonpath={.items[*].reason}";
        let only = "--field-selector=reportingController=tidegate.io/ingress";
        self.control_plane.kubectl(&["get", "events.events.k8s.io", "-n", "shop", only, "-o", columns])
    }

    /// Whether what a permission is for works: it does with it, and does not without it. `None` where that is not seen from outside,
    /// but in the words alone.
    async fn works(&self, resource: &str) -> Option<bool> {
        Some(match resource {
            "services" => self.ask("/config").await.1.contains("\"web\""),
            "endpointslices" => self.ask("/config").await.1.contains("192.0.2.1"),
            "ingresses" => self.status("plain").await == 301,
            "secrets" => TlsClient::new(&self.ca).connect(self.at(8443), "tls.example.com").await.is_ok(),
            "configmaps" => self.status("fields").await == 301,
            "ingressclasses" => self.status("class").await == 301,
            "ingressclassparameters" => self.status("parameters").await == 301,
            "leases" | "ingresses/status" => {
                self.json_path("ingress", "plain", ".status.loadBalancer.ingress[0].ip") == "192.0.2.200"
            }
            "loadbalancerpools" | "services/status" => {
                self.json_path("service", "balanced", ".status.loadBalancer.ingress[0].ip").starts_with("192.0.2.")
            }
            "ingressclassparameters/status" => self.condition("ingressclassparameters/edge") == "True",
            "loadbalancerpools/status" => self.condition("loadbalancerpools/edge") == "True",
            "events" => self.events().contains("MissingService"),
            "nodes" | "namespaces" => return None,
            other => panic!("{other} is in the table of permissions: say here how it is seen"),
        })
    }

    fn condition(&self, object: &str) -> String {
        let path = "jsonpath={.status.conditions[0].status}";
        self.control_plane.kubectl(&["get", object, "-o", path])
    }

    /// A Tidegate that may do all that the manifests grant, once all of it works.
    async fn run_whole(&self, table: &[Permission]) -> Process {
        let process = self.run();
        for permission in table {
            let begin = Instant::now();
            while self.works(&permission.resource).await == Some(false) {
                let (readiness, log) = (self.ask("/readyz").await, process.log());
                assert!(begin.elapsed() < PATIENCE, "{} does not work: {readiness:?}\n{log}", permission.resource);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        process
    }

    /// Starts without a permission, and sees what the table says.
    async fn without(&self, permission: &Permission) {
        let (resource, words) = (&permission.resource[..], &permission.without[..]);
        self.grant_all_but(resource);
        self.clear();
        let mut process = self.run();
        let said = move |text: &str| text.contains(words);
        let begin = Instant::now();
        loop {
            let (status, readiness) = self.ask("/readyz").await;
            let findings = if status == 200 { self.ask("/findings").await.1 } else { words.to_owned() };
            let ready = if permission.is_ready_without { 200 } else { 503 };
            if status == ready && said(&readiness) && said(&findings) && said(&process.log()) {
                break;
            }
            let seen = format!("/readyz {status} {readiness}\n/findings {findings}\nlog\n{}", process.log());
            assert!(begin.elapsed() < PATIENCE, "without {resource}, nobody says so ({words}):\n{seen}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_ne!(self.works(resource).await, Some(true), "without {resource}, it works still");
        process.terminate();
        process.ended();
    }
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// JSON is YAML.
fn stream(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}

#[track_caller]
fn until(what: &str, mut is_it: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_it() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_permission_is_needed_for_what_the_table_says() {
    let Some(world) = World::start().await else { return };
    let table = documented();

    let mut process = world.run_whole(&table).await;
    assert_eq!(world.ask("/readyz").await, (200, "ok\n".to_owned()), "it may all that it wants to");
    let log = process.log();
    assert!(!world.ask("/findings").await.1.contains("\"Forbidden\"") && !log.contains("not permitted"), "{log}");
    process.terminate();
    process.ended();

    for permission in &table {
        world.without(permission).await;
    }
}

/// The API server's own log of what was asked for: each verb of the table, or it could be taken away, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn each_verb_is_used_and_no_other_is_tried() {
    let Some(world) = World::start().await else { return };
    let table = documented();
    let one =
        |row: &Permission, verb: &String| Asked { resource: row.resource.clone(), verb: verb.clone(), allowed: true };
    let granted: BTreeSet<Asked> = table.iter().flat_map(|row| row.verbs.iter().map(|verb| one(row, verb))).collect();
    let used = || asked_by(world.control_plane.directory(), ACCOUNT);
    let mut first = world.run_whole(&table).await;
    first.terminate();
    first.ended();
    // It goes on with what the first one has written.
    let mut second = world.run_whole(&table).await;
    let begin = Instant::now();
    while let unused = granted.difference(&used()).cloned().collect::<Vec<_>>()
        && !unused.is_empty()
    {
        assert!(begin.elapsed() < PATIENCE, "nobody needs {unused:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    second.terminate();
    second.ended();
    let others: Vec<Asked> = used().difference(&granted).cloned().collect();
    assert_eq!(others, [], "not granted, or not in the table");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_what_the_account_may_do() {
    let Some(control_plane) = ControlPlane::own().await else { return };
    let manifests = fs::read_to_string(root().join("deploy/manifests/deployment.yaml")).unwrap();
    control_plane.apply(&manifests);
    let said = control_plane.kubectl(&["auth", "can-i", "--list", "--namespace", "tidegate", "--as", ACCOUNT]);
    let said: Vec<&str> = said.lines().map(str::trim_end).collect();
    let path = root().join("docs/kubernetes.md");
    let page = fs::read_to_string(&path).unwrap();
    let command = format!("$ kubectl auth can-i --list --namespace tidegate --as {ACCOUNT}\n");
    let (before, rest) = page.split_once(&command).expect("the command is on the page");
    let (written, after) = rest.split_once("```").expect("its end");
    let expected = said.join("\n") + "\n";
    if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{command}{expected}```{after}")).unwrap();
        return;
    }
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let again = "TIDEGATE_WRITE_DOCS=1 cargo test -p tidegate-tests --test it rbac::the_page";
    assert_eq!(sorted(written), sorted(&expected), "docs/kubernetes.md is stale: run `{again}`");
}
