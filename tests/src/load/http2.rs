//! HTTP/2 clients.

use tokio::time::sleep;

use super::{Failure, MESSAGE_PAUSE, Worker, connect, tunnel};
use crate::http2::Http2Client;

/// Requests on one connection, until the server says goodbye.
pub(super) async fn requests(worker: &Worker, host: &str) -> Result<(), Failure> {
    let mut client = Http2Client::new(connect(worker, &worker.http2).await?.stream).await?;
    while worker.goes_on() {
        let Some((status, body)) = client.get(host).await? else { return Ok(()) };
        if status != 200 || !body.starts_with(b"You've hit ") {
            return Err(format!("answered {status}"));
        }
        worker.done();
        sleep(MESSAGE_PAUSE).await;
    }
    Ok(())
}

/// Streams of messages on one connection, until the server says goodbye: a stream that has begun is ended properly.
pub(super) async fn streams(worker: &Worker, host: &str, lasting: bool) -> Result<(), Failure> {
    let mut client = Http2Client::new(connect(worker, &worker.http2).await?.stream).await?;
    while worker.goes_on() {
        let Some(mut stream) = client.stream(host).await? else { return Ok(()) };
        for n in worker.messages(lasting) {
            stream.echo(&format!("message {n}")).await.map_err(|error| format!("message {n}: {error}"))?;
            worker.done();
            sleep(MESSAGE_PAUSE).await;
        }
        stream.end().await?;
    }
    Ok(())
}

/// One WebSocket on a connection of its own.
pub(super) async fn web_socket(worker: &Worker, host: &str, lasting: bool) -> Result<(), Failure> {
    let mut client = Http2Client::new(connect(worker, &worker.http2).await?.stream).await?;
    let Some(socket) = client.web_socket(host).await? else { return Ok(()) };
    tunnel::messages(worker, socket, lasting).await
}
