//! The guard against DNS rebinding: a web page cannot read the admin interface through the browser of somebody who may.
//!
//! A page of `evil.example` may let its own name point to 127.0.0.1 and then reads whatever answers there, as it is the same
//! origin to the browser. What it cannot do is change the `Host` its requests carry: that is the page's name.

use std::net::IpAddr;

use http::{HeaderMap, Uri, header};

/// Whether another site's page has a browser ask this. It could not read the answer; but answers cost something, and a stream lasts. A
/// link that somebody follows is not meant.
pub(crate) fn is_of_another_site(headers: &HeaderMap) -> bool {
    let says = |name: &str, values: &[&str]| {
        headers.get_all(name).iter().all(|value| value.to_str().is_ok_and(|value| values.contains(&value)))
    };
    let follows_link = headers.contains_key("sec-fetch-mode") && says("sec-fetch-mode", &["navigate"]);
    !says("sec-fetch-site", &["same-origin", "none"]) && !follows_link
}

/// Whether a request is addressed to an IP address or to `localhost`. A request that names no host at all comes from no
/// browser, and is let in.
pub(crate) fn is_allowed(uri: &Uri, headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::HOST).iter().map(|value| value.to_str().ok());
    let authority = uri.authority().map(|authority| Some(authority.as_str()));
    fields.chain(authority).all(|host| host.is_some_and(is_name_allowed))
}

fn is_name_allowed(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let Some((ip, port)) = rest.split_once(']') else { return false };
        return matches!(ip.parse(), Ok(IpAddr::V6(_))) && (port.is_empty() || port.starts_with(':'));
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || matches!(name.parse(), Ok(IpAddr::V4(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost() {
        for host in ["127.0.0.1:9901", "10.1.2.3", "[::1]:9901", "[::1]", "localhost", "LocalHost:80"] {
            assert!(is_name_allowed(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9901", "", "[::1", "[::1]x", "1"]
        {
            assert!(!is_name_allowed(host), "{host}");
        }
    }

    #[test]
    fn other_pages_may_link_here_and_nothing_else() {
        for (site, mode, expected) in [
            (None, None, false),
            (Some("same-origin"), Some("cors"), false),
            (Some("none"), Some("navigate"), false),
            (Some("cross-site"), Some("navigate"), false),
            (Some("cross-site"), Some("no-cors"), true),
            (Some("same-site"), Some("cors"), true),
            (Some("cross-site"), None, true),
        ] {
            let mut headers = HeaderMap::new();
            let fields = [("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            for (name, value) in fields.into_iter().filter_map(|(name, value)| Some((name, value?))) {
                headers.insert(name, value.parse().unwrap());
            }
            assert_eq!(is_of_another_site(&headers), expected, "{site:?} {mode:?}");
        }
    }

    #[test]
    fn every_name_in_the_request_counts() {
        let mut headers = HeaderMap::new();
        let absolute = Uri::from_static("http://evil.example/config");
        assert!(is_allowed(&Uri::from_static("/config"), &headers));
        assert!(!is_allowed(&absolute, &headers));
        headers.append(header::HOST, "localhost".parse().unwrap());
        assert!(is_allowed(&Uri::from_static("/config"), &headers));
        assert!(!is_allowed(&absolute, &headers));
        headers.append(header::HOST, "evil.example".parse().unwrap());
        assert!(!is_allowed(&Uri::from_static("/config"), &headers));
    }
}
