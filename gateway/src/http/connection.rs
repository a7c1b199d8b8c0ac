//! One client's connection, from accept to close.
//!
//! Between requests an HTTP/1 connection is *parked*: a socket and a slot, without buffers or HTTP state. hyper's connection is
//! built when bytes arrive and taken apart again when nothing has been under way for a while.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{HttpService, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    account::Account,
    body::{Aborted, AnswerBody},
    client::Client,
    client_io::{ClientIo, ClientStream},
    failure::Kind,
    h2_streams::Streams,
    handle::handle,
    limits::HttpLimits,
    preface::{self, Spoken},
    refusals::Refusal,
    slots::Slot,
    stats::ConnectionKind,
    worker::{Phase, Shared},
};

/// What reading on after an early answer uses for a buffer.
const LINGER_BUFFER_BYTES: usize = 16 << 10;

/// Serves a client until it or we have had enough. `read` was read from it already; `h2`: TLS has agreed on HTTP/2.
pub(crate) async fn serve(client: Rc<Client>, slot: Slot, mut stream: ClientStream, read: BytesMut, h2: bool) {
    if h2 {
        return Box::pin(serve_http2(client, slot, stream, read)).await;
    }
    let (mut is_new, mut rest) = (true, Some(read).filter(|read| !read.is_empty()));
    loop {
        let read = match rest.take() {
            Some(read) => Some(read),
            None => parked(&client, &slot, &mut stream).await,
        };
        let Some(mut read) = read else { return };
        if is_new {
            match first_bytes(&slot, &client, &mut stream, &mut read).await {
                Some(Spoken::Http1) => {}
                Some(Spoken::Http2) => return Box::pin(serve_http2(client, slot, stream, read)).await,
                Some(Spoken::Nothing) | None => return,
            }
            is_new = false;
        }
        match Box::pin(serve_http1(&client, &slot, stream, read)).await {
            Some(idle) => stream = idle,
            None => return,
        }
    }
}

/// Waits for a request to begin: gives what has come of it. `None` if the connection is over.
async fn parked(client: &Client, slot: &Slot, stream: &mut ClientStream) -> Option<BytesMut> {
    slot.set(client.worker.limits.request_head);
    let _parked = Parked::new(&client.worker);
    let mut closing = Closing::default();
    poll_fn(|cx| {
        slot.register(cx);
        if let Poll::Ready(read) = stream.poll_some(&client.worker, cx) {
            return Poll::Ready(read);
        }
        let phase = client.worker.phase();
        let is_over = phase == Phase::Cut || slot.is_over() || closing.is_due(phase == Phase::Closing, cx);
        if is_over { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

/// A parked connection in the books.
struct Parked<'a>(&'a Shared);

impl<'a> Parked<'a> {
    fn new(worker: &'a Shared) -> Self {
        worker.parked.set(worker.parked.get() + 1);
        Self(worker)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.parked.set(self.0.parked.get() - 1);
    }
}

/// What a new connection speaks. Mostly its first bytes tell; a slow client may send them one by one.
async fn first_bytes(slot: &Slot, client: &Client, stream: &mut ClientStream, read: &mut BytesMut) -> Option<Spoken> {
    loop {
        if let Some(spoken) = preface::spoken(read) {
            return Some(spoken);
        }
        let more = poll_fn(|cx| {
            slot.register(cx);
            if slot.is_over() || client.worker.phase() == Phase::Cut {
                return Poll::Ready(None);
            }
            stream.poll_some(&client.worker, cx)
        });
        read.unsplit(more.await?);
    }
}

/// How a time with HTTP/1 ends.
enum End {
    Over(hyper::Result<()>),
    /// Nothing is under way, and nothing has been for a while; whether anything was before.
    Quiet {
        served: bool,
    },
    Cut,
}

/// Serves requests until none has come for a while: then the stream comes back. `None` when the connection is over.
pub(super) async fn serve_http1(
    client: &Rc<Client>,
    slot: &Slot,
    mut stream: ClientStream,
    mut read: BytesMut,
) -> Option<ClientStream> {
    let limits = &client.worker.limits;
    let mut waited = Duration::ZERO;
    let _open = client.worker.stats.open(ConnectionKind::H1);
    loop {
        let mut builder = http1_builder(limits);
        // Taken from the queue at the end: its first request, probably here already, is also its last.
        builder.keep_alive(client.worker.phase() != Phase::Closing);
        let service = service_fn(|request| handle(client.clone(), request));
        let io = TokioIo::new(ClientIo::http1(stream, read, client.clone()));
        let mut connection = builder.serve_connection(io, service);
        slot.set(limits.park_after);
        let end = drive_http1(client, slot, &mut connection).await;
        let parts = connection.into_parts();
        let io = parts.io.into_inner();
        let refusal = io.refusal();
        if refusal.is_some() {
            // What followed a request that is to change the protocol is not whole: then it cannot be changed.
            drop(client.tunnel.take());
        }
        let (back, rest) = io.into_parts();
        let mut sent = BytesMut::from(parts.read_buf);
        sent.unsplit(rest);
        match end {
            End::Cut => return None,
            End::Over(result) => {
                if let Err(error) = &result
                    && error.is_parse()
                {
                    refused(client, refusal, error);
                }
                finish(client, slot, back, sent, result).await;
                return None;
            }
            End::Quiet { .. } if sent.is_empty() => return Some(back),
            // The beginning of a request: it has a time of its own to be finished in.
            End::Quiet { served } => waited = limits.park_after + if served { Duration::ZERO } else { waited },
        }
        if waited >= limits.request_head {
            return None;
        }
        (stream, read) = (back, sent);
    }
}

/// hyper has answered a head that it, or the guard, refused: with 431 if that was too large, else with 400. (A preface of
/// HTTP/2 in the midst of HTTP/1 gets no answer, and counts as 400.)
#[cold]
fn refused(client: &Client, refusal: Option<Refusal>, error: &hyper::Error) {
    let kind = if error.is_parse_too_large() { Kind::HeadTooLarge } else { Kind::BadRequest };
    let why = refusal.map_or_else(|| error.to_string(), |refusal| refusal.row().text.to_owned());
    tracing::debug!(client = %client.addr, "refused a request head: {why}");
    Account::refused(client, kind);
}

async fn drive_http1<S>(client: &Client, slot: &Slot, connection: &mut http1::Connection<TokioIo<ClientIo>, S>) -> End
where
    http1::Connection<TokioIo<ClientIo>, S>: Unpin,
    S: HttpService<Incoming, ResBody = AnswerBody, Error = Aborted>,
{
    let (mut closing, mut served) = (Closing::default(), false);
    poll_fn(|cx| {
        slot.register(cx);
        if client.worker.phase() == Phase::Cut {
            return Poll::Ready(End::Cut);
        }
        let was_quiet = client.under_way() == 0;
        if let Poll::Ready(result) = Pin::new(&mut *connection).poll(cx) {
            return Poll::Ready(End::Over(result));
        }
        if closing.is_due(client.worker.phase() == Phase::Closing, cx) {
            Pin::new(&mut *connection).graceful_shutdown();
            if let Poll::Ready(result) = Pin::new(&mut *connection).poll(cx) {
                return Poll::Ready(End::Over(result));
            }
        }
        if client.under_way() > 0 {
            slot.clear();
        } else if client.take_ended() {
            served = true;
            slot.set(client.worker.limits.park_after);
        } else if was_quiet && client.flushed.get() && slot.is_over() {
            // hyper has begun nothing, has nothing to write, and waits for the next head.
            return Poll::Ready(End::Quiet { served });
        }
        Poll::Pending
    })
    .await
}

fn http1_builder(limits: &HttpLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // hyper is not to look whether a client has left while its request is under way: it would set aside another 8 KiB each
    // time, since the first are taken by the request. `ClientIo` looks.
    builder.max_header_size(limits.request_head_bytes).half_close(true);
    builder
}

/// An idle connection is closed at the second look: a request that has arrived is served before.
#[derive(Default)]
enum Closing {
    #[default]
    No,
    Announced,
    Begun,
}

impl Closing {
    /// Whether to close now.
    fn is_due(&mut self, wanted: bool, cx: &Context<'_>) -> bool {
        match self {
            Self::No if wanted => {
                *self = Self::Announced;
                cx.waker().wake_by_ref();
                false
            }
            Self::Announced => {
                *self = Self::Begun;
                true
            }
            Self::No | Self::Begun => false,
        }
    }
}

/// Ends a connection that HTTP/1 is done with, or goes on with another protocol.
async fn finish(client: &Client, slot: &Slot, stream: ClientStream, sent: BytesMut, result: hyper::Result<()>) {
    let limits = &client.worker.limits;
    let tunnel = client.tunnel.take();
    if let Some(tunnel) = tunnel {
        slot.clear();
        let _open = client.worker.stats.open(ConnectionKind::Upgraded);
        let mut carried = Box::pin(tunnel.carry(stream, sent));
        poll_fn(|cx| {
            slot.register(cx);
            if client.worker.phase() == Phase::Cut {
                return Poll::Ready(());
            }
            carried.as_mut().poll(cx).map(drop)
        })
        .await;
    } else if client.reset.get() {
        drop(stream.tcp().set_zero_linger());
    } else if client.unread.get() || result.is_err_and(|error| error.is_parse()) {
        drop(timeout(limits.linger, linger(stream, limits.linger_bytes)).await);
    }
}

/// Reads what the client still sends and throws it away. Closing a socket with unread bytes resets the connection, and
/// a reset destroys the answer on its way (RFC 9112 9.6).
async fn linger(mut stream: ClientStream, mut bytes: usize) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut buffer = vec![0; LINGER_BUFFER_BYTES];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        bytes = bytes.saturating_sub(n);
        if bytes == 0 {
            return;
        }
    }
}

/// Serves HTTP/2 until the connection is over.
async fn serve_http2(client: Rc<Client>, slot: Slot, stream: ClientStream, read: BytesMut) {
    let limits = &client.worker.limits;
    let _open = client.worker.stats.open(ConnectionKind::H2);
    let streams = Streams::new(client.clone());
    let service = {
        let (client, streams) = (client.clone(), streams.clone());
        service_fn(move |request| {
            let (client, streams) = (client.clone(), streams.clone());
            // In a box, because hyper moves a stream's future about before it polls it.
            Box::pin(async move { Ok::<_, Aborted>(handle(client, request).await?.map(|body| streams.watch(body))) })
        })
    };
    let io = TokioIo::new(ClientIo::http2(stream, read, client.clone()));
    let mut connection = Box::pin(http2_builder(limits, streams).serve_connection(io, service));
    slot.set(limits.request_head);
    let (mut closing, mut leaving) = (Closing::default(), false);
    poll_fn(|cx| {
        slot.register(cx);
        if client.worker.phase() == Phase::Cut {
            return Poll::Ready(());
        }
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        // GOAWAY says which streams are still served, so nothing is lost by saying it early (RFC 9113 6.8).
        if closing.is_due(client.worker.phase() != Phase::Serving, cx) {
            connection.as_mut().graceful_shutdown();
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
        }
        if client.under_way() > 0 {
            slot.set(limits.client_stall);
            client.take_ended();
        } else if client.take_ended() {
            slot.set(limits.request_head);
        } else if slot.is_over() {
            if leaving {
                return Poll::Ready(());
            }
            // Idle: it is told so, and has some time to take note (RFC 9113 6.8).
            leaving = true;
            slot.set(limits.linger);
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(cx).map(drop);
        }
        Poll::Pending
    })
    .await;
}

fn http2_builder(limits: &HttpLimits, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(u32::try_from(limits.request_head_bytes).unwrap_or(u32::MAX))
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_send_buf_size(limits.h2_send_buffer)
        .max_pending_accept_reset_streams(limits.h2_reset_streams)
        .max_local_error_reset_streams(limits.h2_reset_streams)
        .keep_alive_interval(limits.h2_ping)
        .keep_alive_timeout(limits.h2_ping)
        .enable_connect_protocol();
    builder
}
