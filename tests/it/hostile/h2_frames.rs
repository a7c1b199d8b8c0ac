//! HTTP/2: frames that break the protocol.

use tidegate_tests::{
    PATIENCE,
    h2::{self, Event, code, data, flag, frame, headers, kind, section, settings},
};
use tokio::time::timeout;

use super::{bed, judge, victim};

/// How the gateway ends what a row began, on the row's stream or on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// One connection of a client that sends the preface, SETTINGS and these frames.
#[derive(Debug)]
pub(super) struct Row {
    /// What the back end may see is the same as with HTTP/1.1.
    row: super::Row,
    /// Any of these will do.
    verdicts: Vec<Verdict>,
}

impl Row {
    pub(super) fn any(name: &'static str, verdicts: &[Verdict], bytes: Vec<u8>) -> Self {
        Self { row: super::refused(0, name, bytes), verdicts: verdicts.to_vec() }
    }

    pub(super) fn sees(mut self, line: &'static str) -> Self {
        self.row.sees.push(line);
        self
    }

    pub(super) fn content(mut self, content: &'static str) -> Self {
        self.row.content = Some(content);
        self
    }

    pub(super) fn field(mut self, name: &'static str, value: Option<&'static str>) -> Self {
        self.row.fields.push((name, value));
        self
    }
}

/// A request that is answered by the back end.
pub(super) fn answered(status: u16, name: &'static str, bytes: Vec<u8>) -> Row {
    Row::any(name, &[Verdict::Status(status)], bytes)
}

/// A request that the gateway answers itself.
pub(super) fn refused(status: u16, name: &'static str, bytes: Vec<u8>) -> Row {
    answered(status, name, bytes)
}

/// A request that is malformed (RFC 9113 8.1.1). An error of a stream may be treated as one of the connection (5.4),
/// and the h2 crate does so wherever a field's bytes are not those of a field.
pub(super) fn reset(name: &'static str, bytes: Vec<u8>) -> Row {
    Row::any(name, &[Verdict::Reset(code::PROTOCOL_ERROR), Verdict::GoAway(code::PROTOCOL_ERROR)], bytes)
}

/// An error of the connection. The h2 crate says PROTOCOL_ERROR for many; the code only helps who debugs the client.
pub(super) fn go_away(code: u32, name: &'static str, bytes: Vec<u8>) -> Row {
    Row::any(name, &[Verdict::GoAway(code), Verdict::GoAway(code::PROTOCOL_ERROR)], bytes)
}

/// A field section in several frames of at most this size.
pub(super) fn split(block: &[u8], size: usize) -> Vec<u8> {
    let mut pieces: Vec<&[u8]> = block.chunks(size).collect();
    let last = pieces.pop().unwrap_or_default();
    let Some((first, middle)) = pieces.split_first() else { return headers(1, true, last) };
    let mut bytes = frame(kind::HEADERS, flag::END_STREAM, 1, first);
    for piece in middle {
        bytes.extend(frame(kind::CONTINUATION, 0, 1, piece));
    }
    bytes.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 1, last));
    bytes
}

pub(super) fn fields(path: &str) -> Vec<u8> {
    section([(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "a")])
}

pub(super) fn get(stream: u32) -> Vec<u8> {
    headers(stream, true, &fields("/cut"))
}

/// A request whose content is still to come.
pub(super) fn post(stream: u32) -> Vec<u8> {
    headers(stream, false, &section([(":method", "POST"), (":scheme", "http"), (":path", "/cut"), (":authority", "a")]))
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = streams();
    rows.extend(sizes());
    rows.extend(meanings());
    rows.extend(compression());
    rows
}

fn streams() -> Vec<Row> {
    use code::{PROTOCOL_ERROR, STREAM_CLOSED};
    let closed = |name: &'static str, bytes: Vec<u8>| {
        Row::any(
            name,
            &[Verdict::GoAway(STREAM_CLOSED), Verdict::Reset(STREAM_CLOSED), Verdict::GoAway(PROTOCOL_ERROR)],
            bytes,
        )
    };
    vec![
        go_away(PROTOCOL_ERROR, "DATA on stream 0", data(0, true, b"x")),
        go_away(PROTOCOL_ERROR, "HEADERS on stream 0", headers(0, true, &fields("/x"))),
        go_away(PROTOCOL_ERROR, "HEADERS on a stream of the server's", get(2)),
        go_away(PROTOCOL_ERROR, "DATA on a stream that is not open", data(1, true, b"x")),
        go_away(PROTOCOL_ERROR, "RST_STREAM on a stream that is not open", h2::reset(1, 8)),
        go_away(PROTOCOL_ERROR, "RST_STREAM on stream 0", h2::reset(0, 8)),
        go_away(
            PROTOCOL_ERROR,
            "WINDOW_UPDATE on a stream that is not open",
            frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        ),
        go_away(
            PROTOCOL_ERROR,
            "CONTINUATION without HEADERS",
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, &fields("/x")),
        ),
        go_away(
            PROTOCOL_ERROR,
            "another frame within a field section",
            [frame(kind::HEADERS, flag::END_STREAM, 1, &fields("/x")), frame(kind::PING, 0, 0, &[0; 8])].concat(),
        ),
        go_away(
            PROTOCOL_ERROR,
            "another stream within a field section",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &fields("/x")),
                frame(kind::CONTINUATION, flag::END_HEADERS, 3, b""),
            ]
            .concat(),
        ),
        go_away(PROTOCOL_ERROR, "a smaller stream number", [post(5), post(3)].concat()),
        closed("DATA behind the end of a stream", [post(1), data(1, true, b"x"), data(1, true, b"y")].concat()),
        closed("HEADERS behind the end of a stream", [post(1), data(1, true, b"x"), get(1)].concat()),
        closed("DATA behind a reset", [post(1), h2::reset(1, 8), data(1, true, b"x")].concat()),
        go_away(
            PROTOCOL_ERROR,
            "PUSH_PROMISE",
            [post(1), frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[&[0, 0, 0, 2], &fields("/x")[..]].concat())]
                .concat(),
        ),
    ]
}

fn sizes() -> Vec<Row> {
    use code::{FRAME_SIZE_ERROR, PROTOCOL_ERROR};
    vec![
        go_away(FRAME_SIZE_ERROR, "a frame of 1 MiB", [post(1), data(1, true, &vec![0; 1 << 20])].concat()),
        go_away(FRAME_SIZE_ERROR, "SETTINGS of 5 bytes", frame(kind::SETTINGS, 0, 0, &[0; 5])),
        go_away(
            FRAME_SIZE_ERROR,
            "an acknowledgement with settings",
            frame(kind::SETTINGS, flag::ACK, 0, &[0, 1, 0, 0, 0, 0]),
        ),
        go_away(FRAME_SIZE_ERROR, "PING of 7 bytes", frame(kind::PING, 0, 0, &[0; 7])),
        go_away(FRAME_SIZE_ERROR, "WINDOW_UPDATE of 3 bytes", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3])),
        go_away(FRAME_SIZE_ERROR, "RST_STREAM of 3 bytes", [post(1), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat()),
        go_away(FRAME_SIZE_ERROR, "PRIORITY of 4 bytes", [post(1), frame(kind::PRIORITY, 0, 1, &[0; 4])].concat()),
        go_away(
            PROTOCOL_ERROR,
            "DATA with more padding than bytes",
            [post(1), frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, &[9, 0])].concat(),
        ),
        go_away(
            PROTOCOL_ERROR,
            "HEADERS with more padding than bytes",
            frame(kind::HEADERS, flag::PADDED | flag::END_HEADERS | flag::END_STREAM, 1, &[200, 0]),
        ),
        Row::any(
            "HEADERS with half a priority",
            &[Verdict::GoAway(FRAME_SIZE_ERROR), Verdict::GoAway(PROTOCOL_ERROR)],
            frame(kind::HEADERS, flag::PRIORITY | flag::END_HEADERS | flag::END_STREAM, 1, &[0, 0]),
        ),
    ]
}

fn meanings() -> Vec<Row> {
    use code::{FLOW_CONTROL_ERROR, PROTOCOL_ERROR};
    vec![
        go_away(PROTOCOL_ERROR, "SETTINGS on a stream", frame(kind::SETTINGS, 0, 1, &[])),
        go_away(PROTOCOL_ERROR, "PING on a stream", frame(kind::PING, 0, 1, &[0; 8])),
        go_away(PROTOCOL_ERROR, "GOAWAY on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8])),
        go_away(PROTOCOL_ERROR, "ENABLE_PUSH 2", settings(&[(2, 2)])),
        go_away(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE of 2^31", settings(&[(4, 1 << 31)])),
        go_away(PROTOCOL_ERROR, "MAX_FRAME_SIZE of 1", settings(&[(5, 1)])),
        go_away(PROTOCOL_ERROR, "MAX_FRAME_SIZE of 2^24", settings(&[(5, 1 << 24)])),
        go_away(PROTOCOL_ERROR, "WINDOW_UPDATE of 0", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])),
        Row::any(
            "WINDOW_UPDATE of 0 on a stream",
            &[Verdict::Reset(PROTOCOL_ERROR), Verdict::GoAway(PROTOCOL_ERROR)],
            [post(1), frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
        ),
        go_away(
            FLOW_CONTROL_ERROR,
            "a window beyond 2^31",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        Row::any(
            "a stream's window beyond 2^31",
            &[Verdict::Reset(FLOW_CONTROL_ERROR), Verdict::GoAway(FLOW_CONTROL_ERROR)],
            [post(1), frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])].concat(),
        ),
        Row::any(
            "a stream that depends on itself",
            &[Verdict::Reset(PROTOCOL_ERROR), Verdict::GoAway(PROTOCOL_ERROR)],
            frame(
                kind::HEADERS,
                flag::PRIORITY | flag::END_HEADERS | flag::END_STREAM,
                1,
                &[&[0, 0, 0, 1, 0], &fields("/cut")[..]].concat(),
            ),
        ),
        answered(
            200,
            "a frame of an unknown type",
            [frame(0xfa, 0xff, 1, b"x"), headers(1, true, &fields("/x"))].concat(),
        )
        .sees("GET /x"),
        answered(200, "an unknown setting", [settings(&[(0xfafa, 1)]), headers(1, true, &fields("/x"))].concat())
            .sees("GET /x"),
        answered(200, "a section in frames of 16 bytes", split(&fields("/x"), 16)).sees("GET /x"),
        answered(200, "no room for the answer's content", [settings(&[(4, 0)]), get(1)].concat()).sees("GET /cut"),
        answered(
            200,
            "content with padding",
            [post(1), frame(kind::DATA, flag::PADDED | flag::END_STREAM, 1, b"\x02abc\0\0")].concat(),
        )
        .sees("POST /cut")
        .content("abc"),
    ]
}

fn compression() -> Vec<Row> {
    use code::COMPRESSION_ERROR;
    let block = |name: &'static str, block: &[u8]| go_away(COMPRESSION_ERROR, name, headers(1, true, block));
    vec![
        block("index 0", &[0x80]),
        block("an index beyond the table", &[0xff, 0x80, 0x01]),
        block("an index without an end", &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        block("a text without an end", &[0x00, 0x05, b'x']),
        block("a length beyond the section", &[0x00, 0x01, b'x', 0x7f, 0xff, 0xff, 0x03]),
        block("padding of a Huffman code that is none", &[0x00, 0x85, 0xf2, 0xb2, 0x4a, 0x84, 0x00, 0x01, b'x']),
        block("a table larger than allowed", &[0x3f, 0xe1, 0xff, 0x03]),
        block("a change of the table behind a field", &[0x82, 0x20]),
    ]
}

/// Sends every row, one after the other, and a victim's request after each.
pub(super) async fn run(rows: Vec<Row>) {
    let (bed, back_end) = bed("recorder").await;
    let mut wrong = Vec::new();
    for Row { row, verdicts } in &rows {
        back_end.take();
        let talk = h2::talk(bed.app.http(), row.bytes.clone(), |event| is_verdict(event, verdicts));
        let events = match timeout(PATIENCE, talk).await {
            Ok(events) => events.expect("the gateway listens"),
            Err(_) => Vec::new(),
        };
        let victim = victim(bed.app.http()).await;
        let last = events.last().and_then(verdict);
        let complaint = if !last.is_some_and(|last| verdicts.contains(&last)) {
            Some(format!("ended with {:?}, not one of {verdicts:?}", &events[events.len().saturating_sub(4)..]))
        } else if row.sees.is_empty() && row.bytes.len() > 20_000 {
            // Of a flood, some requests may have been served.
            victim.err()
        } else {
            victim.err().or_else(|| judge(row, back_end.take()).err())
        };
        wrong.extend(complaint.map(|complaint| format!("{}: {complaint}", row.name)));
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Whether the row is over: at one of its verdicts; or at another that is as final.
fn is_verdict(event: &Event, verdicts: &[Verdict]) -> bool {
    let waits_for_more = verdicts.iter().any(|verdict| matches!(verdict, Verdict::GoAway(_) | Verdict::Closed));
    match verdict(event) {
        Some(found) if verdicts.contains(&found) => true,
        Some(Verdict::GoAway(_) | Verdict::Closed) => true,
        Some(Verdict::Status(_) | Verdict::Reset(_)) => !waits_for_more,
        None => false,
    }
}

fn verdict(event: &Event) -> Option<Verdict> {
    match event {
        Event::Status(_, status) => Some(Verdict::Status(*status)),
        Event::Reset(_, code) => Some(Verdict::Reset(*code)),
        Event::GoAway(code) => Some(Verdict::GoAway(*code)),
        Event::Closed => Some(Verdict::Closed),
        Event::Data(..) | Event::End(_) | Event::Pong => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_break_nothing_but_their_connection() {
    run(rows()).await;
}
