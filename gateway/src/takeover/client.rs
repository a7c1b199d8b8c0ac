//! The new process's side: asks for the sockets, and says when the old one may go.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use socket2::{SockRef, Type};
use tidegate_l4::{
    listen::Socket,
    model::{Protocol, ServicePortName},
    table::Frontend,
    worker::HandedFlow,
};

use super::{
    MESSAGE_TIMEOUT,
    message::{FlowName, Message, Purpose, Remembered, Secret, SocketName, VERSION},
    wire::{Wire, WireError},
};

/// Why the sockets of the running process cannot be taken over. It goes on in each case.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The file is there, but cannot be used.
    #[error("cannot connect to {}: {error}", path.display())]
    Connect {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It does not speak as it should.
    #[error("the running process does not hand over its sockets: {0}")]
    Wire(#[from] WireError),
    /// It does not want to.
    #[error("the running process refuses to hand over its sockets: {0}")]
    Refused(String),
    /// It took this one for failed.
    #[error("the running process has waited too long for this one to become ready, and goes on")]
    GaveUp,
}

/// The sockets of the process before this one, until they are used. What nobody takes is closed when this is dropped.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: BTreeMap<SocketName, OwnedFd>,
    ticket_keys: Secret,
}

/// The process before this one, which serves until it is told to leave. If this is dropped instead, it goes on.
#[derive(Debug)]
pub struct Predecessor {
    wire: Wire,
    path: PathBuf,
    pid: u32,
}

/// Asks the process that answers at `path` for its sockets; `None` if nobody does. Blocking.
///
/// # Errors
/// If somebody is there, but does not hand them over.
pub fn inherit(path: &Path) -> Result<Option<(Inherited, Predecessor)>, TakeoverError> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        // No file, or one that a process left which is no more.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(TakeoverError::Connect { path: path.to_owned(), error }),
    };
    let mut wire = Wire::new(stream)?;
    wire.send(&Message::Hello { version: VERSION, pid: std::process::id() }, &[])?;
    let pid = match wire.receive(MESSAGE_TIMEOUT)?.0 {
        Message::Welcome { version: VERSION, pid } => pid,
        Message::Refused(why) => return Err(TakeoverError::Refused(why)),
        _ => return Err(WireError::Unexpected.into()),
    };
    let mut inherited = Inherited::default();
    loop {
        wire.send(&Message::Next, &[])?;
        match wire.receive(MESSAGE_TIMEOUT)? {
            (Message::Sockets(names), sockets) => {
                names.into_iter().zip(sockets).for_each(|(name, socket)| inherited.add(name, socket));
            }
            (Message::TicketKeys(keys), _) => inherited.ticket_keys = keys,
            (Message::End, _) => break,
            _ => return Err(WireError::Unexpected.into()),
        }
    }
    tracing::info!(pid, sockets = inherited.sockets.len(), "took over the sockets of the running process");
    Ok(Some((inherited, Predecessor { wire, path: path.to_owned(), pid })))
}

impl Inherited {
    /// Takes the listeners on an address, in the order of their numbers.
    pub fn tcp(&mut self, purpose: Purpose, addr: SocketAddr) -> Vec<TcpListener> {
        self.take(purpose, Protocol::Tcp, addr).map(TcpListener::from).collect()
    }

    /// Takes the UDP socket on an address.
    pub fn udp(&mut self, purpose: Purpose, addr: SocketAddr) -> Option<UdpSocket> {
        self.take(purpose, Protocol::Udp, addr).next().map(UdpSocket::from)
    }

    /// Takes all sockets of a purpose, those of each frontend in the order of their numbers.
    pub fn frontends(&mut self, purpose: Purpose) -> Vec<(Frontend, Vec<Socket>)> {
        let mut frontends: Vec<(Frontend, Vec<Socket>)> = Vec::new();
        for (name, socket) in self.sockets.extract_if(.., |name, _| name.purpose == purpose) {
            let frontend = Frontend { ip: name.addr.ip(), port: name.addr.port(), protocol: name.protocol };
            let socket = match name.protocol {
                Protocol::Tcp => Socket::Tcp(socket.into()),
                Protocol::Udp => Socket::Udp(socket.into()),
            };
            match frontends.last_mut().filter(|(last, _)| *last == frontend) {
                Some((_, sockets)) => sockets.push(socket),
                None => frontends.push((frontend, vec![socket])),
            }
        }
        frontends
    }

    /// The keys of TLS session tickets, as the process before this one had them; empty if it had none.
    pub fn ticket_keys(&self) -> &Secret {
        &self.ticket_keys
    }

    fn take(&mut self, purpose: Purpose, protocol: Protocol, addr: SocketAddr) -> impl Iterator<Item = OwnedFd> {
        let is_it = move |name: &SocketName| name.purpose == purpose && name.protocol == protocol && name.addr == addr;
        let taken: Vec<OwnedFd> =
            self.sockets.extract_if(.., |name, _| is_it(name)).map(|(_, socket)| socket).collect();
        taken.into_iter()
    }

    /// Believes nothing it cannot see: a socket that is not what its name says would serve the wrong clients.
    fn add(&mut self, name: SocketName, socket: OwnedFd) {
        if is_what_it_says(&name, &socket).unwrap_or(false) {
            self.sockets.insert(name, socket);
        } else {
            tracing::warn!(?name, "the running process sent a socket that is another one");
        }
    }
}

fn is_what_it_says(name: &SocketName, socket: &OwnedFd) -> io::Result<bool> {
    let socket = SockRef::from(socket);
    let addr = socket.local_addr()?.as_socket();
    let right_kind = match name.protocol {
        Protocol::Tcp => socket.r#type()? == Type::STREAM && listens(&socket)?,
        Protocol::Udp => socket.r#type()? == Type::DGRAM,
    };
    socket.set_nonblocking(true)?;
    Ok(right_kind && addr.is_some_and(|addr| (addr.ip(), addr.port()) == (name.addr.ip(), name.addr.port())))
}

#[cfg(target_os = "linux")]
fn listens(socket: &SockRef<'_>) -> io::Result<bool> {
    socket.is_listener()
}

#[cfg(not(target_os = "linux"))]
fn listens(_: &SockRef<'_>) -> io::Result<bool> {
    Ok(true)
}

/// What the process before this one leaves behind when it has gone.
#[derive(Debug, Default)]
pub struct Legacy {
    /// Its UDP flows. Each has the number of its frontend's socket among all of them, and not that within a worker.
    pub flows: Vec<HandedFlow>,
    /// What ClientIP affinity remembers.
    pub affinity: Vec<(ServicePortName, Vec<Remembered>)>,
}

impl Predecessor {
    /// Tells it to leave, and returns what it leaves behind: it receives no datagrams any more. Blocking.
    ///
    /// # Errors
    /// If it goes on nevertheless: then this process must not.
    pub fn leave(mut self) -> Result<Legacy, TakeoverError> {
        let mut legacy = Legacy::default();
        match self.ask_to_leave(&mut legacy) {
            Ok(()) => {}
            // It had given us up, or it is gone. Only in the first case somebody answers. If it is silent, it has been told
            // to leave and may, so that this process must serve.
            Err(WireError::Closed) if UnixStream::connect(&self.path).is_ok() => return Err(TakeoverError::GaveUp),
            Err(error) => {
                tracing::warn!(pid = self.pid, "the process before this one did not leave in good order: {error}");
            }
        }
        tracing::info!(pid = self.pid, flows = legacy.flows.len(), "the process before this one leaves");
        Ok(legacy)
    }

    fn ask_to_leave(&mut self, legacy: &mut Legacy) -> Result<(), WireError> {
        // If it does not even hear this, what it said last tells why.
        drop(self.wire.send(&Message::Leave, &[]));
        loop {
            match self.wire.receive(MESSAGE_TIMEOUT)? {
                (Message::Flows(names), sockets) => {
                    let handed = names.into_iter().zip(sockets).map(|(name, socket)| flow(name, socket));
                    legacy.flows.extend(handed);
                    self.wire.send(&Message::Next, &[])?;
                }
                (Message::Affinity(name, clients), _) => {
                    legacy.affinity.push((name, clients));
                    self.wire.send(&Message::Next, &[])?;
                }
                (Message::End, _) => return Ok(()),
                _ => return Err(WireError::Unexpected),
            }
        }
    }
}

fn flow(name: FlowName, socket: OwnedFd) -> HandedFlow {
    let frontend = Frontend { ip: name.frontend.ip(), port: name.frontend.port(), protocol: Protocol::Udp };
    let FlowName { client, endpoint, replied, number, .. } = name;
    HandedFlow { frontend, number: number.into(), client, endpoint, replied, socket: socket.into() }
}
