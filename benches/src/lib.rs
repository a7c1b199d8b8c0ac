//! What the benches measure with: clusters of any size, as the manifests somebody would have written.
//!
//! `cargo bench -p tidegate-benches` measures the parts (`RESULTS.md`); `cargo run --release -p tidegate-benches --bin
//! compare` the whole, beside other proxies (`compare/RESULTS.md`), and `--bin scale` at the size of a large cluster (`scale/RESULTS.md`).

pub mod http1;
pub mod network;
pub mod process;
pub mod program;
pub mod stats;

use std::{fmt::Write, net::Ipv4Addr, path::Path};

use tidegate::compile::objects::Objects;

/// Endpoints of every Service made here: the size the goals are set for.
pub const ENDPOINTS: usize = 5;

/// The objects of some manifests.
///
/// # Panics
/// If the manifests are not perfect: a bench must not measure error handling by mistake.
pub fn objects(manifests: &str) -> Objects {
    let mut objects = Objects::default();
    apply(&mut objects, manifests);
    objects
}

/// Applies further manifests to `objects`.
///
/// # Panics
/// As [`objects`].
pub fn apply(objects: &mut Objects, manifests: &str) {
    // One document at a time, as a manifest file has a size limit and a cluster has not.
    for document in manifests.split_inclusive("\n---\n") {
        let parsed = tidegate_crd::yaml::parse(Path::new("bench.yaml"), document);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        for document in parsed.documents {
            objects.apply(document);
        }
    }
}

/// Services `0..count`, with an EndpointSlice each. All have a ClusterIP; every tenth has a node port too.
pub fn services(count: usize) -> String {
    let mut out = String::new();
    for n in 0..count {
        let kind = if n.is_multiple_of(10) { "NodePort" } else { "ClusterIP" };
        let _ = write!(
            out,
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: service-{n}\n  namespace: team-{team}\nspec:\n  type: {kind}\n  \
             ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n---\n",
            team = n % 50,
        );
        out.push_str(&slice(n, ENDPOINTS));
    }
    out
}

/// The EndpointSlice of Service `service`, with so many endpoints.
pub fn slice(service: usize, endpoints: usize) -> String {
    let mut out = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: service-{service}-abcde\n  namespace: team-{team}\n  \
         labels:\n    kubernetes.io/service-name: service-{service}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\nendpoints:\n",
        team = service % 50,
    );
    for n in 0..endpoints {
        let ip = Ipv4Addr::from(0x0a00_0000 + (service * 100 + n) as u32);
        let _ = write!(
            out,
            "- addresses: [{ip}]\n  conditions: {{ready: true}}\n  nodeName: node-{node}\n  zone: zone-{zone}\n  \
             targetRef: {{kind: Pod, name: service-{service}-{n}}}\n",
            node = n % 100,
            zone = n % 3,
        );
    }
    out.push_str("---\n");
    out
}

/// Ingresses `0..count`, each with a host of its own, two paths, and Service `n % services` behind them.
pub fn ingresses(count: usize, services: usize) -> String {
    (0..count).map(|n| ingress(n, n % services, "/")).collect()
}

/// One Ingress.
pub fn ingress(number: usize, service: usize, path: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: ingress-{number}\n  namespace: team-{team}\n\
         spec:\n  ingressClassName: tidegate\n  rules:\n  - host: host-{number}.example.com\n    http:\n      paths:\n      \
         - path: {path}\n        pathType: Prefix\n        backend: {{service: {{name: service-{service}, port: {{name: http}}}}}}\n      \
         - path: /healthz\n        pathType: Exact\n        backend: {{service: {{name: service-{service}, port: {{name: http}}}}}}\n---\n",
        team = service % 50,
    )
}
