//! The head that a pod is sent: exactly one request, with the client's target and fields and no more, whatever is in them.

use http::{HeaderName, HeaderValue, Method, Request, Uri, Version, header, request::Parts};
use tidegate::fuzzing;

use crate::strict;

/// What the gateway says itself, or keeps from pods: no client's word passes under these names.
const OURS: [&str; 23] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "keep-alive",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-original-forwarded-for",
    "x-original-forwarded-host",
    "x-real-ip",
    "x-request-id",
    "x-scheme",
    "host",
];

/// The input: lines of method, target, version and then fields, each ended by a zero byte; anything else may be in them.
pub fn run(data: &[u8]) {
    let mut words = data.split(|byte| *byte == 0);
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else { return };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else { return };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = match version {
        b"0" => Version::HTTP_10,
        b"2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    for field in words.take(100) {
        let (name, value) = field.split_at(field.iter().position(|byte| *byte == b':').unwrap_or(field.len()));
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.get(1..).unwrap_or_default()));
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    if request.version() == Version::HTTP_2 && request.headers().contains_key(header::CONNECTION) {
        // h2 refuses it (RFC 9113 8.2.2).
        return;
    }
    let (mut parts, ()) = request.into_parts();
    if fuzzing::check(&mut parts, false).is_ok() {
        check(&parts);
    }
}

/// What the head of a request must be once it has passed the checks.
pub fn check(parts: &Parts) {
    let bytes = fuzzing::request_head(parts);
    let (head, rest) = strict::request(&bytes).expect("a request by the letter").expect("a whole request");
    assert!(rest.is_empty(), "something follows the request");
    let target = parts.uri.path_and_query().expect("it has a target").as_str();
    let expected = [parts.method.as_str(), target, "HTTP/1.1"].map(str::as_bytes);
    assert_eq!(head.start, expected);

    let mut fields = vec![httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut fields);
    assert_eq!(parsed.parse(&bytes), Ok(httparse::Status::Complete(bytes.len())));
    assert_eq!(parsed.headers.len(), head.fields.len());

    let one = |name: &str| {
        let values: Vec<&[u8]> = head.all(name).collect();
        assert_eq!(values.len(), 1, "{name} is there {} times", values.len());
        values[0].to_vec()
    };
    assert_eq!(one("host"), trimmed(&parts.headers[header::HOST]));
    for name in ["x-forwarded-for", "x-real-ip"] {
        assert_eq!(one(name), b"192.0.2.1", "{name}");
    }
    for name in ["x-forwarded-proto", "x-forwarded-scheme", "x-scheme"] {
        assert_eq!(one(name), b"http", "{name}");
    }
    let id = one("x-request-id");
    assert!(!id.is_empty() && id.iter().all(u8::is_ascii_graphic), "a request id is plain");
    // Without content, nothing says that there is any.
    assert_eq!(head.all("transfer-encoding").count() + head.all("expect").count(), 0);
    assert!(head.all("content-length").all(|length| length == b"0") && head.all("content-length").count() < 2);
    assert!(head.fields.iter().all(|(name, _)| !name.contains('_')), "a name that CGI reads as another");
    check_rest(parts, &head);
}

/// All other fields are the client's, in its order, but for those that its `Connection` names.
fn check_rest(parts: &Parts, head: &strict::Head) {
    let connection: Vec<u8> = head.all("connection").collect::<Vec<_>>().join(&b", "[..]);
    assert!([&b""[..], b"te", b"upgrade"].contains(&&connection[..]), "Connection: {}", connection.escape_ascii());
    let named: Vec<String> = parts
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|token| String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase())
        .collect();
    let passes = |name: &str| !OURS.contains(&name) && !name.contains('_');
    for name in parts.headers.keys().map(HeaderName::as_str).filter(|name| passes(name)) {
        let mut said: Vec<Vec<u8>> = parts.headers.get_all(name).iter().map(|value| trimmed(value).to_vec()).collect();
        let sent: Vec<&[u8]> = head.all(name).collect();
        if name == "cookie" && parts.version == Version::HTTP_2 {
            // RFC 9113 8.2.3; and there is no `Connection`.
            let values: Vec<&[u8]> = parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            said = vec![values.join(&b"; "[..]).trim_ascii().to_vec()];
        } else if named.iter().any(|named| named == name) && !["trailer", "close"].contains(&name) {
            said.clear();
        }
        assert_eq!(sent, said, "{name}");
    }
    let known = |name: &str| OURS.contains(&name) || parts.headers.contains_key(name);
    assert!(head.fields.iter().all(|(name, _)| known(name)), "a field from nowhere");
}

fn trimmed(value: &HeaderValue) -> &[u8] {
    value.as_bytes().trim_ascii()
}
