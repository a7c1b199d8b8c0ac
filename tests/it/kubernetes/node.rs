//! `run --kubernetes --node`: the service plane of one node; what several replicas agree on.

use std::collections::BTreeSet;

use super::*;

/// Our Node in a zone, and where it is reached.
fn node_manifest(name: &str, zone: &str, ips: &[IpAddr]) -> String {
    let addresses: Vec<String> = ips.iter().map(|ip| format!("{{type: InternalIP, address: '{ip}'}}")).collect();
    format!(
        "---\n{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}, status: \
         {{addresses: [{{type: Hostname, address: {name}}}, {}]}}}}\n",
        addresses.join(", ")
    )
}

/// A Service with a node port.
fn node_port(name: &str, number: u16, more: &str, pods: &[IpAddr]) -> String {
    let text = service("default", name, pods);
    text.replacen("spec: {", &format!("spec: {{type: NodePort, {more} "), 1).replacen(
        "port: 80,",
        &format!("port: 80, nodePort: {number},"),
        1,
    )
}

async fn start_node(net: Net, server: &ApiServer) -> Bed {
    let source = cluster(server, &[]).await;
    Bed::start_with(net, "", |options| {
        options.source = source;
        options.settings.addresses = AddressSource::Cluster;
        options.settings.serves_node = true;
        options.settings.node_name = "here".into();
        options.settings.node_addresses = Vec::new();
        options.http = None;
        options.https = None;
        options.admin = admin(net);
    })
    .await
}

async fn until_open(bed: &Bed, expected: &[&str]) {
    let mut last = Vec::new();
    let wait = async {
        loop {
            let listening = bed.app.status().listening();
            last = listening.iter().map(|one| format!("{} {}", one.kind, one.frontend)).collect();
            if last == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{last:?} instead of {expected:?}");
}

#[tokio::test]
async fn node_ports_are_open_at_the_addresses_of_our_own_node() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    let (one, two, three) = (net.ip(5), net.ip(6), net.ip(7));
    server.apply(&(node_manifest("here", "east", &[one, two]) + &node_manifest("there", "west", &[three])));
    server.apply(&node_port("web", 30_080, "", &[net.ip(2)]));
    let bed = start_node(net, &server).await;
    let open = |ips: &[IpAddr]| ips.iter().map(|ip| format!("NodePort {ip}:30080/TCP")).collect::<Vec<_>>();
    let texts = |open: &[String]| open.to_vec();
    let expected = texts(&open(&[one, two]));
    until_open(&bed, &expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for ip in [one, two] {
        assert_eq!(tidegate_tests::client::hit(SocketAddr::new(ip, 30_080)).await.unwrap(), "a");
    }
    assert_eq!(bed.findings(), [] as [&str; 0]);
    // The node moves.
    server.apply(&node_manifest("here", "east", &[two, three]));
    let expected = open(&[two, three]);
    until_open(&bed, &expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // And is gone.
    server.delete(Kind::Node, "", "here");
    until_open(&bed, &[]).await;
    assert_eq!(bed.findings(), ["NoNodeAddress"]);
}

#[tokio::test]
async fn a_node_port_that_is_taken_is_a_finding_and_is_had_once_it_is_free() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    let ip = net.ip(5);
    let taken = std::net::TcpListener::bind((ip, 30_080)).unwrap();
    server.apply(&node_manifest("here", "east", &[ip]));
    server.apply(&(node_port("web", 30_080, "", &[net.ip(2)]) + &node_port("other", 30_081, "", &[net.ip(2)])));
    let bed = start_node(net, &server).await;
    until_open(&bed, &[&format!("NodePort {ip}:30081/TCP")]).await;
    let (status, findings) = ask(net, "/findings").await;
    assert!(
        status == 200 && findings.contains("CannotListen") && findings.contains(&format!("{ip}:30080/TCP")),
        "{findings}"
    );
    drop(taken);
    until_open(&bed, &[&format!("NodePort {ip}:30080/TCP"), &format!("NodePort {ip}:30081/TCP")]).await;
    assert!(bed.app.status().failed().is_empty());
}

#[tokio::test]
async fn a_load_balancers_ip_is_open_and_so_is_its_health_check() {
    let net = Net::next();
    let _a = http_pod("a", net.ip(2)).await;
    let server = ApiServer::start(net.ip(32)).await;
    let (ip, led_here) = (net.ip(5), net.ip(9));
    server.apply(&node_manifest("here", "east", &[ip]));
    let more = "externalTrafficPolicy: Local, healthCheckNodePort: 30090,";
    let local = "conditions: {ready: true}, nodeName: here";
    let text = node_port("web", 30_080, more, &[net.ip(2)]).replace("type: NodePort", "type: LoadBalancer");
    let status = format!("status: {{loadBalancer: {{ingress: [{{ip: '{led_here}', ipMode: Proxy}}]}}}}");
    let text = text.replace("conditions: {ready: true}", local).replacen("}\n---", &format!(", {status}}}\n---"), 1);
    server.apply(&text);
    let bed = start_node(net, &server).await;
    let [balancer, port, check] = [
        format!("LoadBalancer {led_here}:80/TCP"),
        format!("NodePort {ip}:30080/TCP"),
        format!("health check {ip}:30090/TCP"),
    ];
    until_open(&bed, &[&port, &check, &balancer]).await;
    assert_eq!(tidegate_tests::client::hit(SocketAddr::new(led_here, 80)).await.unwrap(), "a");
    let health = Client::connect(SocketAddr::new(ip, 30_090)).await.get("x", "/").await;
    assert_eq!(health.status, 200, "{}", health.text());
    // The pod is elsewhere now.
    server.apply(
        &slice("default", "web", &[net.ip(2)])
            .replace("conditions: {ready: true}", "conditions: {ready: true}, nodeName: there"),
    );
    let unhealthy = async {
        while Client::connect(SocketAddr::new(ip, 30_090)).await.get("x", "/").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, unhealthy).await.expect("it is told that nobody is here");
}

/// A replica as a process of its own: where HTTP and its node port are.
async fn replica(net: Net, server: &ApiServer, last: u8, node: &str) -> (Process, SocketAddr, SocketAddr) {
    let ip = net.ip(last);
    let text = format!(
        "run --kubernetes --node --node-name {node} --http {ip}:8080 --https off --admin {ip}:9901 --workers 1 --kubeconfig {}",
        server.kubeconfig().display(),
    );
    let args: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let process = tokio::task::spawn_blocking(move || Process::start(&std::env::temp_dir(), &args)).await.unwrap();
    (process, SocketAddr::new(ip, 8080), SocketAddr::new(ip, 30_080))
}

/// Two nodes in two zones, whose hints give each its own pods: what a cookie and a client's address stand for is the same on both.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_agree_on_the_pod_of_a_client_without_a_word() {
    let net = Net::next();
    let pods: Vec<IpAddr> = (2..8).map(|last| net.ip(last)).collect();
    let mut running = Vec::new();
    for (i, ip) in pods.iter().enumerate() {
        running.push(http_pod(&format!("pod-{i}"), *ip).await);
    }
    let server = ApiServer::start(net.ip(32)).await;
    server.apply(&(node_manifest("n1", "east", &[net.ip(20)]) + &node_manifest("n2", "west", &[net.ip(21)])));
    server.apply(&node_port("client", 30_080, "sessionAffinity: ClientIP,", &pods));
    let mut hinted = service("default", "web", &pods);
    for (i, ip) in pods.iter().enumerate() {
        let zone = if i % 2 == 0 { "east" } else { "west" };
        let written = format!("{{addresses: ['{ip}'], ");
        hinted = hinted.replace(&written, &format!("{written}hints: {{forZones: [{{name: {zone}}}]}}, "));
    }
    let sticky = "annotations: {nginx.ingress.kubernetes.io/affinity: cookie}, name: web";
    server.apply(&(hinted + &of_class("tidegate", &ingress("default", "web")).replacen("name: web", sticky, 1)));
    let (first, http1, port1) = replica(net, &server, 20, "n1").await;
    let (second, http2, port2) = replica(net, &server, 21, "n2").await;

    let mut hit = BTreeSet::new();
    for _ in 0..30 {
        let begun = Client::connect(http1).await.get("web.example.com", "/").await;
        let cookie = begun.header("set-cookie").expect("a session begins").split(';').next().unwrap().to_owned();
        let request = format!("GET / HTTP/1.1\r\nHost: web.example.com\r\nCookie: {cookie}\r\n\r\n");
        let goes_on = Client::connect(http2).await.ask(&request).await.unwrap();
        assert_eq!(goes_on.pod(), begun.pod(), "{cookie}: {} {}", first.log(), second.log());
        assert_eq!(goes_on.header("set-cookie"), None);
        hit.extend(begun.pod());
    }
    assert!(hit.len() > 2, "sessions begin everywhere: {hit:?}");

    let mut hit = BTreeSet::new();
    for last in 100..130 {
        let mut one = Client::from(net.ip(last), port1).await.unwrap();
        let mut two = Client::from(net.ip(last), port2).await.unwrap();
        let pod = one.get("x", "/").await.pod();
        assert_eq!(two.get("x", "/").await.pod(), pod);
        hit.extend(pod);
    }
    assert!(hit.len() > 2, "{hit:?}");
}
