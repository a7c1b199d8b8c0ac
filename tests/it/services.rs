//! The rules of a Kubernetes service proxy over real sockets, one test for each row of the rules a user-space plane can show.
//! Names in comments are those of the Kubernetes e2e suite (sig-network) that ask for the same.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tidegate::pod::Listen;
use tidegate_tests::{
    Bed, Client, Net, PATIENCE, Response,
    client::{datagram, hit, hits},
    http_pod, pod_manifest, service_manifest, start_pod,
};

/// Enough connections that three pods chosen at random are all seen: one is missed with probability 3 × (2/3)^64.
const MANY: usize = 64;

/// A connection from this address is no node's own.
const STRANGER: [u8; 4] = [127, 200, 0, 9];

/// Whether clients are refused, as they are when nothing listens.
async fn refused(addr: SocketAddr) -> bool {
    // A frontend closes within moments of the change: until then a client is accepted and reset.
    let begun = std::time::Instant::now();
    while begun.elapsed() < PATIENCE {
        match Client::try_connect(addr).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return true,
            Ok(_) | Err(_) => tokio::task::yield_now().await,
        }
    }
    false
}

/// Whether a client from `source` gets an answer; one that is turned away is reset, perhaps before it knows that it was connected.
async fn answered(source: impl Into<IpAddr>, addr: SocketAddr) -> bool {
    match Client::from(source.into(), addr).await {
        Ok(mut client) => client.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok(),
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
            false
        }
    }
}

fn slice(name: &str, service: &str, port_name: &str, port: u16, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{name: \"{port_name}\", port: {port}}}]\nendpoints: [{endpoints}]\n"
    )
}

fn endpoint(ip: IpAddr, more: &str) -> String {
    format!("{{addresses: [\"{ip}\"]{more}}}")
}

fn selectorless(name: &str, more: &str) -> String {
    format!("---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{more}ports: [{{port: 80}}]}}\n")
}

/// Three pods `a`, `b`, `c` at .2, .3, .4, and their manifests.
async fn three(net: Net) -> (Vec<tidegate::pod::Pod>, String) {
    let mut pods = Vec::new();
    let mut manifests = String::new();
    for (last, name) in (2..).zip(["a", "b", "c"]) {
        pods.push(http_pod(name, net.ip(last)).await);
        manifests += &pod_manifest(name, "web", net.ip(last));
    }
    (pods, manifests)
}

// --- where a Service answers ---

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_answers_on_its_ip_its_node_port_and_its_cluster_ip() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start(net, &(manifests + &service_manifest("web", "web", "type: LoadBalancer, "))).await;
    let node_port = bed.snapshot().services[0].ports[0].node_port.unwrap();
    for addr in [bed.cluster_addr("web"), bed.load_balancer_addr("web"), SocketAddr::new(net.ip(1), node_port)] {
        assert_eq!(hits(addr, MANY).await, ["a", "b", "c"], "{addr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_port_answers_on_every_node_address_with_the_same_port() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let addresses = vec![net.ip(1), net.ip(40), net.ip(41)];
    let bed = Bed::start_with(net, &(manifests + &service_manifest("web", "web", "type: NodePort, ")), |options| {
        options.settings.node_addresses = addresses.clone();
    })
    .await;
    let node_port = bed.snapshot().services[0].ports[0].node_port.unwrap();
    for ip in addresses {
        hit(SocketAddr::new(ip, node_port)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_answers_on_the_address_of_the_pool_it_asks_for() {
    let net = Net::next();
    let (_pods, mut manifests) = three(net).await;
    manifests += &format!(
        "---\napiVersion: tidegate.io/v1alpha1\nkind: LoadBalancerPool\nmetadata: {{name: edge}}\n\
         spec: {{addresses: [\"{}-{}\"], autoAssign: false}}\n",
        net.ip(40),
        net.ip(41),
    );
    let service = |name: &str, annotation: &str, value: &str| {
        let text = service_manifest(name, "web", "type: LoadBalancer, ");
        text.replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, annotations: {{{annotation} {value}}}}}"))
    };
    manifests += &service("by-ip", "tidegate.io/load-balancer-ips:", &net.ip(41).to_string());
    manifests += &service("by-pool", "tidegate.io/load-balancer-pool:", "edge");
    let bed = Bed::start(net, &manifests).await;
    assert_eq!(bed.findings(), [""; 0]);
    for (name, last) in [("by-ip", 41), ("by-pool", 40)] {
        assert_eq!(bed.load_balancer_addr(name), SocketAddr::new(net.ip(last), 80), "{name}");
        hit(SocketAddr::new(net.ip(last), 80)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_load_balancer_still_works_as_a_node_port() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start_with(net, &(manifests + &service_manifest("web", "web", "type: LoadBalancer, ")), |options| {
        options.settings.load_balancer_pools.clear();
    })
    .await;
    let row = bed.snapshot().services[0].clone();
    assert!(row.pending && row.external.is_empty());
    assert_eq!(bed.findings(), ["LoadBalancerPending"]);
    hit(SocketAddr::new(net.ip(1), row.ports[0].node_port.unwrap())).await.unwrap();
}

/// "should serve multiport endpoints from pods", and named target ports that differ per pod.
#[tokio::test(flavor = "multi_thread")]
async fn each_port_goes_to_the_container_port_of_its_name_on_each_pod() {
    let net = Net::next();
    let _a = start_pod("a", [8080, 8081].map(|port| Listen::Http(SocketAddr::new(net.ip(2), port)))).await;
    let _b = start_pod("b", [8080, 9999].map(|port| Listen::Http(SocketAddr::new(net.ip(3), port)))).await;
    let pod = |name: &str, ip: IpAddr, admin: u16| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\n\
         spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}, {{name: admin, containerPort: {admin}}}]}}]}}\nstatus: {{podIP: \"{ip}\"}}\n"
        )
    };
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: admin, port: 81, targetPort: admin}]}\n";
    let bed = Bed::start(net, &(pod("a", net.ip(2), 8081) + &pod("b", net.ip(3), 9999) + service)).await;
    let ip = bed.cluster_addr("web").ip();
    for port in [80, 81] {
        assert_eq!(hits(SocketAddr::new(ip, port), MANY).await, ["a", "b"], "port {port}");
    }
}

/// "should serve endpoints on same port and different protocols"; one number, two protocols, each with a node port of that number.
#[tokio::test(flavor = "multi_thread")]
async fn tcp_and_udp_of_one_number_are_two_ports() {
    let net = Net::next();
    let _pod =
        start_pod("a", [Listen::Http(SocketAddr::new(net.ip(2), 8080)), Listen::Udp(SocketAddr::new(net.ip(2), 8080))])
            .await;
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: NodePort, selector: {app: web}, ports: [{name: t, port: 80, targetPort: 8080, nodePort: 30777}, {name: u, port: 80, targetPort: 8080, nodePort: 30777, protocol: UDP}]}\n";
    let bed = Bed::start(net, &(pod_manifest("a", "web", net.ip(2)) + service)).await;
    for addr in [bed.cluster_addr("web"), SocketAddr::new(net.ip(1), 30777)] {
        assert_eq!(hit(addr).await.unwrap(), "a");
        assert_eq!(datagram(addr, b"hi").await.unwrap(), b"You've hit a\n");
    }
    assert_eq!(
        datagram(bed.cluster_addr("web"), &[b"echo ".as_slice(), &[7; 30_000]].concat()).await.unwrap().len(),
        30_005,
        "large requests: udp"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dual_stack_serves_each_family_with_its_own_endpoints() {
    let net = Net::next();
    let Ok(v6_port) = tokio::net::TcpListener::bind("[::1]:0").await.and_then(|l| l.local_addr()).map(|a| a.port())
    else {
        return eprintln!("skipped: this system has no IPv6 loopback");
    };
    let _four = http_pod("four", net.ip(2)).await;
    let _six = start_pod("six", [Listen::Http("[::1]:0".parse().unwrap())]).await;
    let six_port = _six.http_addrs()[0].port();
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{ipFamilyPolicy: RequireDualStack, clusterIPs: [\"{}\", \"::1\"], ports: [{{port: {v6_port}}}]}}\n",
        net.ip(70)
    );
    let six = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: six, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv6\nports: [{{name: \"\", port: {six_port}}}]\nendpoints: [{{addresses: [\"::1\"]}}]\n"
    );
    let bed = Bed::start(net, &(service + &slice("four", "web", "", 8080, &endpoint(net.ip(2), "")) + &six)).await;
    assert_eq!(bed.findings(), [""; 0]);
    assert_eq!(hits(SocketAddr::new(net.ip(70), v6_port), 8).await, ["four"]);
    assert_eq!(hits(SocketAddr::new("::1".parse().unwrap(), v6_port), 8).await, ["six"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn external_ips_are_off_unless_asked_for() {
    for allowed in [false, true] {
        let net = Net::next();
        let _pod = http_pod("a", net.ip(2)).await;
        let manifests = pod_manifest("a", "web", net.ip(2))
            + &service_manifest("web", "web", &format!("externalIPs: [\"{}\"], ", net.ip(200)));
        let bed = Bed::start_with(net, &manifests, |options| options.settings.allow_external_ips = allowed).await;
        let external = SocketAddr::new(net.ip(200), 80);
        assert_eq!(hit(external).await.is_ok(), allowed);
        assert_eq!(bed.findings().is_empty(), allowed);
    }
}

/// loadBalancerClass of another is left to it; allocateLoadBalancerNodePorts: false gives an IP and no node port.
#[tokio::test(flavor = "multi_thread")]
async fn load_balancers_of_another_class_and_without_node_ports() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let services = service_manifest("theirs", "web", "type: LoadBalancer, loadBalancerClass: example.com/lb, ")
        + &service_manifest("ours", "web", "type: LoadBalancer, loadBalancerClass: tidegate.io/load-balancer, ")
        + &service_manifest("bare", "web", "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ");
    let bed = Bed::start(net, &(manifests + &services)).await;
    let snapshot = bed.snapshot();
    let row = |name: &str| snapshot.services.iter().find(|row| &*row.name == name).unwrap().clone();
    assert!(row("theirs").external.is_empty());
    hit(SocketAddr::new(net.ip(1), row("theirs").ports[0].node_port.unwrap())).await.unwrap();
    hit(bed.load_balancer_addr("ours")).await.unwrap();
    assert_eq!(row("bare").ports[0].node_port, None);
    hit(bed.load_balancer_addr("bare")).await.unwrap();
}

/// "should serve endpoints on same port and different protocol for internal traffic on Type LoadBalancer".
#[tokio::test(flavor = "multi_thread")]
async fn one_load_balancer_carries_both_protocols() {
    let net = Net::next();
    let addr = SocketAddr::new(net.ip(2), 8080);
    let _pod = start_pod("a", [Listen::Http(addr), Listen::Udp(addr)]).await;
    let ports = "ports: [{name: t, port: 80, targetPort: 8080}, {name: u, port: 80, targetPort: 8080, protocol: UDP}]";
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: LoadBalancer, selector: {{app: web}}, {ports}}}\n"
    );
    let bed = Bed::start(net, &(pod_manifest("a", "web", net.ip(2)) + &service)).await;
    assert_eq!(hit(bed.load_balancer_addr("web")).await.unwrap(), "a");
    assert_eq!(datagram(bed.load_balancer_addr("web"), b"hi").await.unwrap(), b"You've hit a\n");
}

/// "should work after the service has been recreated": the same name comes back and answers at the same address.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_recreated_answers_again() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start(net, &manifests).await;
    let mut addresses = Vec::new();
    for _ in 0..3 {
        bed.apply("s.yaml", &service_manifest("web", "web", "")).await;
        addresses.push(bed.cluster_addr("web"));
        assert_eq!(hits(bed.cluster_addr("web"), MANY).await, ["a", "b", "c"]);
        bed.remove("s.yaml").await;
        assert!(refused(addresses[0]).await);
    }
    addresses.dedup();
    assert_eq!(addresses.len(), 1);
}

// --- which endpoints ---

#[tokio::test(flavor = "multi_thread")]
async fn slices_are_joined_by_port_name_and_merged_and_the_wrong_ones_ignored() {
    let net = Net::next();
    let (_pods, _) = three(net).await;
    let two_slices = slice("s1", "web", "", 8080, &endpoint(net.ip(2), ""))
        + &slice("s2", "web", "", 8080, &[endpoint(net.ip(2), ""), endpoint(net.ip(3), "")].join(", "));
    let other_name = slice("s3", "web", "other", 8080, &endpoint(net.ip(4), ""));
    let fqdn = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s4, labels: {kubernetes.io/service-name: web}}\naddressType: FQDN\nports: [{name: \"\", port: 8080}]\nendpoints: [{addresses: [example.com]}]\n";
    let unlabelled = slice("s5", "web", "", 8080, &endpoint(net.ip(4), ""))
        .replace("labels: {kubernetes.io/service-name: web}", "labels: {}");
    let bed = Bed::start(net, &(selectorless("web", "") + &two_slices + &other_name + fqdn + &unlabelled)).await;
    assert_eq!(hits(bed.cluster_addr("web"), MANY).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_endpoints_are_mirrored() {
    let net = Net::next();
    let (_pods, _) = three(net).await;
    let endpoints = format!(
        "---\napiVersion: v1\nkind: Endpoints\nmetadata: {{name: web}}\nsubsets: [{{addresses: [{{ip: \"{}\"}}], notReadyAddresses: [{{ip: \"{}\"}}], ports: [{{port: 8080}}]}}]\n",
        net.ip(2),
        net.ip(3)
    );
    let bed = Bed::start(net, &(selectorless("web", "") + &endpoints)).await;
    assert_eq!(hits(bed.cluster_addr("web"), 16).await, ["a"]);
}

/// "should be rejected when no endpoints exist"; and the listener comes back with the first endpoint.
#[tokio::test(flavor = "multi_thread")]
async fn without_endpoints_clients_are_refused_until_one_is_ready() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let service = service_manifest("web", "web", "type: LoadBalancer, ");
    let bed = Bed::start(net, &service).await;
    let node_port = bed.snapshot().services[0].ports[0].node_port.unwrap();
    let all = [bed.cluster_addr("web"), bed.load_balancer_addr("web"), SocketAddr::new(net.ip(1), node_port)];
    for addr in all {
        assert!(refused(addr).await, "{addr}");
    }
    bed.apply("pods.yaml", &manifests).await;
    for addr in all {
        hit(addr).await.unwrap();
    }
    bed.remove("pods.yaml").await;
    for addr in all {
        assert!(refused(addr).await, "{addr}");
    }
}

/// "should create endpoints for unready pods" and its opposite.
#[tokio::test(flavor = "multi_thread")]
async fn unready_pods_serve_only_if_the_service_publishes_them() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let unready = pod_manifest("c", "web", net.ip(4)).replace("status: \"True\"", "status: \"False\"");
    let manifests = manifests.replace(&pod_manifest("c", "web", net.ip(4)), &unready);
    let services =
        service_manifest("ready", "web", "") + &service_manifest("all", "web", "publishNotReadyAddresses: true, ");
    let bed = Bed::start(net, &(manifests + &services)).await;
    assert_eq!(hits(bed.cluster_addr("ready"), MANY).await, ["a", "b"]);
    assert_eq!(hits(bed.cluster_addr("all"), MANY).await, ["a", "b", "c"]);
}

/// "should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster" and the three others.
#[tokio::test(flavor = "multi_thread")]
async fn terminating_endpoints_serve_when_nothing_is_ready() {
    let draining = ", nodeName: here, conditions: {ready: false, serving: true, terminating: true}";
    let gone = ", nodeName: here, conditions: {ready: false, serving: false, terminating: true}";
    for policy in ["", "internalTrafficPolicy: Local, externalTrafficPolicy: Local, "] {
        let net = Net::next();
        let (_pods, _) = three(net).await;
        let endpoints = [endpoint(net.ip(2), draining), endpoint(net.ip(3), gone)].join(", ");
        let service = selectorless("web", &format!("type: NodePort, {policy}"));
        let bed = Bed::start(net, &(service + &slice("s", "web", "", 8080, &endpoints))).await;
        let node_port = SocketAddr::new(net.ip(1), bed.snapshot().services[0].ports[0].node_port.unwrap());
        assert_eq!(hits(bed.cluster_addr("web"), 16).await, ["a"]);
        assert_eq!(hits(node_port, 16).await, ["a"]);
        bed.apply("ready.yaml", &slice("ready", "web", "", 8080, &endpoint(net.ip(4), ", nodeName: here"))).await;
        assert_eq!(hits(bed.cluster_addr("web"), 16).await, ["c"], "a ready endpoint takes over");
    }
}

/// Topology hints: the same zone, the same node, and one missing hint disables them.
#[tokio::test(flavor = "multi_thread")]
async fn hints_narrow_the_choice_to_the_zone_and_the_node() {
    let net = Net::next();
    let (_pods, _) = three(net).await;
    let node = "---\napiVersion: v1\nkind: Node\nmetadata: {name: here, labels: {topology.kubernetes.io/zone: z1}}\n";
    let hinted = |zone: &str, nodes: &str| format!(", hints: {{forZones: [{{name: {zone}}}]{nodes}}}");
    let zones = [
        endpoint(net.ip(2), &hinted("z1", "")),
        endpoint(net.ip(3), &hinted("z2", "")),
        endpoint(net.ip(4), &hinted("z1", "")),
    ];
    let missing = [zones[0].clone(), endpoint(net.ip(3), "")];
    let nodes = [
        endpoint(net.ip(2), &hinted("z2", ", forNodes: [{name: here}]")),
        endpoint(net.ip(3), &hinted("z1", ", forNodes: [{name: there}]")),
    ];
    let manifests = [("zones", zones.join(", ")), ("missing", missing.join(", ")), ("nodes", nodes.join(", "))]
        .map(|(name, endpoints)| selectorless(name, "") + &slice(name, name, "", 8080, &endpoints))
        .concat();
    let bed = Bed::start(net, &(node.to_owned() + &manifests)).await;
    assert_eq!(hits(bed.cluster_addr("zones"), MANY).await, ["a", "c"]);
    assert_eq!(hits(bed.cluster_addr("missing"), MANY).await, ["a", "b"]);
    assert_eq!(hits(bed.cluster_addr("nodes"), MANY).await, ["a"]);
}

/// trafficDistribution: without a cluster, the hints are made from where the Pods run.
#[tokio::test(flavor = "multi_thread")]
async fn traffic_distribution_prefers_the_same_zone_and_the_same_node() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let node = |name: &str, zone: &str| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    };
    // a runs here, b on another node of the same zone, c in another zone.
    let moved = |name: &str, last: u8, node: &str| {
        let pod = pod_manifest(name, "web", net.ip(last));
        (pod.clone(), pod.replace("nodeName: here", &format!("nodeName: {node}")))
    };
    let (b, c) = (moved("b", 3, "near"), moved("c", 4, "far"));
    let manifests = manifests.replace(&b.0, &b.1).replace(&c.0, &c.1);
    let nodes = node("here", "z1") + &node("near", "z1") + &node("far", "z2");
    let services = ["PreferClose", "PreferSameZone", "PreferSameNode"]
        .map(|how| service_manifest(&how.to_lowercase(), "web", &format!("trafficDistribution: {how}, ")))
        .concat();
    let bed = Bed::start(net, &(nodes + &manifests + &services)).await;
    assert_eq!(hits(bed.cluster_addr("preferclose"), MANY).await, ["a", "b"]);
    assert_eq!(hits(bed.cluster_addr("prefersamezone"), MANY).await, ["a", "b"]);
    assert_eq!(hits(bed.cluster_addr("prefersamenode"), MANY).await, ["a"]);
}

/// "should implement service.kubernetes.io/service-proxy-name" and ".../headless", both ways.
#[tokio::test(flavor = "multi_thread")]
async fn labels_that_hand_a_service_to_another_proxy_are_obeyed() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let service = service_manifest("web", "web", "");
    let bed = Bed::start(net, &manifests).await;
    bed.apply("service.yaml", &service).await;
    let addr = bed.cluster_addr("web");
    hit(addr).await.unwrap();
    for label in ["service.kubernetes.io/service-proxy-name: other", "service.kubernetes.io/headless: \"\""] {
        bed.apply(
            "service.yaml",
            &service.replace("metadata: {name: web}", &format!("metadata: {{name: web, labels: {{{label}}}}}")),
        )
        .await;
        assert!(refused(addr).await, "{label}");
        bed.apply("service.yaml", &service).await;
        hit(addr).await.unwrap();
    }
}

/// "should be able to change the type from ExternalName to ClusterIP" and back, and headless: DNS only.
#[tokio::test(flavor = "multi_thread")]
async fn headless_and_external_name_services_are_not_proxied() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start(net, &(manifests + &service_manifest("headless", "web", "clusterIP: None, "))).await;
    assert!(bed.snapshot().table.listening().next().is_none());
    bed.apply("s.yaml", &service_manifest("web", "web", "")).await;
    let addr = bed.cluster_addr("web");
    hit(addr).await.unwrap();
    bed.apply(
        "s.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: ExternalName, externalName: example.com}\n",
    )
    .await;
    assert!(refused(addr).await);
    bed.apply("s.yaml", &service_manifest("web", "web", "")).await;
    hit(bed.cluster_addr("web")).await.unwrap();
}

/// "should be updated after adding or deleting ports"; a port that is not the Service's is refused.
#[tokio::test(flavor = "multi_thread")]
async fn ports_come_and_go_and_unknown_ones_are_refused() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let service = |ports: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{selector: {{app: web}}, ports: [{ports}]}}\n"
        )
    };
    let (one, two) = ("{name: p, port: 80, targetPort: 8080}", "{name: q, port: 81, targetPort: 8080}");
    let bed = Bed::start(net, &manifests).await;
    bed.apply("s.yaml", &service(one)).await;
    let ip = bed.cluster_addr("web").ip();
    assert!(refused(SocketAddr::new(ip, 81)).await);
    bed.apply("s.yaml", &service(&format!("{one}, {two}"))).await;
    hit(SocketAddr::new(ip, 81)).await.unwrap();
    bed.apply("s.yaml", &service(two)).await;
    hit(SocketAddr::new(ip, 81)).await.unwrap();
    assert!(refused(SocketAddr::new(ip, 80)).await);
}

/// "should be able to up and down services".
#[tokio::test(flavor = "multi_thread")]
async fn two_services_with_one_selector_come_and_go_alone() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start(net, &(manifests + &service_manifest("one", "web", ""))).await;
    bed.apply("two.yaml", &service_manifest("two", "web", "")).await;
    let (one, two) = (bed.cluster_addr("one"), bed.cluster_addr("two"));
    assert_eq!(
        (hits(one, MANY).await, hits(two, MANY).await),
        (vec!["a".into(), "b".into(), "c".into()], vec!["a".to_owned(), "b".into(), "c".into()])
    );
    bed.remove("two.yaml").await;
    assert!(refused(two).await);
    hit(one).await.unwrap();
}

// --- a pod that cannot be reached, a pod that leaves ---

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_never_seen_while_another_lives() {
    let net = Net::next();
    let _pod = http_pod("b", net.ip(3)).await;
    let manifests = pod_manifest("dead", "web", net.ip(2))
        + &pod_manifest("b", "web", net.ip(3))
        + &service_manifest("web", "web", "");
    let bed = Bed::start(net, &manifests).await;
    assert_eq!(hits(bed.cluster_addr("web"), MANY).await, ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn established_connections_outlive_their_endpoint_their_service_and_any_change() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start(net, "").await;
    bed.apply("pods.yaml", &manifests).await;
    bed.apply("service.yaml", &service_manifest("web", "web", "")).await;
    let addr = bed.cluster_addr("web");
    let mut client = Client::connect(addr).await;
    let pod = client.get("x", "/").await.pod().unwrap();
    let others: String =
        manifests.split_inclusive("---\n").filter(|doc| !doc.contains(&format!("name: {pod},"))).collect();
    bed.apply("pods.yaml", &others).await;
    assert_eq!(client.get("x", "/").await.pod().unwrap(), pod);
    assert!(!hits(addr, 16).await.contains(&pod));
    bed.remove("service.yaml").await;
    assert!(refused(addr).await);
    assert_eq!(client.get("x", "/").await.pod().unwrap(), pod);
}

/// "Conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP service".
#[tokio::test(flavor = "multi_thread")]
async fn udp_flows_leave_a_vanished_endpoint() {
    let net = Net::next();
    let _a = start_pod("a", [Listen::Udp(SocketAddr::new(net.ip(2), 8080))]).await;
    let _b = start_pod("b", [Listen::Udp(SocketAddr::new(net.ip(3), 8080))]).await;
    let service = service_manifest("dns", "web", "").replace("port: 80,", "port: 80, protocol: UDP,");
    let bed = Bed::start(net, &service).await;
    bed.apply("pods.yaml", &pod_manifest("a", "web", net.ip(2))).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(bed.cluster_addr("dns")).await.unwrap();
    assert_eq!(ask(&socket).await, "You've hit a\n");
    assert_eq!(ask(&socket).await, "You've hit a\n", "one flow, one endpoint");
    bed.apply("pods.yaml", &pod_manifest("b", "web", net.ip(3))).await;
    assert_eq!(ask(&socket).await, "You've hit b\n");
}

/// Asks until an answer comes: datagrams may be lost while things change.
async fn ask(socket: &tokio::net::UdpSocket) -> String {
    let mut buffer = [0; 99];
    let begun = std::time::Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "no answer");
        // A refusal that was on its way may be reported here; ask again.
        if socket.send(b"hi").await.is_err() {
            continue;
        }
        if let Ok(Ok(length)) =
            tokio::time::timeout(std::time::Duration::from_millis(200), socket.recv(&mut buffer)).await
        {
            return String::from_utf8_lossy(&buffer[..length]).into_owned();
        }
    }
}

// --- session affinity ---

/// "should have session affinity work for service with type clusterIP", NodePort and LoadBalancer: shared by all addresses of the port.
#[tokio::test(flavor = "multi_thread")]
async fn client_ip_affinity_holds_over_all_addresses_of_a_port() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start(
        net,
        &(manifests + &service_manifest("web", "web", "type: LoadBalancer, sessionAffinity: ClientIP, ")),
    )
    .await;
    let node_port = SocketAddr::new(net.ip(1), bed.snapshot().services[0].ports[0].node_port.unwrap());
    let mut seen = Vec::new();
    for addr in [bed.cluster_addr("web"), bed.load_balancer_addr("web"), node_port] {
        seen.extend(hits(addr, 15).await);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
    // Other clients are other choices.
    let mut pods = Vec::new();
    for last in 10..40 {
        let mut client = Client::from(IpAddr::from([127, 200, 1, last]), bed.cluster_addr("web")).await.unwrap();
        pods.push(client.get("x", "/").await.pod().unwrap());
    }
    pods.sort_unstable();
    pods.dedup();
    assert_eq!(pods, ["a", "b", "c"]);
}

/// The scope of affinity is one port: a client may have one pod on one port of a Service and another on the next.
#[tokio::test(flavor = "multi_thread")]
async fn client_ip_affinity_is_each_ports_own() {
    let net = Net::next();
    let mut pods = Vec::new();
    let mut manifests = String::new();
    for (last, name) in (2..).zip(["a", "b", "c"]) {
        pods.push(start_pod(name, [8080, 8081].map(|port| Listen::Http(SocketAddr::new(net.ip(last), port)))).await);
        manifests += &pod_manifest(name, "web", net.ip(last));
    }
    let ports = "ports: [{name: p, port: 80, targetPort: 8080}, {name: q, port: 81, targetPort: 8081}]";
    let service = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{sessionAffinity: ClientIP, selector: {{app: web}}, {ports}}}\n"
    );
    let bed = Bed::start(net, &(manifests + &service)).await;
    let ip = bed.cluster_addr("web").ip();
    let mut apart = 0;
    for last in 10..40 {
        let mut seen = Vec::new();
        for port in [80, 81, 80, 81] {
            let mut client = Client::from([127, 200, 2, last].into(), SocketAddr::new(ip, port)).await.unwrap();
            seen.push(client.get("x", "/").await.pod().unwrap());
        }
        assert_eq!(seen[..2], seen[2..], "each port is sticky");
        apart += usize::from(seen[0] != seen[1]);
    }
    assert!(apart > 0, "30 clients, and every one of them on one pod for both ports");
}

/// "should have session affinity timeout work for service with type clusterIP": after an idle timeout another pod may be hit.
#[tokio::test(flavor = "multi_thread")]
async fn client_ip_affinity_ends_after_the_timeout_without_a_new_connection() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let affinity = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}, ";
    let bed = Bed::start(net, &(manifests + &service_manifest("web", "web", affinity))).await;
    let addr = bed.cluster_addr("web");
    let mut pods = Vec::new();
    for _ in 0..12 {
        pods.push(hit(addr).await.unwrap());
        // The rule is about time that passes, so here a test must let it pass.
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    }
    pods.sort_unstable();
    pods.dedup();
    assert!(pods.len() > 1, "twelve sessions, and always {pods:?}");
}

/// "should be able to switch session affinity for service with type clusterIP".
#[tokio::test(flavor = "multi_thread")]
async fn session_affinity_can_be_switched_on_a_live_service() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let (none, client_ip) =
        (service_manifest("web", "web", ""), service_manifest("web", "web", "sessionAffinity: ClientIP, "));
    let bed = Bed::start(net, &manifests).await;
    bed.apply("s.yaml", &none).await;
    let addr = bed.cluster_addr("web");
    assert_eq!(hits(addr, MANY).await.len(), 3);
    bed.apply("s.yaml", &client_ip).await;
    let before = hits(addr, 15).await;
    assert_eq!(before.len(), 1);
    // A change of something else keeps the session.
    bed.apply("other.yaml", &service_manifest("other", "web", "")).await;
    assert_eq!(hits(addr, 15).await, before);
    bed.apply("s.yaml", &none).await;
    assert_eq!(hits(addr, MANY).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn affinity_is_chosen_again_when_its_endpoint_leaves_and_does_not_go_back() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start(net, &service_manifest("web", "web", "sessionAffinity: ClientIP, ")).await;
    bed.apply("pods.yaml", &manifests).await;
    let addr = bed.cluster_addr("web");
    let first = hit(addr).await.unwrap();
    let others: String =
        manifests.split_inclusive("---\n").filter(|doc| !doc.contains(&format!("name: {first},"))).collect();
    bed.apply("pods.yaml", &others).await;
    let second = hits(addr, 15).await;
    assert!(second.len() == 1 && second[0] != first);
    bed.apply("pods.yaml", &manifests).await;
    assert_eq!(hits(addr, 15).await, second);
}

// --- traffic policies ---

/// "should respect internalTrafficPolicy=Local"; without a local endpoint the ClusterIP does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn internal_traffic_policy_local_keeps_to_this_node() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let elsewhere = manifests.replace("nodeName: here", "nodeName: there");
    let mixed = manifests.replace(
        &pod_manifest("c", "web", net.ip(4)),
        &pod_manifest("c", "web", net.ip(4)).replace("nodeName: here", "nodeName: there"),
    );
    let bed = Bed::start(net, &service_manifest("web", "web", "type: NodePort, internalTrafficPolicy: Local, ")).await;
    bed.apply("pods.yaml", &mixed).await;
    let node_port = SocketAddr::new(net.ip(1), bed.snapshot().services[0].ports[0].node_port.unwrap());
    assert_eq!(hits(bed.cluster_addr("web"), MANY).await, ["a", "b"]);
    assert_eq!(hits(node_port, MANY).await, ["a", "b", "c"], "it governs ClusterIPs only");
    bed.apply("pods.yaml", &elsewhere).await;
    assert!(refused(bed.cluster_addr("web")).await);
    hit(node_port).await.unwrap();
}

/// "ESIPP should only target nodes with endpoints", and the node itself still reaches all of the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn external_traffic_policy_local_keeps_strangers_to_this_node() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let mixed = manifests.replace(
        &pod_manifest("c", "web", net.ip(4)),
        &pod_manifest("c", "web", net.ip(4)).replace("nodeName: here", "nodeName: there"),
    );
    let elsewhere = manifests.replace("nodeName: here", "nodeName: there");
    let bed =
        Bed::start(net, &service_manifest("web", "web", "type: LoadBalancer, externalTrafficPolicy: Local, ")).await;
    bed.apply("pods.yaml", &mixed).await;
    let node_port = SocketAddr::new(net.ip(1), bed.snapshot().services[0].ports[0].node_port.unwrap());
    for addr in [node_port, bed.load_balancer_addr("web")] {
        let (mut strangers, mut own) = (Vec::new(), Vec::new());
        for _ in 0..MANY {
            strangers.push(Client::from(STRANGER.into(), addr).await.unwrap().get("x", "/").await.pod().unwrap());
            own.push(Client::from(net.ip(1), addr).await.unwrap().get("x", "/").await.pod().unwrap());
        }
        for pods in [&mut strangers, &mut own] {
            pods.sort_unstable();
            pods.dedup();
        }
        assert_eq!((strangers.join(""), own.join("")), ("ab".to_owned(), "abc".to_owned()), "{addr}");
    }
    bed.apply("pods.yaml", &elsewhere).await;
    assert!(!answered(STRANGER, node_port).await, "no local endpoint: turned away");
    assert!(Client::from(net.ip(1), node_port).await.unwrap().get("x", "/").await.pod().is_some());
}

/// "LoadBalancers should only allow access from service loadbalancer source ranges".
#[tokio::test(flavor = "multi_thread")]
async fn source_ranges_guard_the_load_balancer_ip() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let bed = Bed::start(
        net,
        &(manifests
            + &service_manifest(
                "web",
                "web",
                "type: LoadBalancer, loadBalancerSourceRanges: [\"127.200.0.0/24\", \" 127.201.0.0/16\"], ",
            )),
    )
    .await;
    let addr = bed.load_balancer_addr("web");
    for (source, allowed) in [([127, 200, 0, 9], true), ([127, 201, 7, 7], true), ([127, 202, 0, 1], false)] {
        assert_eq!(answered(source, addr).await, allowed, "{source:?}");
    }
    assert!(
        Client::from([127, 202, 0, 1].into(), bed.cluster_addr("web"))
            .await
            .unwrap()
            .get("x", "/")
            .await
            .pod()
            .is_some()
    );
}

// --- options of our own ---

#[tokio::test(flavor = "multi_thread")]
async fn weights_and_turns_are_annotations_of_the_service() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let annotated = |name: &str, annotations: &str| {
        service_manifest(name, "web", "")
            .replace(&format!("{{name: {name}}}"), &format!("{{name: {name}, annotations: {{{annotations}}}}}"))
    };
    let turns = annotated("turns", "tidegate.io/balance: round-robin");
    let weighted = annotated("weighted", "tidegate.io/balance: weighted, tidegate.io/weights: \"a=3, b=0\"");
    let least = annotated("least", "tidegate.io/balance: least-in-flight");
    let bed = Bed::start(net, &(manifests + &turns + &weighted + &least)).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(hit(bed.cluster_addr("turns")).await.unwrap());
    }
    assert_eq!(seen[..3], seen[3..]);
    assert_eq!(hits(bed.cluster_addr("weighted"), MANY).await, ["a", "c"]);
    // Connections that stay open push new ones to the others.
    let mut open = Vec::new();
    let mut pods = Vec::new();
    for _ in 0..30 {
        let mut client = Client::connect(bed.cluster_addr("least")).await;
        pods.push(client.get("x", "/").await.pod().unwrap());
        open.push(client);
    }
    for pod in ["a", "b", "c"] {
        let share = pods.iter().filter(|p| *p == pod).count();
        assert!((6..=14).contains(&share), "{pod} has {share} of 30");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_protocol_is_sent_and_accepted_where_asked_for() {
    let net = Net::next();
    let mut options = tidegate::pod::PodOptions::new("a", [Listen::Http(SocketAddr::new(net.ip(2), 8080))]);
    options.proxy_protocol = true;
    let _pod = tidegate::pod::Pod::start(options).await.unwrap();
    let annotations = "annotations: {tidegate.io/proxy-protocol: v2, tidegate.io/accept-proxy-protocol: \"true\"}";
    let service = service_manifest("web", "web", "").replace("{name: web}", &format!("{{name: web, {annotations}}}"));
    let bed = Bed::start(net, &(pod_manifest("a", "web", net.ip(2)) + &service)).await;
    let mut client = Client::connect(bed.cluster_addr("web")).await;
    let answer =
        client.ask("PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(answer.header("x-peer"), Some("203.0.113.7:4711"));
    let mut client = Client::connect(bed.cluster_addr("web")).await;
    client.ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect_err("a client without the header is turned away");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_cannot_be_bound_is_reported_and_the_rest_runs() {
    let net = Net::next();
    let (_pods, manifests) = three(net).await;
    let taken = std::net::TcpListener::bind((net.ip(80), 80)).unwrap();
    let services = service_manifest("taken", "web", &format!("clusterIP: \"{}\", ", net.ip(80)))
        + &service_manifest("foreign", "web", "clusterIP: 192.0.2.7, ")
        + &service_manifest("fine", "web", "");
    let bed = Bed::start(net, &(manifests + &services)).await;
    hit(bed.cluster_addr("fine")).await.unwrap();
    let failed: Vec<String> =
        bed.app.status().failed().iter().map(|failed| format!("{} {}", failed.service, failed.message)).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(bed.app.status().failed().iter().all(|failed| !failed.fix.is_empty()));
    drop(taken);
    let begun = std::time::Instant::now();
    while hit(bed.cluster_addr("taken")).await.is_err() {
        assert!(begun.elapsed() < PATIENCE, "the port is free and is not tried again");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

// --- health check node ports ---

/// Asks on the health check node port of the only Service.
async fn health(bed: &Bed, path: &str) -> Response {
    let port = bed.snapshot().health_checks[0].port;
    Client::connect(SocketAddr::new(bed.net.ip(1), port)).await.get("x", path).await
}

/// "should fail health check node port if there are only terminating endpoints".
#[tokio::test(flavor = "multi_thread")]
async fn health_checks_fail_once_all_local_pods_terminate_while_they_still_serve() {
    let net = Net::next();
    let _pods = [http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await];
    let here = |ip, more: &str| endpoint(ip, &format!(", nodeName: here{more}"));
    let draining = ", conditions: {ready: false, serving: true, terminating: true}";
    let service = selectorless("web", "type: LoadBalancer, externalTrafficPolicy: Local, ");
    let bed = Bed::start(net, &service).await;
    assert_eq!(health(&bed, "/").await.status, 503, "no endpoint at all");

    let both = [here(net.ip(2), ""), here(net.ip(3), draining)].join(", ");
    bed.apply("slice.yaml", &slice("web-1", "web", "", 8080, &both)).await;
    for path in ["/", "/healthz", "/any/path?at=all"] {
        let response = health(&bed, path).await;
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("x-load-balancing-endpoint-weight"), Some("1"));
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        let service = serde_json::json!({"namespace": "default", "name": "web"});
        let expected = serde_json::json!({"service": service, "localEndpoints": 1, "serviceProxyHealthy": true});
        assert_eq!(body, expected);
    }

    let ending = [here(net.ip(2), draining), here(net.ip(3), draining)].join(", ");
    bed.apply("slice.yaml", &slice("web-1", "web", "", 8080, &ending)).await;
    let response = health(&bed, "/").await;
    assert_eq!((response.status, response.header("x-load-balancing-endpoint-weight")), (503, Some("0")));
    assert!(answered(STRANGER, bed.load_balancer_addr("web")).await, "they serve to the end");

    let remote = endpoint(net.ip(2), ", nodeName: there");
    bed.apply("slice.yaml", &slice("web-1", "web", "", 8080, &remote)).await;
    assert_eq!(health(&bed, "/").await.status, 503, "a pod elsewhere");

    bed.apply("slice.yaml", &slice("web-1", "web", "", 8080, &both)).await;
    assert_eq!(health(&bed, "/").await.status, 200);
    let port = bed.snapshot().health_checks[0].port;
    assert!(bed.app.listening().contains(&format!("{}:{port}  Service default/web (health check)", net.ip(1))));
    bed.app.drain(std::time::Duration::from_millis(1)).await;
    let response = health(&bed, "/").await;
    assert_eq!(response.status, 503, "the node wants no more clients");
    assert!(response.text().contains("\"serviceProxyHealthy\":false"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_port_that_is_taken_is_reported_and_tried_again_and_one_without_service_closes() {
    let net = Net::next();
    let _pod = http_pod("a", net.ip(2)).await;
    let taken = std::net::TcpListener::bind((net.ip(1), 30_003)).unwrap();
    let more = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30003, ";
    let bed = Bed::start(net, &pod_manifest("a", "web", net.ip(2))).await;
    bed.apply("web.yaml", &service_manifest("web", "web", more)).await;
    let failed = bed.app.status().failed();
    assert_eq!(
        failed.iter().map(|failed| (failed.frontend.port, &*failed.service)).collect::<Vec<_>>(),
        [(30_003, "default/web")]
    );
    assert!(failed[0].fix.contains("another program"), "{failed:?}");
    assert!(bed.app.listening().contains("failed     "));
    hit(bed.load_balancer_addr("web")).await.unwrap();
    drop(taken);
    let begun = std::time::Instant::now();
    while !bed.app.status().failed().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "the port is free and is not tried again");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(health(&bed, "/").await.status, 200);
    bed.remove("web.yaml").await;
    assert!(refused(SocketAddr::new(net.ip(1), 30_003)).await);
}
