//! What a client sends, as the gateway reads it: guard, hyper's server, checks, path. What comes through is exactly the requests
//! that a strict reader finds in the same bytes, one after the other; those that pass the checks have one Host, one length and a
//! path that means one thing, and become exactly one request to a pod.

use std::cell::RefCell;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header, request::Parts};
use hyper::body::{Body, Incoming};
use tidegate::fuzzing;

use crate::{
    hyper_peer, pieces,
    strict::{self, Head},
};

/// A request that came through.
struct Seen {
    /// As hyper gave it.
    method: String,
    uri: Uri,
    headers: HeaderMap,
    version: Version,
    /// As the checks left it; the status if it was refused.
    checked: Result<Parts, u16>,
    /// `None`: not read, or broken off.
    content: Option<Vec<u8>>,
}

pub fn run(data: &[u8]) {
    let (how, bytes) = pieces::take(data);
    let pieces = pieces::cut(bytes, how);
    let (seen, answers) = serve(&pieces);
    if how > 0 {
        let (whole, _) = serve(&[bytes]);
        assert_eq!(summary(&seen), summary(&whole), "pieces make a difference");
    }
    let written = strict::requests(bytes);
    assert!(seen.len() <= written.len(), "{} came through of {}", seen.len(), written.len());
    for (seen, written) in seen.iter().zip(&written) {
        check_same(seen, &written.head);
        if let Some(content) = &seen.content {
            assert_eq!(Some(content), written.content.as_ref(), "another content");
        }
        if let Ok(parts) = &seen.checked {
            check_request(parts, &written.head);
        }
    }
    check_answers(&answers, &seen);
}

fn serve(pieces: &[&[u8]]) -> (Vec<Seen>, Vec<u8>) {
    let all = RefCell::new(Vec::new());
    let answers = hyper_peer::server(pieces, async |request: Request<Incoming>| {
        let (seen, response) = handle(request).await;
        all.borrow_mut().push(seen);
        response
    });
    (all.into_inner(), answers)
}

/// As the gateway does: what is refused is answered without reading its content, and nothing follows that.
async fn handle(request: Request<Incoming>) -> (Seen, Response<Bytes>) {
    let (parts, incoming) = request.into_parts();
    let seen = |checked, content| Seen {
        method: parts.method.to_string(),
        uri: parts.uri.clone(),
        headers: parts.headers.clone(),
        version: parts.version,
        checked,
        content,
    };
    let mut checked = parts.clone();
    let refused = match fuzzing::check(&mut checked, false) {
        Ok(()) => fuzzing::path(&checked.uri).map(drop).err(),
        Err(response) => Some(response),
    };
    if let Some(mut response) = refused {
        if !incoming.is_end_stream() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        return (seen(Err(response.status().as_u16()), None), *response);
    }
    let content = hyper_peer::collect(incoming).await.map(|(content, _)| content);
    let mut response = Response::new(Bytes::from_static(b"ok"));
    if content.is_none() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    (seen(Ok(checked), content), response)
}

fn summary(seen: &[Seen]) -> Vec<(&str, &Uri, &HeaderMap, Option<u16>, Option<&[u8]>)> {
    seen.iter()
        .map(|seen| {
            let refused = seen.checked.as_ref().err().copied();
            (&seen.method[..], &seen.uri, &seen.headers, refused, seen.content.as_deref())
        })
        .collect()
}

/// hyper and the letter agree on the head.
fn check_same(seen: &Seen, written: &Head) {
    assert_eq!(seen.method.as_bytes(), written.start[0]);
    let version: &[u8] = if seen.version == Version::HTTP_11 { b"HTTP/1.1" } else { b"HTTP/1.0" };
    assert_eq!(version, written.start[2]);
    assert_eq!(seen.headers.len(), written.fields.len(), "fields were lost or made");
    for name in seen.headers.keys() {
        let values: Vec<&[u8]> = seen.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, written.all(name.as_str()).collect::<Vec<_>>(), "{name}");
    }
}

/// What the checks promise.
fn check_request(parts: &Parts, written: &Head) {
    let hosts: Vec<_> = parts.headers.get_all(header::HOST).iter().collect();
    assert_eq!(hosts.len(), 1, "not one Host");
    assert!(!hosts[0].is_empty() || parts.version == Version::HTTP_10, "a Host without a host");
    assert!(hosts[0].as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]".contains(b)), "a bad Host");
    written.length().expect("the length is clear");
    // The target: a path as it was written, or the path in a URL whose host is the Host.
    let target = std::str::from_utf8(&written.start[1]).expect("a target in ASCII");
    let (host, path) = match target.split_once("://") {
        Some((scheme, rest)) if !target.starts_with('/') => {
            assert!(scheme.eq_ignore_ascii_case("http"), "a URL of {scheme}");
            let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (Some(&rest[..at]), &rest[at..])
        }
        _ => (None, target),
    };
    if let Some(host) = host {
        assert_eq!(host.as_bytes(), hosts[0].as_bytes(), "the Host is not the target's");
    }
    // hyper drops what is behind `#`, which has no place in a target (RFC 9112 3.2).
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.is_empty() || path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    assert_eq!(parts.uri.to_string(), path, "another target");
    let normal = fuzzing::path(&parts.uri).expect("it has passed");
    assert!(normal.starts_with('/') && !normal.split('/').any(|element| element == ".."), "{normal}");
    if !parts.headers.contains_key(header::TRANSFER_ENCODING) {
        crate::write_head::check(parts);
    }
}

/// Every answer is whole, and there is one for each request, and at most one more for what is none.
fn check_answers(mut bytes: &[u8], seen: &[Seen]) {
    let mut count = 0;
    while !bytes.is_empty() {
        let (head, rest) = strict::answer(bytes).expect("an answer by the letter").expect("a whole answer");
        bytes = rest;
        if head.start[1][0] == b'1' {
            continue;
        }
        let is_head = seen.get(count).is_some_and(|seen| seen.method == "HEAD");
        match head.length().expect("its length is clear") {
            strict::Length::Bytes(length) if !is_head => {
                let (_, rest) = strict::counted(bytes, length).expect("the whole content");
                bytes = rest;
            }
            strict::Length::Bytes(_) | strict::Length::Unsaid => {}
            strict::Length::Chunked => panic!("our own words have a length"),
        }
        count += 1;
    }
    assert!((seen.len()..=seen.len() + 1).contains(&count), "{count} answers to {}", seen.len());
}
