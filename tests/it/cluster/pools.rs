//! Tidegate's own kinds at a real API server: they install, are checked and shown, and do what they say.

use std::{path::Path, time::Duration};

use tidegate::{
    app::Source,
    compile::settings::AddressSource,
    control::kubernetes::{Cluster, api_server::ApiServer},
    controller::{ControllerOptions, publish::Publish},
};
use tidegate_tests::{Bed, Net, PATIENCE, Response, cluster::ControlPlane};

/// Installs the definitions as a user does.
fn install(control_plane: &ControlPlane) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crd/yaml");
    let directory = directory.to_str().expect("a path of text");
    control_plane.kubectl(&["apply", "--server-side", "-f", directory]);
    control_plane.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "-f", directory]);
}

async fn start(net: Net, control_plane: &ControlPlane) -> Bed {
    let connection = ApiServer::find(Some(control_plane.kubeconfig().to_owned()), None).await.unwrap();
    Bed::start_with(net, "", |options| {
        options.source = Source::Kubernetes(Box::new(Cluster::new(connection, &[], "here")));
        options.settings.addresses = AddressSource::Cluster;
        let (lease, namespace, identity) = ("tidegate-leader".into(), "default".into(), "a".into());
        options.controller = Some(ControllerOptions { namespace, lease, identity, publish: Publish::Nothing });
    })
    .await
}

/// Asks until the answer is of this kind.
async fn until(control_plane: &ControlPlane, arguments: &[&str], is_it: impl Fn(&str) -> bool) -> String {
    let mut last = Ok(String::new());
    let wait = async {
        loop {
            last = control_plane.try_kubectl(arguments);
            if last.as_deref().is_ok_and(&is_it) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, wait).await.is_ok();
    assert!(in_time, "kubectl {arguments:?} still says {last:?}");
    last.unwrap_or_default()
}

fn balancer(name: &str, class: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, \
         loadBalancerClass: {class}, {more}ports: [{{port: 80}}]}}}}\n"
    )
}

fn pool(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: tidegate.io/v1alpha1, kind: LoadBalancerPool, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
    )
}

fn parameters(spec: &str) -> String {
    format!(
        "{{apiVersion: tidegate.io/v1alpha1, kind: IngressClassParameters, metadata: {{name: edge}}, spec: {{{spec}}}}}\n"
    )
}

const OURS: &str = "tidegate.io/load-balancer";

#[tokio::test(flavor = "multi_thread")]
async fn the_definitions_refuse_what_means_nothing_and_say_why() {
    let Some(control_plane) = ControlPlane::own().await else { return };
    install(&control_plane);
    // Applying what is there is no change.
    install(&control_plane);
    let good = [
        pool("a", "addresses: [192.0.2.0/28, 192.0.2.32-192.0.2.40, 2001:db8::/64, 192.0.2.99]"),
        pool("b", "addresses: [198.51.100.7], ipMode: VIP, autoAssign: false, serviceSelector: {matchLabels: {a: b}}"),
        pool(
            "c",
            "addresses: [198.51.100.8], namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}",
        ),
        parameters(
            "annotations: {tidegate.io/request-timeout: 9s}, defaultBackend: {namespace: a, name: b, port: http}",
        ),
    ];
    control_plane.apply(&good.join("---\n"));
    let refused = [
        (pool("x", "addresses: []"), "should have at least 1 items"),
        (pool("x", "addresses: [192.0.2.0/33]"), "write a CIDR such as 192.0.2.0/28"),
        (pool("x", "addresses: [192.0.2.1-2001:db8::1]"), "write a CIDR such as 192.0.2.0/28"),
        (pool("x", "addresses: [192.0.2.1-192.0.2.3-192.0.2.4]"), "write a CIDR such as 192.0.2.0/28"),
        (pool("x", "addresses: [192.0.2.1], ipMode: Both"), "supported values: \"Proxy\", \"VIP\""),
        (
            pool("x", "addresses: [192.0.2.1], serviceSelector: {matchExpressions: [{key: a, operator: In}]}"),
            "In and NotIn need values",
        ),
        (pool("x", "autoAssign: true"), "spec.addresses: Required value"),
        (
            parameters("annotations: {example.com/a: b}"),
            "only annotations that begin with nginx.ingress.kubernetes.io/",
        ),
        (
            parameters("annotations: {nginx.ingress.kubernetes.io/canary: 'true'}"),
            "canary annotations and server-alias are an Ingress's own",
        ),
        (parameters("defaultBackend: {namespace: a, name: b, port: 0}"), "write a port number from 1 to 65535"),
        (parameters("defaultCertificate: {name: b}"), "spec.defaultCertificate.namespace: Required value"),
    ];
    for (manifest, expected) in refused {
        let said = control_plane.try_apply(&manifest, &["--validate=false"]).expect_err(&manifest);
        assert!(said.contains(expected), "{manifest}\n{said}");
    }
    let shown = control_plane.kubectl(&["get", "lbpool"]);
    let heads: Vec<&str> = shown.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(heads, ["NAME", "ADDRESSES", "SIZE", "ALLOCATED", "AUTO", "ASSIGN", "ACCEPTED", "AGE"], "{shown}");
    let explained = control_plane.kubectl(&["explain", "loadbalancerpools.spec.ipMode"]);
    assert!(explained.contains("kube-proxy leaves it alone"), "{explained}");
    let mode = ["get", "lbpool", "a", "-o", "jsonpath={.spec.ipMode} {.spec.autoAssign}"];
    assert_eq!(control_plane.kubectl(&mode), "Proxy true", "defaults are filled in");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancers_get_addresses_of_pools_and_keep_them() {
    let Some(control_plane) = ControlPlane::own().await else { return };
    let status = |name: &'static str| {
        [
            "get",
            "service",
            name,
            "-o",
            "jsonpath={.status.loadBalancer.ingress[*].ip} {.status.loadBalancer.ingress[*].ipMode}",
        ]
    };
    control_plane
        .apply(&(balancer("a", OURS, "") + &balancer("b", OURS, "") + &balancer("theirs", "example.com/lb", "")));
    // The definitions may come later.
    let bed = start(Net::next(), &control_plane).await;
    let pending = ["get", "service", "a", "-o", "jsonpath={.status.conditions[*].reason}"];
    until(&control_plane, &pending, |said| said == "LoadBalancerPending").await;
    let events =
        ["get", "events.events.k8s.io", "-o", "jsonpath={range .items[*]}{.regarding.name} {.note}{\"\\n\"}{end}"];
    until(&control_plane, &events, |said| said.contains("a spec.type: there is no LoadBalancerPool.")).await;

    install(&control_plane);
    control_plane.apply(&pool("edge", "addresses: [192.0.2.32-192.0.2.33]"));
    let first = until(&control_plane, &status("a"), |said| said.ends_with(" Proxy")).await;
    let second = until(&control_plane, &status("b"), |said| said.ends_with(" Proxy")).await;
    assert_ne!(first, second);
    let row = ["get", "lbpool", "edge", "--no-headers"];
    until(&control_plane, &row, |said| said.split_whitespace().collect::<Vec<_>>()[2..6] == ["2", "2", "true", "True"])
        .await;
    let condition = ["get", "service", "a", "-o", "jsonpath={.status.conditions[*].message}"];
    assert!(control_plane.kubectl(&condition).ends_with(" of LoadBalancerPool edge."));

    // The pool is full, shrinks, and another comes: nobody moves.
    control_plane.apply(&balancer("c", OURS, "allocateLoadBalancerNodePorts: false, "));
    until(&control_plane, &["get", "service", "c", "-o", "jsonpath={.status.conditions[*].reason}"], |said| {
        said == "LoadBalancerPending"
    })
    .await;
    control_plane.apply(&pool("edge", "addresses: [192.0.2.64/30], ipMode: VIP"));
    let third = until(&control_plane, &status("c"), |said| said.ends_with(" VIP")).await;
    assert!(third.starts_with("192.0.2.6"), "{third}");
    assert_eq!((control_plane.kubectl(&status("a")), control_plane.kubectl(&status("b"))), (first, second));
    bed.until(|snapshot| snapshot.findings.iter().any(|finding| finding.reason == "LoadBalancerIpOutOfPool")).await;

    // The type changes: neither an address nor a condition of ours stays. Another's Service was never touched.
    control_plane.kubectl(&[
        "patch",
        "service",
        "a",
        "-p",
        r#"{"spec": {"type": "ClusterIP", "loadBalancerClass": null}}"#,
    ]);
    until(&control_plane, &["get", "service", "a", "-o", "jsonpath={.status}"], |said| {
        said == r#"{"loadBalancer":{}}"#
    })
    .await;
    let theirs = ["get", "service", "theirs", "-o", "jsonpath={.status}"];
    assert_eq!(control_plane.kubectl(&theirs), r#"{"loadBalancer":{}}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parameters_of_a_class_hold_for_its_ingresses() {
    let Some(control_plane) = ControlPlane::own().await else { return };
    install(&control_plane);
    let redirect = |to: &str| format!("nginx.ingress.kubernetes.io/permanent-redirect: 'https://{to}/'");
    let ingress = |name: &str, annotations: &str| {
        format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}, annotations: {{{annotations}}}}}, \
             spec: {{ingressClassName: edge, rules: [{{host: {name}.com, http: {{paths: [{{path: /, pathType: Prefix, \
             backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}}}\n"
        )
    };
    control_plane.apply(
        &(parameters(&format!("annotations: {{{}}}", redirect("class.com")))
            + "---\n{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: edge}, spec: {controller: \
           tidegate.io/ingress, parameters: {apiGroup: tidegate.io, kind: IngressClassParameters, name: edge}}}\n\
           ---\n{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}\n"
            + &ingress("inherits", "")
            + &ingress("differs", &redirect("own.com"))),
    );
    let bed = start(Net::next(), &control_plane).await;
    let to = |answer: &Response| answer.header("location").map(str::to_owned);
    assert_eq!(to(&bed.get("inherits.com", "/").await).as_deref(), Some("https://class.com/"));
    assert_eq!(to(&bed.get("differs.com", "/").await).as_deref(), Some("https://own.com/"));
    let row = ["get", "ingressclassparameters", "edge", "--no-headers"];
    until(&control_plane, &row, |said| said.contains(" True ")).await;

    control_plane.apply(&parameters(&format!("annotations: {{{}}}", redirect("changed.com"))));
    bed.until(|snapshot| {
        let rule = snapshot.routes.find("inherits.com", "/").rule;
        rule.is_some_and(|rule| format!("{:?}", rule.policy.filters).contains("changed.com"))
    })
    .await;
    assert_eq!(to(&bed.get("inherits.com", "/").await).as_deref(), Some("https://changed.com/"));
}
