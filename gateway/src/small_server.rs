//! An HTTP server for small answers: to operators and load balancers, never to the clients of the data plane.
//!
//! One request a connection, and one deadline for all of it: that bounds slow readers and slow writers alike.

use std::{convert::Infallible, future::Future, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};

/// For connections that are open when the server stops.
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
    /// For a connection from beginning to end.
    pub(crate) connection_timeout: Duration,
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
    Answering: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(name, stream, limits, answer.clone()));
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
    // Whoever is not done by then is cut when `connections` is dropped.
    drop(time::timeout(SHUTDOWN_GRACE, async { while connections.join_next().await.is_some() {} }).await);
}

async fn connection<F, Answering>(name: &'static str, stream: TcpStream, limits: Limits, answer: F)
where
    F: Fn(Request<Incoming>) -> Answering,
    Answering: Future<Output = Response<Full<Bytes>>>,
{
    let service = service_fn(|request| {
        let answering = answer(request);
        async move { Ok::<_, Infallible>(answering.await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout);
    builder.max_buf_size(limits.head_bytes).keep_alive(false);
    let served = time::timeout(limits.connection_timeout, builder.serve_connection(TokioIo::new(stream), service));
    match served.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("{name}: {error}"),
        Err(_) => tracing::debug!("{name}: a connection was cut after {:?}", limits.connection_timeout),
    }
}
