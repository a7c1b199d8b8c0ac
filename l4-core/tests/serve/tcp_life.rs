//! How connections end, and what never ends them.

use std::{io::Write, net::TcpStream as StdStream, time::Duration};

use tidegate_l4::{
    limits::Limits,
    listen::{Socket, Sockets},
    worker::L4Worker,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{spawn_local, yield_now},
};

use crate::support::*;

/// Connects without letting the worker run, so that the connection waits in the backlog.
fn waiting_client(proxy: &Proxy) -> TcpStream {
    let client = StdStream::connect(proxy.addr()).unwrap();
    client.set_nonblocking(true).unwrap();
    TcpStream::from_std(client).unwrap()
}

#[test]
fn an_idle_connection_is_reset_where_a_timeout_is_set() {
    run(async {
        let mut config = service(&[pod("a").await]);
        config.connection.idle_timeout = Some(Duration::from_millis(50));
        let proxy = Proxy::start(config);
        let (mut client, _) = proxy.greeted().await;
        assert_reset(client.read_u8().await);
        proxy.quiet().await;
    });
}

#[test]
fn changes_and_closing_leave_established_connections_alone() {
    run(async {
        let proxy = Proxy::start(service(&[pod("old").await]));
        let (mut client, _) = proxy.greeted().await;
        let new = pod("new").await;
        proxy.publish_endpoints(|endpoints| *endpoints = vec![endpoint(new)]);
        assert_eq!(proxy.greeted().await.1, "new");
        proxy.publish_endpoints(|endpoints| endpoints.clear());
        proxy.worker.close(&proxy.frontend);
        until(|| StdStream::connect(proxy.addr()).is_err()).await;
        client.write_all(b"still here\n").await.unwrap();
        assert_eq!(line(&mut client).await.unwrap(), "still here");
        drop(client);
        proxy.quiet().await;
    });
}

#[test]
fn closing_serves_who_already_waits() {
    run(async {
        let proxy = Proxy::start(service(&[pod("a").await]));
        let mut clients = [waiting_client(&proxy), waiting_client(&proxy)];
        proxy.worker.close(&proxy.frontend);
        for client in &mut clients {
            assert_eq!(line(client).await.unwrap(), "a");
        }
        assert!(StdStream::connect(proxy.addr()).is_err());
    });
}

#[test]
fn a_closed_frontend_can_be_opened_again_and_on_several_sockets() {
    run(async {
        let proxy = Proxy::start(service(&[pod("a").await]));
        let again = || tidegate_l4::listen::bind_tcp(proxy.addr(), 1).map(|mut all| Socket::Tcp(all.remove(0)));
        proxy.worker.close(&proxy.frontend);
        until(|| again().is_ok()).await;
        proxy.worker.open(proxy.frontend, again().unwrap()).unwrap();
        assert_eq!(proxy.greeted().await.1, "a");
        let other = tidegate_l4::listen::bind_tcp("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let addr = other.local_addr().unwrap();
        proxy.worker.open(proxy.frontend, Socket::Tcp(other)).unwrap();
        assert_eq!(line(&mut TcpStream::connect(addr).await.unwrap()).await.unwrap(), "a");
        proxy.worker.close(&proxy.frontend);
        until(|| [addr, proxy.addr()].iter().all(|addr| StdStream::connect(addr).is_err())).await;
    });
}

#[test]
fn workers_share_a_frontend() {
    run(async {
        let proxy = Proxy::start(service(&[pod("a").await]));
        proxy.worker.close(&proxy.frontend);
        let mut sockets = Sockets::new(2);
        let mut opened = Vec::new();
        until(|| std::net::TcpListener::bind(proxy.addr()).is_ok()).await;
        while opened.is_empty() {
            opened = sockets.reconcile([proxy.frontend].into_iter()).opened;
        }
        let workers = opened.remove(0).sockets.into_iter().map(|socket| {
            let worker = L4Worker::new(Limits::default(), proxy.table());
            worker.open(proxy.frontend, socket).unwrap();
            worker
        });
        let workers: Vec<_> = workers.collect();
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(proxy.greeted().await);
        }
        let connections: Vec<_> = workers.iter().map(L4Worker::connections).collect();
        assert!(connections.iter().sum::<usize>() == 64 && connections.iter().all(|n| *n > 0), "{connections:?}");
    });
}

#[test]
fn draining_waits_for_connections_to_end() {
    run(async {
        let proxy = Proxy::start(service(&[pod("a").await]));
        let (mut client, _) = proxy.greeted().await;
        let mut late = waiting_client(&proxy);
        let worker = proxy.worker.clone();
        let drained = spawn_local(async move { worker.drain(Duration::from_secs(3_600)).await });
        assert_eq!(line(&mut late).await.unwrap(), "a");
        client.write_all(b"bye\n").await.unwrap();
        assert_eq!(line(&mut client).await.unwrap(), "bye");
        assert!(!drained.is_finished());
        drop((client, late));
        drained.await.unwrap();
        assert_eq!(proxy.worker.connections(), 0);
    });
}

#[test]
fn draining_cuts_what_does_not_end() {
    run(async {
        let pod = Manual::start().await;
        let proxy = Proxy::start(service(&[pod.addr()]));
        let (mut client, mut upstream) = (proxy.connect().await, pod.accept().await);
        proxy.worker.drain(Duration::from_millis(20)).await;
        assert_eq!(proxy.worker.connections(), 0);
        assert_reset(client.read_u8().await);
        assert_reset(upstream.read_u8().await);
        assert_eq!(proxy.stats().active(), 0);
    });
}

#[test]
fn the_cut_is_at_once_even_while_connecting() {
    run(async {
        let mut config = service(&[pod("a").await]);
        config.connection.accept_proxy_protocol = true;
        let proxy = Proxy::start(config);
        let mut client = proxy.connect().await;
        until(|| proxy.worker.connections() == 1).await;
        proxy.worker.cut();
        assert_reset(client.read_u8().await);
        until(|| StdStream::connect(proxy.addr()).is_err()).await;
        assert_eq!(proxy.worker.connections(), 0);
    });
}

#[test]
fn beyond_the_limit_clients_wait_their_turn() {
    run(async {
        let config = service(&[pod("a").await]);
        let proxy = Proxy::with_limits(config, Limits { max_connections: 2, ..Limits::default() });
        let first = [proxy.greeted().await.0, proxy.greeted().await.0];
        let mut third = StdStream::connect(proxy.addr()).unwrap();
        third.write_all(b"patient\n").unwrap();
        third.set_nonblocking(true).unwrap();
        let mut third = TcpStream::from_std(third).unwrap();
        for _ in 0..100 {
            yield_now().await;
            assert_eq!(proxy.worker.connections(), 2);
        }
        drop(first);
        assert_eq!(line(&mut third).await.unwrap(), "a");
        assert_eq!(line(&mut third).await.unwrap(), "patient");
    });
}
