//! When another pod is tried, and when not.

use http::StatusCode;

use super::*;
use crate::route::policy::Retry;

fn retry(change: impl FnOnce(&mut Retry)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy.retry);
    policy
}

/// A pod that reads a request and closes.
async fn rude() -> Pod {
    Pod::start(|mut pod| async move {
        pod.request().await;
    })
    .await
}

#[test]
fn what_may_be_repeated_goes_to_another_pod_and_nothing_else_does() {
    run(async {
        for (request, policy, status) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Policy::default(), "200"),
            ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Policy::default(), "200"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Policy::default(), "502"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", retry(|r| r.non_idempotent = true), "200"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", retry(|r| r.on_error = false), "502"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", retry(|r| r.tries = 1), "502"),
        ] {
            let (bad, good) = (
                rude().await,
                Pod::start(|mut pod| async move {
                    while let Some(head) = pod.request().await {
                        if head.contains("content-length: 5") {
                            assert_eq!(pod.wire.read(5).await, "hello");
                        }
                        pod.wire.send(OK).await;
                    }
                })
                .await,
            );
            let gateway = Gateway::start(&[Route::to("kubia", [bad.addr, good.addr]).policy(policy)]);
            let mut statuses = Vec::new();
            for _ in 0..2 {
                statuses.push(gateway.ask(request).await[9..12].to_owned());
            }
            statuses.sort();
            assert_eq!(statuses, ["200", status], "{request}");
        }
    });
}

#[test]
fn a_request_that_was_never_sent_goes_on_whatever_it_is() {
    run(async {
        let good = Pod::answering(OK).await;
        let policy = retry(|r| r.budget_percent = 0);
        let gateway = Gateway::start(&[Route::to("kubia", [nobody(), nobody(), good.addr]).policy(policy)]);
        for _ in 0..50 {
            let answer = gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
            assert!(answer.ends_with("ok"), "{answer}");
        }
    });
}

#[test]
fn chosen_statuses_are_tried_elsewhere_and_the_last_answer_is_passed_on() {
    run(async {
        let busy = || Pod::answering("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        let policy = || retry(|r| r.on_status = [StatusCode::SERVICE_UNAVAILABLE].into());
        let (bad, good) = (busy().await, Pod::answering(OK).await);
        let gateway = Gateway::start(&[Route::to("kubia", [bad.addr, good.addr]).policy(policy())]);
        for _ in 0..4 {
            assert!(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("ok"));
        }
        assert!(gateway.stats.upstream_retried.value() > 0);
        let gateway = Gateway::start(&[Route::to("kubia", [bad.addr, busy().await.addr]).policy(policy())]);
        assert!(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("busy"));
        let gateway = Gateway::start(&[Route::to("kubia", [bad.addr, good.addr])]);
        let mut answers = Vec::new();
        for _ in 0..2 {
            answers.push(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await[9..12].to_owned());
        }
        answers.sort();
        assert_eq!(answers, ["200", "503"], "without the rule nothing is repeated");
    });
}

#[test]
fn content_that_is_too_long_to_be_remembered_is_not_repeated() {
    run(async {
        let bad = || {
            Pod::start(|mut pod| async move {
                pod.request().await;
                pod.wire.read(200 << 10).await;
            })
        };
        let pods = [bad().await, bad().await];
        let gateway = Gateway::start(&[Route::to("kubia", pods.iter().map(|pod| pod.addr).collect::<Vec<_>>())]);
        let content = "x".repeat(200 << 10);
        let request = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{content}", content.len());
        assert!(gateway.ask(&request).await.starts_with("HTTP/1.1 502 "));
        assert_eq!(pods.iter().map(|pod| pod.connections.get()).sum::<usize>(), 1);
    });
}

#[test]
fn the_budget_bounds_repetitions() {
    run(async {
        let pods = [rude().await, rude().await];
        let gateway = Gateway::start(&[Route::to("kubia", pods.iter().map(|pod| pod.addr).collect::<Vec<_>>())]);
        for _ in 0..200 {
            assert!(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.starts_with("HTTP/1.1 502 "));
        }
        let tried: usize = pods.iter().map(|pod| pod.connections.get()).sum();
        // 200 requests, 30 free repetitions and a fifth of the requests.
        assert!((230..=270).contains(&tried), "{tried}");
    });
}

#[test]
fn times_per_try_and_for_the_whole_request() {
    run(async {
        let slow = Pod::start(|mut pod| async move {
            pod.request().await;
            sleep(PATIENCE).await;
        })
        .await;
        let good = Pod::answering(OK).await;
        let ms = |n| Some(Duration::from_millis(n));
        let timed = |per_try, request| Policy {
            timeouts: Timeouts { per_try, request, ..Timeouts::default() },
            ..Policy::default()
        };
        let gateway = Gateway::start(&[Route::to("kubia", [slow.addr, good.addr]).policy(timed(ms(100), None))]);
        for _ in 0..4 {
            assert!(gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.ends_with("ok"));
        }
        let gateway = Gateway::start(&[Route::to("kubia", [slow.addr]).policy(timed(None, ms(100)))]);
        let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("within the time"), "{answer}");
    });
}

#[test]
fn content_over_the_limit_is_413_whether_it_is_announced_or_comes() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while pod.request().await.is_some() {
                if pod.wire.rest().await.0.is_empty() {
                    return;
                }
            }
        })
        .await;
        let policy = || Policy { body_limit: Some(10), ..Policy::default() };
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr]).policy(policy())]);
        for content in [
            "Content-Length: 11\r\n\r\n".to_owned(),
            format!("Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "4\r\nabcd\r\n".repeat(3)),
        ] {
            let answer = gateway.ask(&format!("POST / HTTP/1.1\r\nHost: a\r\n{content}")).await;
            assert!(answer.starts_with("HTTP/1.1 413 "), "{content}: {answer}");
            assert_eq!(field(&answer, "connection"), Some("close"));
        }
        let good = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.read_until("0\r\n\r\n").await;
            pod.wire.send(OK).await;
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [good.addr]).policy(policy())]);
        let answer =
            gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n");
        assert!(answer.await.ends_with("ok"));
    });
}
