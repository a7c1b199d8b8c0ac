//! WebSocket clients.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};

use super::{Failure, MESSAGE_PAUSE, Worker, connect, within};
use crate::{PATIENCE, web_socket::WebSocket};

/// One WebSocket, by the upgrade of an HTTP/1.1 connection.
pub(super) async fn web_socket(worker: &Worker, host: &str, lasting: bool) -> Result<(), Failure> {
    let stream = connect(worker, &worker.http1).await?.stream;
    let opened = within(PATIENCE, WebSocket::open(stream, host)).await?;
    messages(worker, opened.map_err(|error| format!("no WebSocket: {error}"))?, lasting).await
}

/// A few messages on a WebSocket, or as many as there is time for.
pub(super) async fn messages<S>(worker: &Worker, mut socket: WebSocket<S>, lasting: bool) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for n in worker.messages(lasting) {
        let failed = |error: io::Error| format!("message {n}: {error}");
        within(PATIENCE, socket.echo(&format!("message {n}"))).await?.map_err(failed)?;
        worker.done();
        sleep(MESSAGE_PAUSE).await;
    }
    within(PATIENCE, socket.close()).await?.map_err(|error| format!("close: {error}"))
}
