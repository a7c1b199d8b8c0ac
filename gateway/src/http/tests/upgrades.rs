//! Connections that change their protocol.

use super::*;
use crate::http::ConnectionKind;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX-A: 1\r\n\r\n";

/// A pod that switches protocols, greets, and echoes until the client ends.
async fn echo() -> Pod {
    Pod::start(|mut pod| async move {
        pod.request().await;
        pod.wire.send(&format!("{SWITCH}hello")).await;
        let mut bytes = vec![0; 64 << 10];
        while let Ok(n @ 1..) = pod.wire.stream.read(&mut bytes).await {
            pod.wire.stream.write_all(&bytes[..n]).await.unwrap();
        }
    })
    .await
}

#[test]
fn bytes_flow_both_ways_after_101_and_the_early_ones_are_not_lost() {
    run(async {
        let pod = echo().await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        client.send(&format!("{ASK}early")).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 101 ") && field(&head, "x-a") == Some("1"), "{head}");
        assert_eq!((field(&head, "upgrade"), field(&head, "connection")), (Some("websocket"), Some("upgrade")));
        assert_eq!(client.read(10).await, "helloearly");
        let seen = pod.last_seen();
        assert_eq!(
            (field(&seen, "upgrade"), field(&seen, "connection")),
            (Some("websocket"), Some("upgrade")),
            "{seen}"
        );
        let big = "x".repeat(1 << 20);
        let (mut read, mut write) = client.stream.split();
        let mut back = vec![0; big.len()];
        let (sent, received) = tokio::join!(write.write_all(big.as_bytes()), read.read_exact(&mut back));
        sent.unwrap();
        assert_eq!((received.unwrap(), back.iter().all(|b| *b == b'x')), (1 << 20, true));
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await, (String::new(), true), "the end reaches the pod, and comes back");
        until("it is over", || gateway.worker.connections() == 0 && gateway.stats.under_way() == 0).await;
        assert_eq!(gateway.stats.connections_of(ConnectionKind::Upgraded).0, 1);
        let rule = gateway.snapshot.routes.find("a", "/").rule.unwrap();
        assert_eq!(rule.stats.by_code().collect::<Vec<_>>(), [(101, 1)]);
    });
}

#[test]
fn a_pod_may_decline_and_the_connection_lives_on() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        for _ in 0..2 {
            client.send(ASK).await;
            assert!(client.answer().await.ends_with("ok"));
        }
        assert_eq!(pod.connections.get(), 1);
    });
}

#[test]
fn what_is_no_proper_wish_is_no_wish() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n",
        ] {
            gateway.ask(request).await;
            let seen = pod.last_seen();
            assert_eq!((field(&seen, "upgrade"), field(&seen, "connection")), (None, None), "{request}: {seen}");
            assert_eq!(field(&seen, "http2-settings"), None);
        }
    });
}

#[test]
fn a_tunnel_without_a_byte_is_closed_in_time_and_draining_leaves_it_until_the_end() {
    run(async {
        let pod = echo().await;
        let gap = Duration::from_millis(150);
        let timeouts = Timeouts { read: gap, ..Timeouts::default() };
        let gateway =
            Gateway::start(&[Route::to("kubia", [pod.addr]).policy(Policy { timeouts, ..Policy::default() })]);
        let mut client = gateway.connect().await;
        client.send(ASK).await;
        client.head().await;
        client.read(5).await;
        for _ in 0..4 {
            sleep(gap / 2).await;
            client.send("x").await;
            client.read(1).await;
        }
        client.rest().await;

        let pod = echo().await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        client.send(ASK).await;
        client.head().await;
        client.read(5).await;
        let worker = gateway.worker.clone();
        let drained = spawn_local(async move { worker.drain(Duration::from_millis(300)).await });
        until("it drains", || gateway.worker.is_draining()).await;
        client.send("still here").await;
        assert_eq!(client.read(10).await, "still here");
        client.rest().await;
        drained.await.unwrap();
    });
}
