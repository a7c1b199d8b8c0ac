//! The pods' side of the data plane: connections to them, and one exchange on one of these.
//!
//! `http1` is our own codec, with `head`, `framing` and `sending` for its parts, and `block` for the memory that is read into; `http2` is
//! hyper's. `pool` keeps connections.

mod block;
pub(crate) mod framing;
pub(crate) mod head;
mod http1;
mod http2;
mod io;
mod pool;
mod sending;
mod watchdog;

use std::{fmt, net::SocketAddr, rc::Rc, sync::Arc};

pub(crate) use head::AnswerHead;
pub(crate) use http1::{Broken, Exchange, Http1Connection};
pub(crate) use http2::{Http2Connection, Stream, StreamError};
pub(crate) use io::PodIo;
pub(crate) use pool::{Pool, PoolKey};
pub(crate) use sending::Coding;
pub(crate) use watchdog::Watchdog;

use super::worker::Shared;

/// Which pod a connection leads to, as a log names it.
#[derive(Clone, Debug)]
pub(crate) struct PodAddress {
    pub(crate) addr: SocketAddr,
    pub(crate) pod: Option<Arc<str>>,
    pub(crate) service: Arc<str>,
}

impl PodAddress {
    /// Tells the operator what the pod did, unless too much is being told already.
    pub(crate) fn warn(&self, worker: &Rc<Shared>, did: &dyn fmt::Display) {
        if let Some(held_back) = worker.warnings.pass(std::time::Instant::now()) {
            let pod = self.pod.as_deref().unwrap_or("?");
            tracing::warn!(service = %self.service, pod, addr = %self.addr, held_back, "the pod {did}");
        }
    }
}
