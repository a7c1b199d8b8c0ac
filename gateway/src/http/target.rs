//! What a request asks for: whether that can be asked of a gateway at all, for which host, and by which path.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Uri, Version, header, request::Parts, uri::PathAndQuery};
use hyper::ext::Protocol;

use super::{
    failure::Failure,
    refusals::Refusal,
    seen::{Field, Seen},
};
use crate::route::{RouteTable, Rule, normalise};

/// Longest `Host`: a DNS name (253 bytes, RFC 1035 2.3.4), brackets or final dot, and a port.
const MAX_HOST_BYTES: usize = 260;

/// Longest target: one of nginx's `large_client_header_buffers`; RFC 9112 3 recommends 8000 at least.
const MAX_TARGET_BYTES: usize = 8 << 10;

/// Longest method: IANA's longest, UPDATEREDIRECTREF, has 17.
const MAX_METHOD_BYTES: usize = 32;

/// Refuses what no pod should see. Afterwards the request has exactly one `Host` that is good (empty only for
/// HTTP/1.0), at most one `Content-Length`, in its shortest form, and its target is a path, or `*` for OPTIONS.
pub(crate) fn check(request: &mut Parts, is_tls: bool) -> Result<Seen, Failure> {
    refused(request, is_tls).map_err(Failure::refused)
}

fn refused(request: &mut Parts, is_tls: bool) -> Result<Seen, Refusal> {
    let seen = Seen::of(&request.headers);
    check_method(request)?;
    if seen.has(Field::TransferEncoding) {
        check_coding(&request.headers)?;
    }
    if seen.has(Field::ContentLength) {
        check_length(&mut request.headers)?;
    }
    if seen.has(Field::Expect) {
        check_expectation(request)?;
    }
    if request.version == Version::HTTP_2 {
        check_values(&request.headers)?;
    }
    check_host(request)?;
    if request.uri.authority().is_some() {
        to_origin_form(request, is_tls)?;
    }
    let target = request.uri.path_and_query().map_or("", PathAndQuery::as_str);
    match target.as_bytes().first() {
        _ if target.len() > MAX_TARGET_BYTES => Err(Refusal::TargetTooLong),
        Some(b'/') if !target.is_ascii() => Err(Refusal::TargetBytes),
        Some(b'/') => Ok(seen),
        _ if target == "*" && request.method == Method::OPTIONS => Ok(seen),
        _ => Err(Refusal::Target),
    }
}

/// The path that rules are asked about. `OPTIONS *` asks about a whole host, and so is what `/` is routed to.
pub(crate) fn path(uri: &Uri) -> Result<Cow<'_, str>, Failure> {
    match uri.path() {
        "*" => Ok(Cow::Borrowed("/")),
        path => normalise::normalise(path).map_err(|malformed| Failure::refused(Refusal::Path(malformed))),
    }
}

/// Refuses a path that comes under `rule` as we read it, and under another as some pods do. Costs nothing for usual paths.
pub(crate) fn check_undisputed(routes: &RouteTable, host: &str, uri: &Uri, rule: &Arc<Rule>) -> Result<(), Failure> {
    let Some(other) = normalise::other_reading(uri.path()) else { return Ok(()) };
    match routes.find(host, &other).rule {
        Some(found) if Arc::ptr_eq(found, rule) => Ok(()),
        Some(_) | None => Err(Failure::refused(Refusal::DisputedPath)),
    }
}

/// CONNECT asks for a tunnel, which a reverse proxy does not give (RFC 9110 9.3.6); extended CONNECT (RFC 8441) is
/// another thing, and WebSocket the only protocol that pods speak. TRACE would show the client the fields that were
/// added on the way (9.3.8); nginx refuses it, too. Methods are words in capitals: `get` is none (9.1), and nginx says
/// 400.
fn check_method(request: &Parts) -> Result<(), Refusal> {
    let protocol = request.extensions.get::<Protocol>();
    match request.method {
        Method::CONNECT if protocol.is_some_and(|protocol| protocol.as_str() == "websocket") => Ok(()),
        Method::CONNECT if protocol.is_some() => Err(Refusal::UnknownProtocol),
        Method::CONNECT | Method::TRACE => Err(Refusal::Method),
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::DELETE | Method::OPTIONS | Method::PATCH => {
            Ok(())
        }
        // Reserved for the preface of HTTP/2 (RFC 9113 11.6).
        ref method if method.as_str() == "PRI" => Err(Refusal::UnknownMethod),
        ref method => {
            let is_word = method.as_str().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-' || byte == b'_');
            let is_method = is_word && method.as_str().len() <= MAX_METHOD_BYTES;
            if is_method { Ok(()) } else { Err(Refusal::UnknownMethod) }
        }
    }
}

/// Only `chunked`, and only once: any other coding would have to be taken off before the content is passed on (RFC 9112
/// 6.1).
fn check_coding(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(first) = values.next() else { return Ok(()) };
    if values.next().is_none() && first.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let values = headers.get_all(header::TRANSFER_ENCODING).into_iter();
    let mut codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let is_coding = |coding: &[u8]| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"chunked");
    Err(if codings.any(is_coding) { Refusal::UnknownCoding } else { Refusal::BadCoding })
}

/// HTTP/1 is left with one length by `head_guard`; HTTP/2 may bring several. A length is forwarded as a reader without
/// imagination writes it: `003` is a 3, but to some it is octal.
fn check_length(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    if lengths.next().is_some() {
        return Err(Refusal::RepeatedLength);
    }
    let digits = length.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::BadLength);
    }
    if digits[0] == b'0' && digits.len() > 1 {
        let number = length.to_str().ok().and_then(|digits| digits.parse::<u64>().ok()).ok_or(Refusal::BadLength)?;
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(number));
    }
    Ok(())
}

/// RFC 9110 10.1.1: there is one expectation, and HTTP/1.0 has none.
fn check_expectation(request: &Parts) -> Result<(), Refusal> {
    let mut expectations = request.headers.get_all(header::EXPECT).iter();
    let is_known = expectations.all(|expectation| expectation.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if is_known || request.version == Version::HTTP_10 { Ok(()) } else { Err(Refusal::Expectation) }
}

/// RFC 9113 8.2.1. The parser of HTTP/1 takes such white space off.
fn check_values(headers: &HeaderMap) -> Result<(), Refusal> {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let mut values = headers.values().map(HeaderValue::as_bytes);
    let padded = values.any(|value| is_space(value.first()) || is_space(value.last()));
    if padded { Err(Refusal::PaddedValue) } else { Ok(()) }
}

/// RFC 9112 3.2: none, several or a bad one is a 400. HTTP/1.0 knows no Host; it is given an empty one, as the RFC asks
/// for where there is nothing to say. HTTP/2 has `:authority` for it; if both are there they must be the same (RFC 9113
/// 8.3.1).
fn check_host(request: &mut Parts) -> Result<(), Refusal> {
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let authority = request.uri.authority().filter(|_| request.version == Version::HTTP_2);
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(Refusal::SeveralHosts),
        (Some(host), None) if !is_host(host.as_bytes()) => Err(Refusal::BadHost),
        (Some(host), None) => match authority {
            Some(authority) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
                Err(Refusal::TwoHosts)
            }
            Some(_) | None => Ok(()),
        },
        (None, _) if authority.is_some() => Ok(()),
        (None, _) if request.version == Version::HTTP_10 => {
            request.headers.insert(header::HOST, HeaderValue::from_static(""));
            Ok(())
        }
        (None, _) => Err(Refusal::NoHost),
    }
}

/// `GET http://host/path`, and every request of HTTP/2: the host in the target is the one that counts, and replaces the
/// field (RFC 9112 3.2.2). The scheme must be the connection's, but not in HTTP/2, where a balancer that took off TLS
/// cannot have changed it.
fn to_origin_form(request: &mut Parts, is_tls: bool) -> Result<(), Refusal> {
    let uri = &request.uri;
    match uri.scheme_str() {
        Some("http" | "https") if request.version == Version::HTTP_2 => {}
        Some("http") if !is_tls => {}
        Some("https") if is_tls => {}
        // Authority-form, which belongs to CONNECT.
        None => return Err(Refusal::Target),
        Some(_) => return Err(Refusal::TargetScheme),
    }
    let host = uri.authority().map_or("", |authority| authority.as_str());
    if !is_host(host.as_bytes()) {
        return Err(Refusal::TargetHost);
    }
    let host = HeaderValue::from_str(host).map_err(|_| Refusal::TargetHost)?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    request.uri = Uri::from(path);
    request.headers.insert(header::HOST, host);
    Ok(())
}

/// `uri-host [ ":" port ]` (RFC 9110 7.2), without what a host name never has: percent-encoding, user names, lists.
fn is_host(host: &[u8]) -> bool {
    if host.len() > MAX_HOST_BYTES {
        return false;
    }
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            let address = std::str::from_utf8(&rest[..end]).unwrap_or_default();
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            (&rest[..end], &rest[end + 1..])
        }
        None => host.split_at(host.iter().position(|&byte| byte == b':').unwrap_or(host.len())),
    };
    let is_name_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(byte);
    let is_port = |port: &[u8]| match port.strip_prefix(b":") {
        Some(digits) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        None => port.is_empty(),
    };
    !name.is_empty() && name.iter().all(is_name_byte) && is_port(port)
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
