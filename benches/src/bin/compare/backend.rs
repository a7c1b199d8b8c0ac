//! What the proxies forward to: one thread, nothing but fixed answers. It runs in a process of its own (`compare backend`),
//! so that the memory and the file descriptors of thousands of connections are not the load's.
//!
//! HTTP: a path that ends in `/100k` is answered with that much, `/head` with the request head as it arrived, a POST with
//! the number of bytes that came, a WebSocket handshake with an echo, and everything else with 32 bytes.
//! TCP: the first byte of a connection says what is wanted of it, see [`order`].

use std::{
    cell::RefCell,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener as StdListener},
    rc::Rc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

/// Bytes of the small answer.
pub(crate) const SMALL: usize = 32;

/// Bytes of the large answer.
pub(crate) const LARGE: usize = 100_000;

/// The one key that a WebSocket handshake may have, and the answer to it: the example of RFC 6455 1.3.
pub(crate) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The first byte of a TCP connection.
pub(crate) mod order {
    /// Take everything, then say how many bytes that was (8 bytes, big endian).
    pub(crate) const SINK: u8 = b'S';
    /// Send back what comes.
    pub(crate) const ECHO: u8 = b'E';
    /// Send one byte and close.
    pub(crate) const ONCE: u8 = b'C';
    /// Send one byte and stay.
    pub(crate) const IDLE: u8 = b'I';
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8_192;

/// Reading in pieces of this size makes the back end cheap next to any proxy.
const CHUNK: usize = 256 << 10;

/// A request head of more than this is none of ours.
const MAX_HEAD: usize = 32 << 10;

const MAX_FIELDS: usize = 64;

/// What all connections have in common.
struct Common {
    small: Vec<u8>,
    large: Vec<u8>,
    /// Where everything is read into. It is borrowed only between two awaits.
    buffer: RefCell<Vec<u8>>,
}

type Shared = Rc<Common>;

/// Serves for ever. `http` and `tcp` are ports of 127.0.0.1.
pub(crate) fn run(http: u16, tcp: u16) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (http, tcp) = (listen(http)?, listen(tcp)?);
    let common = Common {
        small: answer(&[b'x'; SMALL]),
        large: answer(&vec![b'x'; LARGE]),
        buffer: RefCell::new(vec![0; CHUNK]),
    };
    let shared: Shared = Rc::new(common);
    LocalSet::new().block_on(&runtime, async {
        let (http, tcp) = (TcpListener::from_std(http)?, TcpListener::from_std(tcp)?);
        // A connection that fails is its client's to report; one that cannot be accepted too.
        let tcp_shared = shared.clone();
        tokio::task::spawn_local(async move {
            loop {
                if let Ok((stream, _)) = tcp.accept().await {
                    tokio::task::spawn_local(serve_tcp(stream, tcp_shared.clone()));
                }
            }
        });
        loop {
            if let Ok((stream, _)) = http.accept().await {
                tokio::task::spawn_local(serve_http(stream, shared.clone()));
            }
        }
    })
}

fn listen(port: u16) -> io::Result<StdListener> {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    listen(&socket, BACKLOG)?;
    let listener = StdListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Waits until there is something to read and takes it into the shared buffer, whose first bytes it then is.
async fn read(stream: &mut TcpStream, shared: &Shared) -> io::Result<usize> {
    std::future::poll_fn(|context| {
        let mut bytes = shared.buffer.borrow_mut();
        let mut buffer = tokio::io::ReadBuf::new(&mut bytes);
        let poll = tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut *stream), context, &mut buffer);
        poll.map_ok(|()| buffer.filled().len())
    })
    .await
}

async fn serve_http(mut stream: TcpStream, shared: Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut held = Vec::new();
    loop {
        let Some(head) = next_head(&mut stream, &shared, &mut held).await? else { return Ok(()) };
        match head.kind {
            Asked::Small => stream.write_all(&shared.small).await?,
            Asked::Large => stream.write_all(&shared.large).await?,
            Asked::Head(text) => stream.write_all(&answer(&text)).await?,
            Asked::Upload(length) => {
                let mut left = length.saturating_sub(held.len());
                held.drain(..held.len().min(length));
                while left > 0 {
                    match read(&mut stream, &shared).await? {
                        0 => return Ok(()),
                        n if n > left => return Err(io::ErrorKind::InvalidData.into()),
                        n => left -= n,
                    }
                }
                stream.write_all(&answer(received(length).as_bytes())).await?;
            }
            Asked::WebSocket => {
                let text = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: {WEBSOCKET_ACCEPT}\r\n\r\n"
                );
                stream.write_all(text.as_bytes()).await?;
                return echo_frames(&mut stream, &shared, held).await;
            }
            Asked::Nonsense => {
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await?;
                return Ok(());
            }
        }
        if head.close {
            return Ok(());
        }
    }
}

/// The content of the answer to an upload of so many bytes.
pub(crate) fn received(length: usize) -> String {
    format!("received {length} bytes")
}

fn answer(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Mon, 23 Nov 2026 15:00:00 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Cache-Control: no-cache\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// What is asked for, and whether the connection ends with it.
struct Head {
    kind: Asked,
    close: bool,
}

enum Asked {
    Small,
    Large,
    Head(Vec<u8>),
    Upload(usize),
    WebSocket,
    Nonsense,
}

/// The next request head; what follows it stays in `held`. `None` at the end of the connection.
async fn next_head(stream: &mut TcpStream, shared: &Shared, held: &mut Vec<u8>) -> io::Result<Option<Head>> {
    loop {
        if let Some((size, head)) = parse(held) {
            held.drain(..size);
            return Ok(Some(head));
        }
        let n = read(stream, shared).await?;
        if n == 0 {
            return Ok(None);
        }
        held.extend_from_slice(&shared.buffer.borrow()[..n]);
    }
}

/// A request head and its size; `None` while it is incomplete.
fn parse(data: &[u8]) -> Option<(usize, Head)> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let nonsense = |size| Some((size, Head { kind: Asked::Nonsense, close: true }));
    let size = match request.parse(data) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if data.len() <= MAX_HEAD => return None,
        Ok(httparse::Status::Partial) | Err(_) => return nonsense(data.len()),
    };
    let field = |name: &str| {
        let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok())
    };
    let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let path = request.path.unwrap_or_default();
    let kind = match (request.method, field("content-length").map(str::parse)) {
        (Some("GET"), _) if field("sec-websocket-key").is_some() => {
            let upgrade = field("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
            let right = upgrade && field("sec-websocket-key") == Some(WEBSOCKET_KEY);
            if right { Asked::WebSocket } else { Asked::Nonsense }
        }
        (Some("GET"), None | Some(Ok(0))) if path.ends_with("/100k") => Asked::Large,
        (Some("GET"), None | Some(Ok(0))) if path.ends_with("/head") => Asked::Head(data[..size].to_vec()),
        (Some("GET"), None | Some(Ok(0))) => Asked::Small,
        (Some("POST"), Some(Ok(length))) => Asked::Upload(length),
        _ => Asked::Nonsense,
    };
    Some((size, Head { kind, close }))
}

/// Sends back what WebSocket frames carry. Frames of at most 125 bytes, whole messages: what the load sends.
async fn echo_frames(stream: &mut TcpStream, shared: &Shared, mut held: Vec<u8>) -> io::Result<()> {
    loop {
        while let Some(frame) = take_frame(&mut held)? {
            stream.write_all(&frame).await?;
        }
        let n = read(stream, shared).await?;
        if n == 0 {
            return Ok(());
        }
        held.extend_from_slice(&shared.buffer.borrow()[..n]);
    }
}

/// The answer to the frame at the beginning of `held`, if it is all there (RFC 6455 5.2).
fn take_frame(held: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let [first, second, rest @ ..] = held.as_slice() else { return Ok(None) };
    let length = usize::from(second & 0x7f);
    if second & 0x80 == 0 || length > 125 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let Some((key, payload)) = rest.split_at_checked(4) else { return Ok(None) };
    let Some(payload) = payload.get(..length) else { return Ok(None) };
    let mut frame = vec![*first, second & 0x7f];
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    held.drain(..6 + length);
    Ok(Some(frame))
}

async fn serve_tcp(mut stream: TcpStream, shared: Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let order = stream.read_u8().await?;
    match order {
        order::SINK => {
            let mut total = 0u64;
            loop {
                match read(&mut stream, &shared).await? {
                    0 => break,
                    n => total += n as u64,
                }
            }
            stream.write_u64(total).await
        }
        order::ECHO => loop {
            match read(&mut stream, &shared).await? {
                0 => return Ok(()),
                n => {
                    let data = shared.buffer.borrow()[..n].to_vec();
                    stream.write_all(&data).await?;
                }
            }
        },
        order::IDLE => {
            stream.write_u8(order).await?;
            // Until the other side ends it.
            read(&mut stream, &shared).await.map(drop)
        }
        _ => stream.write_u8(order).await,
    }
}

#[cfg(test)]
mod tests {
    use super::{Asked, WEBSOCKET_KEY, parse, take_frame};

    #[test]
    fn requests_are_told_apart() {
        let asked = |text: &str| parse(text.as_bytes()).map(|(size, head)| (size == text.len(), head.kind));
        assert!(matches!(asked("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Some((true, Asked::Small))));
        assert!(matches!(asked("GET /p1/100k HTTP/1.1\r\nHost: a\r\n\r\n"), Some((true, Asked::Large))));
        assert!(matches!(asked("GET /head HTTP/1.1\r\nHost: a\r\n\r\n"), Some((true, Asked::Head(_)))));
        assert!(matches!(asked("POST / HTTP/1.1\r\ncontent-length: 7\r\n\r\n"), Some((true, Asked::Upload(7)))));
        assert!(matches!(asked("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"), Some((_, Asked::Nonsense))));
        let handshake = format!("GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {WEBSOCKET_KEY}\r\n\r\n");
        assert!(matches!(asked(&handshake), Some((true, Asked::WebSocket))));
        assert!(asked("GET / HTTP/1.1\r\nHost: a\r\n").is_none());
    }

    #[test]
    fn a_frame_is_unmasked_and_sent_back() {
        let mut held = vec![0x82, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3, 0x82];
        assert_eq!(take_frame(&mut held).unwrap(), Some(vec![0x82, 3, b'a', b'b', b'c']));
        assert_eq!(held, [0x82]);
        assert_eq!(take_frame(&mut held).unwrap(), None);
        assert!(take_frame(&mut vec![0x82, 3, b'a', b'b', b'c']).is_err(), "a client has to mask");
    }
}
