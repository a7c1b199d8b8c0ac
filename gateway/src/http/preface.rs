//! What a new connection speaks: HTTP/1, HTTP/2 by prior knowledge (RFC 9113 3.3), or nothing that we do.

/// The bytes an HTTP/2 connection begins with (RFC 9113 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    /// No HTTP at all: an HTTP answer would only confuse.
    Nothing,
}

/// What begins with these bytes; `None` while more of them are needed.
pub(crate) fn spoken(bytes: &[u8]) -> Option<Spoken> {
    let length = bytes.len().min(PREFACE.len());
    if bytes[..length] == PREFACE[..length] {
        return (length == PREFACE.len()).then_some(Spoken::Http2);
    }
    // A first line that is whole and ends in no version of HTTP. Longer ones, and those that are not whole yet, are left to the
    // parser, which answers 400.
    let line = memchr::memchr(b'\n', bytes).map(|end| bytes[..end].trim_ascii());
    let is_http =
        |line: &[u8]| line.is_empty() || line.rsplit(|b| *b == b' ').next().is_some_and(|w| w.starts_with(b"HTTP/"));
    Some(if line.is_none_or(is_http) { Spoken::Http1 } else { Spoken::Nothing })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        for (bytes, expected) in [
            (&b"G"[..], Some(Spoken::Http1)),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GET / HTTP/9.9\r\n", Some(Spoken::Http1)),
            (b"P", None),
            (b"PR", None),
            (b"PUT / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Some(Spoken::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Some(Spoken::Http1)),
            (b"INVALID CONNECTION PREFACE\r\n\r\n", Some(Spoken::Nothing)),
            (b"EHLO mail\n", Some(Spoken::Nothing)),
            (b"\r\nGET / HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"\x16\x03\x01", Some(Spoken::Http1)),
        ] {
            assert_eq!(spoken(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
