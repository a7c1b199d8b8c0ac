//! As much of HTTP/1.1 as a client needs that knows what it will be answered: requests as bytes, and an answer as it arrives.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, bail, ensure};

/// More fields than any back end or proxy here sends.
const MAX_FIELDS: usize = 64;

/// Nothing asked here one request at a time takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request as bytes. `fields` are whole lines with their ends.
pub fn request(method: &str, host: &str, path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: compare\r\nAccept: */*\r\n{fields}{length}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// What has arrived of one answer.
#[derive(Debug)]
pub enum Progress {
    /// An answer of 200 with so many bytes of content, which are counted and forgotten.
    Http {
        /// How many it must have.
        expected: usize,
        /// The head, while it is incomplete.
        head: Vec<u8>,
        /// Bytes still to come, once the head is complete.
        left: Option<usize>,
    },
    /// Just bytes, whatever they are.
    Bytes {
        /// How many are still to come.
        left: usize,
    },
}

impl Progress {
    /// Takes what has arrived; says whether the answer is complete.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn feed(&mut self, data: &[u8]) -> Result<bool, String> {
        match self {
            Self::Bytes { left } => {
                *left = left.checked_sub(data.len()).ok_or("more bytes than were sent")?;
                Ok(*left == 0)
            }
            Self::Http { left: Some(left), .. } => {
                *left = left.checked_sub(data.len()).ok_or("more content than announced")?;
                Ok(*left == 0)
            }
            Self::Http { expected, head, left } => {
                // An answer in one piece is not copied.
                let begun = !head.is_empty();
                if begun {
                    head.extend_from_slice(data);
                }
                let all = if begun { head.as_slice() } else { data };
                let Some((size, status, length)) = parse_head(all)? else {
                    if !begun {
                        head.extend_from_slice(data);
                    }
                    return Ok(false);
                };
                if status != 200 {
                    return Err(format!("answered {status}"));
                }
                if length != Some(*expected) {
                    return Err(format!("a Content-Length of {length:?}, not {expected}"));
                }
                let rest = expected.checked_sub(all.len() - size).ok_or("more content than announced")?;
                *left = Some(rest);
                Ok(rest == 0)
            }
        }
    }
}

/// Size of the head, status and Content-Length; `None` while the head is incomplete.
fn parse_head(data: &[u8]) -> Result<Option<(usize, u16, Option<usize>)>, String> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let size = match answer.parse(data).map_err(|error| format!("not HTTP: {error}"))? {
        httparse::Status::Complete(size) => size,
        httparse::Status::Partial => return Ok(None),
    };
    let length = answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    Ok(Some((size, answer.code.unwrap_or(0), length)))
}

/// One whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its content, if its status is 200.
    pub body: Vec<u8>,
}

/// A connection that waits no longer than anything should take.
///
/// # Errors
/// If nobody listens.
pub fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends one request over a connection and reads its answer, leaving the connection open.
///
/// # Errors
/// If there is no answer, or none that is HTTP.
pub fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> anyhow::Result<Answer> {
    stream.write_all(request)?;
    stream.flush()?;
    let (mut data, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let (size, status, length) = loop {
        let n = stream.read(&mut buffer).context("waiting for an answer")?;
        ensure!(n > 0, "closed without an answer");
        data.extend_from_slice(&buffer[..n]);
        match parse_head(&data) {
            Ok(Some((_, 100, _))) => bail!("answered 100 unasked"),
            Ok(Some(head)) => break head,
            Ok(None) => {}
            Err(error) => bail!(error),
        }
    };
    // 101 ends with its head. An error may have any framing, and what it says is not of interest.
    let length = if status == 200 { length.context("no Content-Length")? } else { 0 };
    let mut body = data.split_off(size);
    while body.len() < length {
        let n = stream.read(&mut buffer).context("waiting for content")?;
        ensure!(n > 0, "closed after {} of {length} bytes of content", body.len());
        body.extend_from_slice(&buffer[..n]);
    }
    ensure!(status != 200 || body.len() == length, "{} bytes of content, not {length}", body.len());
    Ok(Answer { status, body })
}

/// Asks for one path over a connection of its own.
///
/// # Errors
/// As [`exchange`], and if nobody listens.
pub fn get(addr: SocketAddr, host: &str, path: &str) -> anyhow::Result<Answer> {
    exchange(&mut connect(addr)?, &request("GET", host, path, "Connection: close\r\n", &[]))
}

#[cfg(test)]
mod tests {
    use super::{Progress, request};

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    fn http(expected: usize) -> Progress {
        Progress::Http { expected, head: Vec::new(), left: None }
    }

    #[test]
    fn an_answer_may_come_in_any_pieces() {
        assert_eq!(http(5).feed(ANSWER), Ok(true));
        for cut in 1..ANSWER.len() {
            let mut progress = http(5);
            assert_eq!(progress.feed(&ANSWER[..cut]), Ok(false), "{cut}");
            assert_eq!(progress.feed(&ANSWER[cut..]), Ok(true), "{cut}");
        }
        let mut progress = http(5);
        let (last, rest) = ANSWER.split_last().unwrap();
        for byte in rest {
            assert_eq!(progress.feed(&[*byte]), Ok(false));
        }
        assert_eq!(progress.feed(&[*last]), Ok(true));
    }

    #[test]
    fn a_wrong_answer_is_no_answer() {
        assert!(http(6).feed(ANSWER).unwrap_err().contains("not 6"));
        let bad_gateway = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(http(5).feed(bad_gateway).unwrap_err(), "answered 502");
        assert!(http(5).feed(&[ANSWER, b"!"].concat()).is_err());
        assert!(http(5).feed(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(http(5).feed(b"SSH-2.0-OpenSSH_9.2\r\n").is_err());
    }

    #[test]
    fn bytes_are_counted() {
        let mut progress = Progress::Bytes { left: 3 };
        assert_eq!(progress.feed(b"ab"), Ok(false));
        assert_eq!(progress.feed(b"c"), Ok(true));
        assert!(progress.feed(b"d").is_err());
    }

    #[test]
    fn content_is_announced() {
        let text = String::from_utf8(request("POST", "a.example", "/b", "X: y\r\n", b"xyz")).unwrap();
        assert!(text.starts_with("POST /b HTTP/1.1\r\nHost: a.example\r\n"), "{text}");
        assert!(text.ends_with("X: y\r\nContent-Length: 3\r\n\r\nxyz"), "{text}");
        assert!(text.find("Content-Length").is_some());
    }
}
