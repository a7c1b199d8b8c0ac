//! The PROXY protocol: what comes out is what `proxy-protocol.txt` says, no earlier and no later than the header's end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tidegate_l4::{
    limits::MAX_PROXY_HEADER,
    model::ProxyProtocol,
    proxy_protocol::{Addresses, Header, Malformed, parse, write},
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

pub fn run(data: &[u8]) {
    let data = &data[..data.len().min(MAX_PROXY_HEADER + 64)];
    let result = parse(data);
    let end = match &result {
        Ok(Some(header)) => header.length,
        Ok(None) | Err(Malformed) => data.len(),
    };
    assert!(end <= data.len(), "a header that is longer than what was read");
    let mut was_malformed = false;
    for part in 0..end {
        let early = parse(&data[..part]);
        assert!(!matches!(early, Ok(Some(_))), "it was whole after {part} bytes of {end}");
        assert!(!was_malformed || early == Err(Malformed), "what is malformed stays so");
        was_malformed |= early == Err(Malformed);
    }
    assert!(!was_malformed || result == Err(Malformed), "what is malformed stays so");
    assert!(data.len() < MAX_PROXY_HEADER || result != Ok(None), "undecided at the limit");
    let Ok(Some(header)) = result else { return };
    assert_eq!(parse(&data[..end]).ok().flatten().as_ref(), Some(&header), "what follows has a say");
    assert_eq!(header.addresses, expected(&data[..end]));
    header.addresses.into_iter().for_each(check_written);
}

/// What the specification says about a whole header.
fn expected(header: &[u8]) -> Option<Addresses> {
    match header.strip_prefix(SIGNATURE) {
        Some(rest) => binary(rest),
        None => text(std::str::from_utf8(header).ok()?.strip_suffix("\r\n").expect("a line ends in CR LF")),
    }
}

/// Section 2.1.
fn text(line: &str) -> Option<Addresses> {
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[0], "PROXY");
    if words[1] == "UNKNOWN" {
        return None;
    }
    let &[_, family, client, server, client_port, server_port] = &words[..] else { panic!("a line has six words") };
    let ip = |text: &str| -> IpAddr {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().expect("an IPv4 address").into(),
            "TCP6" => text.parse::<Ipv6Addr>().expect("an IPv6 address").into(),
            _ => panic!("there are two families"),
        }
    };
    let port = |text: &str| text.parse::<u16>().expect("a port");
    Some(Addresses {
        client: SocketAddr::new(ip(client), port(client_port)),
        server: SocketAddr::new(ip(server), port(server_port)),
    })
}

/// Section 2.2.
fn binary(rest: &[u8]) -> Option<Addresses> {
    let (head, rest) = rest.split_at(4);
    assert_eq!(head[0] >> 4, 2, "the version");
    assert_eq!(usize::from(u16::from_be_bytes([head[2], head[3]])), rest.len(), "the length");
    match head[0] & 15 {
        0 => return None,
        1 => {}
        _ => panic!("there are two commands"),
    }
    let size = match head[1] {
        0x11 => 4,
        0x21 => 16,
        _ => return None,
    };
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes")),
    };
    let port = |at: usize| u16::from_be_bytes([rest[at], rest[at + 1]]);
    Some(Addresses {
        client: SocketAddr::new(ip(&rest[..size]), port(2 * size)),
        server: SocketAddr::new(ip(&rest[size..2 * size]), port(2 * size + 2)),
    })
}

/// What we write of these addresses is read back, but for mapped addresses, which are written as what they stand for.
fn check_written(addresses: Addresses) {
    let canonical = |addr: SocketAddr| SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let same = Addresses { client: canonical(addresses.client), server: canonical(addresses.server) };
    if same.client.is_ipv4() != same.server.is_ipv4() {
        return;
    }
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let bytes = write(version, addresses).expect("it can be written");
        let header = Header { addresses: Some(same), length: bytes.len() };
        assert_eq!(parse(&bytes), Ok(Some(header)), "{version:?}");
    }
}
