//! The configuration changes: routes, Services, certificates, pods.

use std::{net::SocketAddr, sync::Arc};

use tidegate_l4::{
    endpoints::{EndpointIndex, EndpointState},
    model::{IpFamily, TrafficPolicy},
};
use tidegate_tests::{
    Bed, Client, PATIENCE,
    load::{Load, Traffic},
    tls::{self, HTTP1, HTTP2, Made},
};
use tokio::time::{Duration, Instant, sleep};

use super::{
    CLIENTS, SOME,
    world::{HOST, HOSTS, Streams, World, other_service},
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

/// What has begun at a pod stays there, even when the pod has left the manifests: only it can end that. New requests go
/// elsewhere at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_websockets_outlive_the_place_of_their_pod() {
    let world = World::start(2).await;
    let bed = start(&world, [2]).await;
    let load = Load::start(world.traffic(bed.app.http(), https(&bed), Streams::Lasting), CLIENTS).await;
    let old = world.pod_addrs(2).map(|addr| state(&bed, addr));
    bed.apply("pods.yaml", &world.pod_manifests([3])).await;
    load.progress(SOME).await;
    load.assert_nobody_reconnected();
    let in_flight = old.map(|state| state.in_flight());
    let clients = u32::try_from(CLIENTS).expect("few");
    assert_eq!(in_flight[1..], [2 * clients, 4 * clients], "gRPC streams, WebSockets: with and without TLS");
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
