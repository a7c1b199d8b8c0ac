//! The PROXY protocol header with which a proxy tells for whom it connects.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::net::SocketAddr;

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::limits;

/// Version 2, command LOCAL: the byte after the signature.
const V2_LOCAL: u8 = 0x20;

/// The two ends of the connection as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProxiedAddresses {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// Reads the header and not one byte more; `None` if the proxy speaks for itself or for something without IP addresses.
///
/// Twelve bytes tell the versions apart and are fewer than the shortest header, which has fifteen.
pub(super) async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<ProxiedAddresses>> {
    let mut header = vec![0; v2::PROTOCOL_PREFIX.len()];
    stream.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX { read_v2(stream, header).await } else { read_v1(stream, header).await }
}

async fn read_v1<S: AsyncRead + Unpin>(stream: &mut S, mut header: Vec<u8>) -> io::Result<Option<ProxiedAddresses>> {
    if !header.starts_with(v1::PROTOCOL_PREFIX.as_bytes()) {
        return Err(invalid(&"the connection does not begin with a PROXY protocol header"));
    }
    while header.last() != Some(&b'\n') {
        if header.len() == limits::PROXY_V1_BYTES_MAX {
            return Err(invalid(&"the PROXY protocol line is too long"));
        }
        header.push(stream.read_u8().await?);
    }
    let header = v1::Header::try_from(header.as_slice()).map_err(|error| invalid(&error))?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some(ProxiedAddresses {
            source: (ip.source_address, ip.source_port).into(),
            destination: (ip.destination_address, ip.destination_port).into(),
        }),
        v1::Addresses::Tcp6(ip) => Some(ProxiedAddresses {
            source: (ip.source_address, ip.source_port).into(),
            destination: (ip.destination_address, ip.destination_port).into(),
        }),
    })
}

async fn read_v2<S: AsyncRead + Unpin>(stream: &mut S, mut header: Vec<u8>) -> io::Result<Option<ProxiedAddresses>> {
    header.push(stream.read_u8().await?);
    header.push(stream.read_u8().await?);
    let length = stream.read_u16().await?;
    header.extend(length.to_be_bytes());
    let begin = header.len();
    if begin + usize::from(length) > limits::PROXY_V2_BYTES_MAX {
        return Err(invalid(&"the PROXY protocol header is too long"));
    }
    header.resize(begin + usize::from(length), 0);
    stream.read_exact(&mut header[begin..]).await?;

    // The proxy speaks for itself. Section 2.2: "The receiver must accept this connection as valid and must use the real
    // connection endpoints and discard the protocol block including the family which is ignored."
    if header[v2::PROTOCOL_PREFIX.len()] == V2_LOCAL {
        return Ok(None);
    }
    let header = v2::Header::try_from(header.as_slice()).map_err(|error| invalid(&error))?;
    Ok(match header.addresses {
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        v2::Addresses::IPv4(ip) => Some(ProxiedAddresses {
            source: (ip.source_address, ip.source_port).into(),
            destination: (ip.destination_address, ip.destination_port).into(),
        }),
        v2::Addresses::IPv6(ip) => Some(ProxiedAddresses {
            source: (ip.source_address, ip.source_port).into(),
            destination: (ip.destination_address, ip.destination_port).into(),
        }),
    })
}

fn invalid(why: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}
