//! The bodies of the answers.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

/// What `/bytes/N` sends, over and over.
static FILL: [u8; 64 * 1024] = [b'x'; 64 * 1024];

/// The body of an answer: what to send, and how.
#[derive(Debug)]
pub(super) struct PodBody {
    content: Content,
    /// Do not tell the length, so that HTTP/1.1 sends it in chunks.
    chunked: bool,
    /// The wait before the first byte; it starts when the head is on its way.
    wait: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
}

/// What to send.
#[derive(Debug)]
pub(super) enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// So many bytes of filling.
    Fill(u64),
    /// The body of the request as it arrives, after the frame of it that was already read.
    Echo { first: Option<Frame<Bytes>>, rest: Incoming },
}

impl PodBody {
    pub(super) fn new(content: Content, chunked: bool, delay: Duration) -> Self {
        Self { content, chunked, wait: (!delay.is_zero()).then_some(delay), waiting: None }
    }
}

impl Body for PodBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some(delay) = this.wait.take() {
            this.waiting = Some(Box::pin(tokio::time::sleep(delay)));
        }
        if let Some(waiting) = &mut this.waiting {
            ready!(waiting.as_mut().poll(context));
            this.waiting = None;
        }
        match &mut this.content {
            Content::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Fill(0) => Poll::Ready(None),
            Content::Fill(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(FILL.len());
                *left -= length as u64;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILL[..length])))))
            }
            Content::Echo { first, rest } => match first.take() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(rest).poll_frame(context),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.chunked {
            return false;
        }
        match &self.content {
            Content::Bytes(bytes) => bytes.is_empty(),
            Content::Fill(left) => *left == 0,
            Content::Echo { first, rest } => first.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.chunked {
            return SizeHint::default();
        }
        match &self.content {
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Fill(left) => SizeHint::with_exact(*left),
            Content::Echo { first, rest } => {
                let read = first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
                rest.size_hint().exact().map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + read))
            }
        }
    }
}
