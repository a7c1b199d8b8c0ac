//! Addresses of the names that ExternalName Services point to, for Ingresses that send requests there.
//!
//! DNS answers such a Service with a CNAME and nothing is proxied; only the gateway needs addresses. Names are looked up again and again,
//! because whoever owns them may move; while a lookup fails, the last addresses stay.

use std::{
    collections::BTreeMap,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::{Name as DnsName, RData, RecordType};
use ipnet::IpNet;

use crate::dns::Zone;

/// How often names are looked up again. ingress-nginx does it every second; a DNS answer is rarely good for less than five.
pub const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);

/// Names looked up at most; each costs a query every five seconds.
pub const MAX_NAMES: usize = 1_000;

/// Addresses kept of one name.
const MAX_ADDRESSES: usize = 64;

/// Looks names up: those of our own zone there, the others with the system's resolver. Blocks.
pub fn look_up(
    names: &[Arc<str>],
    zone: Option<&Zone>,
    own_ranges: &[IpNet],
    last: &BTreeMap<Arc<str>, Arc<[IpAddr]>>,
) -> BTreeMap<Arc<str>, Arc<[IpAddr]>> {
    let mut out = BTreeMap::new();
    for name in names.iter().take(MAX_NAMES) {
        let mut ips = zone.map(|zone| in_zone(name, zone)).unwrap_or_default();
        if ips.is_empty() {
            let found = (&**name, 0).to_socket_addrs().map(|addrs| addrs.map(|addr| addr.ip()).collect::<Vec<_>>());
            ips = found.unwrap_or_default();
            // A name anybody may write must not lead into this machine (ingress-nginx refuses these too). Addresses
            // of our own ranges are Services, wherever they lie.
            ips.retain(|ip| own_ranges.iter().any(|range| range.contains(ip)) || is_elsewhere(*ip));
        }
        ips.sort_unstable();
        ips.dedup();
        ips.truncate(MAX_ADDRESSES);
        match last.get(name) {
            Some(last) if ips.is_empty() || **last == *ips => out.insert(name.clone(), last.clone()),
            _ => out.insert(name.clone(), ips.into()),
        };
    }
    out
}

fn in_zone(name: &str, zone: &Zone) -> Vec<IpAddr> {
    let Ok(mut name) = name.parse::<DnsName>() else { return Vec::new() };
    name.set_fqdn(true);
    let records = [RecordType::A, RecordType::AAAA].map(|kind| zone.answer(&name, kind).answers);
    let ips = records.into_iter().flatten().filter_map(|record| match record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    });
    ips.collect()
}

fn is_elsewhere(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}
