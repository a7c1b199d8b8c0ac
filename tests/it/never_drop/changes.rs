//! The configuration changes: routes, Services, certificates, pods.

use std::{io, net::SocketAddr, sync::Arc};

use tidegate::app::Options;
use tidegate_l4::{
    endpoints::{EndpointIndex, EndpointState},
    model::{IpFamily, TrafficPolicy},
};
use tidegate_tests::{
    Bed, Client, Net, PATIENCE, h2,
    load::{Load, Traffic},
    pod_manifest,
    tls::{self, HTTP1, HTTP2, Made},
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    time::{Duration, Instant, sleep},
};

use super::{
    CLIENTS, SOME, until,
    world::{HOST, HOSTS, Streams, World, other_service, over_http},
};

/// Nobody notices: what lasts is neither cut nor asked to go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_changes_of_the_configuration() {
    let world = World::start(4).await;
    let bed = start(&world, 2..6).await;
    let mut traffic = world.traffic(bed.app.http(), https(&bed), Streams::Lasting);
    traffic.push((Traffic::Flow { same_pod: true }, world.udp().into()));
    let load = Load::start(traffic, CLIENTS).await;
    for change in 0..200 {
        match change % 3 {
            0 => bed.apply("main.yaml", &world.changed(change + 1)).await,
            1 => bed.apply("other.yaml", &other_service(change)).await,
            _ => bed.apply("other.yaml", "").await,
        };
    }
    load.progress(SOME).await;
    load.assert_nobody_reconnected();
    println!("{}", load.end().await);
}

async fn start(world: &World, pods: impl IntoIterator<Item = u8>) -> Bed {
    let bed = Bed::start(world.net, &world.manifests()).await;
    bed.apply("pods.yaml", &world.pod_manifests(pods)).await;
    assert_eq!(bed.findings(), [""; 0]);
    bed
}

fn https(bed: &Bed) -> SocketAddr {
    bed.app.https().expect("the bed serves HTTPS")
}

/// From the moment that a new certificate is live it is shown to every new client; whoever is connected already stays, on the
/// certificate that it has seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_changes_of_the_certificate() {
    let mut world = World::start(2).await;
    let bed = start(&world, [2, 3]).await;
    let shown = async |alpn| {
        let stream = tls::connect(https(&bed), HOST, alpn).await.expect("a handshake");
        stream.get_ref().1.peer_certificates().expect("the server has one")[0].clone()
    };
    assert_eq!(shown(HTTP1).await, world.certificate.der);
    let mut idle = Client::new(tls::connect(https(&bed), HOST, HTTP1).await.expect("a handshake"));
    assert_eq!(idle.get(HOST, "/").await.status, 200);
    let load = Load::start(world.traffic(bed.app.http(), https(&bed), Streams::Lasting), CLIENTS).await;
    for change in 0..20 {
        world.certificate = Made::new(&HOSTS);
        bed.apply("main.yaml", &world.changed(change)).await;
        // Both workers are likely to be asked.
        for alpn in [HTTP1, HTTP2, HTTP1, HTTP2] {
            assert_eq!(shown(alpn).await, world.certificate.der, "change {change}");
        }
        load.progress(SOME / 8).await;
    }
    load.assert_nobody_reconnected();
    assert_eq!(idle.get(HOST, "/").await.status, 200);
    println!("{}", load.end().await);
}

/// Pods leave as Kubernetes lets them: no longer ready, then, when nobody is served by them any more, gone.
///
/// Not for UDP: a flow whose pod is not ready any more is ended at once, as kube-proxy does it, and an answer that is on its way
/// at this moment is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_up_and_down() {
    let mut world = World::start(2).await;
    let bed = start(&world, [2, 3]).await;
    let load = Load::start(world.traffic(bed.app.http(), https(&bed), Streams::Short), CLIENTS).await;
    for last in 4..10 {
        world.add_pod(last).await;
        bed.apply("pods.yaml", &world.pod_manifests(last - 2..=last)).await;
        load.progress(SOME / 4).await;
        let leaving = world.pod_addrs(last - 2).map(|addr| state(&bed, addr));
        let in_flight = || leaving.iter().map(|state| state.in_flight()).sum::<u32>();
        let manifest = world.pod_manifests([last - 2]).replace("status: \"True\"", "status: \"False\"");
        bed.apply("pods.yaml", &(manifest + &world.pod_manifests(last - 1..=last))).await;
        let begun = Instant::now();
        while in_flight() > 0 {
            assert!(begun.elapsed() < PATIENCE, "{} connections stay with the pod that leaves", in_flight());
            sleep(Duration::from_millis(1)).await;
        }
        world.end_oldest_pod().await;
        bed.apply("pods.yaml", &world.pod_manifests(last - 1..=last)).await;
        load.progress(SOME / 4).await;
    }
    println!("{}", load.end().await);
}

/// Pods that get SIGTERM before anybody knows, as happens with every rolling update: they close their connections in good order
/// and are gone, while requests are on their way to them. Whatever they have not looked at is served by others.
///
/// Not for WebSockets, whose end is their pod's to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_leave_before_anybody_knows() {
    let mut world = World::start(3).await;
    let bed = start(&world, [2, 3, 4]).await;
    let mut traffic = over_http(bed.app.http(), https(&bed), Streams::Short);
    traffic.retain(|(traffic, _)| !matches!(traffic, Traffic::WebSocket { .. } | Traffic::Http2WebSocket { .. }));
    let load = Load::start(traffic, 2 * CLIENTS).await;
    for _ in 0..12 {
        world.restart_oldest_pod().await;
        load.progress(2).await;
    }
    println!("{}", load.end().await);
}

/// A pod says GOAWAY while a request is on its way, and that it has not looked at that one: then even a POST goes to it again,
/// on a new connection (RFC 9113 8.7). gRPC servers end like this, and all their requests are POSTs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_that_a_pods_goaway_has_left_alone_is_sent_again() {
    let net = Net::next();
    let listener = TcpListener::bind(SocketAddr::new(net.ip(2), 9090)).await.expect("the address is free");
    let pod = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await?;
        let answer = [h2::settings(&[]), h2::headers(1, true, &h2::section([(":status", "200")]))].concat();
        h2::read_request(&mut first, 1).await?;
        first.write_all(&answer).await?;
        h2::read_request(&mut first, 3).await?;
        // The last stream that it has looked at is 1.
        first.write_all(&h2::frame(h2::kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await?;
        let (mut second, _) = listener.accept().await?;
        h2::read_request(&mut second, 1).await?;
        second.write_all(&answer).await?;
        Ok::<_, io::Error>((first, second))
    });
    let manifests = "---\napiVersion: v1\nkind: Service\nmetadata: {name: leaves}\n\
                     spec: {selector: {app: leaves}, ports: [{port: 80, targetPort: 9090}]}\n\
                     ---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: leaves, annotations: \
                     {nginx.ingress.kubernetes.io/backend-protocol: GRPC}}\nspec: {rules: [{host: grpc.example.com, http: \
                     {paths: [{path: /, pathType: Prefix, backend: {service: {name: leaves, port: {number: 80}}}}]}}]}\n";
    let one = |options: &mut Options| options.workers = 1;
    let bed = Bed::start_with(net, &(pod_manifest("leaves", "leaves", net.ip(2)) + manifests), one).await;
    let mut client = Client::connect(bed.app.http()).await;
    for n in 1..=2 {
        let answer = client.ask("POST /a HTTP/1.1\r\nHost: grpc.example.com\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(answer.expect("an answer").status, 200, "request {n}");
    }
    pod.await.expect("the pod does not panic").expect("both requests came");
}

/// What has begun at a pod stays there, even when the pod has left the manifests: only it can end that. New requests go
/// elsewhere at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_websockets_outlive_the_place_of_their_pod() {
    let world = World::start(2).await;
    let bed = start(&world, [2]).await;
    let load = Load::start(world.traffic(bed.app.http(), https(&bed), Streams::Lasting), CLIENTS).await;
    let old = world.pod_addrs(2).map(|addr| state(&bed, addr));
    let in_flight = || [&old[1], &old[2]].map(|state| state.in_flight());
    let clients = u32::try_from(CLIENTS).expect("few");
    // gRPC streams, WebSockets: with and without TLS. One that begins only now would begin elsewhere.
    let all = [2 * clients, 4 * clients];
    until(|| in_flight() == all).await;
    bed.apply("pods.yaml", &world.pod_manifests([3])).await;
    load.progress(SOME).await;
    load.assert_nobody_reconnected();
    assert_eq!(in_flight(), all);
    println!("{}", load.end().await);
}

/// The counters of an endpoint, which outlive its place among those that are chosen from.
fn state(bed: &Bed, addr: SocketAddr) -> Arc<EndpointState> {
    let snapshot = bed.snapshot();
    let sets = snapshot.table.ports().map(|port| port.set(IpFamily::V4, TrafficPolicy::Cluster).clone());
    let mut found = sets.flat_map(|set| {
        let positions = 0..set.len();
        positions.filter_map(move |at| {
            let index = EndpointIndex(at);
            (set.endpoint(index).addr == addr).then(|| set.state(index).clone())
        })
    });
    found.next().expect("the endpoint is there")
}
