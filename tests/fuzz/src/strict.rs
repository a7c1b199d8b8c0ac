//! A second opinion: HTTP/1.1 read as the grammar has it (RFC 9112) and not a byte otherwise, in the plainest way there is.

/// Why bytes are no message.
pub type Bad = &'static str;

/// A field: its name in lower case, its value without white space around it.
pub type Field = (String, Vec<u8>);

/// A head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The three words of its first line; of an answer, the last may be empty or several.
    pub start: [Vec<u8>; 3],
    /// In their order.
    pub fields: Vec<Field>,
}

/// Where content ends, as fields say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Unsaid,
    Bytes(u64),
    Chunked,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub head: Head,
    /// `None`: it does not come to its end, or it is not clear where that is.
    pub content: Option<Vec<u8>>,
}

impl Head {
    /// The values of a field.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |field| field.0 == name).map(|field| &field.1[..])
    }

    /// What it says about the length of its content, if that can be read in one way only.
    pub fn length(&self) -> Result<Length, Bad> {
        let codings: Vec<&[u8]> = self.all("transfer-encoding").collect();
        let lengths: Vec<&[u8]> = self.all("content-length").collect();
        match (&codings[..], &lengths[..]) {
            ([], []) => Ok(Length::Unsaid),
            ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Length::Chunked),
            ([], [digits]) if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
                let digits = std::str::from_utf8(digits).map_err(|_| "digits")?;
                digits.parse().map(Length::Bytes).map_err(|_| "a length of more than 64 bits")
            }
            _ => Err("no clear length"),
        }
    }
}

/// The requests that follow each other in `bytes`, up to the one whose end is not clear.
pub fn requests(mut bytes: &[u8]) -> Vec<Message> {
    let mut all = Vec::new();
    while let Ok(Some((head, rest))) = request(bytes) {
        let read = match head.length() {
            Ok(Length::Unsaid) => Some((Vec::new(), rest)),
            Ok(Length::Bytes(length)) => counted(rest, length),
            Ok(Length::Chunked) if head.start[2] == b"HTTP/1.1" => {
                chunked(rest).ok().flatten().map(|(content, _, rest)| (content, rest))
            }
            Ok(Length::Chunked) | Err(_) => None,
        };
        let (content, rest) = read.unzip();
        all.push(Message { head, content });
        let Some(rest) = rest else { break };
        bytes = rest;
    }
    all
}

/// A request's head, and what follows it; `None` if it is not whole.
pub fn request(mut bytes: &[u8]) -> Result<Option<(Head, &[u8])>, Bad> {
    // RFC 9112 2.2: empty lines before it are to be ignored.
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    head(bytes, |line| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let &[method, target, version] = &words[..] else { return Err("a request line has three words") };
        if method.is_empty() || !method.iter().all(is_token) {
            return Err("a method is a token");
        }
        if target.is_empty() || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
            return Err("a target is visible");
        }
        if ![&b"HTTP/1.0"[..], b"HTTP/1.1"].contains(&version) {
            return Err("there are two versions of HTTP/1");
        }
        Ok([method, target, version].map(<[u8]>::to_vec))
    })
}

/// An answer's head, and what follows it; `None` if it is not whole.
pub fn answer(bytes: &[u8]) -> Result<Option<(Head, &[u8])>, Bad> {
    head(bytes, |line| {
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (version, status, reason) = (words.next(), words.next(), words.next());
        let (Some(version), Some(status)) = (version, status) else { return Err("a status line has a status") };
        if ![&b"HTTP/1.0"[..], b"HTTP/1.1"].contains(&version) {
            return Err("there are two versions of HTTP/1");
        }
        if status.len() != 3 || !status.iter().all(u8::is_ascii_digit) || !(b'1'..=b'5').contains(&status[0]) {
            return Err("a status has three digits");
        }
        Ok([version, status, reason.unwrap_or_default()].map(<[u8]>::to_vec))
    })
}

fn head(bytes: &[u8], start: impl Fn(&[u8]) -> Result<[Vec<u8>; 3], Bad>) -> Result<Option<(Head, &[u8])>, Bad> {
    let Some((line, rest)) = line(bytes)? else { return Ok(None) };
    let start = start(line)?;
    Ok(fields(rest)?.map(|(fields, rest)| (Head { start, fields }, rest)))
}

/// So many bytes, and what follows them.
pub fn counted(bytes: &[u8], length: u64) -> Option<(Vec<u8>, &[u8])> {
    let (content, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    Some((content.to_vec(), rest))
}

/// The chunked coding (RFC 9112 7.1): content, trailers, what follows. `None` if it is not whole.
pub fn chunked(mut bytes: &[u8]) -> Result<Option<(Vec<u8>, Vec<Field>, &[u8])>, Bad> {
    let mut content = Vec::new();
    loop {
        let Some((line, rest)) = line(bytes)? else { return Ok(None) };
        let digits: Vec<u8> = line.iter().copied().take_while(u8::is_ascii_hexdigit).collect();
        let extension = line[digits.len()..].trim_ascii_start();
        if digits.is_empty() || !(extension.is_empty() && line.len() == digits.len() || extension.starts_with(b";")) {
            return Err("a chunk begins with its size");
        }
        let mut size = 0u64;
        for digit in digits {
            let digit = char::from(digit).to_digit(16).ok_or("a digit")?;
            size = size.checked_mul(16).ok_or("a chunk of more than 64 bits")? + u64::from(digit);
        }
        if size == 0 {
            return Ok(fields(rest)?.map(|(trailers, rest)| (content, trailers, rest)));
        }
        let Some((data, rest)) = counted(rest, size) else { return Ok(None) };
        content.extend(data);
        match rest {
            [b'\r', b'\n', rest @ ..] => bytes = rest,
            [] | [b'\r'] => return Ok(None),
            _ => return Err("a chunk ends in CR LF"),
        }
    }
}

/// Field lines and the empty line that ends them.
fn fields(mut bytes: &[u8]) -> Result<Option<(Vec<Field>, &[u8])>, Bad> {
    let mut fields = Vec::new();
    loop {
        let Some((line, rest)) = line(bytes)? else { return Ok(None) };
        bytes = rest;
        if line.is_empty() {
            return Ok(Some((fields, bytes)));
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a field has a colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().all(is_token) {
            return Err("a field name is a token");
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
}

/// A line without its CR LF, and what follows it. There are no control characters in a line, but for tabs.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>, Bad> {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' => match bytes.get(at + 1) {
                Some(b'\n') => return Ok(Some((&bytes[..at], &bytes[at + 2..]))),
                Some(_) => return Err("a bare CR"),
                None => return Ok(None),
            },
            b'\n' => return Err("a bare LF"),
            b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err("a control character"),
        }
    }
    Ok(None)
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}
