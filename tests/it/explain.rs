//! `explain` is asked over the admin address, and the data plane over its sockets: they must agree.
//!
//! `gateway/src/explain/agreement_tests.rs` asks both about random configurations; here one configuration is asked many
//! random questions, with real connections and requests.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde_json::Value;
use tidegate::explain::Question;
use tidegate_tests::{Bed, Client, Net, http_pod, pod_manifest, service_manifest};

const QUESTIONS: usize = 300;

fn manifests(net: Net) -> String {
    let elsewhere = pod_manifest("c", "web", net.ip(4)).replace("nodeName: here", "nodeName: there");
    let path = |path: &str, kind: &str, service: &str| {
        format!("{{path: {path}, pathType: {kind}, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}")
    };
    let ingress = |name: &str, host: &str, annotations: &str, paths: &[String]| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec: {{rules: [{{host: \"{host}\", http: {{paths: [{}]}}}}]}}\n",
            paths.join(", ")
        )
    };
    let cookie = |mode: &str| {
        format!("nginx.ingress.kubernetes.io/affinity: cookie, nginx.ingress.kubernetes.io/affinity-mode: {mode}")
    };
    [
        pod_manifest("a", "web", net.ip(2)),
        pod_manifest("b", "web", net.ip(3)),
        elsewhere,
        pod_manifest("d", "other", net.ip(5)),
        service_manifest("web", "web", "type: LoadBalancer, "),
        service_manifest("sticky", "web", "sessionAffinity: ClientIP, type: NodePort, "),
        service_manifest(
            "local",
            "web",
            "type: LoadBalancer, internalTrafficPolicy: Local, externalTrafficPolicy: Local, ",
        ),
        service_manifest("guarded", "web", "type: LoadBalancer, loadBalancerSourceRanges: [127.200.0.0/24], "),
        service_manifest("other", "other", ""),
        service_manifest("empty", "nobody", "type: NodePort, "),
        service_manifest("session", "web", ""),
        service_manifest("persistent", "web", ""),
        ingress(
            "paths",
            "paths.com",
            "",
            &[
                path("/", "Prefix", "web"),
                path("/other", "Prefix", "other"),
                path("/exact", "Exact", "other"),
                path("/empty", "Prefix", "empty"),
                path("/missing", "Prefix", "missing"),
            ],
        ),
        ingress("wild", "*.wild.com", "", &[path("/w", "Prefix", "other")]),
        ingress("session", "session.com", &cookie("balanced"), &[path("/", "Prefix", "session")]),
        ingress("persistent", "persistent.com", &cookie("persistent"), &[path("/", "Prefix", "persistent")]),
    ]
    .concat()
}

async fn explained(bed: &Bed, target: &str, headers: &[String], from: Option<IpAddr>) -> Value {
    let query = Question::parse(target, headers, from).expect("a question").to_query();
    let admin = bed.app.admin();
    let response = Client::connect(admin).await.get(&admin.to_string(), &format!("/explain?{query}")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    serde_json::from_slice(&response.body).expect("JSON")
}

/// Checks what happened against what was explained: the pod, `None` for a connection that was turned away, or a status.
fn agree(explanation: &Value, pod: Option<&str>, status: u16, question: &str) {
    let outcome = &explanation["outcome"];
    match outcome["kind"].as_str() {
        Some("endpoints") => {
            let pod = pod.unwrap_or_else(|| panic!("{question}: no pod answered ({status}): {outcome}"));
            let candidates = outcome["candidates"].as_array().expect("candidates");
            let one = candidates
                .iter()
                .find(|c| c["pod"] == pod)
                .unwrap_or_else(|| panic!("{question}: {pod} is none of {outcome}"));
            assert!(one["share"].as_f64().expect("a share") > 0.0, "{question}: {pod} was impossible: {outcome}");
            if let Some(first) = candidates.iter().find(|c| c["first"] == true) {
                assert_eq!(first["pod"], pod, "{question}: {outcome}");
            }
        }
        Some("refused") => assert!(pod.is_none() && status == 0, "{question}: {pod:?} {status} although {outcome}"),
        Some("status") => assert_eq!(outcome["code"], status, "{question}: {outcome}"),
        other => panic!("{question}: {other:?}"),
    }
}

async fn connect_and_compare(bed: &Bed, from: IpAddr, addr: SocketAddr, outcomes: &mut BTreeSet<String>) {
    let target = format!("tcp://{addr}");
    let explanation = explained(bed, &target, &[], Some(from)).await;
    let pod = match Client::from(from, addr).await {
        Ok(mut client) => {
            client.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.ok().and_then(|response| response.pod())
        }
        Err(_) => None,
    };
    agree(&explanation, pod.as_deref(), 0, &format!("{target} from {from}"));
    outcomes.insert(explanation["outcome"]["kind"].to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_and_the_data_plane_agree() {
    let net = Net::next();
    let mut pods = Vec::new();
    for (last, name) in (2..).zip(["a", "b", "c", "d"]) {
        pods.push(http_pod(name, net.ip(last)).await);
    }
    let bed = Bed::start(net, &manifests(net)).await;
    let snapshot = bed.snapshot();
    let mut frontends: Vec<SocketAddr> =
        snapshot.table.frontends().map(|(f, _)| SocketAddr::new(f.ip, f.port)).collect();
    frontends.push(SocketAddr::new(net.ip(1), 29_999));
    let clients = [net.ip(1), IpAddr::from([127, 200, 0, 7]), IpAddr::from([127, 200, 1, 7])];
    let hosts =
        ["paths.com", "PATHS.com:80", "a.wild.com", "a.b.wild.com", "session.com", "persistent.com", "unknown.com"];
    let paths =
        ["/", "/other", "/other/x", "/otherwise", "/exact", "/exact/", "/empty", "/missing/x", "/w", "/w/x?y=z"];
    let mut dice = fastrand::Rng::with_seed(7);
    let mut cookies: Vec<String> = vec!["INGRESSCOOKIE=rubbish".to_owned()];
    let mut outcomes = BTreeSet::new();
    for _ in 0..QUESTIONS {
        if dice.bool() {
            let (from, addr) = (clients[dice.usize(..clients.len())], frontends[dice.usize(..frontends.len())]);
            connect_and_compare(&bed, from, addr, &mut outcomes).await;
            continue;
        }
        let (host, path) = (hosts[dice.usize(..hosts.len())], paths[dice.usize(..paths.len())]);
        let cookie = dice.bool().then(|| cookies[dice.usize(..cookies.len())].clone());
        let headers: Vec<String> = cookie.iter().map(|cookie| format!("Cookie: {cookie}")).collect();
        let target = format!("GET http://{host}{path}");
        let explanation = explained(&bed, &target, &headers, None).await;
        let header = headers.iter().map(|header| format!("{header}\r\n")).collect::<String>();
        let mut client = Client::connect(bed.app.http()).await;
        let response =
            client.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n")).await.expect("an answer");
        if let Some(set) = response.header("set-cookie") {
            cookies.push(set.split(';').next().unwrap_or_default().to_owned());
        }
        agree(&explanation, response.pod().as_deref(), response.status, &format!("{target} {headers:?}"));
        outcomes.insert(explanation["outcome"]["kind"].to_string());
    }
    assert_eq!(outcomes.len(), 3, "every kind of outcome was met: {outcomes:?}");
    assert!(cookies.len() > 3, "sessions were met too");
}
