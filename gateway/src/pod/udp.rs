//! Answering datagrams.

use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::{Shared, limits};

/// Answers each datagram with the greeting, or with itself when it begins with `echo `, until the pod stops.
///
/// The answer leaves from the address the system chooses, which is the one asked only if the socket is bound to it: a
/// pod with several addresses should listen on each, not on the wildcard.
pub(super) async fn answer(socket: UdpSocket, pod: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let mut datagram = vec![0; limits::DATAGRAM_BYTES_MAX];
    loop {
        let received = tokio::select! {
            _ = stopping.changed() => return,
            received = socket.recv_from(&mut datagram) => received,
        };
        let Ok((length, client)) = received else {
            tokio::time::sleep(limits::RETRY_PAUSE).await;
            continue;
        };
        pod.note_request(format_args!("datagram of {length} bytes from {client}"));
        let question = &datagram[..length];
        let reply = if question.starts_with(b"echo ") { question } else { &pod.greeting };
        // A client that is gone, or too small a network for the answer, is the client's loss: UDP promises nothing.
        let _ = socket.send_to(reply, client).await;
    }
}
