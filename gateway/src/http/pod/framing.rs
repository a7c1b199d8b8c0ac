//! Where the content of an answer ends (RFC 9112 6.3), and the chunked coding (7.1), read strictly.
//!
//! It sees bytes and no socket: [`Framing::take`] takes from a buffer what is there, and says what to do when it is empty.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest line that announces a chunk, extensions included. Nobody uses extensions, so this is generous; nginx and hyper
/// allow 16 KiB in all.
const CHUNK_LINE_BYTES: usize = 1 << 10;

/// Largest trailer section: checksums and a gRPC status with its message fit many times.
const TRAILER_BYTES: usize = 8 << 10;

/// Most trailer fields.
const TRAILER_FIELDS: usize = 64;

/// How the end of the content is known, and how much is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// The chunked coding, at this point.
    Chunked(Chunked),
    /// Everything until the pod closes the connection.
    UntilClose,
}

/// Where in the chunked coding we are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunked {
    /// Before the line that gives a chunk's size.
    Size,
    /// Within a chunk, with so many bytes left.
    Data(u64),
    /// Before the CRLF that ends a chunk.
    DataEnd,
    /// After the last chunk.
    Trailers,
}

/// What was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Content.
    Data(Bytes),
    /// The trailer section, which is also the end.
    Trailers(HeaderMap),
    /// The end.
    End,
    /// Nothing yet: more bytes are needed.
    Nothing,
}

/// Bytes that are no chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Framing {
    pub(crate) const CHUNKED: Self = Self::Chunked(Chunked::Size);

    /// Whether there is nothing left to come.
    pub(crate) fn is_over(&self) -> bool {
        *self == Self::Length(0)
    }

    /// Takes the next piece of content out of `buffer`. After [`Taken::End`] or [`Taken::Trailers`] it is over.
    pub(crate) fn take(&mut self, buffer: &mut BytesMut) -> Result<Taken, Malformed> {
        match self {
            Self::Length(0) => Ok(Taken::End),
            Self::Length(left) => Ok(take_data(left, buffer)),
            Self::UntilClose if buffer.is_empty() => Ok(Taken::Nothing),
            Self::UntilClose => Ok(Taken::Data(buffer.split().freeze())),
            Self::Chunked(state) => {
                let taken = state.take(buffer)?;
                if matches!(taken, Taken::End | Taken::Trailers(_)) {
                    *self = Self::Length(0);
                }
                Ok(taken)
            }
        }
    }
}

impl Chunked {
    fn take(&mut self, buffer: &mut BytesMut) -> Result<Taken, Malformed> {
        loop {
            match self {
                Self::Size => {
                    let Some(line) = take_line(buffer, CHUNK_LINE_BYTES)? else { return Ok(Taken::Nothing) };
                    *self = match chunk_size(&line)? {
                        0 => Self::Trailers,
                        size => Self::Data(size),
                    };
                }
                Self::Data(0) => *self = Self::DataEnd,
                Self::Data(left) => return Ok(take_data(left, buffer)),
                Self::DataEnd => {
                    if !b"\r\n".starts_with(&buffer[..buffer.len().min(2)]) {
                        return Err(Malformed);
                    }
                    if buffer.len() < 2 {
                        return Ok(Taken::Nothing);
                    }
                    buffer.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers => return take_trailers(buffer),
            }
        }
    }
}

fn take_data(left: &mut u64, buffer: &mut BytesMut) -> Taken {
    if buffer.is_empty() {
        return Taken::Nothing;
    }
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    Taken::Data(buffer.split_to(length).freeze())
}

/// A line without its CRLF; a bare LF ends none.
fn take_line(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Malformed> {
    let searched = &buffer[..buffer.len().min(limit)];
    let Some(end) = memchr::memchr(b'\n', searched) else {
        return if searched.len() == limit { Err(Malformed) } else { Ok(None) };
    };
    let line = buffer.split_to(end + 1).freeze();
    match line.strip_suffix(b"\r\n") {
        Some(text) if !text.contains(&b'\r') => Ok(Some(line.slice(..text.len()))),
        _ => Err(Malformed),
    }
}

/// `1*HEXDIG [ chunk-ext ]` (RFC 9112 7.1). Extensions are ignored, if they are text.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (size, extension) = line.split_at(digits);
    let is_extension = extension.is_empty() || extension.trim_ascii_start().starts_with(b";");
    let is_text = extension.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    if !(1..=15).contains(&digits) || !is_extension || !is_text {
        return Err(Malformed);
    }
    // At most 15 hexadecimal digits, all of them ASCII.
    let size = std::str::from_utf8(size).map_err(|_| Malformed)?;
    u64::from_str_radix(size, 16).map_err(|_| Malformed)
}

fn take_trailers(buffer: &mut BytesMut) -> Result<Taken, Malformed> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Taken::End);
    }
    let searched = &buffer[..buffer.len().min(TRAILER_BYTES)];
    let Some(end) = memchr::memmem::find(searched, b"\r\n\r\n") else {
        return if searched.len() == TRAILER_BYTES { Err(Malformed) } else { Ok(Taken::Nothing) };
    };
    let section = buffer.split_to(end + 4).freeze();
    fields(&section, TRAILER_FIELDS).map(Taken::Trailers)
}

/// Field lines up to and including the empty one (RFC 9112 5), strictly: no bare LF, no folding, nothing behind.
pub(super) fn fields(section: &Bytes, limit: usize) -> Result<HeaderMap, Malformed> {
    if has_bare_line_end(section) {
        return Err(Malformed);
    }
    let mut parsed = vec![httparse::EMPTY_HEADER; limit];
    let Ok(httparse::Status::Complete((length, parsed))) = httparse::parse_headers(section, &mut parsed) else {
        return Err(Malformed);
    };
    if length != section.len() {
        return Err(Malformed);
    }
    let mut map = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
        map.append(name, HeaderValue::from_maybe_shared(section.slice_ref(field.value)).map_err(|_| Malformed)?);
    }
    Ok(map)
}

/// Whether an LF stands without its CR: what we and the next reader might count differently (RFC 9112 2.2).
pub(super) fn has_bare_line_end(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The content, the trailers and what is left.
    type Read = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// Feeds `bytes` in `pieces`.
    fn read(mut framing: Framing, bytes: &[u8], piece: usize) -> Result<Read, Malformed> {
        let (mut buffer, mut content) = (BytesMut::new(), Vec::new());
        let mut pieces = bytes.chunks(piece.max(1));
        loop {
            match framing.take(&mut buffer)? {
                Taken::Data(data) => content.extend_from_slice(&data),
                Taken::Trailers(trailers) => return Ok((content, Some(trailers), left(&buffer, pieces))),
                Taken::End => return Ok((content, None, left(&buffer, pieces))),
                Taken::Nothing => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Ok((content, None, b"unfinished".to_vec())),
                },
            }
        }
    }

    fn left<'a>(buffer: &[u8], rest: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        [buffer.to_vec(), rest.flatten().copied().collect()].concat()
    }

    #[test]
    fn chunks_with_extensions_and_trailers() {
        let bytes = b"3;a=b\r\nabc\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 7\r\nx-b:\r\n\r\nnext";
        for piece in 1..bytes.len() {
            let (content, trailers, left) = read(Framing::CHUNKED, bytes, piece).unwrap();
            assert_eq!((&content[..], &left[..]), (&b"abc0123456789"[..], &b"next"[..]));
            let trailers = trailers.unwrap();
            assert_eq!((trailers.len(), trailers["x-sum"].as_bytes()), (2, &b"7"[..]));
        }
        assert_eq!(read(Framing::CHUNKED, b"0\r\n\r\n", 1).unwrap(), (vec![], None, vec![]));
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bytes in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n0\r\n\r\n",
            b"0x1\r\na\r\n",
            b"1 \r\na\r\n0\r\n\r\n",
            b" 1\r\na\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\r\na\r\n",
            b"1;a=\x00\r\na\r\n",
            b"10000000000000000\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\nX-Sum 7\r\n\r\n",
            b"0\r\nX-Sum: 7\n\r\n\r\n",
            b"0\r\nX: 1\r\n folded\r\n\r\n",
            b"0\r\nX : 1\r\n\r\n",
            &[&b"1;"[..], &[b'a'; 2000], b"\r\na\r\n"].concat(),
            &[&b"0\r\n"[..], &b"x: y\r\n".repeat(2000), b"\r\n"].concat(),
            &[&b"0\r\n"[..], &b"x:\r\n".repeat(65), b"\r\n"].concat(),
        ] {
            for piece in [1, 7, bytes.len()] {
                let result = read(Framing::CHUNKED, bytes, piece);
                assert_eq!(result, Err(Malformed), "{}", bytes[..bytes.len().min(40)].escape_ascii());
            }
        }
    }

    #[test]
    fn a_length_takes_so_much_and_no_more() {
        assert_eq!(read(Framing::Length(3), b"abcdef", 2).unwrap(), (b"abc".to_vec(), None, b"def".to_vec()));
        assert_eq!(read(Framing::Length(0), b"abc", 2).unwrap().2, b"abc");
        assert_eq!(read(Framing::UntilClose, b"abcdef", 2).unwrap().0, b"abcdef");
    }

    proptest! {
        #[test]
        fn what_is_chunked_comes_out_whole_however_it_arrives(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8), piece in 1..40usize,
        ) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\nrest");
            let (content, trailers, left) = read(Framing::CHUNKED, &bytes, piece).unwrap();
            prop_assert_eq!((content, trailers, left), (chunks.concat(), None, b"rest".to_vec()));
        }

        #[test]
        fn never_panics_and_says_the_same_however_it_arrives(bytes in prop::collection::vec(
            prop::sample::select(b"0123abf\r\n;: x\0".to_vec()), 0..60), piece in 1..20usize) {
            let whole = read(Framing::CHUNKED, &bytes, bytes.len());
            prop_assert_eq!(read(Framing::CHUNKED, &bytes, piece), whole);
        }
    }
}
