//! What is known of a request when it is decided on: all that rules, filters and templates may ask.

use std::net::IpAddr;

use http::{HeaderMap, Method, Uri};

/// The request, and how it came. It borrows everything; whoever holds it can answer any question of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target as it was sent.
    pub uri: &'a Uri,
    /// The fields as they were sent.
    pub headers: &'a HeaderMap,
    /// As in the `Host` field or `:authority`: any case, perhaps with a port.
    pub host: &'a str,
    /// The path that rules are asked about: decoded, without `.` and `..`.
    pub path: &'a str,
    /// How it came.
    pub scheme: Scheme,
    /// The client's address.
    pub client: IpAddr,
    /// The port the client connected to.
    pub port: u16,
    /// The port for `https`, which a redirect names unless it is 443; `None` if there is none.
    pub https_port: Option<u16>,
}

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In plain text.
    Http,
    /// With TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Facts<'_> {
    /// The host alone, without port and final dot, in the case it was sent in.
    pub(crate) fn host_name(&self) -> &str {
        let name = match self.host.rfind(':') {
            // An IPv6 literal has colons inside its brackets.
            Some(colon) if !self.host[colon..].contains(']') => &self.host[..colon],
            _ => self.host,
        };
        name.strip_suffix('.').unwrap_or(name)
    }

    /// Path and query as they were sent; `*` where the whole server is asked.
    pub(crate) fn target(&self) -> &str {
        self.uri.path_and_query().map_or("/", |target| target.as_str())
    }

    /// The query, without `?`.
    pub(crate) fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }

    /// The value of a cookie: the first of that name, as in nginx.
    pub(crate) fn cookie(&self, name: &str) -> Option<&[u8]> {
        let fields = self.headers.get_all(http::header::COOKIE).iter();
        let mut pairs = fields.flat_map(|field| field.as_bytes().split(|&byte| byte == b';'));
        pairs.find_map(|pair| {
            let equals = pair.iter().position(|&byte| byte == b'=')?;
            (pair[..equals].trim_ascii() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
        })
    }
}

/// A request to try things on.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    /// A request that owns what its [`Facts`] borrow.
    pub(crate) struct Asked {
        pub(crate) parts: http::request::Parts,
        pub(crate) scheme: Scheme,
        pub(crate) https_port: Option<u16>,
    }

    impl Asked {
        /// `GET target` at `shop.example.com` with these fields.
        pub(crate) fn get(target: &str, fields: &[(&str, &str)]) -> Self {
            let mut request = http::Request::get(target);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            Self { parts, scheme: Scheme::Http, https_port: Some(443) }
        }

        pub(crate) fn facts(&self) -> Facts<'_> {
            let host =
                self.parts.headers.get("host").map_or("Shop.example.com:8080", |host| host.to_str().expect("text"));
            Facts {
                method: &self.parts.method,
                uri: &self.parts.uri,
                headers: &self.parts.headers,
                host,
                path: self.parts.uri.path(),
                scheme: self.scheme,
                client: IpAddr::from([192, 0, 2, 7]),
                port: 8080,
                https_port: self.https_port,
            }
        }
    }
}
