//! One worker's sockets and flows pass to another, as they do from one process to the next: nobody notices.

use std::{net::Ipv4Addr, time::Duration};

use tidegate_l4::{
    limits::Limits,
    listen::{Opened, Socket, Sockets},
    model::Protocol,
    table::Frontend,
    worker::L4Worker,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
    task::spawn_local,
};

use crate::support::*;

/// A second worker for what the first one serves, with its sockets.
fn heir(proxy: &Proxy) -> L4Worker {
    let heir = L4Worker::new(Limits::default(), proxy.table());
    for Opened { frontend, sockets } in proxy.worker.lend().unwrap() {
        sockets.into_iter().for_each(|socket| heir.open(frontend, socket).unwrap());
    }
    heir
}

#[test]
fn no_connection_is_refused_or_reset_while_listeners_change_hands() {
    run(async {
        let proxy = Proxy::start(service(&[pod("a").await]));
        let (mut old, _) = proxy.greeted().await;
        let mut waiting = TcpStream::connect(proxy.addr()).await.unwrap();
        let heir = heir(&proxy);
        let worker = proxy.worker.clone();
        let drained = spawn_local(async move { worker.drain(Duration::from_secs(3_600)).await });
        assert_eq!(line(&mut waiting).await.unwrap(), "a");
        for _ in 0..32 {
            assert_eq!(proxy.greeted().await.1, "a");
        }
        old.write_all(b"still here\n").await.unwrap();
        assert_eq!(line(&mut old).await.unwrap(), "still here");
        drop((old, waiting));
        drained.await.unwrap();
        assert_eq!(proxy.greeted().await.1, "a");
        assert!(heir.connections() > 0 && proxy.worker.connections() == 0);
    });
}

#[test]
fn flows_pass_with_the_socket_that_their_endpoint_knows() {
    run(async {
        let mut config = service(&[udp_pod("a").await, udp_pod("b").await, udp_pod("c").await]);
        config.name.protocol = Protocol::Udp;
        let proxy = Proxy::start(config);
        let mut clients = Vec::new();
        for _ in 0..6 {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            client.connect(proxy.addr()).await.unwrap();
            let pod = ask(&client, "").await;
            clients.push((client, pod));
        }
        let lent = proxy.worker.lend().unwrap();
        let flows = proxy.worker.give_flows();
        assert_eq!((flows.len(), proxy.worker.flows()), (6, 0));
        assert!(flows.iter().all(|flow| flow.replied && flow.number == 0));
        // Sent while nobody receives.
        for (client, _) in &clients {
            client.send(b"!").await.unwrap();
        }
        let heir = L4Worker::new(Limits::default(), proxy.table());
        for Opened { frontend, sockets } in lent {
            sockets.into_iter().for_each(|socket| heir.open(frontend, socket).unwrap());
        }
        flows.into_iter().for_each(|flow| heir.take_flow(flow));
        let mut buffer = [0; 16];
        for (client, pod) in &clients {
            let n = client.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..n], *format!("{pod}!").as_bytes(), "the datagram that waited reached the same pod");
            assert_eq!(ask(client, "?").await, format!("{pod}?"));
        }
        assert_eq!(heir.flows(), 6);
    });
}

#[test]
fn a_flow_whose_endpoint_left_in_the_meantime_begins_anew() {
    run(async {
        let (a, b) = (udp_pod("a").await, udp_pod("b").await);
        let mut config = service(&[a]);
        config.name.protocol = Protocol::Udp;
        let proxy = Proxy::start(config);
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.connect(proxy.addr()).await.unwrap();
        assert_eq!(ask(&client, "1").await, "a1");
        let lent = proxy.worker.lend().unwrap();
        let flows = proxy.worker.give_flows();
        proxy.publish_endpoints(|endpoints| *endpoints = vec![endpoint(b)]);
        let heir = L4Worker::new(Limits::default(), proxy.table());
        lent.into_iter().for_each(|mut lent| heir.open(lent.frontend, lent.sockets.remove(0)).unwrap());
        flows.into_iter().for_each(|flow| heir.take_flow(flow));
        assert_eq!(heir.flows(), 0);
        assert_eq!(ask(&client, "2").await, "b2");
    });
}

/// From two workers to one, and from one to three: a socket that nobody serves would swallow what the kernel gives it.
#[test]
fn every_inherited_socket_is_used_and_only_tcp_gets_more() {
    let frontend = |protocol| {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Frontend { ip: Ipv4Addr::LOCALHOST.into(), port, protocol }
    };
    for (protocol, before, after, expected) in
        [(Protocol::Tcp, 2, 1, 2), (Protocol::Tcp, 1, 3, 3), (Protocol::Udp, 2, 1, 2), (Protocol::Udp, 1, 3, 1)]
    {
        let frontend = frontend(protocol);
        let sockets = Sockets::new(before).reconcile([frontend].into_iter()).opened.remove(0).sockets;
        let copies = sockets.iter().map(|socket| match socket {
            Socket::Tcp(listener) => Socket::Tcp(listener.try_clone().unwrap()),
            Socket::Udp(socket) => Socket::Udp(socket.try_clone().unwrap()),
        });
        let mut heir = Sockets::new(after).inheriting([(frontend, copies.collect())]);
        let opened = heir.reconcile([frontend].into_iter()).opened;
        assert_eq!(opened[0].sockets.len(), expected, "{protocol} {before} to {after}");
        assert!(heir.reconcile([frontend].into_iter()).opened.is_empty());
    }
}

async fn ask(client: &UdpSocket, question: &str) -> String {
    client.send(question.as_bytes()).await.unwrap();
    let mut answer = [0; 100];
    let n = client.recv(&mut answer).await.unwrap();
    String::from_utf8(answer[..n].to_vec()).unwrap()
}
