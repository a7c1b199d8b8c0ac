//! Connections that another plane accepted.

use tidegate_l4::{
    limits::Limits,
    model::{ProxyProtocol, ServicePortName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::*;

/// A client, the side of it that was accepted elsewhere, and its address.
async fn accepted() -> (TcpStream, TcpStream, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    (client, stream, peer)
}

#[test]
fn it_goes_to_an_endpoint_with_what_was_read_first() {
    run(async {
        let proxy = Proxy::start(service(&[pod("a").await, pod("b").await]));
        let name = proxy.port().config.name.clone();
        for expected in ["a", "b", "a"] {
            let (mut client, stream, peer) = accepted().await;
            proxy.worker.carry(stream, peer, &name, b"hello, ".to_vec());
            client.write_all(b"world\n").await.unwrap();
            assert_eq!(line(&mut client).await.unwrap(), expected);
            assert_eq!(line(&mut client).await.unwrap(), "hello, world");
            assert_eq!(proxy.worker.connections(), 1);
            drop(client);
            proxy.quiet().await;
        }
        let stats = proxy.stats();
        assert_eq!((stats.sum(|s| &s.accepted), stats.sum(|s| &s.closed), stats.sum(|s| &s.bytes_in)), (3, 3, 3 * 13));
    });
}

#[test]
fn the_service_may_ask_for_a_proxy_header_and_gives_none() {
    run(async {
        let pod = Manual::start().await;
        let mut config = service(&[pod.addr()]);
        config.connection.send_proxy_protocol = Some(ProxyProtocol::V1);
        config.connection.accept_proxy_protocol = true;
        let proxy = Proxy::start(config);
        let (mut client, stream, peer) = accepted().await;
        let local = stream.local_addr().unwrap();
        proxy.worker.carry(stream, peer, &proxy.port().config.name, b"hello".to_vec());
        client.shutdown().await.unwrap();
        let mut heard = String::new();
        pod.accept().await.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", peer.port(), local.port()));
    });
}

#[test]
fn without_a_service_an_endpoint_or_room_it_is_reset() {
    run(async {
        let proxy = Proxy::start(service(&[]));
        let name = proxy.port().config.name.clone();
        let unknown = ServicePortName { service: "gone".into(), ..name.clone() };
        for name in [&name, &unknown] {
            let (mut client, stream, peer) = accepted().await;
            proxy.worker.carry(stream, peer, name, Vec::new());
            assert_reset(client.read_u8().await);
        }
        assert_eq!(proxy.stats().sum(|s| &s.refused), 1);
        let full = Proxy::with_limits(service(&[pod("a").await]), Limits { max_connections: 1, ..Limits::default() });
        let (_held, _) = full.greeted().await;
        let (mut client, stream, peer) = accepted().await;
        full.worker.carry(stream, peer, &name, Vec::new());
        assert_reset(client.read_u8().await);
        full.worker.cut();
    });
}
