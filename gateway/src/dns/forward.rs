//! Names that are not ours, asked of other servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// One server's time to answer, over UDP and then TCP: glibc gives us 5 s, so two servers can be tried within it.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// The time for all servers together, below the 5 s after which glibc and musl ask again.
const FORWARD_TIMEOUT: Duration = Duration::from_millis(4500);

/// Questions under way at once: each holds a socket, and a default process may have 1,024. More answer `SERVFAIL`.
const MAX_FORWARDED: usize = 256;

/// The largest UDP answer to ask for: what fits in one packet everywhere (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

/// Room for a server that sends more than it was asked to.
const UDP_BUFFER: usize = 4096;

/// The servers to forward to, with the number of questions under way bounded.
#[derive(Debug)]
pub(super) struct Forwarder {
    servers: Vec<SocketAddr>,
    /// Where to start: moved on when a server fails, so that a dead one is not waited for by every question.
    first: AtomicUsize,
    permits: Semaphore,
}

/// A question to pass on.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) name: Name,
    pub(super) record_type: RecordType,
    pub(super) recursion_desired: bool,
    pub(super) checking_disabled: bool,
    pub(super) dnssec_ok: bool,
}

impl Forwarder {
    /// `None` without servers: nothing is forwarded.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Option<Self> {
        let permits = Semaphore::new(MAX_FORWARDED);
        (!servers.is_empty()).then(|| Self { servers, first: AtomicUsize::new(0), permits })
    }

    /// The first good answer, or the last bad one; `None` when no server answered, or too many questions are under way.
    pub(super) async fn resolve(&self, question: &Question) -> Option<Message> {
        let Ok(_permit) = self.permits.try_acquire() else {
            tracing::debug!(name = %question.name, "too many forwarded questions: answering SERVFAIL");
            return None;
        };
        let mut last = None;
        // The last bad answer survives the deadline.
        let good = timeout(FORWARD_TIMEOUT, self.first_good(question, &mut last)).await.ok().flatten();
        good.or(last)
    }

    async fn first_good(&self, question: &Question, last: &mut Option<Message>) -> Option<Message> {
        let start = self.first.load(Ordering::Relaxed);
        for step in 0..self.servers.len() {
            let server = self.servers[start.wrapping_add(step) % self.servers.len()];
            match timeout(ATTEMPT_TIMEOUT, exchange(server, question)).await.unwrap_or_else(|late| Err(late.into())) {
                Ok(message) if is_good(&message) => return Some(message),
                Ok(message) => *last = Some(message),
                Err(error) => {
                    tracing::debug!(%server, name = %question.name, %error, "no answer: trying the next server");
                    self.first.store(start.wrapping_add(step + 1) % self.servers.len(), Ordering::Relaxed);
                }
            }
        }
        None
    }
}

/// Whether another server could do no better.
fn is_good(message: &Message) -> bool {
    !matches!(message.metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp)
}

async fn exchange(server: SocketAddr, question: &Question) -> io::Result<Message> {
    let query = Query::query(question.name.clone(), question.record_type);
    // A random identifier from a fresh socket with a random port: what a forger has to guess (RFC 5452).
    let mut message = Message::query();
    message.metadata.recursion_desired = question.recursion_desired;
    message.metadata.checking_disabled = question.checking_disabled;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(question.dnssec_ok);
    message.set_edns(edns);
    let packet = message.to_vec().map_err(io::Error::other)?;

    let mut answer = parse(&exchange_udp(server, &packet).await?)?;
    if answer.metadata.truncation {
        answer = parse(&exchange_tcp(server, &packet).await?)?;
    }
    if answer.queries != [query] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"));
    }
    Ok(answer)
}

async fn exchange_udp(server: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; UDP_BUFFER];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // A stranger's guess is no reason to stop waiting for the true answer.
        if is_answer_to(packet, &buffer[..len]) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

async fn exchange_tcp(server: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&with_length(packet)).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    if is_answer_to(packet, &answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The same identifier, a response, and one question: enough to be worth parsing.
fn is_answer_to(query: &[u8], answer: &[u8]) -> bool {
    answer.len() >= 12 && answer[..2] == query[..2] && answer[2] & 0x80 != 0 && answer[4..6] == [0, 1]
}

fn parse(packet: &[u8]) -> io::Result<Message> {
    Message::from_vec(packet).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A message as it goes over TCP (RFC 1035, section 4.2.2); none is longer than 65,535 bytes, which the encoder sees to.
pub(super) fn with_length(packet: &[u8]) -> Vec<u8> {
    let len = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    let mut framed = Vec::with_capacity(2 + usize::from(len));
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(&packet[..usize::from(len)]);
    framed
}
