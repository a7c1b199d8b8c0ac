//! Nothing that happens to Tidegate or behind it fails a request: clients of every kind send all the while, and not one of
//! them may be refused, reset, left without an answer, or lose a datagram.

mod changes;
mod drain;
mod node;
mod upgrade;
mod world;

use std::{net::SocketAddr, time::Duration};

use tidegate_tests::{
    Net, PATIENCE,
    echo::Echo,
    load::{Load, Target, Traffic},
};
use tokio::time::{Instant, sleep};

use world::{HOST, World};

/// Clients of each kind.
const CLIENTS: usize = 2;

/// What every kind of traffic must do between two events, so that each event happens under load.
const SOME: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_of_the_load_generator_work_by_themselves() {
    let world = World::start(1).await;
    let net: Net = world.net;
    let grpc = Echo::grpc("grpc", SocketAddr::new(net.ip(3), 8080)).await;
    let web_socket = Echo::web_socket(SocketAddr::new(net.ip(4), 8080)).await;
    let pod = SocketAddr::new(net.ip(2), 8080);
    let load = Load::start(
        [
            (Traffic::Http1New { host: HOST }, pod),
            (Traffic::Http1KeepAlive { host: HOST }, pod),
            (Traffic::Connection, pod),
            (Traffic::Flow { same_pod: true }, SocketAddr::new(net.ip(2), 5353)),
            (Traffic::Http2 { host: HOST }, grpc.addr),
            (Traffic::GrpcStream { host: HOST, lasting: false }, grpc.addr),
            (Traffic::WebSocket { host: HOST, lasting: false }, web_socket.addr),
        ],
        1,
    )
    .await;
    let tls = Echo::tls("tls", SocketAddr::new(net.ip(5), 8443)).await;
    let target = Target::tls(tls.addr, HOST);
    let behind_tls = Load::start(
        [
            (Traffic::Http1New { host: HOST }, target),
            (Traffic::Http1KeepAlive { host: HOST }, target),
            (Traffic::Http2 { host: HOST }, target),
            (Traffic::GrpcStream { host: HOST, lasting: true }, target),
        ],
        1,
    )
    .await;
    for load in [load, behind_tls] {
        load.progress(100).await;
        load.assert_nobody_reconnected();
        println!("{}", load.end().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[should_panic(expected = "HTTP/1.1, keep-alive at ")]
async fn the_load_generator_notices_a_connection_that_is_cut() {
    let mut world = World::start(1).await;
    let pod = SocketAddr::new(world.net.ip(2), 8080);
    let load = Load::start([(Traffic::Http1KeepAlive { host: HOST }, pod)], 4).await;
    world.kill_pod();
    load.progress(SOME).await;
}

async fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "it does not come to pass");
        sleep(Duration::from_millis(2)).await;
    }
}
