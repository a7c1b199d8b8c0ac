//! A whole gateway between a client and a pod that says what the input says, over loopback. The pod sees one request, the
//! client's; the client sees the pod's answer as hyper's client reads it, or 502, and never the beginning of one for the whole.
//!
//! The first byte says how the pod's bytes come, the second what the client asks; the rest is what the pod says.

use std::{
    cell::RefCell,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderName, Method, header};
use tidegate::http::{HttpLimits, HttpStats, HttpWorker};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::LocalSet,
    time::timeout,
};

use crate::{
    hyper_peer::{self, Answered},
    manifests, pieces,
    strict::{self, Head, Length},
};

/// No exchange takes longer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the client asks.
struct Asked {
    method: Method,
    /// HTTP/1.0.
    is_old: bool,
    content: Option<Vec<u8>>,
    is_chunked: bool,
    /// The pod answers without a look at the request.
    early: bool,
    upgrades: bool,
}

impl Asked {
    fn of(byte: u8) -> Self {
        let is_old = byte & 4 != 0;
        let upgrades = byte & 0x80 != 0 && !is_old;
        let method = match byte & 3 {
            _ if upgrades => Method::GET,
            0 => Method::GET,
            1 => Method::HEAD,
            2 => Method::POST,
            _ => Method::PUT,
        };
        let size = [0, 1, 1000, 9000][usize::from(byte >> 4 & 3)];
        let is_chunked = byte & 8 != 0 && !is_old;
        let has_content = [Method::POST, Method::PUT].contains(&method);
        let content =
            has_content.then(|| b"GET / HTTP/1.1\r\n\r\n0\r\n\r\n".iter().copied().cycle().take(size).collect());
        Self { method, is_old, content, is_chunked, early: byte & 0x40 != 0, upgrades }
    }

    fn bytes(&self) -> Vec<u8> {
        let version = if self.is_old { "1.0" } else { "1.1" };
        let mut bytes =
            format!("{} /a?b HTTP/{version}\r\nHost: pod.example\r\nX-Own: 1\r\n", self.method).into_bytes();
        let connection =
            if self.upgrades { "Upgrade: websocket\r\nConnection: upgrade, close" } else { "Connection: close" };
        bytes.extend_from_slice(connection.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        match &self.content {
            None => bytes.extend_from_slice(b"\r\n"),
            Some(content) if self.is_chunked => {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in content.chunks(700) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            Some(content) => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.len()).as_bytes());
                bytes.extend_from_slice(content);
            }
        }
        bytes
    }
}

/// The gateway and its pod, for all inputs.
struct World {
    runtime: Runtime,
    tasks: LocalSet,
    _worker: HttpWorker,
    pod: TcpListener,
    addr: SocketAddr,
}

thread_local! {
    static WORLD: World = World::new();
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let tasks = LocalSet::new();
        let (worker, pod, addr) = tasks.block_on(&runtime, async {
            let pod = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let compiled = manifests::good(&manifests(pod.local_addr().expect("an address").port()));
            // Nothing is kept from input to input.
            let limits = HttpLimits { idle_upstream_per_endpoint: 0, ..HttpLimits::default() };
            let worker = HttpWorker::new(limits, compiled.snapshot.clone(), Arc::<HttpStats>::default());
            let listener = StdListener::bind("127.0.0.1:0").expect("a listener");
            let addr = listener.local_addr().expect("an address");
            worker.open(listener).expect("it listens");
            (worker, pod, addr)
        });
        Self { runtime, tasks, _worker: worker, pod, addr }
    }
}

fn manifests(port: u16) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: pod}}
spec: {{ports: [{{port: 80, targetPort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: pod-1, labels: {{kubernetes.io/service-name: pod}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: pod}}
spec:
  rules:
  - http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: pod, port: {{number: 80}}}}}}}}]}}
"
    )
}

pub fn run(data: &[u8]) {
    let (how, data) = pieces::take(data);
    let (what, said) = pieces::take(data);
    let asked = Asked::of(what);
    let pieces = pieces::cut(said, how);
    let seen: RefCell<Vec<Vec<u8>>> = RefCell::default();
    let (heard, is_whole) = WORLD.with(|world| {
        world.tasks.block_on(&world.runtime, async {
            let exchange = async {
                tokio::select! {
                    heard = client(world.addr, &asked) => heard,
                    () = pod(&world.pod, &pieces, &asked, &seen) => unreachable!("it serves for ever"),
                }
            };
            timeout(PATIENCE, exchange).await.expect("the exchange hangs")
        })
    });
    for request in seen.take() {
        check_request(&request, &asked);
    }
    check_answer(&heard, is_whole, said, &asked);
}

/// What a client hears, and whether to the proper end of the connection.
async fn client(addr: SocketAddr, asked: &Asked) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(addr).await.expect("it connects");
    let (mut read, mut write) = stream.split();
    let mut heard = Vec::new();
    let request = asked.bytes();
    // Who answers early need not read on.
    let (_, end) = tokio::join!(write.write_all(&request), read.read_to_end(&mut heard));
    (heard, end.is_ok())
}

/// Serves its connections one after the other: reads a request, says its piece, and reads what still comes.
async fn pod(listener: &TcpListener, pieces: &[&[u8]], asked: &Asked, seen: &RefCell<Vec<Vec<u8>>>) {
    loop {
        let (mut stream, _) = listener.accept().await.expect("it accepts");
        let at = seen.borrow().len();
        seen.borrow_mut().push(Vec::new());
        if !asked.early {
            while !is_whole(&seen.borrow()[at]) && read_some(&mut stream, seen, at).await {}
        }
        for piece in pieces {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // To end with unread bytes would destroy the answer.
        drop(stream.shutdown().await);
        while read_some(&mut stream, seen, at).await {}
    }
}

async fn read_some(stream: &mut TcpStream, seen: &RefCell<Vec<Vec<u8>>>, at: usize) -> bool {
    let mut buffer = [0; 4 << 10];
    let Ok(count @ 1..) = stream.read(&mut buffer).await else { return false };
    seen.borrow_mut()[at].extend_from_slice(&buffer[..count]);
    true
}

fn is_whole(request: &[u8]) -> bool {
    strict::requests(request).first().is_some_and(|request| request.content.is_some())
}

/// One request, the client's, or the beginning of it.
fn check_request(bytes: &[u8], asked: &Asked) {
    let Ok(Some((head, rest))) = strict::request(bytes) else {
        assert!(strict::request(bytes) == Ok(None), "no request: {}", bytes.escape_ascii());
        return;
    };
    assert_eq!(head.start, [asked.method.as_str(), "/a?b", "HTTP/1.1"].map(str::as_bytes));
    for (name, value) in [("host", "pod.example"), ("x-own", "1"), ("x-forwarded-for", "127.0.0.1")] {
        assert_eq!(head.all(name).collect::<Vec<_>>(), [value.as_bytes()], "{name}");
    }
    let sent = asked.content.clone().unwrap_or_default();
    let (content, rest) = match head.length().expect("its length is clear") {
        Length::Unsaid => (Vec::new(), rest),
        Length::Bytes(length) => {
            assert_eq!(length, sent.len() as u64);
            match strict::counted(rest, length) {
                Some(read) => read,
                None => return assert!(sent.starts_with(rest), "other content"),
            }
        }
        Length::Chunked => match strict::chunked(rest).expect("chunks by the letter") {
            Some((content, trailers, rest)) => {
                assert_eq!(trailers, []);
                (content, rest)
            }
            None => return,
        },
    };
    assert_eq!(content, sent);
    assert!(rest.is_empty(), "something follows the request: {}", rest.escape_ascii());
}

/// Fields that are between the gateway and its client.
const OURS: [HeaderName; 5] =
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::DATE, header::SERVER];

fn check_answer(heard: &[u8], is_whole: bool, said: &[u8], asked: &Asked) {
    let mut bytes = heard;
    let (head, rest) = loop {
        match strict::answer(bytes).expect("an answer by the letter") {
            Some((head, rest)) if head.start[1][0] == b'1' && head.start[1] != b"101" => bytes = rest,
            Some(answer) => break answer,
            None => return assert!(!is_whole || heard.is_empty(), "half a head: {}", heard.escape_ascii()),
        }
    };
    if head.start[1] == b"101" {
        assert!(asked.upgrades, "a change of protocol that nobody asked for");
        assert!(is_whole && said.ends_with(rest), "a tunnel changes nothing");
        return;
    }
    let content = content(&head, rest, is_whole, asked);
    let theirs = hyper_peer::client(&[said], &asked.method);
    if head.start[1] == b"502" && theirs.as_ref().is_none_or(|theirs| theirs.status != 502 || content.is_some()) {
        assert!(content.is_some(), "our own words are whole");
        return;
    }
    let Some(Answered { status, headers, content: expected }) = theirs else {
        panic!("hyper takes it for no answer, and we passed it on: {}", heard.escape_ascii())
    };
    assert_eq!(head.start[1], status.as_str().as_bytes());
    check_fields(&head, &headers);
    match (content, expected) {
        (Some(content), Some((expected, _))) => assert_eq!(content, expected),
        (Some(content), None) => panic!("the beginning was passed on for the whole: {}", content.escape_ascii()),
        // A pod that sends what is no content may have been stopped in it.
        (None, _) => {}
    }
}

/// The content of an answer; `None` if it is not whole.
fn content(head: &Head, rest: &[u8], is_whole: bool, asked: &Asked) -> Option<Vec<u8>> {
    let has_none = asked.method == Method::HEAD || matches!(&head.start[1][..], b"204" | b"304");
    let (content, rest) = match head.length().expect("its length is clear") {
        _ if has_none => (Vec::new(), rest),
        Length::Bytes(length) => strict::counted(rest, length)?,
        Length::Chunked => {
            assert!(!asked.is_old, "chunks for HTTP/1.0");
            let (content, _, rest) = strict::chunked(rest).expect("chunks by the letter")?;
            (content, rest)
        }
        Length::Unsaid => return is_whole.then(|| rest.to_vec()),
    };
    assert!(rest.is_empty(), "something follows the answer: {}", rest.escape_ascii());
    Some(content)
}

fn check_fields(head: &Head, said: &HeaderMap) {
    let mut said = said.clone();
    let trailers: Vec<&[u8]> = said.get_all(header::TRAILER).iter().map(|value| value.as_bytes()).collect();
    if trailers.len() > 1 {
        // hyper writes them as one, which means the same (RFC 9110 5.3).
        let joined =
            http::HeaderValue::from_bytes(&trailers.join(&b", "[..])).expect("values, and commas between them");
        said.insert(header::TRAILER, joined);
    }
    for (name, value) in &head.fields {
        let is_ours = OURS.iter().any(|ours| ours == name.as_str());
        assert!(is_ours || said.get_all(name).iter().any(|said| said.as_bytes() == value), "{name} is not the pod's");
    }
    for name in ["keep-alive", "proxy-connection", "te", "upgrade", "proxy-authenticate", "proxy-authorization"] {
        assert_eq!(head.all(name).count(), 0, "{name} belongs to one connection");
    }
    let expected = said.keys().filter(|name| head.all(name.as_str()).count() > 0);
    for name in expected.filter(|name| !OURS.contains(name)) {
        assert_eq!(head.all(name.as_str()).count(), said.get_all(name).iter().count(), "{name}");
    }
    let connection: Vec<&[u8]> = head.all("connection").collect();
    assert!(connection.iter().all(|value| value.eq_ignore_ascii_case(b"close")), "{connection:?}");
}
