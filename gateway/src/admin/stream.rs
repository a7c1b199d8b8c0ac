//! `/live`: what happens, as server-sent events (WHATWG HTML, "Server-sent events").
//!
//! Two kinds: `state`, a [`LiveView`], at once and then whenever it has changed, and `tail`, a list of what was connected and asked.
//! A reader who is slow is not waited for by anybody but its own stream: what it does not take in time it never sees.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};

use super::{answer::Answer, live::Filter, state::AdminState, view::LiveView};

/// Streams at a time: a browser tab each, for a few operators. Each makes a [`LiveView`] a second, which takes some 20 ms of a core in
/// a cluster of 10,000 Services; and connections are left for probes and Prometheus.
const MAX_STREAMS: usize = 16;

/// Least time from one `state` to the next: as often as people can follow numbers.
const STATE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the first event of a `tail` waits for others to come along: too short to be noticed.
const TAIL_DELAY: Duration = Duration::from_millis(50);

/// A comment is sent this often, so that neither a proxy nor a browser takes the stream for dead (30 s is the shortest they bear).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events that wait for the reader. Few: what is old when it is read is of no use.
const WAITING: usize = 1;

/// Longest filter: names in a cluster have 63 bytes, or 253.
const MAX_FILTER_BYTES: usize = 512;

/// When the browser is to come back after it was cut off: as soon as a new process may be there.
const RETRY: &str = "retry: 1000\n\n";

/// Everybody who looks on.
#[derive(Debug)]
pub(super) struct Streams {
    state: Arc<AdminState>,
    large_answers: Arc<Semaphore>,
    room: Arc<Semaphore>,
}

impl Streams {
    /// Nobody yet. A state is made with one permit of `large_answers`.
    pub(super) fn new(state: Arc<AdminState>, large_answers: Arc<Semaphore>) -> Self {
        Self { state, large_answers, room: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }

    /// Begins one more stream, with what its query asks for.
    pub(super) fn open(&self, query: &str) -> Answer {
        let filter = match filter(query) {
            Ok(filter) => filter,
            Err(message) => return Answer::text(StatusCode::BAD_REQUEST, message + "\n"),
        };
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            let text = format!("{MAX_STREAMS} live views are open already, and there may be no more: close one\n");
            return Answer::text(StatusCode::SERVICE_UNAVAILABLE, text);
        };
        let (pieces, receiver) = mpsc::channel(WAITING);
        let (state, large_answers) = (self.state.clone(), self.large_answers.clone());
        tokio::spawn(Viewer { state, large_answers, filter, pieces, lost: AtomicU64::new(0) }.run(place));
        Answer::stream("text/event-stream", receiver)
    }
}

/// Reads `filter=TEXT`, percent-encoded.
fn filter(query: &str) -> Result<Filter, String> {
    let mut filter = Filter::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key != "filter" {
            return Err(format!("there is no parameter {key:?}; use filter."));
        }
        // As HTML forms write it, a plus is a space.
        let value = value.replace('+', " ");
        let text = percent_decode_str(&value).decode_utf8().map_err(|_| "filter is not UTF-8 text.".to_owned())?;
        if text.len() > MAX_FILTER_BYTES {
            return Err(format!("filter is longer than {MAX_FILTER_BYTES} bytes."));
        }
        filter = Filter::new(&text);
    }
    Ok(filter)
}

/// One who looks on.
struct Viewer {
    state: Arc<AdminState>,
    large_answers: Arc<Semaphore>,
    filter: Filter,
    pieces: mpsc::Sender<Bytes>,
    /// Events that came faster than the reader took them.
    lost: AtomicU64,
}

/// The reader has gone.
struct Gone;

impl Viewer {
    /// Until the reader goes.
    async fn run(self, place: OwnedSemaphorePermit) {
        let stream = async {
            self.send(Bytes::from_static(RETRY.as_bytes())).await?;
            tokio::try_join!(self.states(), self.events(), self.keep_alive()).map(|_| ())
        };
        tokio::select! {
            _ = stream => {}
            () = self.pieces.closed() => {}
        }
        drop(place);
    }

    async fn send(&self, piece: Bytes) -> Result<(), Gone> {
        self.pieces.send(piece).await.map_err(|_| Gone)
    }

    async fn keep_alive(&self) -> Result<(), Gone> {
        loop {
            time::sleep(KEEP_ALIVE).await;
            self.send(Bytes::from_static(b":\n\n")).await?;
        }
    }

    async fn events(&self) -> Result<(), Gone> {
        let mut watching = self.state.tail.watch();
        loop {
            let mut events = vec![watching.next().await.to_json()];
            time::sleep(TAIL_DELAY).await;
            events.extend(std::iter::from_fn(|| watching.try_next()).map(|event| event.to_json()));
            self.lost.store(watching.lost(), Ordering::Relaxed);
            self.send(event("tail", &events)).await?;
        }
    }

    async fn states(&self) -> Result<(), Gone> {
        let mut last = None;
        loop {
            let state;
            (last, state) = self.look(last).await?;
            if let Some(state) = state {
                self.send(state).await?;
            }
            time::sleep(STATE_INTERVAL).await;
        }
    }

    /// What there is to see, and an event if it is not what was to be seen before. Made on another thread.
    async fn look(&self, last: Option<LiveView>) -> Result<(Option<LiveView>, Option<Bytes>), Gone> {
        let Some(snapshot) = self.state.snapshot.borrow().clone() else { return Ok((last, None)) };
        let permit = self.large_answers.clone().acquire_owned().await.map_err(|_| Gone)?;
        let (state, filter) = (self.state.clone(), self.filter.clone());
        let lost = self.lost.load(Ordering::Relaxed);
        let look = move || {
            let mut view = LiveView::new(&state, &snapshot, &filter, SystemTime::now());
            view.totals.tail_skipped += lost;
            let is_news = last.is_none_or(|mut last| view.differs_from(&mut last));
            let event = is_news.then(|| event("state", &view));
            // Here, as this goes on when nobody waits for it any more.
            drop(permit);
            (Some(view), event)
        };
        tokio::task::spawn_blocking(look).await.map_err(|_| Gone)
    }
}

/// One event. JSON has no line breaks but in strings, where they are escaped.
fn event(name: &str, data: &impl Serialize) -> Bytes {
    let mut text = format!("event: {name}\ndata: ").into_bytes();
    // Only a map whose keys are no texts cannot be written, and a Write that fails.
    if serde_json::to_writer(&mut text, data).is_err() {
        return Bytes::from_static(b":\n\n");
    }
    text.extend_from_slice(b"\n\n");
    text.into()
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
