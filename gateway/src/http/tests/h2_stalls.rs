//! HTTP/2 clients that keep us waiting: for room, for a request, for the rest of one.

use super::{
    h2_clients::{
        CANCEL, DATA, END_STREAM, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, hello, large, request, stream,
    },
    *,
};
use crate::http::{Kind, preface::PREFACE};

fn impatient() -> HttpLimits {
    HttpLimits {
        request_head: Duration::from_millis(500),
        client_stall: Duration::from_millis(500),
        linger: Duration::from_millis(250),
        ..HttpLimits::default()
    }
}

#[test]
fn answers_that_nobody_takes_are_given_up_and_so_are_their_pods() {
    run(async {
        let closed = Rc::new(Cell::new(0));
        let pod = Pod::start({
            let closed = closed.clone();
            move |mut pod| {
                let closed = closed.clone();
                async move {
                    pod.request().await;
                    pod.wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
                    // Until the gateway closes.
                    while pod.wire.stream.write_all(&[0; 64 << 10]).await.is_ok() {}
                    closed.set(closed.get() + 1);
                }
            }
        })
        .await;
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], impatient());
        let mut client = gateway.connect().await;
        client.put(&hello(0)).await;
        for n in 0..5 {
            client.put(&request(stream(n), "/", true)).await;
        }
        for _ in 0..5 {
            assert_eq!(client.frame_of(RST_STREAM).await.number(0), CANCEL);
        }
        until("the pods are free", || closed.get() == 5 && gateway.stats.under_way() == 0).await;
        assert_eq!(gateway.failures(Kind::ClientSlow), 5);
        assert!(client.ends().await, "it is idle");
    });
}

#[test]
fn a_stream_that_stalls_beside_others_has_more_time_but_not_for_ever() {
    run(async {
        let slow = large(1 << 20).await;
        // Always at work, a little.
        let busy = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while pod.wire.stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let limits =
            HttpLimits { client_stall: Duration::from_secs(1), h2_stream_stall: Duration::from_secs(3), ..impatient() };
        let routes = [Route::to("slow", [slow.addr]).path("/slow"), Route::to("busy", [busy.addr])];
        let gateway = Gateway::with(&routes, limits);
        let mut client = gateway.connect().await;
        client.put(&[hello(1000), request(1, "/slow", true), request(3, "/busy", true)].concat()).await;
        let begun = std::time::Instant::now();
        let reset = client.frame_of(RST_STREAM).await;
        assert_eq!((reset.stream, reset.number(0)), (1, CANCEL));
        assert!(begun.elapsed() >= Duration::from_millis(2500), "{:?}", begun.elapsed());
        assert_eq!(client.frame_of(DATA).await.stream, 3, "the other goes on");
    });
}

#[test]
fn a_pod_that_is_silent_is_not_the_clients_fault() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await;
            sleep(Duration::from_secs(2)).await;
            pod.wire.send("cd").await;
        })
        .await;
        let limits = HttpLimits { h2_stream_stall: Duration::from_secs(1), ..impatient() };
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], limits);
        let mut client = gateway.connect().await;
        client.put(&[hello(65_535), request(1, "/", true)].concat()).await;
        assert_eq!(client.frame_of(DATA).await.payload, b"ab");
        assert_eq!(client.frame_of(DATA).await.payload, b"cd");
    });
}

#[test]
fn connections_without_requests_end() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], impatient());
        let get = request(1, "/", true);
        let beginnings = [
            ("half a preface", PREFACE[..20].to_vec()),
            ("a preface and no SETTINGS", PREFACE.to_vec()),
            ("SETTINGS and no request", hello(65_535)),
            ("half a HEADERS", [hello(65_535), get[..12].to_vec()].concat()),
            ("HEADERS without an end", [hello(65_535), frame(HEADERS, END_STREAM, 1, &get[9..])].concat()),
            ("one request", [hello(65_535), get.clone()].concat()),
            ("an answer without room", [hello(1), get.clone()].concat()),
            ("a request and half another", [hello(65_535), get.clone(), request(3, "/", true)[..12].to_vec()].concat()),
        ];
        let mut clients = Vec::new();
        for (name, bytes) in beginnings {
            let mut client = gateway.connect().await;
            client.put(&bytes).await;
            clients.push(spawn_local(async move { assert!(client.ends().await, "{name}") }));
        }
        for client in clients {
            client.await.unwrap();
        }
        // Byte by byte, for ever.
        let mut client = gateway.connect().await;
        client.put(&hello(65_535)).await;
        let endless = frame(HEADERS, END_STREAM, 1, &get[9..]);
        let endless = endless.iter().copied().chain([0, 0, 1, 9, 0, 0, 0, 0, 1, 0].into_iter().cycle());
        let begun = std::time::Instant::now();
        for byte in endless {
            if client.stream.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
            assert!(begun.elapsed() < PATIENCE, "it goes on for ever");
        }
        until("none is left", || gateway.worker.connections() == 0).await;
    });
}

#[test]
fn uploads_that_pods_do_not_read_leave_the_connection_its_window() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            sleep(PATIENCE).await;
        })
        .await;
        let gap = Duration::from_millis(150);
        let timeouts = Timeouts { send: gap, read: gap, ..Default::default() };
        let policy = Policy { body_limit: None, timeouts, ..Policy::default() };
        let limits = HttpLimits { h2_connection_window: 512 << 10, ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("web", [pod.addr]).policy(policy)], limits);
        let mut client = gateway.connect().await;
        client.put(&[hello(65_535), frame(SETTINGS, 1, 0, &[])].concat()).await;
        let mut window = 65_535;
        for n in 0..4 {
            client.put(&request(stream(n), "/", false)).await;
            let mut stream_window = 256 << 10;
            // As much as there is room for, until the pod has kept it waiting for too long.
            loop {
                while let room @ 1.. = window.min(stream_window).min(16 << 10) {
                    client.put(&frame(DATA, 0, stream(n), &vec![0; room])).await;
                    (window, stream_window) = (window - room, stream_window - room);
                }
                let frame = client.frame().await.expect("it goes on");
                match (frame.kind, frame.stream) {
                    (WINDOW_UPDATE, 0) => window += frame.number(0) as usize,
                    (WINDOW_UPDATE, which) if which == stream(n) => stream_window += frame.number(0) as usize,
                    (RST_STREAM, which) => {
                        assert_eq!(which, stream(n));
                        assert_eq!(frame.number(0), 0, "the rest is not wanted (RFC 9113 8.1)");
                        break;
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(gateway.failures(Kind::Timeout), 4);
        until("all are over", || gateway.stats.under_way() == 0).await;
    });
}
