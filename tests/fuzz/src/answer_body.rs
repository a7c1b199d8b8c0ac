//! The chunked coding of a pod: what we take is what the grammar says and what hyper's client reads, and how it arrives makes no
//! difference. What the grammar allows we take, too, up to our limits.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tidegate::fuzzing::{Content, Malformed, Piece};

use crate::{hyper_peer, pieces, strict};

/// Sizes above which we may refuse what the grammar allows: the line of a chunk, its digits, trailers.
const LINE: usize = 1 << 10;
const DIGITS: usize = 15;
const TRAILER_FIELDS: usize = 64;

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

#[derive(Debug, PartialEq)]
enum Read {
    /// Content, trailers and how much is left behind them.
    Complete(Vec<u8>, Option<HeaderMap>, usize),
    Incomplete(Vec<u8>),
    Malformed(Vec<u8>),
}

pub fn run(data: &[u8]) {
    let (how, bytes) = pieces::take(data);
    let pieces = pieces::cut(bytes, how);
    let whole = read(&[bytes]);
    assert_eq!(read(&pieces), whole, "pieces make a difference");
    match (&whole, strict::chunked(bytes)) {
        (Read::Complete(content, trailers, left), Ok(Some((expected, fields, rest)))) => {
            assert_eq!((content, *left), (&expected, rest.len()));
            assert_eq!(trailers.clone().unwrap_or_default(), map(&fields));
            check_hyper(&pieces, content, trailers.as_ref());
        }
        (Read::Incomplete(content), Ok(None)) => {
            let hyper = with_head(&pieces).expect("hyper takes the head");
            assert_eq!(hyper.content, None, "hyper believes {} bytes to be complete", content.len());
        }
        // What comes later is not looked at yet.
        (Read::Incomplete(_), Err(_)) => {}
        (Read::Malformed(_), Err(_)) => {}
        (Read::Malformed(_), Ok(_)) => assert!(is_over_limits(bytes), "refused without need"),
        (Read::Complete(..), Ok(None) | Err(_)) | (Read::Incomplete(_), Ok(Some(_))) => {
            panic!("{whole:?}, but by the grammar {:?}", strict::chunked(bytes))
        }
    }
}

fn read(pieces: &[&[u8]]) -> Read {
    let (mut content, mut buffer) = (Content::chunked(), BytesMut::new());
    let (mut pieces, mut all) = (pieces.iter(), Vec::new());
    loop {
        match content.take(&mut buffer) {
            Err(Malformed) => return Read::Malformed(all),
            Ok(Piece::Data(data)) => all.extend_from_slice(&data),
            Ok(Piece::End(trailers)) => {
                assert!(content.is_over());
                return Read::Complete(all, trailers, buffer.len() + pieces.map(|piece| piece.len()).sum::<usize>());
            }
            Ok(Piece::Nothing) => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => return Read::Incomplete(all),
            },
        }
    }
}

fn check_hyper(pieces: &[&[u8]], content: &[u8], trailers: Option<&HeaderMap>) {
    let hyper = with_head(pieces).expect("hyper takes the head");
    let (theirs, fields) = hyper.content.expect("hyper takes the content");
    assert_eq!(content, theirs);
    assert_eq!(trailers.cloned().unwrap_or_default(), fields.unwrap_or_default());
}

fn with_head(pieces: &[&[u8]]) -> Option<hyper_peer::Answered> {
    hyper_peer::client(&[&[HEAD], pieces].concat(), &Method::GET)
}

fn map(fields: &[strict::Field]) -> HeaderMap {
    let field = |(name, value): &strict::Field| {
        Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value).ok()?))
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(|each| field(each).expect("a field by the grammar")) {
        map.append(name, value);
    }
    map
}

/// Whether anything in it may be more than we take. It need not be exact.
fn is_over_limits(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n');
    let has_long = lines
        .clone()
        .any(|line| line.len() >= LINE || line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count() > DIGITS);
    has_long || lines.count() > TRAILER_FIELDS
}
