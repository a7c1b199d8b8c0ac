//! An HTTP server for small answers: to operators and load balancers, never to the clients of the data plane.
//!
//! One request a connection, and one deadline for all of it: that bounds slow readers and slow writers alike. Only an answer that
//! is a stream lasts for as long as somebody reads it, or until the server stops.

mod content;
mod socket;

use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::pin,
    time::Duration,
};

pub(crate) use content::Content;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket::Socket;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time,
};

/// For connections that are open when the server stops. Streams get none of it: there is no end to wait for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Pause after the process ran out of file descriptors, for others to close theirs.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What one listener spends on those who ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open connections. Others wait in the kernel's queue.
    pub(crate) connections: usize,
    /// Bytes of a request head.
    pub(crate) head_bytes: usize,
    /// For a request head to arrive.
    pub(crate) head_timeout: Duration,
    /// For a connection from beginning to end, unless its answer is a stream.
    pub(crate) connection_timeout: Duration,
    /// A client that takes not one byte of its answer for so long is cut.
    pub(crate) client_stall: Duration,
}

/// Answers every request until `shutdown` completes; `name` is for the log.
pub(crate) async fn serve<F, Answering>(
    name: &'static str,
    listener: TcpListener,
    limits: Limits,
    answer: F,
    shutdown: impl Future<Output = ()>,
) where
    F: Fn(Request<Incoming>) -> Answering + Clone + Send + Sync + 'static,
    Answering: Future<Output = Response<Content>> + Send + 'static,
{
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    let (stop, stopping) = watch::channel(false);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(name, stream, limits, answer.clone(), stopping.clone()));
                }
                Err(error) => {
                    tracing::warn!("the {name} cannot accept a connection: {error}");
                    time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }
    // Nobody new: whoever wants the port next can have it.
    drop(listener);
    stop.send_replace(true);
    // Whoever is not done by then is cut when `connections` is dropped.
    drop(time::timeout(SHUTDOWN_GRACE, async { while connections.join_next().await.is_some() {} }).await);
}

async fn connection<F, Answering>(
    name: &'static str,
    stream: TcpStream,
    limits: Limits,
    answer: F,
    mut stopping: watch::Receiver<bool>,
) where
    F: Fn(Request<Incoming>) -> Answering,
    Answering: Future<Output = Response<Content>>,
{
    let streams = watch::channel(false).0;
    let service = service_fn(|request| {
        let (answering, streams) = (answer(request), &streams);
        async move {
            let response = answering.await;
            streams.send_replace(matches!(response.body(), Content::Stream(_)));
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout);
    builder.max_buf_size(limits.head_bytes).keep_alive(false);
    let socket = Socket::new(stream, limits.client_stall);
    let late = async {
        time::sleep(limits.connection_timeout).await;
        if *streams.borrow() {
            pending::<()>().await;
        }
    };
    let mut streaming = streams.subscribe();
    let stopped = async {
        drop(stopping.wait_for(|stop| *stop).await);
        drop(streaming.wait_for(|streaming| *streaming).await);
    };
    tokio::select! {
        served = builder.serve_connection(TokioIo::new(socket), service) => match served {
            Ok(()) => {}
            Err(error) => tracing::debug!("{name}: {error}"),
        },
        () = late => tracing::debug!("{name}: a connection was cut after {:?}", limits.connection_timeout),
        () = stopped => {}
    }
}

#[cfg(test)]
mod tests;
