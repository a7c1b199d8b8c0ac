//! The sockets of the DNS server: UDP and TCP on one port, with a limit on everything a client can hold.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::forward::{Forwarder, with_length};
use super::respond::{Responder, Step};
use super::zone::Zone;

/// TCP connections at once. More wait in the kernel's queue until one ends, which [`TCP_TIMEOUT`] sees to.
const MAX_TCP_CONNECTIONS: usize = 256;

/// The time for a whole question to arrive over TCP, for an answer to leave, and so also for a connection to be idle.
/// RFC 7766, section 6.2.3 asks for "a few seconds".
const TCP_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest question read. One question is at most 255 + 4 bytes long; the rest is room for EDNS options.
const MAX_QUESTION: usize = 4096;

/// The pause after a socket error such as "too many open files", so that it is not retried at full speed.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// How often port 0 is tried until the number that TCP got is free for UDP too.
const BIND_ATTEMPTS: usize = 16;

/// A bound DNS server; [`DnsServer::run`] starts answering.
#[derive(Debug)]
pub struct DnsServer {
    udp: UdpSocket,
    tcp: TcpListener,
    addr: SocketAddr,
}

impl DnsServer {
    /// Binds UDP and TCP to the same port. Port 0 takes one that is free for both.
    ///
    /// Answers to UDP come from the address the kernel prefers, so on a host with several addresses bind the one that
    /// clients use and not `0.0.0.0`.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let tcp = TcpListener::bind(addr).await?;
            let local = tcp.local_addr()?;
            match UdpSocket::bind(local).await {
                Ok(udp) => return Ok(Self { udp, tcp, addr: local }),
                Err(error) if addr.port() != 0 || attempts == BIND_ATTEMPTS => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// A server on sockets that are bound already, both to one address.
    ///
    /// # Errors
    /// If they are not, or cannot be used.
    pub fn adopt(udp: std::net::UdpSocket, tcp: std::net::TcpListener) -> io::Result<Self> {
        let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
        let addr = tcp.local_addr()?;
        if udp.local_addr()? == addr { Ok(Self { udp, tcp, addr }) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Second handles to its sockets.
    ///
    /// # Errors
    /// If the system has no more file descriptors.
    pub fn handles(&self) -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
        let udp = self.udp.as_fd().try_clone_to_owned()?.into();
        Ok((udp, self.tcp.as_fd().try_clone_to_owned()?.into()))
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until `shutdown` completes. While there is no zone, every question answers `SERVFAIL`.
    ///
    /// Names outside the zone are forwarded to `forward`, in order, or refused if it is empty. Questions under way at
    /// shutdown stay unanswered: every DNS client asks again.
    pub async fn run(
        self,
        zone: watch::Receiver<Option<Arc<Zone>>>,
        mut forward: Vec<SocketAddr>,
        shutdown: impl Future<Output = ()>,
    ) {
        // Forwarding to ourselves would ask the same question for ever.
        forward.retain(|server| *server != self.addr);
        let responder = Arc::new(Responder::new(zone, Forwarder::new(forward)));
        let udp = pin!(serve_udp(self.udp, responder.clone()));
        let tcp = pin!(serve_tcp(self.tcp, responder));
        tokio::select! {
            () = shutdown => {}
            () = udp => {}
            () = tcp => {}
        }
    }
}

async fn serve_udp(socket: UdpSocket, responder: Arc<Responder>) {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; MAX_QUESTION];
    loop {
        while waiting.try_join_next().is_some() {}
        let (len, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "receiving DNS questions over UDP failed");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        match responder.step(&buffer[..len], client, Protocol::Udp) {
            Step::Ignore => {}
            Step::Reply(packet) => send(&socket, &packet, client).await,
            Step::Ask(pending) => {
                let (socket, responder) = (socket.clone(), responder.clone());
                // Bounded by the forwarder, which answers at once when too many questions are under way.
                waiting.spawn(async move { send(&socket, &responder.finish(pending).await, client).await });
            }
        }
    }
}

async fn send(socket: &UdpSocket, packet: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(packet, client).await {
        tracing::debug!(%client, %error, "sending a DNS answer failed");
    }
}

async fn serve_tcp(listener: TcpListener, responder: Arc<Responder>) {
    let permits = Arc::new(Semaphore::new(MAX_TCP_CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Ok(permit) = permits.clone().acquire_owned().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => {
                let responder = responder.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve_connection(stream, client, &responder).await {
                        tracing::debug!(%client, %error, "DNS connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a DNS connection failed");
                sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(mut stream: TcpStream, client: SocketAddr, responder: &Responder) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(question) = timeout(TCP_TIMEOUT, read_message(&mut stream)).await?? {
        let packet = match responder.step(&question, client, Protocol::Tcp) {
            Step::Ignore => continue,
            Step::Reply(packet) => packet,
            Step::Ask(pending) => responder.finish(pending).await,
        };
        timeout(TCP_TIMEOUT, stream.write_all(&with_length(&packet))).await??;
    }
    Ok(())
}

/// The next message, or `None` when the client has closed the connection between messages.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u16().await {
        Ok(len) => usize::from(len),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if len > MAX_QUESTION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the question is too long"));
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests;
