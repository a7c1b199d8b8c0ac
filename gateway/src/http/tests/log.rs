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
