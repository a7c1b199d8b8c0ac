//! Content that does not end where it says.

use super::{Row, SMUGGLED, passed, refused, run};

/// A chunked request to `/cut`, which goes wrong in its content: the back end may have seen a part of it, and no end.
fn chunks(content: &str) -> String {
    format!("POST /cut HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{content}{SMUGGLED}")
}

fn good(content: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{content}{SMUGGLED}")
}

pub(super) fn rows() -> Vec<Row> {
    let bad = |name: &'static str, content: &str| refused(400, name, chunks(content));
    let read = |name: &'static str, content: &str| passed("POST /x", name, good(content));
    vec![
        bad("no size", "\r\nabc\r\n0\r\n\r\n"),
        bad("a size with a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        bad("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        bad("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        bad("a size with other letters", "3g\r\nabc\r\n0\r\n\r\n"),
        bad("a size of 2^64", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        bad("a size of 2^64 + 3", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        bad("a size behind a space", " 3\r\nabc\r\n0\r\n\r\n"),
        bad("a size in two parts", "3 0\r\nabc\r\n0\r\n\r\n"),
        bad("a size line with a bare LF", "3\nabc\r\n0\r\n\r\n"),
        bad("a size line with a bare CR", "3\rabc\r\n0\r\n\r\n"),
        bad("a size line with a NUL", "3\0\r\nabc\r\n0\r\n\r\n"),
        bad("a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        bad("a chunk shorter than its size", "4\r\nabc\r\n0\r\n\r\n"),
        bad("a chunk with a bare LF behind", "3\r\nabc\n0\r\n\r\n"),
        bad("a chunk with a bare CR behind", "3\r\nabc\r0\r\n\r\n"),
        bad("a chunk with nothing behind", "3\r\nabc0\r\n\r\n"),
        bad("an extension with a bare LF", "3;x\nabc\r\n0\r\n\r\n"),
        bad("an extension with a bare CR", "3;x\ry\r\nabc\r\n0\r\n\r\n"),
        bad("an extension with a control character", "3;\x01\r\nabc\r\n0\r\n\r\n"),
        bad("an extension of 10 KB", &format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(10_000))),
        bad("a size of 300 digits", &format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(300))),
        bad("a last chunk with a bare LF", "3\r\nabc\r\n0\n\r\n"),
        bad("an end with a bare LF", "3\r\nabc\r\n0\r\n\n"),
        bad("a trailer with a bare LF", "3\r\nabc\r\n0\r\nX: y\nA: b\r\n\r\n"),
        bad("a trailer without a colon", "3\r\nabc\r\n0\r\nX\r\n\r\n"),
        bad("a trailer with a space behind its name", "3\r\nabc\r\n0\r\nX : y\r\n\r\n"),
        bad("a trailer with a NUL", "3\r\nabc\r\n0\r\nX: y\0\r\n\r\n"),
        bad("a folded trailer", "3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n"),
        bad("a request for a trailer", "3\r\nabc\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
        bad(
            "trailers of 40 KiB",
            &format!("3\r\nabc\r\n0\r\n{}\r\n", format!("X: {}\r\n", "y".repeat(1 << 10)).repeat(40)),
        ),
        bad("101 trailers", &format!("3\r\nabc\r\n0\r\n{}\r\n", "X: y\r\n".repeat(101))),
        read("chunks", "3\r\nabc\r\n0\r\n\r\n").content("abc"),
        read("a request in a chunk", "23\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n").content(SMUGGLED),
        read("a size in capitals, with zeros", "000A\r\n0123456789\r\n00\r\n\r\n").content("0123456789"),
        read("extensions are dropped", "3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n").content("abc"),
        read("white space behind a size", "3 \t\r\nabc\r\n0\r\n\r\n").content("abc"),
        read("no chunk at all", "0\r\n\r\n").content(""),
        read("lines in chunks", "6\r\n\r\n\n\n0\n\r\n0\r\n\r\n").content("\r\n\n\n0\n"),
        read("a trailer that changes the length", "3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n").content("abc"),
        read("a trailer that changes the coding", "3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n").content("abc"),
        read("a trailer that changes the host", "3\r\nabc\r\n0\r\nHost: b\r\nCookie: x\r\nAuthorization: x\r\n\r\n")
            .content("abc"),
        Row {
            statuses: vec![200, 400],
            ..passed(
                "POST /x",
                "content longer than its length is the next request",
                format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcdef\r\n\r\n{SMUGGLED}"),
            )
            .content("abc")
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn content_ends_where_it_says() {
    run(rows()).await;
}
