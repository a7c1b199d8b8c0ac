//! One client's connection, from accept to close.

use std::{cell::Cell, future::poll_fn, net::SocketAddr, pin::Pin, rc::Rc, task::Poll};

use http::HeaderValue;
use hyper::{
    server::conn::http1::{self, Connection},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    client_io::ClientIo,
    handle::handle,
    limits::HttpLimits,
    stats::ConnectionKind,
    worker::{Phase, Shared},
};
use crate::access_log::ConnectionFacts;

/// What reading on after an early answer uses for a buffer.
const LINGER_BUFFER_BYTES: usize = 16 << 10;

/// A client, as its requests see it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) worker: Rc<Shared>,
    /// Its address, ready to be sent to pods.
    pub(crate) ip: HeaderValue,
    /// The port it connected to.
    pub(crate) port: HeaderValue,
    /// A request was not read to its end.
    pub(crate) unread: Cell<bool>,
    /// The connection must end with a reset, because its proper end would look like the end of an answer.
    pub(crate) reset: Cell<bool>,
    /// What the access log says about the connection, if there is one.
    pub(crate) facts: Option<Rc<ConnectionFacts>>,
}

/// Serves a client until it or we have had enough.
pub(crate) async fn serve(worker: Rc<Shared>, stream: TcpStream, peer: SocketAddr, port: HeaderValue) {
    let ip = HeaderValue::try_from(peer.ip().to_canonical().to_string()).expect("an IP address is a valid value");
    let facts = worker.log().map(|log| {
        let local = stream.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        Rc::new(log.connection(peer, local, None))
    });
    let kinds = [ConnectionKind::Http, ConnectionKind::H1];
    let _open = kinds.map(|kind| worker.stats.open(kind));
    let client = Rc::new(Client { worker, ip, port, unread: Cell::new(false), reset: Cell::new(false), facts });
    let worker = &client.worker;
    let mut phase = worker.phase.subscribe();
    let io = TokioIo::new(ClientIo::new(stream, worker.stats.clone(), worker.limits.client_stall));
    let service = service_fn(|request| handle(client.clone(), request));
    let mut builder = builder(&worker.limits);
    // Taken from the queue while draining: its first request, probably here already, is also its last.
    builder.keep_alive(*phase.borrow_and_update() == Phase::Serving);
    let mut connection = builder.serve_connection(io, service);
    let result = loop {
        tokio::select! {
            biased;
            result = &mut connection => break result,
            changed = phase.changed() => match *phase.borrow() {
                Phase::Serving if changed.is_ok() => {}
                Phase::Draining if changed.is_ok() => {
                    // A request that has arrived is served before an idle connection is closed.
                    tokio::task::yield_now().await;
                    if let Some(result) = poll_once(&mut connection).await {
                        break result;
                    }
                    Pin::new(&mut connection).graceful_shutdown();
                }
                Phase::Serving | Phase::Draining | Phase::Cut => return,
            }
        }
    };
    let stream = connection.into_parts().io.into_inner().into_inner();
    if client.reset.get() {
        drop(stream.set_zero_linger());
    } else if client.unread.get() || result.is_err_and(|error| error.is_parse()) {
        let limits = &client.worker.limits;
        drop(timeout(limits.linger, linger(stream, limits.linger_bytes)).await);
    }
}

fn builder(limits: &HttpLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head)
        .max_header_size(limits.request_head_bytes)
        .half_close(false);
    builder
}

/// What a connection has come to with what is there already.
async fn poll_once<S>(connection: &mut Connection<TokioIo<ClientIo>, S>) -> Option<hyper::Result<()>>
where
    Connection<TokioIo<ClientIo>, S>: Future<Output = hyper::Result<()>> + Unpin,
    S: hyper::service::HttpService<hyper::body::Incoming>,
{
    poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Reads what the client still sends and throws it away. Closing a socket with unread bytes resets the connection, and
/// a reset destroys the answer on its way (RFC 9112 9.6).
async fn linger(mut stream: TcpStream, mut bytes: usize) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut buffer = vec![0; LINGER_BUFFER_BYTES];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        bytes = bytes.saturating_sub(n);
        if bytes == 0 {
            return;
        }
    }
}
