//! Limits and timeouts that no other file of tests is about: each made small, and then met.

use tokio::time::Instant;

use super::*;
use crate::http::HttpOptions;

const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LONG: Duration = Duration::from_secs(3600);

#[test]
fn heads_have_a_largest_size_in_both_directions() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while let Some(head) = pod.request().await {
                let large = if head.contains("/large") { 3_000 } else { 1_000 };
                pod.wire
                    .send(&format!("HTTP/1.1 200 OK\r\nX: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(large)))
                    .await;
            }
        })
        .await;
        let limits = HttpLimits { request_head_bytes: 8 << 10, answer_head_bytes: 2 << 10, ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], limits);
        let status = async |path: &str, bytes: usize| {
            let answer =
                gateway.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes))).await;
            answer[9..12].to_owned()
        };
        assert_eq!(status("/", 7 << 10).await, "200");
        assert_eq!(status("/", 9 << 10).await, "431");
        assert_eq!(status("/large", 0).await, "502");
    });
}

#[test]
fn idle_connections_to_pods_have_their_time_and_number() {
    run(async {
        // Answers once three wait.
        let waiting = Rc::new(Cell::new(0));
        let all = waiting.clone();
        let pod = Pod::start(move |mut pod| {
            let all = all.clone();
            async move {
                while pod.request().await.is_some() {
                    all.set(all.get() + 1);
                    until("three wait", || all.get() % 3 == 0).await;
                    // The others have to see it, too.
                    sleep(Duration::from_millis(20)).await;
                    pod.wire.send(OK).await;
                }
            }
        })
        .await;
        let three = async |gateway: &Gateway| {
            let before = pod.connections.get();
            let (a, b, c) = tokio::join!(gateway.ask(ASK), gateway.ask(ASK), gateway.ask(ASK));
            assert!([a, b, c].iter().all(|answer| answer.ends_with("ok")));
            pod.connections.get() - before
        };
        for (per_endpoint, age, opened) in [(256, LONG, 0), (1, LONG, 2), (256, Duration::from_millis(50), 3)] {
            let limits =
                HttpLimits { idle_upstream_per_endpoint: per_endpoint, idle_upstream: age, ..HttpLimits::default() };
            let gateway = Gateway::with(&[Route::to("kubia", [pod.addr])], limits);
            assert_eq!(three(&gateway).await, 3);
            sleep(Duration::from_millis(100)).await;
            assert_eq!(three(&gateway).await, opened, "{per_endpoint} for {age:?}");
        }
    });
}

#[test]
fn a_proxy_protocol_header_must_come_in_time() {
    run(async {
        let pod = Pod::answering(OK).await;
        let limits = HttpLimits { proxy_header: Duration::from_millis(150), ..HttpLimits::default() };
        let options = HttpOptions { proxy_protocol: true, ..HttpOptions::default() };
        let gateway = Gateway::with_options(&[Route::to("kubia", [pod.addr])], limits, options);
        let (mut silent, mut slow) = (gateway.connect().await, gateway.connect().await);
        slow.send("PROXY TCP4 1.2.3.4 ").await;
        assert_eq!((silent.rest().await.0, slow.rest().await.0), (String::new(), String::new()));
        assert_eq!(gateway.stats.bad_proxy_header.value(), 2);
        let answer = gateway.ask(&format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{ASK}")).await;
        assert!(answer.ends_with("ok"), "{answer}");
    });
}

#[test]
fn a_client_that_goes_on_after_an_early_answer_is_read_for_a_while() {
    run(async {
        let policy = || Policy { body_limit: Some(10), ..Policy::default() };
        let too_much = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n";
        let quick = HttpLimits { linger: Duration::from_millis(50), ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("kubia", [nobody()]).policy(policy())], quick);
        let mut client = gateway.connect().await;
        client.send(too_much).await;
        let begun = Instant::now();
        assert!(client.answer().await.starts_with("HTTP/1.1 413 "));
        until("it is over", || gateway.worker.connections() == 0).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "that is the default");

        let short = HttpLimits { linger: LONG, linger_bytes: 10_000, ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("kubia", [nobody()]).policy(policy())], short);
        let mut client = gateway.connect().await;
        client.send(too_much).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 413 "));
        client.send(&"x".repeat(9_000)).await;
        sleep(Duration::from_millis(100)).await;
        assert_eq!(gateway.worker.connections(), 1);
        client.send(&"x".repeat(2_000)).await;
        until("it is over", || gateway.worker.connections() == 0).await;
    });
}

/// The SETTINGS of the server, by number.
async fn settings(client: &mut Wire) -> Vec<(u16, u32)> {
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut head = [0; 9];
    client.stream.read_exact(&mut head).await.unwrap();
    assert_eq!((head[0], head[3]), (0, 4), "the first frame is SETTINGS, and a short one");
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    client.stream.read_exact(&mut payload).await.unwrap();
    let setting = |six: &[u8]| {
        let (name, value) = six.split_at(2);
        (u16::from_be_bytes(name.try_into().unwrap()), u32::from_be_bytes(value.try_into().unwrap()))
    };
    payload.chunks(6).map(setting).collect()
}

#[test]
fn http2_clients_are_told_their_limits_and_asked_whether_they_are_there() {
    run(async {
        let limits = HttpLimits {
            h2_streams: 7,
            h2_stream_window: 70_000,
            request_head_bytes: 9_000,
            h2_ping: Duration::from_millis(100),
            ..HttpLimits::default()
        };
        let gateway = Gateway::with(&[Route::to("kubia", [nobody()])], limits);
        let mut client = gateway.connect().await;
        let settings = settings(&mut client).await;
        // MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE (RFC 9113 6.5.2).
        for setting in [(3, 7), (4, 70_000), (6, 9_000)] {
            assert!(settings.contains(&setting), "{setting:?} of {settings:?}");
        }
        // It answers no PING.
        let mut bytes = Vec::new();
        timeout(PATIENCE, client.stream.read_to_end(&mut bytes)).await.expect("it is given up").ok();
        assert!(
            bytes.windows(9).any(|frame| frame == b"\0\0\x08\x06\0\0\0\0\0"),
            "no PING in {}",
            bytes.escape_ascii()
        );
    });
}
