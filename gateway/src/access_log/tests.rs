use std::{collections::BTreeSet, fs, net::SocketAddr, path::PathBuf, rc::Rc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use proptest::prelude::*;
use tokio::task::LocalSet;

use super::*;
use crate::route::{Backend, Owner, PathMatch, Rule};

fn format(text: &str) -> Format {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A log that goes nowhere: what would be written can be looked at.
fn log(text: &str) -> (Rc<WorkerLog>, mpsc::Receiver<Message>) {
    let (queue, inbox) = mpsc::sync_channel(4);
    (Rc::new(WorkerLog::new(Arc::new(format(text)), Arc::default(), queue, (0, 2))), inbox)
}

fn written(inbox: &mpsc::Receiver<Message>) -> String {
    let lines = inbox.try_iter().map(|message| match message {
        Message::Lines(batch) => String::from_utf8(batch.text).unwrap(),
        Message::Reopen | Message::Done(_) => panic!("only lines"),
    });
    lines.collect()
}

fn rule() -> Rule {
    Rule {
        owner: Owner { namespace: "shop".into(), name: "web".into() },
        host: "*.example.com".into(),
        path: Some(PathMatch::Prefix("/a".into())),
        backend: Backend::Missing { service: "shop/cart:http".into(), reason: "".into() },
        split: None,
        policy: Arc::default(),
        issues_cookie: false,
        stats: Arc::default(),
    }
}

fn facts(tls: Option<TlsFacts>) -> Rc<ConnectionFacts> {
    let (log, _inbox) = log("json");
    Rc::new(log.connection("192.0.2.7:4711".parse().unwrap(), "10.0.0.1:443".parse().unwrap(), tls))
}

fn tls() -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        sni: Some("web.example.com".into()),
        resumed: true,
        client_subject: Some("CN=ä".into()),
    }
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    fields.iter().map(pair).collect()
}

const PODS: [&str; 2] = ["10.1.0.1:8080", "10.1.0.2:8080"];

/// A request that was refused by one pod and answered by the next.
fn request(log: &Rc<WorkerLog>, target: &'static str, fields: &[(&'static str, &str)]) {
    let [first, second]: [SocketAddr; 2] = PODS.map(|pod| pod.parse().unwrap());
    let begun = Instant::now();
    let at = |ms| begun + Duration::from_millis(ms);
    let mut entry = log.open();
    let uri = Uri::from_static(target);
    entry.asked(&facts(Some(tls())), (&Method::GET, &uri, Version::HTTP_11, &headers(fields)));
    entry.identified(b"0123abcd");
    entry.trying(first, Some("cart-0"), at(0));
    entry.try_failed(502, at(3));
    entry.trying(second, Some("cart-1"), at(3));
    entry.connected(Duration::from_micros(1_200));
    entry.try_answered(201, at(7));
    entry.answering(StatusCode::CREATED, &headers(&[("content-type", "text/plain"), ("x-a", "1"), ("x-a", "2")]));
    let end = End { status: 201, failure: None, took: Duration::from_micros(12_345), bytes_in: 5, bytes_out: 100 };
    entry.write(Some(&rule()), end, at(12));
}

fn line(text: &str, target: &'static str, fields: &[(&'static str, &str)]) -> String {
    let (log, inbox) = log(text);
    request(&log, target, fields);
    log.flush();
    let line = written(&inbox);
    line.strip_suffix('\n').expect("a line end").to_owned()
}

const FIELDS: [(&str, &str); 4] = [
    ("host", "Web.example.com:443"),
    ("user-agent", "curl/8 \"x\""),
    ("cookie", "a=1; sid=s3"),
    ("authorization", "Basic YWxpY2U6cHc="),
];

#[test]
fn ingress_nginx_and_combined() {
    let time = regex::Regex::new(r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\]").unwrap();
    let begin = r#"192.0.2.7 - alice [TIME] "GET /a/b?q=1 HTTP/1.1" 201 100 "-" "curl/8 \x22x\x22""#;
    let seen = |text| time.replace(&line(text, "/a/b?q=1", &FIELDS), "[TIME]").into_owned();
    assert_eq!(seen("combined"), begin);
    let head = "GET /a/b?q=1 HTTP/1.1\r\nhost: Web.example.com:443\r\nuser-agent: curl/8 \"x\"\r\ncookie: a=1; sid=s3\r\nauthorization: Basic YWxpY2U6cHc=\r\n\r\n";
    let rest = format!(
        "{} 0.012 [shop-cart-http] [-] 10.1.0.1:8080, 10.1.0.2:8080 0, 100 0.003, 0.009 502, 201 0123abcd",
        head.len() + 5
    );
    assert_eq!(seen("ingress-nginx"), format!("{begin} {rest}"));
}

#[test]
fn json_has_all_of_it() {
    let text = line("json", "/a/b?q=%22", &FIELDS);
    let mut object: serde_json::Value = serde_json::from_str(&text).unwrap();
    let time = object.as_object_mut().unwrap().remove("time").unwrap();
    assert!(humantime::parse_rfc3339(time.as_str().unwrap()).is_ok_and(|time| time.elapsed().unwrap().as_secs() < 60));
    let expected = serde_json::json!({
        "request_id": "0123abcd", "client": "192.0.2.7", "method": "GET", "scheme": "https", "host": "Web.example.com:443",
        "path": "/a/b", "query": "q=%22", "protocol": "HTTP/1.1", "status": 201, "bytes_in": 5, "bytes_out": 100,
        "duration": 0.012345, "user_agent": "curl/8 \"x\"", "namespace": "shop", "ingress": "web",
        "rule_host": "*.example.com", "rule_path": "/a", "service": "cart", "service_port": "http", "pod": "cart-1",
        "endpoint": "10.1.0.2:8080", "upstream_status": 201, "upstream_connect": 0.0012, "upstream_header": 0.004,
        "upstream_response": 0.009, "tries": 2, "tls_version": "TLSv1.3", "sni": "web.example.com",
    });
    assert_eq!(object, expected);
}

#[test]
fn variables_have_nginxs_values() {
    for (text, expected) in [
        ("$host $best_http_host $server_name", "web.example.com Web.example.com:443 *.example.com"),
        ("$uri|$args|$is_args|$request_uri|$arg_q|$arg_z", "/a/b|q=1&z|?|/a/b?q=1&z|1|-"),
        ("${status}0$request_method", "2010GET"),
        ("$cookie_sid $cookie_a $cookie_none", "s3 1 -"),
        ("$sent_http_content_type $sent_http_x_a $sent_http_none", "text/plain 1, 2 -"),
        ("$http_user_agent $http_x_none $content_length", "curl/8 \\x22x\\x22 - -"),
        (
            "$scheme $https $server_protocol $ssl_protocol $ssl_cipher",
            "https on HTTP/1.1 TLSv1.3 TLS_AES_128_GCM_SHA256",
        ),
        ("$ssl_server_name $ssl_session_reused $ssl_client_s_dn", "web.example.com r CN=\\xC3\\xA4"),
        ("$remote_addr:$remote_port $server_addr:$server_port", "192.0.2.7:4711 10.0.0.1:443"),
        ("$connection $connection_requests $proxy_protocol_addr", "1 1 -"),
        ("$namespace/$ingress_name $service_name:$service_port $location_path", "shop/web cart:http /a"),
        ("$upstream_connect_time $upstream_header_time", "-, 0.001 -, 0.004"),
        ("$upstream_pod $upstream_tries $failure", "cart-1 2 -"),
        ("$escaped_request_uri", "%2Fa%2Fb%3Fq%3D1%26z"),
        (r#"{"h":"$http_user_agent","n":"$http_none"}"#, r#"{"h":"curl/8 \"x\"","n":""}"#),
    ] {
        assert_eq!(line(text, "/a/b?q=1&z", &FIELDS), expected, "{text}");
    }
    let sent = "HTTP/1.1 201 Created\r\ncontent-type: text/plain\r\nx-a: 1\r\nx-a: 2\r\n\r\n".len() + 100;
    assert_eq!(line("$bytes_sent", "/", &FIELDS), sent.to_string());
}

#[test]
fn a_format_that_is_none_is_refused_and_says_why() {
    for (text, message) in [
        ("", "it is empty: write json, combined, ingress-nginx, or a text with variables such as $status"),
        ("$nope_at_all", "there is no variable $nope_at_all"),
        ("a $upstream_adr", "there is no variable $upstream_adr; is $upstream_addr meant?"),
        (
            "5 $ and more text",
            "a $ at \"$ and more\" that begins no variable: nginx has no way to write the character itself",
        ),
        ("${status", "there is no } to ${status"),
        ("$status\n$status", "it has a line end or another control character"),
        ("$http_", "there is no variable $http_; is $https meant?"),
        ("$cookie_", "there is no variable $cookie_"),
    ] {
        assert_eq!(text.parse::<Format>().unwrap_err().to_string(), message, "{text:?}");
    }
}

#[test]
fn variables_are_there_once_and_none_hides_another() {
    let names: BTreeSet<&str> = variables::VARIABLES.iter().map(|variable| variable.name).collect();
    assert_eq!(names.len(), variables::VARIABLES.len());
    for name in names {
        let prefixed = ["http_", "sent_http_", "cookie_", "arg_"].iter().any(|prefix| name.starts_with(prefix));
        assert!(!prefixed, "{name}");
        format(&format!("${name}"));
    }
}

#[test]
fn a_request_that_never_was_one_has_a_line_too() {
    let (log, inbox) = log("ingress-nginx");
    let end = End { status: 400, failure: Some("bad_request"), took: Duration::ZERO, bytes_in: 0, bytes_out: 0 };
    log.open().write(None, end, Instant::now());
    log.flush();
    let line = written(&inbox);
    assert!(
        line.starts_with("- - - [") && line.ends_with("] \"-\" 400 0 \"-\" \"-\" 0 0.000 [-] [-] - - - - -\n"),
        "{line}"
    );
}

proptest! {
    /// Whatever is sent: one line, and as many quotes in it as the format has.
    #[test]
    fn nothing_forges_a_line(agent in prop::collection::vec(any::<u8>(), 0..80), cookie in "[^\r\n\0]{0,40}") {
        let Ok(agent) = HeaderValue::from_bytes(&agent) else { return Ok(()) };
        let Ok(cookie) = HeaderValue::from_str(&cookie) else { return Ok(()) };
        for text in ["ingress-nginx", "json", "\"$http_user_agent\" \"$http_cookie\""] {
            let (log, inbox) = log(text);
            let mut entry = log.open();
            let mut headers = HeaderMap::new();
            headers.insert(header::USER_AGENT, agent.clone());
            headers.insert(header::REFERER, cookie.clone());
            headers.insert(header::COOKIE, cookie.clone());
            entry.asked(&facts(None), (&Method::GET, &Uri::from_static("/"), Version::HTTP_2, &headers));
            let end = End { status: 200, failure: None, took: Duration::ZERO, bytes_in: 0, bytes_out: 0 };
            entry.write(None, end, Instant::now());
            log.flush();
            let line = written(&inbox);
            prop_assert_eq!(line.lines().count(), 1);
            prop_assert!(line.ends_with('\n') && !line[..line.len() - 1].contains(char::is_control));
            match text {
                "json" => prop_assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{}", line),
                "ingress-nginx" => prop_assert_eq!(line.matches('"').count(), 6, "{}", line),
                _ => prop_assert_eq!(line.matches('"').count(), 4, "{}", line),
            }
        }
    }
}

#[test]
fn what_the_queue_has_no_room_for_is_counted_and_memory_comes_back() {
    let (log, inbox) = log("$status");
    let end = End { status: 200, failure: None, took: Duration::ZERO, bytes_in: 0, bytes_out: 0 };
    for _ in 0..6 {
        log.open().write(None, end, Instant::now());
        log.flush();
    }
    assert_eq!(written(&inbox), "200\n".repeat(4), "as many batches as the queue holds");
    assert_eq!(log.stats().dropped(), 2);
    log.open().write(None, end, Instant::now());
    drop(log);
    assert_eq!(written(&inbox), "200\n", "the end of a worker hands over what it has");
}

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-access-log-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn log(&self) -> AccessLog {
        let target = Target::File(self.0.join("access.log"));
        AccessLog::start(LogOptions { target, format: format("$status") }).unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn write(worker: &Rc<WorkerLog>, status: u16) {
    let end = End { status, failure: None, took: Duration::ZERO, bytes_in: 0, bytes_out: 0 };
    worker.open().write(None, end, Instant::now());
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_file_is_appended_to_and_opened_anew_when_told() {
    let directory = Directory::new("reopen");
    fs::write(directory.0.join("access.log"), "before\n").unwrap();
    let log = directory.log();
    let worker = Rc::new(log.worker(0, 1));
    write(&worker, 200);
    worker.flush();
    assert!(log.finish(PATIENCE));
    fs::rename(directory.0.join("access.log"), directory.0.join("access.log.1")).unwrap();
    log.reopen();
    write(&worker, 404);
    worker.flush();
    assert!(log.finish(PATIENCE));
    assert_eq!(
        (directory.read("access.log.1").as_str(), directory.read("access.log").as_str()),
        ("before\n200\n", "404\n")
    );
    assert_eq!((log.stats().written(), log.stats().dropped()), (2, 0));
}

#[test]
fn a_file_that_was_taken_away_is_noticed() {
    let directory = Directory::new("moved");
    let log = directory.log();
    let worker = Rc::new(log.worker(0, 1));
    fs::remove_file(directory.0.join("access.log")).unwrap();
    let begun = Instant::now();
    let mut lines = 0;
    // Every line before it is noticed goes where the file went.
    while !directory.0.join("access.log").exists() {
        assert!(begun.elapsed() < PATIENCE);
        write(&worker, 200);
        lines += 1;
        worker.flush();
        assert!(log.finish(PATIENCE));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(directory.read("access.log"), "200\n");
    assert!(begun.elapsed() < Duration::from_secs(10) && log.stats().written() == lines);
}

#[test]
fn a_line_is_written_in_time_without_anybody_asking() {
    let directory = Directory::new("time");
    let log = directory.log();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let worker = Rc::new(log.worker(0, 1));
        tokio::task::spawn_local(worker.keep_time());
        for n in 1..=2 {
            write(&worker, 200);
            let begun = Instant::now();
            while log.stats().written() < n {
                assert!(begun.elapsed() < PATIENCE);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert!(begun.elapsed() >= Duration::from_millis(100), "lines wait for others");
        }
    });
    assert_eq!(directory.read("access.log"), "200\n200\n");
}

#[test]
fn a_target_that_takes_nothing_holds_up_nobody() {
    if !std::path::Path::new("/dev/full").exists() {
        return;
    }
    let target = Target::File("/dev/full".into());
    let log = AccessLog::start(LogOptions { target, format: format("$status") }).unwrap();
    let worker = Rc::new(log.worker(0, 1));
    for _ in 0..3 {
        write(&worker, 200);
        worker.flush();
    }
    assert!(log.finish(PATIENCE));
    assert_eq!((log.stats().written(), log.stats().dropped()), (0, 3));
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
    let target = Target::File("/nowhere/access.log".into());
    assert!(AccessLog::start(LogOptions { target, format: format("json") }).is_err());
}
