//! Pods and clients that misbehave.

use super::*;
use crate::{
    http::Kind,
    route::policy::{BackendProtocol, Transport},
};

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn impatient() -> Policy {
    let gap = Duration::from_millis(150);
    Policy { timeouts: Timeouts { send: gap, read: gap, ..Timeouts::default() }, ..Policy::default() }
}

#[test]
fn no_pod_can_be_reached_is_502() {
    run(async {
        let gateway = Gateway::start(&[Route::to("kubia", [nobody(), nobody()])]);
        let answer = gateway.ask(ASK).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(answer.ends_with("502: a pod of default/kubia:80 could not be reached\n"), "{answer}");
        assert_eq!(gateway.failures(Kind::Connect), 1);
    });
}

#[test]
fn answers_that_are_not_http_are_502() {
    run(async {
        for bad in [
            "nonsense\r\n\r\n",
            "",
            "HTTP/1.1 200 OK\r\nContent-Le",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ] {
            let pod = Pod::start(move |mut pod| async move {
                pod.request().await;
                pod.wire.send(bad).await;
            })
            .await;
            let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
            let answer = gateway.ask(ASK).await;
            assert!(answer.starts_with("HTTP/1.1 502 "), "{bad:?}: {answer}");
            assert!(answer.ends_with("a pod of default/kubia:80 gave no proper answer\n"), "{answer}");
            assert_eq!(gateway.failures(Kind::BadAnswer), 1);
        }
    });
}

#[test]
fn silence_is_504_but_slowness_is_not() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while let Some(head) = pod.request().await {
                if head.starts_with("GET /silent") {
                    sleep(PATIENCE).await;
                }
                pod.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await;
                for _ in 0..4 {
                    sleep(Duration::from_millis(80)).await;
                    pod.wire.send("ab").await;
                }
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr]).policy(impatient())]);
        for _ in 0..2 {
            assert!(gateway.ask(ASK).await.ends_with("abababab"));
        }
        let answer = gateway.ask("GET /silent HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("did not answer in time"), "{answer}");
    });
}

#[test]
fn a_broken_off_answer_does_not_end_properly_for_the_client() {
    run(async {
        for (head, version) in [
            ("Content-Length: 100\r\n\r\nabc", "HTTP/1.1"),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "HTTP/1.1"),
            ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "HTTP/1.0"),
        ] {
            for silent in [false, true] {
                let pod = Pod::start(move |mut pod| async move {
                    pod.request().await;
                    pod.wire.send(&format!("HTTP/1.1 200 OK\r\n{head}")).await;
                    sleep(if silent { PATIENCE } else { Duration::from_millis(30) }).await;
                })
                .await;
                let gateway = Gateway::start(&[Route::to("kubia", [pod.addr]).policy(impatient())]);
                let mut client = gateway.connect().await;
                client.send(&format!("GET / {version}\r\nHost: a\r\n\r\n")).await;
                let head = client.head().await;
                assert!(head.contains(" 200 OK\r\n"), "{head}");
                let mut bytes = Vec::new();
                let ended = client.stream.read_to_end(&mut bytes).await;
                let text = String::from_utf8(bytes).unwrap();
                assert!(!text.contains("0\r\n\r\n"), "{text}");
                assert!(
                    version == "HTTP/1.1" || ended.is_err(),
                    "the end of the connection would be the end of the answer"
                );
                let kind = if silent { Kind::Timeout } else { Kind::Truncated };
                assert_eq!(gateway.failures(kind), 1);
            }
        }
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    run(async {
        let left = Rc::new(Cell::new(0));
        let counter = left.clone();
        let pod = Pod::start(move |mut pod| {
            let counter = counter.clone();
            async move {
                pod.request().await;
                let (_, _) = pod.wire.rest().await;
                counter.set(counter.get() + 1);
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        for (n, request) in [
            ASK,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ]
        .into_iter()
        .enumerate()
        {
            let mut client = gateway.connect().await;
            client.send(request).await;
            until("the pod sees the request", || pod.seen.borrow().len() == n + 1).await;
            sleep(Duration::from_millis(20)).await;
            drop(client);
            until("the pod sees the end", || left.get() == n + 1).await;
        }
        until("all are counted", || gateway.failures(Kind::ClientGone) == 3).await;
        let rule = gateway.snapshot.routes.find("a", "/").rule.unwrap();
        assert_eq!(rule.stats.by_code().collect::<Vec<_>>(), [(499, 3)]);
        until("nothing is left", || gateway.worker.connections() == 0 && gateway.stats.under_way() == 0).await;
    });
}

#[test]
fn a_client_that_sends_nonsense_or_stops_sending_is_to_blame() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            let (_, _) = pod.wire.rest().await;
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr]).policy(impatient())]);
        for (content, status) in [("xyz\r\n", "400"), ("5\r\nabc", "408")] {
            let answer = gateway
                .ask(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{content}"))
                .await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{content:?}: {answer}");
            assert_eq!(field(&answer, "connection"), Some("close"));
        }
    });
}

#[test]
fn a_client_that_does_not_send_a_head_or_take_its_answer_is_closed() {
    run(async {
        let pod =
            Pod::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", 32 << 20, "x".repeat(32 << 20)));
        let pod = pod.await;
        let limits = HttpLimits {
            request_head: Duration::from_millis(200),
            client_stall: Duration::from_millis(200),
            ..HttpLimits::default()
        };
        let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], limits);
        let mut idle = gateway.connect().await;
        let mut slow = gateway.connect().await;
        slow.send("GET / HTTP/1.1\r\nHo").await;
        let mut deaf = gateway.connect().await;
        deaf.send(ASK).await;
        until("all three are accepted", || gateway.stats.accepted.value() == 3).await;
        until("all three are closed", || gateway.worker.connections() == 0).await;
        assert_eq!(idle.rest().await.0, "");
        assert_eq!(slow.rest().await.0, "");
    });
}

#[test]
fn at_the_limit_clients_wait() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway =
            Gateway::with(&[Route::to("kubia", [pod.addr])], HttpLimits { connections: 2, ..HttpLimits::default() });
        let (first, _second) = (gateway.connect().await, gateway.connect().await);
        until("both are accepted", || gateway.worker.connections() == 2).await;
        let mut third = gateway.connect().await;
        third.send(ASK).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(gateway.worker.connections(), 2);
        drop(first);
        assert!(third.answer().await.ends_with("ok"));
    });
}

/// A pod that speaks HTTP/2, and takes requests without reading or answering them.
async fn unreading_h2_pod() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
                sleep(PATIENCE).await;
                drop(request);
                Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let builder = hyper::server::conn::http2::Builder::new(crate::http::local::LocalExec);
            spawn_local(builder.serve_connection(io, service));
        }
    });
    addr
}

/// What a client does with a large upload whose answer came early.
#[derive(Clone, Copy, Debug)]
enum Goes {
    /// Sends on as fast as it can.
    OnAtOnce,
    /// Sends on a little at a time.
    OnSlowly,
    /// Stops, and keeps the connection.
    Nowhere,
}

#[test]
fn an_upload_that_the_pod_does_not_read_ends_its_connection_soon_after_the_answer() {
    const BYTES: usize = 32 << 20;
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            sleep(PATIENCE).await;
        })
        .await;
        let h2_pod = unreading_h2_pod().await;
        let h2 = Transport { protocol: BackendProtocol::Http2, ..Transport::default() };
        let routes = || {
            let policy = || Policy { body_limit: None, ..impatient() };
            [
                Route::to("kubia", [pod.addr]).policy(policy()),
                Route::to("h2", [h2_pod]).path("/h2").policy(Policy { transport: h2.clone(), ..policy() }),
            ]
        };
        let all = [Goes::OnAtOnce, Goes::OnSlowly, Goes::Nowhere].map(|goes| [(goes, 4 << 20), (goes, usize::MAX)]);
        let all = all.into_iter().flatten().flat_map(|(goes, bytes)| [(goes, bytes, "/"), (goes, bytes, "/h2")]);
        for (goes, linger_bytes, path) in all {
            let limits = HttpLimits { linger: Duration::from_millis(500), linger_bytes, ..HttpLimits::default() };
            let gateway = Gateway::with(&routes(), limits);
            let client = gateway.connect().await;
            let (read, mut write) = client.stream.into_split();
            let upload = spawn_local(async move {
                let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n");
                write.write_all(head.as_bytes()).await.unwrap();
                let content = vec![b'x'; BYTES];
                let mut at = 0;
                // Until nothing more is taken for a while, because the pod does not.
                while let Ok(Ok(n)) = timeout(Duration::from_millis(100), write.write(&content[at..])).await {
                    at += n;
                }
                match goes {
                    Goes::OnAtOnce => drop(write.write_all(&content[at..]).await),
                    Goes::OnSlowly => {
                        while write.write_all(&content[at..at + 100]).await.is_ok() {
                            at += 100;
                            sleep(Duration::from_millis(20)).await;
                        }
                    }
                    Goes::Nowhere => sleep(PATIENCE).await,
                }
                drop(write);
            });
            let mut answer = String::new();
            let mut read = tokio::io::BufReader::new(read);
            while !answer.ends_with("did not answer in time\n") {
                let line = tokio::io::AsyncBufReadExt::read_line(&mut read, &mut answer);
                assert!(timeout(PATIENCE, line).await.unwrap().unwrap() > 0, "{goes:?}: {answer}");
            }
            assert!(answer.starts_with("HTTP/1.1 504 ") && field(&answer, "connection") == Some("close"), "{answer}");
            // An idle connection would be kept for much longer.
            until("the connection is closed", || gateway.worker.connections() == 0).await;
            upload.abort();
        }
    });
}
