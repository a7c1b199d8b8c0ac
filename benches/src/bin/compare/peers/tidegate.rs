//! Tidegate: Service and endpoints by hand, an Ingress for each host.

use std::{net::SocketAddr, process::Command};

use tidegate_crd::core::{ByteString, ObjectMeta, Secret};

use super::{File, Plane, Setup};
use crate::{programs::Programs, routes::Host};

pub(super) fn files(setup: &Setup, hosts: &[Host]) -> Vec<File> {
    let manifests = setup.directory.join("manifests");
    let file = |name: &str, text: String| File { path: manifests.join(name), text };
    let mut files = vec![file("service.yaml", service(setup.plane, setup.addr, setup.backend))];
    if setup.plane != Plane::Tcp {
        files.push(file("certificate.json", secret(setup)));
        files.extend(hosts.iter().map(|host| file(&format!("{}.yaml", host.name), ingress(host))));
    }
    files
}

pub(super) fn start(command: &mut Command, setup: &Setup, programs: &Programs) {
    // For TCP the Service has the address; HTTP gets another port.
    let (http, https) = if setup.plane == Plane::Tcp { (loopback(0), loopback(0)) } else { (setup.addr, setup.https) };
    command.args(["run", "--workers", &setup.workers.to_string(), "--drain-timeout", "100ms"]);
    command.arg("--manifests").arg(setup.directory.join("manifests"));
    command.args(["--http", &http.to_string(), "--admin", &setup.admin.to_string()]);
    if programs.tidegate_https {
        command.args(["--https", &https.to_string()]);
    }
    if programs.tidegate_access_log {
        command.args(["--access-log", "off"]);
    }
    command.args(&setup.tidegate_args).env("TIDEGATE_STATE_DIR", &setup.directory);
}

fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Headless unless it is the Service itself that is measured: then nothing but the Ingress is served.
fn service(plane: Plane, addr: SocketAddr, backend: SocketAddr) -> String {
    let (ip, port) = match plane {
        Plane::One | Plane::Many => ("None".to_owned(), 80),
        Plane::Tcp => (addr.ip().to_string(), addr.port()),
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: bench}}\nspec:\n  clusterIP: {ip}\n  ports: [{{port: {port}}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: bench-1\n  \
         labels: {{kubernetes.io/service-name: bench}}\naddressType: IPv4\nports: [{{name: \"\", port: {}}}]\n\
         endpoints: [{{addresses: [{}]}}]\n",
        backend.port(),
        backend.ip(),
    )
}

fn ingress(host: &Host) -> String {
    // A host with a certificate would redirect HTTP to HTTPS, and is to serve both here.
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations: {{nginx.ingress.kubernetes.io/ssl-redirect: \"false\"}}\n\
         spec:\n  ingressClassName: tidegate\n  \
         tls:\n  - hosts: [{name}]\n    secretName: certificate\n  rules:\n  - host: {name}\n    http:\n      paths:\n",
        name = host.name,
    );
    for prefix in &host.prefixes {
        text.push_str(&format!(
            "      - {{path: {prefix}, pathType: Prefix, backend: {{service: {{name: bench, port: {{number: 80}}}}}}}}\n"
        ));
    }
    text
}

fn secret(setup: &Setup) -> String {
    let data = [("tls.crt", &setup.certificate.certificate_pem), ("tls.key", &setup.certificate.key_pem)];
    let data = data.map(|(name, pem)| (name.to_owned(), ByteString(pem.clone().into_bytes())));
    let secret = Secret {
        metadata: ObjectMeta { name: Some("certificate".to_owned()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    };
    serde_json::to_string(&secret).unwrap_or_default()
}
