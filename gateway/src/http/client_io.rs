//! A client's socket: counts bytes, knows what was flushed, and gives up on a client that takes none.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use super::{client::Client, head_guard::HeadGuard};

/// The stream of a client.
#[derive(Debug)]
pub(crate) enum ClientStream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl ClientStream {
    /// The connection under it.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
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

/// The stream under a client's HTTP connection.
#[derive(Debug)]
pub(crate) struct ClientIo {
    stream: ClientStream,
    /// What was read before HTTP had to do with it.
    read: BytesMut,
    client: Rc<Client>,
    /// Reads along with HTTP/1; HTTP/2 has no use for it.
    guard: Option<HeadGuard>,
    /// Runs while the client's window is full.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl ClientIo {
    /// For HTTP/1.
    pub(crate) fn guarded(stream: ClientStream, read: BytesMut, client: Rc<Client>) -> Self {
        Self { stream, read, client, guard: Some(HeadGuard::default()), stalled: None }
    }

    /// For HTTP/2.
    pub(crate) fn unguarded(stream: ClientStream, read: BytesMut, client: Rc<Client>) -> Self {
        Self { stream, read, client, guard: None, stalled: None }
    }

    /// Whether bytes were held back because they are not proper.
    pub(crate) fn has_refused(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.refusal().is_some())
    }

    /// The stream, and what of the bytes read before is left.
    pub(crate) fn into_parts(self) -> (ClientStream, BytesMut) {
        (self.stream, self.read)
    }

    fn written(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.client.flushed.set(false);
        match polled {
            Poll::Ready(result) => {
                self.stalled = None;
                if let Ok(n) = &result {
                    self.client.worker.stats.bytes_out.add(*n as u64);
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let limit = self.client.worker.limits.client_stall;
                let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
                ready!(stalled.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(guard) = self.guard.as_ref().filter(|guard| guard.refusal().is_some()) {
            return Poll::Ready(guard.instead(buf));
        }
        let before = buf.filled().len();
        if !self.read.is_empty() {
            let n = self.read.len().min(buf.remaining());
            buf.put_slice(&self.read[..n]);
            self.read.advance(n);
            if self.read.is_empty() {
                self.read = BytesMut::new();
            }
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            self.client.worker.stats.bytes_in.add((buf.filled().len() - before) as u64);
        }
        Poll::Ready(self.guard.as_mut().map_or(Ok(()), |guard| guard.filter(buf, before)))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this with an empty buffer only.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.client.flushed.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
