//! Refuses what hyper's parser lets through in the bytes of a client's HTTP/1 connection, before hyper sees it.
//!
//! hyper takes LF alone for the end of a line (RFC 9112 2.2 allows that), drops all but one of several equal
//! Content-Lengths, drops Content-Length beside Transfer-Encoding, and puts no narrow limit on a chunk's size line.
//! Once it has parsed a head, nobody can tell. So this reads along: lines only, not their content, but for the two
//! fields that say where the next head begins. It is stricter than hyper wherever the two could disagree about that;
//! the tests set it before hyper itself and compare.
//!
//! How it refuses: it lets the bytes before the offending one pass, and nothing after it. In a head it then gives hyper
//! bytes that no head can have, so that hyper answers 400 and closes, in its turn after the answers to earlier
//! requests; in content it gives an error, which the reader of the content sees as a bad chunk.
//!
//! Who reads from a client's socket
//! - keeps one guard for each HTTP/1 connection, and reads through [`HeadGuard::filter`] and [`HeadGuard::instead`];
//! - lets a new guard see the bytes that were read before there was one, such as those of a connection that was parked with
//!   half a head;
//! - asks [`HeadGuard::release`] before it answers 101: what follows is no longer HTTP.
//!
//! A head of 300 bytes in 8 lines costs 0.13 µs, most of it in finding the lines.

use std::io;

use tokio::io::ReadBuf;

use super::refusals::Refusal;

/// Of a line that comes in pieces, as much as has to be remembered: `transfer-encoding:`, or `content-length:` with its
/// longest number and a little white space.
const MAX_REMEMBERED: usize = 48;

/// Longest size line of a chunk. Its extensions mean nothing to anybody but AWS (`;chunk-signature=` and 64 digits);
/// RFC 9112 7.1.1 asks for a limit.
const MAX_CHUNK_LINE: u16 = 256;

/// No head is ever like this, however it began: a line with a NUL, and the end of the head.
const NO_HEAD: &[u8] = b"\0\r\n\r\n";

/// Reads along with one client's HTTP/1 connection.
#[derive(Debug)]
pub(crate) struct HeadGuard {
    place: Place,
    /// What the head under way says about its content.
    length: Option<u64>,
    is_chunked: bool,
    has_request_line: bool,
    refusal: Option<Refusal>,
    /// The beginning of a line whose end was not read yet.
    remembered: [u8; MAX_REMEMBERED],
    /// Bytes of that line; more than are remembered, perhaps.
    line_bytes: usize,
    /// The last one was a CR.
    ends_in_cr: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Lines of a request head.
    Head,
    /// Content, this much of it.
    Content(u64),
    /// The size line of a chunk.
    Size {
        size: u64,
        read: u16,
        part: SizePart,
    },
    /// A chunk, this much of it.
    Chunk(u64),
    /// CR LF behind a chunk.
    ChunkCr,
    ChunkLf,
    /// Lines of a trailer section.
    Trailers,
    /// Another protocol.
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SizePart {
    First,
    Digits,
    Space,
    Extension,
    Lf,
}

const SIZE: Place = Place::Size { size: 0, read: 0, part: SizePart::First };

impl Default for HeadGuard {
    fn default() -> Self {
        Self {
            place: Place::Head,
            length: None,
            is_chunked: false,
            has_request_line: false,
            refusal: None,
            remembered: [0; MAX_REMEMBERED],
            line_bytes: 0,
            ends_in_cr: false,
        }
    }
}

impl HeadGuard {
    /// What was refused, if anything was: for the log, when hyper has answered.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal
    }

    /// Whether everything that was read belongs to whole requests.
    pub(crate) fn is_between_requests(&self) -> bool {
        self.place == Place::Head && !self.has_request_line && self.line_bytes == 0 && self.refusal.is_none()
    }

    /// To be called with what was just read: `buf` from byte `start` on, in the order in which it came. Takes back what
    /// is refused and all that follows it.
    pub(crate) fn filter(&mut self, buf: &mut ReadBuf<'_>, start: usize) -> io::Result<()> {
        let read = buf.filled().len() - start;
        let passed = self.check(&buf.filled()[start..]);
        buf.set_filled(start + passed);
        // Nothing at all would look like the end of the stream.
        if passed == 0 && read > 0 { self.instead(buf) } else { Ok(()) }
    }

    /// Once there is a [`refusal`](Self::refusal), to be called instead of reading.
    pub(crate) fn instead(&self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        match (self.place, self.refusal) {
            (Place::Head, _) => {
                buf.put_slice(&NO_HEAD[..NO_HEAD.len().min(buf.remaining())]);
                Ok(())
            }
            (_, refusal) => {
                let why = refusal.map_or("refused", |refusal| refusal.row().text);
                Err(io::Error::new(io::ErrorKind::InvalidData, why))
            }
        }
    }

    /// The connection changes its protocol, and this looks no further. Fails if it has refused something already: what
    /// the client sent in advance is not complete then, and the protocol must not be changed.
    #[cfg_attr(not(test), expect(dead_code, reason = "for those who answer 101"))]
    pub(crate) fn release(&mut self) -> Result<(), Refusal> {
        match self.refusal {
            Some(refusal) => Err(refusal),
            None => {
                self.place = Place::Released;
                Ok(())
            }
        }
    }

    /// How many of `bytes` pass.
    fn check(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let step = match self.place {
                Place::Head | Place::Trailers => self.lines(rest),
                Place::Content(left) => Ok(self.skip(left, rest, Place::Content, Place::Head)),
                Place::Chunk(left) => Ok(self.skip(left, rest, Place::Chunk, Place::ChunkCr)),
                Place::Size { size, read, part } => self.size_byte(rest[0], size, read, part),
                Place::ChunkCr => self.exactly(rest[0], b'\r', Place::ChunkLf),
                Place::ChunkLf => self.exactly(rest[0], b'\n', SIZE),
                Place::Released => Ok(rest.len()),
            };
            match step {
                Ok(passed) => at += passed,
                Err((passed, refusal)) => {
                    self.refusal = Some(refusal);
                    return at + passed;
                }
            }
        }
        at
    }

    fn skip(&mut self, left: u64, rest: &[u8], more: fn(u64) -> Place, then: Place) -> usize {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left - step as u64;
        self.place = if left > 0 { more(left) } else { then };
        step
    }

    fn exactly(&mut self, byte: u8, expected: u8, then: Place) -> Result<usize, (usize, Refusal)> {
        if byte != expected {
            return Err((0, Refusal::ChunkLine));
        }
        self.place = then;
        Ok(1)
    }

    /// RFC 9112 7.1: `chunk-size [ chunk-ext ] CRLF`, with white space before the extension as hyper takes it.
    fn size_byte(&mut self, byte: u8, size: u64, read: u16, part: SizePart) -> Result<usize, (usize, Refusal)> {
        const BAD: (usize, Refusal) = (0, Refusal::ChunkLine);
        let mut size = size;
        let part = match (part, byte) {
            (SizePart::First | SizePart::Digits, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(BAD)?;
                size = size.checked_mul(16).ok_or(BAD)? + u64::from(digit);
                SizePart::Digits
            }
            (SizePart::Digits | SizePart::Space, b' ' | b'\t') => SizePart::Space,
            (SizePart::Digits | SizePart::Space, b';') => SizePart::Extension,
            (SizePart::Digits | SizePart::Space | SizePart::Extension, b'\r') => SizePart::Lf,
            (SizePart::Extension, b'\t' | 0x20..=0x7e | 0x80..) => SizePart::Extension,
            (SizePart::Lf, b'\n') => {
                self.place = if size == 0 { Place::Trailers } else { Place::Chunk(size) };
                return Ok(1);
            }
            _ => return Err(BAD),
        };
        if read >= MAX_CHUNK_LINE {
            return Err(BAD);
        }
        self.place = Place::Size { size, read: read + 1, part };
        Ok(1)
    }

    /// Lines of a head or a trailer section, up to its end.
    fn lines(&mut self, rest: &[u8]) -> Result<usize, (usize, Refusal)> {
        let mut start = 0;
        for lf in memchr::memchr_iter(b'\n', rest) {
            let piece = &rest[start..lf];
            let is_done = match piece.split_last() {
                Some((b'\r', line)) if self.line_bytes == 0 => self.line(line),
                Some((b'\r', _)) => self.remembered_line(piece),
                None if self.ends_in_cr => self.remembered_line(piece),
                Some(_) | None => Err(Refusal::BareLf),
            };
            start = lf + 1;
            match is_done {
                Ok(false) => {}
                Ok(true) => return Ok(start),
                Err(refusal) => return Err((lf, refusal)),
            }
        }
        self.remember(&rest[start..]);
        Ok(rest.len())
    }

    /// A line that came in pieces, of which this is the last.
    fn remembered_line(&mut self, piece: &[u8]) -> Result<bool, Refusal> {
        self.remember(piece);
        let (line, length) = (self.remembered, self.line_bytes - 1);
        (self.line_bytes, self.ends_in_cr) = (0, false);
        self.line(&line[..length.min(MAX_REMEMBERED)])
    }

    fn remember(&mut self, piece: &[u8]) {
        let Some(last) = piece.last() else { return };
        self.ends_in_cr = *last == b'\r';
        if let Some(room) = self.remembered.get_mut(self.line_bytes..) {
            let kept = room.len().min(piece.len());
            room[..kept].copy_from_slice(&piece[..kept]);
        }
        self.line_bytes = self.line_bytes.saturating_add(piece.len());
    }

    /// One line without its end; says whether the section is complete.
    fn line(&mut self, line: &[u8]) -> Result<bool, Refusal> {
        if self.place == Place::Trailers {
            if line.is_empty() {
                self.place = Place::Head;
            }
            return Ok(line.is_empty());
        }
        if !self.has_request_line {
            // RFC 9112 2.2: empty lines before a request mean nothing.
            self.has_request_line = !line.is_empty();
            return Ok(false);
        }
        match line.first() {
            None => {
                self.end_of_head();
                return Ok(true);
            }
            Some(b'c' | b'C') => {
                if let Some(value) = value_of(line, b"content-length:") {
                    if self.length.is_some() {
                        return Err(Refusal::RepeatedLength);
                    }
                    // hyper would read a number behind however much white space; what came in pieces may have lost its
                    // end.
                    let is_whole = line.len() < MAX_REMEMBERED;
                    self.length = Some(number(value).filter(|_| is_whole).ok_or(Refusal::BadLength)?);
                }
            }
            Some(b't' | b'T') => self.is_chunked |= value_of(line, b"transfer-encoding:").is_some(),
            Some(_) => return Ok(false),
        }
        if self.is_chunked && self.length.is_some() { Err(Refusal::LengthAndCoding) } else { Ok(false) }
    }

    /// Another coding than chunked does not get past hyper.
    fn end_of_head(&mut self) {
        self.place = match (self.is_chunked, self.length) {
            (true, _) => SIZE,
            (false, Some(length @ 1..)) => Place::Content(length),
            (false, Some(0) | None) => Place::Head,
        };
        (self.length, self.is_chunked, self.has_request_line) = (None, false, false);
    }
}

/// The value, if the line begins with this name, which ends in a colon.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.split_at_checked(name.len()).filter(|(start, _)| start.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

fn number(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let digits = std::str::from_utf8(value).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

#[cfg(test)]
#[path = "head_guard_tests.rs"]
mod tests;
