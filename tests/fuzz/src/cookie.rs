//! Cookie affinity: the session that is found is the one a plain reading of the `Cookie` fields has, and what is set comes back.
//!
//! The input is the cookie's name and a path, then `Cookie` fields, each ended by a line feed.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, header};
use tidegate::{
    http::cookie_affinity::{Session, session, set_cookie},
    route::sticky::{CookieAffinity, SameSite},
};

pub fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let (Some(name), Some(path)) = (lines.next(), lines.next()) else { return };
    // What `compile` lets through.
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let (Ok(name), Ok(path)) = (std::str::from_utf8(name), std::str::from_utf8(path)) else { return };
    if name.is_empty() || !name.bytes().all(|byte| is_name(&byte)) || !path.starts_with('/') {
        return;
    }
    let mut headers = HeaderMap::new();
    for value in lines.filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(header::COOKIE, value);
    }
    assert_eq!(session(&headers, name), naive(&headers, name));
    check_set(name, path);
}

/// The first cookie of that name that has a key. A value may be quoted; its parts are what `|` or `%7C` leaves.
fn naive<'a>(headers: &'a HeaderMap, name: &str) -> Option<Session<'a>> {
    for value in headers.get_all(header::COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let (Some(left), Some(value)) = (halves.next(), halves.next()) else { continue };
            if left.trim_ascii() != name.as_bytes() {
                continue;
            }
            let value = match value.trim_ascii() {
                [b'"', inner @ .., b'"'] => inner,
                value => value,
            };
            let mut parts = parts(value).into_iter().filter(|part| !part.is_empty());
            let Some(key) = parts.next() else { continue };
            return Some(Session { key, backend: parts.next() });
        }
    }
    None
}

fn parts(value: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while at < value.len() {
        let width = match &value[at..] {
            [b'|', ..] => 1,
            [b'%', b'7', b'c' | b'C', ..] => 3,
            _ => 0,
        };
        if width > 0 {
            parts.push(&value[start..at]);
            start = at + width;
        }
        at += width.max(1);
    }
    parts.push(&value[start..]);
    parts
}

/// A cookie that is set says its value and its attributes, each once, and no path can add to them.
fn check_set(name: &str, path: &str) {
    let affinity = CookieAffinity {
        name: name.into(),
        expires: Some(60),
        max_age: Some(60),
        samesite: Some(SameSite::Lax),
        ..CookieAffinity::default()
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_763_938_956);
    let set = set_cookie(&affinity, "1763938956.001.1.1|0123456789abcdef", path, true, None, now);
    let set = set.as_bytes();
    let attributes: Vec<&[u8]> = set.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).collect();
    let mut names: Vec<String> = attributes[1..]
        .iter()
        .map(|attribute| attribute.split(|byte| *byte == b'=').next().unwrap_or_default())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["Expires", "HttpOnly", "Max-Age", "Path", "SameSite", "Secure"]);
    let mut headers = HeaderMap::new();
    headers.append(header::COOKIE, HeaderValue::from_bytes(attributes[0]).expect("a cookie's value can be sent"));
    let again = session(&headers, name).expect("what was set comes back");
    assert_eq!((again.key, again.backend), (&b"1763938956.001.1.1"[..], Some(&b"0123456789abcdef"[..])));
}
