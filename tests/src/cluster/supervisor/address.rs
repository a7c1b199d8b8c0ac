//! A loopback address that no other cluster has.

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use super::super::Failure;

/// Whoever listens here has the address. It is no port of a cluster's programs.
const CLAIM: u16 = 6442;

/// An address, while this lives.
#[derive(Debug)]
pub(super) struct Claim {
    ip: Ipv4Addr,
    /// Nobody connects: that it is there is the claim.
    _listener: TcpListener,
}

impl Claim {
    /// One on which nobody listens at these ports.
    ///
    /// # Errors
    /// If there is none, as where only 127.0.0.1 is this machine's.
    pub(super) fn find(ports: &[u16]) -> Result<Self, Failure> {
        // 127.80 to 127.95: the tests' own addresses are below, those of the demo above.
        let start = std::process::id();
        for number in 0..16 * 256 {
            let [.., a, b] = ((start + number) % (16 * 256)).to_be_bytes();
            let ip = Ipv4Addr::new(127, 80 + a, b, 1);
            let Ok(listener) = TcpListener::bind((ip, CLAIM)) else { continue };
            if ports.iter().all(|&port| TcpListener::bind((ip, port)).is_ok()) {
                return Ok(Self { ip, _listener: listener });
            }
        }
        Err("no address of 127.80.0.0/12 is free for a cluster's ports; is 127.0.0.0/8 this machine's, as on Linux?"
            .into())
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.ip.into()
    }
}
