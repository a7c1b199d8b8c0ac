//! The cluster's DNS: CoreDNS beside the control plane, behind the usual Service.

use std::{ffi::OsString, fs};

use serde_json::{Value, json};

use super::{
    super::{Failure, directory::Directory, programs::Programs},
    control_plane::Place,
    daemon::Daemon,
};

/// Its ClusterIP.
pub(super) const SERVICE: &str = "10.96.0.10";

/// A name outside the cluster; there are no others.
const OUTSIDE: &str = "outside.example.com";

/// The server.
pub(super) fn daemon(programs: &Programs, directory: &Directory, place: &Place) -> Result<Daemon, Failure> {
    let (ip, kubeconfig) = (place.ip, directory.file("inside.kubeconfig"));
    let corefile = format!(
        ".:53 {{
    bind {ip}
    errors
    ready {ip}:8181
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {}
        pods insecure
        ttl 5
    }}
    hosts {{
        {ip} {OUTSIDE}
        fallthrough
    }}
    cache 5
}}
",
        kubeconfig.display()
    );
    let path = directory.file("Corefile");
    fs::write(&path, corefile)?;
    let command = [programs.path("coredns").into_os_string(), OsString::from("-conf"), path.into_os_string()];
    Ok(place.daemon(directory, "coredns", command.to_vec()))
}

/// Its Service, and where that leads; with the paths to which they are posted.
pub(super) fn objects(place: &Place) -> [(&'static str, Value); 2] {
    let ports = [("dns", "UDP"), ("dns-tcp", "TCP")]
        .map(|(name, protocol)| json!({"name": name, "port": 53, "protocol": protocol}));
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": SERVICE, "ports": &ports},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "kube-dns", "labels": {"kubernetes.io/service-name": "kube-dns"}},
        "addressType": "IPv4",
        "ports": &ports,
        "endpoints": [{"addresses": [place.ip], "conditions": {"ready": true}}],
    });
    [
        ("/api/v1/namespaces/kube-system/services", service),
        ("/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", slice),
    ]
}
