//! An HTTP/1.1 client that says exactly what it is told to, and a few one-line clients.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use crate::PATIENCE;

/// Longest answer a test reads.
const MAX_ANSWER: usize = 256 << 20;

/// One connection, plain unless something else is put around it.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    /// The socket.
    pub stream: S,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The body, its transfer coding removed.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The pod that `You've hit …` names.
    pub fn pod(&self) -> Option<String> {
        self.text().strip_prefix("You've hit ").map(|name| name.trim_end().to_owned())
    }
}

impl<S> Client<S> {
    /// A client on a connection that is there already.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// If that fails.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).await.unwrap_or_else(|error| panic!("connecting to {addr}: {error}"))
    }

    /// Connects.
    ///
    /// # Errors
    /// Whatever the system says, or that it took too long.
    pub async fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(addr)).await.map_err(io::Error::other)??;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Connects from an address.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn from(source: IpAddr, addr: SocketAddr) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(source, 0))?;
        let stream = timeout(PATIENCE, socket.connect(addr)).await.map_err(io::Error::other)??;
        Ok(Self { stream, buffer: Vec::new() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// `GET path` with this `Host`.
    ///
    /// # Panics
    /// If no whole answer comes.
    pub async fn get(&mut self, host: &str, path: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.expect("an answer")
    }

    /// Sends bytes and reads one answer (to a request that is no HEAD).
    ///
    /// # Errors
    /// If the connection ends or errs before the answer is whole.
    pub async fn ask(&mut self, request: &str) -> io::Result<Response> {
        self.stream.write_all(request.as_bytes()).await?;
        timeout(PATIENCE, self.read()).await.map_err(io::Error::other)?
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// If the connection ends or errs before the answer is whole.
    pub async fn read(&mut self) -> io::Result<Response> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok())
            .ok_or_else(|| io::Error::other(head.clone()))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new() };
        response.body = self.body(&response).await?;
        Ok(response)
    }

    async fn body(&mut self, head: &Response) -> io::Result<Vec<u8>> {
        if matches!(head.status, 100..=199 | 204 | 304) {
            return Ok(Vec::new());
        }
        if head.header("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
            let mut body = Vec::new();
            loop {
                let size = self.line().await?;
                let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
                    .map_err(io::Error::other)?;
                if size == 0 {
                    while !self.line().await?.is_empty() {}
                    return Ok(body);
                }
                body.extend(self.take(size).await?);
                self.line().await?;
            }
        }
        match head.header("content-length") {
            Some(length) => {
                let length = length.parse().map_err(io::Error::other)?;
                self.take(length).await
            }
            None => {
                while self.stream.read_buf(&mut self.buffer).await? > 0 {}
                Ok(std::mem::take(&mut self.buffer))
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.buffer.len() > MAX_ANSWER {
            return Err(io::Error::other("the answer is too long"));
        }
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// The pod that answers a new connection.
///
/// # Errors
/// If there is no such answer.
pub async fn hit(addr: SocketAddr) -> io::Result<String> {
    let mut client = Client::try_connect(addr).await?;
    let response = client.ask(&format!("GET / HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")).await?;
    response.pod().ok_or_else(|| io::Error::other(format!("no pod answered: {response:?}")))
}

/// The pods that `n` new connections hit, each once, sorted.
///
/// # Panics
/// If one of them gets no answer.
pub async fn hits(addr: SocketAddr, n: usize) -> Vec<String> {
    let mut pods = Vec::new();
    for _ in 0..n {
        pods.push(hit(addr).await.unwrap_or_else(|error| panic!("{addr}: {error}")));
    }
    pods.sort_unstable();
    pods.dedup();
    pods
}

/// Sends a datagram from a new socket and waits for the answer.
///
/// # Errors
/// If none comes in time, or the port is closed.
pub async fn datagram(addr: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(if addr.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).await?;
    socket.connect(addr).await?;
    socket.send(payload).await?;
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.map_err(io::Error::other)??;
    buffer.truncate(length);
    Ok(buffer)
}
