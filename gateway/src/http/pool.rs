//! Connections to pods that wait for their next request.

use std::{cell::RefCell, net::SocketAddr, time::Duration};

use ahash::{AHashMap, AHashSet};
use tokio::time::Instant;

use super::upstream::PodConnection;

/// The idle connections of one worker, by endpoint. The one used last is used next, so that the surplus ages and goes.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<AHashMap<SocketAddr, Vec<Idle>>>,
    per_endpoint: usize,
    max_age: Duration,
}

#[derive(Debug)]
struct Idle {
    connection: PodConnection,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(per_endpoint: usize, max_age: Duration) -> Self {
        Self { idle: RefCell::default(), per_endpoint, max_age }
    }

    /// A connection to `addr` that the pod has not closed, as far as is known.
    pub(crate) fn take(&self, addr: SocketAddr) -> Option<PodConnection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&addr)?;
        while let Some(Idle { connection, since }) = connections.pop() {
            if since.elapsed() >= self.max_age {
                connections.clear();
            } else if connection.is_idle() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, if there are not too many already.
    pub(crate) fn put(&self, addr: SocketAddr, connection: PodConnection) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(addr).or_default();
        if connections.len() < self.per_endpoint {
            connections.push(Idle { connection, since: Instant::now() });
        }
    }

    /// Closes what is too old, and forgets what the pods have closed.
    pub(crate) fn sweep(&self) {
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|idle| idle.connection.is_idle() && idle.since.elapsed() < self.max_age);
            !connections.is_empty()
        });
    }

    /// Closes the idle connections to these endpoints.
    pub(crate) fn forget(&self, addrs: &AHashSet<SocketAddr>) {
        if !addrs.is_empty() {
            self.idle.borrow_mut().retain(|addr, _| !addrs.contains(addr));
        }
    }
}
