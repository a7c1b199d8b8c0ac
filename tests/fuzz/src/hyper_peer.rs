//! hyper at the other end of a stream in memory: no runtime, no sockets, and every byte in the piece that the input says.

use std::{
    cell::RefCell,
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::{
    body::{Body, Incoming},
    rt::{Read, ReadBufCursor, Write},
};
use tidegate::fuzzing::Guard;
use tokio::io::ReadBuf;

/// A stream that says its pieces, then ends. What is written to it is kept.
pub struct Stream {
    pieces: VecDeque<Vec<u8>>,
    written: Rc<RefCell<Vec<u8>>>,
    /// Says nothing until it has been written to.
    listens_first: bool,
    /// Between two pieces there is nothing for a moment.
    pauses: bool,
    guard: Option<Guard>,
}

impl Stream {
    fn new(pieces: &[&[u8]]) -> Self {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        Self { pieces, written: Rc::default(), listens_first: false, pauses: false, guard: None }
    }

    /// As much of the next piece as there is room for.
    fn fill(pieces: &mut VecDeque<Vec<u8>>, buf: &mut ReadBuf<'_>) {
        let Some(piece) = pieces.front_mut() else { return };
        let rest = piece.split_off(buf.remaining().min(piece.len()));
        buf.put_slice(piece);
        *piece = rest;
        if piece.is_empty() {
            pieces.pop_front();
        }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.listens_first && self.written.borrow().is_empty() {
            return Poll::Pending;
        }
        self.pauses = !self.pauses;
        if self.pauses {
            return Poll::Pending;
        }
        let mut room = vec![0; buf.remaining().min(8 << 10)];
        let mut read = ReadBuf::new(&mut room);
        let Self { pieces, guard, .. } = &mut *self;
        match guard {
            Some(guard) => guard.read(&mut read, |read| Self::fill(pieces, read))?,
            None => Self::fill(pieces, &mut read),
        }
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An answer as hyper's client understands it.
#[derive(Debug, PartialEq)]
pub struct Answered {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Content and trailers; `None`: broken off.
    pub content: Option<(Vec<u8>, Option<HeaderMap>)>,
}

/// What hyper's client makes of an answer to `method` that comes in these pieces; `None` if of its head nothing.
pub fn client(pieces: &[&[u8]], method: &Method) -> Option<Answered> {
    let stream = Stream { listens_first: true, ..Stream::new(pieces) };
    let rounds = rounds(pieces);
    let (mut sender, connection) = drive(rounds, None, pin!(hyper::client::conn::http1::handshake(stream))).ok()?;
    let mut connection = pin!(connection);
    let mut background = |cx: &mut Context<'_>| connection.as_mut().poll(cx).is_ready();
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::<Bytes>::new());
    let request = request.expect("a request");
    let response = drive(rounds, Some(&mut background), pin!(sender.send_request(request))).ok()?;
    let (parts, body) = response.into_parts();
    let content = drive(rounds, Some(&mut background), pin!(collect(body)));
    Some(Answered { status: parts.status, headers: parts.headers, content })
}

/// What the gateway's guard and hyper's server let through of a connection.
pub fn server<F: Future<Output = Response<Bytes>>>(
    pieces: &[&[u8]],
    service: impl Fn(Request<Incoming>) -> F,
) -> Vec<u8> {
    let stream = Stream { guard: Some(Guard::default()), ..Stream::new(pieces) };
    let written = stream.written.clone();
    let service = hyper::service::service_fn(|request| {
        let response = service(request);
        async { Ok::<_, Infallible>(response.await.map(Full::new)) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_header_size(32 << 10).half_close(false);
    drop(drive(rounds(pieces), None, pin!(builder.serve_connection(stream, service))));
    written.take()
}

/// All of some content, or `None` if it is broken off.
pub async fn collect(body: Incoming) -> Option<(Vec<u8>, Option<HeaderMap>)> {
    let (mut body, mut content, mut trailers) = (pin!(body), Vec::new(), None);
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        match frame.ok()?.into_data() {
            Ok(data) => content.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Some((content, trailers))
}

/// Polls that must be enough for these pieces.
fn rounds(pieces: &[&[u8]]) -> usize {
    1000 + pieces.iter().map(|piece| 16 + piece.len()).sum::<usize>() * 4
}

/// Polls until it is ready: nothing here waits for anything but the next poll.
fn drive<T>(
    rounds: usize,
    mut background: Option<&mut dyn FnMut(&mut Context<'_>) -> bool>,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> T {
    let cx = &mut Context::from_waker(Waker::noop());
    let mut is_over = false;
    for _ in 0..rounds {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return output;
        }
        if let Some(background) = &mut background
            && !is_over
        {
            is_over = background(cx);
        }
    }
    panic!("it hangs");
}
