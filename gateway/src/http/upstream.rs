//! One connection to a pod.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    limits::HttpLimits,
    upload::{Progress, Upload},
    worker::Shared,
};

/// A connection to a pod, on which one request at a time can be sent. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct PodConnection {
    sender: SendRequest<Upload>,
    watchdog: Watchdog,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Not one byte of it was sent: here it is again.
    NotSent(Box<Request<Upload>>),
    /// The connection broke, or what came was not HTTP.
    Broken(hyper::Error),
    /// Nothing happened for too long.
    Silent,
}

impl PodConnection {
    /// Connects. What drives the connection is a task of its own, which ends with it.
    pub(crate) async fn open(addr: SocketAddr, limits: &HttpLimits) -> io::Result<Self> {
        let stream = timeout(limits.connect, TcpStream::connect(addr)).await??;
        stream.set_nodelay(true)?;
        let mut builder = Builder::new();
        builder.max_header_size(limits.answer_head_bytes);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Its errors reach whoever waits for an answer; without one, they concern nobody.
        tokio::task::spawn_local(async { drop(connection.await) });
        Ok(Self { sender, watchdog: Watchdog::new(limits.gap) })
    }

    /// Whether the exchange before is over, both ways, and the pod has not closed the connection.
    pub(crate) fn is_idle(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Upload>,
        upload: Option<&Progress>,
    ) -> Result<Response<Incoming>, SendError> {
        let started = Instant::now();
        let mut answer = pin!(self.sender.try_send_request(request));
        let watchdog = &mut self.watchdog;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = answer.as_mut().poll(cx) {
                return Poll::Ready(result.map_err(|mut error| match error.take_message() {
                    Some(request) => SendError::NotSent(Box::new(request)),
                    None => SendError::Broken(error.into_error()),
                }));
            }
            ready!(watchdog.poll(cx, upload.map_or(started, |upload| upload.at().max(started))));
            Poll::Ready(Err(SendError::Silent))
        })
        .await
    }

    /// Ready when there has been nothing since `last` for too long.
    pub(crate) fn poll_silence(&mut self, cx: &mut Context<'_>, last: Instant) -> Poll<()> {
        self.watchdog.poll(cx, last)
    }
}

/// One timer for the whole life of a connection: when it fires it looks whether it should have, and is set again if
/// not. So a request costs no timer of its own.
#[derive(Debug)]
struct Watchdog {
    sleep: Pin<Box<Sleep>>,
    gap: Duration,
}

impl Watchdog {
    fn new(gap: Duration) -> Self {
        Self { sleep: Box::pin(sleep(gap)), gap }
    }

    fn poll(&mut self, cx: &mut Context<'_>, last: Instant) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let deadline = last + self.gap;
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}

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
