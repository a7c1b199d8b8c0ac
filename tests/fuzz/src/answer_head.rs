//! A pod's whole answer: heads, then content. What we take, hyper's client takes for the same; we may be stricter. How it
//! arrives makes no difference.

use bytes::BytesMut;
use http::{HeaderMap, Method, header};
use tidegate::fuzzing::{AnswerReader, Malformed, Piece};

use crate::{
    hyper_peer::{self, Answered},
    pieces,
    strict::{self, Length},
};

const LIMIT: usize = 2 << 10;

/// Informational answers before the pod is given up: fewer would never be seen here.
const INFORMATIONAL: usize = 16;

pub fn run(data: &[u8]) {
    let (how, bytes) = pieces::take(data);
    let method = if how & 1 == 1 { Method::HEAD } else { Method::GET };
    let pieces = pieces::cut(bytes, how);
    let whole = read(&[bytes], &method);
    assert_eq!(read(&pieces, &method), whole, "pieces make a difference");
    let Ok(Some(Read { answered, keep_alive, head_bytes })) = whole else { return };
    check_head(&bytes[head_bytes.0..head_bytes.1], &answered, keep_alive);
    // A change of protocol is no exchange any more.
    if answered.status == 101 {
        return;
    }
    let Some(mut theirs) = hyper_peer::client(&pieces, &method) else { panic!("hyper takes it for no answer") };
    remove_hops(&mut theirs.headers, false);
    if answered.content.is_none() {
        theirs.content = None;
    }
    assert_eq!(answered, theirs);
}

#[derive(Debug, PartialEq)]
struct Read {
    answered: Answered,
    keep_alive: bool,
    /// Where the head begins and ends.
    head_bytes: (usize, usize),
}

/// As the gateway reads from a pod, to the end of the connection.
fn read(pieces: &[&[u8]], method: &Method) -> Result<Option<Read>, ()> {
    let (mut reader, mut buffer) = (AnswerReader::default(), BytesMut::new());
    let (mut pieces, mut read) = (pieces.iter(), 0);
    for _ in 0..=INFORMATIONAL {
        let start = read - buffer.len();
        let head = loop {
            match reader.take(&mut buffer, LIMIT).map_err(drop)? {
                Some(head) => break head,
                None => {
                    let Some(piece) = pieces.next() else { return Ok(None) };
                    buffer.extend_from_slice(piece);
                    read += piece.len();
                }
            }
        };
        if head.status().is_informational() && head.status() != 101 {
            continue;
        }
        let head_bytes = (start, read - buffer.len());
        let mut content = head.content(method);
        let mut all = Vec::new();
        let end = loop {
            match content.take(&mut buffer) {
                Err(Malformed) => break None,
                Ok(Piece::Data(data)) => {
                    assert!(!data.is_empty(), "a piece of nothing");
                    all.extend_from_slice(&data);
                }
                Ok(Piece::End(trailers)) => {
                    assert!(content.is_over());
                    break Some((all, trailers));
                }
                Ok(Piece::Nothing) => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => break (content == tidegate::fuzzing::Content::until_close()).then_some((all, None)),
                },
            }
        };
        let answered = Answered { status: head.status(), headers: head.headers().clone(), content: end };
        return Ok(Some(Read { answered, keep_alive: head.keep_alive(), head_bytes }));
    }
    Ok(None)
}

/// What belongs to one connection does not come out of a head (RFC 9110 7.6.1): what `Connection` names, but for what a message cannot
/// do without, and what always does. After 101, `Upgrade` says what the connection has become.
fn remove_hops(headers: &mut HeaderMap, is_switched: bool) {
    let connection: Vec<_> = headers.get_all(header::CONNECTION).iter().cloned().collect();
    let tokens = connection.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    for name in tokens.filter_map(|token| http::HeaderName::from_bytes(token.trim_ascii()).ok()) {
        if !["host", "content-length", "trailer", "upgrade", "close"].contains(&name.as_str()) {
            headers.remove(name);
        }
    }
    let hops = ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "proxy-authenticate"];
    hops.into_iter().chain(["proxy-authorization"]).for_each(|name| drop(headers.remove(name)));
    if !is_switched {
        headers.remove(header::UPGRADE);
    }
}

/// The head by the letter: exactly this much, these fields, and one way to read its length.
fn check_head(bytes: &[u8], answered: &Answered, keep_alive: bool) {
    let (head, rest) = strict::answer(bytes).expect("it is a head by the letter").expect("it is a whole head");
    assert!(rest.is_empty(), "a head and something behind it");
    assert_eq!(head.start[1], answered.status.as_str().as_bytes());
    let length = head.length().expect("its length is clear");
    assert!(length != Length::Chunked || head.start[0] == b"HTTP/1.1", "chunks in HTTP/1.0");
    let mut fields = HeaderMap::new();
    for (name, value) in &head.fields {
        let value = http::HeaderValue::from_bytes(value).expect("a value by the letter");
        fields.append(http::HeaderName::from_bytes(name.as_bytes()).expect("a name by the letter"), value);
    }
    remove_hops(&mut fields, answered.status == 101);
    assert_eq!(fields, answered.headers);
    let says = |word: &[u8]| {
        let mut tokens = head.all("connection").flat_map(|value| value.split(|byte| *byte == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(word))
    };
    let expected = !says(b"close") && (head.start[0] == b"HTTP/1.1" || says(b"keep-alive"));
    assert_eq!(keep_alive, expected, "whether the connection can be used again");
}
