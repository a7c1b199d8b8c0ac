//! Tidegate is told to end.

use std::net::SocketAddr;

use tidegate_tests::{
    Bed, Client, Net, PATIENCE,
    load::{Load, Traffic},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    CLIENTS, SOME,
    node::Node,
    until,
    world::{HOST, Streams, World, over_http},
};

/// As Kubernetes updates a Deployment: the new instance is ready, new connections go to it, and then the old one is told to
/// end. What goes through the old one meanwhile is finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_updates_behind_a_load_balancer() {
    let world = World::start(3).await;
    let manifests = |net: Net| world.manifests().replace(&world.net.ip(70).to_string(), &net.ip(70).to_string());
    let nodes = [Net::next(), Net::next()].map(|net| Node::new(net, &(manifests(net) + &world.pod_manifests(2..5))));
    let tcp = |node: &Node| SocketAddr::new(node.net.ip(70), 80);
    let mut running = nodes[0].start(2);
    let http = Switch::start(nodes[0].http()).await;
    let https = Switch::start(nodes[0].https()).await;
    let connections = Switch::start(tcp(&nodes[0])).await;
    let mut traffic = over_http(http.addr, https.addr, Streams::Short);
    traffic.push((Traffic::Connection, connections.addr.into()));
    let load = Load::start(traffic, CLIENTS).await;
    for n in 1..5 {
        let node = &nodes[n % 2];
        let newer = node.start(2);
        http.target.send_replace(node.http());
        https.target.send_replace(node.https());
        connections.target.send_replace(tcp(node));
        load.progress(SOME / 4).await;
        let mut older = std::mem::replace(&mut running, newer);
        older.terminate();
        load.progress(SOME).await;
        assert_eq!(older.ended().code(), Some(0), "{}", older.log());
        assert!(older.log().contains("drained"), "{}", older.log());
    }
    println!("{}", load.end().await);
}

/// A load balancer for connections, as small as can be.
struct Switch {
    addr: SocketAddr,
    /// Where new connections go.
    target: watch::Sender<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Switch {
    async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let (target, targets) = watch::channel(target);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let target = *targets.borrow();
                connections.spawn(async move {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        drop(copy_bidirectional(&mut client, &mut server).await);
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, target, _tasks: tasks }
    }
}

/// A keep-alive client that pauses sees its connection closed a moment after the drain began, and not at once; and whoever
/// asks again within that moment is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_client_is_told_before_its_connection_is_closed() {
    let world = World::start(1).await;
    let bed = Bed::start(world.net, &(world.manifests() + &world.pod_manifests(2..3))).await;
    let mut client = Client::connect(bed.app.http()).await;
    assert_eq!(client.get(HOST, "/").await.status, 200);
    let drained = async {
        bed.app.drain(PATIENCE).await;
    };
    let asked = async {
        until(|| std::net::TcpStream::connect(bed.app.http()).is_err()).await;
        let last = client.get(HOST, "/").await;
        assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    };
    tokio::join!(drained, asked);
}
