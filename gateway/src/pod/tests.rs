//! The pod over real sockets, asked with raw bytes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Longer than anything here takes, short enough to wait for when it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

async fn pod() -> Pod {
    Pod::start(PodOptions::new("kubia-1", [Listen::Http(ANY), Listen::Udp(ANY)])).await.unwrap()
}

async fn proxied_pod() -> Pod {
    let options =
        PodOptions { name: "kubia-1".to_owned(), http: vec![ANY], proxy_protocol: true, ..Default::default() };
    Pod::start(options).await.unwrap()
}

async fn connect(pod: &Pod) -> TcpStream {
    TcpStream::connect(pod.http_addrs()[0]).await.unwrap()
}

/// Sends `request`, says that nothing more comes, and returns all that is answered until the pod closes.
async fn ask(pod: &Pod, request: impl AsRef<[u8]>) -> String {
    let mut stream = connect(pod).await;
    stream.write_all(request.as_ref()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the pod closes").unwrap();
    String::from_utf8(answer).unwrap()
}

async fn get(pod: &Pod, target: &str) -> String {
    ask(pod, format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await
}

/// Reads until what came ends with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            read.push(stream.read_u8().await.expect("the connection stays open"));
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reading).await.is_ok();
    let read = String::from_utf8(read).unwrap();
    assert!(in_time, "`{read}` does not end with `{end}`");
    read
}

/// The JSON an answer carries.
fn json(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a head ends").1).expect("the body is JSON")
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).expect("an answer has a status")
}

#[tokio::test]
async fn it_says_which_pod_was_hit() {
    let pod = pod().await;
    let answer = get(&pod, "/any/path").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "You've hit kubia-1\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let port = pod.http_addrs()[0].port();
    for line in [
        "Content-Type: text/plain",
        "Content-Length: 19",
        "X-Pod: kubia-1",
        &format!("X-Port: {port}"),
        "X-Connection-Reused: false",
        "X-Connection-Requests: 1",
    ] {
        assert!(head.lines().any(|have| have == line), "{line} is missing in {head}");
    }
    assert!(head.contains("X-Peer: 127.0.0.1:"), "{head}");
    assert_eq!((pod.name(), pod.connections(), pod.requests()), ("kubia-1", 1, 1));
}

#[tokio::test]
async fn a_kept_connection_is_reported_as_reused_even_after_a_body() {
    let pod = pod().await;
    let mut stream = connect(&pod).await;
    for (count, reused) in [(1, false), (2, true), (3, true)] {
        stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n").await.unwrap();
        stream.write_all(&[b'b'; 70_000]).await.unwrap();
        let answer = read_until(&mut stream, "hit kubia-1\n").await;
        assert!(answer.contains(&format!("X-Connection-Reused: {reused}\r\n")), "{answer}");
        assert!(answer.contains(&format!("X-Connection-Requests: {count}\r\n")), "{answer}");
    }
    assert_eq!((pod.connections(), pod.requests()), (1, 3));
}

#[tokio::test]
async fn headers_are_reported_in_order() {
    let pod = pod().await;
    let request = "PUT /headers?a=%20b HTTP/1.1\r\nHost: a.example\r\nX-B: 1\r\nX-A: \u{e9}\r\nX-B: 2\r\nConnection: close\r\n\r\n";
    let report = json(&ask(&pod, request).await);
    assert_eq!(report["pod"], "kubia-1");
    assert_eq!(report["method"], "PUT");
    assert_eq!(report["target"], "/headers?a=%20b");
    assert_eq!(report["version"], "HTTP/1.1");
    assert_eq!(report["local"], pod.http_addrs()[0].to_string());
    assert_eq!((&report["connectionRequests"], &report["reused"]), (&json!(1), &json!(false)));
    assert_eq!(report["proxyProtocol"], json!(null));
    let headers =
        json!([["host", "a.example"], ["x-b", "1"], ["x-b", "2"], ["x-a", "\u{e9}"], ["connection", "close"]]);
    assert_eq!(report["headers"], headers);
}

#[tokio::test]
async fn an_echo_comes_back_while_the_body_is_still_sent() {
    let pod = pod().await;
    let mut stream = connect(&pod).await;
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Sum\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await.to_lowercase();
    assert!(
        answer.contains("content-type: text/x\r\n") && answer.contains("transfer-encoding: chunked\r\n"),
        "{answer}"
    );
    for part in ["one", "two"] {
        stream.write_all(format!("3\r\n{part}\r\n").as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, &format!("{part}\r\n")).await, format!("3\r\n{part}\r\n"));
    }
    stream.write_all(b"0\r\nX-Sum: 42\r\n\r\n").await.unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await.to_lowercase(), "0\r\nx-sum: 42\r\n\r\n");
}

#[tokio::test]
async fn an_echo_of_known_length_has_that_length() {
    let pod = pod().await;
    let answer = ask(&pod, "POST /echo HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello").await;
    assert!(answer.contains("Content-Length: 5\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
}

#[tokio::test]
async fn a_client_that_expects_continue_gets_it_first() {
    let pod = pod().await;
    for (path, end) in
        [("/echo", "\r\n\r\nhello"), ("/upload", "{\"bytes\":5,\"pod\":\"kubia-1\"}\n"), ("/", "kubia-1\n")]
    {
        let mut stream = connect(&pod).await;
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n", "{path}");
        stream.write_all(b"hello").await.unwrap();
        let answer = read_until(&mut stream, end).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(path != "/echo" || answer.contains("Content-Length: 5\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn it_sends_and_takes_many_bytes() {
    let pod = pod().await;
    let answer = get(&pod, "/bytes/1000001").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Length: 1000001"), "{head}");
    assert_eq!(body.len(), 1_000_001);

    let upload =
        format!("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000001\r\n\r\n{}", "u".repeat(1_000_001));
    assert_eq!(json(&ask(&pod, upload).await), json!({ "pod": "kubia-1", "bytes": 1_000_001 }));

    for too_much in ["/bytes/1073741825", "/bytes/", "/bytes/-1", "/bytes/99999999999999999999"] {
        assert_eq!(status(&get(&pod, too_much).await), "400", "{too_much}");
    }
    let too_long = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741825\r\n\r\n";
    assert_eq!(status(&ask(&pod, too_long).await), "413");
}

#[tokio::test]
async fn a_status_and_headers_come_on_request() {
    let pod = pod().await;
    let answer = get(&pod, "/?status=503&header=X-A:1&header=X-A:2&header=Content-Type:text/html").await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("X-A: 1\r\nX-A: 2\r\n"), "{answer}");
    assert!(answer.contains("Content-Type: text/html\r\n") && !answer.contains("text/plain"), "{answer}");
    assert_eq!(status(&get(&pod, "/headers?status=418").await), "418");

    let refused = get(&pod, "/?status=101").await;
    assert_eq!(status(&refused), "400");
    assert!(refused.ends_with("status must be a final status code, 200 to 599\n"), "{refused}");
}

#[tokio::test]
async fn statuses_without_content_have_none() {
    let pod = pod().await;
    for code in ["204", "205", "304"] {
        let mut stream = connect(&pod).await;
        let request =
            format!("POST /echo?status={code}&body-delay=1ms HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
        // Twice, so that content after the first head would spoil the second.
        for _ in 0..2 {
            stream.write_all(request.as_bytes()).await.unwrap();
            let head = read_until(&mut stream, "\r\n\r\n").await;
            assert!(head.starts_with(&format!("HTTP/1.1 {code} ")), "{head}");
            assert_eq!(head.contains("Content-Length: 0"), code == "205", "{head}");
        }
    }
}

#[tokio::test]
async fn head_tells_the_length_and_sends_nothing() {
    let pod = pod().await;
    let answer = ask(&pod, "HEAD /bytes/7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("Content-Length: 7\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn chunked_hides_the_length() {
    let pod = pod().await;
    let answer = get(&pod, "/?chunked=1").await;
    assert!(answer.contains("Transfer-Encoding: chunked\r\n") && !answer.contains("Content-Length"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n13\r\nYou've hit kubia-1\n\r\n0\r\n\r\n"), "{answer}");
    // HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
    let answer = ask(&pod, "GET /?chunked=1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    // The target comes back in `X-Target`, and has the word in it.
    let rest = answer.replace("X-Target: /?chunked=1\r\n", "");
    assert!(!rest.contains("chunked") && rest.ends_with("\r\n\r\nYou've hit kubia-1\n"), "{answer}");
}

#[tokio::test]
async fn http_1_0_keeps_a_connection_only_if_asked_to() {
    let pod = pod().await;
    let mut stream = connect(&pod).await;
    stream.write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    assert!(read_until(&mut stream, "kubia-1\n").await.to_lowercase().contains("connection: keep-alive\r\n"));
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut last = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut last)).await.expect("the pod closes").unwrap();
    assert!(last.starts_with("HTTP/1.0 200 OK\r\n") && last.contains("X-Connection-Requests: 2\r\n"), "{last}");
}

#[tokio::test]
async fn it_closes_or_aborts_on_request() {
    let pod = pod().await;
    let mut stream = connect(&pod).await;
    stream.write_all(b"GET /?close=1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("the pod closes").unwrap();
    assert!(answer.to_lowercase().contains("connection: close\r\n") && answer.ends_with("kubia-1\n"), "{answer}");

    let mut stream = connect(&pod).await;
    stream.write_all(b"GET /?abort=1 HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("the pod closes");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn delays_hold_back_the_answer_or_the_body() {
    let pod = pod().await;
    let begin = Instant::now();
    assert_eq!(status(&get(&pod, "/?delay=120ms").await), "200");
    assert!(begin.elapsed() >= Duration::from_millis(120));

    let mut stream = connect(&pod).await;
    stream.write_all(b"GET /?body-delay=60s HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").await;
    assert!(head.contains("Content-Length: 19\r\n"), "{head}");
    let body = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
    assert!(body.is_err(), "the body came at once");

    let begin = Instant::now();
    assert!(get(&pod, "/?body-delay=80ms&chunked=1").await.contains("kubia-1\n"));
    assert!(begin.elapsed() >= Duration::from_millis(80));
}

#[tokio::test]
async fn nonsense_is_refused_and_nothing_panics() {
    let pod = pod().await;
    for (request, expected) in [
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n".to_owned(), "405"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(limits::HEAD_BYTES_MAX)), "431"),
        ("POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(), "400"),
        ("POST /?delay=never HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned(), "400"),
    ] {
        assert_eq!(status(&ask(&pod, &request).await), expected, "{request:.60}");
    }
    assert_eq!(status(&get(&pod, "/").await), "200");
}

#[tokio::test]
async fn datagrams_are_answered() {
    let pod = pod().await;
    let socket = UdpSocket::bind(ANY).await.unwrap();
    socket.connect(pod.udp_addrs()[0]).await.unwrap();
    let large = [&b"echo "[..], &[b'z'; 60_000]].concat();
    for (question, expected) in
        [(&b"hello"[..], &b"You've hit kubia-1\n"[..]), (b"", b"You've hit kubia-1\n"), (&large, &large)]
    {
        socket.send(question).await.unwrap();
        let mut answer = vec![0; limits::DATAGRAM_BYTES_MAX];
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut answer)).await.expect("an answer").unwrap();
        assert!(answer[..length] == *expected);
    }
    assert_eq!((pod.connections(), pod.requests()), (0, 3));
}

#[tokio::test]
async fn the_proxy_protocol_names_the_client() {
    let pod = proxied_pod().await;
    let request = b"GET /headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let v2 = |command: u8, rest: &[u8]| {
        let length = u8::try_from(rest.len()).unwrap();
        [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x20 | command, 0x11, 0, length], rest].concat()
    };
    let addresses = [192, 0, 2, 1, 198, 51, 100, 2, 0x04, 0xd2, 0x00, 0x50];
    let with_noop = [&addresses[..], &[0x04, 0, 1, 42]].concat();
    for (header, source, destination) in [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1234 80\r\n".to_vec(), "192.0.2.1:1234", "198.51.100.2:80"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\n".to_vec(), "[2001:db8::1]:1234", "[2001:db8::2]:80"),
        (v2(1, &addresses), "192.0.2.1:1234", "198.51.100.2:80"),
        (v2(1, &with_noop), "192.0.2.1:1234", "198.51.100.2:80"),
    ] {
        let answer = ask(&pod, [&header, &request[..]].concat()).await;
        assert!(answer.contains(&format!("X-Peer: {source}\r\n")), "{answer}");
        let report = json(&answer);
        assert_eq!(report["peer"], source);
        assert_eq!(report["proxyProtocol"], json!({ "source": source, "destination": destination }));
    }
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0, &[])] {
        let report = json(&ask(&pod, [&header, &request[..]].concat()).await);
        assert!(report["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{report}");
        assert_eq!(report["proxyProtocol"], json!(null));
    }
}

#[tokio::test]
async fn without_a_good_proxy_header_the_connection_closes() {
    let pod = proxied_pod().await;
    let long_v1 = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
    let long_v2 = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x21, 0x11, 0xff, 0xff]].concat();
    for header in
        [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PROXY TCP4 a b c d\r\n", long_v1.as_bytes(), &long_v2, b"PRO"]
    {
        let mut stream = connect(&pod).await;
        stream.write_all(header).await.unwrap();
        stream.shutdown().await.unwrap();
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("the pod closes");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert_eq!(pod.requests(), 0);
}

#[tokio::test]
async fn a_dropped_pod_refuses_at_once_and_its_address_is_free() {
    let pod = pod().await;
    let address = pod.http_addrs()[0];
    let mut kept = connect(&pod).await;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut kept, "kubia-1\n").await;
    drop(pod);
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let read = tokio::time::timeout(PATIENCE, kept.read(&mut [0; 16])).await.expect("the connection is cut");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");

    let again = Pod::start(PodOptions::new("kubia-2", [Listen::Http(address)])).await.unwrap();
    assert!(get(&again, "/").await.ends_with("You've hit kubia-2\n"));
}

#[tokio::test]
async fn a_shutdown_finishes_what_has_begun() {
    let pod = pod().await;
    let address = pod.http_addrs()[0];
    let _idle = connect(&pod).await;
    let mut busy = connect(&pod).await;
    busy.write_all(b"GET /?delay=200ms HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    while pod.requests() == 0 {
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    let shutdown = tokio::spawn(pod.shutdown());
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, busy.read_to_string(&mut answer)).await.expect("the pod closes").unwrap();
    assert!(answer.to_lowercase().contains("connection: close\r\n") && answer.ends_with("kubia-1\n"), "{answer}");
    shutdown.await.unwrap();
    assert!(begin.elapsed() < limits::SHUTDOWN_GRACE);
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn an_address_that_cannot_be_opened_is_named() {
    let first = pod().await;
    for taken in [Listen::Http(first.http_addrs()[0]), Listen::Udp(first.udp_addrs()[0])] {
        let error = Pod::start(PodOptions::new("kubia-2", [taken])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with(&format!("pod kubia-2 cannot listen on {taken}: ")), "{error}");
    }
    for name in ["", "two\nlines"] {
        assert_eq!(Pod::start(PodOptions::new(name, [])).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

#[tokio::test]
async fn a_dual_stack_listener_shows_ipv4_clients_as_they_are() {
    let Ok(pod) = Pod::start(PodOptions::new("kubia-1", [Listen::Http((Ipv6Addr::UNSPECIFIED, 0).into())])).await
    else {
        return; // a machine without IPv6
    };
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, pod.http_addrs()[0].port())).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let answer = read_until(&mut stream, "kubia-1\n").await;
    assert!(answer.contains("X-Peer: 127.0.0.1:"), "{answer}");
}

#[tokio::test]
async fn a_killed_pod_cuts_what_is_under_way_and_its_addresses_are_free() {
    let mut pod = pod().await;
    let (http, udp) = (pod.http_addrs()[0], pod.udp_addrs()[0]);
    let mut idle = connect(&pod).await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut idle, "kubia-1\n").await;
    let mut busy = connect(&pod).await;
    busy.write_all(b"GET /?delay=60s HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    while pod.requests() < 2 {
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    tokio::time::timeout(PATIENCE, pod.kill()).await.expect("it ends");
    assert!(begin.elapsed() < limits::SHUTDOWN_GRACE);
    assert_eq!((pod.connections(), pod.requests()), (2, 2));
    assert_eq!(TcpStream::connect(http).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    for mut stream in [idle, busy] {
        // No waiting: it was closed before `kill` returned.
        stream.readable().await.unwrap();
        assert!(matches!(stream.read(&mut [0; 16]).await, Ok(0) | Err(_)));
    }
    Pod::start(PodOptions::new("kubia-2", [Listen::Http(http), Listen::Udp(udp)])).await.unwrap();
}

#[tokio::test]
async fn only_the_page_it_is_told_of_may_read_its_answers() {
    let options = PodOptions { log: false, ..PodOptions::new("kubia-1", [Listen::Http(ANY)]) };
    let page = Arc::clone(&options.page);
    let pod = Pod::start(options).await.unwrap();
    let from = async |origin: &str, target: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n");
        ask(&pod, request).await
    };
    let ours = "http://127.0.0.1:9901";
    assert!(!from(ours, "/").await.contains("Access-Control"), "nobody was named yet");
    page.set(HeaderValue::from_static(ours)).unwrap();
    for (target, status) in [("/", "200 OK"), ("/?delay=never", "400 Bad Request")] {
        let answer = from(ours, target).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        for line in [
            "Access-Control-Allow-Origin: http://127.0.0.1:9901",
            "Access-Control-Allow-Credentials: true",
            "Access-Control-Expose-Headers: X-Pod, X-Peer, X-Port, X-Connection-Reused, X-Connection-Requests, X-Request-Id",
            "Vary: Origin",
        ] {
            assert!(answer.lines().any(|have| have == line), "{line} is missing in {answer}");
        }
    }
    for other in ["http://127.0.0.1:9902", "http://localhost:9901", "https://127.0.0.1:9901", "null"] {
        let answer = from(other, "/").await;
        assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("Access-Control"), "{answer}");
    }
    assert!(!get(&pod, "/").await.contains("Access-Control"));
}

#[tokio::test]
async fn the_id_of_a_request_comes_back() {
    let pod = pod().await;
    let answer = ask(&pod, "GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: abc-1\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("X-Request-Id: abc-1\r\n"), "{answer}");
    assert!(!get(&pod, "/").await.contains("X-Request-Id"));
}

#[tokio::test]
async fn a_report_comes_whatever_the_path() {
    let pod = pod().await;
    let request =
        "POST /echo?report=1 HTTP/1.1\r\nHost: a\r\nCookie: b=c\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    let report = json(&ask(&pod, request).await);
    assert_eq!((&report["pod"], &report["target"]), (&json!("kubia-1"), &json!("/echo?report=1")));
    assert!(report["headers"].as_array().unwrap().contains(&json!(["cookie", "b=c"])), "{report}");
    assert!(get(&pod, "/?report=0").await.ends_with("kubia-1\n"));
}

#[tokio::test]
async fn its_log_has_a_line_for_each_request_if_it_has_one() {
    let options = PodOptions { log: true, ..PodOptions::new("kubia-1", [Listen::Http(ANY), Listen::Udp(ANY)]) };
    let pod = Pod::start(options).await.unwrap();
    let _silent = connect(&pod).await;
    let mut stream = connect(&pod).await;
    let client = stream.local_addr().unwrap();
    for target in ["/?n=1", "/two"] {
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        read_until(&mut stream, "kubia-1\n").await;
    }
    let socket = UdpSocket::bind(ANY).await.unwrap();
    socket.send_to(b"hello", pod.udp_addrs()[0]).await.unwrap();
    let answered = tokio::time::timeout(PATIENCE, socket.recv(&mut [0; 64])).await;
    answered.expect("an answer").unwrap();

    let log = pod.log();
    let said: Vec<&str> = log.lines().map(|line| line.split_once(' ').expect("the time is before it").1).collect();
    let datagram = format!("datagram of 5 bytes from {}", socket.local_addr().unwrap());
    assert_eq!(
        said,
        [
            format!("GET /?n=1 from {client}, request 1 of its connection"),
            format!("GET /two from {client}, request 2 of its connection"),
            datagram,
        ]
    );
    for line in log.lines() {
        humantime::parse_rfc3339(line.split(' ').next().unwrap()).unwrap();
    }
    assert_eq!((pod.connections(), pod.used_connections(), pod.requests()), (2, 1, 3));
    assert_eq!(self::pod().await.log(), "");
}
