//! The socket of a connection to a pod, with TLS or without.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::tls::BackendTls;

/// The stream under a connection to a pod.
#[derive(Debug)]
pub(crate) enum PodIo {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl PodIo {
    /// Connects, TLS included; what takes longer than `within` has failed.
    pub(crate) async fn connect(
        addr: SocketAddr,
        tls: Option<&Arc<BackendTls>>,
        is_h2: bool,
        within: Duration,
    ) -> io::Result<Self> {
        timeout(within, Self::open(addr, tls, is_h2)).await?
    }

    async fn open(addr: SocketAddr, tls: Option<&Arc<BackendTls>>, is_h2: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        // On a loopback address where nobody listens, a socket may by chance get that very port and connect to itself.
        if addr.ip().is_loopback() && stream.local_addr()? == addr {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let Some(BackendTls { config, name, .. }) = tls.map(|tls| &**tls) else { return Ok(Self::Tcp(stream)) };
        let name = name.clone().unwrap_or_else(|| ServerName::IpAddress(addr.ip().into()));
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(readable)?;
        if is_h2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the pod does not speak HTTP/2 over TLS"));
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    /// Whether nothing has come from the pod, neither bytes nor the end, as far as is known without asking the kernel.
    pub(crate) fn is_quiet(&self) -> bool {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        let mut byte = [0u8];
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

/// What an operator understands: the commonest mistake, a pod without TLS, is "received corrupt message" to rustls.
fn readable(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => io::Error::new(error.kind(), "it does not speak TLS"),
        Some(_) | None => error,
    }
}

impl AsyncRead for PodIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PodIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
