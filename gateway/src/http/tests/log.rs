//! What the access log says.

use std::path::PathBuf;

use super::*;
use crate::access_log::{AccessLog, LogOptions, Target};

/// A log in a file of its own.
struct Log {
    log: AccessLog,
    path: PathBuf,
}

impl Log {
    fn of(gateway: &Gateway, name: &str, format: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-http-log-{}-{name}", std::process::id()));
        let format = format.parse().unwrap();
        let log = AccessLog::start(LogOptions { target: Target::File(path.clone()), format }).unwrap();
        let worker = Rc::new(log.worker(0, 1));
        spawn_local(worker.keep_time());
        gateway.worker.log_to(worker);
        Self { log, path }
    }

    /// All lines, once there are so many.
    async fn lines(&self, count: u64) -> Vec<String> {
        until("all lines are written", || self.log.stats().written() >= count).await;
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

#[test]
fn every_end_of_a_request_has_its_line_and_silent_rules_have_none() {
    run(async {
        let (good, dead) = (Pod::named("good").await, nobody());
        let broken = Pod::answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
        let gateway = Gateway::start(&[
            Route::to("good", [good.addr]).host("a"),
            Route::to("silent", [good.addr]).host("a").path("/silent"),
            Route::to("dead", [dead]).host("a").path("/dead"),
            Route::to("broken", [broken.addr]).host("a").path("/broken"),
            Route { pods: None, ..Route::to("gone", []).host("a").path("/gone") },
        ]);
        let format = "$request_method $request_uri $status $body_bytes_sent $upstream_addr $upstream_status $failure $upstream_pod $service_name";
        let log = Log::of(&gateway, "ends", format);
        for path in ["/", "/silent", "/dead", "/gone", "/?a=1"] {
            gateway.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        }
        gateway.ask("GET / HTTP/1.1\r\nHost: b\r\n\r\n").await;
        let mut client = gateway.connect().await;
        client.send("GET /broken HTTP/1.1\r\nHost: a\r\n\r\n").await;
        until("the head is under way", || broken.seen.borrow().len() == 1).await;
        drop(client);
        let mut lines = log.lines(6).await;
        let (good, dead, broken) = (good.addr, dead, broken.addr);
        let texts = [
            "502: a pod of default/dead:80 could not be reached\n",
            "503: default/gone:80: there is no such Service\n",
        ];
        let none = "404: no rule for this host and path\n".len();
        let expected = [
            format!("GET / 200 4 {good} 200 - good-0 good"),
            format!("GET /dead 502 {} {dead} 502 connect dead-0 dead", texts[0].len()),
            format!("GET /gone 503 {} - - unavailable - gone", texts[1].len()),
            format!("GET /?a=1 200 4 {good} 200 - good-0 good"),
            format!("GET / 404 {none} - - no_rule - -"),
        ];
        // The answer may have begun before its client was seen to be gone.
        let last = lines.split_off(5);
        assert_eq!(lines, expected);
        assert!(last[0].starts_with("GET /broken ") && last[0].contains(&format!(" {broken} ")), "{last:?}");
    });
}

#[test]
fn ids_sizes_and_upstream_times() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while pod.request().await.is_some() {
                pod.wire.read(5).await;
                pod.wire.send("HTTP/1.1 200 OK\r\nx-b: 1\r\ncontent-length: 3\r\n\r\nabc").await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("web", [pod.addr])]);
        let log = Log::of(&gateway, "sizes", "json");
        let mut client = gateway.connect().await;
        for _ in 0..2 {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\nContent-Length: 5\r\n\r\n12345").await;
            client.answer().await;
        }
        let lines = log.lines(2).await;
        for (n, line) in lines.iter().enumerate() {
            for part in [
                "\"request_id\":\"mine\"",
                "\"bytes_in\":5",
                "\"bytes_out\":3",
                "\"upstream_status\":200",
                "\"tries\":1",
            ] {
                assert!(line.contains(part), "{part}: {line}");
            }
            assert_eq!(line.contains("\"upstream_connect\":0.000000"), n == 1, "the second finds a connection: {line}");
        }
        let rule = gateway.snapshot.routes.find("a", "/").rule.unwrap().stats.clone();
        assert_eq!((rule.total(), rule.bytes()), (2, (10, 6)));
        assert_eq!((rule.connect().count(), rule.first_byte().count()), (1, 2));
    });
}

#[test]
fn heads_that_cannot_be_read_have_their_lines_and_are_counted() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("web", [pod.addr])]);
        let format =
            "$remote_addr $connection_requests $request_method $host $request_uri $status $failure $upstream_addr";
        let log = Log::of(&gateway, "refused", format);
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let too_large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(40 << 10));
        let too_many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101));
        let bad = [
            // By the guard.
            ("GET / HTTP/1.1\r\nHost: a\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "400"),
            // By hyper.
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
            ("GET / HTTP/9.9\r\nHost: a\r\n\r\n", "400"),
            (&too_large, "431"),
            (&too_many, "431"),
        ];
        for (head, status) in bad {
            // Behind a good one on the same connection.
            let mut client = gateway.connect().await;
            client.send(&format!("{good}{head}")).await;
            client.answer().await;
            let (answer, _) = client.rest().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:.80}: {answer}");
        }
        // A bad chunk belongs to a request that was read.
        let chunk = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
        gateway.ask(chunk).await;
        // Nobody was refused.
        drop(gateway.connect().await);
        let mut client = gateway.connect().await;
        client.send("GET / HT").await;
        drop(client);
        gateway.ask(good).await;
        until("all are counted", || gateway.stats.ended.value() == 14 && gateway.worker.connections() == 0).await;
        assert_eq!(gateway.stats.requests.value(), 14);
        let lines = log.lines(14).await;
        let pod = pod.addr;
        let answered = |number: u32| format!("127.0.0.1 {number} GET a / 200 - {pod}");
        let refused = |status: &str| {
            let failure = if status == "431" { "head_too_large" } else { "bad_request" };
            format!("127.0.0.1 2 - - - {status} {failure} -")
        };
        let mut expected: Vec<String> = bad.iter().flat_map(|(_, status)| [answered(1), refused(status)]).collect();
        expected.push(lines[12].clone());
        expected.push(answered(1));
        assert_eq!(lines, expected);
        assert!(lines[12].starts_with("127.0.0.1 1 POST a / 400 bad_request"), "{}", lines[12]);
        assert_eq!(gateway.failures(crate::http::Kind::BadRequest), 5);
        assert_eq!(gateway.failures(crate::http::Kind::HeadTooLarge), 2);
        let codes: Vec<(u16, u64)> = gateway.stats.unmatched.by_code().collect();
        assert_eq!(codes, [(400, 4), (431, 2)]);
    });
}
