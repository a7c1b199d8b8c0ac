//! The content of an answer on its way to the client.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tidegate_l4::endpoints::InFlight;
use tokio::time::Instant;

use super::{
    account::Account,
    connection::Client,
    failure::Kind,
    upload::Progress,
    upstream::{PodAddress, PodConnection},
};

/// The content of any answer.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    content: Content,
    account: Account,
}

#[derive(Debug)]
enum Content {
    /// Our own words.
    Text(Option<Bytes>),
    /// A pod's.
    Pod(Box<PodBody>),
}

impl AnswerBody {
    pub(crate) fn text(text: Bytes, account: Account) -> Self {
        Self { content: Content::Text(Some(text)), account }
    }

    pub(crate) fn pod(body: PodBody, account: Account) -> Self {
        Self { content: Content::Pod(Box::new(body)), account }
    }
}

/// The content of a pod's answer. When it has been passed on whole, the connection to the pod goes back to the pool;
/// when anything else happens, that connection is closed.
#[derive(Debug)]
pub(crate) struct PodBody {
    incoming: Incoming,
    connection: Option<PodConnection>,
    pod: PodAddress,
    upload: Option<Rc<Progress>>,
    client: Rc<Client>,
    /// When the last byte came.
    last: Instant,
    /// Whether the client can tell a truncated answer from a complete one only by a reset.
    ends_with_close: bool,
    is_complete: bool,
    _carried: InFlight,
}

impl PodBody {
    pub(crate) fn new(
        incoming: Incoming,
        connection: PodConnection,
        pod: PodAddress,
        upload: Option<Rc<Progress>>,
        client: Rc<Client>,
        carried: InFlight,
    ) -> Self {
        Self {
            is_complete: incoming.is_end_stream(),
            incoming,
            connection: Some(connection),
            pod,
            upload,
            client,
            last: Instant::now(),
            ends_with_close: false,
            _carried: carried,
        }
    }

    /// Whether its length is known from the start.
    pub(crate) fn has_length(&self) -> bool {
        self.incoming.size_hint().exact().is_some()
    }

    /// The client is told the end of the content by the end of the connection.
    pub(crate) fn end_with_close(&mut self) {
        self.ends_with_close = true;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.last = Instant::now();
                self.is_complete = frame.is_trailers() || self.incoming.is_end_stream();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.is_complete = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.pod.warn(&self.client.worker, &format_args!("broke off its answer: {error}"));
                Poll::Ready(Some(Err(self.abort(Aborted::Truncated))))
            }
            Poll::Pending => {
                let last = self.upload.as_ref().map_or(self.last, |upload| upload.at().max(self.last));
                let Some(connection) = &mut self.connection else { return Poll::Pending };
                if connection.poll_silence(cx, last).is_pending() {
                    return Poll::Pending;
                }
                self.pod.warn(&self.client.worker, &"fell silent in the middle of its answer");
                Poll::Ready(Some(Err(self.abort(Aborted::Timeout))))
            }
        }
    }

    fn abort(&mut self, why: Aborted) -> Aborted {
        self.connection = None;
        self.client.reset.set(self.ends_with_close);
        why
    }
}

impl Drop for PodBody {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.is_complete && connection.is_idle() {
            self.client.worker.pool.put(self.pod.addr, connection);
        } else if let Some(upload) = &self.upload {
            upload.cut();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let body = match &mut self.content {
            Content::Text(text) => {
                let text = text.take();
                self.account.sent(text.as_ref().map_or(0, Bytes::len));
                return Poll::Ready(text.map(|text| Ok(Frame::data(text))));
            }
            Content::Pod(body) => body,
        };
        let polled = body.poll(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.account.sent(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(Some(Err(why))) => self.account.note(why.kind()),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Text(text) => text.is_none(),
            Content::Pod(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Content::Pod(body) => body.incoming.size_hint(),
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
