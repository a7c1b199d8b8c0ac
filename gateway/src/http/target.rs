//! What a request asks for: whether that can be asked of a gateway at all, and for which host.
//!
//! Where RFC 9112 allows leniency we refuse: a gateway gains nothing from guessing, and what two parties read
//! differently is how requests are smuggled.

use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header, uri::PathAndQuery};

use super::failure::{Failure, Kind};

/// Longest `Host`: a DNS name (253 bytes, RFC 1035 2.3.4), brackets or final dot, and a port.
const MAX_HOST_BYTES: usize = 260;

const fn bad(text: &'static str) -> Failure {
    Failure::new(Kind::BadRequest, text)
}

/// Refuses what no pod should see. Afterwards the request has exactly one `Host` that is good (empty only for
/// HTTP/1.0), and its target is a path, or `*` for OPTIONS.
pub(crate) fn check(request: &mut Request<()>) -> Result<(), Failure> {
    check_method(request.method())?;
    check_coding(request.headers())?;
    check_host(request)?;
    if request.uri().authority().is_some() && request.version() != Version::HTTP_2 {
        to_origin_form(request)?;
    }
    match request.uri().path() {
        "*" if request.method() == Method::OPTIONS => Ok(()),
        path if path.starts_with('/') => Ok(()),
        _ => Err(bad("the request's target is not a path")),
    }
}

/// The path that rules are asked about. `OPTIONS *` asks about a whole host, and so is what `/` is routed to.
pub(crate) fn path(request: &Request<()>) -> &str {
    match request.uri().path() {
        "*" => "/",
        path => path,
    }
}

/// CONNECT asks for a tunnel, which a reverse proxy does not give (RFC 9110 9.3.6). TRACE would show the client the
/// fields that were added on the way (9.3.8); nginx refuses it, too.
fn check_method(method: &Method) -> Result<(), Failure> {
    match *method {
        Method::CONNECT | Method::TRACE => Err(Failure::new(Kind::BadMethod, "this method is not served here")),
        _ => Ok(()),
    }
}

/// Only `chunked`, and only once: any other coding would have to be taken off before the content is passed on (RFC 9112
/// 6.1).
fn check_coding(headers: &HeaderMap) -> Result<(), Failure> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_known = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if is_known && codings.next().is_none() {
        return Ok(());
    }
    Err(Failure::new(Kind::UnknownCoding, "a transfer coding other than chunked"))
}

/// RFC 9112 3.2: none, several or a bad one is a 400. HTTP/1.0 knows no Host; it is given an empty one, as the RFC asks
/// for where there is nothing to say.
fn check_host(request: &mut Request<()>) -> Result<(), Failure> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_10 => {
            request.headers_mut().insert(header::HOST, HeaderValue::from_static(""));
            Ok(())
        }
        (None, _) => Err(bad("the request has no Host")),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => Err(bad("the request's Host is not a host")),
        (Some(_), Some(_)) => Err(bad("the request has several Hosts")),
    }
}

/// `GET http://host/path`: the host in the target is the one that counts, and replaces the field (RFC 9112 3.2.2).
fn to_origin_form(request: &mut Request<()>) -> Result<(), Failure> {
    let uri = request.uri();
    if uri.scheme_str() != Some("http") {
        return Err(bad("the request's target is not an http URL"));
    }
    let host = uri.authority().map_or("", |authority| authority.as_str());
    if !is_host(host.as_bytes()) {
        return Err(bad("the host in the request's target is not a host"));
    }
    let host = HeaderValue::from_str(host).map_err(|_| bad("the host in the request's target is not a host"))?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    request.headers_mut().insert(header::HOST, host);
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
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["a", "a.b", "a.b.", "a:80", "a:", "10.0.0.1:8080", "[::1]", "[::1]:80", "x_y.foo.com", "A.B"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in
            ["", "/x", "a@b", "a b", "a,b", "%2e", "a:80abc", ":80", "[::1", "[a]", "[::1]x", "a:b:c", "a:123456", "é"]
        {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
        assert!(!is_host("a".repeat(10_000).as_bytes()));
    }

    fn checked(method: &str, target: &str, version: Version, fields: &[(&str, &str)]) -> Result<(String, String), u16> {
        let mut request = Request::builder().method(method).uri(target).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        check(&mut request).map_err(|failure| failure.kind.status())?;
        let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
        Ok((host, request.uri().to_string()))
    }

    #[test]
    fn targets() {
        let (h10, h11) = (Version::HTTP_10, Version::HTTP_11);
        let ok = |host: &str, target: &str| Ok((host.to_owned(), target.to_owned()));
        let host = [("host", "a.b")];
        assert_eq!(checked("GET", "/x?y", h11, &host), ok("a.b", "/x?y"));
        assert_eq!(checked("GET", "/x", h10, &[]), ok("", "/x"));
        assert_eq!(checked("GET", "http://c.d:80/x?y", h11, &host), ok("c.d:80", "/x?y"));
        assert_eq!(checked("OPTIONS", "*", h11, &host), ok("a.b", "*"));
        for (method, target, fields, status) in [
            ("GET", "/", &[][..], 400),
            ("GET", "/", &[("host", "a"), ("host", "a")][..], 400),
            ("GET", "/", &[("host", "a b")][..], 400),
            ("GET", "*", &host[..], 400),
            ("GET", "c.d:80", &host[..], 400),
            ("GET", "https://c.d/", &host[..], 400),
            ("GET", "http://u@c.d/", &host[..], 400),
            ("CONNECT", "c.d:80", &host[..], 405),
            ("TRACE", "/", &host[..], 405),
            ("POST", "/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")][..], 501),
            (
                "POST",
                "/",
                &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")][..],
                501,
            ),
        ] {
            assert_eq!(checked(method, target, h11, fields), Err(status), "{method} {target} {fields:?}");
        }
    }
}
