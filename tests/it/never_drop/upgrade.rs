//! A new binary takes the place of the old one.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
};

use rustls::HandshakeKind;
use tidegate::takeover::{
    client,
    message::{self, Message},
};
use tidegate_tests::{
    Client,
    load::Load,
    process::Process,
    tls::{HTTP1, Sessions},
};
use tokio::net::TcpStream;

use super::{
    CLIENTS, SOME,
    node::Node,
    until,
    world::{HOST, World, other_service},
};

/// Clients whose pod only affinity knows: by their addresses alone, most of them would have another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_ip_affinity_survives_an_upgrade() {
    let world = World::start(4).await;
    let sticky = SocketAddr::new(world.net.ip(72), 80);
    let slice = |name: &str, addr: SocketAddr, pods: &[u8]| {
        let endpoints: Vec<String> =
            pods.iter().map(|pod| format!("{{addresses: [\"{}\"]}}", world.net.ip(*pod))).collect();
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {}, sessionAffinity: ClientIP, \
             ports: [{{port: 80, targetPort: 8080}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
             ports: [{{name: \"\", port: 8080}}]\nendpoints: [{}]\n",
            addr.ip(),
            endpoints.join(", ")
        )
    };
    let node = Node::new(world.net, &slice("sticky", sticky, &[2]));
    let mut older = node.start(2);
    let hit = async |last: u8| {
        let mut client = Client::from(world.net.ip(last), sticky).await.expect("it connects");
        client.get("sticky", "/").await.pod().expect("a pod answers")
    };
    for client in 200..216 {
        assert_eq!(hit(client).await, "pod-2");
    }
    // As many as there are addresses come too early on a busy machine, and would all be given the one pod.
    let sign = SocketAddr::new(world.net.ip(73), 80);
    node.manifests.write("main.yaml", &(slice("sticky", sticky, &[2, 3, 4, 5]) + &slice("sign", sign, &[2])));
    until(|| std::net::TcpStream::connect(sign).is_ok()).await;
    // Others are spread: the change is live.
    let mut newcomer = 216;
    while hit(newcomer).await == "pod-2" {
        newcomer += 1;
    }
    let _newer = node.start(1);
    assert_eq!(older.ended().code(), Some(0), "{}", older.log());
    for client in 200..216 {
        assert_eq!(hit(client).await, "pod-2", "{client}");
    }
}

/// The binary is upgraded in place three times, and the number of workers changes with it: from two to one, so that a worker
/// has several sockets, from one to two, so that there are too few, and back to one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_in_place() {
    let world = World::start(3).await;
    let node = Node::new(world.net, &(world.manifests() + &world.pod_manifests(2..5)));
    let mut running = node.start(2);
    let mode = fs::metadata(node.upgrade_socket()).expect("it waits for a successor").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let load = Load::start(node.traffic(&world), CLIENTS).await;
    load.progress(SOME).await;
    let sessions = Sessions::new(HTTP1);
    assert_eq!(handshake(&sessions, &node).await, HandshakeKind::Full);
    for workers in [1, 2, 1] {
        assert_eq!(handshake(&sessions, &node).await, HandshakeKind::Resumed);
        let newer = node.start(workers);
        let mut older = std::mem::replace(&mut running, newer);
        load.progress(SOME).await;
        assert_eq!(older.ended().code(), Some(0), "{}", older.log());
        load.progress(SOME).await;
        assert!(older.log().contains("the newer process has taken over"), "{}", older.log());
        assert!(!older.log().contains("worker cut"), "{}", older.log());
        assert!(!running.log().contains("WARN"), "{}", running.log());
        // The keys of tickets are handed over.
        assert_eq!(handshake(&sessions, &node).await, HandshakeKind::Resumed);
    }
    // It follows changes, closes what it inherited, and opens again.
    let other = SocketAddr::new(world.net.ip(71), 80);
    for _ in 0..2 {
        node.manifests.write("other.yaml", &other_service_at(other));
        until(|| std::net::TcpStream::connect(other).is_ok()).await;
        node.manifests.write("other.yaml", "");
        until(|| std::net::TcpStream::connect(other).is_err()).await;
    }
    println!("{}", load.end().await);
    running.terminate();
    assert_eq!(running.ended().code(), Some(0));
    assert!(!node.upgrade_socket().exists(), "whoever ends for good leaves nothing behind");
}

/// A Service that listens there as soon as it is live.
fn other_service_at(addr: SocketAddr) -> String {
    other_service(0).replace("spec: {", &format!("spec: {{clusterIP: {}, ", addr.ip()))
}

/// How a client begins that has been here before, if it has.
async fn handshake(sessions: &Sessions, node: &Node) -> HandshakeKind {
    let stream = TcpStream::connect(node.https()).await.expect("it listens");
    let stream = sessions.handshake(stream, HOST).await.expect("a handshake");
    let kind = stream.get_ref().1.handshake_kind().expect("it is over");
    // Tickets come before the answer.
    assert_eq!(Client::new(stream).get(HOST, "/").await.status, 200);
    kind
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_that_fail() {
    let world = World::start(3).await;
    let node = Node::new(world.net, &(world.manifests() + &world.pod_manifests(2..5)));
    let mut running = node.start(2);
    let load = Load::start(node.traffic(&world), CLIENTS).await;
    // Bad flags.
    let mut args = node.args(2);
    args.push("--no-such-flag".to_owned());
    assert_eq!(Process::run_to_its_end(&node.state.0, &args).0.code(), Some(2));
    load.progress(SOME).await;
    // An address that another program has.
    let taken = std::net::TcpListener::bind((node.net.ip(1), 0)).expect("a port");
    let mut args = node.args(2);
    let http = args.iter().position(|arg| arg == "--http").expect("it is there");
    args[http + 1] = taken.local_addr().expect("bound").to_string();
    let (status, log) = Process::run_to_its_end(&node.state.0, &args);
    assert!(status.code() == Some(1) && log.contains("cannot listen on"), "{log}");
    load.progress(SOME).await;
    // Manifests that the running process has read when they were whole.
    node.manifests.write("broken.yaml", "kind: Service\n\tx: [\n");
    let (status, log) = Process::run_to_its_end(&node.state.0, &node.args(2));
    assert!(status.code() == Some(1) && log.contains("the running process goes on"), "{log}");
    fs::remove_file(node.manifests.0.join("broken.yaml")).expect("it is there");
    load.progress(SOME).await;
    // A crash with all sockets in hand.
    let path = node.upgrade_socket();
    let (inherited, predecessor) = client::inherit(&path).expect("it answers").expect("it is there");
    load.progress(SOME).await;
    drop((inherited, predecessor));
    load.progress(SOME).await;
    // Somebody who speaks another version, and somebody who speaks another protocol.
    let mut stranger = std::os::unix::net::UnixStream::connect(&path).expect("it answers");
    let hello = Message::Hello { version: message::VERSION + 1, pid: 1 };
    stranger.write_all(&hello.encode()).expect("it listens");
    let mut answer = Vec::new();
    stranger.read_to_end(&mut answer).expect("it answers and closes");
    assert!(matches!(Message::decode(&answer), Ok(Message::Refused(_))), "{answer:?}");
    let mut stranger = std::os::unix::net::UnixStream::connect(&path).expect("it answers");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("it listens");
    assert!(!matches!(stranger.read_to_end(&mut answer), Ok(1..)), "it closes without a word");
    load.progress(SOME).await;
    // None of this has left a trace: it follows changes, and the next upgrade works.
    let other = SocketAddr::new(world.net.ip(71), 80);
    node.manifests.write("other.yaml", &other_service_at(other));
    until(|| std::net::TcpStream::connect(other).is_ok()).await;
    assert!(running.is_running(), "{}", running.log());
    let newer = node.start(2);
    assert_eq!(running.ended().code(), Some(0), "{}", running.log());
    load.progress(SOME).await;
    println!("{}", load.end().await);
    // A crash leaves a file at which nobody answers: the next process starts as the first one did.
    drop(newer);
    assert!(path.exists());
    let mut fresh = node.start(2);
    let _next = node.start(2);
    assert_eq!(fresh.ended().code(), Some(0), "{}", fresh.log());
}
