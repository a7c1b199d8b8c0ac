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

use super::{client::Client, h2_guard::H2Guard, head_guard::HeadGuard, refusals::Refusal};

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
    guard: Guard,
    /// Runs while the client's window is full.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Who reads along.
#[derive(Debug)]
enum Guard {
    Http1(HeadGuard),
    Http2(H2Guard),
}

impl ClientIo {
    /// For HTTP/1.
    pub(crate) fn http1(stream: ClientStream, read: BytesMut, client: Rc<Client>) -> Self {
        Self { stream, read, client, guard: Guard::Http1(HeadGuard::default()), stalled: None }
    }

    /// For HTTP/2.
    pub(crate) fn http2(stream: ClientStream, read: BytesMut, client: Rc<Client>) -> Self {
        let guard = H2Guard::new(client.worker.limits.h2_idle_frames, client.worker.slots.now());
        Self { stream, read, client, guard: Guard::Http2(guard), stalled: None }
    }

    /// Why bytes were held back, if they were (HTTP/1).
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match &self.guard {
            Guard::Http1(guard) => guard.refusal(),
            Guard::Http2(_) => None,
        }
    }

    /// The stream, and what of the bytes read before is left.
    pub(crate) fn into_parts(self) -> (ClientStream, BytesMut) {
        (self.stream, self.read)
    }

    fn written(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.client.flushed.set(false);
        match polled {
            Poll::Ready(result) => {
                self.stalled = None;
                if let Ok(n) = &result {
                    self.client.worker.stats.bytes_out.add(*n as u64);
                    if let Guard::Http2(guard) = &mut self.guard
                        && guard.wrote(bufs, *n)
                    {
                        self.client.content_sent.set(self.client.worker.slots.now());
                    }
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
        match &mut self.guard {
            Guard::Http1(guard) if guard.refusal().is_some() => return Poll::Ready(guard.instead(buf)),
            Guard::Http2(guard) if guard.is_refusing() => {
                guard.instead(buf);
                return Poll::Ready(Ok(()));
            }
            Guard::Http1(_) | Guard::Http2(_) => {}
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
        let this = &mut *self;
        Poll::Ready(match &mut this.guard {
            Guard::Http1(guard) => guard.filter(buf, before),
            Guard::Http2(guard) => {
                let was_flooded = guard.flood().is_some();
                guard.filter(buf, before, this.client.worker.slots.now());
                if let Some(frame) = guard.flood().filter(|_| !was_flooded) {
                    this.client.floods(frame);
                }
                Ok(())
            }
        })
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, &[io::IoSlice::new(buf)], polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, bufs, polled)
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
