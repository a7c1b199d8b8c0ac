//! What a line of the log says about a request beyond what is counted anyway: collected while it is served, as text in one
//! buffer that the next request uses again.

use std::{
    cell::Cell,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, Version, header};

use super::format::Needs;

/// Longest value taken over from a client or a pod, in bytes; the rest is cut off. Longer than any that a person reads, short
/// enough that nobody fills a disk with one request.
pub const MAX_VALUE_BYTES: usize = 8 << 10;

/// Memory of one request that is kept for the next: enough for any usual one, so that an unusual one does not cost for ever.
const MAX_KEPT_BYTES: usize = 4 << 10;

/// What is the same for all requests of a client's connection.
#[derive(Debug)]
pub struct ConnectionFacts {
    /// Tells it from the others of this process.
    pub number: u64,
    /// Who connected.
    pub peer: SocketAddr,
    /// Where to.
    pub local: SocketAddr,
    /// Who its PROXY protocol header says connected.
    pub proxied: Option<SocketAddr>,
    /// Its TLS session; `None` without TLS.
    pub tls: Option<TlsFacts>,
    /// Requests so far.
    pub requests: Cell<u64>,
}

/// A client's TLS session.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite, such as `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The name that the client asked for.
    pub sni: Option<Box<str>>,
    /// Whether it was resumed.
    pub resumed: bool,
    /// The subject of the client's certificate, as RFC 4514 writes it.
    pub client_subject: Option<Box<str>>,
}

/// A piece of the text; `None` for a value that is not there, which is not the same as an empty one.
#[derive(Clone, Copy, Debug, Default)]
struct Span(Option<(u32, u32)>);

/// What is known about a request so far.
#[derive(Debug, Default)]
pub(super) struct Details {
    text: Vec<u8>,
    method: Span,
    target: Span,
    host: Span,
    id: Span,
    user: Span,
    alternative: Span,
    /// The fields and cookies that the format asks for, in its order, then the fields of the answer.
    values: Vec<Span>,
    tries: Vec<Try>,
    pub(super) connection: Option<Rc<ConnectionFacts>>,
    pub(super) request_number: u64,
    pub(super) client: Option<IpAddr>,
    pub(super) version: Option<Version>,
    /// Bytes of the request's head and of the answer's, as HTTP/1.1 writes them.
    pub(super) heads: (u64, u64),
}

/// One pod that was tried.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) endpoint: SocketAddr,
    pod: Span,
    began: Instant,
    /// How long connecting took; zero if a connection was there.
    pub(super) connect: Option<Duration>,
    /// Until the head of the answer.
    pub(super) header: Option<Duration>,
    /// Until it was over.
    pub(super) response: Option<Duration>,
    pub(super) status: Option<u16>,
    /// Whether the pod answered.
    pub(super) answered: bool,
}

impl Details {
    /// Forgets everything, and keeps the memory.
    pub(super) fn clear(&mut self) {
        let (mut text, mut values, mut tries) = Default::default();
        std::mem::swap(&mut text, &mut self.text);
        std::mem::swap(&mut values, &mut self.values);
        std::mem::swap(&mut tries, &mut self.tries);
        if text.capacity() > MAX_KEPT_BYTES {
            text = Vec::new();
        }
        text.clear();
        values.clear();
        tries.clear();
        *self = Self { text, values, tries, ..Self::default() };
    }

    /// A request came.
    pub(super) fn came(&mut self, connection: &Rc<ConnectionFacts>) {
        connection.requests.set(connection.requests.get() + 1);
        self.request_number = connection.requests.get();
        self.client = Some(connection.proxied.unwrap_or(connection.peer).ip().to_canonical());
        self.connection = Some(connection.clone());
    }

    /// A request came, with this head.
    pub(super) fn asked(
        &mut self,
        needs: &Needs,
        connection: &Rc<ConnectionFacts>,
        (method, uri, version, headers): (&Method, &Uri, Version, &HeaderMap),
    ) {
        self.came(connection);
        self.version = Some(version);
        self.method = self.keep(method.as_str().as_bytes());
        let target = uri.path_and_query().map_or_else(|| uri.path(), |target| target.as_str());
        self.target = self.keep(target.as_bytes());
        let host = uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = host.or_else(|| headers.get(header::HOST).map(|host| host.as_bytes()));
        self.host = host.map_or_else(Span::default, |host| self.keep(host));
        if needs.sizes {
            let line = method.as_str().len() + 1 + target.len() + " HTTP/1.1\r\n".len();
            self.heads.0 = (line + head_bytes(headers)) as u64;
        }
        for name in &needs.fields {
            let value = self.keep_field(headers, name);
            self.values.push(value);
        }
        for name in &needs.cookies {
            let value = cookie(headers, name.as_bytes()).map_or_else(Span::default, |value| self.keep(value));
            self.values.push(value);
        }
        if needs.user
            && let Some(user) = headers.get(header::AUTHORIZATION).and_then(|value| basic_user(value.as_bytes()))
        {
            self.user = self.keep(&user);
        }
    }

    /// The client is who a trusted proxy says it is.
    pub(super) fn is_from(&mut self, client: IpAddr) {
        self.client = Some(client);
    }

    /// Its id.
    pub(super) fn identified(&mut self, id: &[u8]) {
        self.id = self.keep(id);
    }

    /// A traffic split sends it to this `namespace/service:port`.
    pub(super) fn split_to(&mut self, service: &str) {
        self.alternative = self.keep(service.as_bytes());
    }

    /// This pod is tried from now on.
    pub(super) fn trying(&mut self, endpoint: SocketAddr, pod: Option<&str>, now: Instant) {
        let pod = pod.map_or_else(Span::default, |pod| self.keep(pod.as_bytes()));
        self.tries.push(Try {
            endpoint,
            pod,
            began: now,
            connect: None,
            header: None,
            response: None,
            status: None,
            answered: false,
        });
    }

    /// There is a connection to the pod; getting it took this long, nothing if it was there already.
    pub(super) fn connected(&mut self, took: Duration) {
        if let Some(last) = self.tries.last_mut() {
            last.connect = Some(took);
        }
    }

    /// The pod failed; `status` is what that would be answered with.
    pub(super) fn try_failed(&mut self, status: u16, now: Instant) {
        if let Some(last) = self.tries.last_mut() {
            last.status = last.status.or(Some(status));
            last.response = Some(now.saturating_duration_since(last.began));
        }
    }

    /// The pod answered: this is the head.
    pub(super) fn try_answered(&mut self, status: u16, now: Instant) {
        if let Some(last) = self.tries.last_mut() {
            last.status = Some(status);
            last.answered = true;
            last.header = Some(now.saturating_duration_since(last.began));
        }
    }

    /// This head goes to the client.
    pub(super) fn answering(&mut self, needs: &Needs, status: StatusCode, headers: &HeaderMap) {
        let reason = status.canonical_reason().unwrap_or_default();
        if needs.sizes {
            self.heads.1 = ("HTTP/1.1 200 \r\n".len() + reason.len() + head_bytes(headers)) as u64;
        }
        for name in &needs.answer_fields {
            let value = self.keep_field(headers, name);
            self.values.push(value);
        }
    }

    /// It is over.
    pub(super) fn ended(&mut self, now: Instant) {
        if let Some(last) = self.tries.last_mut() {
            last.response.get_or_insert_with(|| now.saturating_duration_since(last.began));
        }
    }

    pub(super) fn method(&self) -> Option<&[u8]> {
        self.piece(self.method)
    }

    /// Path and query.
    pub(super) fn target(&self) -> Option<&[u8]> {
        self.piece(self.target)
    }

    /// As the client wrote it, port included.
    pub(super) fn host(&self) -> Option<&[u8]> {
        self.piece(self.host)
    }

    pub(super) fn id(&self) -> Option<&[u8]> {
        self.piece(self.id)
    }

    pub(super) fn user(&self) -> Option<&[u8]> {
        self.piece(self.user)
    }

    pub(super) fn alternative(&self) -> Option<&[u8]> {
        self.piece(self.alternative)
    }

    /// The value that the format asked for under this number.
    pub(super) fn value(&self, number: usize) -> Option<&[u8]> {
        self.piece(*self.values.get(number)?)
    }

    /// The pods that were tried, in order.
    pub(super) fn tries(&self) -> &[Try] {
        &self.tries
    }

    pub(super) fn pod(&self, tried: &Try) -> Option<&[u8]> {
        self.piece(tried.pod)
    }

    fn piece(&self, span: Span) -> Option<&[u8]> {
        span.0.map(|(begin, end)| &self.text[begin as usize..end as usize])
    }

    fn keep(&mut self, value: &[u8]) -> Span {
        let begin = self.text.len();
        self.text.extend_from_slice(&value[..value.len().min(MAX_VALUE_BYTES)]);
        // A few dozen values of a few kilobytes each.
        Span(Some((begin as u32, self.text.len() as u32)))
    }

    /// Several fields of one name become one, as RFC 9110 5.3 allows.
    fn keep_field(&mut self, headers: &HeaderMap, name: &HeaderName) -> Span {
        let mut values = headers.get_all(name).iter();
        let Some(first) = values.next() else { return Span::default() };
        let begin = self.text.len();
        self.text.extend_from_slice(first.as_bytes());
        for value in values {
            self.text.extend_from_slice(b", ");
            self.text.extend_from_slice(value.as_bytes());
        }
        self.text.truncate(begin + MAX_VALUE_BYTES);
        Span(Some((begin as u32, self.text.len() as u32)))
    }
}

/// Bytes of the fields, each with its `: ` and line end, and of the empty line.
fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>() + 2
}

/// The value of a cookie (RFC 6265 5.4); the first of its name.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let fields = headers.get_all(header::COOKIE).into_iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"="))
}

/// The user of `Basic` credentials (RFC 7617); never the password.
fn basic_user(credentials: &[u8]) -> Option<Vec<u8>> {
    let (scheme, token) = credentials.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let mut user = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in token.trim_ascii() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            match (bits >> count) as u8 {
                b':' => return Some(user),
                byte => user.push(byte),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cookies_and_users() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, "a=1; session=x=y;b=2".parse().unwrap());
        headers.append(header::COOKIE, "late=3".parse().unwrap());
        for (name, value) in [("a", Some("1")), ("session", Some("x=y")), ("late", Some("3")), ("sess", None)] {
            assert_eq!(cookie(&headers, name.as_bytes()), value.map(str::as_bytes), "{name}");
        }
        let user = |text: &str| basic_user(text.as_bytes()).map(|user| String::from_utf8(user).unwrap());
        assert_eq!(user("basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==").as_deref(), Some("Aladdin"));
        assert_eq!(user("Basic OnB3").as_deref(), Some(""));
        for bad in ["Bearer QWxhZGRpbjpvcGVu", "Basic QWxhZGRpbg==", "Basic ", "Basic !!!", "x", ""] {
            assert_eq!(user(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let mut details = Details::default();
        details.identified(&vec![b'x'; MAX_VALUE_BYTES + 1]);
        assert_eq!(details.id().unwrap().len(), MAX_VALUE_BYTES);
        details.clear();
        assert!(details.id().is_none() && details.text.capacity() <= MAX_KEPT_BYTES);
    }
}
