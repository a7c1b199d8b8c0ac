//! What the two processes say to each other: messages to bytes and back, without I/O.
//!
//! A message is its kind (one byte), the length of the rest (four bytes, big endian), and the rest. The sockets it names travel
//! beside it, in the same order. Whoever sends more than the limits allow, or anything that is not a message, is not spoken to
//! any further.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tidegate_l4::{
    affinity::UnixMillis,
    model::{Protocol, ServicePortName},
};

/// The version of all this. A new process that speaks another one says so, and the old one goes on.
pub const VERSION: u16 = 1;

/// Sockets in one message: the kernel passes at most 253 at a time (`SCM_MAX_FD`).
pub const MAX_SOCKETS: usize = 128;

/// Clients in one message, for the same reason as [`MAX_BYTES`].
pub const MAX_CLIENTS: usize = 256;

/// Bytes of a message after its length: above what [`MAX_SOCKETS`] names take, and [`MAX_CLIENTS`] clients.
pub const MAX_BYTES: usize = 16 << 10;

/// Kind and length.
pub const HEAD_BYTES: usize = 5;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// New: here I am. What are your sockets?
    Hello {
        /// Its [`VERSION`].
        version: u16,
        /// Its process id, for the log.
        pid: u32,
    },
    /// Old: the sockets follow, whenever you ask for the next message.
    Welcome {
        /// Its [`VERSION`].
        version: u16,
        /// Its process id, for the log.
        pid: u32,
    },
    /// Old: no, and why; it goes on.
    Refused(String),
    /// New: the next message, please. One at a time, so that a slow reader fills no queue.
    Next,
    /// Old: these sockets come with this message, all that I have.
    Sockets(Vec<SocketName>),
    /// Old: the keys of TLS session tickets, which have a version of their own. Whoever does not understand them does without.
    TicketKeys(Secret),
    /// Old: that was all.
    End,
    /// New: I serve; take your leave.
    Leave,
    /// Old: these UDP flows are yours, with their sockets.
    Flows(Vec<FlowName>),
    /// Old: these clients of a Service port had these endpoints last (ClientIP affinity).
    Affinity(ServicePortName, Vec<Remembered>),
}

/// Bytes that no log may show, and no disk.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// A client, the endpoint it had last, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The client.
    pub client: IpAddr,
    /// Its endpoint.
    pub endpoint: SocketAddr,
    /// When it came last, by the machine's clock.
    pub last: UnixMillis,
}

/// What a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// `--http`.
    Http,
    /// `--https`.
    Https,
    /// `--admin`.
    Admin,
    /// `--dns`, UDP and TCP.
    Dns,
    /// A frontend of a Service.
    Frontend,
    /// The `healthCheckNodePort` of a Service.
    HealthCheck,
    /// `--metrics`.
    Metrics,
}

/// Which listening socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketName {
    /// What it is for.
    pub purpose: Purpose,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where it is bound.
    pub addr: SocketAddr,
    /// Its number among those of the same purpose, protocol and address, which the workers have dealt out among them.
    pub number: u16,
}

/// Which UDP flow it is. Its socket is the one to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowName {
    /// The frontend's address.
    pub frontend: SocketAddr,
    /// The number of the frontend's socket on which its datagrams arrive.
    pub number: u16,
    /// The client.
    pub client: SocketAddr,
    /// Its endpoint.
    pub endpoint: SocketAddr,
    /// Whether the endpoint has ever answered.
    pub replied: bool,
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MAX_BYTES`], or more sockets than [`MAX_SOCKETS`], or more clients than [`MAX_CLIENTS`].
    #[error("a message that is too long")]
    TooLong,
    /// Not a message of this version.
    #[error("something that is not a message of this version")]
    NotAMessage,
}

impl Message {
    /// How many sockets travel beside it.
    pub fn sockets(&self) -> usize {
        match self {
            Self::Sockets(names) => names.len(),
            Self::Flows(names) => names.len(),
            Self::Hello { .. }
            | Self::Welcome { .. }
            | Self::Refused(_)
            | Self::Next
            | Self::TicketKeys(_)
            | Self::Affinity(..)
            | Self::End
            | Self::Leave => 0,
        }
    }

    /// The message as bytes. A text that is too long is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD_BYTES];
        let kind = match self {
            Self::Hello { version, pid } | Self::Welcome { version, pid } => {
                out.extend(version.to_be_bytes());
                out.extend(pid.to_be_bytes());
                if matches!(self, Self::Hello { .. }) { kind::HELLO } else { kind::WELCOME }
            }
            Self::Refused(why) => {
                out.extend(why.bytes().take(MAX_BYTES));
                kind::REFUSED
            }
            Self::Next => kind::NEXT,
            Self::Sockets(names) => {
                names.iter().for_each(|name| name.encode(&mut out));
                kind::SOCKETS
            }
            Self::TicketKeys(keys) => {
                out.extend(&keys.0);
                kind::TICKET_KEYS
            }
            Self::End => kind::END,
            Self::Leave => kind::LEAVE,
            Self::Flows(names) => {
                names.iter().for_each(|name| name.encode(&mut out));
                kind::FLOWS
            }
            Self::Affinity(name, clients) => {
                [&name.namespace, &name.service, &name.port].into_iter().for_each(|text| encode_text(text, &mut out));
                out.push(protocol_number(name.protocol));
                clients.iter().for_each(|client| client.encode(&mut out));
                kind::AFFINITY
            }
        };
        let length = (out.len() - HEAD_BYTES) as u32;
        out[0] = kind;
        out[1..HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        out
    }

    /// How many bytes the message takes that begins so, head included.
    ///
    /// # Errors
    /// If they are more than anybody may send.
    pub fn length(head: [u8; HEAD_BYTES]) -> Result<usize, DecodeError> {
        let [_, a, b, c, d] = head;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_BYTES { Err(DecodeError::TooLong) } else { Ok(HEAD_BYTES + length) }
    }

    /// The message that these bytes are, all of them.
    ///
    /// # Errors
    /// If they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(DecodeError::NotAMessage)?;
        if Self::length(*head)? != bytes.len() {
            return Err(DecodeError::NotAMessage);
        }
        let mut reader = Reader(rest);
        let message = match head[0] {
            kind::HELLO => Self::Hello { version: reader.u16()?, pid: reader.u32()? },
            kind::WELCOME => Self::Welcome { version: reader.u16()?, pid: reader.u32()? },
            kind::REFUSED => Self::Refused(String::from_utf8_lossy(reader.rest()).into_owned()),
            kind::NEXT => Self::Next,
            kind::SOCKETS => Self::Sockets(reader.many(MAX_SOCKETS, SocketName::decode)?),
            kind::TICKET_KEYS => Self::TicketKeys(Secret(reader.rest().to_vec())),
            kind::END => Self::End,
            kind::LEAVE => Self::Leave,
            kind::FLOWS => Self::Flows(reader.many(MAX_SOCKETS, FlowName::decode)?),
            kind::AFFINITY => {
                let [namespace, service, port] = [reader.text()?, reader.text()?, reader.text()?].map(Into::into);
                let name = ServicePortName { namespace, service, port, protocol: reader.protocol()? };
                Self::Affinity(name, reader.many(MAX_CLIENTS, Remembered::decode)?)
            }
            _ => return Err(DecodeError::NotAMessage),
        };
        if reader.0.is_empty() { Ok(message) } else { Err(DecodeError::NotAMessage) }
    }
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const WELCOME: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const NEXT: u8 = 4;
    pub(super) const SOCKETS: u8 = 5;
    pub(super) const TICKET_KEYS: u8 = 6;
    pub(super) const END: u8 = 7;
    pub(super) const LEAVE: u8 = 8;
    pub(super) const FLOWS: u8 = 9;
    pub(super) const AFFINITY: u8 = 10;
}

impl SocketName {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self.purpose {
            Purpose::Http => 1,
            Purpose::Https => 2,
            Purpose::Admin => 3,
            Purpose::Dns => 4,
            Purpose::Frontend => 5,
            Purpose::HealthCheck => 6,
            Purpose::Metrics => 7,
        });
        out.push(protocol_number(self.protocol));
        encode_addr(self.addr, out);
        out.extend(self.number.to_be_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let purpose = match reader.u8()? {
            1 => Purpose::Http,
            2 => Purpose::Https,
            3 => Purpose::Admin,
            4 => Purpose::Dns,
            5 => Purpose::Frontend,
            6 => Purpose::HealthCheck,
            7 => Purpose::Metrics,
            _ => return Err(DecodeError::NotAMessage),
        };
        Ok(Self { purpose, protocol: reader.protocol()?, addr: reader.addr()?, number: reader.u16()? })
    }
}

impl FlowName {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_addr(self.frontend, out);
        out.extend(self.number.to_be_bytes());
        encode_addr(self.client, out);
        encode_addr(self.endpoint, out);
        out.push(u8::from(self.replied));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            frontend: reader.addr()?,
            number: reader.u16()?,
            client: reader.addr()?,
            endpoint: reader.addr()?,
            replied: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(DecodeError::NotAMessage),
            },
        })
    }
}

impl Remembered {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_ip(self.client, out);
        encode_addr(self.endpoint, out);
        out.extend(self.last.0.to_be_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (client, endpoint) = (reader.ip()?, reader.addr()?);
        Ok(Self { client, endpoint, last: UnixMillis(reader.array().map(u64::from_be_bytes)?) })
    }
}

/// Its number on the wire (IANA).
fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// Its length in one byte: no name in Kubernetes is longer than 253. One that is becomes empty, and is nobody's.
fn encode_text(text: &str, out: &mut Vec<u8>) {
    let (length, text) = u8::try_from(text.len()).map_or((0, ""), |length| (length, text));
    out.push(length);
    out.extend(text.bytes());
}

/// The address, the port.
fn encode_addr(addr: SocketAddr, out: &mut Vec<u8>) {
    encode_ip(addr.ip(), out);
    out.extend(addr.port().to_be_bytes());
}

/// 4 or 6, the address.
fn encode_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend(ip.octets());
        }
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.0.split_first_chunk().ok_or(DecodeError::NotAMessage)?;
        self.0 = rest;
        Ok(*array)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    fn addr(&mut self) -> Result<SocketAddr, DecodeError> {
        Ok(SocketAddr::new(self.ip()?, self.u16()?))
    }

    fn ip(&mut self) -> Result<IpAddr, DecodeError> {
        match self.u8()? {
            4 => Ok(Ipv4Addr::from(self.array::<4>()?).into()),
            6 => Ok(Ipv6Addr::from(self.array::<16>()?).into()),
            _ => Err(DecodeError::NotAMessage),
        }
    }

    fn protocol(&mut self) -> Result<Protocol, DecodeError> {
        match self.u8()? {
            6 => Ok(Protocol::Tcp),
            17 => Ok(Protocol::Udp),
            _ => Err(DecodeError::NotAMessage),
        }
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        let length = usize::from(self.u8()?);
        let (text, rest) = self.0.split_at_checked(length).ok_or(DecodeError::NotAMessage)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| DecodeError::NotAMessage)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// At most `max`, up to the end.
    fn many<T>(
        &mut self,
        max: usize,
        decode: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let mut all = Vec::new();
        while !self.0.is_empty() {
            if all.len() == max {
                return Err(DecodeError::TooLong);
            }
            all.push(decode(self)?);
        }
        Ok(all)
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
