//! A worker's end of the log: it writes lines into memory and hands whole batches over, and never waits.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::{Rc, Weak},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, Method, StatusCode, Uri, Version};
use tokio::sync::Notify;

use super::{
    clock::Clock,
    details::{ConnectionFacts, Details, TlsFacts},
    format::Format,
    record::{End, Record},
    writer::{Batch, LogStats, Message},
};
use crate::route::Rule;

/// A batch this large is handed over at once: one system call for hundreds of lines.
const BATCH_BYTES: usize = 32 << 10;

/// A batch that is not is handed over this long after its first line.
const BATCH_WAIT: Duration = Duration::from_millis(200);

/// How long the end of a worker waits for room in the queue: nothing else is left to be held up.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Memory of ended requests kept for others: as many as a busy worker serves at a time.
const SPARE_DETAILS: usize = 256;

/// The log as one worker uses it; on its thread only.
#[derive(Debug)]
pub struct WorkerLog {
    format: Arc<Format>,
    stats: Arc<LogStats>,
    queue: mpsc::SyncSender<Message>,
    lines: RefCell<Lines>,
    #[expect(clippy::vec_box, reason = "they go in and out as boxes, so that a request without a log stays small")]
    spare: RefCell<Vec<Box<Details>>>,
    /// Batches that were written come back here.
    home: (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>),
    begun: Rc<Notify>,
    /// The number of the next connection, and how many workers take turns.
    numbers: (Cell<u64>, u64),
}

#[derive(Debug, Default)]
struct Lines {
    text: Vec<u8>,
    count: u32,
    clock: Clock,
}

impl WorkerLog {
    /// The log of worker `number` of `count`.
    pub(super) fn new(
        format: Arc<Format>,
        stats: Arc<LogStats>,
        queue: mpsc::SyncSender<Message>,
        (number, count): (usize, usize),
    ) -> Self {
        Self {
            format,
            stats,
            queue,
            lines: RefCell::default(),
            spare: RefCell::default(),
            home: mpsc::channel(),
            begun: Rc::default(),
            numbers: (Cell::new(number as u64 + 1), count.max(1) as u64),
        }
    }

    /// How the log is doing.
    pub fn stats(&self) -> &Arc<LogStats> {
        &self.stats
    }

    /// Notes a connection.
    pub fn connection(&self, peer: SocketAddr, local: SocketAddr, tls: Option<TlsFacts>) -> ConnectionFacts {
        let number = self.numbers.0.replace(self.numbers.0.get() + self.numbers.1);
        ConnectionFacts { number, peer, local, proxied: None, tls, requests: Cell::new(0) }
    }

    /// A request that begins: what is known about it is collected in the entry.
    pub fn open(self: &Rc<Self>) -> Entry {
        let details = self.spare.borrow_mut().pop().unwrap_or_default();
        Entry { log: self.clone(), details: Some(details) }
    }

    fn write(&self, details: &mut Details, rule: Option<&Rule>, end: End, now: Instant) {
        details.ended(now);
        let lines = &mut *self.lines.borrow_mut();
        lines.clock.set(SystemTime::now());
        self.format.write(&Record { clock: &lines.clock, details, rule, end }, &mut lines.text);
        lines.count += 1;
        if lines.count == 1 {
            self.begun.notify_one();
        }
        if lines.text.len() >= BATCH_BYTES {
            self.hand_over(lines);
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        self.hand_over(&mut self.lines.borrow_mut());
    }

    fn hand_over(&self, lines: &mut Lines) {
        if let Some(batch) = self.batch(lines)
            && let Err(mpsc::TrySendError::Full(message) | mpsc::TrySendError::Disconnected(message)) =
                self.queue.try_send(Message::Lines(batch))
        {
            self.lose(message);
        }
    }

    fn batch(&self, lines: &mut Lines) -> Option<Batch> {
        if lines.count == 0 {
            return None;
        }
        // One that a very long line has blown up is let go.
        let next = self.home.1.try_recv().ok().filter(|text| text.capacity() <= 2 * BATCH_BYTES);
        let next = next.unwrap_or_else(|| Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 4));
        let text = std::mem::replace(&mut lines.text, next);
        Some(Batch { text, lines: std::mem::take(&mut lines.count), home: self.home.0.clone() })
    }

    /// The queue is full: whatever takes the lines is slower than the requests.
    fn lose(&self, message: Message) {
        if let Message::Lines(mut batch) = message {
            self.stats.drop_lines(batch.lines);
            batch.text.clear();
            drop(self.home.0.send(batch.text));
        }
    }

    fn take_back(&self, mut details: Box<Details>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_DETAILS {
            details.clear();
            spare.push(details);
        }
    }

    /// What hands over batches in time. It ends with the log.
    pub fn keep_time(self: &Rc<Self>) -> impl Future<Output = ()> + use<> {
        let (begun, log) = (self.begun.clone(), Rc::downgrade(self));
        async move {
            loop {
                begun.notified().await;
                tokio::time::sleep(BATCH_WAIT).await;
                let Some(log) = Weak::upgrade(&log) else { return };
                log.flush();
            }
        }
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.begun.notify_one();
        let mut lines = self.lines.take();
        let Some(batch) = self.batch(&mut lines) else { return };
        let (mut message, begun) = (Message::Lines(batch), Instant::now());
        loop {
            match self.queue.try_send(message) {
                Err(mpsc::TrySendError::Full(back)) if begun.elapsed() < LAST_WAIT => {
                    message = back;
                    thread::sleep(Duration::from_millis(1));
                }
                Err(mpsc::TrySendError::Full(back) | mpsc::TrySendError::Disconnected(back)) => {
                    return self.lose(back);
                }
                Ok(()) => return,
            }
        }
    }
}

/// One request on its way into the log. Dropping it without [`write`](Self::write) leaves no line.
#[derive(Debug)]
pub struct Entry {
    log: Rc<WorkerLog>,
    /// Always there until it is dropped.
    details: Option<Box<Details>>,
}

impl Entry {
    fn details(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }

    /// The request came with this head, on this connection.
    pub fn asked(&mut self, on: &Rc<ConnectionFacts>, head: (&Method, &Uri, Version, &HeaderMap)) {
        let log = self.log.clone();
        self.details().asked(&log.format.needs, on, head);
    }

    /// What came on this connection could not be read.
    pub fn unread(&mut self, on: &Rc<ConnectionFacts>) {
        self.details().came(on);
    }

    /// The client is who a trusted proxy says it is; without this, who connected.
    pub fn is_from(&mut self, client: IpAddr) {
        self.details().is_from(client);
    }

    /// Its id.
    pub fn identified(&mut self, id: &[u8]) {
        self.details().identified(id);
    }

    /// A traffic split sends it to this `namespace/service:port`.
    pub fn split_to(&mut self, service: &str) {
        self.details().split_to(service);
    }

    /// This pod is tried from now on.
    pub fn trying(&mut self, endpoint: SocketAddr, pod: Option<&str>, now: Instant) {
        self.details().trying(endpoint, pod, now);
    }

    /// There is a connection to the pod; getting it took this long, nothing if it was there already.
    pub fn connected(&mut self, took: Duration) {
        self.details().connected(took);
    }

    /// The pod failed; `status` is what that would be answered with.
    pub fn try_failed(&mut self, status: u16, now: Instant) {
        self.details().try_failed(status, now);
    }

    /// The pod answered with this status.
    pub fn try_answered(&mut self, status: u16, now: Instant) {
        self.details().try_answered(status, now);
    }

    /// This head goes to the client.
    pub fn answering(&mut self, status: StatusCode, headers: &HeaderMap) {
        let log = self.log.clone();
        self.details().answering(&log.format.needs, status, headers);
    }

    /// It is over: writes the line.
    pub fn write(mut self, rule: Option<&Rule>, end: End, now: Instant) {
        let log = self.log.clone();
        log.write(self.details(), rule, end, now);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(details) = self.details.take() {
            self.log.take_back(details);
        }
    }
}
