//! What is in `deploy`, as a real API server sees it.

use std::fs;

use serde_json::{Value, json};
use tidegate_tests::{
    chart::{CLOUD, Chart, DEPLOYMENT, FORMS, Form, NODE, objects},
    cluster::ControlPlane,
    image::root,
};

/// A Pod as the workload of some manifests would make it.
fn pod(manifests: &[Value]) -> String {
    let is_workload = |object: &&Value| object["kind"] == "Deployment" || object["kind"] == "DaemonSet";
    let template = &manifests.iter().find(is_workload).expect("a workload")["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    let metadata = json!({"name": "tidegate-0", "labels": labels});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_takes_every_form() {
    let Some(chart) = Chart::find() else { return };
    let Some(control_plane) = ControlPlane::shared().await else { return };
    let namespace = control_plane.namespace("forms");
    let more = [
        Form { name: "surge", values: &["kind=DaemonSet"], is_checked_in: false },
        Form { name: "by hand", values: &["kind=DaemonSet", "updateStrategy.type=OnDelete"], is_checked_in: false },
    ];
    for form in FORMS.into_iter().chain(more) {
        // Roles in namespaces that are there, and no class of this priority in others than kube-system.
        let there = chart.render(form, &namespace.name).replace("namespace: shop", "namespace: default");
        let there = there.replace("namespace: blog", "namespace: kube-public");
        if let Err(error) = control_plane.try_apply(&there, &["--dry-run=server"]) {
            panic!("{}: {error}", form.name);
        }
    }
}

/// What `values.schema.json` refuses in its place, and what a comment in `values.yaml` says of the API server.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_refuses_what_the_values_may_not_say() {
    let Some(chart) = Chart::find() else { return };
    let Some(control_plane) = ControlPlane::shared().await else { return };
    let namespace = control_plane.namespace("refused");
    let rendered = chart.render(CLOUD, &namespace.name);
    for (good, bad, field) in [
        ("- 192.0.2.0/24\n", "- 192.0.2.1\n", "spec.LoadBalancerSourceRanges[0]"),
        ("- 192.0.2.9\n", "- edge.example.com\n", "spec.externalIPs"),
        ("type: Recreate\n", "type: Recreate\n    rollingUpdate: {maxSurge: 1}\n", "spec.strategy.rollingUpdate"),
        ("minReadySeconds: 5\n", "minReadySeconds: -1\n", "spec.minReadySeconds"),
    ] {
        assert_eq!(rendered.matches(good).count(), 1, "{good:?}");
        let error = control_plane.try_apply(&rendered.replace(good, bad), &["--dry-run=server"]).unwrap_err();
        assert!(error.contains(field), "{bad:?}: {error}");
    }
    let class = |controller: &str| {
        let metadata = json!({"name": namespace.name});
        let spec = json!({"controller": controller});
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": metadata, "spec": spec})
            .to_string()
    };
    control_plane.apply(&class("tidegate.io/ingress"));
    let error = control_plane.try_apply(&class("example.com/outer"), &[]).unwrap_err();
    control_plane.kubectl(&["delete", "ingressclass", &namespace.name]);
    assert!(error.contains("spec.controller") && error.contains("immutable"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_are_applied_as_they_are() {
    let Some(control_plane) = ControlPlane::own().await else { return };
    for form in FORMS.into_iter().filter(|form| form.is_checked_in) {
        let manifests = fs::read_to_string(root().join(format!("deploy/manifests/{}.yaml", form.name))).unwrap();
        control_plane.apply(&manifests);
        // Again, and nothing is in its own way.
        let said = control_plane.try_apply(&manifests, &["--dry-run=server"]).unwrap();
        assert!(said.lines().all(|line| line.ends_with(" serverside-applied (server dry run)")), "{said}");
        // Of one form at a time: a Service cannot become headless.
        control_plane.kubectl(&["delete", "service", "tidegate", "-n", "tidegate"]);
    }
}

/// The Pod of the Deployment form is let into a namespace for which the strictest standard holds; that of a node, which has the node's
/// network, is not, which shows that the standard is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn the_restricted_standard_lets_the_pod_in() {
    let Some(chart) = Chart::find() else { return };
    let Some(control_plane) = ControlPlane::shared().await else { return };
    let namespace = control_plane.namespace("restricted");
    let name = &namespace.name[..];
    let level = "pod-security.kubernetes.io/enforce=restricted";
    control_plane.kubectl(&["label", "namespace", name, level]);
    let apply = |form| {
        let rendered = objects(&chart.render(form, name));
        let account = rendered.iter().find(|object| object["kind"] == "ServiceAccount").expect("an account");
        control_plane.apply(&account.to_string());
        control_plane.try_apply(&pod(&rendered), &["--dry-run=server", "-n", name])
    };
    for form in [DEPLOYMENT, CLOUD] {
        let taken = apply(form).unwrap();
        assert!(taken.contains("pod/tidegate-0 serverside-applied"), "{}: {taken}", form.name);
    }
    let refused = apply(NODE).unwrap_err();
    assert!(refused.contains("violates PodSecurity \"restricted:latest\": host namespaces"), "{refused}");
}
