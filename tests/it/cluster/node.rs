//! Tidegate as the service account of a namespace reads a real API server: over TLS, with a token, and no more than it may.

use std::time::Duration;

use tidegate::{
    app::Source,
    compile::settings::AddressSource,
    control::kubernetes::{Cluster, api_server::ApiServer as Connection},
};
use tidegate_tests::{
    Bed, Net, PATIENCE,
    certificates::{Ca, Pair, TlsClient, secret_manifest},
    cluster::ControlPlane,
};

/// What a gateway needs that is kept to one namespace.
const ROLE: &str = "\
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader}, rules: [
 {apiGroups: [''], resources: [services], verbs: [list, watch]},
 {apiGroups: [''], resources: [secrets, configmaps], verbs: [list, watch, get]},
 {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]},
 {apiGroups: [networking.k8s.io], resources: [ingresses], verbs: [list, watch]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: reader}, subjects: [
 {kind: ServiceAccount, name: default}], roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}}
";

fn certificate(name: &str, ca: &Ca) -> String {
    let Pair { chain, key } = ca.leaf(&[&format!("{name}.example.com")]);
    secret_manifest(name, &[("tls.crt", &chain), ("tls.key", &key)])
}

fn ingress(name: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}}}, spec: {{ingressClassName: tidegate, \
         tls: [{{hosts: [{name}.example.com], secretName: {name}}}], rules: [{{host: {name}.example.com, http: {{paths: \
         [{{path: /, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}}}\n"
    )
}

async fn until_shown(bed: &Bed, name: &str, ca: &Ca) {
    let https = bed.app.https().unwrap();
    let wait = async {
        while TlsClient::new(ca).connect(https, &format!("{name}.example.com")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the certificate is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_are_referred_to_are_fetched() {
    let Some(control_plane) = ControlPlane::shared().await else { return };
    let namespace = control_plane.namespace("referred");
    let name = &namespace.name[..];
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    control_plane.apply_in(name, ROLE);
    control_plane.apply_in(name, &(certificate("web", &old) + "---\n" + &certificate("later", &old) + &ingress("web")));
    let kubeconfig = control_plane.user_kubeconfig(&control_plane.token(name, "default"));
    let connection = Connection::find(Some(kubeconfig), None).await.unwrap();
    let source = Source::Kubernetes(Box::new(Cluster::new(connection, &[name.to_owned()], "here")));
    let bed = Bed::start_with(Net::next(), "", |options| {
        options.source = source;
        options.settings.addresses = AddressSource::Cluster;
    })
    .await;
    // With the first configuration: nobody was shown a stand-in.
    let https = bed.app.https().unwrap();
    assert!(TlsClient::new(&old).connect(https, "web.example.com").await.is_ok(), "{:?}", bed.findings());
    let missing = |reason: &str| bed.findings().iter().filter(|found| **found == reason).count();
    assert_eq!(missing("MissingSecret"), 0, "{:?}", bed.findings());

    // Another reference, another certificate, and none any more.
    control_plane.apply_in(name, &ingress("later"));
    until_shown(&bed, "later", &old).await;
    control_plane.apply_in(name, &certificate("later", &new));
    until_shown(&bed, "later", &new).await;
    control_plane.kubectl(&["delete", "secret", "later", "-n", name]);
    bed.until(|snapshot| snapshot.findings.iter().any(|finding| finding.reason == "MissingSecret")).await;

    // Without the permission to get, what is held stays, and what is new is named.
    let no_get = ROLE.replace("verbs: [list, watch, get]", "verbs: [list, watch]");
    control_plane.apply_in(name, &no_get);
    control_plane.apply_in(name, &(certificate("later", &new) + &ingress("later")));
    let forbidden = |text: &str| text.contains("Secret") && text.contains("not permitted to get");
    let is_named = |snapshot: &tidegate::snapshot::Snapshot| {
        snapshot.findings.iter().any(|finding| finding.reason == "Forbidden" && forbidden(&finding.to_string()))
    };
    bed.until(is_named).await;
    until_shown(&bed, "web", &old).await;
}
