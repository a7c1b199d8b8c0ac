//! Loopback addresses that no other test has.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU16, Ordering},
};

use tidegate::compile::settings::Settings;

/// 256 addresses within 127.0.0.0/8, told apart by test and by process.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    number: u16,
}

impl Net {
    /// The next one.
    pub fn next() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Two test binaries at once start at different places; 127.0 to 127.15 and 127.96 to 127.127 are left to people.
        let start = std::process::id() as u16 % 64 * 256;
        Self { number: start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (64 * 256) }
    }

    /// Its number.
    pub fn number(self) -> u16 {
        self.number
    }

    /// One of its addresses. 1 is the node, 2 to 31 are for pods; 64 to 127 are ClusterIPs, 128 to 191 LoadBalancer IPs.
    pub fn ip(self, last: u8) -> IpAddr {
        let [a, b] = self.number.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(127, 16 + a, b, last))
    }

    /// Settings with these addresses, for node `here`.
    pub fn settings(self) -> Settings {
        let range = |last| format!("{}/26", self.ip(last)).parse().expect("a CIDR");
        Settings {
            node_addresses: vec![self.ip(1)],
            node_name: "here".into(),
            service_cidrs: vec![range(64)],
            load_balancer_pools: vec![range(128)],
            ..Settings::default()
        }
    }
}
