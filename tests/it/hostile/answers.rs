//! What back ends answer, and what must not come of it.

use std::net::SocketAddr;

use tidegate_tests::{Bed, Net, PATIENCE, pod_manifest, service_manifest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{
    strict::{Parsed, parse},
    victim,
};

/// One answer of a back end.
#[derive(Debug)]
pub(super) struct Row {
    name: &'static str,
    method: &'static str,
    bytes: Vec<u8>,
    /// Whether the back end closes behind it.
    closes: bool,
    client: Gets,
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// A whole answer with this status and content.
    Whole(u16, &'static str),
    /// A whole answer that the gateway made.
    Status(u16),
    /// An answer that visibly has no proper end: the back end's was noticed to be bad only in its content.
    Broken,
}

fn bad(name: &'static str, bytes: impl Into<Vec<u8>>) -> Row {
    Row { name, method: "GET", bytes: bytes.into(), closes: true, client: Gets::Status(502) }
}

fn broken(name: &'static str, content: impl AsRef<str>) -> Row {
    let bytes = format!("HTTP/1.1 200 OK\r\n{}", content.as_ref());
    Row { client: Gets::Broken, ..bad(name, bytes) }
}

fn good(status: u16, content: &'static str, name: &'static str, bytes: impl Into<Vec<u8>>) -> Row {
    Row { client: Gets::Whole(status, content), closes: false, ..bad(name, bytes) }
}

fn ok(lines: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{lines}")
}

/// Bytes behind an answer that would be taken for the next one's.
const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Target: /poison\r\n\r\npoison";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = heads();
    rows.extend(lengths());
    rows.extend(contents());
    rows.extend(accepted());
    rows
}

fn heads() -> Vec<Row> {
    vec![
        bad("nothing", ""),
        bad("nonsense", "nonsense\r\n\r\n"),
        bad("half a status line", "HTTP/1.1 20"),
        bad("half a head", ok("Content-Le")),
        bad("a head without an end", ok("Content-Length: 2\r\n")),
        bad("HTTP/0.9", "<html>ok</html>"),
        bad("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("ICY", "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("a version in small letters", "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("a status in letters", "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok"),
        bad("status 000", "HTTP/1.1 000 No\r\nContent-Length: 2\r\n\r\nok"),
        bad("status 099", "HTTP/1.1 099 No\r\nContent-Length: 2\r\n\r\nok"),
        bad("status 600", "HTTP/1.1 600 No\r\nContent-Length: 2\r\n\r\nok"),
        bad("status 999", "HTTP/1.1 999 No\r\nContent-Length: 2\r\n\r\nok"),
        bad("a status line with a NUL", "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok"),
        bad("a bare LF behind the status line", "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok"),
        bad("a bare LF behind a field", ok("X: y\nContent-Length: 2\r\n\r\nok")),
        bad("a bare LF at the end of the head", ok("Content-Length: 2\r\n\nok")),
        bad("a bare CR in a value", ok("X: y\rSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok")),
        bad("a NUL in a value", ok("X: y\0z\r\nContent-Length: 2\r\n\r\nok")),
        bad("a folded value", ok("X: y\r\n z\r\nContent-Length: 2\r\n\r\nok")),
        bad("a space in front of the first field", ok(" X: y\r\nContent-Length: 2\r\n\r\nok")),
        bad("a space behind a name", ok("Content-Length : 2\r\n\r\nok")),
        bad("a space in a name", ok("X Y: z\r\nContent-Length: 2\r\n\r\nok")),
        bad("no colon", ok("X\r\nContent-Length: 2\r\n\r\nok")),
        bad("no name", ok(": y\r\nContent-Length: 2\r\n\r\nok")),
        bad("300 fields", ok(&("X: y\r\n".repeat(300) + "Content-Length: 2\r\n\r\nok"))),
        bad("a head of 100 KiB", ok(&format!("X: {}\r\nContent-Length: 2\r\n\r\nok", "y".repeat(100 << 10)))),
        bad("a head of 4 MB", ok(&"X: y\r\n".repeat(700_000))),
        bad("101, unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
        bad("101 without an upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        bad("an interim answer and no more", "HTTP/1.1 100 Continue\r\n\r\n"),
        bad("a flood of interim answers", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(20_000)),
        bad("an interim answer, then nonsense", "HTTP/1.1 103 Early Hints\r\n\r\nnonsense\r\n\r\n"),
        bad("a request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]
}

fn lengths() -> Vec<Row> {
    vec![
        bad("a list of equal lengths", ok("Content-Length: 2, 2\r\n\r\nok")),
        bad("two equal lengths", ok("Content-Length: 2\r\nContent-Length: 2\r\n\r\nok")),
        bad("two lengths", ok("Content-Length: 2\r\nContent-Length: 3\r\n\r\nok")),
        bad("a length with a sign", ok("Content-Length: +2\r\n\r\nok")),
        bad("a negative length", ok("Content-Length: -2\r\n\r\nok")),
        bad("a length in letters", ok("Content-Length: two\r\n\r\nok")),
        bad("no length", ok("Content-Length:\r\n\r\nok")),
        bad("a length of 2^64 + 2", ok("Content-Length: 18446744073709551618\r\n\r\nok")),
        bad("a length and chunks", ok("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        bad("chunks and a length", ok("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        bad("205 with content", "HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nok"),
        bad("205 without a length", "HTTP/1.1 205 Reset Content\r\n\r\nok"),
        bad("xchunked", ok("Transfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        bad("gzip, chunked", ok("Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        bad("chunked, chunked", ok("Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        bad("two codings", ok("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        bad("identity", ok("Transfer-Encoding: identity\r\n\r\nok")),
        bad("chunks of HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ]
}

fn contents() -> Vec<Row> {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";
    let chunks = |name: &'static str, content: &str| broken(name, format!("{CHUNKED}{content}"));
    vec![
        broken("content shorter than its length", "Content-Length: 100\r\n\r\nabc"),
        broken("no content at all", "Content-Length: 100\r\n\r\n"),
        chunks("chunks without an end", "2\r\nok\r\n"),
        chunks("half a chunk", "64\r\nok"),
        chunks("no chunk at all", ""),
        chunks("half an end", "2\r\nok\r\n0\r\n"),
        chunks("a size with other letters", "2\r\nok\r\nxyz\r\nok\r\n0\r\n\r\n"),
        chunks("a negative size", "2\r\nok\r\n-2\r\nok\r\n0\r\n\r\n"),
        chunks("a size of 2^64 + 2", "2\r\nok\r\n10000000000000002\r\nok\r\n0\r\n\r\n"),
        chunks("a size line with a bare LF", "2\r\nok\r\n2\nok\r\n0\r\n\r\n"),
        chunks("a chunk longer than its size", "2\r\noker\r\n0\r\n\r\n"),
        chunks("an end with a bare LF", "2\r\nok\r\n0\r\n\n"),
        chunks("a trailer without a colon", "2\r\nok\r\n0\r\nX\r\n\r\n"),
        chunks("a trailer with a NUL", "2\r\nok\r\n0\r\nX: \0\r\n\r\n"),
        chunks("1 MB of trailers", &format!("2\r\nok\r\n0\r\n{}\r\n", "X: y\r\n".repeat(170_000))),
        chunks("an extension of 1 MB", &format!("2;{}\r\nok\r\n0\r\n\r\n", "x".repeat(1 << 20))),
    ]
}

fn accepted() -> Vec<Row> {
    let poisoned = |answer: &str| format!("{answer}{POISON}");
    vec![
        good(200, "ok", "a second answer behind the first", poisoned(&ok("Content-Length: 2\r\n\r\nok"))),
        good(200, "", "an answer behind none", poisoned(&ok("Content-Length: 0\r\n\r\n"))),
        good(
            200,
            "ok",
            "an answer behind chunks",
            poisoned(&ok("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")),
        ),
        good(200, "ok", "content longer than its length", ok("Content-Length: 2\r\n\r\nok and more")),
        good(204, "", "204 with content", poisoned("HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n")),
        good(
            204,
            "",
            "204 with chunks",
            "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        good(304, "", "304 with content", poisoned("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n")),
        good(205, "", "205", "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
        Row { method: "HEAD", ..good(200, "", "HEAD with content", poisoned(&ok("Content-Length: 6\r\n\r\n"))) },
        Row {
            method: "HEAD",
            ..good(200, "", "HEAD with chunks", ok("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
        },
        good(200, "ok", "100 first", format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok("Content-Length: 2\r\n\r\nok"))),
        good(
            200,
            "ok",
            "102 twice, first",
            format!("{0}{0}{1}", "HTTP/1.1 102 Processing\r\n\r\n", ok("Content-Length: 2\r\n\r\nok")),
        ),
        Row { closes: true, ..good(200, "ok", "the end of the connection is the end", ok("\r\nok")) },
        Row { closes: true, ..good(200, "ok", "HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nok") },
        good(200, "ok", "HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        good(200, "ok", "a length with zeros in front", ok("Content-Length: 002\r\n\r\nok")),
        good(200, "ok", "no reason", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"),
        good(200, "ok", "an empty reason", "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"),
        good(
            200,
            "ok",
            "extensions and trailers",
            ok("Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nX: y\r\n\r\n"),
        ),
        good(
            200,
            "ok",
            "fields of one hop",
            ok(
                "Connection: X-Hop, close\r\nX-Hop: poison\r\nKeep-Alive: poison\r\nUpgrade: poison\r\nProxy-Authenticate: poison\r\nContent-Length: 2\r\n\r\nok",
            ),
        ),
        good(
            200,
            "ok",
            "an upgrade that was not asked for",
            ok("Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn back_ends_harm_nobody_but_themselves() {
    let net = Net::next();
    let listener = TcpListener::bind(SocketAddr::new(net.ip(2), 8080)).await.expect("the back end listens");
    let back_end = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    let ingress = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: all}\n\
                   spec: {defaultBackend: {service: {name: liar, port: {number: 80}}}}\n";
    let manifests = pod_manifest("liar", "liar", net.ip(2)) + &service_manifest("liar", "liar", "") + ingress;
    let bed = Bed::start_with(net, &manifests, |options| options.workers = 1).await;
    let rows = rows();
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let (gets, text) = ask(bed.app.http(), row.method, number).await;
        let got = match (row.client, gets) {
            (Gets::Status(status), Got::Whole(found, _)) => status == found,
            (Gets::Whole(status, content), Got::Whole(found, bytes)) => status == found && content.as_bytes() == bytes,
            // Noticed before the first byte went out, it is a 502.
            (Gets::Broken, Got::Broken | Got::Whole(502, _)) => true,
            (Gets::Status(_) | Gets::Whole(..), Got::Broken) | (Gets::Broken, Got::Whole(..)) => false,
        };
        let mut complaint = (!got).then(|| format!("the client got {text:?}, not {:?}", row.client));
        if text.contains("poison") {
            complaint = Some(format!("the client got what was not meant for it: {text:?}"));
        }
        for _ in 0..2 {
            complaint = complaint.or(victim(bed.app.http()).await.err());
        }
        wrong.extend(complaint.map(|complaint| format!("{}: {complaint}", row.name)));
    }
    back_end.abort();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Answers `/row/N` as the row says, and everybody else properly.
async fn answer(mut stream: TcpStream) {
    let rows = rows();
    let mut buffer = Vec::new();
    loop {
        match parse(&buffer) {
            Parsed::Whole(request, taken) => {
                buffer.drain(..taken);
                let row =
                    request.target.strip_prefix("/row/").and_then(|number| rows.get(number.parse::<usize>().ok()?));
                let good = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Target: {}\r\n\r\nok", request.target);
                let bytes = row.map_or(good.as_bytes(), |row| &row.bytes);
                if stream.write_all(bytes).await.is_err() || row.is_some_and(|row| row.closes) {
                    return;
                }
            }
            Parsed::Partial(_) => match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            },
            Parsed::Malformed(_) => return,
        }
    }
}

enum Got {
    Whole(u16, Vec<u8>),
    Broken,
}

/// Asks for a row's answer, and reads up to the end of the connection.
async fn ask(gateway: SocketAddr, method: &str, number: usize) -> (Got, String) {
    let mut stream = TcpStream::connect(gateway).await.expect("the gateway listens");
    let request = format!("{method} /row/{number} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the request is sent");
    let mut bytes = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    let text = format!("{} ({ended:?})", bytes.escape_ascii());
    let is_end = matches!(ended, Ok(Ok(_)));
    let mut rest = &bytes[..];
    loop {
        match whole(rest, method == "HEAD", is_end) {
            // Interim answers may be passed on.
            Some((status @ 100..=199, _, after)) if status != 101 => rest = after,
            Some((status, content, [])) => return (Got::Whole(status, content), text),
            Some(_) | None => return (Got::Broken, text),
        }
    }
}

/// The first answer: its status, its content, and what is behind it; `None` if it has no proper end.
fn whole(bytes: &[u8], is_head: bool, is_end: bool) -> Option<(u16, Vec<u8>, &[u8])> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let mut rest = &bytes[end..];
    let status: u16 = head.strip_prefix("http/1.1 ")?.get(..3)?.parse().ok()?;
    let field = |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    if is_head || matches!(status, 100..=199 | 204 | 304) {
        return Some((status, Vec::new(), rest));
    }
    match (field("content-length"), field("transfer-encoding")) {
        (Some(length), None) => {
            let (content, rest) = rest.split_at_checked(length.parse().ok()?)?;
            Some((status, content.to_vec(), rest))
        }
        (None, Some("chunked")) => {
            let mut content = Vec::new();
            loop {
                let line = rest.windows(2).position(|two| two == b"\r\n")?;
                let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
                rest = &rest[line + 2..];
                if size == 0 {
                    let trailers = rest.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
                    let end = if rest.starts_with(b"\r\n") { 2 } else { trailers? };
                    return Some((status, content, &rest[end..]));
                }
                let (chunk, after) = rest.split_at_checked(size)?;
                content.extend_from_slice(chunk);
                rest = after.strip_prefix(b"\r\n")?;
            }
        }
        (None, None) => is_end.then(|| (status, rest.to_vec(), &[][..])),
        (Some(_), Some(_)) | (None, Some(_)) => None,
    }
}
