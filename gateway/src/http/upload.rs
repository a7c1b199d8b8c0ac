//! The content of a request on its way to a pod.

use std::{
    cell::{Cell, RefCell},
    error::Error,
    fmt, io,
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Version, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::{connection::Client, failure::Failure};

/// The content of a request; nothing of it is read before a pod is there to take it.
#[derive(Debug)]
pub(crate) struct Upload(Option<Content>);

#[derive(Debug)]
struct Content {
    incoming: Incoming,
    progress: Rc<Progress>,
    hold: Option<Hold>,
    client: Rc<Client>,
}

impl Upload {
    /// Parts a request from its content.
    pub(crate) fn take(request: Request<Incoming>, client: &Rc<Client>) -> (Request<()>, Self) {
        let (head, incoming) = request.into_parts();
        let mut request = Request::from_parts(head, ());
        if incoming.is_end_stream() {
            return (request, Self(None));
        }
        let expects = request.version() == Version::HTTP_11
            && request
                .headers()
                .get(header::EXPECT)
                .is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let hold = expects.then(|| Hold::on(&mut request, client.worker.limits.expect));
        let progress = Rc::new(Progress::new());
        (request, Self(Some(Content { incoming, progress, hold, client: client.clone() })))
    }

    /// No content.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Whether there is content at all.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Whether its length is not known from the start.
    pub(crate) fn is_chunked(&self) -> bool {
        self.0.as_ref().is_some_and(|content| content.incoming.size_hint().exact().is_none())
    }

    /// How far it has come; `None` without content.
    pub(crate) fn progress(&self) -> Option<Rc<Progress>> {
        self.0.as_ref().map(|content| content.progress.clone())
    }
}

/// How far an upload has come. The answer's side keeps an eye on it, because the one may explain the other.
#[derive(Debug)]
pub(crate) struct Progress {
    at: Cell<Instant>,
    stage: Cell<Stage>,
    waker: RefCell<Option<Waker>>,
    bytes: Cell<u64>,
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
    /// Nobody wants the rest.
    Cut,
}

impl Progress {
    fn new() -> Self {
        let (at, stage) = (Cell::new(Instant::now()), Cell::new(Stage::Passing));
        Self { at, stage, waker: RefCell::default(), bytes: Cell::new(0) }
    }

    /// When something was passed on last.
    pub(crate) fn at(&self) -> Instant {
        self.at.get()
    }

    /// Bytes passed on so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// If it is the client's fault that the exchange does not go on: which.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match self.stage.get() {
            Stage::Gone => Some(Failure::CLIENT_GONE),
            Stage::Malformed => Some(Failure::BAD_BODY),
            Stage::Waiting | Stage::Passing | Stage::Complete | Stage::Cut => None,
        }
    }

    /// Whether the client has to do the next step.
    pub(crate) fn waits_for_client(&self) -> bool {
        self.stage.get() == Stage::Waiting
    }

    /// Whether the client has to be told that the rest of its request is not read.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.stage.get() != Stage::Complete
    }

    /// The answer is complete: whoever still uploads need not.
    pub(crate) fn cut(&self) {
        if matches!(self.stage.get(), Stage::Waiting | Stage::Passing) {
            self.stage.set(Stage::Cut);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    fn step(&self, stage: Stage) {
        self.at.set(Instant::now());
        self.stage.set(stage);
    }
}

impl Content {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if self.progress.stage.get() == Stage::Cut {
            return Poll::Ready(Some(Err(UploadError)));
        }
        if self.hold.as_mut().is_some_and(|hold| hold.poll_open(cx).is_pending()) {
            self.remember(cx);
            return Poll::Pending;
        }
        self.hold = None;
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        match &polled {
            Poll::Pending => {
                self.progress.stage.set(Stage::Waiting);
                self.remember(cx);
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.progress.bytes.set(self.progress.bytes.get() + bytes as u64);
                let is_last = frame.is_trailers() || self.incoming.is_end_stream();
                self.progress.step(if is_last { Stage::Complete } else { Stage::Passing });
            }
            Poll::Ready(Some(Err(error))) => {
                self.progress.step(if is_malformed(error) { Stage::Malformed } else { Stage::Gone });
            }
            Poll::Ready(None) => self.progress.step(Stage::Complete),
        }
        polled.map_err(|_| UploadError)
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut waker = self.progress.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.progress.stage.set(Stage::Complete);
        } else if self.progress.stage.get() != Stage::Complete {
            self.client.unread.set(true);
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

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.0 {
            Some(content) => content.poll(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|content| content.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |content| content.incoming.size_hint())
    }
}

/// The rest of an upload will not come; [`Progress`] knows why.
#[derive(Debug)]
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
    gate: Arc<Gate>,
    patience: Pin<Box<Sleep>>,
}

/// Opened from a callback that hyper wants to be `Send`, though here it never leaves the thread.
#[derive(Debug, Default)]
struct Gate(Mutex<GateState>);

#[derive(Debug, Default)]
struct GateState {
    open: bool,
    waker: Option<Waker>,
}

impl Hold {
    fn on(request: &mut Request<()>, patience: std::time::Duration) -> Self {
        let gate = Arc::<Gate>::default();
        let opened = gate.clone();
        hyper::ext::on_informational(request, move |response| {
            if response.status() == http::StatusCode::CONTINUE {
                opened.open();
            }
        });
        Self { gate, patience: Box::pin(sleep(patience)) }
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.open {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        drop(state);
        self.patience.as_mut().poll(cx)
    }
}

impl Gate {
    fn open(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.open = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}
