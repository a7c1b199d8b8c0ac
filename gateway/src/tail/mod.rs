//! The tail: what is being connected and asked at this moment, and why each went where it went, for whoever looks on.
//!
//! ```text
//! worker   connection, request ─▶ Event ─┐ bounded queue, never waited for
//! worker   …                             ├─▶ one task ─▶ those who watch, and the last few are remembered
//! ```
//!
//! While nobody watches, no event is made: a connection and a request each cost one look at a flag. While somebody does, a worker
//! makes at most [`EVENTS_PER_SECOND`] events and counts the rest, so that a busy gateway serves on at its pace. No event holds
//! what may be a secret: no query, no field, no cookie but the one that names a pod, and that one is never shown.
//!
//! | question | answer |
//! |---|---|
//! | what an event says | `event`; as JSON: `json` |
//! | why an endpoint was chosen, in words | `reason` |
//! | how a worker tells | `worker` |

mod event;
mod json;
mod reason;
mod worker;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use event::{Connection, ConnectionEnd, Event, Refused, Request, What};
pub use reason::Reason;
use tidegate_l4::stats::{Counter, Sharded};
use tokio::{
    sync::{broadcast, mpsc},
    time::Instant,
};
pub(crate) use worker::Asker;
pub use worker::{TailWorker, Told};

/// Events that one worker makes in a second: more than anybody can read, and too few to be felt by the traffic.
pub const EVENTS_PER_SECOND: u32 = 200;

/// Events that all workers together hand out in a second: however many they are, each of those who watch is sent all of it.
const HANDED_OUT_PER_SECOND: u32 = 1000;

/// Events that wait for the task that hands them out: a second of many workers.
const QUEUE: usize = 4096;

/// Events that wait for one of those who watch; who is slower than that loses some.
const PER_WATCHER: usize = 1024;

/// Events that can be asked about after they were seen: what a page shows, many times over.
const REMEMBERED: usize = 2048;

/// The tail of the process.
#[derive(Debug)]
pub struct Tail {
    watching: Watchers,
    /// The number of the next event. It begins with the time: pages that were open while the process was replaced shall not take a new
    /// event for an old one.
    next: AtomicU64,
    skipped: Sharded<Counter>,
    queue: mpsc::Sender<Event>,
    inbox: Mutex<Option<mpsc::Receiver<Event>>>,
    events: broadcast::Sender<Arc<Event>>,
    recent: Mutex<VecDeque<Arc<Event>>>,
}

/// How many watch: read for every request, and so away from whatever else is written.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Watchers(AtomicUsize);

impl Default for Tail {
    fn default() -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE);
        Self {
            watching: Watchers::default(),
            next: AtomicU64::new(SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_micros() as u64)),
            skipped: Sharded::default(),
            queue,
            inbox: Mutex::new(Some(inbox)),
            events: broadcast::Sender::new(PER_WATCHER),
            recent: Mutex::default(),
        }
    }
}

impl Tail {
    /// Hands out events for as long as it is polled; whoever runs the process spawns it once.
    pub async fn run(self: Arc<Self>) {
        let Some(mut inbox) = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let (mut began, mut count) = (Instant::now(), 0);
        while let Some(event) = inbox.recv().await {
            if began.elapsed() >= Duration::from_secs(1) {
                (began, count) = (Instant::now(), 0);
            }
            count += 1;
            if count > HANDED_OUT_PER_SECOND {
                self.skip(1);
                continue;
            }
            let event = Arc::new(event);
            if !matches!(event.what, What::ConnectionEnd(_)) {
                let mut recent = self.recent();
                if recent.len() == REMEMBERED {
                    recent.pop_front();
                }
                recent.push_back(event.clone());
            }
            // Nobody may be left to hear it.
            drop(self.events.send(event));
        }
    }

    /// Every event from now on, for as long as the receipt lives.
    pub fn watch(self: &Arc<Self>) -> Watching {
        let events = self.events.subscribe();
        self.watching.0.fetch_add(1, Ordering::Relaxed);
        Watching { tail: self.clone(), events, lost: 0 }
    }

    /// Whether anybody watches.
    pub fn is_watched(&self) -> bool {
        self.watching.0.load(Ordering::Relaxed) > 0
    }

    /// An event that somebody has seen, if it is remembered still.
    pub fn find(&self, id: u64) -> Option<Arc<Event>> {
        // They come nearly in order, but not quite: several workers number theirs.
        self.recent().iter().rev().find(|event| event.id == id).cloned()
    }

    /// Events that were not made or not handed out, because there were too many.
    pub fn skipped(&self) -> u64 {
        self.skipped.each().map(Counter::value).sum()
    }

    fn skip(&self, count: u64) {
        self.skipped.mine().add(count);
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Event>>> {
        // Whoever holds the lock pushes and pops whole events: nothing is ever half-written.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who watches.
#[derive(Debug)]
pub struct Watching {
    tail: Arc<Tail>,
    events: broadcast::Receiver<Arc<Event>>,
    lost: u64,
}

impl Watching {
    /// Events that this one was too slow for.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// The next event. If this was too slow for some, they are lost to it, and counted.
    pub async fn next(&mut self) -> Arc<Event> {
        loop {
            match self.events.recv().await {
                Ok(event) => return event,
                Err(broadcast::error::RecvError::Lagged(lost)) => self.lost += lost,
                // The tail, which this keeps, holds the sender.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// The next event, if it is there already.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        loop {
            match self.events.try_recv() {
                Ok(event) => return Some(event),
                Err(broadcast::error::TryRecvError::Lagged(lost)) => self.lost += lost,
                Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.tail.watching.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
