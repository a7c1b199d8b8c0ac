//! HTTP/1.1 with a pod: one connection, one exchange at a time.
//!
//! A small codec of our own rather than hyper's client: it writes heads straight from the client's fields, polls the upload
//! and the answer in the task of the request, and gives back the connection without a task of its own. What a pod may say is
//! read strictly by `head` and `framing`.

use std::{
    io,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use hyper::body::Frame;

use super::{
    block,
    framing::{Framing, Taken},
    head::{AnswerHead, HeadReader},
    io::PodIo,
    sending::{Coding, Sending, Unsent},
    watchdog::Watchdog,
};
use crate::http::upload::Upload;

/// Informational answers to one request before the pod is taken for broken: none sends more than a few.
const INFORMATIONAL: u32 = 16;

/// A connection between exchanges.
#[derive(Debug)]
pub(crate) struct Http1Connection {
    io: PodIo,
    /// What was read of an answer and not yet taken.
    buffer: BytesMut,
    watchdog: Watchdog,
    /// How long the pod says it keeps it (`Keep-Alive: timeout=…`, as Node.js sends it).
    pub(crate) kept_for: Option<Duration>,
}

impl Http1Connection {
    pub(crate) fn new(io: PodIo) -> Self {
        Self { io, buffer: BytesMut::new(), watchdog: Watchdog::default(), kept_for: None }
    }

    /// Whether a request may be sent on it: the pod has neither closed it nor said anything unasked.
    pub(crate) fn is_usable(&self) -> bool {
        self.buffer.is_empty() && self.io.is_quiet()
    }
}

/// Why an exchange failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection was closed, or broke, before the answer's end.
    Closed(Option<io::Error>),
    /// What the pod said is no answer; the text ends the sentence "the pod …".
    Invalid(&'static str),
    /// The client did not send its request to the end.
    Client,
}

/// A request and its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    connection: Http1Connection,
    sending: Sending,
    /// The pod takes no more of the request.
    send_error: Option<io::Error>,
    head: HeadReader,
    head_limit: usize,
    method: Method,
    framing: Framing,
    keep_alive: bool,
    informational: u32,
    /// Whether the pod has said anything.
    answered: bool,
}

impl Exchange {
    /// An exchange that begins with these bytes, the head, and the content that follows.
    pub(crate) fn new(
        connection: Http1Connection,
        method: Method,
        head: Vec<u8>,
        coding: Coding,
        upload: Upload,
        head_limit: usize,
    ) -> Self {
        Self {
            connection,
            sending: Sending::new(head, coding, upload),
            send_error: None,
            head: HeadReader::default(),
            head_limit,
            method,
            framing: Framing::Length(0),
            keep_alive: false,
            informational: 0,
            answered: false,
        }
    }

    /// Sends the request and reads the head of its answer; at most one of the two can be waited for in vain.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<AnswerHead, Broken>> {
        loop {
            self.poll_send(cx)?;
            let buffer = &mut self.connection.buffer;
            let taken = if buffer.is_empty() { Ok(None) } else { self.head.take(buffer, self.head_limit) };
            match taken.map_err(Broken::Invalid)? {
                Some(head) if head.status.is_informational() && head.status != StatusCode::SWITCHING_PROTOCOLS => {
                    self.informational += 1;
                    if self.informational > INFORMATIONAL {
                        return Poll::Ready(Err(Broken::Invalid("answered with too many informational answers")));
                    }
                    if head.status == StatusCode::CONTINUE {
                        self.sending.upload().go_on();
                    }
                    continue;
                }
                Some(head) => {
                    block::release(&mut self.connection.buffer);
                    self.framing = head.framing(&self.method);
                    self.keep_alive = head.keep_alive && self.framing != Framing::UntilClose;
                    self.connection.kept_for = head.kept_for;
                    return Poll::Ready(Ok(head));
                }
                None => {}
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(Broken::Closed(self.send_error.take()))),
                Ok(_) => self.answered = true,
                Err(error) => return Poll::Ready(Err(Broken::Closed(Some(error)))),
            }
        }
    }

    /// The next piece of the answer's content; the rest of the request is sent meanwhile.
    pub(crate) fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Err(error) = self.poll_send(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            let taken = self.framing.take(&mut self.connection.buffer);
            block::release(&mut self.connection.buffer);
            match taken {
                Ok(Taken::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Taken::Trailers(trailers)) => return Poll::Ready(trailer_frame(trailers).map(Ok)),
                Ok(Taken::End) => return Poll::Ready(None),
                Ok(Taken::Nothing) => {}
                Err(_) => return Poll::Ready(Some(Err(Broken::Invalid("sent chunks that are none")))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.framing == Framing::UntilClose => {
                    self.framing = Framing::Length(0);
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(Broken::Closed(None)))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Broken::Closed(Some(error))))),
            }
        }
    }

    /// Whether all of the answer's content was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.framing.is_over()
    }

    /// How much content is left, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match &self.framing {
            Framing::Length(left) => Some(*left),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// The whole content, if it has arrived together with the head.
    pub(crate) fn take_whole(&mut self) -> Option<Bytes> {
        let Framing::Length(left) = &mut self.framing else { return None };
        let length = usize::try_from(*left).ok().filter(|length| *length <= self.connection.buffer.len())?;
        *left = 0;
        let whole = self.connection.buffer.split_to(length).freeze();
        block::release(&mut self.connection.buffer);
        Some(whole)
    }

    /// Whether the pod may have seen some of the request.
    pub(crate) fn has_begun(&self) -> bool {
        self.sending.has_begun()
    }

    /// Whether the pod has said anything.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// The request's content.
    pub(crate) fn upload(&self) -> &Upload {
        self.sending.upload()
    }

    /// Ready when `deadline` has passed.
    pub(crate) fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: tokio::time::Instant) -> Poll<()> {
        self.connection.watchdog.poll(cx, deadline)
    }

    /// The buffer of the head, for the next request, as soon as all is sent.
    pub(crate) fn take_buffer(&mut self) -> Option<Vec<u8>> {
        if self.sending.is_done() { self.sending.take_buffer() } else { None }
    }

    /// The connection, if another exchange can follow on it.
    pub(crate) fn finish(self) -> Option<Http1Connection> {
        let clean = self.framing.is_over() && self.sending.is_done() && self.connection.buffer.is_empty();
        (clean && self.keep_alive).then_some(self.connection)
    }

    /// The socket and what has been read of the new protocol, after 101.
    pub(crate) fn into_upgraded(self) -> (PodIo, BytesMut) {
        (self.connection.io, self.connection.buffer)
    }

    /// Sends on, if there is anything to send. That the pod takes no more is no error yet: it may have answered early.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        if self.sending.is_done() || self.send_error.is_some() {
            return Ok(());
        }
        match self.sending.poll(&mut self.connection.io, cx) {
            Poll::Ready(Err(Unsent::Pod(error))) => self.send_error = Some(error),
            Poll::Ready(Err(Unsent::Client)) => return Err(Broken::Client),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        Ok(())
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Http1Connection { io, buffer, .. } = &mut self.connection;
        block::poll_fill(io, buffer, cx)
    }
}

/// Trailers, if there are any.
fn trailer_frame(trailers: HeaderMap) -> Option<Frame<Bytes>> {
    (!trailers.is_empty()).then(|| Frame::trailers(trailers))
}
