//! Sessions that stay on their pod.

use super::*;

/// The `name=value` of a session that an answer begins.
fn cookie(answer: &str) -> Option<String> {
    field(answer, "set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned())
}

fn ask_with(cookie: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; {cookie}\r\n\r\n")
}

fn pod_name(answer: &str) -> String {
    answer.rsplit("\r\n\r\n").next().unwrap().to_owned()
}

#[test]
fn a_session_stays_on_its_pod_in_both_modes() {
    run(async {
        for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
            let (a, b, c) = (Pod::named("a").await, Pod::named("b").await, Pod::named("c").await);
            let pods = [a.addr, b.addr, c.addr];
            let gateway = Gateway::start(&[Route::to("kubia", pods).path("/x").cookie(mode, false)]);
            let mut seen = Vec::new();
            for _ in 0..30 {
                let answer = gateway.ask("GET /x/y HTTP/1.1\r\nHost: a\r\n\r\n").await;
                let set = field(&answer, "set-cookie").unwrap();
                assert!(
                    set.starts_with("INGRESSCOOKIE=") && set.contains("Path=/x") && set.contains("HttpOnly"),
                    "{set}"
                );
                let (pod, session) = (pod_name(&answer), cookie(&answer).unwrap());
                for _ in 0..3 {
                    let answer = gateway.ask(&ask_with(&session).replace("GET / ", "GET /x ")).await;
                    assert_eq!((pod_name(&answer), cookie(&answer)), (pod.clone(), None), "{mode:?}");
                }
                seen.push(pod);
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, ["a", "b", "c"], "new sessions are spread");
        }
    });
}

#[test]
fn a_session_whose_pod_is_down_waits_for_it_unless_it_may_move() {
    run(async {
        for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
            let (up, down) = (Pod::named("up").await, nobody());
            let begin = [("stay", false), ("move", true)];
            for (name, may_move) in begin {
                let gateway = Gateway::start(&[Route::to("kubia", [up.addr, down]).cookie(mode, may_move)]);
                // A key of the pod that is down.
                let upstream = &gateway.snapshot.upstreams[0];
                let map = &upstream.cookie.as_ref().unwrap().map;
                let index = upstream.endpoints.endpoints().iter().position(|e| e.addr == down).unwrap();
                let key = match mode {
                    AffinityMode::Persistent => map.persistent_key(index).unwrap().to_owned(),
                    AffinityMode::Balanced => {
                        (0..).map(|n| n.to_string()).find(|key| map.find(key.as_bytes()) == Some(index)).unwrap()
                    }
                };
                let answer = gateway.ask(&ask_with(&format!("INGRESSCOOKIE={key}|x"))).await;
                if may_move {
                    assert!(answer.ends_with("\r\n\r\nup"), "{name}: {answer}");
                    let moved = cookie(&answer).expect("the session moves with a new cookie");
                    assert!(gateway.ask(&ask_with(&moved)).await.ends_with("\r\n\r\nup"));
                } else {
                    assert!(answer.starts_with("HTTP/1.1 502 ") && cookie(&answer).is_none(), "{name}: {answer}");
                }
                // A new session is no pod's yet.
                for _ in 0..5 {
                    let answer = gateway.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                    assert!(answer.ends_with("\r\n\r\nup"), "{answer}");
                    assert!(gateway.ask(&ask_with(&cookie(&answer).unwrap())).await.ends_with("\r\n\r\nup"));
                }
            }
        }
    });
}
