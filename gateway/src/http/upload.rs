//! The content of a request on its way to a pod.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    fmt, io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::{client::Client, failure::Failure, headers::clean_trailers};

/// Content that is remembered so that the request can be sent to another pod: forms and API calls fit. It is not copied;
/// what the client sent is only let go of later.
const REPLAY_BYTES: usize = 64 << 10;

/// The content of a request; nothing of it is read before a pod is there to take it. Clones are the same content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload(Option<Rc<RefCell<Content>>>);

/// The next part of some content.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// The trailer section, which is also the end.
    Trailers(HeaderMap),
    End,
}

#[derive(Debug)]
struct Content {
    incoming: Incoming,
    /// Its length, as it was announced.
    length: Option<u64>,
    /// Bytes that may still come.
    left: Option<u64>,
    hold: Option<Hold>,
    replay: Replay,
    at: Instant,
    stage: Stage,
    waker: Option<Waker>,
    /// Bytes that came so far.
    came: Rc<Cell<u64>>,
    client: Rc<Client>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The client's turn.
    Waiting,
    /// The pod's turn.
    Passing,
    /// The pod has it all.
    Complete,
    /// The client went away.
    Gone,
    /// The client sent what is not HTTP.
    Malformed,
    /// The client sends more than is allowed.
    TooLarge,
    /// Nobody wants the rest.
    Cut,
}

impl Upload {
    /// Parts a request from its content.
    pub(crate) fn take(request: Request<Incoming>, client: &Rc<Client>) -> (http::request::Parts, Self) {
        let (parts, incoming) = request.into_parts();
        if incoming.is_end_stream() {
            return (parts, Self(None));
        }
        let expects = parts.version >= Version::HTTP_11
            && parts.headers.get(header::EXPECT).is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let hold = expects.then(|| Hold::new(client.worker.limits.expect));
        let content = Content {
            length: incoming.size_hint().exact(),
            incoming,
            left: None,
            hold,
            replay: Replay::default(),
            at: Instant::now(),
            stage: Stage::Passing,
            waker: None,
            came: Rc::default(),
            client: client.clone(),
        };
        (parts, Self(Some(Rc::new(RefCell::new(content)))))
    }

    /// Whether there is content at all.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Its length, if that is known from the start.
    pub(crate) fn length(&self) -> Option<u64> {
        self.0.as_ref().map_or(Some(0), |content| content.borrow().length)
    }

    /// Counts the bytes that come; `None` without content.
    pub(crate) fn counter(&self) -> Option<Rc<Cell<u64>>> {
        self.0.as_ref().map(|content| content.borrow().came.clone())
    }

    /// Refuses more content than this.
    pub(crate) fn limit(&self, bytes: u64) {
        if let Some(content) = &self.0 {
            content.borrow_mut().left = Some(bytes);
        }
    }

    /// Takes the next piece.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<Piece, UploadError>> {
        match &self.0 {
            Some(content) => content.borrow_mut().poll(cx),
            None => Poll::Ready(Ok(Piece::End)),
        }
    }

    /// The pod wants the content (RFC 9110 15.2.1).
    pub(crate) fn go_on(&self) {
        if let Some(content) = &self.0 {
            let mut content = content.borrow_mut();
            content.hold = None;
            content.wake();
        }
    }

    /// Goes back to the beginning, for another pod; says whether that can be done.
    pub(crate) fn rewind(&self) -> bool {
        let Some(content) = &self.0 else { return true };
        let mut content = content.borrow_mut();
        let still_comes = matches!(content.stage, Stage::Waiting | Stage::Passing | Stage::Complete);
        let can = still_comes && !content.replay.overflown;
        if can {
            content.replay.next = 0;
            content.stage = Stage::Passing;
        }
        can
    }

    /// When something was passed on last, if the content is still under way.
    pub(crate) fn moved_at(&self) -> Option<Instant> {
        let content = self.0.as_ref()?.borrow();
        (content.stage != Stage::Complete).then_some(content.at)
    }

    /// If it is the client's fault that the exchange does not go on: which.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match self.0.as_ref()?.borrow().stage {
            Stage::Gone => Some(Failure::CLIENT_GONE),
            Stage::Malformed => Some(Failure::BAD_BODY),
            Stage::TooLarge => Some(Failure::TOO_LARGE),
            Stage::Waiting | Stage::Passing | Stage::Complete | Stage::Cut => None,
        }
    }

    /// Whether the client has to do the next step.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.0.as_ref().is_some_and(|content| content.borrow().stage == Stage::Waiting)
    }

    /// Whether there is a rest that was not read.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.0.as_ref().is_some_and(|content| !content.borrow().incoming.is_end_stream())
    }

    /// The answer is complete: whoever still uploads need not.
    pub(crate) fn cut(&self) {
        if let Some(content) = &self.0 {
            let mut content = content.borrow_mut();
            if matches!(content.stage, Stage::Waiting | Stage::Passing) {
                content.stage = Stage::Cut;
                content.wake();
            }
        }
    }
}

impl Content {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, UploadError>> {
        if let Stage::Cut | Stage::Gone | Stage::Malformed | Stage::TooLarge = self.stage {
            return Poll::Ready(Err(UploadError));
        }
        if let Some(piece) = self.replay.next() {
            return Poll::Ready(Ok(self.pass(piece)));
        }
        if self.hold.as_mut().is_some_and(|hold| hold.patience.as_mut().poll(cx).is_pending()) {
            self.remember(cx);
            return Poll::Pending;
        }
        self.hold = None;
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            self.stage = Stage::Waiting;
            self.remember(cx);
            return Poll::Pending;
        };
        let piece = match frame {
            None => Piece::End,
            Some(Err(error)) => return self.fail(if is_malformed(&error) { Stage::Malformed } else { Stage::Gone }),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.came.set(self.came.get() + data.len() as u64);
                    if let Some(left) = &mut self.left {
                        match left.checked_sub(data.len() as u64) {
                            Some(rest) => *left = rest,
                            None => return self.fail(Stage::TooLarge),
                        }
                    }
                    Piece::Data(data)
                }
                Err(frame) => frame.into_trailers().map_or(Piece::End, |mut trailers| {
                    clean_trailers(&mut trailers);
                    Piece::Trailers(trailers)
                }),
            },
        };
        self.replay.remember(&piece);
        Poll::Ready(Ok(self.pass(piece)))
    }

    fn pass(&mut self, piece: Piece) -> Piece {
        let is_last = !matches!(piece, Piece::Data(_)) || (self.incoming.is_end_stream() && self.replay.is_at_end());
        self.stage = if is_last { Stage::Complete } else { Stage::Passing };
        self.at = Instant::now();
        piece
    }

    fn fail(&mut self, stage: Stage) -> Poll<Result<Piece, UploadError>> {
        self.stage = stage;
        Poll::Ready(Err(UploadError))
    }

    fn remember(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if !self.incoming.is_end_stream() && self.stage != Stage::Complete {
            self.client.unread.set(true);
        }
    }
}

/// The beginning of the content, for another pod.
#[derive(Debug, Default)]
struct Replay {
    pieces: Vec<Bytes>,
    end: Option<Option<HeaderMap>>,
    bytes: usize,
    next: usize,
    /// Too much came to remember it all.
    overflown: bool,
}

impl Replay {
    fn remember(&mut self, piece: &Piece) {
        if self.overflown {
            return;
        }
        match piece {
            Piece::Data(data) if self.bytes + data.len() > REPLAY_BYTES => {
                *self = Self { overflown: true, ..Self::default() };
            }
            Piece::Data(data) => {
                self.bytes += data.len();
                self.pieces.push(data.clone());
                self.next = self.pieces.len();
            }
            Piece::Trailers(trailers) => self.end = Some(Some(trailers.clone())),
            Piece::End => self.end = Some(None),
        }
    }

    fn is_at_end(&self) -> bool {
        self.next == self.pieces.len()
    }

    /// The next piece that was there before.
    fn next(&mut self) -> Option<Piece> {
        match self.pieces.get(self.next) {
            Some(data) => {
                self.next += 1;
                Some(Piece::Data(data.clone()))
            }
            None => match &self.end {
                Some(Some(trailers)) => Some(Piece::Trailers(trailers.clone())),
                Some(None) => Some(Piece::End),
                None => None,
            },
        }
    }
}

/// Tells what is not HTTP from a connection that broke: hyper says it by the kind of I/O error alone.
fn is_malformed(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
        }
        source = error.source();
    }
    false
}

/// For pods that are spoken to by hyper.
impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        Poll::Ready(match ready!(self.poll(cx)) {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|content| content.borrow().stage == Stage::Complete)
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The rest of an upload will not come; [`Upload::failure`] knows why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadError;

impl fmt::Display for UploadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's content broke off")
    }
}

impl Error for UploadError {}

/// `Expect: 100-continue`: the content is held back until the pod asks for it, so that the client gets the pod's word
/// and not ours (RFC 9110 10.1.1). hyper tells the client to go on when the content is first asked for.
#[derive(Debug)]
struct Hold {
    patience: Pin<Box<Sleep>>,
}

impl Hold {
    fn new(patience: Duration) -> Self {
        Self { patience: Box::pin(sleep(patience)) }
    }
}
