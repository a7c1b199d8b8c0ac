//! A parser of HTTP/1.1 requests that forgives nothing: the judge of what a back end was sent. It shares no code with
//! the gateway, nor with any library.

/// A request that is well formed in every byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    /// Names in lower case, in order.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// What bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The beginning of a request; its target, once that is known.
    Partial(Option<String>),
    /// A request, and the bytes it takes.
    Whole(Request, usize),
    /// No request that a careful server would accept, for this reason.
    Malformed(String),
}

impl Request {
    /// The values of a field.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(n, _)| n == name).map(|(_, value)| &**value)
    }
}

/// Fields that concern one hop: what reaches a back end has none, but for `TE` with its `Connection`.
const ONE_HOP: [&str; 5] = ["keep-alive", "proxy-connection", "upgrade", "proxy-authorization", "proxy-authenticate"];

pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    match read(bytes) {
        Ok(Some((request, taken))) => Parsed::Whole(request, taken),
        Ok(None) => {
            let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let target =
                line.split(|byte| *byte == b' ').nth(1).map(|target| String::from_utf8_lossy(target).into_owned());
            Parsed::Partial(target)
        }
        Err(why) => Parsed::Malformed(why),
    }
}

fn read(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let Some((line, mut at)) = line(bytes, 0)? else { return Ok(None) };
    let mut request = request_line(&line)?;
    let Some((fields, after)) = section(bytes, at)? else { return Ok(None) };
    at = after;
    request.fields = fields;
    match framing(&request)? {
        Framing::Length(length) => match bytes.get(at..at + length) {
            Some(content) => request.content = content.to_vec(),
            None => return Ok(None),
        },
        Framing::Chunked => match chunks(bytes, at)? {
            Some((content, trailers, after)) => {
                at = after;
                return Ok(Some((Request { content, trailers, ..request }, at)));
            }
            None => return Ok(None),
        },
    }
    at += request.content.len();
    Ok(Some((request, at)))
}

enum Framing {
    Length(usize),
    Chunked,
}

fn request_line(line: &str) -> Result<Request, String> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err(format!("a request line {line:?}")) };
    let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-' || b == b'_');
    let is_path = target.starts_with('/') || (target == "*" && method == "OPTIONS");
    if !is_method || !is_path || !target.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'#') {
        return Err(format!("a request line {line:?}"));
    }
    Ok(Request {
        method: method.to_owned(),
        target: target.to_owned(),
        fields: Vec::new(),
        content: Vec::new(),
        trailers: Vec::new(),
    })
}

/// The line at `at`, and where the next one begins. Only CR LF ends it, and neither is in it.
fn line(bytes: &[u8], at: usize) -> Result<Option<(String, usize)>, String> {
    let rest = &bytes[at..];
    let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else { return Ok(None) };
    match rest[end..] {
        [b'\r', b'\n', ..] => Ok(Some((rest[..end].iter().map(|byte| char::from(*byte)).collect(), at + end + 2))),
        [b'\r'] => Ok(None),
        _ => Err("a line that does not end in CR LF".to_owned()),
    }
}

type Fields = Vec<(String, String)>;

fn section(bytes: &[u8], mut at: usize) -> Result<Option<(Fields, usize)>, String> {
    let mut fields = Vec::new();
    loop {
        let Some((line, after)) = line(bytes, at)? else { return Ok(None) };
        at = after;
        if line.is_empty() {
            return Ok(Some((fields, at)));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("a line {line:?}"))?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&byte);
        let value = value.strip_prefix(' ').unwrap_or(value);
        let is_value = value.chars().all(|c| c == '\t' || c == ' ' || (c > ' ' && c != '\u{7f}'));
        if name.is_empty() || !name.bytes().all(is_token) || !is_value || value.trim() != value {
            return Err(format!("a field {line:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

fn framing(request: &Request) -> Result<Framing, String> {
    let all = |name: &str| request.values(name).map(str::to_owned).collect::<Vec<String>>();
    let (hosts, lengths, codings) = (all("host"), all("content-length"), all("transfer-encoding"));
    // An HTTP/1.0 client may have had nothing to say; everybody else named one good host.
    let is_host = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b));
    if hosts.len() != 1 || !is_host(&hosts[0]) {
        return Err(format!("hosts {hosts:?}"));
    }
    if let Some((name, _)) = request.fields.iter().find(|(name, _)| ONE_HOP.contains(&&**name)) {
        return Err(format!("the field {name}, which ends at the gateway"));
    }
    let connection = all("connection").join(", ");
    if !["", "te"].contains(&&*connection.to_ascii_lowercase()) {
        return Err(format!("Connection: {connection}"));
    }
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            let number: usize = length.parse().map_err(|_| format!("Content-Length: {length}"))?;
            if number.to_string() != *length {
                return Err(format!("Content-Length: {length}"));
            }
            Ok(Framing::Length(number))
        }
        ([], [coding]) if coding == "chunked" => Ok(Framing::Chunked),
        _ => Err(format!("Content-Length {lengths:?} and Transfer-Encoding {codings:?}")),
    }
}

type Chunked = (Vec<u8>, Fields, usize);

fn chunks(bytes: &[u8], mut at: usize) -> Result<Option<Chunked>, String> {
    let mut content = Vec::new();
    loop {
        let Some((size, after)) = line(bytes, at)? else { return Ok(None) };
        at = after;
        if size.is_empty() || size.len() > 8 || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("a chunk of size {size:?}"));
        }
        let size = usize::from_str_radix(&size, 16).map_err(|error| error.to_string())?;
        if size == 0 {
            let Some((trailers, after)) = section(bytes, at)? else { return Ok(None) };
            let forbidden = ["content-length", "transfer-encoding", "host", "authorization", "cookie", "te", "trailer"];
            if let Some((name, _)) = trailers.iter().find(|(name, _)| forbidden.contains(&&**name)) {
                return Err(format!("a trailer {name}"));
            }
            return Ok(Some((content, trailers, after)));
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
        let (data, end) = chunk.split_at(size);
        if end != b"\r\n" {
            return Err("a chunk that is longer than its size".to_owned());
        }
        content.extend_from_slice(data);
        at += size + 2;
    }
}

#[test]
fn the_judge_knows_good_from_bad() {
    let good = |text: &str| matches!(parse(text.as_bytes()), Parsed::Whole(_, taken) if taken == text.len());
    assert!(good("GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
    assert!(good("POST /a?b HTTP/1.1\r\nHost:a:80\r\nX: \u{e9}\r\ncontent-length: 3\r\n\r\nabc"));
    assert!(good("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n"));
    for partial in [
        "",
        "GET",
        "GET / HTTP/1.1\r",
        "GET / HTTP/1.1\r\nhost: a\r\n",
        "P / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab",
    ] {
        assert!(matches!(parse(partial.as_bytes()), Parsed::Partial(_)), "{partial:?}");
    }
    for bad in [
        "GET / HTTP/1.0\r\nhost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "get / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a@b\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx_y: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 03\r\n\r\nabc",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 3\r\n\r\n",
    ] {
        assert!(matches!(parse(bad.as_bytes()), Parsed::Malformed(_)), "{bad:?}: {:?}", parse(bad.as_bytes()));
    }
}
