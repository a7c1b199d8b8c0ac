//! Connections to pods: kept, found stale, given up.

use super::*;

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_thousand_requests_need_one_connection() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        for _ in 0..1_000 {
            client.send(ASK).await;
            assert!(client.answer().await.ends_with("ok"));
        }
        assert_eq!(pod.connections.get(), 1);
        assert_eq!((gateway.stats.upstream_opened.value(), gateway.stats.upstream_reused.value()), (1, 999));
        until("all are counted", || gateway.stats.under_way() == 0).await;
        let rule = gateway.snapshot.routes.find("a", "/").rule.unwrap();
        assert_eq!(rule.stats.by_code().collect::<Vec<_>>(), [(200, 1_000)]);
        assert_eq!(gateway.stats.unmatched.total(), 0);
    });
}

#[test]
fn large_contents_leave_the_connection_usable() {
    const BYTES: usize = 1 << 20;
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while pod.request().await.is_some() {
                let content = pod.wire.read(BYTES).await;
                pod.wire.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n{content}")).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        let content = "x".repeat(BYTES);
        for _ in 0..10 {
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n{content}")).await;
            assert!(client.answer().await.ends_with(&content));
        }
        assert_eq!(pod.connections.get(), 1);
        assert!(gateway.stats.bytes_in.value() > 10 << 20 && gateway.stats.bytes_out.value() > 10 << 20);
    });
}

#[test]
fn a_connection_the_pod_closed_while_idle_is_not_used() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send(OK).await;
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        for method in ["GET", "POST", "PATCH"] {
            client.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).await;
            assert!(client.answer().await.ends_with("ok"), "{method}");
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(pod.connections.get(), 3);
    });
}

/// The pod closes while the request is on its way: no proxy can see that beforehand.
#[test]
fn a_request_that_meets_a_closing_connection_is_sent_again_if_it_may_be() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send(OK).await;
            // The second request of the first connection is read and never answered.
            if pod.request().await.is_some() && pod.number > 0 {
                pod.wire.send(OK).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        for _ in 0..2 {
            client.send(ASK).await;
            assert!(client.answer().await.ends_with("ok"));
        }
        assert_eq!((pod.connections.get(), gateway.stats.upstream_resent.value()), (2, 1));
    });
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send(OK).await;
            pod.request().await;
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        for status in ["200", "502"] {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
            let answer = client.answer().await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "a POST that was sent is not repeated: {answer}"
            );
        }
        assert_eq!(pod.seen.borrow().len(), 2);
    });
}

/// Requests race against a pod that closes each connection after its second answer without saying so.
#[test]
fn no_get_is_lost_to_pods_that_close_when_they_like() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            for _ in 0..2 {
                if pod.request().await.is_none() {
                    return;
                }
                pod.wire.send(OK).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        for n in 0..300 {
            client.send(ASK).await;
            let answer = client.answer().await;
            assert!(answer.ends_with("ok"), "{n}: {answer}");
        }
    });
}

#[test]
fn a_connection_is_closed_when_the_answer_says_so_or_is_not_read_to_its_end() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while let Some(head) = pod.request().await {
                let answer = if head.starts_with("GET /close") {
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
                } else {
                    "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly the beginning"
                };
                pod.wire.send(answer).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        for n in 1..=2 {
            assert!(gateway.ask("GET /close HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("ok"));
            assert_eq!(pod.connections.get(), n);
        }
        let mut client = gateway.connect().await;
        client.send(ASK).await;
        client.head().await;
        let endpoints = gateway.snapshot.upstreams[0].endpoints.clone();
        let state = endpoints.state(tidegate_l4::endpoints::EndpointIndex(0));
        assert_eq!(state.in_flight(), 1);
        drop(client);
        until("the request is given up", || state.in_flight() == 0).await;
        assert!(gateway.ask("GET /close HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("ok"));
        assert_eq!(pod.connections.get(), 4, "the half-read connection is not used again");
    });
}
