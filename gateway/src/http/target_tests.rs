use http::Request;

use super::*;
use crate::route::normalise::Malformed;

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

fn checked(
    method: &str,
    target: &str,
    version: Version,
    fields: &[(&str, &str)],
    is_tls: bool,
) -> Result<(String, String), Refusal> {
    let mut request = Request::builder().method(method).uri(target).version(version);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (mut request, ()) = request.body(()).unwrap().into_parts();
    refused(&mut request, is_tls)?;
    assert!(request.headers.get_all(header::HOST).iter().count() == 1 && request.uri.authority().is_none());
    let host = request.headers[header::HOST].to_str().unwrap().to_owned();
    Ok((host, request.uri.to_string()))
}

#[test]
fn targets() {
    let (h10, h11, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    let host = [("host", "a.b")];
    for (method, target, version, fields, is_tls, expected) in [
        ("GET", "/x?y", h11, &host[..], false, ("a.b", "/x?y")),
        ("GET", "/x", h10, &[], false, ("", "/x")),
        ("GET", "http://c.d:80/x?y", h11, &host, false, ("c.d:80", "/x?y")),
        ("GET", "http://c.d", h11, &host, false, ("c.d", "/")),
        ("GET", "https://c.d/x", h11, &host, true, ("c.d", "/x")),
        ("OPTIONS", "*", h11, &host, false, ("a.b", "*")),
        ("PROPFIND", "/", h11, &host, false, ("a.b", "/")),
        ("VERSION-CONTROL", "/", h11, &host, false, ("a.b", "/")),
        ("GET", "https://c.d/x", h2, &[], false, ("c.d", "/x")),
        ("GET", "http://c.d/x", h2, &[("host", "C.D")], false, ("c.d", "/x")),
        ("GET", "/x", h2, &host, false, ("a.b", "/x")),
    ] {
        let (host, path) = expected;
        let expected = Ok((host.to_owned(), path.to_owned()));
        assert_eq!(checked(method, target, version, fields, is_tls), expected, "{method} {target} {fields:?}");
    }
}

#[test]
fn what_is_refused() {
    let (h10, h11, h2) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
    let host = [("host", "a.b")];
    let long = format!("/{}", "x".repeat(MAX_TARGET_BYTES));
    let coding = |value: &'static str| vec![("host", "a"), ("transfer-encoding", value)];
    let length = |value: &'static str| vec![("host", "a"), ("content-length", value)];
    for (method, target, version, fields, refusal) in [
        ("GET", "/", h11, vec![], Refusal::NoHost),
        ("GET", "/", h2, vec![], Refusal::NoHost),
        ("GET", "/", h11, vec![("host", "a"), ("host", "a")], Refusal::SeveralHosts),
        ("GET", "/", h11, vec![("host", "a b")], Refusal::BadHost),
        ("GET", "/", h11, vec![("host", "")], Refusal::BadHost),
        ("GET", "http://c.d/", h2, vec![("host", "a.b")], Refusal::TwoHosts),
        ("GET", "http://c.d/", h2, vec![("host", "c.d:80")], Refusal::TwoHosts),
        ("GET", "http://u@c.d/", h2, vec![], Refusal::TargetHost),
        ("GET", "*", h11, host.to_vec(), Refusal::Target),
        ("GET", "c.d:80", h11, host.to_vec(), Refusal::Target),
        ("GET", "https://c.d/", h11, host.to_vec(), Refusal::TargetScheme),
        ("GET", "ftp://c.d/", h11, host.to_vec(), Refusal::TargetScheme),
        ("GET", "ftp://c.d/", h2, vec![], Refusal::TargetScheme),
        ("GET", "http://u@c.d/", h11, host.to_vec(), Refusal::TargetHost),
        ("GET", "http://c!d/", h11, host.to_vec(), Refusal::TargetHost),
        ("GET", "/é", h11, host.to_vec(), Refusal::TargetBytes),
        ("GET", "/?é", h11, host.to_vec(), Refusal::TargetBytes),
        ("GET", &long, h11, host.to_vec(), Refusal::TargetTooLong),
        ("CONNECT", "c.d:80", h11, host.to_vec(), Refusal::Method),
        ("TRACE", "/", h11, host.to_vec(), Refusal::Method),
        ("PRI", "/", h11, host.to_vec(), Refusal::UnknownMethod),
        ("get", "/", h11, host.to_vec(), Refusal::UnknownMethod),
        ("GET!", "/", h11, host.to_vec(), Refusal::UnknownMethod),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG", "/", h11, host.to_vec(), Refusal::UnknownMethod),
        ("POST", "/", h11, coding("gzip, chunked"), Refusal::UnknownCoding),
        ("POST", "/", h11, coding("chunked, identity"), Refusal::UnknownCoding),
        ("POST", "/", h11, coding("chunked, chunked"), Refusal::BadCoding),
        ("POST", "/", h11, coding(",chunked"), Refusal::BadCoding),
        ("POST", "/", h11, coding(""), Refusal::BadCoding),
        ("POST", "/", h11, [coding("chunked"), coding("chunked")[1..].to_vec()].concat(), Refusal::BadCoding),
        ("POST", "/", h11, [length("3"), length("3")[1..].to_vec()].concat(), Refusal::RepeatedLength),
        ("POST", "/", h11, length("+3"), Refusal::BadLength),
        ("POST", "/", h11, length(""), Refusal::BadLength),
        ("POST", "/", h11, length("3, 3"), Refusal::BadLength),
        ("GET", "http://c.d/", h2, vec![("x", "y\t")], Refusal::PaddedValue),
        ("GET", "http://c.d/", h2, vec![("x", " ")], Refusal::PaddedValue),
        ("POST", "/", h11, vec![("host", "a"), ("expect", "102-more")], Refusal::Expectation),
    ] {
        assert_eq!(checked(method, target, version, &fields, false), Err(refusal), "{method} {target} {fields:?}");
    }
    assert_eq!(checked("GET", "http://c.d/", h11, &host, true), Err(Refusal::TargetScheme));
    assert!(checked("POST", "/", h10, &[("expect", "102-more")], false).is_ok(), "HTTP/1.0 has no expectations");
}

#[test]
fn extended_connect_is_for_websockets() {
    for (protocol, expected) in [("websocket", Ok(())), ("connect-udp", Err(Refusal::UnknownProtocol))] {
        let request = Request::connect("http://a.b/chat").version(Version::HTTP_2);
        let request = request.extension(Protocol::from_static(protocol)).body(()).unwrap();
        let (mut request, ()) = request.into_parts();
        assert_eq!(refused(&mut request, false).map(drop), expected, "{protocol}");
    }
}

#[test]
fn lengths_are_forwarded_in_their_shortest_form() {
    for (written, forwarded) in [("3", "3"), ("003", "3"), ("0", "0"), ("000", "0")] {
        let request = Request::post("/").header("host", "a").header("content-length", written).body(()).unwrap();
        let (mut request, ()) = request.into_parts();
        refused(&mut request, false).unwrap();
        assert_eq!(request.headers[header::CONTENT_LENGTH], forwarded);
    }
}

#[test]
fn rules_are_asked_about_the_normal_path() {
    for (target, expected) in [
        ("/a%62?c%64", Ok("/ab")),
        ("*", Ok("/")),
        ("/../x", Err(Failure::refused(Refusal::Path(Malformed::AboveRoot)))),
    ] {
        let request = Request::options(target).body(()).unwrap();
        assert_eq!(path(request.uri()).as_deref(), expected.as_ref().map(|path| *path), "{target}");
    }
}
