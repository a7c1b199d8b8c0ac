//! Where all listening sockets of this process are, for its successor.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidegate_l4::{
    listen::Socket,
    model::{Protocol, ServicePortName},
    table::{Frontend, ServedPort},
    worker::HandedFlow,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::message::{Purpose, Remembered, SocketName};
use crate::{health_check, snapshot::Snapshot, tls::Material, worker::Workers};

/// All that is handed over.
#[derive(Clone, Debug)]
pub struct Estate {
    /// What the command line asked for.
    pub fixed: FixedSockets,
    /// They have the sockets of the frontends.
    pub workers: Workers,
    /// Has the sockets of the health checks.
    pub(crate) health_checks: mpsc::UnboundedSender<health_check::Command>,
    /// What is served: ClientIP affinity is remembered there.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Keeps the control thread from opening and closing sockets meanwhile.
    pub freeze: Freeze,
    /// Has the keys of TLS session tickets.
    pub tls: Arc<Material>,
}

impl Estate {
    /// Nothing but what the workers and the health checks have.
    pub(crate) fn new(
        workers: Workers,
        health_checks: mpsc::UnboundedSender<health_check::Command>,
        snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        freeze: Freeze,
        tls: Arc<Material>,
    ) -> Self {
        Self { fixed: FixedSockets::default(), workers, health_checks, snapshots, freeze, tls }
    }

    /// A handle to every listening socket. Blocks until all who have them have answered.
    pub(super) fn lend(&self) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        let mut all = self.fixed.lend()?;
        for (frontend, number, socket) in self.workers.lend()? {
            all.push(named(Purpose::Frontend, frontend, number, socket));
        }
        let (answer, answered) = oneshot::channel();
        // A server that is gone has no sockets.
        drop(self.health_checks.send(health_check::Command::Lend(answer)));
        let checks = answered.blocking_recv().unwrap_or_default();
        all.extend(checks.into_iter().map(|(frontend, l)| named(Purpose::HealthCheck, frontend, 0, Socket::Tcp(l))));
        Ok(all)
    }

    /// The clients that ClientIP affinity remembers, for each Service port that has it.
    pub(super) fn affinity(&self) -> Vec<(ServicePortName, Vec<Remembered>)> {
        let snapshot = self.snapshots.borrow().clone();
        let ports = snapshot.iter().flat_map(|snapshot| snapshot.table.ports());
        let remembered = |port: &Arc<ServedPort>| {
            let entries = port.affinity()?.entries().into_iter();
            let clients = entries.map(|(client, endpoint, last)| Remembered { client, endpoint, last }).collect();
            Some((port.config.name.clone(), clients))
        };
        ports.filter_map(remembered).collect()
    }

    /// Every UDP flow, each with the number of the frontend's socket. Blocks until no worker receives datagrams any more.
    pub(super) fn give_flows(&self) -> Vec<HandedFlow> {
        self.workers.give_flows()
    }
}

fn named(purpose: Purpose, frontend: Frontend, number: usize, socket: Socket) -> (SocketName, OwnedFd) {
    let Frontend { ip, port, protocol } = frontend;
    // More workers than that no machine has.
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    let socket = match socket {
        Socket::Tcp(listener) => listener.into(),
        Socket::Udp(socket) => socket.into(),
    };
    (SocketName { purpose, protocol, addr: SocketAddr::new(ip, port), number }, socket)
}

/// Second handles to the sockets that the command line asked for. They must go before the sockets are meant to be closed.
#[derive(Clone, Debug, Default)]
pub struct FixedSockets(Arc<Mutex<Vec<(SocketName, OwnedFd)>>>);

impl FixedSockets {
    /// Keeps a handle to each of these listeners, all bound to one address.
    ///
    /// # Errors
    /// If the system has no more file descriptors.
    pub fn keep_tcp<'a>(
        &self,
        purpose: Purpose,
        listeners: impl IntoIterator<Item = &'a TcpListener>,
    ) -> io::Result<()> {
        for (number, listener) in listeners.into_iter().enumerate() {
            self.keep(purpose, Protocol::Tcp, number, listener.local_addr()?, listener.try_clone()?.into());
        }
        Ok(())
    }

    /// Keeps a handle to this socket.
    ///
    /// # Errors
    /// If the system has no more file descriptors.
    pub fn keep_udp(&self, purpose: Purpose, socket: &UdpSocket) -> io::Result<()> {
        self.keep(purpose, Protocol::Udp, 0, socket.local_addr()?, socket.try_clone()?.into());
        Ok(())
    }

    /// Closes the handles.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn keep(&self, purpose: Purpose, protocol: Protocol, number: usize, addr: SocketAddr, socket: OwnedFd) {
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        self.lock().push((SocketName { purpose, protocol, addr, number }, socket));
    }

    fn lend(&self) -> io::Result<Vec<(SocketName, OwnedFd)>> {
        self.lock().iter().map(|(name, socket)| Ok((*name, socket.try_clone()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(SocketName, OwnedFd)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether sockets may be opened and closed: not while a successor has been told which there are, nor when the process ends.
#[derive(Clone, Debug, Default)]
pub struct Freeze(Arc<Mutex<bool>>);

impl Freeze {
    /// For whoever opens and closes: `None` while that must wait; it does not begin as long as the receipt lives.
    pub fn change(&self) -> Option<Changing<'_>> {
        let frozen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!*frozen).then_some(Changing(frozen))
    }

    /// Begins or ends. Waits for a change that is under way.
    pub(crate) fn set(&self, frozen: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = frozen;
    }
}

/// Receipt for a change under way.
#[derive(Debug)]
pub struct Changing<'a>(#[expect(dead_code, reason = "it is held, not looked at")] MutexGuard<'a, bool>);
