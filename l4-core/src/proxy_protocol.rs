//! The PROXY protocol: who the client is, said by the load balancer in front of us or by us to the endpoint.
//!
//! Rules: HAProxy's `proxy-protocol.txt`. The grammar is the `ppp` crate's; here are the limits, and where a header
//! ends.

use std::{io, net::SocketAddr};

use ppp::{PartialResult, v1, v2};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{limits::MAX_PROXY_HEADER, model::ProxyProtocol};

/// A client and the address it dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Where it comes from.
    pub client: SocketAddr,
    /// Where it was going.
    pub server: SocketAddr,
}

/// A whole header.
#[derive(Debug, PartialEq, Eq)]
pub struct Header {
    /// `None`: the load balancer speaks for itself (`LOCAL`, `UNKNOWN`, or no TCP addresses), so the connection's own
    /// addresses are the true ones.
    pub addresses: Option<Addresses>,
    /// Where it ends.
    pub length: usize,
}

/// Bytes that cannot begin a header.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Longest header of version 1, its CRLF included (section 2.1).
const MAX_V1_LENGTH: usize = 107;

/// Bytes a version 2 header has before its addresses; the last two give the length of the rest (section 2.2).
const V2_FIXED_LENGTH: usize = 16;

/// Reads the header a connection must begin with, and returns also what was read beyond it.
pub async fn read(stream: &mut TcpStream) -> io::Result<(Header, Vec<u8>)> {
    let mut bytes = Vec::new();
    // The specification's own estimate of what a header with all it may carry fits into.
    let mut chunk = [0; 536];
    loop {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..n]);
        match parse(&bytes) {
            Ok(Some(header)) => {
                let rest = bytes.split_off(header.length);
                return Ok((header, rest));
            }
            Ok(None) => {}
            Err(Malformed) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The header for a connection between these addresses.
pub fn write(version: ProxyProtocol, addresses: Addresses) -> io::Result<Vec<u8>> {
    let pair = (canonical(addresses.client), canonical(addresses.server));
    match version {
        ProxyProtocol::V1 => Ok(v1::Addresses::from(pair).to_string().into_bytes()),
        ProxyProtocol::V2 => {
            v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, v2::Protocol::Stream, pair).build()
        }
    }
}

/// The header `bytes` begin with; `None` while more is needed. Always decided within [`MAX_PROXY_HEADER`] bytes.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => parse_v1(bytes),
        Some(_) => parse_v2(bytes),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let bytes = &bytes[..bytes.len().min(MAX_V1_LENGTH)];
    let prefix = b"PROXY ";
    if bytes.iter().zip(prefix).any(|(a, b)| a != b) {
        return Err(Malformed);
    }
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() == MAX_V1_LENGTH { Err(Malformed) } else { Ok(None) };
    };
    let (line, length) = (&bytes[..end], end + 2);
    // Whatever follows UNKNOWN is to be ignored (section 2.1); `ppp` takes exception to some of it.
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        return Ok(Some(Header { addresses: None, length }));
    }
    let header = v1::Header::try_from(&bytes[..length]).map_err(|_| Malformed)?;
    let (client, server): (SocketAddr, SocketAddr) = match header.addresses {
        v1::Addresses::Unknown => return Ok(Some(Header { addresses: None, length })),
        v1::Addresses::Tcp4(a) => {
            ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
        }
        v1::Addresses::Tcp6(a) => {
            ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
        }
    };
    Ok(Some(Header { addresses: Some(Addresses { client, server }), length }))
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if let Some(&[high, low]) = bytes.get(V2_FIXED_LENGTH - 2..V2_FIXED_LENGTH)
        && V2_FIXED_LENGTH + usize::from(u16::from_be_bytes([high, low])) > MAX_PROXY_HEADER
    {
        return Err(Malformed);
    }
    let header = v2::Header::try_from(bytes);
    if header.is_incomplete() {
        return Ok(None);
    }
    let header = header.map_err(|_| Malformed)?;
    let length = header.len();
    if header.command == v2::Command::Local || header.protocol != v2::Protocol::Stream {
        return Ok(Some(Header { addresses: None, length }));
    }
    let (client, server): (SocketAddr, SocketAddr) = match header.addresses {
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => return Ok(Some(Header { addresses: None, length })),
        v2::Addresses::IPv4(a) => {
            ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
        }
        v2::Addresses::IPv6(a) => {
            ((a.source_address, a.source_port).into(), (a.destination_address, a.destination_port).into())
        }
    };
    Ok(Some(Header { addresses: Some(Addresses { client, server }), length }))
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(client: &str, server: &str) -> Addresses {
        Addresses { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    #[test]
    fn what_we_write_we_read_and_no_part_of_it_is_enough() {
        for a in [addresses("192.0.2.1:4000", "10.96.0.1:80"), addresses("[2001:db8::1]:4000", "[fd00::1]:80")] {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let mut bytes = write(version, a).unwrap();
                let length = bytes.len();
                for part in 0..length {
                    assert_eq!(parse(&bytes[..part]), Ok(None), "{part} bytes of {version:?}");
                }
                bytes.extend_from_slice(b"and then the client's own");
                assert_eq!(parse(&bytes), Ok(Some(Header { addresses: Some(a), length })));
            }
        }
    }

    #[test]
    fn a_load_balancer_may_speak_for_itself() {
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0rest";
        let unix = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8"[..], &[0; 216]].concat();
        let datagram = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c"[..], &[1; 12]].concat();
        let unknown = b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\nrest";
        for (bytes, length) in [(&local[..], 16), (&unix, 232), (&datagram, 28), (unknown, 43)] {
            assert_eq!(parse(bytes), Ok(Some(Header { addresses: None, length })), "{}", bytes.escape_ascii());
        }
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok(Some(Header { addresses: None, length: 15 })));
    }

    #[test]
    fn anything_else_is_malformed_as_soon_as_it_shows() {
        let long_v1 = [&b"PROXY TCP4 "[..], &[b'1'; 100]].concat();
        let long_v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
        for bytes in [
            &b"G"[..],
            b"PUT / HTTP/1.1\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.400 80 80\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 80\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\0\0\0\0",
            long_v2,
            &long_v1,
        ] {
            assert_eq!(parse(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }

    fn any_start() -> impl Strategy<Value = Vec<u8>> {
        const STARTS: &[&[u8]] = &[
            b"",
            b"PROXY ",
            b"PROXY TCP4 1.2.3.4 ",
            b"PROXY TCP6 ::1 ::2 1 ",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21",
        ];
        prop::sample::select(STARTS).prop_map(<[u8]>::to_vec)
    }

    proptest! {
        #[test]
        fn never_panics_and_always_decides(
            start in any_start(), rest in prop::collection::vec(any::<u8>(), 0..300), fill in any::<u8>(),
        ) {
            let mut bytes = [start, rest].concat();
            if let Ok(Some(header)) = parse(&bytes) {
                prop_assert!(header.length <= bytes.len());
            }
            bytes.resize(MAX_PROXY_HEADER, fill);
            prop_assert!(parse(&bytes) != Ok(None), "undecided at the limit");
        }
    }
}
