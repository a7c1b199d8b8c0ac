//! Idle connections are parked, and nobody notices.

use super::*;

fn quick() -> HttpLimits {
    HttpLimits { park_after: Duration::from_millis(1), ..HttpLimits::default() }
}

#[test]
fn a_parked_connection_serves_on() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], quick());
        let mut client = gateway.connect().await;
        for n in 0..4 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(client.answer().await.ends_with("ok"), "{n}");
            until("it is parked", || gateway.worker.parked() == 1).await;
        }
        assert_eq!(gateway.stats.accepted.value(), 1);
        drop(client);
        until("it is gone", || gateway.worker.connections() == 0).await;
    });
}

#[test]
fn a_head_that_comes_slowly_is_not_lost_to_parking() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], quick());
        let mut client = gateway.connect().await;
        for piece in
            ["GET /slow", "ly HTTP/1.1\r\nHo", "st: a\r\nX-A: ", "1\r\n\r", "\nGET /next HTTP/1.1\r\nHost: a\r\n"]
        {
            client.send(piece).await;
            sleep(Duration::from_millis(300)).await;
        }
        assert!(client.answer().await.ends_with("ok"));
        assert!(pod.seen.borrow()[0].starts_with("GET /slowly HTTP/1.1\r\n"), "{:?}", pod.seen.borrow());
        client.send("\r\n").await;
        assert!(client.answer().await.ends_with("ok"));
        assert!(pod.last_seen().starts_with("GET /next "));
    });
}

#[test]
fn nothing_under_way_is_parked() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while let Some(head) = pod.request().await {
                if head.starts_with("POST") {
                    pod.wire.read(4).await;
                }
                sleep(Duration::from_millis(400)).await;
                pod.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await;
                sleep(Duration::from_millis(400)).await;
                pod.wire.send("cd").await;
            }
        })
        .await;
        let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], quick());
        let mut client = gateway.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab").await;
        sleep(Duration::from_millis(400)).await;
        assert_eq!(gateway.worker.parked(), 0);
        client.send("cd").await;
        client.send("GET /pipelined HTTP/1.1\r\nHost: a\r\n\r\n").await;
        for _ in 0..2 {
            assert!(client.answer().await.ends_with("abcd"));
        }
    });
}

#[test]
fn a_parked_connection_ends_in_its_time_and_when_the_worker_drains() {
    run(async {
        let pod = Pod::answering(OK).await;
        let limits = HttpLimits { request_head: Duration::from_millis(600), ..quick() };
        let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], limits);
        let mut client = gateway.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.answer().await;
        assert_eq!(client.rest().await, (String::new(), true));

        let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], quick());
        let mut client = gateway.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.answer().await;
        until("it is parked", || gateway.worker.parked() == 1).await;
        gateway.worker.drain(PATIENCE).await;
        assert_eq!(client.rest().await, (String::new(), true));
    });
}
