use std::{
    cell::RefCell,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::*;

/// What passes of `bytes`, given in these pieces, and why no more.
fn passed(bytes: &[u8], pieces: impl IntoIterator<Item = usize>) -> (usize, Option<Refusal>) {
    let mut guard = HeadGuard::default();
    let (mut total, mut rest) = (0, bytes);
    let mut pieces = pieces.into_iter();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
        let passed = guard.check(piece);
        total += passed;
        if passed < piece.len() {
            break;
        }
        rest = after;
    }
    (total, guard.refusal())
}

/// `^` stands where the guard must stop.
#[test]
fn what_passes_and_what_does_not() {
    let long = |n: usize| format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;{}", "x".repeat(n));
    let cases: Vec<(String, Option<Refusal>)> = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n", None),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("GET / HTTP/1.1^\nHost: a\n\n", Some(Refusal::BareLf)),
        ("GET / HTTP/1.1\r\nHost: a^\nX: b\r\n\r\n", Some(Refusal::BareLf)),
        ("GET / HTTP/1.1\r\nHost: a\r\n^\n", Some(Refusal::BareLf)),
        ("^\nGET / HTTP/1.1\r\n\r\n", Some(Refusal::BareLf)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1^\n", Some(Refusal::BareLf)),
        ("POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n\n\n\n\nGET / HTTP/1.1^\n", Some(Refusal::BareLf)),
        ("POST / HTTP/1.1\r\nContent-Length:\t 0004 \r\n\r\n\n\n\n\nGET / HTTP/1.1\r\n\r\n", None),
        ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", None),
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\nX: y\r\nCONTENT-LENGTH: 4\r^\n\r\n", Some(Refusal::RepeatedLength)),
        ("POST / HTTP/1.1\r\nContent-Length: 4, 4\r^\n", Some(Refusal::BadLength)),
        ("POST / HTTP/1.1\r\nContent-Length: +4\r^\n", Some(Refusal::BadLength)),
        ("POST / HTTP/1.1\r\nContent-Length: \r^\n", Some(Refusal::BadLength)),
        ("POST / HTTP/1.1\r\nContent-Length: 18446744073709551618\r^\n", Some(Refusal::BadLength)),
        ("POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r^\n", Some(Refusal::LengthAndCoding)),
        ("POST / HTTP/1.1\r\ntransfer-encoding: x\r\ncontent-length: 4\r^\n", Some(Refusal::LengthAndCoding)),
        ("POST / HTTP/1.1\r\nContent-Lengths: 4\r\nContent-Length : 4\r\nContent-Type: x\r\n\r\nGET /^\n", Some(Refusal::BareLf)),
        ("Content-Length: 4\r\nHost: a\r\n\r\nGET /^\n", Some(Refusal::BareLf)),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\n\n\n\r\nA;x=\"y\"\r\n0123456789\r\n0 \t;\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            None,
        ),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /^\n", Some(Refusal::BareLf)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y^\nA: b\r\n\r\n", Some(Refusal::BareLf)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3^\nabc\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r^\rabc\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x^\nabc\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x^\0\r\nabc\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc^d\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r^d\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n^\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0^x3\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n^-3\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 ^3\r\n", Some(Refusal::ChunkLine)),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1000000000000000^0\r\n", Some(Refusal::ChunkLine)),
    ]
    .into_iter()
    .map(|(stream, refusal)| (stream.to_owned(), refusal))
    .chain([
        (format!("{}\r\nhello\r\n0\r\n\r\n", long(200)), None),
        (format!("{}^x\r\nhello\r\n0\r\n\r\n", long(254)), Some(Refusal::ChunkLine)),
        (format!("GET / HTTP/1.1\r\nContent-Length: {}5\r^\n\r\n", " ".repeat(64)), Some(Refusal::BadLength)),
        (format!("GET / HTTP/1.1\r\nContent-Length:{:>32}\r\n\r\n12345", 5), None),
        (format!("GET / HTTP/1.1\r\nContent-Length:{:>33}\r^\n\r\n12345", 5), Some(Refusal::BadLength)),
        (format!("GET / HTTP/1.1\r\nX: {}\r\nContent-Length: 5\r\n\r\n\n\n\n\n\nGET /^\n", "x".repeat(900)), Some(Refusal::BareLf)),
    ])
    .collect();
    for (stream, refusal) in cases {
        let stop = stream.find('^');
        let bytes = stream.replace('^', "").into_bytes();
        let expected = (stop.unwrap_or(bytes.len()), refusal);
        assert_eq!(stop.is_some(), refusal.is_some(), "{stream:?}");
        assert_eq!(passed(&bytes, []), expected, "{stream:?}");
        for size in [1, 2, 3, 7, 47, 48, 49] {
            assert_eq!(passed(&bytes, std::iter::repeat(size)), expected, "{stream:?} in pieces of {size}");
        }
    }
}

#[test]
fn another_protocol_passes_unless_something_was_refused_before() {
    let mut guard = HeadGuard::default();
    guard.check(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");
    guard.release().unwrap();
    assert_eq!(guard.check(b"\n\n\0"), 3);
    let mut guard = HeadGuard::default();
    assert_eq!(guard.check(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x81\n"), 39);
    assert_eq!(guard.release(), Err(Refusal::BareLf));
}

/// A client's socket as `ClientIo` is one.
struct Guarded {
    stream: DuplexStream,
    guard: HeadGuard,
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.guard.refusal().is_some() {
            return Poll::Ready(self.guard.instead(buf));
        }
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.guard.filter(buf, start))
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What hyper makes of `stream`, sent in these pieces, behind a guard: the content of each request (`None`: it was
/// broken off), and the statuses it answered.
fn served(stream: &[u8], pieces: &[usize]) -> (Vec<Option<Vec<u8>>>, Vec<u16>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seen: Rc<RefCell<Vec<Option<Vec<u8>>>>> = Rc::default();
    let answers = runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let service = service_fn(|request: Request<Incoming>| {
            let seen = seen.clone();
            async move {
                let content = request.into_body().collect().await;
                let status = if content.is_ok() { 200 } else { 400 };
                seen.borrow_mut().push(content.ok().map(|content| content.to_bytes().to_vec()));
                let response = Response::builder().status(status).body(Full::new(Bytes::new())).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        let io = TokioIo::new(Guarded { stream: server, guard: HeadGuard::default() });
        let connection = http1::Builder::new().serve_connection(io, service);
        let talk = async {
            let (mut rest, mut pieces) = (stream, pieces.iter());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(pieces.next().map_or(rest.len(), |n| (*n).clamp(1, rest.len())));
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
                rest = after;
            }
            let mut answers = String::new();
            client.read_to_string(&mut answers).await.unwrap();
            answers
        };
        tokio::join!(async { drop(connection.await) }, talk).1
    });
    let statuses = answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect();
    (seen.take(), statuses)
}

/// A request, what its content is, and whether it may pass.
#[derive(Clone, Debug)]
struct Written {
    bytes: Vec<u8>,
    content: Option<Vec<u8>>,
}

/// Content that looks like heads and lines.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece =
        prop::sample::select(vec!["\n", "\r\n", "\n\n", "\r\n\r\n", "GET / HTTP/1.1", "Content-Length: 9", "0", "abc"]);
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat().into_bytes())
}

fn fields() -> impl Strategy<Value = String> {
    let field = prop::sample::select(vec![
        "Host: a\r\n",
        "Cookie: a=b; c=d\r\n",
        "T: x\r\n",
        "C: x\r\n",
        "Content-Type: text/plain\r\n",
        "TE: trailers\r\n",
        "content-lengt: 3\r\n",
        "x-content-length: 7\r\n",
        "X:\r\n",
    ]);
    prop::collection::vec(field, 0..5).prop_map(|fields| fields.concat())
}

fn good() -> impl Strategy<Value = Written> {
    (fields(), fields(), content(), prop::collection::vec(content(), 0..3), 0..4u8, any::<bool>()).prop_map(
        |(before, after, content, chunks, kind, trailer)| {
            let mut bytes = format!("POST / HTTP/1.1\r\n{before}").into_bytes();
            let content = match kind {
                0 => {
                    bytes.extend_from_slice(format!("{after}\r\n").as_bytes());
                    Vec::new()
                }
                1 | 2 => {
                    let name = if kind == 1 { "Content-Length:" } else { "cOnTeNt-LeNgTh: \t 00" };
                    bytes.extend_from_slice(format!("{name}{}\r\n{after}\r\n", content.len()).as_bytes());
                    bytes.extend_from_slice(&content);
                    content
                }
                _ => {
                    bytes.extend_from_slice(format!("transfer-encoding: chunked\r\n{after}\r\n").as_bytes());
                    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                        bytes.extend_from_slice(format!("{:X};x=y\r\n", chunk.len()).as_bytes());
                        bytes.extend_from_slice(chunk);
                        bytes.extend_from_slice(b"\r\n");
                    }
                    bytes.extend_from_slice(if trailer { b"00\r\nX-Sum: 1\r\n\r\n" } else { b"0\r\n\r\n" });
                    chunks.concat()
                }
            };
            Written { bytes, content: Some(content) }
        },
    )
}

/// Requests that must not pass; those with content are broken off in it.
fn bad() -> impl Strategy<Value = Written> {
    let head = |text: &'static str| (text, false);
    let chunked = |text: &'static str| (text, true);
    prop::sample::select(vec![
        head("GET / HTTP/1.1\nHost: a\r\n\r\n"),
        head("GET / HTTP/1.1\r\nHost: a\n\r\n"),
        head("GET / HTTP/1.1\r\nHost: a\r\n\n"),
        head("GET / HTTP/1.1\r\nX: y\nContent-Length: 3\r\n\r\nabc"),
        head("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
        head("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        head("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
        chunked("3\nabc\r\n0\r\n\r\n"),
        chunked("3\r\nabc\n0\r\n\r\n"),
        chunked("3\r\nabc\r\n0\r\nX: y\nA: b\r\n\r\n"),
        chunked("3\r\nabc\r\n0\r\n\n"),
        chunked("3;\x01\r\nabc\r\n0\r\n\r\n"),
    ])
    .prop_map(|(text, is_chunked)| match is_chunked {
        false => Written { bytes: text.into(), content: None },
        true => Written {
            bytes: format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{text}").into(),
            content: Some(Vec::new()),
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Behind a guard, hyper sees good requests as they are, byte for byte, however they come.
    #[test]
    fn good_requests_pass_unchanged(
        requests in prop::collection::vec(good(), 0..5), pieces in prop::collection::vec(1..80usize, 0..30),
    ) {
        let mut stream: Vec<u8> = requests.iter().flat_map(|request| request.bytes.clone()).collect();
        stream.extend_from_slice(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        let (seen, statuses) = served(&stream, &pieces);
        let expected: Vec<_> = requests.into_iter().map(|request| request.content).chain([Some(Vec::new())]).collect();
        prop_assert_eq!(&seen, &expected, "{}", String::from_utf8_lossy(&stream));
        prop_assert_eq!(statuses, vec![200; expected.len()]);
    }

    /// At a bad one it ends, with a 400, and what comes behind is never seen.
    #[test]
    fn bad_requests_end_the_connection(
        requests in prop::collection::vec(good(), 0..3),
        bad in bad(),
        pieces in prop::collection::vec(1..80usize, 0..30),
    ) {
        let mut stream: Vec<u8> = requests.iter().flat_map(|request| request.bytes.clone()).collect();
        stream.extend_from_slice(&bad.bytes);
        stream.extend_from_slice(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        let (seen, statuses) = served(&stream, &pieces);
        let mut expected: Vec<_> = requests.into_iter().map(|request| request.content).collect();
        let mut answers = vec![200; expected.len()];
        expected.extend(bad.content.map(|_| None));
        answers.push(400);
        prop_assert_eq!(&seen, &expected, "{}", String::from_utf8_lossy(&stream));
        prop_assert_eq!(statuses, answers, "{}", String::from_utf8_lossy(&stream));
    }

    /// How the bytes come makes no difference.
    #[test]
    fn pieces_make_no_difference(
        words in prop::collection::vec(prop::sample::select(vec![
            "GET / HTTP/1.1", "\r\n", "\n", "\r", "Content-Length: 3", "Transfer-Encoding: chunked", "\r\n\r\n", "3", "0", "abc", ";x", "X: y",
        ]), 0..20),
        pieces in prop::collection::vec(1..20usize, 0..30),
    ) {
        let stream = words.concat().into_bytes();
        prop_assert_eq!(passed(&stream, pieces), passed(&stream, []), "{:?}", words);
    }
}

/// Run by hand, in a release build, for the figure on top of the file.
#[test]
fn the_cost_of_a_usual_head() {
    let head = b"GET /api/v1/items/42?limit=10 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko\r\n\
        Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Language: en\r\nAccept-Encoding: gzip, deflate, br\r\n\
        Cookie: session=0123456789abcdef0123456789abcdef\r\nConnection: keep-alive\r\n\r\n";
    let rounds = 10_000;
    let mut guard = HeadGuard::default();
    let started = std::time::Instant::now();
    for _ in 0..rounds {
        assert_eq!(guard.check(std::hint::black_box(head)), head.len());
    }
    println!("{} bytes: {:?} each", head.len(), started.elapsed() / rounds);
}
