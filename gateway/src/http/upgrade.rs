//! A connection that has changed its protocol (WebSocket, or any other): bytes both ways, until one side ends or nothing moves.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tidegate_l4::endpoints::{InFlight, Permit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    account::Account,
    pod::{PodIo, Watchdog},
};

/// The buffer of a worker, shared by all its tunnels: an idle one owns none.
const BUFFER_BYTES: usize = 16 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// The pod's side of a connection whose protocol has changed.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) pod: PodIo,
    /// What the pod has said in the new protocol already.
    pub(crate) said: BytesMut,
    /// Closed after so long without a byte either way.
    pub(crate) idle: Duration,
    pub(crate) account: Account,
    pub(crate) _carried: InFlight,
    pub(crate) _permit: Option<Permit>,
}

impl Tunnel {
    /// Carries bytes until both sides have ended, one has failed, or nothing has moved for too long. `sent` is what the client
    /// has sent of the new protocol already.
    pub(crate) async fn carry(mut self, client: impl AsyncRead + AsyncWrite + Unpin, sent: BytesMut) -> io::Result<()> {
        let mut client = client;
        let (mut up, mut down) = (Direction::new(sent), Direction::new(std::mem::take(&mut self.said)));
        let (mut watchdog, mut last) = (Watchdog::default(), Instant::now());
        poll_fn(|cx| {
            let polled_up = up.poll(&mut client, &mut self.pod, cx)?;
            let polled_down = down.poll(&mut self.pod, &mut client, cx)?;
            let (sent, received) = (up.take_moved(), down.take_moved());
            if sent + received > 0 {
                last = Instant::now();
                self.account.carried(sent, received);
            }
            if polled_up.is_ready() && polled_down.is_ready() {
                return Poll::Ready(Ok(()));
            }
            ready!(watchdog.poll(cx, last + self.idle));
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }
}

/// One direction.
#[derive(Debug)]
struct Direction {
    /// What could not be written yet.
    pending: BytesMut,
    moved: u64,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Something is written and not flushed.
    Unflushed,
    /// The reader has ended; the writer is to be told.
    Ending,
    Ended,
}

impl Direction {
    fn new(pending: BytesMut) -> Self {
        Self { pending, moved: 0, state: State::Open }
    }

    fn take_moved(&mut self) -> u64 {
        std::mem::take(&mut self.moved)
    }

    /// Moves what can be moved; ready when the reader has ended and the writer knows.
    fn poll(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.pending.is_empty() {
                let n = ready!(Pin::new(&mut *writer).poll_write(cx, &self.pending))?;
                self.count(n)?;
                self.pending.advance(n);
            }
            match self.state {
                State::Open | State::Unflushed => match self.poll_move(reader, writer, cx) {
                    Poll::Ready(result) => result?,
                    Poll::Pending if self.state == State::Unflushed => {
                        ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                        self.state = State::Open;
                        return Poll::Pending;
                    }
                    Poll::Pending => return Poll::Pending,
                },
                State::Ending => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once, and writes what the writer takes at once.
    fn poll_move(
        &mut self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(reader).poll_read(cx, &mut read))?;
            let mut bytes = read.filled();
            if bytes.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            self.state = State::Unflushed;
            while !bytes.is_empty() {
                let Poll::Ready(written) = Pin::new(&mut *writer).poll_write(cx, bytes) else {
                    self.pending.extend_from_slice(bytes);
                    break;
                };
                let n = written?;
                self.count(n)?;
                bytes = &bytes[n..];
            }
            Poll::Ready(Ok(()))
        })
    }

    fn count(&mut self, n: usize) -> io::Result<()> {
        self.moved += n as u64;
        if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }
}
