//! HTTP/2: fields and content that would become another request in HTTP/1.1.

use tidegate_tests::h2::{code, data, headers, section};

use super::h2_frames::{Row, Verdict, answered, refused, reset, run};

/// Fields of a good request, with these changed (by name), taken away (`""`) and added.
fn fields(changes: &[(&str, &str)], more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a")];
    let mut fields: Vec<(&str, &str)> = Vec::new();
    for (name, value) in usual {
        match changes.iter().find(|(changed, _)| *changed == name) {
            Some((_, "")) => {}
            Some((_, changed)) => fields.push((name, changed)),
            None => fields.push((name, value)),
        }
    }
    section(fields.into_iter().chain(more.iter().copied()))
}

/// A whole request with one more field.
fn with(name: &str, value: &str) -> Vec<u8> {
    headers(1, true, &fields(&[], &[(name, value)]))
}

/// A whole request, changed.
fn but(changes: &[(&str, &str)]) -> Vec<u8> {
    headers(1, true, &fields(changes, &[]))
}

/// A POST to `/cut` with these fields and this content.
fn post(more: &[(&str, &str)], content: &[u8]) -> Vec<u8> {
    let head = headers(1, false, &fields(&[(":method", "POST"), (":path", "/cut")], more));
    [head, data(1, true, content)].concat()
}

const INJECTED: &str = "y\r\nX-Injected: z";
const SPLIT: &str = "/x HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = names_and_values();
    rows.extend(pseudo_fields());
    rows.extend(methods_and_schemes());
    rows.extend(targets());
    rows.extend(hosts());
    rows.extend(content());
    rows
}

fn names_and_values() -> Vec<Row> {
    vec![
        answered(200, "a good request", but(&[])).sees("GET /x").field("host", Some("a")),
        reset("Transfer-Encoding", with("transfer-encoding", "chunked")),
        reset("Connection", with("connection", "close")),
        reset("Keep-Alive", with("keep-alive", "5")),
        reset("Proxy-Connection", with("proxy-connection", "keep-alive")),
        reset("Upgrade", with("upgrade", "h2c")),
        reset("TE with another value", with("te", "gzip")),
        answered(200, "TE: trailers", with("te", "trailers")).sees("GET /x"),
        reset("capitals in a name", with("X-Y", "z")),
        reset("a space in a name", with("x y", "z")),
        reset("a space behind a name", with("transfer-encoding ", "chunked")),
        reset("a colon in a name", with("x:y", "z")),
        reset("a line end in a name", with("x\r\ntransfer-encoding", "chunked")),
        reset("a whole line in a name", with("x: y\r\nz", "z")),
        reset("a NUL in a name", with("x\0y", "z")),
        reset("no name", with("", "z")),
        reset("letters that are no ASCII in a name", with("caf\u{e9}", "z")),
        reset("a line end in a value", with("x", INJECTED)),
        reset("a bare LF in a value", with("x", "y\nX-Injected: z")),
        reset("a bare CR in a value", with("x", "y\rX-Injected: z")),
        reset("a NUL in a value", with("x", "y\0z")),
        reset("a control character in a value", with("x", "y\x01z")),
        reset("a DEL in a value", with("x", "y\x7fz")),
        refused(400, "white space around a value", with("x", " y\t")),
        answered(200, "names with underscores", with("x_real_ip", "6.6.6.6")).sees("GET /x").field("x_real_ip", None),
        answered(200, "Proxy", with("proxy", "evil")).sees("GET /x").field("proxy", None),
        answered(200, "crumbs of a cookie", headers(1, true, &fields(&[], &[("cookie", "a=b"), ("cookie", "c=d")])))
            .sees("GET /x")
            .field("cookie", Some("a=b; c=d")),
        refused(417, "an unknown expectation", with("expect", "x")),
        Row::any(
            "a field of 100 KiB",
            &[Verdict::Status(431), Verdict::Reset(code::PROTOCOL_ERROR), Verdict::GoAway(code::ENHANCE_YOUR_CALM)],
            large(1, 100 << 10),
        ),
        Row::any(
            "fields of 100 KiB",
            &[Verdict::Status(431), Verdict::Reset(code::PROTOCOL_ERROR), Verdict::GoAway(code::ENHANCE_YOUR_CALM)],
            large(100, 1 << 10),
        ),
        Row::any(
            "10,000 fields without content",
            &[Verdict::Status(431), Verdict::Reset(code::PROTOCOL_ERROR), Verdict::GoAway(code::ENHANCE_YOUR_CALM)],
            large(10_000, 0),
        ),
    ]
}

/// A request with this many fields of this many bytes, in as many frames as it takes.
fn large(count: usize, bytes: usize) -> Vec<u8> {
    let value = "y".repeat(bytes);
    let block = fields(&[], &vec![("x", &*value); count]);
    super::h2_frames::split(&block, 16_000)
}

fn pseudo_fields() -> Vec<Row> {
    let also = |name: &str, value: &str| {
        headers(
            1,
            true,
            &section([(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "a"), (name, value)]),
        )
    };
    vec![
        reset("an unknown one", also(":unknown", "x")),
        reset("one of an answer", also(":status", "200")),
        reset("two methods", also(":method", "POST")),
        reset("two paths", also(":path", "/admin")),
        reset("two schemes", also(":scheme", "https")),
        reset("two authorities", also(":authority", "b")),
        reset(
            "one behind a field",
            headers(
                1,
                true,
                &section([(":method", "GET"), (":scheme", "http"), ("x", "y"), (":path", "/x"), (":authority", "a")]),
            ),
        ),
        reset("no method", but(&[(":method", "")])),
        reset("no scheme", but(&[(":scheme", "")])),
        reset("no path", but(&[(":path", "")])),
        reset(
            "an empty path",
            headers(1, true, &section([(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "")])),
        ),
        reset("a protocol without CONNECT", also(":protocol", "websocket")),
    ]
}

fn methods_and_schemes() -> Vec<Row> {
    vec![
        reset("a method that is a request", but(&[(":method", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\nGET")])),
        reset("a method with a space", but(&[(":method", "GET /admin")])),
        refused(501, "a method in small letters", but(&[(":method", "get")])),
        refused(405, "TRACE", but(&[(":method", "TRACE")])),
        refused(405, "CONNECT", headers(1, true, &section([(":method", "CONNECT"), (":authority", "b:80")]))),
        reset("CONNECT with a path", but(&[(":method", "CONNECT")])),
        refused(405, "CONNECT without an authority", headers(1, true, &section([(":method", "CONNECT")]))),
        refused(
            501,
            "extended CONNECT to something unknown",
            headers(
                1,
                false,
                &section([
                    (":method", "CONNECT"),
                    (":protocol", "connect-udp"),
                    (":scheme", "http"),
                    (":path", "/x"),
                    (":authority", "a"),
                ]),
            ),
        ),
        reset(
            "extended CONNECT without a path",
            headers(
                1,
                false,
                &section([
                    (":method", "CONNECT"),
                    (":protocol", "websocket"),
                    (":scheme", "http"),
                    (":authority", "a"),
                ]),
            ),
        ),
        reset("a scheme that is a URL", but(&[(":scheme", "http://b/?")])),
        reset("a scheme with a line end", but(&[(":scheme", "http\r\nX: y")])),
        refused(400, "another scheme", but(&[(":scheme", "ftp")])),
        answered(200, "the scheme that a balancer took off", but(&[(":scheme", "https")]))
            .sees("GET /x")
            .field("x-forwarded-proto", Some("http")),
    ]
}

fn targets() -> Vec<Row> {
    let path = |path: &str| but(&[(":path", path)]);
    vec![
        reset("a request", path(SPLIT)),
        reset("a space", path("/x y")),
        reset("a line end", path("/x\r\nX: y")),
        reset("a NUL", path("/x\0")),
        reset("no slash", path("x")),
        Row::any("a URL", &[Verdict::Status(400), Verdict::Reset(code::PROTOCOL_ERROR)], path("http://b/x")),
        Row::any("an authority", &[Verdict::Status(400), Verdict::Reset(code::PROTOCOL_ERROR)], path("b:80")),
        Row::any("a star", &[Verdict::Status(400), Verdict::Reset(code::PROTOCOL_ERROR)], path("*")),
        Row::any(
            "letters that are no ASCII",
            &[Verdict::Status(400), Verdict::Reset(code::PROTOCOL_ERROR)],
            path("/caf\u{e9}"),
        ),
        answered(200, "OPTIONS *", but(&[(":method", "OPTIONS"), (":path", "*")])).sees("OPTIONS *"),
        refused(503, "the guarded path", path("//%61dmin")),
        refused(400, "from a sibling", path("/public/..%2fadmin")),
        refused(400, "from below to a sibling", path("/admin/../public")),
        refused(400, "above the root", path("/../admin")),
        refused(400, "a backslash", path("/public\\..\\admin")),
        refused(414, "a path of 10 KiB", path(&format!("/{}", "x".repeat(10 << 10)))),
    ]
}

fn hosts() -> Vec<Row> {
    let authority = |authority: &str| but(&[(":authority", authority)]);
    let bad = |name: &'static str, bytes: Vec<u8>| {
        Row::any(name, &[Verdict::Status(400), Verdict::Reset(code::PROTOCOL_ERROR)], bytes)
    };
    vec![
        bad("a user", authority("user@a")),
        bad("a path", authority("a/x")),
        bad("a space", authority("a b")),
        bad("a line end", authority("a\r\nX: y")),
        bad("an escape", authority("%61")),
        bad("a list", authority("a,b")),
        bad("a port with letters", authority("a:80abc")),
        bad(
            "an empty one",
            headers(1, true, &section([(":method", "GET"), (":scheme", "http"), (":path", "/x"), (":authority", "")])),
        ),
        bad("none, and no Host", but(&[(":authority", "")])),
        bad("Host is another", with("host", "b")),
        bad("Host has another port", with("host", "a:81")),
        bad("Host twice", headers(1, true, &fields(&[], &[("host", "a"), ("host", "a")]))),
        bad("Host is none", headers(1, true, &fields(&[(":authority", "")], &[("host", "a@b")]))),
        answered(200, "Host is the same", with("host", "A")).sees("GET /x").field("host", Some("a")),
        answered(200, "Host alone", headers(1, true, &fields(&[(":authority", "")], &[("host", "b")])))
            .sees("GET /x")
            .field("host", Some("b")),
    ]
}

fn content() -> Vec<Row> {
    let trailers = |fields: &[(&str, &str)], ends: bool| {
        let head = headers(1, false, &self::fields(&[(":method", "POST"), (":path", "/cut")], &[]));
        [head, data(1, false, b"abc"), headers(1, ends, &section(fields.iter().copied()))].concat()
    };
    vec![
        answered(200, "content", post(&[], b"abc")).sees("POST /cut").content("abc"),
        answered(200, "content of a length", post(&[("content-length", "3")], b"abc")).sees("POST /cut").content("abc"),
        answered(200, "a request for content", post(&[], super::SMUGGLED.as_bytes()))
            .sees("POST /cut")
            .content(super::SMUGGLED),
        reset("less content than its length", post(&[("content-length", "5")], b"abc")),
        reset("more content than its length", post(&[("content-length", "1")], b"abc")),
        reset("content beyond a length of 0", post(&[("content-length", "0")], super::SMUGGLED.as_bytes())),
        reset("a length and no content", headers(1, true, &fields(&[(":path", "/cut")], &[("content-length", "5")]))),
        reset("a length with a sign", post(&[("content-length", "+3")], b"abc")),
        reset("a negative length", post(&[("content-length", "-3")], b"abc")),
        reset("a length in letters", post(&[("content-length", "three")], b"abc")),
        reset("a list of lengths", post(&[("content-length", "3, 3")], b"abc")),
        reset("a length of 2^64 + 3", post(&[("content-length", "18446744073709551619")], b"abc")),
        Row::any(
            "two lengths",
            &[Verdict::Status(400), Verdict::Reset(code::PROTOCOL_ERROR)],
            post(&[("content-length", "3"), ("content-length", "38")], b"abc"),
        ),
        Row::any(
            "two equal lengths",
            &[Verdict::Status(400), Verdict::Reset(code::PROTOCOL_ERROR)],
            post(&[("content-length", "3"), ("content-length", "3")], b"abc"),
        ),
        answered(200, "a length with zeros in front", post(&[("content-length", "003")], b"abc"))
            .sees("POST /cut")
            .content("abc"),
        answered(200, "trailers", trailers(&[("x-sum", "1")], true)).sees("POST /cut").content("abc"),
        answered(200, "trailers that change the framing", trailers(&[("content-length", "9"), ("host", "b")], true))
            .sees("POST /cut")
            .content("abc"),
        // The h2 crate drops it, and what is left is a good request.
        answered(200, "a pseudo-field among trailers", trailers(&[(":path", "/admin")], true)).sees("POST /cut"),
        reset("trailers that are not the end", trailers(&[("x-sum", "1")], false)),
        reset("a coding among trailers", trailers(&[("transfer-encoding", "chunked")], true)),
        reset("a line end among trailers", trailers(&[("x", INJECTED)], true)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_do_not_become_lines() {
    run(rows()).await;
}
