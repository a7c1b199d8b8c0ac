//! The content of an answer on its way to the client.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tidegate_l4::endpoints::{InFlight, Permit};
use tokio::time::Instant;

use super::{
    account::Account,
    client::{Client, UnderWay},
    failure::Kind,
    headers::clean_trailers,
    pod::{Broken, Exchange, PodAddress, PoolKey, Stream, Watchdog},
    upload::Upload,
};

/// The content of any answer. When it is dropped, the request is over.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    content: Content,
    /// `None` for the empty answer before another protocol, whose tunnel has it.
    account: Option<Account>,
    _permit: Option<Permit>,
    _under_way: UnderWay,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// All of it is here: our own words, or a pod's in few.
    Whole(Bytes),
    /// A pod's, as it comes.
    Pod(Box<PodBody>),
}

impl AnswerBody {
    /// The permit ends with it, too.
    pub(crate) fn new(content: Content, account: Account, permit: Option<Permit>, under_way: UnderWay) -> Self {
        Self { content, account: Some(account), _permit: permit, _under_way: under_way }
    }

    /// Nothing, and counted elsewhere.
    pub(crate) fn uncounted(under_way: UnderWay) -> Self {
        Self { content: Content::Whole(Bytes::new()), account: None, _permit: None, _under_way: under_way }
    }

    /// Something goes wrong with it.
    pub(crate) fn note(&self, kind: Kind) {
        self.account.iter().for_each(|account| account.note(kind));
    }

    fn sent(&self, bytes: usize) {
        self.account.iter().for_each(|account| account.sent(bytes));
    }
}

impl Content {
    /// Whether its length is known from the start.
    pub(crate) fn has_length(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Pod(body) => body.size_hint().exact().is_some(),
        }
    }

    /// The client is told the end of the content by the end of the connection.
    pub(crate) fn end_with_close(&mut self) {
        match self {
            Self::Whole(_) => {}
            Self::Pod(body) => body.ends_with_close = true,
        }
    }
}

/// The content of a pod's answer. When it has been passed on whole, the connection to the pod goes back to the pool;
/// when anything else happens, that connection is closed.
#[derive(Debug)]
pub(crate) struct PodBody {
    source: Source,
    pub(crate) pod: PodAddress,
    client: Rc<Client>,
    /// When the last byte came, or when the client last had room for it.
    last: Instant,
    /// The client has no room.
    waits_for_client: bool,
    /// The longest silence.
    gap: Duration,
    /// Whether the client can tell a truncated answer from a complete one only by a reset.
    ends_with_close: bool,
    _carried: InFlight,
}

/// Where an answer comes from.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are HTTP/1.1, and a box would be one allocation more for each"
)]
pub(crate) enum Source {
    /// `key`: where the connection goes afterwards.
    Http1 {
        exchange: Option<Exchange>,
        key: Option<PoolKey>,
    },
    Http2 {
        incoming: Incoming,
        upload: Upload,
        watchdog: Watchdog,
        _stream: Stream,
    },
}

impl PodBody {
    pub(crate) fn new(source: Source, pod: PodAddress, client: Rc<Client>, gap: Duration, carried: InFlight) -> Self {
        Self {
            source,
            pod,
            client,
            last: Instant::now(),
            waits_for_client: false,
            gap,
            ends_with_close: false,
            _carried: carried,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        // hyper would hold 400 KiB. Our task is woken when they are written.
        if self.client.unsent.get().is_some_and(|unsent| unsent >= self.client.worker.limits.send_buffer) {
            self.waits_for_client = true;
            self.client.is_full.set(true);
            return Poll::Pending;
        }
        if std::mem::take(&mut self.waits_for_client) {
            // That was not the pod's silence.
            self.last = Instant::now();
        }
        match self.poll_source(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.last = Instant::now();
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.client.unsent.update(|unsent| unsent.map(|unsent| unsent + bytes));
                if let Some(trailers) = frame.trailers_mut() {
                    clean_trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(did))) => {
                self.pod.warn(&self.client.worker, &did);
                Poll::Ready(Some(Err(self.abort(Aborted::Truncated))))
            }
            Poll::Pending => {
                if self.poll_silence(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pod.warn(&self.client.worker, &"fell silent in the middle of its answer");
                Poll::Ready(Some(Err(self.abort(Aborted::Timeout))))
            }
        }
    }

    /// The next piece, or what the pod did instead.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        match &mut self.source {
            Source::Http1 { exchange: None, .. } => Poll::Ready(None),
            Source::Http1 { exchange: Some(exchange), .. } => exchange.poll_content(cx).map(|piece| {
                Some(piece?.map_err(|error| match error {
                    Broken::Closed(Some(error)) => format!("broke off its answer: {error}"),
                    Broken::Closed(None) => "broke off its answer".to_owned(),
                    Broken::Invalid(did) => did.to_owned(),
                    Broken::Client => "was not sent the rest of its request".to_owned(),
                }))
            }),
            Source::Http2 { incoming, .. } => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| Some(frame?.map_err(|error| format!("broke off its answer: {error}")))),
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let last = |upload: &Upload| upload.moved_at().map_or(self.last, |moved| moved.max(self.last));
        match &mut self.source {
            Source::Http1 { exchange: None, .. } => Poll::Pending,
            Source::Http1 { exchange: Some(exchange), .. } => {
                let deadline = last(exchange.upload()) + self.gap;
                exchange.poll_deadline(cx, deadline)
            }
            Source::Http2 { upload, watchdog, .. } => watchdog.poll(cx, last(upload) + self.gap),
        }
    }

    fn abort(&mut self, why: Aborted) -> Aborted {
        if let Source::Http1 { exchange, .. } = &mut self.source {
            *exchange = None;
        }
        self.client.reset.set(self.ends_with_close);
        why
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Http1 { exchange, .. } => exchange.as_ref().is_none_or(Exchange::is_over),
            Source::Http2 { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Http1 { exchange, .. } => {
                let left = exchange.as_ref().map_or(Some(0), Exchange::left);
                left.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Source::Http2 { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for PodBody {
    fn drop(&mut self) {
        match &mut self.source {
            Source::Http1 { exchange, key } => {
                if let (Some(connection), Some(key)) = (exchange.take().and_then(Exchange::finish), key.take()) {
                    self.client.worker.pool.put(key, connection, self.last);
                }
            }
            // What is still uploaded to a pod that has answered, nobody reads.
            Source::Http2 { upload, .. } => upload.cut(),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let body = match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.sent(bytes.len());
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Content::Pod(body) => body,
        };
        let polled = body.poll(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.sent(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(Some(Err(why))) => self.note(why.kind()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Pod(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Pod(body) => body.size_hint(),
        }
    }
}

/// Why a client's connection is broken off without a proper end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aborted {
    /// It is not there any more.
    ClientGone,
    /// The pod broke off.
    Truncated,
    /// The pod fell silent.
    Timeout,
}

impl Aborted {
    fn kind(self) -> Kind {
        match self {
            Self::ClientGone => Kind::ClientGone,
            Self::Truncated => Kind::Truncated,
            Self::Timeout => Kind::Timeout,
        }
    }
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().as_str())
    }
}

impl Error for Aborted {}
