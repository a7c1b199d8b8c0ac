//! HTTP/2 with a pod: one connection carries many requests. hyper speaks it; here is who uses which connection.

use std::{
    cell::{Cell, OnceCell, RefCell},
    error::Error,
    io,
    rc::Rc,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;

use super::io::PodIo;
use crate::http::{limits::HttpLimits, local::LocalExec, upload::Upload};

/// The connections to one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Http2Pool {
    connections: RefCell<Vec<Http2Connection>>,
    /// Whoever needs a new one waits here for the one that is being opened, so that a burst opens one and not hundreds.
    pub(crate) opening: Mutex<()>,
}

impl Http2Pool {
    /// The connection with the fewest streams, if one has room.
    pub(crate) fn take(&self, most: u32) -> Option<Http2Connection> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.sender.is_closed());
        let least = connections.iter().min_by_key(|connection| connection.streams.get())?;
        (least.streams.get() < most).then(|| least.clone())
    }

    pub(crate) fn put(&self, connection: Http2Connection) {
        self.connections.borrow_mut().push(connection);
    }

    /// Lets go of connections that are closed, or that nobody uses; says whether any is left.
    pub(crate) fn sweep(&self) -> bool {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| {
            let is_idle = connection.streams.get() == 0;
            let was_idle = connection.idle.replace(is_idle);
            !(connection.sender.is_closed() || was_idle && is_idle)
        });
        !connections.is_empty()
    }
}

/// A connection that carries many requests. Clones are the same connection; it closes when the last of them is gone.
#[derive(Clone, Debug)]
pub(crate) struct Http2Connection {
    sender: SendRequest<Upload>,
    streams: Rc<Cell<u32>>,
    /// Nobody has used it since the last sweep.
    idle: Rc<Cell<bool>>,
    /// What it failed of, once it has.
    fate: Rc<OnceCell<String>>,
}

impl Http2Connection {
    /// Opens a connection on a stream; what drives it is a task of its own, which ends with it.
    pub(crate) async fn open(io: PodIo, limits: &HttpLimits) -> io::Result<Self> {
        let mut builder = Builder::new(LocalExec);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.h2_stream_window)
            .initial_connection_window_size(limits.h2_connection_window)
            .max_header_list_size(u32::try_from(limits.answer_head_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(limits.h2_ping)
            .keep_alive_timeout(limits.h2_ping);
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        let fate = Rc::<OnceCell<String>>::default();
        let told = fate.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                // It ends once.
                drop(told.set(with_reasons(&error)));
            }
        });
        Ok(Self { sender, streams: Rc::default(), idle: Rc::default(), fate })
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&mut self, request: Request<Upload>) -> Result<(Response<Incoming>, Stream), StreamError> {
        self.streams.set(self.streams.get() + 1);
        self.idle.set(false);
        let stream = Stream(self.streams.clone());
        if let Err(error) = self.sender.ready().await {
            return Err(StreamError { error: self.reason(&error), sent: false });
        }
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok((response, stream)),
            Err(mut error) => {
                let sent = error.take_message().is_none();
                let error = error.into_error();
                Err(StreamError { sent: sent && !is_untouched(&error), error: self.reason(&error) })
            }
        }
    }

    /// Why there is no answer. A request that finds the connection gone is only told that it was cancelled: why it went, the
    /// connection knows.
    fn reason(&self, error: &hyper::Error) -> Option<io::Error> {
        let reason = match self.fate.get() {
            Some(fate) => fate.clone(),
            None if error.is_canceled() || error.is_closed() => return None,
            None => with_reasons(error),
        };
        Some(io::Error::other(reason))
    }
}

/// An error and what caused it: hyper's own words are never more than "http2 error".
fn with_reasons(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// A stream in the books of its connection.
#[derive(Debug)]
pub(crate) struct Stream(Rc<Cell<u32>>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct StreamError {
    /// Nothing if the pod just closed the connection.
    pub(crate) error: Option<io::Error>,
    /// Whether the pod may have done something with the request.
    pub(crate) sent: bool,
}

/// Whether the pod says that it has not looked at the request (RFC 9113 8.7): it has refused the stream, or its GOAWAY names an
/// earlier one as the last. (h2 gives the error of a GOAWAY to the streams above that one, and to no other.)
fn is_untouched(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = error.source();
    }
    false
}
