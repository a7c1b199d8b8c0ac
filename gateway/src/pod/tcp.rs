//! Accepting connections and serving HTTP on them.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;

use super::proxy::{self, ProxiedAddresses};
use super::{Shared, http, limits};

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) pod: Arc<Shared>,
    /// Who is connected: the client the PROXY protocol names, else the other end of the socket.
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) proxied: Option<ProxiedAddresses>,
    /// Requests so far.
    pub(super) requests: AtomicU64,
}

/// Opens a listener that may reuse an address whose last connections are still in TIME_WAIT.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::BACKLOG)
}

/// Accepts connections until the pod stops, then waits for those it has.
pub(super) async fn accept(listener: Arc<TcpListener>, pod: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // In this order, because a pod that stops also makes `accept` fail.
            biased;
            _ = stopping.changed() => break,
            Some(_) = connections.join_next() => continue,
            accepted = next(&listener, &pod) => accepted,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            // The client gave up while it waited in the queue.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(limits::RETRY_PAUSE).await;
                continue;
            }
        };
        pod.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, peer, Arc::clone(&pod), stopping.clone(), slot));
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The next connection, once there is room for one.
async fn next(listener: &TcpListener, pod: &Shared) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(&pod.slots).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

/// Serves one connection to its end; `_slot` makes room for another then.
async fn serve(
    mut stream: TcpStream,
    peer: SocketAddr,
    pod: Arc<Shared>,
    mut stopping: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
) {
    // Both fail only if the client is gone already.
    let (Ok(()), Ok(local)) = (stream.set_nodelay(true), stream.local_addr()) else { return };
    let mut proxied = None;
    if pod.proxy_protocol {
        let header = tokio::time::timeout(limits::PROXY_HEADER_TIMEOUT, proxy::read_header(&mut stream));
        proxied = match tokio::select! { _ = stopping.changed() => return, header = header => header } {
            Ok(Ok(proxied)) => proxied,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "no usable PROXY protocol header"),
            Err(_) => return tracing::debug!(%peer, "the PROXY protocol header took too long"),
        };
    }
    // A listener on `[::]` sees IPv4 clients as `::ffff:192.0.2.1`: show the address the client has.
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let connection = Arc::new(Connection {
        pod,
        peer: proxied.map_or_else(|| canonical(peer), |proxied| proxied.source),
        local: canonical(local),
        proxied,
        requests: AtomicU64::new(0),
    });

    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEAD_TIMEOUT)
        .max_header_size(limits::HEAD_BYTES_MAX)
        .max_buf_size(limits::HEAD_BYTES_MAX)
        // A client that has said all may close its half and still wants the answer (RFC 9112, section 9.6).
        .half_close(true)
        // `X-Pod`, as people write it: the answers are made to be read.
        .title_case_headers(true);
    let service = service_fn(move |request| http::answer(Arc::clone(&connection), request));
    let mut serving = pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        _ = stopping.changed() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "the connection ended early");
    }
}
