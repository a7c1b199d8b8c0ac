//! The pages for people: the dashboard, and in the demo the page on which one sees what Services and Ingresses do.
//!
//! They are static files. What they show they ask for themselves: from the stream of the admin interface, and the demo's
//! page from the addresses that it is about.

use std::{collections::BTreeSet, net::IpAddr};

use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header, uri::Authority};

use super::{
    answer::{Answer, NO_CONFIGURATION},
    view::{DemoView, LanesView},
};
use crate::small_server::Content;

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const DASHBOARD: &str = include_str!("page/dashboard.html");
const DEMO: &str = include_str!("page/demo.html");

/// Name below `/assets/`, content type and content.
const ASSETS: [(&str, &str, &str); 9] = [
    ("common.js", SCRIPT, include_str!("page/common.js")),
    ("dashboard.js", SCRIPT, include_str!("page/dashboard.js")),
    ("demo.js", SCRIPT, include_str!("page/demo.js")),
    ("icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("lane.js", SCRIPT, include_str!("page/lane.js")),
    ("rates.js", SCRIPT, include_str!("page/rates.js")),
    ("sentences.js", SCRIPT, include_str!("page/sentences.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("tail.js", SCRIPT, include_str!("page/tail.js")),
];

/// The answer, if a page or a part of one is asked for. `demo` is `None` outside the demo; in it, it tells how things are once
/// there is a configuration.
pub(super) fn respond(
    uri: &Uri,
    headers: &HeaderMap,
    demo: Option<impl FnOnce() -> Option<DemoView>>,
) -> Option<Response<Content>> {
    match uri.path() {
        "/" if accepts_html(headers) => Some(file(HTML, DASHBOARD, &BTreeSet::new())),
        "/demo" => Some(match demo {
            None => plain(StatusCode::NOT_FOUND, "there is no demo here: `tidegate demo` runs one\n"),
            Some(view) => view().map_or_else(
                || plain(StatusCode::SERVICE_UNAVAILABLE, NO_CONFIGURATION),
                |view| demo_page(&view, headers),
            ),
        }),
        path => {
            let name = path.strip_prefix("/assets/")?;
            let (_, content_type, text) = ASSETS.iter().find(|(known, ..)| *known == name)?;
            Some(file(content_type, text, &BTreeSet::new()))
        }
    }
}

/// Browsers name it for what they show as a page. `curl` and scripts do not, and have a list to read.
fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(|types| types.contains("text/html")))
}

/// Under any other name than its own it would be another site than the addresses it asks, and get no cookie of theirs.
fn demo_page(view: &DemoView, headers: &HeaderMap) -> Response<Content> {
    let uri = view.page.parse::<Uri>().ok();
    let own = uri.as_ref().and_then(Uri::authority).map(|authority| authority.as_str().as_bytes());
    let elsewhere = headers.get(header::HOST).is_some_and(|host| own.is_some_and(|own| own != host.as_bytes()));
    if elsewhere && !headers.get(header::HOST).is_some_and(is_this_machine) {
        return plain(StatusCode::NOT_FOUND, "the demo's page works in a browser on the machine where the demo runs\n");
    }
    if elsewhere && let Ok(location) = HeaderValue::from_str(&view.page) {
        let mut response = plain(StatusCode::FOUND, "");
        response.headers_mut().insert(header::LOCATION, location);
        return response;
    }
    let LanesView { node_port, client_ip, ingress, cookie, hosts, http2, .. } = &view.lanes;
    let asks = [node_port, client_ip, ingress, cookie, http2].into_iter().chain(hosts);
    let origins: BTreeSet<String> = asks.filter_map(|url| origin(url)).collect();
    file(HTML, DEMO, &origins)
}

/// Whether a host and port mean the machine of whoever writes them.
fn is_this_machine(host: &HeaderValue) -> bool {
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// `http://127.0.0.1:30123` of `http://127.0.0.1:30123/`.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Content> {
    guarded(Answer::text(status, text), &BTreeSet::new())
}

fn file(content_type: &'static str, text: &'static str, origins: &BTreeSet<String>) -> Response<Content> {
    guarded(Answer::new(content_type, text), origins)
}

/// With what keeps a page from everything it has no need of.
fn guarded(answer: Answer, origins: &BTreeSet<String>) -> Response<Content> {
    let mut response = answer.response();
    let headers = response.headers_mut();
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Origins are made of URIs, which are ASCII; if one were not, nothing would be allowed.
    let policy = HeaderValue::from_str(&policy(origins)).unwrap_or(HeaderValue::from_static("default-src 'none'"));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// Everything comes from here, nothing is inline, and nobody frames it.
fn policy(origins: &BTreeSet<String>) -> String {
    let connect: String = origins.iter().map(|origin| format!(" {origin}")).collect();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'{connect}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;
