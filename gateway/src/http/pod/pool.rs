//! Connections to pods that wait for their next request.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use ahash::{AHashMap, AHashSet};
use tokio::time::Instant;

use super::{http1::Http1Connection, http2::Http2Pool};
use crate::tls::{BackendTls, Identity};

/// What a connection leads to, and how: connections of one key can stand in for each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    addr: SocketAddr,
    tls: Option<Identity>,
}

impl PoolKey {
    pub(crate) fn new(addr: SocketAddr, tls: Option<&BackendTls>) -> Self {
        Self { addr, tls: tls.map(|tls| tls.identity) }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// The connections of one worker, by endpoint. The HTTP/1 one used last is used next, so that the surplus ages and goes.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: RefCell<AHashMap<PoolKey, Vec<Idle>>>,
    http2: RefCell<AHashMap<PoolKey, Rc<Http2Pool>>>,
    per_endpoint: usize,
    max_age: Duration,
}

#[derive(Debug)]
struct Idle {
    connection: Http1Connection,
    until: Instant,
}

impl Pool {
    pub(crate) fn new(per_endpoint: usize, max_age: Duration) -> Self {
        Self { idle: RefCell::default(), http2: RefCell::default(), per_endpoint, max_age }
    }

    /// A connection that the pod has not closed, as far as is known.
    pub(crate) fn take(&self, key: &PoolKey, now: Instant) -> Option<Http1Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(key)?;
        while let Some(Idle { connection, until }) = connections.pop() {
            if now < until && connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, if there are not too many already. It was in use at `now`.
    pub(crate) fn put(&self, key: PoolKey, connection: Http1Connection, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(key).or_default();
        if connections.len() < self.per_endpoint {
            let kept = connection.kept_for.map_or(self.max_age, |kept| kept.min(self.max_age));
            connections.push(Idle { connection, until: now + kept });
        }
    }

    /// The HTTP/2 connections of a key.
    pub(crate) fn http2(&self, key: &PoolKey) -> Rc<Http2Pool> {
        if let Some(pool) = self.http2.borrow().get(key) {
            return pool.clone();
        }
        self.http2.borrow_mut().entry(key.clone()).or_default().clone()
    }

    /// Closes what is too old, and forgets what the pods have closed.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, connections| {
            connections.retain(|idle| idle.connection.is_usable() && now < idle.until);
            !connections.is_empty()
        });
        self.http2.borrow_mut().retain(|_, pool| pool.sweep() || Rc::strong_count(pool) > 1);
    }

    /// Closes the idle connections to these endpoints.
    pub(crate) fn forget(&self, addrs: &AHashSet<SocketAddr>) {
        if !addrs.is_empty() {
            self.idle.borrow_mut().retain(|key, _| !addrs.contains(&key.addr()));
            self.http2.borrow_mut().retain(|key, _| !addrs.contains(&key.addr()));
        }
    }
}
