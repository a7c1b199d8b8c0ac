//! The access log: a line for each request that is over, whoever answered it.
//!
//! ```text
//! worker   request ─▶ Entry (what is known of it) ─▶ line ─▶ batch ─┐ bounded queue, never waited for
//! worker   …                                                       ├─▶ one thread ─▶ file or stdout
//! ```
//!
//! A worker never waits for the log. What the queue has no room for is lost, counted (`tidegate_access_log_dropped_total`) and
//! told to the operator once a while. A line is written at the latest a second after its request ended, and when the process ends.
//!
//! Nothing a client or a pod sends can end a line or a field: see `escape`. Nothing is allocated for a request once its worker is
//! warm, but for a user's name and a host in capitals: what is collected goes into memory that the requests before it left
//! (`details`), and so do lines (`worker`).
//!
//! | question | answer |
//! |---|---|
//! | the formats, and what a format may say | [`Format`]; a variable is a row in `variables`, the JSON names are in `json` |
//! | what is collected about a request | `details`, through [`Entry`] |
//! | batches and what is lost | `worker` |
//! | files, rotation, stdout | `writer` |

mod clock;
mod details;
mod escape;
mod format;
mod json;
mod record;
mod variables;
mod worker;
mod writer;

use std::{
    io,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

pub use details::{ConnectionFacts, MAX_VALUE_BYTES, TlsFacts};
pub use format::{Format, FormatError};
pub use record::End;
pub(crate) use record::protocol;
pub use worker::{Entry, WorkerLog};
pub use writer::{LogStats, Target};
use writer::{Message, Writer};

/// Batches that wait for the writer, 32 KiB each. 8 MiB bridge a pause of the disk of half a second at 50,000 requests a second; who
/// is slower for longer would not catch up with more.
const QUEUE_BATCHES: usize = 256;

/// How often somebody who waits for the queue looks whether there is room.
const POLL: Duration = Duration::from_millis(1);

/// What the operator wants.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Where lines go.
    pub target: Target,
    /// What they look like.
    pub format: Format,
}

/// The access log of the process. Clones are the same log; the thread ends with the last of them and of their workers.
#[derive(Clone, Debug)]
pub struct AccessLog {
    format: Arc<Format>,
    stats: Arc<LogStats>,
    queue: mpsc::SyncSender<Message>,
}

impl AccessLog {
    /// Opens the file, and starts the thread that writes.
    ///
    /// # Errors
    /// If the file cannot be opened, or the thread cannot be started.
    pub fn start(options: LogOptions) -> io::Result<Self> {
        let stats = Arc::<LogStats>::default();
        let writer = Writer::open(&options.target, stats.clone())?;
        let (queue, inbox) = mpsc::sync_channel(QUEUE_BATCHES);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&inbox))?;
        Ok(Self { format: Arc::new(options.format), stats, queue })
    }

    /// The end of worker `number` of `count`; to be made on its thread.
    pub fn worker(&self, number: usize, count: usize) -> WorkerLog {
        WorkerLog::new(self.format.clone(), self.stats.clone(), self.queue.clone(), (number, count))
    }

    /// How it is doing.
    pub fn stats(&self) -> &Arc<LogStats> {
        &self.stats
    }

    /// Opens the file anew, for log rotation.
    pub fn reopen(&self) {
        // If the queue is full there are lines to be written, and then it is looked whether the file has moved.
        drop(self.queue.try_send(Message::Reopen));
    }

    /// Waits until all that workers have handed over is written, but not longer than this; says whether it is.
    pub fn finish(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let (done, finished) = mpsc::sync_channel(1);
        let mut message = Message::Done(done);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Full(back)) if Instant::now() < deadline => {
                    message = back;
                    thread::sleep(POLL);
                }
                Err(_) => return false,
            }
        }
        finished.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }
}

#[cfg(test)]
mod tests;
