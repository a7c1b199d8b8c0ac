//! Messages and the sockets beside them over a Unix stream socket. Blocking: only threads of their own use it.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{
    MESSAGE_TIMEOUT,
    message::{DecodeError, HEAD_BYTES, MAX_SOCKETS, Message},
};

/// Room for the sockets of one message.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(MAX_SOCKETS));

/// Bytes read at once.
const READ_BYTES: usize = 4 << 10;

/// Why the other process cannot be spoken with.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// What the system said.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It closed the connection.
    #[error("the other process has closed the connection")]
    Closed,
    /// It sent something wrong.
    #[error("the other process sent {0}")]
    Decode(#[from] DecodeError),
    /// It sent something right at the wrong time.
    #[error("the other process sent what was not asked for")]
    Unexpected,
    /// Sockets were lost on the way.
    #[error("sockets were lost on the way: too many open files? Raise the limit (`ulimit -n`, LimitNOFILE=)")]
    SocketsLost,
    /// It belongs to another user.
    #[error("the other process belongs to user {0}, and only this one's own user or root may hand sockets over")]
    Stranger(u32),
}

/// A connection between the two processes.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    bytes: Vec<u8>,
    sockets: VecDeque<OwnedFd>,
}

impl Wire {
    /// A connection, if it is one with a process that may know about our sockets.
    pub(super) fn new(stream: UnixStream) -> Result<Self, WireError> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(MESSAGE_TIMEOUT))?;
        check_peer(&stream)?;
        Ok(Self { stream, bytes: Vec::new(), sockets: VecDeque::new() })
    }

    /// Sends a message, with its sockets.
    pub(super) fn send(&mut self, message: &Message, sockets: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let bytes = message.encode();
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(DecodeError::TooLong.into());
        }
        // The sockets travel with the first byte, however many of the others fit.
        let sent = sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
            .map_err(io::Error::from)?;
        self.stream.write_all(bytes.get(sent..).unwrap_or_default())?;
        Ok(())
    }

    /// The next message, with its sockets.
    pub(super) fn receive(&mut self, within: Duration) -> Result<(Message, Vec<OwnedFd>), WireError> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(head) = self.bytes.first_chunk::<HEAD_BYTES>() {
                let length = Message::length(*head)?;
                if self.bytes.len() >= length {
                    let rest = self.bytes.split_off(length);
                    let message = Message::decode(&std::mem::replace(&mut self.bytes, rest))?;
                    if self.sockets.len() < message.sockets() {
                        return Err(WireError::SocketsLost);
                    }
                    let sockets = self.sockets.drain(..message.sockets()).collect();
                    return Ok((message, sockets));
                }
            }
            self.fill(deadline)?;
        }
    }

    /// Reads some bytes, and what sockets come with them.
    fn fill(&mut self, deadline: Instant) -> Result<(), WireError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut buffer = [0; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.stream, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC);
        for message in control.drain() {
            match message {
                RecvAncillaryMessage::ScmRights(sockets) => self.sockets.extend(sockets),
                _ => return Err(WireError::Unexpected),
            }
        }
        let received = match received {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(rustix::io::Errno::CONNRESET) => return Err(WireError::Closed),
            Err(rustix::io::Errno::AGAIN) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            received => received.map_err(io::Error::from)?,
        };
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::SocketsLost);
        }
        if self.sockets.len() > MAX_SOCKETS {
            return Err(DecodeError::TooLong.into());
        }
        if received.bytes == 0 {
            return Err(WireError::Closed);
        }
        self.bytes.extend(&buffer[..received.bytes]);
        Ok(())
    }
}

/// The file's mode keeps others out; this holds even where the directory does not.
#[cfg(target_os = "linux")]
fn check_peer(stream: &UnixStream) -> Result<(), WireError> {
    let peer = rustix::net::sockopt::socket_peercred(stream).map_err(io::Error::from)?.uid;
    if peer.is_root() || peer == rustix::process::geteuid() { Ok(()) } else { Err(WireError::Stranger(peer.as_raw())) }
}

#[cfg(not(target_os = "linux"))]
fn check_peer(_: &UnixStream) -> Result<(), WireError> {
    Ok(())
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
