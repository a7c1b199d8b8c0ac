//! What can be asked, as people write it and as the admin address receives it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::PathAndQuery};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use tidegate_l4::{model::Protocol, table::Frontend};

use crate::{
    http::{Facts, Scheme},
    route::normalise::{normalise, other_reading},
};

/// How to ask; every complaint about a question ends with it.
const USAGE: &str =
    "Ask \"GET http://host/path\" (or https), tcp://IP:PORT, udp://IP:PORT, or tcp://service.namespace:port";

/// Longest question; a URL in a browser is not longer either.
const MAX_QUERY_BYTES: usize = 16 * 1024;

/// Header lines of one question: as many as the HTTP plane takes in a request.
const MAX_HEADERS: usize = 100;

/// A connection or request, whose way is to be explained.
#[derive(Clone, Debug)]
pub struct Question {
    target: String,
    pub(super) subject: Subject,
    /// The client, if it matters who asks.
    pub(super) from: Option<IpAddr>,
}

/// What is asked about.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    Request(Box<Request>),
    Connection(Frontend),
    Service(ServiceAddress),
}

/// A request, as far as routing looks at it.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) scheme: Scheme,
    /// As in the `Host` field.
    pub(super) host: String,
    /// The name in the TLS handshake, for `https`: empty where an address is dialled, as no name is sent then.
    pub(super) sni: Option<String>,
    /// Without the query, in normal form.
    pub(super) path: String,
    /// As some pods read it, if that is another.
    pub(super) other_path: Option<String>,
    /// The port that is asked.
    pub(super) port: u16,
    /// Path and query.
    pub(super) target: Uri,
    pub(super) headers: HeaderMap,
}

impl Request {
    /// What the data plane would know of it.
    pub(super) fn facts(&self, from: Option<IpAddr>) -> Facts<'_> {
        Facts {
            method: &self.method,
            uri: &self.target,
            headers: &self.headers,
            host: &self.host,
            path: &self.path,
            scheme: self.scheme,
            client: from.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: self.port,
            https_port: Some(443),
        }
    }
}

/// A Service by its name in DNS.
#[derive(Clone, Debug)]
pub(super) struct ServiceAddress {
    pub(super) protocol: Option<Protocol>,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Name or number.
    pub(super) port: Option<String>,
}

impl Question {
    /// Reads a question. `headers` are `Name: value`; `from` is the client's address. The error says how to ask.
    pub fn parse(target: &str, headers: &[String], from: Option<IpAddr>) -> Result<Self, String> {
        if target.len() > MAX_QUERY_BYTES || headers.len() > MAX_HEADERS {
            return Err(format!("the question is too long. {USAGE}."));
        }
        let target = target.trim();
        let headers = header_map(headers)?;
        let subject = match target.split_once("://") {
            Some(("tcp", address)) => connection(Some(Protocol::Tcp), address)?,
            Some(("udp", address)) => connection(Some(Protocol::Udp), address)?,
            Some(("http" | "https", _)) => Subject::Request(request(Method::GET, target, headers)?.into()),
            Some((method, _)) if method.ends_with(" http") || method.ends_with(" https") => {
                let (method, url) = target.split_once(' ').unwrap_or(("GET", target));
                let method = Method::from_bytes(method.as_bytes())
                    .map_err(|_| format!("{method:?} is not an HTTP method. {USAGE}."))?;
                Subject::Request(request(method, url.trim(), headers)?.into())
            }
            Some((scheme, _)) => {
                let scheme = scheme.rsplit(' ').next().unwrap_or(scheme);
                return Err(format!("{scheme}:// is not served here. {USAGE}."));
            }
            None => connection(None, target)?,
        };
        Ok(Self { target: target.to_owned(), subject, from: from.map(|ip| ip.to_canonical()) })
    }

    /// The same question, whose header values are not shown to whoever reads the answer.
    pub(super) fn concealed(mut self) -> Self {
        if let Subject::Request(request) = &mut self.subject {
            request.headers.values_mut().for_each(|value| value.set_sensitive(true));
        }
        self
    }

    /// Reads `target=…&header=…&from=…`, percent-encoded.
    pub fn from_query(query: &str) -> Result<Self, String> {
        if query.len() > MAX_QUERY_BYTES {
            return Err(format!("the question is too long. {USAGE}."));
        }
        let (mut target, mut headers, mut from) = (None, Vec::new(), None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // As HTML forms write it, a plus is a space.
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8().map_err(|_| format!("{key} is not UTF-8 text."))?;
            match key {
                "target" => target = Some(value.into_owned()),
                "header" => headers.push(value.into_owned()),
                "from" if value.is_empty() => {}
                "from" => from = Some(value.parse().map_err(|_| format!("from: {value:?} is not an IP address."))?),
                _ => return Err(format!("there is no parameter {key:?}; use target, from and header.")),
            }
        }
        let target = target.ok_or_else(|| format!("the parameter target is missing. {USAGE}."))?;
        Self::parse(&target, &headers, from)
    }

    /// The question as a query; [`from_query`](Self::from_query) reads it back.
    pub fn to_query(&self) -> String {
        let mut query = format!("target={}", utf8_percent_encode(&self.target, NON_ALPHANUMERIC));
        if let Some(from) = self.from {
            query.push_str(&format!("&from={}", utf8_percent_encode(&from.to_string(), NON_ALPHANUMERIC)));
        }
        if let Subject::Request(request) = &self.subject {
            for (name, value) in &request.headers {
                let value = percent_encode(value.as_bytes(), NON_ALPHANUMERIC);
                query.push_str(&format!("&header={}%3A{value}", utf8_percent_encode(name.as_str(), NON_ALPHANUMERIC)));
            }
        }
        query
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target)?;
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Subject::Request(request) = &self.subject {
            for (name, value) in &request.headers {
                match value.is_sensitive() {
                    true => write!(f, " with {name}: (not shown)")?,
                    false => write!(f, " with {name}: {}", String::from_utf8_lossy(value.as_bytes()))?,
                }
            }
        }
        Ok(())
    }
}

fn header_map(lines: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let bad = || format!("{line:?} is not a header: write \"Name: value\".");
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| bad())?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// A request for `url`. A `Host` among the headers wins over the host of the URL, as with curl.
fn request(method: Method, url: &str, headers: HeaderMap) -> Result<Request, String> {
    let uri: Uri = url.parse().map_err(|_| format!("{url:?} is not a URL. {USAGE}."))?;
    let Some(authority) = uri.authority() else { return Err(format!("{url:?} names no host. {USAGE}.")) };
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(format!("{method} is answered 405 whatever the rules say: no gateway passes it on."));
    }
    let host = match headers.get(header::HOST) {
        Some(host) => host.to_str().map_err(|_| "the Host header is not plain text.".to_owned())?.to_owned(),
        None => authority.as_str().to_owned(),
    };
    let scheme = if uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
    let port = uri.port_u16().unwrap_or(if scheme == Scheme::Https { 443 } else { 80 });
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let sni =
        (scheme == Scheme::Https).then(|| if name.parse::<IpAddr>().is_ok() { String::new() } else { name.to_owned() });
    let path = normalise(uri.path())
        .map_err(|_| format!("{:?} is answered 400 whatever the rules say: it has no clear meaning.", uri.path()))?;
    let (path, other_path) = (path.into_owned(), other_reading(uri.path()));
    let target = Uri::from(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    Ok(Request { method, scheme, host, sni, path, other_path, port, target, headers })
}

/// An address and port, or the name of a Service.
fn connection(protocol: Option<Protocol>, address: &str) -> Result<Subject, String> {
    let address = address.strip_suffix('/').unwrap_or(address);
    if let Ok(addr) = address.parse::<SocketAddr>() {
        let ip = addr.ip().to_canonical();
        return Ok(Subject::Connection(Frontend {
            ip,
            port: addr.port(),
            protocol: protocol.unwrap_or(Protocol::Tcp),
        }));
    }
    let bad = || format!("{address:?} is neither IP:PORT nor the name of a Service. {USAGE}.");
    if address.parse::<IpAddr>().is_ok() {
        return Err(format!("{address} needs a port. {USAGE}."));
    }
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    };
    let (name, namespace) = match host.split_once('/') {
        Some((namespace, name)) => (name, namespace),
        None => {
            let mut labels = host.split('.');
            let name = labels.next().unwrap_or_default();
            let namespace = labels.next().unwrap_or("default");
            if labels.next().is_some_and(|label| label != "svc") {
                return Err(bad());
            }
            (name, namespace)
        }
    };
    let is_label = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if !is_label(name) || !is_label(namespace) || !port.is_none_or(is_label) {
        return Err(bad());
    }
    let port = port.map(str::to_owned);
    Ok(Subject::Service(ServiceAddress { protocol, namespace: namespace.to_owned(), name: name.to_owned(), port }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(target: &str) -> Result<Question, String> {
        Question::parse(target, &[], None)
    }

    #[test]
    fn good_questions() {
        for target in [
            "GET http://a.b/c?d=e",
            "http://a.b",
            "https://a.b/",
            "GET https://a.b/",
            "POST http://[::1]:80/",
            "https://a.b/",
            "GET https://[::1]/",
            "tcp://127.0.0.1:80",
            "udp://[fd00::1]:53",
            "tcp://kubia.default:http",
            "tcp://kubia.shop.svc.cluster.local:80",
            "shop/kubia",
            "kubia",
            "127.0.0.1:80",
        ] {
            let question = parse(target).unwrap_or_else(|e| panic!("{target}: {e}"));
            assert_eq!(question.to_string(), target);
        }
    }

    #[test]
    fn bad_questions_are_answered_with_how_to_ask() {
        for target in [
            "",
            "GET",
            "GET /",
            "GET http:///x",
            "tcp://",
            "tcp://1.2.3.4",
            "1.2.3.4",
            "tcp://a b:80",
            "tcp://kubia.default.pod:80",
            "tcp://kubia:",
            "ftp://a",
            "G@T http://a/",
        ] {
            let error = parse(target).unwrap_err();
            assert!(error.contains("Ask \"GET http://host/path\" (or https)"), "{target}: {error}");
        }
        assert!(parse("TRACE http://a/").unwrap_err().contains("405"));
        assert!(parse("GET http://a/../b").unwrap_err().contains("400"));
        assert!(Question::parse("GET http://a/", &["x".to_owned()], None).unwrap_err().contains("Name: value"));
        assert!(parse(&"x".repeat(100_000)).unwrap_err().contains("too long"));
        assert!(Question::from_query("from=1.2.3.4").unwrap_err().contains("target is missing"));
        assert!(Question::from_query("target=x&from=y").unwrap_err().contains("not an IP"));
        assert!(Question::from_query("target=x&form=1.2.3.4").unwrap_err().contains("no parameter"));
    }

    #[test]
    fn a_query_is_read_back() {
        let headers = ["Cookie: a=b; c=d&e|f".to_owned(), "X-Ü: 1".to_owned()];
        assert!(Question::parse("GET http://a/", &headers, None).is_err(), "a header's name is ASCII");
        let headers = ["Cookie: a=b; c=d&e|f".to_owned(), "X: ü+".to_owned(), "X: 2".to_owned()];
        let from = Some("fd00::1".parse().unwrap());
        let question = Question::parse("GET http://a/b?c=d&e", &headers, from).unwrap();
        let again = Question::from_query(&question.to_query()).unwrap();
        assert_eq!(again.to_string(), question.to_string());
        assert_eq!(again.from, from);
        let Subject::Request(request) = again.subject else { panic!("not a request") };
        assert_eq!(request.target, "/b?c=d&e");
        assert_eq!(request.headers.get_all("x").iter().count(), 2);
    }

    #[test]
    fn a_host_header_wins() {
        let question = Question::parse("GET http://127.0.0.1:8080/", &["Host: kubia.example.com".to_owned()], None);
        let Subject::Request(request) = question.unwrap().subject else { panic!("not a request") };
        assert_eq!(request.host, "kubia.example.com");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(target in ".{0,64}", header in ".{0,32}", scheme in 0..4usize) {
            let target = format!("{}{target}", ["", "tcp://", "http://", "GET http://"][scheme]);
            let _ = Question::parse(&target, &[header], None);
            let _ = Question::from_query(&target);
        }
    }
}
