//! Moves the bytes of a bulk transfer inside the kernel, through a pipe (`splice(2)`): half the CPU of copying them.
//!
//! A pipe is borrowed from a small pool of the thread only while bytes flow, so idle connections hold none. It is
//! filled only when it is empty: then "would block" can only mean the socket, and no byte is ever left behind.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
use tokio::{io::Interest, net::TcpStream};

use crate::limits::{BUFFER_SIZE, MAX_IDLE_PIPES, MAX_PIPES, PIPE_SIZE};

/// A pipe in use, and what it holds.
pub(crate) struct Transfer {
    /// Gone only while it is dropped.
    pipe: Option<Pipe>,
    held: usize,
    /// Bytes that went through since it began.
    pub(crate) moved: u64,
}

/// What filling the pipe came to.
pub(crate) enum Filled {
    /// It holds bytes now.
    Some,
    /// Nothing to read for the moment.
    Drained,
    /// The sender has finished.
    End,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: usize,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Pipe>,
    in_use: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Transfer {
    /// Takes a pipe; `None` if none is to be had that would be worth it.
    pub(crate) fn begin() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if pool.in_use >= MAX_PIPES {
                return None;
            }
            let pipe = pool.idle.pop().or_else(|| Pipe::open().ok().filter(|pipe| pipe.size >= BUFFER_SIZE))?;
            pool.in_use += 1;
            Some(Self { pipe: Some(pipe), held: 0, moved: 0 })
        })
    }

    /// Fills the (empty) pipe with what `from` has.
    pub(crate) fn fill(&mut self, from: &TcpStream, cx: &mut Context<'_>) -> io::Result<Filled> {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.held == 0) else { return Ok(Filled::Some) };
        match from.poll_read_ready(cx)? {
            Poll::Pending => return Ok(Filled::Drained),
            Poll::Ready(()) => {}
        }
        let moved = from.try_io(Interest::READABLE, || {
            Ok(splice(from, None, &pipe.write, None, pipe.size, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
        });
        match moved {
            Ok(0) => Ok(Filled::End),
            Ok(n) => {
                self.held = n;
                Ok(Filled::Some)
            }
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock => Ok(Filled::Drained),
                // A kernel (or a sandbox that plays one) without splice for sockets: go on with the buffer.
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => Ok(Filled::Drained),
                _ => Err(e),
            },
        }
    }

    /// Empties the pipe into `to`, adding to `moved` what went.
    pub(crate) fn poll_empty(&mut self, to: &TcpStream, cx: &mut Context<'_>, moved: &mut u64) -> Poll<io::Result<()>> {
        let Some(pipe) = &self.pipe else { return Poll::Ready(Ok(())) };
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            let sent = to.try_io(Interest::WRITABLE, || {
                Ok(splice(&pipe.read, None, to, None, self.held, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
            });
            match sent {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.held -= n;
                    self.moved += n as u64;
                    *moved += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let pipe = self.pipe.take().filter(|_| self.held == 0);
        // While the thread ends the pool may be gone; the pipe is closed then.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.in_use -= 1;
            if pool.idle.len() < MAX_IDLE_PIPES {
                pool.idle.extend(pipe);
            }
        });
    }
}

impl Pipe {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Over the user's quota the pipe stays as it is, which may be too small to be of use: the caller looks.
        let size = match fcntl_setpipe_size(&write, PIPE_SIZE) {
            Ok(size) if size > 0 => size,
            Ok(_) | Err(_) => fcntl_getpipe_size(&write)?,
        };
        Ok(Self { read, write, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_bounded_and_come_back() {
        let held: Vec<Transfer> = std::iter::from_fn(Transfer::begin).take(MAX_PIPES + 1).collect();
        assert!(!held.is_empty() && held.len() <= MAX_PIPES);
        drop(held);
        POOL.with_borrow(|pool| {
            assert_eq!(pool.in_use, 0);
            assert!((1..=MAX_IDLE_PIPES).contains(&pool.idle.len()));
        });
    }

    #[test]
    fn a_pipe_that_still_holds_bytes_is_not_used_again() {
        let mut transfer = Transfer::begin().unwrap();
        transfer.held = 1;
        drop(transfer);
        POOL.with_borrow(|pool| assert!(pool.idle.is_empty() && pool.in_use == 0));
    }
}
