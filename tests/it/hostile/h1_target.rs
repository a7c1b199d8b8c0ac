//! Methods, targets, versions and hosts that are none, or that lead past a rule.

use super::{Row, closed, passed, refused, run};

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: a\r\nConnection: close\r\n\r\n")
}

fn host(lines: &str) -> String {
    format!("GET /x HTTP/1.1\r\n{lines}Connection: close\r\n\r\n")
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = methods_and_versions();
    rows.extend(targets());
    rows.extend(paths());
    rows.extend(hosts());
    rows
}

fn methods_and_versions() -> Vec<Row> {
    vec![
        refused(405, "CONNECT", "CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\nConnection: close\r\n\r\n"),
        refused(405, "CONNECT to a path", line("CONNECT /x HTTP/1.1")),
        refused(405, "TRACE", line("TRACE /x HTTP/1.1")),
        refused(501, "a method in small letters", line("get /x HTTP/1.1")),
        refused(501, "a method of one sign", line("! /x HTTP/1.1")),
        refused(501, "a method of 40 letters", line(&format!("{} /x HTTP/1.1", "X".repeat(40)))),
        refused(501, "the method of HTTP/2's preface", line("PRI /x HTTP/1.1")),
        refused(400, "a method with a colon", line("GET: /x HTTP/1.1")),
        refused(400, "a method with a NUL", line("GE\0T /x HTTP/1.1")),
        refused(400, "no method", line(" /x HTTP/1.1")),
        refused(400, "two spaces", line("GET  /x HTTP/1.1")),
        refused(400, "a tab for a space", line("GET\t/x HTTP/1.1")),
        refused(400, "two spaces in front of the version", line("GET /x  HTTP/1.1")),
        refused(400, "a word too much", line("GET /x y HTTP/1.1")),
        refused(400, "HTTP/2.0", line("GET /x HTTP/2.0")),
        refused(400, "HTTP/1.2", line("GET /x HTTP/1.2")),
        refused(400, "HTTP/0.9 by name", line("GET /x HTTP/0.9")),
        refused(400, "HTTP/1.1 and more", line("GET /x HTTP/1.1x")),
        refused(400, "HTTP/01.1", line("GET /x HTTP/01.1")),
        closed("http/1.1", line("GET /x http/1.1")),
        closed("no version", "GET /x\r\n\r\n"),
        closed("a greeting of another protocol", "EHLO a\r\n\r\n"),
        closed("a TLS greeting", &b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n"[..]),
        closed("a broken preface of HTTP/2", "INVALID CONNECTION PREFACE\r\n\r\n"),
        passed("PROPFIND /x", "a method of WebDAV", line("PROPFIND /x HTTP/1.1")),
        passed("GET /x", "HTTP/1.0 without a Host", "GET /x HTTP/1.0\r\n\r\n").field("host", Some("")),
        passed("GET /x", "HTTP/1.0 with an expectation", "GET /x HTTP/1.0\r\nHost: a\r\nExpect: x\r\n\r\n")
            .field("expect", None),
    ]
}

fn targets() -> Vec<Row> {
    vec![
        refused(400, "authority-form", get("a:80")),
        refused(400, "GET *", get("*")),
        refused(400, "a relative path", get("x")),
        refused(400, "a query alone", get("?x")),
        refused(400, "a fragment alone", get("#x")),
        refused(400, "another scheme's URL", get("ftp://a/x")),
        refused(400, "https on plain", get("https://a/x")),
        refused(400, "a file", get("file:///etc/passwd")),
        refused(400, "a script", get("javascript:x")),
        refused(400, "a URL with a user", get("http://user:pass@a/x")),
        refused(400, "a URL without a host", get("http:///x")),
        refused(400, "a URL with a list of hosts", get("http://a,b/x")),
        refused(400, "a URL with an escaped host", get("http://%61/x")),
        refused(400, "a URL with a port that is none", get("http://a:port/x")),
        refused(400, "a URL with a port too long", get("http://a:123456/x")),
        refused(400, "a URL without a Host field", "GET http://a/x HTTP/1.1\r\n\r\n"),
        refused(414, "a target of 10 KiB", get(&format!("/{}", "x".repeat(10 << 10)))),
        refused(414, "a query of 10 KiB", get(&format!("/?{}", "x".repeat(10 << 10)))),
        refused(431, "a target of 100 KiB", get(&format!("/{}", "x".repeat(100 << 10)))),
        refused(400, "letters that are no ASCII", get("/caf\u{e9}")),
        refused(400, "letters that are no ASCII in a query", get("/x?caf\u{e9}")),
        refused(400, "bytes that are no UTF-8", [&b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"[..]].concat()),
        refused(400, "a NUL", get("/x\0y")),
        refused(400, "a DEL", get("/x\x7fy")),
        refused(400, "an escape character", get("/x\x1b[31my")),
        passed("GET /x?y", "a URL, whose host counts", get("http://b:81/x?y")).field("host", Some("b:81")),
        passed("GET /", "a URL without a path", get("http://b")).field("host", Some("b")),
        passed("GET /x", "a URL in capitals", get("HTTP://B/x")),
        passed("OPTIONS *", "OPTIONS *", line("OPTIONS * HTTP/1.1")),
        passed("GET /x", "a fragment", get("/x#/../admin")),
        passed("GET /x?/../admin", "dots in a query", get("/x?/../admin")),
        passed("GET /x?%zz%00\\", "anything goes in a query", get("/x?%zz%00\\")),
    ]
}

/// The guarded rules answer 503 themselves. What is asked of them never reaches the back end, however it is written.
fn paths() -> Vec<Row> {
    vec![
        refused(503, "the guarded path", get("/admin")),
        refused(503, "below it", get("/admin/x")),
        refused(503, "with an escaped letter", get("/%61dmin")),
        refused(503, "with all letters escaped", get("/%61%64%6d%69%6e")),
        refused(503, "with a slash too much", get("//admin")),
        refused(503, "with many slashes", get("////admin////x")),
        refused(503, "behind a dot", get("/./admin")),
        refused(503, "behind an escaped dot", get("/%2e/admin")),
        refused(503, "behind an escaped slash", get("/%2fadmin")),
        refused(503, "in front of an escaped slash", get("/admin%2fx")),
        refused(503, "with an escape in capitals", get("/admin%2Fx")),
        refused(503, "letters that are no ASCII, in a rule", get("/caf%c3%a9/x")),
        refused(503, "from a sibling", get("/public/../admin")),
        refused(503, "from a sibling, escaped", get("/public/%2e%2e/admin")),
        refused(503, "from a sibling, half escaped", get("/public/.%2e/admin")),
        refused(400, "from a sibling, by an escaped slash", get("/public/..%2fadmin")),
        refused(400, "from a sibling, all escaped", get("/public%2f%2e%2e%2fadmin")),
        refused(400, "from below to a sibling", get("/admin/../public")),
        refused(400, "from below to a sibling, escaped", get("/admin/%2e%2e/public")),
        refused(400, "from below to a sibling, by an escaped slash", get("/admin/..%2fpublic")),
        refused(400, "past an element with an escaped slash", get("/public/b%2Fc/../../admin")),
        refused(400, "past an empty parameter", get("/public/;x/../admin")),
        refused(400, "with a parameter", get("/admin;x")),
        refused(400, "with a parameter, below", get("/admin;x/y")),
        refused(400, "with an escaped parameter", get("/admin%3bx")),
        refused(400, "behind a parameter alone", get("/;x/admin")),
        refused(400, "dots with a parameter", get("/public/..;/admin")),
        refused(400, "dots with an escaped parameter", get("/public/..%3b/admin")),
        refused(400, "dots and a backslash", get("/public\\..\\admin")),
        refused(400, "dots and an escaped backslash", get("/public/..%5cadmin")),
        refused(400, "behind a backslash", get("/\\admin")),
        refused(400, "behind an escaped backslash", get("/%5cadmin")),
        refused(400, "in front of an escaped backslash", get("/admin%5cx")),
        refused(400, "above the root", get("/../admin")),
        refused(400, "above the root, escaped", get("/%2e%2e/%2e%2e/etc/passwd")),
        refused(400, "an escape without digits", get("/%")),
        refused(400, "an escape with one digit", get("/%4")),
        refused(400, "an escape with other letters", get("/%zz")),
        refused(400, "an escape of JavaScript", get("/%u002e")),
        refused(400, "an escaped NUL", get("/admin%00.html")),
        refused(400, "an escaped line end", get("/x%0d%0aX-Injected:%20y")),
        refused(400, "an escaped DEL", get("/x%7f")),
        passed("GET /%2561dmin", "escaped twice is not decoded twice", get("/%2561dmin")),
        passed("GET /%252e%252e/admin", "dots escaped twice", get("/%252e%252e/admin")),
        passed("GET /x/..%c0%afadmin", "an overlong slash", get("/x/..%c0%afadmin")),
        passed("GET /%C0%AE%C0%AE/admin", "overlong dots", get("/%C0%AE%C0%AE/admin")),
        passed("GET /a/./b//../c", "dots that stay under the rule go on as they are", get("/a/./b//../c")),
        passed(
            "GET /users/CORP%5Cann",
            "a letter that Windows takes for a slash, under the same rule",
            get("/users/CORP%5Cann"),
        ),
        passed("GET /x;v=1/y", "a parameter, under the same rule", get("/x;v=1/y")),
        passed("GET /administrator", "another path", get("/administrator")),
        passed("GET /ADMIN", "another path in capitals", get("/ADMIN")),
    ]
}

fn hosts() -> Vec<Row> {
    vec![
        refused(400, "no Host", host("")),
        refused(400, "two Hosts", host("Host: a\r\nHost: b\r\n")),
        refused(400, "two equal Hosts", host("Host: a\r\nHost: a\r\n")),
        refused(400, "two Hosts, one in capitals", host("host: a\r\nHOST: b\r\n")),
        refused(400, "two Hosts, one on a folded line", host("Host: a\r\n Host: b\r\n")),
        refused(400, "a Host with a space behind its name", host("Host : a\r\n")),
        refused(400, "an empty Host", host("Host:\r\n")),
        refused(400, "a path", host("Host: /x\r\n")),
        refused(400, "a host and a path", host("Host: a/x\r\n")),
        refused(400, "a user", host("Host: a@b\r\n")),
        refused(400, "a space", host("Host: a b\r\n")),
        refused(400, "a tab", host("Host: a\tb\r\n")),
        refused(400, "a list", host("Host: a, b\r\n")),
        refused(400, "an escape", host("Host: %61\r\n")),
        refused(400, "a port with letters", host("Host: a:80abc\r\n")),
        refused(400, "a port alone", host("Host: :80\r\n")),
        refused(400, "a port with a sign", host("Host: a:-80\r\n")),
        refused(400, "a port of six digits", host("Host: a:100000\r\n")),
        refused(400, "two ports", host("Host: a:80:80\r\n")),
        refused(400, "an open bracket", host("Host: [::1\r\n")),
        refused(400, "brackets around no address", host("Host: [a]\r\n")),
        refused(400, "a query", host("Host: a?b\r\n")),
        refused(400, "a fragment", host("Host: a#b\r\n")),
        refused(400, "a backslash", host("Host: a\\b\r\n")),
        refused(400, "a NUL", host("Host: a\0b\r\n")),
        refused(400, "letters that are no ASCII", host("Host: caf\u{e9}\r\n")),
        refused(400, "markup", host("Host: <script>\r\n")),
        refused(400, "300 letters", host(&format!("Host: {}\r\n", "a".repeat(300)))),
        passed("GET /x", "a port", host("Host: a:8080\r\n")).field("host", Some("a:8080")),
        passed("GET /x", "an address", host("Host: [::1]:80\r\n")).field("host", Some("[::1]:80")),
        passed("GET /x", "a Host that Connection calls one of this hop", host("Host: a\r\nConnection: host\r\n"))
            .field("host", Some("a")),
        passed("GET /x", "another host in X-Forwarded-Host", host("Host: a\r\nX-Forwarded-Host: b\r\n"))
            .field("x-forwarded-host", Some("a")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_lead_where_they_say_or_nowhere() {
    run(rows()).await;
}
