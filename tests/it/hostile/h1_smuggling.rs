//! Requests with two lengths, or with one that can be read in two ways.

use super::{Row, SMUGGLED, passed, refused, run};

/// `POST /x` with these lines and this content, then a request that must not be served.
fn post(lines: &str, content: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n{content}{SMUGGLED}")
}

/// The same, with an end: what follows is not read, not even where it is a proper request.
fn last(lines: &str, content: &str) -> String {
    post(&format!("{lines}Connection: close\r\n"), content)
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = lengths();
    rows.extend(lengths_that_count());
    rows.extend(codings());
    rows.extend(codings_in_disguise());
    rows.extend(lines());
    rows
}

fn lengths() -> Vec<Row> {
    vec![
        refused(400, "CL.TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG")),
        refused(
            400,
            "TE.CL",
            post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n"),
        ),
        refused(
            400,
            "CL.TE, the length is right",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        refused(400, "TE.CL with capitals", post("TRANSFER-ENCODING: CHUNKED\r\nCONTENT-LENGTH: 0\r\n", "0\r\n\r\n")),
        refused(400, "CL.CL, different", post("Content-Length: 0\r\nContent-Length: 38\r\n", "")),
        refused(400, "CL.CL, the same", post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc")),
        refused(400, "CL.CL, the same number", post("Content-Length: 3\r\nContent-Length: 03\r\n", "abc")),
        refused(
            400,
            "three lengths",
            post("Content-Length: 3\r\nX: y\r\nContent-Length: 3\r\nContent-Length: 4\r\n", "abc"),
        ),
        refused(400, "a list of equal lengths", post("Content-Length: 3, 3\r\n", "abc")),
        refused(400, "a list of lengths", post("Content-Length: 0, 38\r\n", "")),
        refused(400, "a length with a sign", post("Content-Length: +3\r\n", "abc")),
        refused(400, "a negative length", post("Content-Length: -3\r\n", "")),
        refused(400, "a hexadecimal length", post("Content-Length: 0x3\r\n", "abc")),
        refused(400, "a length with a point", post("Content-Length: 3.0\r\n", "abc")),
        refused(400, "a length with an exponent", post("Content-Length: 3e0\r\n", "abc")),
        refused(400, "a length in words", post("Content-Length: three\r\n", "abc")),
        refused(400, "a length in two parts", post("Content-Length: 3 8\r\n", "abc")),
        refused(400, "a length in underscored digits", post("Content-Length: 3_8\r\n", "abc")),
        refused(400, "a length in other digits", post("Content-Length: \u{663}\r\n", "abc")),
        refused(400, "a length in quotes", post("Content-Length: \"3\"\r\n", "abc")),
        refused(400, "no length", post("Content-Length:\r\n", "")),
        refused(400, "a length of white space", post("Content-Length: \t \r\n", "")),
        // 2^64 + 2, which HAProxy 2.6 reads as 2.
        refused(400, "a length of 2^64 + 2", post("Content-Length: 18446744073709551618\r\n", "ab")),
        refused(400, "a length of 30 digits", post("Content-Length: 100000000000000000000000000038\r\n", "")),
        refused(400, "a length far behind its colon", post(&format!("Content-Length:{}3\r\n", " ".repeat(100)), "abc")),
    ]
}

fn lengths_that_count() -> Vec<Row> {
    vec![
        passed("POST /x", "a length with zeros in front", last("Content-Length: 0035\r\n", ""))
            .content(SMUGGLED)
            .field("content-length", Some("35")),
        passed("POST /x", "a length of 0", last("Content-Length: 0\r\n", "")).content(""),
        passed("POST /x", "CL.0: what is content stays content", last("Content-Length: 35\r\n", "")).content(SMUGGLED),
        passed(
            "GET /x",
            "content of a GET",
            format!("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\nConnection: close\r\n\r\n{SMUGGLED}"),
        )
        .content(SMUGGLED),
        passed(
            "DELETE /x",
            "content of a DELETE",
            format!("DELETE /x HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\nConnection: close\r\n\r\n{SMUGGLED}"),
        )
        .content(SMUGGLED),
        passed(
            "HEAD /x",
            "content of a HEAD",
            format!("HEAD /x HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\nConnection: close\r\n\r\n{SMUGGLED}"),
        )
        .content(SMUGGLED),
        passed(
            "POST /x",
            "a length that Connection calls one of this hop",
            last("Content-Length: 35\r\nConnection: content-length\r\n", ""),
        )
        .content(SMUGGLED)
        .field("content-length", Some("35")),
        passed("POST /x", "a length with an underscore", last("Content_Length: 38\r\n", "")).content(""),
        passed("POST /x", "a length under another name", last("X-Content-Length: 38\r\nContent-Lengt: 38\r\n", ""))
            .content(""),
    ]
}

fn codings() -> Vec<Row> {
    let coding = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n");
    vec![
        refused(
            400,
            "TE.TE, a strange one first",
            post("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
        ),
        refused(
            501,
            "TE.TE, a strange one and chunked",
            post("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            400,
            "TE.TE, chunked and a strange one",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "0\r\n\r\n"),
        ),
        refused(
            400,
            "TE.TE, chunked in both",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        refused(400, "chunked, chunked", coding("chunked, chunked")),
        refused(501, "gzip, chunked", coding("gzip, chunked")),
        refused(501, "identity, chunked", coding("identity, chunked")),
        refused(400, "a hole and chunked", coding(",chunked")),
        refused(400, "chunked and a hole", coding("chunked,")),
        refused(400, "identity", coding("identity")),
        refused(400, "xchunked", coding("xchunked")),
        refused(400, "chunkedx", coding("chunkedx")),
        refused(400, "chunked in quotes", coding("\"chunked\"")),
        refused(400, "chunked with a parameter", coding("chunked;q=1")),
        refused(400, "chunked behind a vertical tab", coding("\u{b}chunked")),
        refused(400, "chunked in front of a NUL", coding("chunked\0")),
        refused(400, "chunked behind letters that are none", coding("\u{e9}chunked")),
        refused(400, "no coding", coding("")),
    ]
}

fn codings_in_disguise() -> Vec<Row> {
    vec![
        refused(400, "the name and a space", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
        refused(400, "the name and a tab", post("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n")),
        refused(400, "a space and the name", post(" Transfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        refused(400, "the coding on a line of its own", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n")),
        refused(
            400,
            "the coding behind another field's bare LF",
            post("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        refused(
            400,
            "the coding behind another field's bare CR",
            post("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ),
        refused(400, "the coding behind a NUL", post("X: y\0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        refused(
            400,
            "a coding in HTTP/1.0",
            format!("POST /x HTTP/1.0\r\nHost: a\r\n{CHUNKED}\r\n0\r\n\r\n{SMUGGLED}"),
        ),
        refused(
            400,
            "a coding and a length in HTTP/1.0",
            format!("POST /x HTTP/1.0\r\nHost: a\r\n{CHUNKED}Content-Length: 3\r\n\r\nabc"),
        ),
        passed(
            "POST /x",
            "a coding in capitals, behind tabs",
            last("tRaNsFeR-eNcOdInG:\t\tChUnKeD\t\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        )
        .content("abc"),
        passed("POST /x", "a coding with an underscore", last("Transfer_Encoding: chunked\r\n", "")).content(""),
        passed(
            "POST /x",
            "a coding that Connection calls one of this hop",
            last("Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        )
        .content("abc"),
        passed("POST /x", "a coding that TE asks for", last("TE: chunked\r\n", "")).content("").field("te", None),
        passed("POST /x", "a coding named X-Transfer-Encoding", last("X-Transfer-Encoding: chunked\r\n", ""))
            .content(""),
        passed(
            "GET /x",
            "chunks of a GET",
            format!("GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{CHUNKED}\r\n23\r\n{SMUGGLED}\r\n0\r\n\r\n"),
        )
        .content(SMUGGLED),
    ]
}

fn lines() -> Vec<Row> {
    vec![
        refused(400, "a bare LF behind the request line", format!("GET /x HTTP/1.1\nHost: a\r\n\r\n{SMUGGLED}")),
        refused(400, "a bare LF behind a field", format!("GET /x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n{SMUGGLED}")),
        refused(400, "a bare LF at the end of the head", format!("GET /x HTTP/1.1\r\nHost: a\r\n\n{SMUGGLED}")),
        refused(400, "bare LFs alone", "GET /x HTTP/1.1\nHost: a\n\nGET /smuggled HTTP/1.1\nHost: a\n\n"),
        refused(400, "a bare LF in front of the request", format!("\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n{SMUGGLED}")),
        refused(400, "a bare CR behind the request line", format!("GET /x HTTP/1.1\rHost:a\r\n\r\n{SMUGGLED}")),
        refused(400, "a bare CR behind a field", format!("GET /x HTTP/1.1\r\nHost: a\rX: y\r\n\r\n{SMUGGLED}")),
        refused(400, "a bare CR at the end of the head", format!("GET /x HTTP/1.1\r\nHost: a\r\n\r\r\n{SMUGGLED}")),
        refused(400, "CR CR LF", format!("GET /x HTTP/1.1\r\r\nHost: a\r\r\n\r\r\n{SMUGGLED}")),
        refused(400, "LF CR", format!("GET /x HTTP/1.1\n\rHost: a\n\r\n\r{SMUGGLED}")),
        refused(400, "a folded value", format!("GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n{SMUGGLED}")),
        refused(400, "a folded Host", format!("GET /x HTTP/1.1\r\nHost: a\r\n\t.b\r\n\r\n{SMUGGLED}")),
        refused(400, "a folded line first", format!("GET /x HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n{SMUGGLED}")),
        passed("GET /x", "empty lines in front", "\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        Row {
            statuses: vec![200, 400],
            ..passed(
                "GET /x",
                "a good one, then a bare LF",
                format!("GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET /y HTTP/1.1\nHost: a\r\n\r\n{SMUGGLED}"),
            )
        },
        Row {
            statuses: vec![200, 400],
            ..passed(
                "POST /x",
                "a good one with content, then two lengths",
                format!(
                    "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na\nbPOST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx{SMUGGLED}"
                ),
            )
        },
        Row {
            statuses: vec![200, 200, 200],
            sees: vec!["GET /1", "POST /2", "GET /3"],
            ..passed(
                "",
                "three good ones",
                "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            )
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_cannot_hide_in_requests() {
    run(rows()).await;
}
