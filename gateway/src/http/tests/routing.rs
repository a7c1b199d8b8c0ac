//! Which pod answers.

use super::*;

#[test]
fn host_and_path_lead_to_a_service() {
    run(async {
        let (a, b, c) = (Pod::named("a").await, Pod::named("b").await, Pod::named("c").await);
        let gateway = Gateway::start(&[
            Route::to("a", [a.addr]).host("kubia.example.com"),
            Route::to("b", [b.addr]).host("kubia.example.com").path("/foo"),
            Route::to("c", [c.addr]).host("bar.example.com").path("/bar"),
        ]);
        for (target, host, expected) in [
            ("/", "kubia.example.com", "a"),
            ("/foo", "KUBIA.example.com:8080", "b"),
            ("/foo/x?y=1", "kubia.example.com.", "b"),
            ("/fool", "kubia.example.com", "a"),
            ("/bar", "bar.example.com", "c"),
            ("http://bar.example.com/bar", "kubia.example.com", "c"),
        ] {
            let answer = gateway.ask(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{host} {target}: {answer}");
        }
        assert!(c.last_seen().starts_with("GET /bar HTTP/1.1\r\n"), "absolute-form becomes origin-form");
        assert_eq!(field(&c.last_seen(), "host"), Some("bar.example.com"));
    });
}

#[test]
fn no_rule_is_404_and_nothing_behind_a_rule_is_503() {
    run(async {
        let missing = Route { pods: None, ..Route::to("gone", []).host("a").path("/gone") };
        let gateway = Gateway::start(&[missing, Route::to("empty", []).host("a").path("/empty")]);
        for (path, status, says) in [
            ("/", "404", "404: no rule for this host and path"),
            ("/gone", "503", "503: default/gone:80: there is no such Service"),
            ("/empty", "503", "503: no endpoint of default/empty:80 is ready"),
        ] {
            let answer = gateway.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(says), "{answer}");
        }
        assert_eq!(gateway.failures(crate::http::Kind::NoRule), 1);
        assert_eq!(gateway.failures(crate::http::Kind::Unavailable), 2);
        until("all are counted", || gateway.stats.ended.value() == 3).await;
        assert_eq!(gateway.stats.unmatched.by_code().collect::<Vec<_>>(), [(404, 1)]);
        let empty = gateway.snapshot.routes.find("a", "/empty").rule.unwrap();
        assert_eq!(empty.stats.by_code().collect::<Vec<_>>(), [(503, 1)]);
    });
}

/// ingress-nginx answers it, too, and the load balancers of clouds are told to ask for it.
#[test]
fn load_balancers_ask_at_healthz_of_no_host() {
    run(async {
        let pod = Pod::named("a").await;
        let (any, named) = (Route::to("any", [pod.addr]), Route::to("named", [pod.addr]).host("a"));
        let ask = async |gateway: &Gateway, host: &str, path: &str| {
            let answer = gateway.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            answer.split_once("\r\n\r\n").map(|(head, content)| (head[9..12].to_owned(), content.to_owned())).unwrap()
        };
        let health = ("200".to_owned(), "ok\n".to_owned());
        let gateway = Gateway::start(&[any, named]);
        for host in ["10.0.0.1", "other"] {
            assert_eq!(ask(&gateway, host, "/healthz").await, health, "{host}");
        }
        let old = gateway.ask("GET /healthz HTTP/1.0\r\n\r\n").await;
        assert!(old.starts_with("HTTP/1.0 200 ") || old.starts_with("HTTP/1.1 200 "), "{old}");
        assert_eq!(pod.seen.borrow().len(), 0);
        ask(&gateway, "a", "/healthz").await;
        ask(&gateway, "other", "/healthz/x").await;
        assert_eq!(pod.seen.borrow().len(), 2, "a host of somebody's, and another path");
        assert_eq!(ask(&Gateway::start(&[]), "other", "/healthz").await, health, "there is no rule at all");
        let own = Gateway::start(&[Route::to("own", [pod.addr]).path("/healthz")]);
        ask(&own, "other", "/healthz").await;
        assert_eq!(pod.seen.borrow().len(), 3, "somebody has a rule for it");
    });
}

#[test]
fn one_connection_is_spread_over_all_pods() {
    run(async {
        let (a, b, c) = (Pod::named("a").await, Pod::named("b").await, Pod::named("c").await);
        let gateway = Gateway::start(&[Route::to("kubia", [a.addr, b.addr, c.addr])]);
        let mut client = gateway.connect().await;
        for _ in 0..9 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(client.answer().await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
        assert_eq!([&a, &b, &c].map(|pod| pod.seen.borrow().len()), [3, 3, 3]);
        assert_eq!([&a, &b, &c].map(|pod| pod.connections.get()), [1, 1, 1], "connections to pods are kept");
        assert_eq!(gateway.stats.accepted.value(), 1);
        let picks: Vec<u64> = (0..3)
            .map(|n| gateway.snapshot.upstreams[0].endpoints.state(tidegate_l4::endpoints::EndpointIndex(n)).picks())
            .collect();
        assert_eq!(picks, [3, 3, 3]);
    });
}

#[test]
fn a_pod_that_refuses_is_passed_over() {
    run(async {
        let pod = Pod::named("a").await;
        let gateway = Gateway::start(&[Route::to("kubia", [nobody(), pod.addr, nobody()])]);
        for _ in 0..6 {
            let answer = gateway.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
            assert!(answer.ends_with("\r\n\r\na"), "{answer}");
        }
        let refused = &gateway.snapshot.upstreams[0].endpoints;
        assert!(refused.state(tidegate_l4::endpoints::EndpointIndex(0)).connect_failures() > 0);
        assert_eq!(gateway.failures(crate::http::Kind::Connect), 0);
    });
}
