//! Fields with bytes that they may not have, too many of them, and those that mean something to a gateway.

use super::{Row, SMUGGLED, passed, refused, run};

fn fields(lines: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n")
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = bad();
    rows.extend(dropped());
    rows
}

fn bad() -> Vec<Row> {
    vec![
        refused(400, "no name", fields(": y\r\n")),
        refused(400, "no colon", fields("X\r\n")),
        refused(400, "a space in a name", fields("X Y: z\r\n")),
        refused(400, "a space behind a name", fields("X : y\r\n")),
        refused(400, "a tab behind a name", fields("X\t: y\r\n")),
        refused(400, "a NUL in a name", fields("X\0Y: z\r\n")),
        refused(400, "a CR in a name", fields("X\rY: z\r\n")),
        refused(400, "a bracket in a name", fields("X(Y): z\r\n")),
        refused(400, "a comma in a name", fields("X,Y: z\r\n")),
        refused(400, "a slash in a name", fields("X/Y: z\r\n")),
        refused(400, "an at sign in a name", fields("X@Y: z\r\n")),
        refused(400, "quotes around a name", fields("\"X\": z\r\n")),
        refused(400, "letters that are no ASCII in a name", fields("X\u{e9}: z\r\n")),
        refused(400, "a DEL in a name", fields("X\x7f: z\r\n")),
        refused(400, "a pseudo-field of HTTP/2", fields(":path: /admin\r\n")),
        refused(400, "a NUL in a value", fields("X: y\0z\r\n")),
        refused(400, "a bell in a value", fields("X: y\x07z\r\n")),
        refused(400, "a DEL in a value", fields("X: y\x7fz\r\n")),
        refused(400, "a vertical tab in a value", fields("X: y\x0bz\r\n")),
        refused(400, "a form feed in a value", fields("X: y\x0cz\r\n")),
        refused(400, "an escape character in a value", fields("X: \x1b[31m\r\n")),
        refused(400, "a bare CR in a value", fields("X: y\rz\r\n")),
        refused(400, "a bare CR at the end of a value", fields("X: y\r\r\n")),
        refused(400, "a request line among the fields", fields("GET /smuggled HTTP/1.1\r\n")),
        refused(400, "a byte order mark in front", format!("\u{feff}{}", fields(""))),
        refused(431, "101 fields", fields(&"X: y\r\n".repeat(101))),
        refused(431, "a field of 40 KiB", fields(&format!("X: {}\r\n", "y".repeat(40 << 10)))),
        refused(431, "fields of 40 KiB", fields(&format!("X: {}\r\n", "y".repeat(1 << 10)).repeat(40))),
        refused(431, "a name of 40 KiB", fields(&format!("{}: y\r\n", "X".repeat(40 << 10)))),
        refused(431, "390 KiB without an end", fields(&format!("X: {}", "y".repeat(390 << 10)))),
        refused(417, "an unknown expectation", fields("Expect: 102-processing\r\n")),
        refused(417, "an expectation and another", fields("Expect: 100-continue, x\r\n")),
        refused(417, "two expectations", fields("Expect: 100-continue\r\nExpect: x\r\n")),
        refused(417, "an empty expectation", fields("Expect:\r\n")),
        refused(
            400,
            "a Content-Length in the wrong place",
            format!("GET /x HTTP/1.1\r\nContent-Length: 3\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc{SMUGGLED}"),
        ),
    ]
}

fn dropped() -> Vec<Row> {
    let only = |name: &'static str, lines: &str| passed("GET /x", name, fields(lines));
    vec![
        only(
            "an upgrade to h2c is not made",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        )
        .field("upgrade", None)
        .field("http2-settings", None),
        only("an upgrade without Connection is none", "Upgrade: websocket\r\n").field("upgrade", None),
        only("names with underscores", "X_Real_IP: 6.6.6.6\r\nContent_Length: 5\r\n")
            .field("content_length", None)
            .field("x_real_ip", None),
        only("fields of one hop", "Keep-Alive: 5\r\nProxy-Connection: close\r\nTE: gzip\r\nProxy-Authorization: x\r\n")
            .field("keep-alive", None)
            .field("te", None),
        only("what Connection names", "Connection: X-Hop, close\r\nX-Hop: 1\r\n").field("x-hop", None),
        only(
            "Connection names what the gateway adds",
            "Connection: X-Real-IP, X-Forwarded-For, X-Request-ID\r\nX-Real-IP: 6.6.6.6\r\n",
        )
        .field("x-forwarded-host", Some("a")),
        only(
            "who says to be somebody else",
            "X-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Port: 443\r\n",
        )
        .field("x-forwarded-proto", Some("http"))
        .field("forwarded", None),
        only("httpoxy", "Proxy: http://evil.example.com\r\n").field("proxy", None),
        only("a request id that is markup", "X-Request-ID: <script>\r\nX-Original-Forwarded-For: 6.6.6.6\r\n")
            .field("x-original-forwarded-for", None),
        only("an empty value", "X-Empty:\r\n").field("x-empty", Some("")),
        only("white space around a value", "X-Padded: \t y z \t\r\n").field("x-padded", Some("y z")),
        only("letters beyond ASCII in a value", "X-Latin: caf\u{e9}\r\n").field("x-latin", Some("caf\u{c3}\u{a9}")),
        only("100 fields are not too many", &"X: y\r\n".repeat(98).replacen("X", "X-First", 1))
            .field("x-first", Some("y")),
        only("an expectation without content", "Expect: 100-continue\r\n").field("expect", None),
        only("a Trailer that names what must not be one", "Trailer: Content-Length\r\n"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_clean_or_refused() {
    run(rows()).await;
}
