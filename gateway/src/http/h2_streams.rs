//! The streams of a client's HTTP/2 connection: ends those whose answers nobody takes.
//!
//! A client that opens streams and never grants them room would hold the pods' answers, and with them connections to pods,
//! for as long as it likes. hyper keeps each stream as a task of its own, and asks an answer for more only when there was room for what
//! it gave before. So it is known here whose turn it is: the pod's, if the answer was asked last and had nothing; else the
//! client's. Dropping the task resets the stream (CANCEL) and lets go of the pod.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::{
    body::{Body, Frame, SizeHint},
    rt::Executor,
};
use tokio::{
    task::spawn_local,
    time::{Instant, Sleep, sleep},
};

use super::{
    body::{Aborted, AnswerBody},
    client::Client,
    failure::Kind,
    slots::{TICK, ticks},
};

/// What the streams of one connection have in common; runs hyper's tasks for them.
#[derive(Clone, Debug)]
pub(crate) struct Streams(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Rc<Client>,
    /// Whether the answer of the stream that is polled right now was asked for more, and had some.
    asked: Cell<Option<bool>>,
    /// The stream that is dropped right now is given up.
    gives_up: Cell<bool>,
}

impl Streams {
    /// No streams yet.
    pub(crate) fn new(client: Rc<Client>) -> Self {
        Self(Rc::new(Shared { client, asked: Cell::default(), gives_up: Cell::default() }))
    }

    /// An answer that tells when it is asked.
    pub(crate) fn watch(&self, body: AnswerBody) -> Watched {
        Watched { body, streams: self.clone() }
    }
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        // In a box, because the compiler would reserve its place twice, and move it.
        let (shared, mut task, mut stall) = (self.0.clone(), Box::pin(task), Stall::default());
        spawn_local(async move {
            let gives_up = poll_fn(|cx| {
                shared.asked.set(None);
                if task.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                stall.poll(&shared, cx).map(|()| true)
            });
            shared.gives_up.set(gives_up.await);
            drop(task);
            shared.gives_up.set(false);
        });
    }
}

/// For how long it has been the client's turn.
#[derive(Debug, Default)]
struct Stall {
    /// The tick at which that began.
    since: Option<u32>,
    /// Made when it is first needed, and kept: a large answer waits for room often.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// To be polled when the stream has gone as far as it can; ready when it is to be given up.
    fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<()> {
        let (worker, limits) = (&shared.client.worker, &shared.client.worker.limits);
        match shared.asked.get() {
            Some(false) => self.since = None,
            Some(true) => self.since = Some(worker.slots.now()),
            None => {}
        }
        let Some(since) = self.since else { return Poll::Pending };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(limits.client_stall.min(limits.h2_stream_stall))));
        while alarm.as_mut().poll(cx).is_ready() {
            let now = worker.slots.now();
            let left = |from: u32, within| from.saturating_add(ticks(within)).saturating_sub(now);
            // While the connection as a whole moves, slowly, the turn of this stream may be still to come.
            let moved = shared.client.content_sent.get().max(since);
            let left = left(moved, limits.client_stall).min(left(since, limits.h2_stream_stall));
            if left == 0 {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(Instant::now() + TICK * left);
        }
        Poll::Pending
    }
}

/// The content of an answer over HTTP/2.
#[derive(Debug)]
pub(crate) struct Watched {
    body: AnswerBody,
    streams: Streams,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.streams.0.asked.set(Some(polled.is_ready()));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.streams.0.gives_up.get() {
            self.body.note(Kind::ClientSlow);
        }
    }
}
