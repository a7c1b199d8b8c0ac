//! A client's socket: counts bytes, knows what was flushed, notices when the client leaves, and gives up on one that takes
//! nothing.

use std::{
    cell::RefCell,
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

use super::{client::Client, h2_guard::H2Guard, head_guard::HeadGuard, refusals::Refusal, worker::Shared};

/// The buffer of a worker for bytes that nobody waits for yet; they are copied out at once.
const BUFFER_BYTES: usize = 16 << 10;

/// A head and its content up to this size are written as one: copying them is cheaper than for the kernel to collect them.
const JOINED_BYTES: usize = 1 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

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

    /// Reads what is there, without a buffer of its own while nothing is; `None` at the end.
    pub(crate) fn poll_some(&mut self, worker: &Shared, cx: &mut Context<'_>) -> Poll<Option<BytesMut>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            let result = ready!(Pin::new(self).poll_read(cx, &mut read));
            worker.stats.bytes_in.add(read.filled().len() as u64);
            Poll::Ready((result.is_ok() && !read.filled().is_empty()).then(|| BytesMut::from(read.filled())))
        })
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
    /// hyper waits for bytes itself.
    is_awaited: bool,
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
        client.unsent.set(Some(0));
        Self { stream, read, client, guard: Guard::Http1(HeadGuard::default()), is_awaited: false, stalled: None }
    }

    /// For HTTP/2.
    pub(crate) fn http2(stream: ClientStream, read: BytesMut, client: Rc<Client>) -> Self {
        client.unsent.set(None);
        let guard = H2Guard::new(client.worker.limits.h2_idle_frames, client.worker.slots.now());
        Self { stream, read, client, guard: Guard::Http2(guard), is_awaited: false, stalled: None }
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

    /// While a request is under way that has come to its end, hyper reads nothing. Somebody must notice that the client
    /// leaves; should it send its next request instead, hyper gets that later.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Guard::Http1(guard) = &self.guard else { return Ok(()) };
        let is_awaited = std::mem::take(&mut self.is_awaited);
        let is_due = !is_awaited && self.client.under_way() > 0 && self.read.is_empty();
        if !is_due || !guard.is_between_requests() {
            return Ok(());
        }
        match self.stream.poll_some(&self.client.worker, cx) {
            Poll::Ready(Some(read)) => self.read = read,
            Poll::Ready(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Pending => {}
        }
        Ok(())
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
                    self.client.unsent.update(|unsent| unsent.map(|unsent| unsent.saturating_sub(*n)));
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
            let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
            self.is_awaited = polled.is_pending();
            ready!(polled)?;
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
        let polled = match bufs {
            [head, content] if head.len() + content.len() <= JOINED_BYTES => {
                let mut joined = [0; JOINED_BYTES];
                joined[..head.len()].copy_from_slice(head);
                joined[head.len()..][..content.len()].copy_from_slice(content);
                Pin::new(&mut self.stream).poll_write(cx, &joined[..head.len() + content.len()])
            }
            _ => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        };
        self.written(cx, bufs, polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper calls this with an empty buffer only.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.client.flushed.set(true);
        self.client.unsent.update(|unsent| unsent.map(|_| 0));
        if self.client.is_full.take() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(self.watch(cx))
    }

    /// hyper calls it when it is done: then the socket is closed at once, and says the same, or is shut down before it lingers.
    /// TLS has something to say of its own.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            ClientStream::Tcp(_) => Poll::Ready(Ok(())),
            ClientStream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
