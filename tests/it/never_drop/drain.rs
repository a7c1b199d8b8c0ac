//! Tidegate is told to end.

use std::net::SocketAddr;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tidegate_tests::{
    Bed, Client, Net, PATIENCE,
    http2::{GrpcStream, Http2Client},
    load::{Load, Traffic},
    tls::{self, HTTP1, HTTP2},
    web_socket::WebSocket,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Duration, Instant, sleep},
};
use tokio_rustls::client::TlsStream;

use super::{
    CLIENTS, SOME,
    node::Node,
    until,
    world::{CHAT, GRPC, HOST, Streams, World, over_http},
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
        assert!(older.log().contains("drained") && !older.log().contains("worker cut"), "{}", older.log());
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

/// Whoever has an HTTP/2 connection is told that it takes no more requests, and what is under way on it is served to its end;
/// then the connection, and with the last one the process, is at its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_client_is_told_while_its_streams_go_on_to_their_end() {
    let world = World::start(1).await;
    let bed = Bed::start(world.net, &(world.manifests() + &world.pod_manifests(2..3))).await;
    let https = bed.app.https().expect("the bed serves HTTPS");
    let plain = TcpStream::connect(bed.app.http()).await.expect("it listens");
    let mut plain = Http2Client::new(plain).await.expect("HTTP/2");
    let mut secure = Http2Client::new(tls::connect(https, GRPC, HTTP2).await.expect("TLS")).await.expect("HTTP/2");
    let mut streams = [plain.stream(GRPC).await, secure.stream(GRPC).await].map(|s| s.expect("a stream").expect("it"));
    let served = async {
        plain.until_told_to_go(GRPC).await.expect("all requests are answered");
        secure.until_told_to_go(GRPC).await.expect("all requests are answered");
        for n in 0..100 {
            for stream in &mut streams {
                stream.echo(&format!("after the goodbye {n}")).await.expect("it goes on");
            }
        }
        let still_served = Instant::now();
        for stream in streams {
            stream.end().await.expect("it ends properly");
        }
        still_served
    };
    let drained = async {
        bed.app.drain(PATIENCE * 2).await;
        Instant::now()
    };
    let both = async { tokio::join!(served, drained) };
    let (still_served, drained) =
        tokio::time::timeout(PATIENCE, both).await.expect("the drain ends with the last stream");
    assert!(still_served < drained);
}

/// How a process comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Sigterm,
    Upgrade,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_sigterm_what_lasts_has_until_the_drain_timeout() {
    what_lasts_has_until_the_drain_timeout(Ending::Sigterm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_an_upgrade_what_lasts_has_until_the_drain_timeout() {
    what_lasts_has_until_the_drain_timeout(Ending::Upgrade).await;
}

/// WebSockets and streams that do not end by themselves go on for exactly as long as `--drain-timeout` says, as
/// `docs/upgrade.md` has it, and are cut then.
async fn what_lasts_has_until_the_drain_timeout(ending: Ending) {
    let world = World::start(1).await;
    let mut node = Node::new(world.net, &(world.manifests() + &world.pod_manifests(2..3)));
    node.drain_seconds = 2;
    let timeout = Duration::from_secs(node.drain_seconds);
    let mut running = node.start(2);
    let mut lasting = Lasting::open(&node).await;
    lasting.each_echoes().await.expect("all is well");
    let begun = Instant::now();
    let successor = match ending {
        Ending::Sigterm => {
            running.terminate();
            until(|| std::net::TcpStream::connect(node.http()).is_err()).await;
            None
        }
        Ending::Upgrade => Some(node.start(2)),
    };
    lasting.each_echoes().await.expect("the drain has begun, and they go on");
    for ended in lasting.until_each_ends().await {
        assert!(ended - begun >= timeout, "{:?} after {ending:?}, one was cut", ended - begun);
    }
    assert_eq!(running.ended().code(), Some(0), "{}", running.log());
    assert!(running.log().contains("cut what had not ended in time"), "{}", running.log());
    if successor.is_some() {
        Lasting::open(&node).await.each_echoes().await.expect("the newer process serves them");
    }
}

/// One of each that does not end by itself.
struct Lasting {
    plain: WebSocket<TcpStream>,
    secure: WebSocket<TlsStream<TcpStream>>,
    on_http2: WebSocket<TokioIo<Upgraded>>,
    grpc: GrpcStream,
    /// They end with their connections.
    _clients: [Http2Client; 2],
}

impl Lasting {
    async fn open(node: &Node) -> Self {
        let plain = TcpStream::connect(node.http()).await.expect("it listens");
        let secure = tls::connect(node.https(), CHAT, HTTP1).await.expect("TLS");
        let second = TcpStream::connect(node.http()).await.expect("it listens");
        let mut second = Http2Client::new(second).await.expect("HTTP/2");
        let third = tls::connect(node.https(), GRPC, HTTP2).await.expect("TLS");
        let mut third = Http2Client::new(third).await.expect("HTTP/2");
        Self {
            plain: WebSocket::open(plain, CHAT).await.expect("a WebSocket"),
            secure: WebSocket::open(secure, CHAT).await.expect("a WebSocket"),
            on_http2: second.web_socket(CHAT).await.expect("a WebSocket").expect("it takes requests"),
            grpc: third.stream(GRPC).await.expect("a stream").expect("it takes requests"),
            _clients: [second, third],
        }
    }

    async fn each_echoes(&mut self) -> Result<(), String> {
        self.plain.echo("plain").await.map_err(|error| error.to_string())?;
        self.secure.echo("secure").await.map_err(|error| error.to_string())?;
        self.on_http2.echo("on HTTP/2").await.map_err(|error| error.to_string())?;
        self.grpc.echo("gRPC").await
    }

    /// They talk on; when each was cut.
    async fn until_each_ends(self) -> [Instant; 4] {
        let Self { mut plain, mut secure, mut on_http2, mut grpc, .. } = self;
        let ends = tokio::time::timeout(PATIENCE, async {
            tokio::join!(
                end_of(async || plain.echo("plain").await.is_ok()),
                end_of(async || secure.echo("secure").await.is_ok()),
                end_of(async || on_http2.echo("on HTTP/2").await.is_ok()),
                end_of(async || grpc.echo("gRPC").await.is_ok()),
            )
        });
        ends.await.expect("they are cut in the end").into()
    }
}

/// When it is not served any more.
async fn end_of(mut is_served: impl AsyncFnMut() -> bool) -> Instant {
    while is_served().await {
        sleep(Duration::from_millis(5)).await;
    }
    Instant::now()
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

/// Whoever is served while Tidegate drains is served by the pods of now: those of when the drain began may be gone, as where a node is
/// emptied of everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_follows_the_pods() {
    let mut world = World::start(2).await;
    let bed = Bed::start(world.net, &world.manifests()).await;
    bed.apply("pods.yaml", &world.pod_manifests([2, 3])).await;
    let mut client = Client::connect(bed.app.http()).await;
    assert_eq!(client.get(HOST, "/").await.status, 200);
    let drained = async {
        bed.app.drain(PATIENCE).await;
    };
    let asked = async {
        until(|| std::net::TcpStream::connect(bed.app.http()).is_err()).await;
        bed.apply("pods.yaml", &world.pod_manifests([3])).await;
        world.end_oldest_pod().await;
        let content = "POST / HTTP/1.1\r\nHost: web.example.com\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(client.ask(content).await.expect("an answer").pod().as_deref(), Some("pod-3"));
    };
    tokio::join!(drained, asked);
}
