//! Carries the bytes of one connection, both ways, in one small future.
//!
//! Idle connections own no buffer: bytes are read into one buffer of the thread and written at once; only what could
//! not be written goes to the heap. A direction that keeps filling the buffer is moved inside the kernel ([`splice`]).

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::limits::{BUFFER_SIZE, BYTES_PER_TURN, FULL_READS_BEFORE_SPLICE};
#[cfg(target_os = "linux")]
use crate::splice::{self, Transfer};

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_SIZE].into());
}

/// Lends the buffer of this thread; `f` must not ask for it again.
pub(crate) fn with_buffer<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    BUFFER.with_borrow_mut(|buffer| f(buffer))
}

/// A connection that is reset when dropped, unless it was finished: its peer shall never mistake a cut for an end.
pub(crate) struct Unfinished(Option<TcpStream>);

impl Unfinished {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self(Some(stream))
    }

    /// The stream itself; `None` never, but for the moment in which it is dropped.
    pub(crate) fn stream(&mut self) -> Option<&mut TcpStream> {
        self.0.as_mut()
    }

    /// Takes the stream; the promise to reset it goes to the caller.
    pub(crate) fn into_stream(mut self) -> Option<TcpStream> {
        self.0.take()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            reset_on_drop(stream);
        }
    }
}

fn reset_on_drop(stream: &TcpStream) {
    // It fails only on a socket that is already dead.
    let _ = stream.set_zero_linger();
}

/// Both sides of a connection and what is on its way between them. Resets both unless both finished.
pub(crate) struct Duplex {
    client: TcpStream,
    upstream: TcpStream,
    up: Direction,
    down: Direction,
    /// Bytes from the client to the endpoint, not yet taken by [`Self::take_moved`].
    moved_up: u64,
    moved_down: u64,
}

impl Duplex {
    /// Joins the two; `head` is what was already read from the client and goes to the endpoint first.
    pub(crate) fn new(client: TcpStream, upstream: TcpStream, head: Vec<u8>) -> Self {
        let up = if head.is_empty() { State::Reading } else { State::Writing(Tail { bytes: head, written: 0 }) };
        let (up, down) = (Direction::new(up), Direction::new(State::Reading));
        Self { client, upstream, up, down, moved_up: 0, moved_down: 0 }
    }

    /// Moves what can be moved. Ready when both directions have ended, or when one side failed.
    ///
    /// An endpoint that no longer takes bytes may still have said something worth hearing (a web server that refuses
    /// an upload, say), so a failed *write* ends its own direction only; the other then soon ends by itself.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let up = self.up.poll(&mut self.client, &mut self.upstream, &mut self.moved_up, cx)?;
        let down = self.down.poll(&mut self.upstream, &mut self.client, &mut self.moved_down, cx)?;
        if up.is_pending() || down.is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(if self.finished() { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) })
    }

    /// Bytes delivered to the endpoint and to the client since the last call.
    pub(crate) fn take_moved(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.moved_up), std::mem::take(&mut self.moved_down))
    }

    fn finished(&self) -> bool {
        matches!((&self.up.state, &self.down.state), (State::Finished, State::Finished))
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        if !self.finished() {
            reset_on_drop(&self.client);
            reset_on_drop(&self.upstream);
        }
    }
}

struct Direction {
    state: State,
    /// Reads in a row that filled the buffer.
    full_reads: u8,
}

enum State {
    /// Nothing is held.
    Reading,
    /// The receiver is slower than the sender.
    Writing(Tail),
    /// A bulk transfer.
    #[cfg(target_os = "linux")]
    Splicing(Transfer),
    /// The sender finished, and the receiver was told.
    Finished,
    /// The receiver takes nothing more.
    Broken,
}

struct Tail {
    bytes: Vec<u8>,
    written: usize,
}

impl Direction {
    const fn new(state: State) -> Self {
        Self { state, full_reads: 0 }
    }

    /// Ready when this direction has ended, well or not; an error if `from` failed.
    fn poll(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        moved: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let turn_ends = *moved + BYTES_PER_TURN;
        loop {
            if *moved >= turn_ends {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let next = match &mut self.state {
                State::Finished | State::Broken => return Poll::Ready(Ok(())),
                State::Reading => {
                    #[cfg(target_os = "linux")]
                    if self.full_reads >= FULL_READS_BEFORE_SPLICE {
                        ready!(from.poll_read_ready(cx))?;
                        if let Some(transfer) = Transfer::begin() {
                            self.state = State::Splicing(transfer);
                            continue;
                        }
                    }
                    ready!(self.poll_buffer(from, to, moved, cx))?
                }
                State::Writing(tail) => match ready!(poll_write_all(to, &tail.bytes, &mut tail.written, moved, cx)) {
                    Ok(()) => State::Reading,
                    Err(_) => State::Broken,
                },
                #[cfg(target_os = "linux")]
                State::Splicing(_) => ready!(self.poll_splice(from, to, moved, cx))?,
            };
            self.state = next;
        }
    }

    /// One read into the shared buffer, and the write of what it brought.
    fn poll_buffer(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        moved: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<State>> {
        with_buffer(|buffer| {
            let mut read = ReadBuf::new(buffer);
            // `poll_read` and not `try_read`: it notes a short read, which saves the next, fruitless, system call.
            ready!(Pin::new(from).poll_read(cx, &mut read))?;
            let bytes = read.filled();
            if bytes.is_empty() {
                return Poll::Ready(Ok(finish(to, cx)));
            }
            self.full_reads = if bytes.len() == BUFFER_SIZE { self.full_reads.saturating_add(1) } else { 0 };
            let mut written = 0;
            Poll::Ready(Ok(match poll_write_all(to, bytes, &mut written, moved, cx) {
                Poll::Ready(Ok(())) => State::Reading,
                Poll::Ready(Err(_)) => State::Broken,
                Poll::Pending => State::Writing(Tail { bytes: bytes[written..].to_vec(), written: 0 }),
            }))
        })
    }

    /// One round through the pipe. The pipe is given back as soon as the sender pauses; a transfer that was worth its
    /// pipe goes on with one when the sender does.
    #[cfg(target_os = "linux")]
    fn poll_splice(
        &mut self,
        from: &TcpStream,
        to: &mut TcpStream,
        moved: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<State>> {
        let State::Splicing(mut transfer) = std::mem::replace(&mut self.state, State::Broken) else {
            return Poll::Ready(Ok(State::Broken));
        };
        let filled = transfer.fill(from, cx)?;
        match transfer.poll_empty(to, cx, moved) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Ok(State::Broken)),
            Poll::Pending => {
                self.state = State::Splicing(transfer);
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(match filled {
            splice::Filled::Some => State::Splicing(transfer),
            splice::Filled::Drained => {
                if transfer.moved < BUFFER_SIZE as u64 {
                    self.full_reads = 0;
                }
                State::Reading
            }
            splice::Filled::End => finish(to, cx),
        }))
    }
}

/// Passes the end of the stream on. A TCP socket does that at once.
fn finish(to: &mut TcpStream, cx: &mut Context<'_>) -> State {
    match Pin::new(to).poll_shutdown(cx) {
        Poll::Ready(Ok(())) | Poll::Pending => State::Finished,
        Poll::Ready(Err(_)) => State::Broken,
    }
}

fn poll_write_all(
    to: &mut TcpStream,
    bytes: &[u8],
    written: &mut usize,
    moved: &mut u64,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while *written < bytes.len() {
        let n = ready!(Pin::new(&mut *to).poll_write(cx, &bytes[*written..]))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *written += n;
        *moved += n as u64;
    }
    Poll::Ready(Ok(()))
}
