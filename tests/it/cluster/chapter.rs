//! The chapter on Services and Ingresses, sentence by sentence, in a real cluster: what one is told to type, typed, and what must
//! come of it. ClusterIPs are kube-proxy's; node ports, LoadBalancers and Ingresses are Tidegate's.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, Instant},
};

use tidegate_tests::{
    certificates::Ca,
    cluster::{
        AGNHOST, Cluster, Shared,
        tidegate::{HAS_ADDRESSES, Installed, PODS_READY, is_rolled_out},
    },
};
use tokio::sync::OnceCell;

/// Where all of it happens.
const NAMESPACE: &str = "chapter";

/// The pods, and the first Services.
const KUBIA: &str = "\
---
apiVersion: v1
kind: Service
metadata: {name: kubia}
spec: {selector: {app: kubia}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: kubia}
spec:
  replicas: 3
  selector: {matchLabels: {app: kubia}}
  template:
    metadata: {labels: {app: kubia}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - topologyKey: kubernetes.io/hostname
        maxSkew: 1
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: kubia}}
      containers:
      - name: kubia
        image: IMAGE
        args: [pod, --name, $(POD_NAME), --listen, '0.0.0.0:8080', '0.0.0.0:8443']
        env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        ports: [{name: http, containerPort: 8080}, {name: https, containerPort: 8443}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: quiz, labels: {app: quiz}}
spec:
  terminationGracePeriodSeconds: 0
  nodeName: n1
  containers: [{name: quiz, image: IMAGE, args: [pod, --name, quiz, --listen, '0.0.0.0:8080']}]
---
apiVersion: v1
kind: Service
metadata: {name: quiz}
spec: {selector: {app: quiz}, ports: [{port: 80, targetPort: 8080}]}
";

/// A pod to type commands in. It is younger than the Services, and so has them in its environment.
const CLIENT: &str = "\
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: 'IMAGE', args: [pause]}]}
";

/// What a Service says that is to have an address of ours.
const LOAD_BALANCER: &str = "type: LoadBalancer, loadBalancerClass: tidegate.io/load-balancer";

/// Requests to three pods: one of them is missed by one run in a million million.
const ENOUGH: usize = 70;

/// The cluster in which all of it happens.
struct Chapter {
    cluster: Shared,
    tidegate: &'static Installed,
}

impl Chapter {
    /// `None` where there is no such cluster.
    async fn open() -> Option<Self> {
        static PREPARED: OnceCell<()> = OnceCell::const_new();
        let cluster = Cluster::shared().await?;
        let tidegate = Installed::shared(&cluster).await?;
        PREPARED.get_or_init(async || tokio::task::block_in_place(|| prepare(&cluster))).await;
        Some(Self { cluster, tidegate })
    }

    fn apply(&self, manifests: &str) {
        self.cluster.apply_in(NAMESPACE, manifests);
    }

    /// `kubectl exec client -- …`
    fn exec(&self, command: &str) -> Result<String, String> {
        self.cluster.try_exec(NAMESPACE, "client", &["sh", "-c", command])
    }

    /// In a terminal of somebody who is outside the nodes.
    fn outside(&self, command: &str) -> Result<String, String> {
        self.cluster.try_outside(&["sh", "-c", command])
    }

    fn field(&self, object: &str, path: &str) -> String {
        self.cluster.kubectl(&["get", object, "-n", NAMESPACE, "-o", &format!("jsonpath={{{path}}}")])
    }

    fn cluster_ip(&self, service: &str) -> String {
        self.field(&format!("service/{service}"), ".spec.clusterIP")
    }

    fn node_port(&self, service: &str) -> String {
        self.field(&format!("service/{service}"), ".spec.ports[0].nodePort")
    }

    /// The names of the kubia pods, and the node of each.
    fn kubia(&self) -> BTreeMap<String, String> {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{\"\\n\"}{end}";
        let said = self.cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", "app=kubia", "-o", path]);
        said.lines().filter_map(|line| line.split_once(' ')).map(|(pod, node)| (pod.into(), node.into())).collect()
    }

    /// The address that a LoadBalancer Service, or an Ingress, is given.
    fn address(&self, object: &str) -> String {
        eventually(object, || match self.field(object, ".status.loadBalancer.ingress[0].ip") {
            address if address.is_empty() => Err("it has no address".to_owned()),
            address => Ok(address),
        })
    }

    /// An Ingress as every replica serves it.
    fn ingress(&self, name: &str, metadata: &str, spec: &str) -> String {
        self.apply(&format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}{metadata}}}, \
             spec: {{ingressClassName: tidegate, {spec}}}}}\n"
        ));
        self.tidegate.all_serve(&self.cluster, NAMESPACE, name, true);
        self.address(&format!("ingress/{name}"))
    }
}

/// The manifest of a Service.
fn service(name: &str, spec: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n")
}

/// The same for the kubia pods; `more` is more of its spec.
fn kubia_with(name: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    service(name, &format!("{more}{comma}selector: {{app: kubia}}, ports: [{{port: 80, targetPort: http}}]"))
}

/// The same for the quiz pod, which is on the first node.
fn quiz_with(name: &str, more: &str) -> String {
    service(name, &format!("{more}, selector: {{app: quiz}}, ports: [{{port: 80, targetPort: 8080}}]"))
}

/// A rule of an Ingress: a host, and the Service of each path.
fn rule(host: &str, paths: &[(&str, &str)]) -> String {
    let path = |(path, service): &(&str, &str)| {
        format!("{{path: {path}, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}")
    };
    let paths: Vec<String> = paths.iter().map(path).collect();
    format!("{{host: {host}, http: {{paths: [{}]}}}}", paths.join(", "))
}

fn prepare(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", NAMESPACE]);
    cluster.kubectl(&["label", "namespace", NAMESPACE, HAS_ADDRESSES]);
    cluster.kubectl(&["wait", "--for=create", "serviceaccount/default", "-n", NAMESPACE, "--timeout=60s"]);
    cluster.apply_in(NAMESPACE, &KUBIA.replace("IMAGE", &Installed::image()));
    cluster.apply_in(NAMESPACE, &CLIENT.replace("IMAGE", AGNHOST));
    is_rolled_out(cluster, NAMESPACE, "deployment/kubia");
    let timeout = format!("--timeout={}s", PODS_READY.as_secs());
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "-n", NAMESPACE, &timeout]);
}

/// Tries until it succeeds: what one is told of a cluster becomes true a moment later.
#[track_caller]
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(why) => assert!(begin.elapsed() < Duration::from_secs(60), "{what}: {why}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// What `curl` prints of pods, in order.
#[track_caller]
fn hits(said: &str) -> Vec<&str> {
    let pod = |line| str::strip_prefix(line, "You've hit ").unwrap_or_else(|| panic!("no pod says {line:?}"));
    said.lines().map(pod).collect()
}

#[track_caller]
fn hit(said: &str) -> BTreeSet<String> {
    hits(said).into_iter().map(str::to_owned).collect()
}

/// A shell's loop: each `curl` is a connection.
fn each_a_connection(url: &str) -> String {
    format!("for i in $(seq {ENOUGH}); do curl -sS --max-time 10 {url} || exit; done")
}

/// "You've hit kubia-…": each pod of the Service, by one address, each `curl` perhaps another.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_ip_is_one_address_for_many_pods() {
    let Some(chapter) = Chapter::open().await else { return };
    let ip = chapter.cluster_ip("kubia");
    let said =
        eventually("curl", || chapter.cluster.try_exec(NAMESPACE, "client", &["curl", "-s", &format!("http://{ip}")]));
    let pods = chapter.kubia();
    assert!(pods.contains_key(hits(&said)[0]), "{said}");
    assert_eq!(pods.values().collect::<BTreeSet<_>>().len(), 2, "they are on both nodes: {pods:?}");
    // The pod that was ready last may be news to kube-proxy still.
    eventually("all pods", || {
        let said = chapter.exec(&each_a_connection(&format!("http://{ip}")))?;
        if hit(&said).iter().eq(pods.keys()) { Ok(()) } else { Err(said) }
    });
}

/// "The endpoints of the Service are the addresses of its pods."
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_the_ready_pods() {
    let Some(chapter) = Chapter::open().await else { return };
    let slices = ["get", "endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=kubia", "-o"];
    let pods = ["get", "pods", "-n", NAMESPACE, "-l", "app=kubia", "-o"];
    let ips = |words: &[&str], path: &str| -> BTreeSet<String> {
        let said = chapter.cluster.kubectl(&[words, &[path]].concat());
        said.split_whitespace().map(str::to_owned).collect()
    };
    let (endpoints, pods) = (
        ips(&slices, "jsonpath={.items[*].endpoints[*].addresses[*]}"),
        ips(&pods, "jsonpath={.items[*].status.podIP}"),
    );
    assert_eq!((endpoints.len(), &endpoints), (3, &pods));
}

/// "All connections of one client go to the same pod, with sessionAffinity: ClientIP", within the cluster and from outside.
#[tokio::test(flavor = "multi_thread")]
async fn session_affinity_client_ip_sticks() {
    let Some(chapter) = Chapter::open().await else { return };
    chapter.apply(&kubia_with("sticky", "type: NodePort, sessionAffinity: ClientIP"));
    let within = format!("http://{}", chapter.cluster_ip("sticky"));
    eventually("within", || chapter.exec(&format!("curl -sS --max-time 5 {within}")));
    let without = format!("http://{}:{}", chapter.cluster.node_ip("n1"), chapter.node_port("sticky"));
    eventually("from outside", || chapter.outside(&format!("curl -sS --max-time 5 {without}")));
    for said in [chapter.exec(&each_a_connection(&within)), chapter.outside(&each_a_connection(&without))] {
        let said = said.unwrap();
        assert_eq!((hits(&said).len(), hit(&said).len()), (ENOUGH, 1), "{said}");
    }
}

/// "One Service can have several ports, and may name those of the pods."
#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_several_ports_by_name() {
    let Some(chapter) = Chapter::open().await else { return };
    let ports = "[{name: http, port: 80, targetPort: http}, {name: https, port: 443, targetPort: https}]";
    chapter.apply(&service("ports", &format!("selector: {{app: kubia}}, ports: {ports}")));
    let ip = chapter.cluster_ip("ports");
    for port in [80, 443] {
        let said = eventually("curl", || chapter.exec(&format!("curl -sS --max-time 5 http://{ip}:{port}/headers")));
        let seen: serde_json::Value = serde_json::from_str(&said).unwrap();
        let local = seen["local"].as_str().unwrap();
        assert!(local.ends_with(if port == 80 { ":8080" } else { ":8443" }), "{local}");
    }
}

/// "A pod finds the Service in its environment."
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_found_in_the_environment() {
    let Some(chapter) = Chapter::open().await else { return };
    let said = chapter.cluster.exec(NAMESPACE, "client", &["env"]);
    let host = format!("KUBIA_SERVICE_HOST={}", chapter.cluster_ip("kubia"));
    assert!(said.lines().any(|line| line == host) && said.contains("KUBIA_SERVICE_PORT=80\n"), "{said}");
}

/// "And by its name: in full, or as short as the namespace allows."
#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_found_by_its_name() {
    let Some(chapter) = Chapter::open().await else { return };
    for name in ["kubia.chapter.svc.cluster.local", "kubia.chapter", "kubia"] {
        let said = eventually(name, || chapter.exec(&format!("curl -sS --max-time 10 http://{name}")));
        assert!(chapter.kubia().contains_key(hits(&said)[0]), "{name}: {said}");
    }
    let resolver = chapter.exec("cat /etc/resolv.conf").unwrap();
    assert!(resolver.contains("search chapter.svc.cluster.local svc.cluster.local cluster.local"), "{resolver}");
}

/// "A Service without a selector has the endpoints that one gives it."
#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_selector_has_endpoints_by_hand() {
    let Some(chapter) = Chapter::open().await else { return };
    let ip = chapter.field("pod/quiz", ".status.podIP");
    chapter.apply(&format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: external}}, spec: {{ports: [{{port: 80}}]}}}}\n\
         ---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: external-1, labels: \
         {{kubernetes.io/service-name: external}}}}, addressType: IPv4, ports: [{{port: 8080}}], endpoints: \
         [{{addresses: ['{ip}']}}]}}\n"
    ));
    let url = format!("http://{}", chapter.cluster_ip("external"));
    let said = eventually("curl", || chapter.exec(&format!("curl -sS --max-time 5 {url}")));
    assert_eq!(said, "You've hit quiz\n");
}

/// "An ExternalName is an alias in DNS, and nothing else."
#[tokio::test(flavor = "multi_thread")]
async fn an_external_name_is_a_cname() {
    let Some(chapter) = Chapter::open().await else { return };
    chapter.apply(&service(
        "external-service",
        "type: ExternalName, externalName: api.somecompany.com, ports: [{port: 80}]",
    ));
    let name = "external-service.chapter.svc.cluster.local";
    let said = eventually(name, || match chapter.exec(&format!("dig +short {name} CNAME")) {
        Ok(said) if said.is_empty() => Err("no answer".to_owned()),
        said => said,
    });
    assert_eq!(said, "api.somecompany.com.\n");
    assert_eq!(chapter.cluster_ip("external-service"), "");
}

/// "The name of a headless Service has the addresses of all its pods."
#[tokio::test(flavor = "multi_thread")]
async fn a_headless_service_is_all_its_pods() {
    let Some(chapter) = Chapter::open().await else { return };
    chapter.apply(&kubia_with("kubia-headless", "clusterIP: None"));
    let path = "jsonpath={.items[*].status.podIP}";
    let ips = chapter.cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", "app=kubia", "-o", path]);
    let ips: BTreeSet<&str> = ips.split_whitespace().collect();
    eventually("dig", || {
        let said = chapter.exec("dig +short kubia-headless.chapter.svc.cluster.local")?;
        if said.lines().collect::<BTreeSet<_>>() == ips { Ok(()) } else { Err(said) }
    });
    let said = chapter.exec("curl -sS --max-time 10 http://kubia-headless:8080").unwrap();
    assert!(chapter.kubia().contains_key(hits(&said)[0]), "{said}");
}

/// "A NodePort is open on every node, and leads to the pods of all of them."
#[tokio::test(flavor = "multi_thread")]
async fn a_node_port_is_open_on_both_nodes() {
    let Some(chapter) = Chapter::open().await else { return };
    chapter.apply(&kubia_with("kubia-nodeport", "type: NodePort"));
    let port = chapter.node_port("kubia-nodeport");
    for node in ["n1", "n2"] {
        let url = format!("http://{}:{port}", chapter.cluster.node_ip(node));
        eventually(&url, || chapter.outside(&format!("curl -sS --max-time 5 {url}")));
        let said = chapter.outside(&each_a_connection(&url)).unwrap();
        assert_eq!(hit(&said), chapter.kubia().into_keys().collect(), "{node}");
    }
}

/// "With externalTrafficPolicy: Local a connection goes to no other node."
#[tokio::test(flavor = "multi_thread")]
async fn external_traffic_policy_local_stays_on_the_node() {
    let Some(chapter) = Chapter::open().await else { return };
    let local = "type: NodePort, externalTrafficPolicy: Local";
    chapter.apply(&kubia_with("kubia-local", local));
    chapter.apply(&quiz_with("quiz-local", local));
    let port = chapter.node_port("kubia-local");
    for node in ["n1", "n2"] {
        let url = format!("http://{}:{port}", chapter.cluster.node_ip(node));
        eventually(&url, || chapter.outside(&format!("curl -sS --max-time 5 {url}")));
        let said = chapter.outside(&each_a_connection(&url)).unwrap();
        let local = chapter.kubia().into_iter().filter(|(_, its)| its == node).map(|(pod, _)| pod);
        assert_eq!(hit(&said), local.collect(), "{node}");
    }
    // A node without a pod does not answer.
    let port = chapter.node_port("quiz-local");
    let url = |node: &str| format!("curl -sS --max-time 3 http://{}:{port}", chapter.cluster.node_ip(node));
    assert_eq!(eventually("n1", || chapter.outside(&url("n1"))), "You've hit quiz\n");
    chapter.outside(&url("n2")).expect_err("the pod is on n1");
}

/// "So the load balancer must send connections to nodes that have such a pod", which it is told at the health check node port.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_is_told_which_nodes_have_pods() {
    let Some(chapter) = Chapter::open().await else { return };
    chapter.apply(&quiz_with("quiz-loadbalancer", &format!("{LOAD_BALANCER}, externalTrafficPolicy: Local")));
    let port = chapter.field("service/quiz-loadbalancer", ".spec.healthCheckNodePort");
    for (node, expected) in [("n1", "200"), ("n2", "503")] {
        let url = format!("http://{}:{port}/", chapter.cluster.node_ip(node));
        eventually(&url, || {
            let said = chapter.outside(&format!("curl -sS --max-time 5 -o /dev/null -w '%{{http_code}}' {url}"))?;
            if said == expected { Ok(()) } else { Err(said) }
        });
    }
}

/// "A LoadBalancer has an address of its own, in front of the nodes." A browser, which keeps its connection, stays with one pod even
/// without affinity; others come to all.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_is_reached_from_outside() {
    let Some(chapter) = Chapter::open().await else { return };
    chapter.apply(&kubia_with("kubia-loadbalancer", LOAD_BALANCER));
    let ip = chapter.address("service/kubia-loadbalancer");
    let shown = chapter.cluster.kubectl(&["get", "svc", "kubia-loadbalancer", "-n", NAMESPACE]);
    assert!(shown.contains(&format!(" {ip} ")), "{shown}");
    assert_eq!(chapter.field("service/kubia-loadbalancer", ".status.loadBalancer.ingress[0].ipMode"), "Proxy");
    let url = format!("http://{ip}");
    eventually(&url, || chapter.outside(&format!("curl -sS --max-time 5 {url}")));
    let said = chapter.outside(&each_a_connection(&url)).unwrap();
    assert_eq!(hit(&said), chapter.kubia().into_keys().collect(), "each a connection");
    let said = chapter.outside(&format!("curl -sS --max-time 20 '{url}/?[1-{ENOUGH}]'")).unwrap();
    assert_eq!((hits(&said).len(), hit(&said).len()), (ENOUGH, 1), "all on one connection: {said}");
}

/// "If the infrastructure has no load balancers, the Service stays pending, and is a NodePort still."
#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_without_a_pool_is_pending() {
    let Some(chapter) = Chapter::open().await else { return };
    let namespace = chapter.cluster.namespace("pending");
    let name = &namespace.name[..];
    chapter.cluster.apply_in(name, &kubia_with("pending", LOAD_BALANCER));
    let said = eventually("the Event", || {
        let said = chapter.cluster.try_kubectl(&["describe", "service", "pending", "-n", name])?;
        if said.contains("LoadBalancerPending") { Ok(said) } else { Err(said) }
    });
    assert!(said.contains("Warning") && said.contains("LoadBalancerPool"), "{said}");
    let shown = chapter.cluster.kubectl(&["get", "svc", "pending", "-n", name]);
    assert!(shown.contains("<pending>"), "{shown}");
    assert!(shown.contains("80:3"), "it has a node port: {shown}");
}

/// "One address for several Services, by host and by path", which `kubectl get ingress` shows.
#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_is_one_address_for_many_services() {
    let Some(chapter) = Chapter::open().await else { return };
    let kubia = rule("kubia.example.com", &[("/", "kubia"), ("/quiz", "quiz")]);
    let ip = chapter.ingress("kubia", "", &format!("rules: [{kubia}, {}]", rule("quiz.example.com", &[("/", "quiz")])));
    assert_eq!(ip, chapter.tidegate.address().to_string());
    let shown = chapter.cluster.kubectl(&["get", "ingress", "kubia", "-n", NAMESPACE]);
    assert!(shown.contains("kubia.example.com,quiz.example.com") && shown.contains(&ip), "{shown}");
    let ask = |host: &str, path: &str| {
        chapter.outside(&format!("curl -sS --max-time 10 -H 'Host: {host}' 'http://{ip}{path}'")).unwrap()
    };
    assert!(chapter.kubia().contains_key(hits(&ask("kubia.example.com", "/"))[0]));
    assert_eq!(ask("kubia.example.com", "/quiz/1"), "You've hit quiz\n");
    assert_eq!(ask("quiz.example.com", "/"), "You've hit quiz\n");
    // A pod is chosen for each request, and not for each connection.
    let said = ask("kubia.example.com", &format!("/?[1-{ENOUGH}]"));
    assert_eq!((hits(&said).len(), hit(&said)), (ENOUGH, chapter.kubia().into_keys().collect()));
}

/// "With a cookie each browser stays with its pod."
#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_sticks() {
    let Some(chapter) = Chapter::open().await else { return };
    let cookie = ", annotations: {nginx.ingress.kubernetes.io/affinity: cookie, \
                  nginx.ingress.kubernetes.io/session-cookie-name: SESSION_COOKIE}";
    let ip = chapter.ingress("sticky", cookie, &format!("rules: [{}]", rule("sticky.example.com", &[("/", "kubia")])));
    let jar = |browser: usize| chapter.cluster.directory().file(&format!("browser-{browser}")).display().to_string();
    let ask = |options: &str| {
        let command = format!("curl -sS --max-time 20 -H 'Host: sticky.example.com' {options} 'http://{ip}/?[1-20]'");
        chapter.outside(&command).unwrap()
    };
    let mut seen = BTreeSet::new();
    for browser in 0..12 {
        let jar = jar(browser);
        let first = hit(&ask(&format!("-c {jar}")));
        assert!(fs::read_to_string(&jar).unwrap().contains("SESSION_COOKIE"));
        // Another process, other connections, and perhaps another replica.
        assert_eq!((first.len(), hit(&ask(&format!("-b {jar} -H 'Connection: close'")))), (1, first.clone()));
        seen.extend(first);
    }
    assert!(seen.len() > 1, "twelve browsers are all on one pod");
    assert_eq!(hit(&ask("")).len(), 3, "who keeps no cookie comes to all");
}

/// "TLS ends at the Ingress, with the certificate of a Secret."
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_of_a_secret() {
    let Some(chapter) = Chapter::open().await else { return };
    let ca = Ca::new("chapter");
    let pair = ca.leaf(&["secure.example.com"]);
    let file = |name: &str, text: &str| {
        let path = chapter.cluster.directory().file(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (believed, cert, key) = (file("tls.ca", &ca.pem), file("tls.cert", &pair.chain), file("tls.key", &pair.key));
    let files = [format!("--cert={cert}"), format!("--key={key}")];
    chapter.cluster.kubectl(&["create", "secret", "tls", "tls-secret", "-n", NAMESPACE, &files[0], &files[1]]);
    let tls = "tls: [{hosts: [secure.example.com], secretName: tls-secret}]";
    let ip =
        chapter.ingress("secure", "", &format!("{tls}, rules: [{}]", rule("secure.example.com", &[("/", "kubia")])));
    let to = format!("curl -sS --max-time 10 --connect-to ::{ip}: --cacert {believed}");
    // The Secret is read once an Ingress refers to it.
    let said = eventually("https", || chapter.outside(&format!("{to} https://secure.example.com")));
    assert!(chapter.kubia().contains_key(hits(&said)[0]), "{said}");
    let plain =
        chapter.outside(&format!("{to} -o /dev/null -w '%{{http_code}} %{{redirect_url}}' http://secure.example.com"));
    assert_eq!(plain.unwrap(), "308 https://secure.example.com/");
}

/// "A pod whose readiness probe fails gets no connections", nor requests; and if it is the last one, there is nobody to answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_not_ready_gets_nothing() {
    let Some(chapter) = Chapter::open().await else { return };
    // The probe is that of the second container, which has a shell: the book's `ls /var/ready`.
    let pod = |name: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: ready}}}}, spec: {{\
             terminationGracePeriodSeconds: 0, containers: [{{name: main, image: '{}', args: [pod, --name, {name}, \
             --listen, '0.0.0.0:8080']}}, {{name: probe, image: '{AGNHOST}', args: [pause], readinessProbe: \
             {{exec: {{command: [ls, /tmp/ready]}}, periodSeconds: 1, failureThreshold: 1}}}}]}}}}\n",
            Installed::image()
        )
    };
    chapter.apply(&format!(
        "{}{}---\n{{apiVersion: v1, kind: Service, metadata: {{name: ready}}, spec: {{selector: {{app: ready}}, ports: \
         [{{port: 80, targetPort: 8080}}]}}}}\n",
        pod("ready-a"),
        pod("ready-b")
    ));
    let ip = chapter.ingress("ready", "", &format!("rules: [{}]", rule("ready.example.com", &[("/", "ready")])));
    let ask = || {
        let urls = format!("'http://{ip}/?[1-20]'");
        chapter.outside(&format!("curl -sSf --max-time 20 -H 'Host: ready.example.com' -H 'Connection: close' {urls}"))
    };
    let until = |expected: &[&str]| {
        eventually("the Ingress", || {
            let said = ask();
            let pods = said.as_deref().map(hit).unwrap_or_default();
            let expected: BTreeSet<String> = expected.iter().map(|&pod| pod.to_owned()).collect();
            if pods == expected { Ok(()) } else { Err(format!("{said:?} instead of {expected:?}")) }
        });
    };
    let run = |pod: &str, command: &str| {
        let words = ["exec", "-n", NAMESPACE, pod, "-c", "probe", "--", "sh", "-c", command];
        eventually(command, || chapter.cluster.try_kubectl(&words));
    };
    run("ready-a", ">/tmp/ready");
    until(&["ready-a"]);
    run("ready-b", ">/tmp/ready");
    until(&["ready-a", "ready-b"]);
    run("ready-a", "rm /tmp/ready");
    until(&["ready-b"]);
    let service = format!("http://{}", chapter.cluster_ip("ready"));
    eventually("the Service", || {
        let said = chapter.exec(&each_a_connection(&service))?;
        if hit(&said) == BTreeSet::from(["ready-b".to_owned()]) { Ok(()) } else { Err(said) }
    });
    run("ready-b", "rm /tmp/ready");
    until(&[]);
    assert!(ask().unwrap_err().contains("503"));
}
