//! The fields that are removed and added on the way, in both directions.
//!
//! What belongs to one hop goes (RFC 9110 7.6.1); who asked, and how, is added under the names that ingress-nginx uses.
//! Nothing a client says about itself is trusted.

use std::borrow::Cow;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, request::Parts};

use super::{
    seen::{Field, REQUEST_ID, Seen},
    upload::Upload,
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(crate) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const ORIGINAL_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");
const ORIGINAL_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-original-forwarded-host");

/// Longest request id taken over from a client: a UUID and something around it.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// What pods are told about who asked, and how.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// The client's address.
    pub(crate) ip: &'a HeaderValue,
    /// The host it asked for, before any rewrite.
    pub(crate) host: HeaderValue,
    /// The port it connected to.
    pub(crate) port: Cow<'a, HeaderValue>,
    /// `http` or `https`.
    pub(crate) scheme: HeaderValue,
    /// The client's own, or a new one.
    pub(crate) request_id: HeaderValue,
    /// Which fields the client sent.
    pub(crate) seen: Seen,
    /// Whether trailers can be passed on to the client.
    pub(crate) takes_trailers: bool,
    /// Whether a request without content says so.
    pub(crate) says_length: bool,
    /// The request's fields are those for the pod already: a rule has edited them.
    pub(crate) is_prepared: bool,
}

/// What becomes of a field of a request.
enum Fate {
    Pass,
    Drop,
    /// Passed on under another name, as the client's own word.
    Original,
}

/// Gives `pass` every field that the pod is to see, but for `Content-Length` and what belongs to one connection.
pub(crate) fn for_pod(
    parts: &Parts,
    told: &Told<'_>,
    upload: &Upload,
    mut pass: impl FnMut(&HeaderName, &HeaderValue),
) {
    let headers = &parts.headers;
    if told.is_prepared {
        return headers.iter().for_each(|(name, value)| pass(name, value));
    }
    let named = if told.seen.has(Field::Connection) { named_by_connection(headers) } else { None };
    let joins_cookies = parts.version == Version::HTTP_2 && headers.get_all(header::COOKIE).iter().nth(1).is_some();
    let mut has_original = false;
    for (name, value) in headers {
        match fate(name) {
            Fate::Pass if named.as_ref().is_some_and(|named| named.contains(name)) => {}
            Fate::Pass if joins_cookies && *name == header::COOKIE => {}
            Fate::Pass => pass(name, value),
            Fate::Original => has_original = true,
            Fate::Drop => {}
        }
    }
    if joins_cookies && let Some(cookies) = joined(headers, &header::COOKIE, b"; ") {
        // RFC 9113 8.2.3: outside HTTP/2 there is one such field.
        pass(&header::COOKIE, &cookies);
    }
    // RFC 9110 10.1.1: an expectation of HTTP/1.0, or without content, is none.
    if told.seen.has(Field::Expect)
        && upload.is_some()
        && parts.version != Version::HTTP_10
        && let Some(expect) = headers.get(header::EXPECT)
    {
        pass(&header::EXPECT, expect);
    }
    if has_original {
        for (name, original) in [(FORWARDED_FOR, ORIGINAL_FORWARDED_FOR), (FORWARDED_HOST, ORIGINAL_FORWARDED_HOST)] {
            if let Some(said) = joined(headers, &name, b", ") {
                pass(&original, &said);
            }
        }
    }
    add_forwarded(told, &mut pass);
    pass(&REQUEST_ID, &told.request_id);
}

/// The name of a request: the client's own, if it is one that can be written into a log, or a new one.
pub(crate) fn request_id(headers: &HeaderMap, seen: Seen) -> HeaderValue {
    if !seen.has(Field::RequestId) {
        return new_request_id();
    }
    let mut ids = headers.get_all(REQUEST_ID).iter();
    match (ids.next(), ids.next()) {
        (Some(id), None) if is_request_id(id) => id.clone(),
        _ => new_request_id(),
    }
}

/// The fields for the pod as a map, for a rule that edits them.
pub(crate) fn prepare(parts: &mut Parts, told: &mut Told<'_>, upload: &Upload) {
    let mut headers = HeaderMap::with_capacity(parts.headers.len() + 12);
    for_pod(parts, told, upload, |name, value| {
        headers.append(name.clone(), value.clone());
    });
    parts.headers = headers;
    told.is_prepared = true;
}

fn fate(name: &HeaderName) -> Fate {
    match name.as_str() {
        // Of one hop only (RFC 9110 7.6.1). `Trailer` stays: trailers are passed on.
        "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding" | "upgrade" => Fate::Drop,
        // Meant for forward proxies, which this is not; a pod has no business with them.
        "proxy-authenticate" | "proxy-authorization" => Fate::Drop,
        // Becomes `HTTP_PROXY` in CGI programs, which then send their own requests through it ("httpoxy", CVE-2016-5385).
        "proxy" => Fate::Drop,
        // It says what X-Forwarded-For says, and no more can be believed.
        "forwarded" => Fate::Drop,
        // Written anew.
        "content-length" | "expect" | "x-request-id" => Fate::Drop,
        "x-real-ip" | "x-forwarded-port" | "x-forwarded-proto" | "x-forwarded-scheme" | "x-scheme" => Fate::Drop,
        "x-original-forwarded-for" | "x-original-forwarded-host" => Fate::Drop,
        "x-forwarded-for" | "x-forwarded-host" => Fate::Original,
        // Names with underscores are dropped, as by nginx: CGI-like pods cannot tell `X_Real_IP` from `X-Real-IP`, so a
        // client could smuggle its own past us.
        name if name.as_bytes().contains(&b'_') => Fate::Drop,
        _ => Fate::Pass,
    }
}

/// Says who asked, and how. What the client said itself survives only under a name of its own.
fn add_forwarded(told: &Told<'_>, pass: &mut impl FnMut(&HeaderName, &HeaderValue)) {
    pass(&FORWARDED_FOR, told.ip);
    pass(&FORWARDED_HOST, &told.host);
    pass(&REAL_IP, told.ip);
    pass(&FORWARDED_PORT, &told.port);
    for name in [FORWARDED_PROTO, FORWARDED_SCHEME, SCHEME] {
        pass(&name, &told.scheme);
    }
}

/// Whether trailers can be passed on to the client.
pub(crate) fn takes_trailers(headers: &HeaderMap, seen: Seen) -> bool {
    seen.has(Field::Te) && has_token(headers, &header::TE, "trailers")
}

/// Writes the head of an HTTP/1.1 request for a pod. `upgrade` is the protocol to change to, if the client asks for one.
pub(crate) fn write_head(
    out: &mut Vec<u8>,
    parts: &Parts,
    told: &Told<'_>,
    upload: &Upload,
    upgrade: Option<&HeaderValue>,
) {
    let field = |out: &mut Vec<u8>, name: &[u8], value: &[u8]| {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    };
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(parts.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for_pod(parts, told, upload, |name, value| field(out, name.as_str().as_bytes(), value.as_bytes()));
    match upload.length() {
        None => field(out, b"transfer-encoding", b"chunked"),
        Some(0) if !told.says_length => {}
        Some(length) => {
            let mut digits = itoa::Buffer::new();
            field(out, b"content-length", digits.format(length).as_bytes());
        }
    }
    if let Some(protocol) = upgrade {
        field(out, b"upgrade", protocol.as_bytes());
        field(out, b"connection", b"upgrade");
    } else if told.takes_trailers {
        // RFC 9110 10.1.4: TE belongs to one hop, and so has to be named in Connection.
        field(out, b"te", b"trailers");
        field(out, b"connection", b"te");
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a request without content says so: if the client did, and where a server expects it (RFC 9110 8.6).
pub(crate) fn says_length(parts: &Parts, seen: Seen) -> bool {
    seen.has(Field::ContentLength)
        || (parts.version == Version::HTTP_2 && [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method))
}

/// Takes away from the fields of an HTTP/2 answer what only a connection of HTTP/1 may say.
pub(crate) fn remove_hops(headers: &mut HeaderMap) {
    if headers.keys().any(is_hop_by_hop) {
        let hops: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
        for name in hops {
            headers.remove(name);
        }
    }
}

/// Names the gateway where the pod names no server.
pub(crate) fn name_server(headers: &mut HeaderMap) {
    // The Ingress conformance suite wants a `Server` on every answer, and its own back end sends none. The name alone: a version
    // would help nobody but an attacker (RFC 9110 10.2.4).
    headers.entry(header::SERVER).or_insert(HeaderValue::from_static("tidegate"));
}

/// Whether a field belongs to one connection only (RFC 9110 7.6.1).
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
    )
}

/// Takes out of a trailer section what would change how the message is read, where it goes or whom it is from, if a reader
/// merged it into the head (RFC 9110 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    const NEVER: [HeaderName; 13] = [
        header::AUTHORIZATION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::FORWARDED,
        header::HOST,
        header::LOCATION,
        header::SET_COOKIE,
        header::TRAILER,
        HeaderName::from_static("x-real-ip"),
    ];
    let is_out =
        |name: &HeaderName| NEVER.contains(name) || is_hop_by_hop(name) || name.as_str().starts_with("x-forwarded-");
    if trailers.keys().any(is_out) {
        let out: Vec<HeaderName> = trailers.keys().filter(|name| is_out(name)).cloned().collect();
        for name in out {
            trailers.remove(name);
        }
    }
}

/// The fields that `Connection` names, if it names any. An end-to-end field that the message cannot do without is kept even
/// if it is named.
fn named_by_connection(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    let values = headers.get_all(header::CONNECTION).into_iter();
    let named: Vec<HeaderName> = values.flat_map(|value| named_by(value.as_bytes())).collect();
    (!named.is_empty()).then_some(named)
}

/// The fields that one value of `Connection` names.
pub(crate) fn named_by(value: &[u8]) -> impl Iterator<Item = HeaderName> {
    let tokens = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    tokens
        .filter(|token| !["close", "keep-alive"].iter().any(|usual| token.eq_ignore_ascii_case(usual.as_bytes())))
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::TRAILER].contains(name))
}

/// The protocol that a client wants to change to (RFC 9110 7.8): one, named by `Connection`, without content. `h2c` is none:
/// HTTP/2 without TLS begins with its preface here (RFC 9113 3.1 has dropped the upgrade).
pub(crate) fn wanted_upgrade<'a>(parts: &'a Parts, seen: Seen, upload: &Upload) -> Option<&'a HeaderValue> {
    if !seen.has(Field::Upgrade) {
        return None;
    }
    let mut protocols = parts.headers.get_all(header::UPGRADE).iter();
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return None };
    let is_wanted = parts.version == Version::HTTP_11
        && !upload.is_some()
        && parts.method == Method::GET
        && has_token(&parts.headers, &header::CONNECTION, "upgrade")
        && !tokens(&parts.headers, &header::UPGRADE).any(|token| token.eq_ignore_ascii_case(b"h2c"));
    is_wanted.then_some(protocol)
}

/// The values of a field as one, as RFC 9110 5.3 allows.
fn joined(headers: &HeaderMap, name: &HeaderName, separator: &[u8]) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first.clone()) };
    let mut all = BytesMut::from(first.as_bytes());
    for value in std::iter::once(second).chain(values) {
        all.extend_from_slice(separator);
        all.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_maybe_shared(all.freeze()).ok()
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// What goes into logs unquoted and stays short.
fn is_request_id(id: &HeaderValue) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=:".contains(byte);
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(is_plain)
}

/// 128 random bits as 32 hexadecimal digits, like nginx's `$request_id`. It names a request and keeps no secret.
fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u128(..).to_le_bytes();
    let mut id = [0u8; 32];
    for (digits, byte) in id.chunks_exact_mut(2).zip(random) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&id).expect("hexadecimal digits are a valid value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn fields_of_one_hop_go_and_so_does_what_connection_names() {
        let mut all = headers(&[
            ("Server", "x"),
            ("Connection", "close, X-Private"),
            ("connection", "Keep-Alive,\thost , é, , content-length"),
            ("X-Private", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "x"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("Proxy-Authorization", "x"),
            ("Host", "a"),
            ("Content-Length", "3"),
            ("Trailer", "x-sum"),
            ("X-Public", "1"),
        ]);
        for name in named_by_connection(&all).unwrap() {
            all.remove(name);
        }
        remove_hops(&mut all);
        assert_eq!(names(&all), ["content-length", "host", "server", "trailer", "x-public"]);
    }

    #[test]
    fn request_ids_are_short_and_plain() {
        for good in ["a", "0b6f-4f", "Root=1-67891233-abcdef012345678912345678", &"x".repeat(128)] {
            assert!(is_request_id(&HeaderValue::from_str(good).unwrap()), "{good}");
        }
        for bad in ["", "a b", "a\"", "<x>", &"x".repeat(129)] {
            assert!(!is_request_id(&HeaderValue::from_str(bad).unwrap()), "{bad}");
        }
        let new = new_request_id();
        assert!(new.len() == 32 && is_request_id(&new) && new != new_request_id());
    }
}
