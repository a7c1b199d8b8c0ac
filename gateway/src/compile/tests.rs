//! The compiler as a whole: order does not matter, and compiling step by step gives what compiling at once gives.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use proptest::prelude::*;
use tidegate_crd::{Document, yaml};

use super::*;

/// Objects that depend on each other in every way there is, each in two versions and perhaps absent.
const OBJECTS: [[&str; 2]; 17] = [
    [
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 127.96.0.5, selector: {app: web}, ports: [{name: http, port: 80, targetPort: main}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 127.96.0.5, sessionAffinity: ClientIP, selector: {app: web}, ports: [{name: http, port: 8080, targetPort: 99}]}}",
    ],
    [
        "{apiVersion: v1, kind: Service, metadata: {name: hand}, spec: {clusterIP: 127.96.0.6, ports: [{port: 80}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: hand}, spec: {type: NodePort, clusterIP: 127.96.0.6, ports: [{port: 80, nodePort: 30500}]}}",
    ],
    [
        "{apiVersion: v1, kind: Service, metadata: {name: alias}, spec: {type: ExternalName, externalName: a.example.com}}",
        "{apiVersion: v1, kind: Service, metadata: {name: alias}, spec: {type: ExternalName, externalName: b.example.com}}",
    ],
    [
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s1, labels: {kubernetes.io/service-name: hand}}, addressType: IPv4, ports: [{name: '', port: 8080}], endpoints: [{addresses: [10.0.0.1], nodeName: node-a}]}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s1, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: http, port: 8081}], endpoints: [{addresses: [10.0.0.2]}]}",
    ],
    [
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s2, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: http, port: 8081}], endpoints: [{addresses: [10.0.0.3]}]}",
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s2, labels: {kubernetes.io/service-name: nobody}}, addressType: IPv4, ports: [{name: http, port: 8081}], endpoints: [{addresses: [10.0.0.3]}, {addresses: [10.0.0.4], conditions: {ready: false}}]}",
    ],
    [
        "{apiVersion: v1, kind: Endpoints, metadata: {name: hand}, subsets: [{addresses: [{ip: 10.0.1.1}], ports: [{port: 9000}]}]}",
        "{apiVersion: v1, kind: Endpoints, metadata: {name: hand}, subsets: [{addresses: [{ip: 10.0.1.2}], ports: [{port: 9000}]}]}",
    ],
    [
        "{apiVersion: v1, kind: Pod, metadata: {name: p1, labels: {app: web}}, spec: {nodeName: localhost, containers: [{name: c, ports: [{name: main, containerPort: 8080}]}]}, status: {podIP: 10.0.2.1}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: p1, labels: {app: other}}, spec: {containers: [{name: c}]}, status: {podIP: 10.0.2.1}}",
    ],
    [
        "{apiVersion: v1, kind: Pod, metadata: {name: p2, labels: {app: web}}, spec: {nodeName: localhost, containers: [{name: c, ports: [{name: main, containerPort: 8082}]}]}, status: {podIP: 10.0.2.2}}",
        "{apiVersion: v1, kind: Pod, metadata: {name: p2, deletionTimestamp: '2026-01-01T00:00:00Z', labels: {app: web}}, spec: {containers: [{name: c, ports: [{name: main, containerPort: 8082}]}]}, status: {podIP: 10.0.2.2}}",
    ],
    [
        "{apiVersion: v1, kind: Node, metadata: {name: localhost, labels: {topology.kubernetes.io/zone: z1}}}",
        "{apiVersion: v1, kind: Node, metadata: {name: localhost, labels: {topology.kubernetes.io/zone: z2}}}",
    ],
    [
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i1}, spec: {ingressClassName: c, rules: [{host: a.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}",
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i1, annotations: {nginx.ingress.kubernetes.io/affinity: cookie}}, spec: {rules: [{host: a.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}]}}]}}",
    ],
    [
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i2}, spec: {defaultBackend: {service: {name: alias, port: {number: 8443}}}, rules: [{host: a.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: hand, port: {number: 80}}}}]}}]}}",
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i2, creationTimestamp: '2020-01-01T00:00:00Z', annotations: {nginx.ingress.kubernetes.io/affinity: cookie, nginx.ingress.kubernetes.io/affinity-mode: persistent}}, spec: {rules: [{host: a.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}}",
    ],
    [
        "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: c}, spec: {controller: tidegate.io/ingress}}",
        "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: c, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}, spec: {controller: example.com/other}}",
    ],
    [
        "{apiVersion: v1, kind: Namespace, metadata: {name: empty}}",
        "{apiVersion: v1, kind: Namespace, metadata: {name: empty, labels: {a: b}}}",
    ],
    [
        "{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {type: NodePort, clusterIP: 127.96.0.6, ports: [{port: 80, nodePort: 30500}]}}",
        "{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}}",
    ],
    [
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: fields}, data: {X-A: '1'}}",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: fields}, data: {Content-Length: '1'}}",
    ],
    [
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i3, annotations: {nginx.ingress.kubernetes.io/canary: 'true', nginx.ingress.kubernetes.io/canary-weight: '30'}}, spec: {rules: [{host: a.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: hand, port: {number: 80}}}}]}}]}}",
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i3, annotations: {nginx.ingress.kubernetes.io/use-regex: 'true', nginx.ingress.kubernetes.io/server-alias: b.com, nginx.ingress.kubernetes.io/custom-headers: fields}}, spec: {rules: [{host: a.com, http: {paths: [{path: '/x[0-9]', pathType: ImplementationSpecific, backend: {service: {name: web, port: {name: http}}}}]}}]}}",
    ],
    [
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i4, annotations: {nginx.ingress.kubernetes.io/service-upstream: 'true', nginx.ingress.kubernetes.io/app-root: /app}}, spec: {rules: [{host: a.com, http: {paths: [{path: /y, pathType: Exact, backend: {service: {name: late, port: {number: 80}}}}]}}]}}",
        "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i4, annotations: {nginx.ingress.kubernetes.io/upstream-hash-by: $request_uri, nginx.ingress.kubernetes.io/from-to-www-redirect: 'true'}}, spec: {tls: [{hosts: [a.com]}], rules: [{host: a.com, http: {paths: [{path: /y, pathType: Exact, backend: {service: {name: late, port: {number: 80}}}}]}}]}}",
    ],
];

/// The EndpointSlices among them: what changes most.
const SLICES: std::ops::Range<usize> = 3..5;

fn document(object: usize, version: usize) -> Document {
    let mut parsed = yaml::parse(Path::new("test.yaml"), OBJECTS[object][version]);
    assert_eq!(parsed.problems, []);
    parsed.documents.remove(0)
}

/// Everything a snapshot says, in words and in order.
fn words(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    for row in snapshot.services.iter() {
        let _ = writeln!(out, "{row:?}");
    }
    for row in snapshot.ingresses.iter() {
        let _ = writeln!(out, "{row:?}");
    }
    for finding in snapshot.findings.iter() {
        let _ = writeln!(out, "{finding}");
    }
    let frontends: BTreeMap<_, _> =
        snapshot.table.frontends().map(|(f, target)| (f, (target.kind, &target.port.config))).collect();
    let ports: BTreeMap<_, _> = snapshot.table.ports().map(|port| (&port.config.name, &port.config)).collect();
    let _ = writeln!(out, "{frontends:?}\n{ports:?}");
    let mut rules: Vec<String> = snapshot
        .routes
        .rules()
        .map(|rule| {
            let (host, path, owner, backend) = (&rule.host, &rule.path, &rule.owner, rule.backend.service());
            let (cookie, policy) = (rule.issues_cookie, &rule.policy);
            // The numbers of upstreams are nobody's business.
            let split = rule.split.as_ref().map(|split| (split.backend.service(), split.weight, &split.owner));
            format!("{host} {path:?} {owner} {backend} {cookie} {:?} {:?} {split:?}", policy.filters, policy.https)
        })
        .collect();
    for host in ["a.com", "b.com", "www.a.com"] {
        for path in ["/", "/y", "/x1", "/z"] {
            let found = snapshot.routes.find(host, path).rule.map(|rule| (&rule.owner, &rule.path));
            let _ = writeln!(out, "{host}{path} {found:?}");
        }
    }
    rules.sort();
    let upstreams: BTreeMap<_, _> = snapshot
        .upstreams
        .iter()
        .map(|u| (&u.name, (u.endpoints.endpoints(), u.cookie.as_ref().map(|c| &c.affinity), &u.options)))
        .collect();
    let _ = writeln!(out, "{rules:?}\n{upstreams:?}");
    for name in ["web", "hand", "alias", "late"] {
        let name = format!("{name}.default.svc.cluster.local.").parse().unwrap();
        let answer = snapshot.zone.answer(&name, hickory_proto::rr::RecordType::A);
        // DNS shuffles equal answers.
        let mut records: Vec<String> = answer.answers.iter().map(ToString::to_string).collect();
        records.sort();
        let _ = writeln!(out, "{name} {:?} {records:?}", answer.verdict);
    }
    out
}

fn at_once(objects: &Objects) -> String {
    words(&compile(objects, &Settings::default(), &[], &Allocations::default(), None).snapshot)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Nothing that is taken over from the compile before may be stale.
    #[test]
    fn compiling_step_by_step_gives_what_compiling_at_once_gives(
        changes in prop::collection::vec((prop_oneof![0..OBJECTS.len(), SLICES], 0..3usize, any::<bool>()), 1..40),
    ) {
        let mut objects = Objects::default();
        let mut compiled: Option<Compiled> = None;
        for (object, version, compile_now) in changes {
            if version == 2 {
                objects.delete(&document(object, 0).object.object_ref());
            } else {
                objects.apply(document(object, version));
            }
            let names = external_names(&objects, &ingress::asked_ports(&objects));
            objects.set_resolved(names.iter().map(|name| (name.clone(), Arc::from(["192.0.2.1".parse().unwrap()]))).collect());
            if compile_now {
                compiled = Some(compile(&objects, &Settings::default(), &[], &Allocations::default(), compiled.as_ref()));
                prop_assert_eq!(words(&compiled.as_ref().unwrap().snapshot), at_once(&objects));
            }
        }
    }

    #[test]
    fn the_order_in_which_objects_arrive_does_not_matter(versions in prop::collection::vec(0..3usize, OBJECTS.len()), seed in any::<u64>()) {
        let present: Vec<(usize, usize)> = versions.into_iter().enumerate().filter(|(_, version)| *version < 2).collect();
        let mut shuffled = present.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let [a, b] = [present, shuffled].map(|order| {
            let mut objects = Objects::default();
            for (object, version) in order {
                objects.apply(document(object, version));
            }
            at_once(&objects)
        });
        prop_assert_eq!(a, b);
    }
}

#[test]
fn what_did_not_change_is_taken_over() {
    let mut objects = Objects::default();
    for object in 0..OBJECTS.len() {
        objects.apply(document(object, 0));
    }
    let settings = Settings::default();
    let first = compile(&objects, &settings, &[], &Allocations::default(), None);
    assert!(!objects.apply(document(3, 0)), "the same again is no change");
    objects.apply(document(3, 1));
    let second = compile(&objects, &settings, &[], &Allocations::default(), Some(&first));
    assert_eq!(second.snapshot.generation, 2);
    assert!(Arc::ptr_eq(&first.snapshot.routes, &second.snapshot.routes), "endpoints are no part of the rules");
    assert!(Arc::ptr_eq(&first.snapshot.services, &second.snapshot.services), "nor of what Services are");
    assert!(Arc::ptr_eq(&first.snapshot.findings, &second.snapshot.findings));
    let kept = |(a, b): &(&Arc<Upstream>, &Arc<Upstream>)| Arc::ptr_eq(a, b);
    let (kept, changed): (Vec<_>, Vec<_>) =
        first.snapshot.upstreams.iter().zip(&second.snapshot.upstreams).partition(kept);
    assert_eq!((kept.len(), changed.len()), (2, 2), "a slice went from one Service to another");
    objects.apply(document(0, 1));
    let ports = compile(&objects, &settings, &[], &Allocations::default(), Some(&second));
    assert!(!Arc::ptr_eq(&second.snapshot.routes, &ports.snapshot.routes), "a port is another");
    let text = OBJECTS[0][1].replace("ClientIP", "None");
    objects.apply(yaml::parse(Path::new("test.yaml"), &text).documents.remove(0));
    let affinity = compile(&objects, &settings, &[], &Allocations::default(), Some(&ports));
    assert!(Arc::ptr_eq(&ports.snapshot.routes, &affinity.snapshot.routes), "it is no part of the rules");
    assert!(!Arc::ptr_eq(&ports.snapshot.services, &affinity.snapshot.services));
    let alias =
        |compiled: &Compiled| compiled.snapshot.services.iter().find(|row| &*row.name == "alias").cloned().unwrap();
    assert!(Arc::ptr_eq(&alias(&first), &alias(&second)));
}

#[test]
fn more_changes_of_slices_than_are_told_apart_are_not_missed() {
    let mut objects = Objects::default();
    for object in 0..OBJECTS.len() {
        objects.apply(document(object, 0));
    }
    let settings = Settings::default();
    let first = compile(&objects, &settings, &[], &Allocations::default(), None);
    // The first of them is forgotten.
    objects.apply(document(SLICES.start, 1));
    for version in 0..300 {
        objects.apply(document(SLICES.start + 1, version % 2));
    }
    let second = compile(&objects, &settings, &[], &Allocations::default(), Some(&first));
    assert_eq!(words(&second.snapshot), at_once(&objects));
}
