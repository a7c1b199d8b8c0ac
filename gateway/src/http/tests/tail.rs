//! What those who watch are told about requests.

use serde_json::Value;

use super::*;
use crate::tail::{Tail, TailWorker, Watching};

fn watch(gateway: &Gateway) -> (Arc<Tail>, Watching) {
    let tail = Arc::<Tail>::default();
    spawn_local(tail.clone().run());
    gateway.worker.tell(Rc::new(TailWorker::new(tail.clone())));
    let watching = tail.watch();
    (tail, watching)
}

async fn next(watching: &mut Watching) -> Value {
    timeout(PATIENCE, watching.next()).await.expect("an event").to_json()
}

#[test]
fn each_request_says_which_pod_it_went_to_and_why() {
    run(async {
        let (a, b, only) = (Pod::named("a").await, Pod::named("b").await, Pod::named("only").await);
        let gateway = Gateway::start(&[
            Route::to("turns", [a.addr, b.addr]).host("a").path("/turns"),
            Route::to("only", [only.addr]).host("a").path("/only"),
            Route::to("sticky", [a.addr, b.addr]).host("a").path("/sticky").cookie(AffinityMode::Balanced, false),
            Route::to("half", [nobody(), a.addr]).host("a").path("/half"),
            Route { pods: None, ..Route::to("gone", []).host("a").path("/gone") },
        ]);
        let (_tail, mut watching) = watch(&gateway);
        let mut client = gateway.connect().await;
        let mut ask = async |path: &str, cookie: &str| {
            client.send(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nx-request-id: id-7\r\n{cookie}\r\n")).await;
            let answer = client.answer().await;
            (answer, next(&mut watching).await)
        };
        let expected = [
            ("/turns?secret=1", "RoundRobin", 200),
            ("/only", "Only", 200),
            ("/sticky", "NewSession", 200),
            ("/half", "", 200),
            ("/half", "", 200),
        ];
        let mut session = String::new();
        let mut reasons = Vec::new();
        for (path, reason, status) in expected {
            let (answer, event) = ask(path, "").await;
            assert_eq!((event["kind"].as_str(), event["status"].as_u64()), (Some("request"), Some(status)), "{event}");
            assert_eq!(event["path"].as_str(), path.split('?').next(), "{event}");
            assert_eq!(event["nth"].as_u64(), Some(reasons.len() as u64 + 1), "all on one connection");
            assert_eq!((event["requestId"].as_str(), event["ingress"].as_str()), (Some("id-7"), Some("default/test")));
            let text = answer.rsplit("\r\n\r\n").next().unwrap();
            assert!(reason.is_empty() || event["reason"] == reason, "{event}");
            if let Some(cookie) = field(&answer, "set-cookie") {
                session = cookie.split(';').next().unwrap().to_owned();
            }
            let pod = event["endpoint"].as_str().unwrap().to_owned();
            assert_eq!(pod == a.addr.to_string(), text == "a", "{event} {text}");
            reasons.push((path, event["reason"].as_str().unwrap().to_owned(), event["tries"].as_u64().unwrap()));
        }
        let half: Vec<_> =
            reasons.iter().filter(|(path, ..)| *path == "/half").map(|(_, why, n)| (&**why, *n)).collect();
        assert!(half.contains(&("AnotherFailed", 2)) && half.contains(&("RoundRobin", 1)), "{half:?}");
        let (_, event) = ask("/sticky", &format!("Cookie: {session}\r\n")).await;
        assert_eq!(event["reason"], "Cookie", "{event}");
        assert!(!event.to_string().contains(session.split('=').nth(1).unwrap()), "{event}");
        let (_, event) = ask("/gone", "").await;
        assert_eq!(
            (&event["status"], &event["failure"], &event["pod"]),
            (&503.into(), &"unavailable".into(), &Value::Null)
        );
        let (_, event) = ask("/nowhere", "").await;
        assert_eq!((&event["status"], &event["ingress"]), (&404.into(), &Value::Null), "{event}");
    });
}

#[test]
fn the_session_cookie_of_a_pinned_request_is_kept_for_the_explanation() {
    run(async {
        let (a, b) = (Pod::named("a").await, Pod::named("b").await);
        let gateway = Gateway::start(&[Route::to("x", [a.addr, b.addr]).cookie(AffinityMode::Balanced, false)]);
        let (tail, mut watching) = watch(&gateway);
        let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let cookie = field(&answer, "set-cookie").unwrap().split(';').next().unwrap().to_owned();
        next(&mut watching).await;
        gateway.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: x=y; {cookie}; z=1\r\n\r\n")).await;
        let id = next(&mut watching).await["id"].as_u64().unwrap();
        let event = tail.find(id).unwrap();
        let crate::tail::What::Request(request) = &event.what else { panic!("{event:?}") };
        assert_eq!(request.session.as_deref(), Some(&*cookie));
        assert!(request.client.ip().is_loopback() && request.client.port() != gateway.addr.port());
    });
}
