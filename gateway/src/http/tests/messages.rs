//! What a pod sees of a request, and a client of an answer.

use super::*;

#[test]
fn a_pod_sees_who_asked_and_no_field_of_the_connection() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        gateway
            .ask(
                "GET /a%20b?c HTTP/1.1\r\nHost: a.b:81\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\
                 Upgrade: websocket\r\nTE: trailers, gzip\r\nProxy: evil\r\nX_Real_IP: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\
                 X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\nX-Request-ID: abc-1\r\n\
                 Forwarded: for=6.6.6.6\r\nUser-Agent: me\r\n\r\n",
            )
            .await;
        let head = pod.last_seen();
        assert!(head.starts_with("GET /a%20b?c HTTP/1.1\r\n"), "{head}");
        for (name, value) in [
            ("host", Some("a.b:81")),
            ("x-forwarded-for", Some("127.0.0.1")),
            ("x-original-forwarded-for", Some("6.6.6.6, 7.7.7.7")),
            ("x-real-ip", Some("127.0.0.1")),
            ("x-forwarded-host", Some("a.b:81")),
            ("x-original-forwarded-host", None),
            ("x-forwarded-port", Some(&*gateway.addr.port().to_string())),
            ("x-forwarded-proto", Some("http")),
            ("x-forwarded-scheme", Some("http")),
            ("x-scheme", Some("http")),
            ("x-request-id", Some("abc-1")),
            ("user-agent", Some("me")),
            ("te", Some("trailers")),
            ("connection", Some("te")),
            ("x-hop", None),
            ("keep-alive", None),
            ("upgrade", None),
            ("proxy", None),
            ("x_real_ip", None),
            ("forwarded", None),
        ] {
            assert_eq!(field(&head, name), value, "{name} in {head}");
        }
        gateway.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: <script>\r\n\r\n").await;
        let id = pod.last_seen();
        let id = field(&id, "x-request-id").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    });
}

#[test]
fn a_client_sees_the_pods_fields_and_none_of_its_connection() {
    run(async {
        let pod = Pod::answering(
            "HTTP/1.1 201 Made\r\nServer: pod/1\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-A: 1\r\nX-A: 2\r\n\
             Set-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        assert!(answer.contains("x-a: 1\r\nx-a: 2\r\n"), "{answer}");
        assert_eq!(field(&answer, "server"), Some("pod/1"));
        assert_eq!(field(&answer, "set-cookie"), Some("a=b"));
        assert!(field(&answer, "date").is_some());
        for name in ["x-hop", "keep-alive", "connection"] {
            assert_eq!(field(&answer, name), None, "{name} in {answer}");
        }
    });
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while pod.request().await.is_some() {
                let content = pod.wire.read_until("\r\n0\r\nx-sum: 7\r\n\r\n").await;
                assert!(content.contains("hello"), "{content}");
                pod.wire
                    .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n3\r\nabc\r\n0\r\nX-End: 9\r\n\r\n")
                    .await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        for method in ["POST", "GET"] {
            let mut client = gateway.connect().await;
            client
                .send(&format!(
                    "{method} / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                     5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n"
                ))
                .await;
            let head = client.head().await;
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
            assert_eq!(client.read_until("0\r\nx-end: 9\r\n\r\n").await, "3\r\nabc\r\n0\r\nx-end: 9\r\n\r\n");
        }
        assert_eq!(pod.connections.get(), 1);
    });
}

#[test]
fn http_1_0_clients_get_what_they_understand() {
    run(async {
        let chunked =
            Pod::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
        let sized = Pod::answering(OK).await;
        let gateway =
            Gateway::start(&[Route::to("sized", [sized.addr]), Route::to("chunked", [chunked.addr]).path("/chunked")]);
        let mut client = gateway.connect().await;
        client.send("GET /chunked HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let (answer, properly) = client.rest().await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nabc") && properly, "{answer}");
        assert_eq!((field(&answer, "transfer-encoding"), field(&answer, "connection")), (None, None), "{answer}");
        assert!(chunked.last_seen().starts_with("GET /chunked HTTP/1.1\r\n"));
        assert!(chunked.last_seen().contains("\r\nhost: \r\n"), "{}", chunked.last_seen());

        let mut client = gateway.connect().await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
            let answer = client.answer().await;
            assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
            assert_eq!(field(&answer, "connection"), Some("keep-alive"));
        }
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        assert!(client.rest().await.0.ends_with("ok"), "without keep-alive the connection ends");
    });
}

#[test]
fn answers_without_content_leave_the_connections_usable() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while let Some(head) = pod.request().await {
                let answer = match head.split(' ').next().unwrap() {
                    "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                    "DELETE" => "HTTP/1.1 204 No Content\r\n\r\n",
                    "OPTIONS" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                    _ => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
                };
                pod.wire.send(answer).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        for _ in 0..2 {
            for (request, status, length) in [
                ("HEAD /", "200", Some("1000")),
                ("DELETE /", "204", None),
                ("GET /", "304", None),
                ("OPTIONS *", "200", Some("0")),
            ] {
                client.send(&format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                let head = client.head().await;
                assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
                assert_eq!(field(&head, "content-length"), length, "{request}: {head}");
            }
        }
        assert_eq!(pod.connections.get(), 1);
    });
}

#[test]
fn what_no_pod_should_see_is_refused() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "400"),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
            ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501"),
            ("GET / HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n", "400"),
        ] {
            let answer = gateway.ask(request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        }
        let mut client = gateway.connect().await;
        client.send("NONSENSE\r\n\r\n").await;
        assert_eq!(client.rest().await.0, "", "what is no HTTP at all gets no answer in HTTP");
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40 << 10));
        assert!(gateway.ask(&long).await.starts_with("HTTP/1.1 431 "));
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(101));
        assert!(gateway.ask(&many).await.starts_with("HTTP/1.1 431 "));
        assert!(pod.seen.borrow().is_empty(), "{:?}", pod.seen.borrow());
    });
}

#[test]
fn of_two_lengths_none_counts_and_the_connection_ends() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut client = gateway.connect().await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                 GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
            )
            .await;
        let (answer, _) = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.matches("HTTP/1.1").count() == 1, "{answer}");
        assert!(pod.seen.borrow().is_empty());
    });
}

#[test]
fn an_expectation_is_the_pods_to_grant() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while let Some(head) = pod.request().await {
                assert_eq!(field(&head, "expect"), Some("100-continue"));
                if head.starts_with("PUT /no") {
                    pod.wire.send("HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n").await;
                    return;
                }
                if head.starts_with("PUT /yes") {
                    pod.wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                assert_eq!(pod.wire.read(5).await, "hello");
                pod.wire.send(OK).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        for path in ["/yes", "/silent"] {
            let mut client = gateway.connect().await;
            client
                .send(&format!("PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"))
                .await;
            assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
            client.send("hello").await;
            assert!(client.answer().await.ends_with("ok"));
        }
        let mut client = gateway.connect().await;
        client.send("PUT /no HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
        let (answer, _) = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 417 "), "no 100 comes first: {answer}");
    });
}
