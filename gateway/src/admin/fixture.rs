//! A small configuration for the tests of this folder.

use std::{path::Path, sync::Arc};

use serde_json::Value;
use tokio::sync::watch;

use super::AdminState;
use crate::{
    compile::{self, allocate::Allocations, objects::Objects, settings::Settings},
    http::HttpStats,
    snapshot::Snapshot,
};

/// Two namespaces' worth of everything a table can show.
pub(super) const MANIFESTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: kubia, creationTimestamp: "2024-01-01T00:00:00Z"}
spec:
  type: NodePort
  clusterIP: 127.96.0.10
  sessionAffinity: ClientIP
  selector: {app: kubia, tier: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30123}
  - {name: https, port: 443, targetPort: 8443, nodePort: 30124}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubia-1, labels: {kubernetes.io/service-name: kubia}}
addressType: IPv4
ports:
- {name: http, port: 8080}
- {name: https, port: 8443}
endpoints:
- {addresses: [10.0.0.1], nodeName: localhost, targetRef: {kind: Pod, name: kubia-a}}
- {addresses: [10.0.0.2], conditions: {ready: true}}
- {addresses: [10.0.0.3], conditions: {ready: false, serving: false, terminating: true}}
---
apiVersion: v1
kind: Service
metadata: {name: kubia-headless}
spec:
  clusterIP: None
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: external-service}
spec: {type: ExternalName, externalName: api.example.com}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: kubia
  annotations: {nginx.ingress.kubernetes.io/affinity: cookie}
spec:
  ingressClassName: nginx
  tls: [{hosts: [kubia.example.com]}]
  rules:
  - host: kubia.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: kubia, port: {number: 80}}}}
      - {path: /gone, pathType: Exact, backend: {service: {name: gone, port: {number: 80}}}}
"#;

/// What the compiler makes of some manifests.
pub(super) fn snapshot(manifests: &str) -> Arc<Snapshot> {
    let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), manifests);
    assert_eq!(parsed.problems, []);
    let mut objects = Objects::default();
    for document in parsed.documents {
        objects.apply(document);
    }
    compile::compile(&objects, &Settings::default(), &[], &Allocations::default(), None).snapshot
}

/// All that the admin interface reads, of a process with so many workers that has done nothing yet.
pub(super) fn state(snapshot: Option<Arc<Snapshot>>, workers: usize) -> AdminState {
    AdminState {
        snapshot: watch::channel(snapshot).1,
        runtime: Arc::default(),
        http: HttpStats::of_workers(workers),
        tail: Arc::default(),
        access_log: None,
        nginx_metrics: false,
        explain: |_, _| Ok(Value::Null),
        demo: None,
        explain_event: |_, _| Ok(Value::Null),
    }
}
