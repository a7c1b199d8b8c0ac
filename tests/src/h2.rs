//! HTTP/2 by hand (RFC 9113): frames as bytes, fields as literals, so that both can be wrong.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    /// Content.
    pub const DATA: u8 = 0;
    /// A field section.
    pub const HEADERS: u8 = 1;
    /// Of no meaning any more.
    pub const PRIORITY: u8 = 2;
    /// The end of a stream.
    pub const RST_STREAM: u8 = 3;
    /// Settings of the connection.
    pub const SETTINGS: u8 = 4;
    /// For servers only.
    pub const PUSH_PROMISE: u8 = 5;
    /// An echo.
    pub const PING: u8 = 6;
    /// The end of the connection.
    pub const GOAWAY: u8 = 7;
    /// Room for more content.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a field section.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub mod flag {
    /// Of SETTINGS and PING.
    pub const ACK: u8 = 1;
    /// Of DATA and HEADERS.
    pub const END_STREAM: u8 = 1;
    /// Of HEADERS and CONTINUATION.
    pub const END_HEADERS: u8 = 4;
    /// Of DATA and HEADERS.
    pub const PADDED: u8 = 8;
    /// Of HEADERS.
    pub const PRIORITY: u8 = 32;
}

/// Why a stream or a connection ends.
pub mod code {
    /// Nothing is wrong.
    pub const NO_ERROR: u32 = 0;
    /// The protocol was broken.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// More content than there was room for.
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    /// A frame on a stream that is over.
    pub const STREAM_CLOSED: u32 = 5;
    /// A frame of the wrong size.
    pub const FRAME_SIZE_ERROR: u32 = 6;
    /// Refused, and not looked at.
    pub const REFUSED_STREAM: u32 = 7;
    /// Fields that cannot be decoded.
    pub const COMPRESSION_ERROR: u32 = 9;
    /// Too much of something.
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame of a test is small");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// SETTINGS, by number and value.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// A field section: every field a literal that is not indexed, without Huffman coding (RFC 7541 6.2.2).
pub fn section<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: impl IntoIterator<Item = (N, V)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            // A prefix of 7 bits (RFC 7541 5.1).
            match text.len() {
                small @ 0..127 => block.push(u8::try_from(small).expect("it is below 127")),
                large => {
                    block.push(127);
                    let mut rest = large - 127;
                    while rest >= 128 {
                        block.push(u8::try_from(rest % 128).expect("it is below 128") | 128);
                        rest /= 128;
                    }
                    block.push(u8::try_from(rest).expect("it is below 128"));
                }
            }
            block.extend(text);
        }
    }
    block
}

/// HEADERS that are complete, with or without content behind them.
pub fn headers(stream: u32, ends: bool, block: &[u8]) -> Vec<u8> {
    let flags = flag::END_HEADERS | if ends { flag::END_STREAM } else { 0 };
    frame(kind::HEADERS, flags, stream, block)
}

/// DATA.
pub fn data(stream: u32, ends: bool, content: &[u8]) -> Vec<u8> {
    frame(kind::DATA, if ends { flag::END_STREAM } else { 0 }, stream, content)
}

/// RST_STREAM.
pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// What a server does, as far as a test wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The status of a final answer.
    Status(u32, u16),
    /// Content.
    Data(u32, Vec<u8>),
    /// A stream ended properly.
    End(u32),
    /// A stream was reset, with this code.
    Reset(u32, u32),
    /// The connection ends, with this code.
    GoAway(u32),
    /// An echo came back.
    Pong,
    /// The connection has ended.
    Closed,
}

/// Reads what a server sends on one connection.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    buffer: Vec<u8>,
    ended: Option<u32>,
}

impl<R: AsyncReadExt + Unpin> Reader<R> {
    /// Reads from here on. The client must have announced a header table of size 0 ([`hello`]): only then can a status
    /// be read without a memory.
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new(), ended: None }
    }

    /// The next thing that happens.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(stream) = self.ended.take() {
                return Event::End(stream);
            }
            let Ok((kind, flags, stream, payload)) = self.frame().await else { return Event::Closed };
            let number =
                |at: usize| payload.get(at..at + 4).map_or(0, |n| u32::from_be_bytes([n[0], n[1], n[2], n[3]]));
            if matches!(kind, kind::DATA | kind::HEADERS) && flags & flag::END_STREAM != 0 {
                self.ended = Some(stream);
            }
            match kind {
                kind::HEADERS => match status(&payload) {
                    // Interim answers are none, and trailers have no status.
                    Some(100..=199) | None => {}
                    Some(status) => return Event::Status(stream, status),
                },
                kind::DATA if payload.is_empty() => {}
                kind::DATA => return Event::Data(stream, payload),
                kind::RST_STREAM => return Event::Reset(stream, number(0)),
                kind::GOAWAY => return Event::GoAway(number(4)),
                kind::PING if flags & flag::ACK != 0 => return Event::Pong,
                _ => {}
            }
        }
    }

    async fn frame(&mut self) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let head = self.take(9).await?;
        let payload = self.take(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize).await?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Ok((head[3], head[4], stream, payload))
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }
}

/// What every connection begins with: the preface, and SETTINGS that forbid the server to remember fields.
pub fn hello() -> Vec<u8> {
    [PREFACE, &settings(&[(1, 0)])].concat()
}

/// The `:status` that a field section begins with (RFC 9113 8.3.2: pseudo-fields come first).
fn status(mut block: &[u8]) -> Option<u16> {
    // A change of the table's size comes first of all.
    while block.first().is_some_and(|byte| byte & 0xe0 == 0x20) {
        block = &block[1..];
    }
    let (&first, rest) = block.split_first()?;
    if first & 0x80 != 0 {
        // The static table has seven (RFC 7541 A).
        return [200, 204, 206, 304, 400, 404, 500].get(usize::from(first & 0x7f).checked_sub(8)?).copied();
    }
    let index = first & if first & 0x40 != 0 { 0x3f } else { 0x0f };
    let (&length, text) = rest.split_first()?;
    let text = text.get(..usize::from(length & 0x7f))?;
    if !(8..=14).contains(&index) {
        return None;
    }
    let digits = if length & 0x80 == 0 { String::from_utf8(text.to_vec()).ok()? } else { huffman_digits(text) };
    digits.get(..3)?.parse().ok()
}

/// RFC 7541 B: 0, 1 and 2 have five bits, the other digits six.
fn huffman_digits(text: &[u8]) -> String {
    let bits: Vec<u8> = text.iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1)).collect();
    let mut digits = String::new();
    let mut at = 0;
    while at + 5 <= bits.len() {
        let five = bits[at..at + 5].iter().fold(0, |code, bit| code << 1 | bit);
        if five <= 2 {
            digits.push(char::from(b'0' + five));
            at += 5;
            continue;
        }
        let Some(sixth) = bits.get(at + 5) else { break };
        match five << 1 | sixth {
            code @ 0x19..=0x1f => digits.push(char::from(b'3' + code - 0x19)),
            _ => break,
        }
        at += 6;
    }
    digits
}

/// As a server: reads up to the head of the request on this stream, which must have a small number. What comes before 1 is the
/// preface.
///
/// # Errors
/// If the connection ends before.
pub async fn read_request(stream: &mut (impl AsyncReadExt + Unpin), number: u8) -> io::Result<()> {
    if number == 1 {
        stream.read_exact(&mut [0; PREFACE.len()]).await?;
    }
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await?;
        if (head[3], &head[5..]) == (kind::HEADERS, &[0, 0, 0, number]) {
            return Ok(());
        }
    }
}

/// Connects, says [`hello`] and `bytes`, and reads on while it still writes, until `is_it` has seen enough.
///
/// # Errors
/// If it cannot connect.
pub async fn talk(addr: SocketAddr, bytes: Vec<u8>, mut is_it: impl FnMut(&Event) -> bool) -> io::Result<Vec<Event>> {
    let (from, mut to) = TcpStream::connect(addr).await?.into_split();
    let mut reader = Reader::new(from);
    let write = tokio::spawn(async move {
        // The server may have had enough before all is sent.
        if to.write_all(&hello()).await.is_ok() {
            drop(to.write_all(&bytes).await);
        }
        to
    });
    let mut events = Vec::new();
    loop {
        let event = reader.next().await;
        let is_last = is_it(&event) || event == Event::Closed;
        events.push(event);
        if is_last {
            write.abort();
            return Ok(events);
        }
    }
}

#[test]
fn statuses_are_read_in_each_form() {
    assert_eq!(status(&[0x88]), Some(200));
    assert_eq!(status(&[0x20, 0x8d]), Some(404));
    assert_eq!(status(b"\x08\x03417"), Some(417));
    assert_eq!(status(b"\x48\x03503"), Some(503));
    // 302, from RFC 7541 C.6.1.
    assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
    assert_eq!(status(b"\x00\x01x\x01y"), None);
}

#[test]
fn long_texts_have_long_lengths() {
    assert_eq!(section([("a", "b")]), b"\x00\x01a\x01b");
    let long = section([("a", "b".repeat(1337))]);
    assert_eq!(long[3..6], [127, 0xba, 0x09]);
    assert_eq!(long.len(), 6 + 1337);
}
