//! From an accepted socket to a connection that is secured: reads the ClientHello, finds the host, shakes hands.

use std::{fmt, io, sync::Arc};

use rustls::{pki_types::UnixTime, server::Acceptor as HelloReader};
use tidegate_l4::model::ServicePortName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{StartHandshake, server::TlsStream};

use super::{
    ClientCertificate, Serve, TlsConfig, TlsTable,
    limits::{HELLO_READ_BYTES, PLAIN_LINGER_BYTES, TlsLimits},
};

/// The first byte of a TLS record with a handshake in it (RFC 8446 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What is answered to HTTP without TLS, as by nginx (497).
const PLAIN_ANSWER: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 48\r\n\
                            Connection: close\r\n\r\nThe plain HTTP request was sent to an HTTPS port";

/// Accepts the TLS connections of one worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acceptor {
    limits: TlsLimits,
}

/// What a connection has come to.
#[derive(Debug)]
pub enum Accepted {
    /// TLS ends here: requests can be read.
    Terminated(Box<Terminated>),
    /// TLS ends at a pod: the bytes, those of `hello` first, go to this service port as they are.
    Passthrough {
        /// The client.
        stream: TcpStream,
        /// What was read from it.
        hello: Vec<u8>,
        /// Where it goes.
        service: ServicePortName,
    },
}

/// A secured connection.
#[derive(Debug)]
pub struct Terminated {
    /// The bytes of requests and answers.
    pub stream: TlsStream<TcpStream>,
    /// The name the client asked for, if any.
    pub sni: Option<Arc<str>>,
    /// Whether HTTP/2 was agreed on; otherwise it is HTTP/1.1, be it agreed on or not.
    pub h2: bool,
    /// How it was secured: see [`TlsTable::serves`].
    pub config: Arc<TlsConfig>,
    /// What the client showed of itself; `None` if it was not asked.
    pub client: Option<Arc<ClientCertificate>>,
}

/// Why a connection has come to nothing. All of it is the client's doing, or the network's.
#[derive(Debug)]
pub enum AcceptError {
    /// It went away before its ClientHello was whole: a port scan, a health check, a browser's connection in store.
    Closed,
    /// The handshake was not over in time.
    TimedOut,
    /// It speaks HTTP without TLS, and was told so.
    PlainHttp,
    /// It speaks neither TLS nor HTTP.
    NotTls,
    /// Its ClientHello is too long.
    HelloTooLong,
    /// No agreement could be reached.
    Handshake(io::Error),
}

impl AcceptError {
    /// One word for metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::TimedOut => "timed_out",
            Self::PlainHttp => "plain_http",
            Self::NotTls => "not_tls",
            Self::HelloTooLong => "hello_too_long",
            Self::Handshake(_) => "handshake",
        }
    }
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the client went away before it said what it wants"),
            Self::TimedOut => f.write_str("the TLS handshake took too long"),
            Self::PlainHttp => f.write_str("a plain HTTP request was sent to the HTTPS port"),
            Self::NotTls => f.write_str("the client does not speak TLS"),
            Self::HelloTooLong => f.write_str("the ClientHello is too long"),
            Self::Handshake(error) => write!(f, "the TLS handshake failed: {error}"),
        }
    }
}

impl std::error::Error for AcceptError {}

impl Acceptor {
    /// An acceptor with these limits.
    pub fn new(limits: TlsLimits) -> Self {
        Self { limits }
    }

    /// Makes of a socket a connection, as `table` has it for the host that the client asks for.
    ///
    /// Nothing that a client does here costs more than [`TlsLimits`] allow, in memory or in time; only a client that has sent a whole
    /// ClientHello costs a signature. The future is large: box it, so that the memory is gone when the handshake is over.
    ///
    /// # Errors
    /// See [`AcceptError`]. The socket is closed then, and the client has been told why as far as TLS can say it.
    pub async fn accept(&self, table: &TlsTable, stream: TcpStream) -> Result<Accepted, AcceptError> {
        self.accept_after(table, stream, Vec::new()).await
    }

    /// The same, where `head` has been read from the socket already: what came behind a PROXY protocol header.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub async fn accept_after(
        &self,
        table: &TlsTable,
        stream: TcpStream,
        head: Vec<u8>,
    ) -> Result<Accepted, AcceptError> {
        timeout(self.limits.handshake, self.accept_in_time(table, stream, head))
            .await
            .map_err(|_| AcceptError::TimedOut)?
    }

    async fn accept_in_time(
        &self,
        table: &TlsTable,
        mut stream: TcpStream,
        head: Vec<u8>,
    ) -> Result<Accepted, AcceptError> {
        let hello = Hello::read(&mut stream, head, self.limits.hello_bytes).await;
        let Hello { accepted, bytes } = match hello {
            Ok(hello) => hello,
            Err(AcceptError::PlainHttp) => {
                // The answer is a courtesy; that it cannot be delivered is nobody's concern.
                drop(timeout(self.limits.plain_linger, answer_plain(stream)).await);
                return Err(AcceptError::PlainHttp);
            }
            Err(error) => return Err(error),
        };
        let sni: Option<Arc<str>> = accepted.client_hello().server_name().map(Arc::from);
        let host = sni.as_deref().map_or_else(|| table.default_host(), |sni| table.find(sni));
        let config = match &host.serve {
            Serve::Terminate(config) => config.clone(),
            Serve::Passthrough(service) => {
                return Ok(Accepted::Passthrough { stream, hello: bytes, service: service.clone() });
            }
        };
        drop(bytes);
        let handshake = StartHandshake::from_parts(accepted, stream).into_stream(config.server().clone());
        let stream = handshake.await.map_err(AcceptError::Handshake)?;
        let session = stream.get_ref().1;
        let h2 = session.alpn_protocol() == Some(b"h2");
        let judge = |auth: &Arc<super::ClientAuth>| Arc::new(auth.judge(session.peer_certificates(), UnixTime::now()));
        let client = config.client_auth.as_ref().map(judge);
        Ok(Accepted::Terminated(Box::new(Terminated { stream, sni, h2, config, client })))
    }
}

/// A ClientHello.
struct Hello {
    accepted: rustls::server::Accepted,
    /// All that was read.
    bytes: Vec<u8>,
}

impl Hello {
    async fn read(stream: &mut TcpStream, mut bytes: Vec<u8>, limit: usize) -> Result<Self, AcceptError> {
        let mut reader = HelloReader::default();
        let mut fed = 0;
        loop {
            if fed < bytes.len() {
                check_first(bytes[0])?;
                let mut rest = &bytes[fed..];
                while !rest.is_empty() {
                    reader.read_tls(&mut rest).map_err(|_| AcceptError::HelloTooLong)?;
                }
                fed = bytes.len();
                match reader.accept() {
                    Ok(Some(accepted)) => return Ok(Self { accepted, bytes }),
                    Ok(None) => {}
                    Err((error, mut alert)) => {
                        let mut told = Vec::new();
                        if alert.write_all(&mut told).is_ok() {
                            drop(stream.write_all(&told).await);
                        }
                        return Err(AcceptError::Handshake(io::Error::new(io::ErrorKind::InvalidData, error)));
                    }
                }
            }
            if bytes.len() >= limit {
                return Err(AcceptError::HelloTooLong);
            }
            // A client that has said nothing holds no buffer.
            stream.readable().await.map_err(|_| AcceptError::Closed)?;
            let room = HELLO_READ_BYTES.min(limit - bytes.len());
            bytes.reserve(room);
            match (&mut *stream).take(room as u64).read_buf(&mut bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(AcceptError::Closed),
            }
        }
    }
}

fn check_first(byte: u8) -> Result<(), AcceptError> {
    match byte {
        HANDSHAKE_RECORD => Ok(()),
        // A method begins with a letter, and so does the preface of HTTP/2.
        b'A'..=b'Z' | b'a'..=b'z' => Err(AcceptError::PlainHttp),
        _ => Err(AcceptError::NotTls),
    }
}

/// Tells a client that speaks HTTP that it came to the wrong port, and lets the answer arrive: closing a socket with unread bytes
/// would destroy it (RFC 9112 9.6).
async fn answer_plain(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(PLAIN_ANSWER.as_bytes()).await?;
    stream.shutdown().await?;
    let mut left = PLAIN_LINGER_BYTES;
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        left = left.saturating_sub(n);
        if left == 0 {
            break;
        }
    }
    Ok(())
}
