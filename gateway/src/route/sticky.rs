//! Cookie affinity as data: what an Ingress asks for, and the table that maps a cookie's value to an endpoint.
//!
//! Everything here is built when configuration or endpoints change. Reading cookies, drawing new keys and writing
//! `Set-Cookie` is `http::cookie_affinity`; no clock and no random number is known here.
//!
//! Both tables are those of ingress-nginx 1.15.1, so that a session opened there stays on its pod here:
//! * *balanced*: a hash ring as nginx's `hash … consistent` and lua-resty-balancer's `resty.chash` build it. Every key
//!   finds some endpoint; an endpoint that goes away gives its keys to its neighbours on the ring, and no others move.
//! * *persistent*: each endpoint has one key, and any other key finds nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use md5::{Digest, Md5};

/// Points an endpoint has on the ring: `CONSISTENT_POINTS` of lua-resty-balancer, and 160 in nginx. A different number
/// would move sessions when traffic comes over from ingress-nginx.
const POINTS_PER_ENDPOINT: usize = 160;

/// The `affinity: cookie` family of annotations of one upstream (ingress-nginx, "Session Affinity").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieAffinity {
    /// `session-cookie-name`.
    pub name: Arc<str>,
    /// `affinity-mode`.
    pub mode: AffinityMode,
    /// `session-cookie-expires`: seconds from the answer to the `Expires` date.
    pub expires: Option<i64>,
    /// `session-cookie-max-age`: seconds. Without this and `expires` the cookie lasts as long as the browser runs.
    pub max_age: Option<i64>,
    /// `session-cookie-path`; otherwise the path of the Ingress rule that matched.
    pub path: Option<Arc<str>>,
    /// `session-cookie-domain`.
    pub domain: Option<Arc<str>>,
    /// `session-cookie-samesite`.
    pub samesite: Option<SameSite>,
    /// `session-cookie-conditional-samesite-none`: leave `SameSite=None` out for browsers known to refuse it.
    pub conditional_samesite_none: bool,
    /// `session-cookie-secure`: true is always `Secure`, false is `Secure` on HTTPS connections only.
    pub secure: bool,
    /// `session-cookie-change-on-failure`: after a failed attempt, move the session rather than retry there.
    pub change_on_failure: bool,
}

impl Default for CookieAffinity {
    fn default() -> Self {
        Self {
            name: Arc::from("INGRESSCOOKIE"),
            mode: AffinityMode::default(),
            expires: None,
            max_age: None,
            path: None,
            domain: None,
            samesite: None,
            conditional_samesite_none: false,
            secure: false,
            change_on_failure: false,
        }
    }
}

/// `affinity-mode`: what happens to sessions when endpoints come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AffinityMode {
    /// New endpoints take over their share of the sessions.
    #[default]
    Balanced,
    /// A session stays where it is for as long as its endpoint exists.
    Persistent,
}

/// The `SameSite` attribute of the session cookie (RFC 6265bis).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Sent with every request.
    None,
    /// Sent within the site, and when a link leads to it.
    Lax,
    /// Sent within the site only.
    Strict,
}

impl SameSite {
    /// Reads `session-cookie-samesite`. Only these spellings ever reached the browser: ingress-nginx accepts `lax` as
    /// valid and then leaves the attribute out, so anything else is `None` here and worth a finding by the caller.
    pub fn from_exact(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "Lax" => Some(Self::Lax),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// Maps the key in a session cookie to an endpoint of one upstream. Built once per set of endpoints, and only for an
/// upstream that has cookie affinity: a ring takes 1280 bytes and 160 checksums for each endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyMap {
    backend_key: Box<str>,
    endpoints: usize,
    table: Table,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Table {
    /// Sorted by hash.
    Ring(Box<[Point]>),
    /// `keys[i]` belongs to endpoint `i`; `sorted` lists the endpoints in the order of their keys.
    Keys { keys: Box<[Box<str>]>, sorted: Box<[u32]> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    hash: u32,
    endpoint: u32,
}

impl StickyMap {
    /// The map for the upstream called `namespace-service-port` (the port as the Ingress names it: number or name).
    /// Every index this map gives is one into `endpoints`.
    pub fn build(upstream: &str, endpoints: &[SocketAddr], mode: AffinityMode) -> Self {
        let table = match mode {
            AffinityMode::Balanced => Table::Ring(ring(endpoints)),
            AffinityMode::Persistent => persistent_keys(upstream, endpoints),
        };
        let backend_key = md5_hex(&format!("{}{upstream}", md5_hex(upstream)));
        Self { backend_key: backend_key.into(), endpoints: endpoints.len(), table }
    }

    /// Names the upstream in the cookie, behind the `|`: it tells whether a session belongs to a canary or to the
    /// primary, which share the cookie's name.
    pub fn backend_key(&self) -> &str {
        &self.backend_key
    }

    /// How many endpoints the map was built from.
    pub fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// The mode the map was built for.
    pub fn mode(&self) -> AffinityMode {
        match self.table {
            Table::Ring(_) => AffinityMode::Balanced,
            Table::Keys { .. } => AffinityMode::Persistent,
        }
    }

    /// The endpoint a cookie's key stands for. *Balanced* always finds one if there is any; *persistent* only for a key
    /// that it gave out for an endpoint that still exists.
    pub fn find(&self, key: &[u8]) -> Option<usize> {
        let endpoint = match &self.table {
            Table::Ring(points) => {
                let hash = crc32fast::hash(key);
                let next = points.partition_point(|point| point.hash < hash);
                points.get(next).or_else(|| points.first())?.endpoint
            }
            Table::Keys { keys, sorted } => {
                let found = sorted.binary_search_by(|&endpoint| keys[endpoint as usize].as_bytes().cmp(key));
                sorted[found.ok()?]
            }
        };
        Some(endpoint as usize)
    }

    /// The key that stands for an endpoint in *persistent* mode; a ring has no such key.
    pub fn persistent_key(&self, endpoint: usize) -> Option<&str> {
        match &self.table {
            Table::Ring(_) => None,
            Table::Keys { keys, .. } => keys.get(endpoint).map(|key| &**key),
        }
    }
}

/// The ring: each point is the CRC-32 of the endpoint's `ip:port` followed by the endpoint's previous point in
/// little-endian, the first of them after 0. (nginx has a NUL in place of the colon; ingress-nginx has the colon.)
fn ring(endpoints: &[SocketAddr]) -> Box<[Point]> {
    let mut points = Vec::with_capacity(endpoints.len() * POINTS_PER_ENDPOINT);
    for (endpoint, address) in (0u32..).zip(endpoints) {
        let mut base = crc32fast::Hasher::new();
        base.update(address.to_string().as_bytes());
        let mut hash = 0u32;
        for _ in 0..POINTS_PER_ENDPOINT {
            let mut point = base.clone();
            point.update(&hash.to_le_bytes());
            hash = point.finalize();
            points.push(Point { hash, endpoint });
        }
    }
    // Where two endpoints share a hash the address decides, so that the order of `endpoints` never matters.
    let address = |point: &Point| endpoints[point.endpoint as usize];
    points.sort_unstable_by(|a, b| a.hash.cmp(&b.hash).then_with(|| address(a).cmp(&address(b))));
    points.into()
}

/// MD5 keeps the endpoint's address from being read off the cookie; it is no secret to those who know the cluster.
fn persistent_keys(upstream: &str, endpoints: &[SocketAddr]) -> Table {
    let keys: Box<[Box<str>]> =
        endpoints.iter().map(|address| md5_hex(&format!("{upstream}{address}")).into()).collect();
    let mut sorted: Vec<u32> = (0u32..).zip(endpoints).map(|(endpoint, _)| endpoint).collect();
    sorted.sort_by(|&a, &b| keys[a as usize].cmp(&keys[b as usize]));
    Table::Keys { keys, sorted: sorted.into() }
}

fn md5_hex(text: &str) -> String {
    format!("{:032x}", u128::from_be_bytes(Md5::digest(text.as_bytes()).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &str = "default-http-svc-80";

    /// What lua-resty-balancer 0.05 under LuaJIT answered for the endpoints of `five`.
    const FIVE: [(&str, usize); 12] = [
        ("1700000001.123.42.7", 4),
        ("1700000001.5.29.999999", 4),
        ("1763938956.001.1.1", 2),
        ("1763938999.42.8.123456", 1),
        ("a", 4),
        ("", 0),
        ("user", 3),
        ("\u{e4}", 0),
        ("0", 2),
        ("3735928559", 0),
        ("x|y", 0),
        ("1700000020.999.65535.500000", 4),
    ];

    fn five() -> Vec<SocketAddr> {
        ["10.0.0.1:8080", "10.0.0.2:8080", "10.244.3.17:80", "192.168.255.254:65535", "[fd00::1:2]:8443"]
            .map(|text| text.parse().unwrap())
            .to_vec()
    }

    fn three_hundred() -> Vec<SocketAddr> {
        (0u16..300).map(|i| SocketAddr::from(([10, 1, (i / 256) as u8, (i % 256) as u8], 9376))).collect()
    }

    /// Two checksums taken of the original library too: over its sorted points, and over 10,000 lookups.
    fn fingerprint(endpoints: &[SocketAddr]) -> (u32, u32) {
        let (mut points, mut lookups) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
        for point in ring(endpoints) {
            points.update(&point.hash.to_le_bytes());
            points.update(&point.endpoint.to_le_bytes());
        }
        let map = StickyMap::build(UPSTREAM, endpoints, AffinityMode::Balanced);
        for key in 0..10_000 {
            let endpoint = map.find(key.to_string().as_bytes()).unwrap();
            lookups.update(&(endpoint as u32).to_le_bytes());
        }
        (points.finalize(), lookups.finalize())
    }

    #[test]
    fn the_ring_is_that_of_lua_resty_balancer() {
        assert_eq!(fingerprint(&five()), (0x24f3_ab6b, 0xa5fc_7aef));
        assert_eq!(fingerprint(&["127.0.0.1:1".parse().unwrap()]), (0xc54c_8963, 0xe6a9_4479));
        assert_eq!(fingerprint(&three_hundred()), (0x7f79_e305, 0xbfbb_f46c));
        let points = ring(&five());
        assert_eq!((points.len(), points[0].hash, points[799].hash), (800, 0x0015_365e, 0xff96_e957));
    }

    #[test]
    fn keys_go_where_ingress_nginx_sends_them() {
        let map = StickyMap::build(UPSTREAM, &five(), AffinityMode::Balanced);
        for (key, endpoint) in FIVE {
            assert_eq!(map.find(key.as_bytes()), Some(endpoint), "{key}");
        }
    }

    #[test]
    fn the_order_of_the_endpoints_does_not_matter() {
        let (all, mut reversed) = (five(), five());
        reversed.reverse();
        let map = StickyMap::build(UPSTREAM, &reversed, AffinityMode::Balanced);
        for (key, endpoint) in FIVE {
            assert_eq!(reversed[map.find(key.as_bytes()).unwrap()], all[endpoint], "{key}");
        }
    }

    #[test]
    fn an_endpoint_that_goes_away_moves_only_its_own_keys() {
        let all = five();
        for gone in 0..all.len() {
            let mut rest = all.clone();
            rest.remove(gone);
            let before = StickyMap::build(UPSTREAM, &all, AffinityMode::Balanced);
            let after = StickyMap::build(UPSTREAM, &rest, AffinityMode::Balanced);
            let mut moved = 0;
            for key in 0..2000 {
                let key = key.to_string();
                let was = before.find(key.as_bytes()).unwrap();
                let is = rest[after.find(key.as_bytes()).unwrap()];
                if was == gone {
                    moved += 1;
                } else {
                    assert_eq!(is, all[was], "{key} moved although its endpoint stayed");
                }
            }
            assert!((200..600).contains(&moved), "about a fifth of the keys, not {moved}");
        }
    }

    #[test]
    fn persistent_keys_are_md5_of_upstream_and_address() {
        let map = StickyMap::build(UPSTREAM, &five(), AffinityMode::Persistent);
        assert_eq!(map.persistent_key(0), Some("5527bcca0bd221fcb9f44d85ffc6cc19"));
        assert_eq!(map.persistent_key(4), Some("173ab6ef8427eae88f3cafe3b6e5f6a4"));
        assert_eq!(map.persistent_key(5), None);
        for endpoint in 0..5 {
            assert_eq!(map.find(map.persistent_key(endpoint).unwrap().as_bytes()), Some(endpoint));
        }
        assert_eq!(map.find(b"5527bcca0bd221fcb9f44d85ffc6cc1"), None);
        assert_eq!(map.find(b"1763938956.001.1.1"), None);

        let without_first = StickyMap::build(UPSTREAM, &five()[1..], AffinityMode::Persistent);
        assert_eq!(without_first.find(b"5527bcca0bd221fcb9f44d85ffc6cc19"), None);
        assert_eq!(without_first.find(b"173ab6ef8427eae88f3cafe3b6e5f6a4"), Some(3));
    }

    #[test]
    fn the_backend_key_depends_on_the_upstream_only() {
        for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
            let map = StickyMap::build(UPSTREAM, &[], mode);
            assert_eq!(map.backend_key(), "5a881deec44117eee2efd3540198e203");
            assert_eq!((map.mode(), map.endpoints(), map.find(b"any")), (mode, 0, None));
        }
    }

    #[test]
    fn samesite_is_read_in_the_exact_spelling_only() {
        assert_eq!(SameSite::from_exact("Lax"), Some(SameSite::Lax));
        assert_eq!(SameSite::from_exact("None"), Some(SameSite::None));
        assert_eq!(SameSite::from_exact("Strict"), Some(SameSite::Strict));
        for dropped in ["lax", "NONE", "strict", " Lax", ""] {
            assert_eq!(SameSite::from_exact(dropped), None);
        }
    }
}
