//! The thread that writes the log: the only one that waits for a disk or a pipe.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// How often it is looked whether the file is still the one its path names.
const MOVED_CHECK: Duration = Duration::from_secs(1);

/// How often lost lines and failed writes are told to the operator, at most.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To standard output.
    Stdout,
    /// To the end of this file.
    File(PathBuf),
}

/// How the log is doing.
#[derive(Debug, Default)]
pub struct LogStats {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl LogStats {
    /// Lines written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Lines lost: because whatever takes them was too slow, or failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn drop_lines(&self, lines: u32) {
        self.dropped.fetch_add(lines.into(), Ordering::Relaxed);
    }
}

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Write this.
    Lines(Batch),
    /// Open the file anew.
    Reopen,
    /// Answer once all that came before is written.
    Done(mpsc::SyncSender<()>),
}

/// Whole lines of one worker.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) text: Vec<u8>,
    pub(super) lines: u32,
    /// Where the memory goes when it is written.
    pub(super) home: mpsc::Sender<Vec<u8>>,
}

/// Writes until nobody is left to send anything.
pub(super) struct Writer {
    sink: Sink,
    stats: Arc<LogStats>,
    reported: (Option<Instant>, u64),
    failure: Option<io::Error>,
}

impl Writer {
    pub(super) fn open(target: &Target, stats: Arc<LogStats>) -> io::Result<Self> {
        let sink = match target {
            Target::Stdout => Sink::Stdout,
            Target::File(path) => Sink::File(LogFile::open(path)?),
        };
        Ok(Self { sink, stats, reported: (None, 0), failure: None })
    }

    pub(super) fn run(mut self, inbox: &mpsc::Receiver<Message>) {
        loop {
            let message = match self.report(Instant::now()) {
                None => inbox.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(wait) => inbox.recv_timeout(wait),
            };
            match message {
                Ok(Message::Lines(batch)) => self.write(batch),
                Ok(Message::Reopen) => self.reopen(),
                Ok(Message::Done(done)) => drop(done.try_send(())),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, mut batch: Batch) {
        match self.sink.write(&batch.text) {
            Ok(()) => drop(self.stats.written.fetch_add(batch.lines.into(), Ordering::Relaxed)),
            Err(error) => {
                self.stats.drop_lines(batch.lines);
                self.failure = Some(error);
            }
        }
        batch.text.clear();
        // A worker that is gone needs it no more.
        drop(batch.home.send(batch.text));
    }

    fn reopen(&mut self) {
        if let Sink::File(file) = &mut self.sink {
            file.reopen();
        }
    }

    /// Tells what was lost; if it was told a moment ago, says when to come back for the rest.
    fn report(&mut self, now: Instant) -> Option<Duration> {
        let dropped = self.stats.dropped();
        let (last, told) = self.reported;
        if dropped == told {
            return None;
        }
        if let Some(wait) = last.and_then(|last| REPORT_INTERVAL.checked_sub(now.saturating_duration_since(last)))
            && !wait.is_zero()
        {
            return Some(wait);
        }
        let lines = dropped - told;
        match self.failure.take() {
            Some(error) => tracing::warn!(lines, "the access log lost lines: they could not be written: {error}"),
            None => tracing::warn!(lines, "the access log lost lines: whatever takes them is slower than the requests"),
        }
        self.reported = (Some(now), dropped);
        None
    }
}

enum Sink {
    Stdout,
    File(LogFile),
}

impl Sink {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(text)?;
                out.flush()
            }
            Self::File(file) => {
                file.follow(Instant::now());
                file.file.write_all(text)
            }
        }
    }
}

/// A file that log rotation may take away at any time.
struct LogFile {
    path: PathBuf,
    file: File,
    identity: Identity,
    checked: Instant,
    /// It could not be opened anew, and that has been told.
    failing: bool,
}

/// What tells one file from another.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = ();

#[cfg(unix)]
fn identity(meta: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (meta.dev(), meta.ino())
}

#[cfg(not(unix))]
fn identity(_: &fs::Metadata) -> Identity {}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let identity = identity(&file.metadata()?);
        Ok(Self { path: path.to_owned(), file, identity, checked: Instant::now(), failing: false })
    }

    /// Opens it anew if its path names another file by now, or none.
    fn follow(&mut self, now: Instant) {
        if now.saturating_duration_since(self.checked) < MOVED_CHECK {
            return;
        }
        self.checked = now;
        let found = fs::metadata(&self.path).map(|meta| identity(&meta));
        if !found.is_ok_and(|found| found == self.identity) {
            self.reopen();
        }
    }

    /// What cannot be opened is written on to where it is: lines are late rather than lost.
    fn reopen(&mut self) {
        match Self::open(&self.path) {
            Ok(opened) => *self = opened,
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!("the access log {} cannot be opened anew: {error}", self.path.display());
            }
            Err(_) => {}
        }
    }
}
