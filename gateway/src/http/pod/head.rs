//! The head of an answer: status line and fields, from bytes (RFC 9112 4, 5), strictly.
//!
//! A pod that answers what can be read in two ways is not understood at all: its client gets 502.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::framing::Framing;
use crate::http::headers::{is_hop_by_hop, named_by};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Most fields of an answer; the limit that hyper has for clients' requests, too.
const FIELDS: usize = 100;

/// Longest Content-Length: 19 digits hold every file there is, and none of them overflows 64 bits.
const LENGTH_DIGITS: usize = 19;

/// Taken off the time that a pod says it keeps idle connections, so that no request meets its end.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// An answer's head.
#[derive(Debug)]
pub(crate) struct AnswerHead {
    pub(crate) status: StatusCode,
    /// The fields, without those that belong to this connection only (RFC 9110 7.6.1); but `Upgrade` is there after 101.
    pub(crate) headers: HeaderMap,
    /// Whether the connection can be used again afterwards, as far as the head says.
    pub(crate) keep_alive: bool,
    /// How long the pod says that it keeps it then, less a margin.
    pub(crate) kept_for: Option<Duration>,
    framing: HeadFraming,
}

/// What the head says about the length of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeadFraming {
    Length(u64),
    Chunked,
    Unsaid,
}

impl AnswerHead {
    /// Where the content of this answer to `method` ends (RFC 9112 6.3).
    pub(crate) fn framing(&self, method: &Method) -> Framing {
        let bodiless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if method == Method::HEAD || bodiless || self.status.is_informational() {
            return Framing::Length(0);
        }
        match self.framing {
            HeadFraming::Length(length) => Framing::Length(length),
            HeadFraming::Chunked => Framing::CHUNKED,
            HeadFraming::Unsaid => Framing::UntilClose,
        }
    }
}

/// Takes a head out of what has arrived, whole or not at all.
#[derive(Debug, Default)]
pub(crate) struct HeadReader {
    /// Bytes that are known not to end a head.
    searched: usize,
}

impl HeadReader {
    /// The head at the beginning of `buffer`; `None` while more of it is needed.
    ///
    /// # Errors
    /// What is wrong with it, as the end of the sentence "the pod …".
    pub(crate) fn take(&mut self, buffer: &mut BytesMut, limit: usize) -> Result<Option<AnswerHead>, &'static str> {
        if !b"HTTP/1.".starts_with(&buffer[..buffer.len().min(7)]) {
            return Err("answered what is not HTTP");
        }
        let Some(length) = self.find_end(buffer)? else {
            let too_long = buffer.len() >= limit;
            return if too_long { Err("answered with too large a head") } else { Ok(None) };
        };
        if length > limit {
            return Err("answered with too large a head");
        }
        self.searched = 0;
        parse(&buffer.split_to(length).freeze()).map(Some)
    }

    /// The length of the head, once its empty line is there. Lines end with CRLF and nothing less.
    fn find_end(&mut self, buffer: &[u8]) -> Result<Option<usize>, &'static str> {
        for at in memchr::memchr_iter(b'\n', &buffer[self.searched..]) {
            let at = self.searched + at;
            if at == 0 || buffer[at - 1] != b'\r' {
                return Err("answered with a bare line feed in the head");
            }
            if at >= 3 && buffer[at - 2] == b'\n' {
                return Ok(Some(at + 1));
            }
        }
        self.searched = buffer.len();
        Ok(None)
    }
}

fn parse(head: &Bytes) -> Result<AnswerHead, &'static str> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err("answered with too many fields"),
        Ok(_) | Err(_) => return Err("answered what is not HTTP"),
    }
    let status = parsed.code.filter(|code| (100..600).contains(code)).and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or("answered with a status that does not exist")?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + 2);
    let (mut framing, mut is_chunked, mut kept_for, mut named) = (HeadFraming::Unsaid, false, None, Vec::new());
    let (mut keeps, mut closes) = (false, false);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| "answered with a bad field name")?;
        if name == header::TRANSFER_ENCODING {
            if is_chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err("answered with a transfer coding other than chunked");
            }
            is_chunked = true;
            continue;
        }
        if name == header::CONTENT_LENGTH {
            if framing != HeadFraming::Unsaid {
                return Err("answered with several Content-Lengths");
            }
            framing = HeadFraming::Length(content_length(field.value)?);
        } else if name == header::CONNECTION {
            let has = |token: &str| {
                field.value.split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
            };
            (keeps, closes) = (keeps || has("keep-alive"), closes || has("close"));
            named.extend(named_by(field.value));
            continue;
        } else if is_hop_by_hop(&name) && (name != header::UPGRADE || status != StatusCode::SWITCHING_PROTOCOLS) {
            kept_for = if name == KEEP_ALIVE { time_kept(field.value).or(kept_for) } else { kept_for };
            continue;
        }
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        headers.append(name, value.map_err(|_| "answered with a bad field value")?);
    }
    for name in named.into_iter().filter(|name| *name != header::UPGRADE) {
        headers.remove(name);
    }
    if is_chunked {
        if framing != HeadFraming::Unsaid {
            return Err("answered with Content-Length and Transfer-Encoding");
        }
        if parsed.version == Some(0) {
            return Err("answered with chunks in HTTP/1.0");
        }
        framing = HeadFraming::Chunked;
    }
    // RFC 9110 15.3.6: it has no content, and its length must say so.
    if status == StatusCode::RESET_CONTENT && framing != HeadFraming::Length(0) {
        return Err("answered 205 with content");
    }
    // RFC 9112 9.3: HTTP/1.1 keeps connections unless it says otherwise, and `close` counts wherever it stands.
    let keep_alive = !closes && (keeps || parsed.version == Some(1));
    Ok(AnswerHead { status, headers, keep_alive, kept_for, framing })
}

/// The time in `timeout=5, max=100`.
fn time_kept(value: &[u8]) -> Option<Duration> {
    let value = std::str::from_utf8(value).ok()?;
    let seconds = value.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?.parse().ok()?;
    Some(Duration::from_secs(seconds).saturating_sub(KEEP_ALIVE_MARGIN))
}

fn content_length(value: &[u8]) -> Result<u64, &'static str> {
    let is_number = (1..=LENGTH_DIGITS).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
    length.ok_or("answered with a bad Content-Length")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], piece: usize) -> Result<Option<(AnswerHead, Vec<u8>)>, &'static str> {
        let (mut buffer, mut reader) = (BytesMut::new(), HeadReader::default());
        let mut pieces = bytes.chunks(piece.max(1));
        while let Some(piece) = pieces.next() {
            buffer.extend_from_slice(piece);
            if let Some(head) = reader.take(&mut buffer, 4096)? {
                return Ok(Some((head, [buffer.to_vec(), pieces.flatten().copied().collect()].concat())));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_is_read_however_it_arrives() {
        let bytes = b"HTTP/1.1 201 Made so\r\nContent-Length: 5\r\nX-A: 1\r\nx-a:  2 \r\n\r\nhello";
        for piece in 1..=bytes.len() {
            let (head, left) = read(bytes, piece).unwrap().unwrap();
            assert_eq!((head.status.as_u16(), head.keep_alive, &left[..]), (201, true, &b"hello"[..]));
            assert_eq!(head.framing(&Method::GET), Framing::Length(5));
            assert_eq!(head.framing(&Method::HEAD), Framing::Length(0));
            let values: Vec<_> = head.headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
            assert_eq!(values, [b"1", b"2"]);
        }
    }

    #[test]
    fn where_the_content_ends_and_whether_the_connection_lives_on() {
        for (head, framing, keep_alive) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::CHUNKED, true),
            ("HTTP/1.1 200 \r\n\r\n", Framing::UntilClose, true),
            ("HTTP/1.1 200\r\nConnection: x, Close\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", Framing::Length(0), false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 9\r\nConnection: keep-alive\r\n\r\n", Framing::Length(9), true),
            ("HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 100 Continue\r\n\r\n", Framing::Length(0), true),
        ] {
            let (read, _) = read(head.as_bytes(), 1000).unwrap().unwrap();
            assert_eq!((read.framing(&Method::GET), read.keep_alive), (framing, keep_alive), "{head}");
        }
    }

    #[test]
    fn close_counts_whatever_another_connection_field_says() {
        for fields in ["close\r\nConnection: keep-alive", "keep-alive\r\nConnection: close", "keep-alive, close"] {
            for version in ["1.0", "1.1"] {
                let head = format!("HTTP/{version} 200 OK\r\nConnection: {fields}\r\n\r\n");
                assert!(!read(head.as_bytes(), 1000).unwrap().unwrap().0.keep_alive, "{head}");
            }
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for head in [
            "HTP/1.1 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 999 OK\r\n\r\n",
            "HTTP/1.1 600 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\x01\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 205 Reset\r\n\r\n",
            "HTTP/1.1 205 Reset\r\nContent-Length: 1\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101)),
            &format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "b".repeat(5000)),
            &format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(5000)),
        ] {
            for piece in [1, 10_000] {
                assert!(read(head.as_bytes(), piece).is_err(), "{}", &head[..head.len().min(60)]);
            }
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_says_the_same_however_it_arrives(
            rest in prop::collection::vec(prop::sample::select(b"\r\n\r\n: a1,\0\xe9content-length".to_vec()), 0..80),
            piece in 1..20usize,
        ) {
            let bytes = [&b"HTTP/1.1 200 OK\r\n"[..], &rest].concat();
            let whole = read(&bytes, bytes.len()).map(|read| read.map(|(head, left)| (head.headers, left)));
            let parts = read(&bytes, piece).map(|read| read.map(|(head, left)| (head.headers, left)));
            // In pieces an error may show later or, behind the end of the head, not at all.
            if let Ok(Some(_)) = &whole {
                prop_assert_eq!(parts, whole);
            }
        }
    }
}
