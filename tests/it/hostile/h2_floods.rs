//! HTTP/2: floods of frames that break nothing.
//!
//! The limits are h2's and the gateway's own, named in `HttpLimits`; each flood has an end and harms nobody else. What
//! honest clients send a lot of, and in which proportion to what they get, is shown beside the gateway's code.

use tidegate_tests::h2::{self, code, data, flag, frame, headers, kind, section, settings};

use super::h2_frames::{Row, Verdict, answered, fields, get, go_away, post, run, split};

pub(super) fn rows() -> Vec<Row> {
    let mut rows = busy();
    rows.extend(idle());
    rows
}

/// A flood.
fn calm(name: &'static str, bytes: Vec<u8>) -> Row {
    Row::any(name, &[Verdict::GoAway(code::ENHANCE_YOUR_CALM)], bytes)
}

/// Requests, and parts of them.
fn busy() -> Vec<Row> {
    use code::{ENHANCE_YOUR_CALM, REFUSED_STREAM};
    let streams = |count: u32| (0..count).map(|n| 2 * n + 1);
    vec![
        calm("rapid resets", streams(20_000).flat_map(|stream| [get(stream), h2::reset(stream, 8)].concat()).collect()),
        calm(
            "rapid resets of uploads",
            streams(20_000).flat_map(|stream| [post(stream), h2::reset(stream, 8)].concat()).collect(),
        ),
        go_away(
            ENHANCE_YOUR_CALM,
            "resets that the gateway is made to send",
            streams(20_000)
                .flat_map(|stream| [post(stream), frame(kind::WINDOW_UPDATE, 0, stream, &[0; 4])].concat())
                .collect(),
        ),
        go_away(
            ENHANCE_YOUR_CALM,
            "malformed requests",
            streams(20_000).flat_map(|stream| headers(stream, true, &section([("X", "y")]))).collect(),
        ),
        calm(
            "CONTINUATION without an end",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &fields("/x")),
                frame(kind::CONTINUATION, 0, 1, &section([("x", "y")])).repeat(100_000),
            ]
            .concat(),
        ),
        calm(
            "CONTINUATION without bytes",
            [
                frame(kind::HEADERS, flag::END_STREAM, 1, &fields("/x")),
                frame(kind::CONTINUATION, 0, 1, b"").repeat(100_000),
            ]
            .concat(),
        ),
        calm(
            "a section in frames of one byte",
            split(&[fields("/x"), section([("x", "y".repeat(1 << 10))])].concat(), 1),
        ),
        calm("DATA without bytes", [post(1), data(1, false, b"").repeat(100_000)].concat()),
        Row::any(
            "more streams than are allowed at once",
            &[Verdict::Reset(REFUSED_STREAM)],
            streams(5_000).flat_map(post).collect(),
        ),
    ]
}

/// Frames that ask for nothing.
fn idle() -> Vec<Row> {
    vec![
        calm("SETTINGS", settings(&[(4, 65_535)]).repeat(20_000)),
        calm("SETTINGS without any", settings(&[]).repeat(20_000)),
        calm("PING", frame(kind::PING, 0, 0, &[0; 8]).repeat(20_000)),
        calm("answers to PINGs that nobody sent", frame(kind::PING, flag::ACK, 0, &[0; 8]).repeat(20_000)),
        calm("PRIORITY", frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 0, 1]).repeat(20_000)),
        calm("PRIORITY_UPDATE", frame(0x10, 0, 0, b"\0\0\0\x03u=1").repeat(20_000)),
        calm("frames of unknown types", frame(0xfa, 0, 0, &[0; 64]).repeat(20_000)),
        calm("a window opened byte by byte", frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(20_000)),
        calm(
            "a stream's window opened byte by byte",
            [post(1), frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).repeat(20_000)].concat(),
        ),
        calm(
            "some of each",
            [
                post(1),
                [
                    frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
                    settings(&[]),
                    frame(kind::PING, 0, 0, &[0; 8]),
                    frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 0, 1]),
                ]
                .concat()
                .repeat(5_000),
            ]
            .concat(),
        ),
        answered(
            200,
            "as much of each as a client may want to begin with",
            [
                settings(&[(4, 1 << 20), (3, 100)]).repeat(20),
                frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0x0f, 0, 1]).repeat(100),
                frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 0, 1]).repeat(500),
                frame(kind::PING, 0, 0, &[0; 8]).repeat(100),
                headers(1, true, &fields("/x")),
            ]
            .concat(),
        )
        .sees("GET /x"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_have_an_end_and_harm_nobody_else() {
    run(rows()).await;
}
