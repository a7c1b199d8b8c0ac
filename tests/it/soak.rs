//! Endpoints and Ingresses change a thousand times under load: no request fails, no connection is cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tidegate_tests::{Bed, Client, Net, client::hit, http_pod, service_manifest};

const CHANGES: usize = 1_000;

fn slice(net: Net, pods: &[u8]) -> String {
    let endpoints: Vec<String> = pods.iter().map(|last| format!("{{addresses: [\"{}\"]}}", net.ip(*last))).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: \"\", port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

fn ingress(change: usize) -> String {
    let path = |path: &str| {
        format!("{{path: {path}, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}")
    };
    let extra = format!("/extra-{}", change % 7);
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web}}\nspec: {{rules: [{{host: web.com, http: {{paths: [{}, {}]}}}}]}}\n",
        path("/"),
        path(&extra)
    )
}

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    requests: AtomicU64,
}

/// Requests on one keep-alive connection until told to stop; the connection must never end.
async fn keep_alive(addr: SocketAddr, load: Arc<Load>) {
    let mut client = Client::connect(addr).await;
    while !load.stop.load(Ordering::Relaxed) {
        let response = client.ask("GET / HTTP/1.1\r\nHost: web.com\r\n\r\n").await.expect("the connection lives");
        assert_eq!(response.status, 200, "{}", response.text());
        load.requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// A new connection for each request.
async fn new_connections(addr: SocketAddr, load: Arc<Load>) {
    while !load.stop.load(Ordering::Relaxed) {
        hit(addr).await.expect("a pod answers");
        load.requests.fetch_add(1, Ordering::Relaxed);
        // Closed connections wait a minute in TIME_WAIT; their number must stay below the number of ports.
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_under_load_fail_no_request_and_cut_no_connection() {
    let net = Net::next();
    let mut pods = Vec::new();
    for last in 2..6 {
        pods.push(http_pod(&format!("pod-{last}"), net.ip(last)).await);
    }
    let service =
        service_manifest("web", "none", "").replace("selector: {app: none}, ", "").replace(", targetPort: 8080", "");
    let bed = Bed::start(net, &service).await;
    bed.apply("slice.yaml", &slice(net, &[2, 3, 4, 5])).await;
    bed.apply("ingress.yaml", &ingress(0)).await;
    let load = Arc::new(Load::default());
    let l4 = bed.cluster_addr("web");
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        clients.spawn(keep_alive(l4, load.clone()));
        clients.spawn(keep_alive(bed.app.http(), load.clone()));
    }
    clients.spawn(new_connections(l4, load.clone()));
    let http = bed.app.http();
    let requests = load.clone();
    clients.spawn(async move {
        while !requests.stop.load(Ordering::Relaxed) {
            let response = Client::connect(http).await.get("web.com", "/").await;
            assert_eq!(response.status, 200, "{}", response.text());
            requests.requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    let subsets: [&[u8]; 6] = [&[2, 3], &[4, 5], &[2, 3, 4, 5], &[5], &[3, 4], &[2]];
    for change in 0..CHANGES {
        if change % 2 == 0 {
            bed.apply("slice.yaml", &slice(net, subsets[change / 2 % subsets.len()])).await;
        } else {
            bed.apply("ingress.yaml", &ingress(change / 2 + 1)).await;
        }
        while let Some(client) = clients.try_join_next() {
            client.expect("no client ends before the changes do");
        }
    }
    load.stop.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("no request failed");
    }
    let requests = load.requests.load(Ordering::Relaxed);
    println!("{CHANGES} changes, {requests} requests, none failed");
    assert!(requests > CHANGES as u64, "{requests} requests are no load");
    assert!(bed.snapshot().generation as usize > CHANGES);
}
