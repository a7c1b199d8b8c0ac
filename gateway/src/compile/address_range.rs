//! `AddressRange`: addresses in a row, as numbers.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::allocate::Family;

/// Addresses of one family in a row; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressRange {
    family: Family,
    first: u128,
    last: u128,
}

impl AddressRange {
    /// The addresses of a network but for the first and the last, unless it has only one or two: those may be the network's and the
    /// broadcast address.
    pub(crate) fn of_net(net: &IpNet) -> Self {
        let (first, last) = (number(net.network()), number(net.broadcast()));
        let inset = u128::from(last - first > 1);
        Self { family: Family::of(net.addr()), first: first + inset, last: last - inset }
    }

    /// How many addresses there are; of all IPv6 addresses one less, as the number has no more room.
    pub(crate) fn len(&self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family && (self.first..=self.last).contains(&number(ip))
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }

    /// Every address once, beginning at the one that `seed` falls on.
    pub(crate) fn beginning_at(&self, seed: u64) -> impl Iterator<Item = IpAddr> {
        let Self { family, first, .. } = *self;
        let len = self.len();
        let start = u128::from(seed) % len;
        // Both are below `len`, and so the sum is computed without reaching the end of the number.
        let at = move |step: u128| if step < len - start { start + step } else { step - (len - start) };
        (0..len).map(move |step| address(family, first + at(step)))
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (address(self.family, self.first), address(self.family, self.last));
        if self.first == self.last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// A CIDR, `FIRST-LAST`, or one address; the error says what is wrong with it.
impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(Self::of_net(&net));
        }
        let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("{text:?} is not an IP address"));
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (address(first)?, address(last)?),
            None if text.contains('/') => return Err(format!("{text:?} is not a CIDR")),
            None => (address(text)?, address(text)?),
        };
        if Family::of(first) != Family::of(last) {
            return Err(format!("{first} and {last} are of two IP families"));
        }
        if first > last {
            return Err(format!("{first} comes after {last}"));
        }
        Ok(Self { family: Family::of(first), first: number(first), last: number(last) })
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from((number as u32).to_be_bytes()),
        Family::V6 => IpAddr::from(number.to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn what_can_be_written() {
        for (text, shown, len) in [
            ("192.0.2.0/28", "192.0.2.1-192.0.2.14", 14),
            ("192.0.2.5/28", "192.0.2.1-192.0.2.14", 14),
            ("192.0.2.6/31", "192.0.2.6-192.0.2.7", 2),
            ("192.0.2.7/32", "192.0.2.7", 1),
            ("192.0.2.7", "192.0.2.7", 1),
            ("192.0.2.250-192.0.3.5", "192.0.2.250-192.0.3.5", 12),
            ("0.0.0.0/0", "0.0.0.1-255.255.255.254", (1 << 32) - 2),
            ("2001:db8::/126", "2001:db8::1-2001:db8::2", 2),
            ("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", u128::MAX),
        ] {
            let range = range(text);
            assert_eq!((range.to_string(), range.len()), (shown.to_owned(), len), "{text}");
        }
    }

    #[test]
    fn what_cannot_says_why() {
        let said = |text: &str| text.parse::<AddressRange>().unwrap_err();
        assert_eq!(said("192.0.2.9-192.0.2.1"), "192.0.2.9 comes after 192.0.2.1");
        assert_eq!(said("192.0.2.9-2001:db8::1"), "192.0.2.9 and 2001:db8::1 are of two IP families");
        assert_eq!(said("192.0.2.0/33"), "\"192.0.2.0/33\" is not a CIDR");
        assert_eq!(said("192.0.2.9 - 192.0.2.10"), "\"192.0.2.9 \" is not an IP address");
        assert_eq!(said(""), "\"\" is not an IP address");
    }

    #[test]
    fn every_address_comes_once_from_wherever_it_begins() {
        let range = range("192.0.2.250-192.0.3.5");
        for seed in [0, 5, 11, 12, u64::MAX] {
            let mut all: Vec<IpAddr> = range.beginning_at(seed).collect();
            assert!(all.iter().all(|ip| range.contains(*ip)));
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 12, "{seed}");
        }
        let whole = "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse::<AddressRange>().unwrap();
        assert_eq!(whole.beginning_at(7).next(), Some("::7".parse().unwrap()));
    }

    #[test]
    fn overlaps_are_seen_from_both_sides() {
        let (a, b, c) = (range("192.0.2.0-192.0.2.9"), range("192.0.2.9-192.0.2.20"), range("192.0.2.10"));
        assert!(a.overlaps(&b) && b.overlaps(&a) && b.overlaps(&c) && c.overlaps(&b));
        assert!(!a.overlaps(&c) && !c.overlaps(&a) && !a.overlaps(&range("::c000:200")));
    }
}
