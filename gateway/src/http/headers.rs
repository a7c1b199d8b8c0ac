//! The fields that are removed and added on the way, in both directions.
//!
//! What belongs to one hop goes (RFC 9110 7.6.1); who asked, and how, is added under the names that ingress-nginx uses.
//! Nothing a client says about itself is trusted.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};

use super::{body::PodBody, connection::Client, upload::Upload};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const SCHEME: HeaderName = HeaderName::from_static("x-scheme");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ORIGINAL_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-original-forwarded-for");
const ORIGINAL_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-original-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Becomes `HTTP_PROXY` in CGI programs, which then send their own requests through it ("httpoxy", CVE-2016-5385).
const PROXY: HeaderName = HeaderName::from_static("proxy");

/// Longest request id taken over from a client: a UUID and something around it.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Makes of a client's request the one its pod sees.
pub(crate) fn for_pod(request: &mut Request<()>, client: &Client, upload: &Upload) {
    let is_http10 = request.version() == Version::HTTP_10;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    let takes_trailers = has_token(headers, &header::TE, "trailers");
    remove_hop_by_hop(headers);
    remove_underscored(headers);
    headers.remove(PROXY);
    // It says what X-Forwarded-For says, and no more can be believed.
    headers.remove(header::FORWARDED);
    if takes_trailers {
        // RFC 9110 10.1.4: TE belongs to one hop, and so has to be named in Connection.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if upload.is_chunked() {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if is_http10 || !upload.is_some() {
        // RFC 9110 10.1.1: an expectation of HTTP/1.0, or without content, is none.
        headers.remove(header::EXPECT);
    }
    add_forwarded(headers, client);
    if !headers.get(REQUEST_ID).is_some_and(is_request_id) || headers.get_all(REQUEST_ID).iter().nth(1).is_some() {
        headers.insert(REQUEST_ID, new_request_id());
    }
}

/// Makes of a pod's answer the one its client sees; says what is wrong with it if it cannot be passed on.
pub(crate) fn for_client(response: &mut Response<PodBody>, client: Version) -> Result<(), &'static str> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err("switched protocols unasked");
    }
    check_framing(response.headers())?;
    remove_hop_by_hop(response.headers_mut());
    // The Ingress conformance suite wants a `Server` on every answer, and its own back end sends none. The name alone: a version
    // would help nobody but an attacker (RFC 9110 10.2.4).
    response.headers_mut().entry(header::SERVER).or_insert(HeaderValue::from_static("tidegate"));
    // HTTP/1.0 has no chunks: content of unknown length ends with the connection, and version 1.0 tells hyper to say
    // so.
    let ends_with_close = client == Version::HTTP_10 && !response.body().has_length();
    *response.version_mut() = if ends_with_close { Version::HTTP_10 } else { Version::HTTP_11 };
    if ends_with_close {
        response.body_mut().end_with_close();
    }
    Ok(())
}

/// Where the length of an answer could be read in two ways it is not passed on (RFC 9112 6.3).
fn check_framing(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() || length.is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err("answered with several Content-Lengths");
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(_), _) if length.is_some() => Err("answered with Content-Length and Transfer-Encoding"),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => Err("answered with a transfer coding other than chunked"),
    }
}

/// Removes the fields that concern one connection only: those that `Connection` names, and those that always do.
/// `Trailer` stays: trailers are passed on. An end-to-end field that the message cannot do without is kept even if it
/// is named.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
            .filter(|token| !["close", "keep-alive"].iter().any(|usual| token.eq_ignore_ascii_case(usual.as_bytes())))
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            .filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::TRAILER].contains(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        // Meant for forward proxies, which this is not; a pod has no business with them.
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
    ] {
        headers.remove(name);
    }
}

/// Names with underscores are dropped, as by nginx: CGI-like pods cannot tell `X_Real_IP` from `X-Real-IP`, so a client
/// could smuggle its own past us.
fn remove_underscored(headers: &mut HeaderMap) {
    if headers.keys().any(|name| name.as_str().contains('_')) {
        let underscored: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
        for name in underscored {
            headers.remove(name);
        }
    }
}

/// Says who asked, and how. What the client said itself survives only under a name of its own.
fn add_forwarded(headers: &mut HeaderMap, client: &Client) {
    replace_original(headers, FORWARDED_FOR, ORIGINAL_FORWARDED_FOR, client.ip.clone());
    let host = headers.get(header::HOST).cloned().unwrap_or(HeaderValue::from_static(""));
    replace_original(headers, FORWARDED_HOST, ORIGINAL_FORWARDED_HOST, host);
    headers.insert(REAL_IP, client.ip.clone());
    headers.insert(FORWARDED_PORT, client.port.clone());
    for name in [FORWARDED_PROTO, FORWARDED_SCHEME, SCHEME] {
        headers.insert(name, HeaderValue::from_static("http"));
    }
}

fn replace_original(headers: &mut HeaderMap, name: HeaderName, original: HeaderName, value: HeaderValue) {
    match joined(headers, &name) {
        Some(said) => headers.insert(original, said),
        None => headers.remove(original),
    };
    headers.insert(name, value);
}

/// The values of a field as one, as RFC 9110 5.3 allows.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first.clone()) };
    let mut all = BytesMut::from(first.as_bytes());
    for value in std::iter::once(second).chain(values) {
        all.extend_from_slice(b", ");
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
        remove_hop_by_hop(&mut all);
        assert_eq!(names(&all), ["content-length", "host", "trailer", "x-public"]);
    }

    #[test]
    fn underscores_go() {
        let mut all = headers(&[("x_real_ip", "1"), ("x-real-ip", "2"), ("a_", "3")]);
        remove_underscored(&mut all);
        assert_eq!(names(&all), ["x-real-ip"]);
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

    #[test]
    fn ambiguous_lengths_are_refused() {
        for good in [&[("content-length", "3")][..], &[("transfer-encoding", "Chunked")], &[]] {
            assert_eq!(check_framing(&headers(good)), Ok(()), "{good:?}");
        }
        for bad in [
            &[("content-length", "3, 3")][..],
            &[("content-length", "3"), ("content-length", "3")],
            &[("content-length", "3"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "xchunked")],
            &[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
        ] {
            assert!(check_framing(&headers(bad)).is_err(), "{bad:?}");
        }
    }
}
