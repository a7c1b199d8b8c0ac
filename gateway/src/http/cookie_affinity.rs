//! Cookie affinity on a request: reads the session cookie, chooses the endpoint, writes the `Set-Cookie` header.
//!
//! The cookie's value is `<key>|<backend key>`. What a key means, and which endpoint it stands for, is
//! [`StickyMap`]'s; which endpoints failed or are left out, and whether this route sets cookies at all, is the caller's:
//! 1. [`choose`] once before the first attempt, and again with the failed endpoints after each failure;
//! 2. on [`Choice::New`], if the route carries affinity and that endpoint answers, append [`set_cookie`] to the answer.
//!
//! A cookie is written only when an endpoint is newly chosen and never refreshed, as in ingress-nginx 1.15.1: `Max-Age`
//! counts from the session's first request, and in balanced mode a session whose pod went away moves silently.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cookie::Cookie;
use cookie::time::{Duration as CookieDuration, OffsetDateTime};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use crate::route::sticky::{AffinityMode, CookieAffinity, SameSite, StickyMap};

/// Keys drawn, for each endpoint of the ring, in search of one whose endpoint will do: if a single one does, all draws miss it
/// about once in ten million times, however many there are. The number is ingress-nginx's `MAX_UPSTREAM_CHECKS_COUNT`, which
/// it has for all endpoints together.
const KEY_DRAWS: usize = 20;

/// 9999-12-31 23:59:59 UTC, the last second an `Expires` date can name with its four-digit year.
const LAST_EXPIRES: i64 = 253_402_300_799;

/// Where the next attempt of a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The session is pinned to this endpoint; no cookie to set.
    Sticky {
        /// Index into the endpoints the map was built from.
        index: usize,
    },
    /// A session begins, or moves to another endpoint.
    New {
        /// Index into the endpoints the map was built from.
        index: usize,
        /// What [`set_cookie`] is to carry if this endpoint answers.
        value: String,
    },
    /// There is no endpoint, or each one tried has failed.
    NoneLeft,
}

/// What the keys of new sessions are drawn from.
#[derive(Debug)]
pub struct KeySource<'a> {
    /// The time of the request.
    pub now: SystemTime,
    /// The id of this process, which keeps two replicas from drawing equal keys.
    pub pid: u32,
    /// Random numbers. A key is no secret: it only spreads sessions over endpoints.
    pub rng: &'a mut fastrand::Rng,
}

/// Chooses the endpoint for the next attempt. `failed` lists the endpoints this request already tried in vain: the
/// session stays on its endpoint all the same, unless `change_on_failure` allows it to move. `is_out` tells which endpoints are
/// left out at present (ejected, or failing their probes): no session begins on them as long as there is another, but those
/// they have stay there.
pub fn choose(
    affinity: &CookieAffinity,
    map: &StickyMap,
    headers: &HeaderMap,
    failed: &[usize],
    is_out: impl Fn(usize) -> bool,
    source: &mut KeySource<'_>,
) -> Choice {
    let may_stay = failed.is_empty() || !affinity.change_on_failure;
    let pinned = session(headers, &affinity.name).and_then(|session| map.find(session.key));
    if let Some(index) = pinned
        && may_stay
    {
        return Choice::Sticky { index };
    }
    let untried = |index: usize| !failed.contains(&index);
    let in_use = |index: usize| untried(index) && !is_out(index);
    let is_any_in_use = (0..map.endpoints()).any(in_use);
    let will_do = |index: usize| if is_any_in_use { in_use(index) } else { untried(index) };
    let drawn = match map.mode() {
        AffinityMode::Balanced => draw_key(map, will_do, source),
        AffinityMode::Persistent => draw_endpoint(map, will_do, source.rng),
    };
    match drawn {
        Some((index, key)) => Choice::New { index, value: format!("{key}|{}", map.backend_key()) },
        None => Choice::NoneLeft,
    }
}

/// The session a request carries, borrowed from its `Cookie` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session<'a> {
    /// What [`StickyMap::find`] is asked for; never empty.
    pub key: &'a [u8],
    /// [`StickyMap::backend_key`] of the upstream that opened the session.
    pub backend: Option<&'a [u8]>,
}

impl Session<'_> {
    /// Whether `map`'s upstream opened this session. It decides between a canary and its primary.
    pub fn belongs_to(&self, map: &StickyMap) -> bool {
        self.backend == Some(map.backend_key().as_bytes())
    }
}

/// The first session cookie called `name`, over all `Cookie` headers (HTTP/2 may split them, RFC 9113 section 8.2.3).
/// First, because browsers list the cookie with the longest path first (RFC 6265 section 5.4), and nginx's
/// `$cookie_name` takes that one too. ingress-nginx's affinity takes the last: it differs only where rules of one host
/// with nested paths have each set a cookie of the same name.
pub fn session<'a>(headers: &'a HeaderMap, name: &str) -> Option<Session<'a>> {
    find(headers, name).map(|(session, _)| session)
}

/// The same cookie as it was sent, `name=value`.
pub(crate) fn pair<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    find(headers, name).map(|(_, pair)| pair.trim_ascii())
}

fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<(Session<'a>, &'a [u8])> {
    let mut pairs = headers.get_all(COOKIE).iter().flat_map(|header| header.as_bytes().split(|&byte| byte == b';'));
    pairs.find_map(|pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        if pair[..equals].trim_ascii() != name.as_bytes() {
            return None;
        }
        let value = pair[equals + 1..].trim_ascii();
        let value = value.strip_prefix(b"\"").and_then(|inner| inner.strip_suffix(b"\"")).unwrap_or(value);
        let (key, rest) = first_part(value)?;
        Some((Session { key, backend: first_part(rest).map(|(backend, _)| backend) }, pair))
    })
}

/// The `Set-Cookie` header for a new session. `rule_path` is the path of the Ingress rule that matched, `https` whether
/// the client's connection is. The order of the attributes is that of the `cookie` crate, which no browser minds.
pub fn set_cookie(
    affinity: &CookieAffinity,
    value: &str,
    rule_path: &str,
    https: bool,
    user_agent: Option<&HeaderValue>,
    now: SystemTime,
) -> HeaderValue {
    let mut cookie = Cookie::new(&*affinity.name, value);
    cookie.set_http_only(true);
    // Said even when false: left unsaid, the crate would add `Secure` to `SameSite=None`.
    cookie.set_secure(affinity.secure || https);
    cookie.set_path(expressible(affinity.path.as_deref().unwrap_or(rule_path)));
    if let Some(domain) = affinity.domain.as_deref() {
        cookie.set_domain(domain);
    }
    if let Some(seconds) = affinity.max_age {
        cookie.set_max_age(CookieDuration::seconds(seconds));
    }
    if let Some(seconds) = affinity.expires {
        let date = since_epoch(now).as_secs().cast_signed().saturating_add(seconds).clamp(0, LAST_EXPIRES);
        cookie.set_expires(OffsetDateTime::from_unix_timestamp(date).ok());
    }
    cookie.set_same_site(match affinity.samesite {
        Some(SameSite::None) if affinity.conditional_samesite_none && refuses_none(user_agent) => None,
        Some(SameSite::None) => Some(cookie::SameSite::None),
        Some(SameSite::Lax) => Some(cookie::SameSite::Lax),
        Some(SameSite::Strict) => Some(cookie::SameSite::Strict),
        None => None,
    });
    let mut text = cookie.to_string();
    text.retain(|character| !character.is_control());
    HeaderValue::try_from(text).expect("a header value is text without control characters")
}

/// Draws keys as ingress-nginx writes them, until the ring maps one to an endpoint that will do.
fn draw_key(map: &StickyMap, will_do: impl Fn(usize) -> bool, source: &mut KeySource<'_>) -> Option<(usize, String)> {
    if !(0..map.endpoints()).any(&will_do) {
        return None;
    }
    let now = since_epoch(source.now);
    (1..=KEY_DRAWS * map.endpoints()).find_map(|draw| {
        let random = source.rng.u32(1..=999_999);
        let (seconds, millis) = (now.as_secs() + draw as u64, now.subsec_millis());
        let key = format!("{seconds}.{millis:03}.{}.{random}", source.pid);
        map.find(key.as_bytes()).filter(|&index| will_do(index)).map(|index| (index, key))
    })
}

/// Any endpoint that will do, each as likely as the others; its key follows from it.
fn draw_endpoint(map: &StickyMap, will_do: impl Fn(usize) -> bool, rng: &mut fastrand::Rng) -> Option<(usize, String)> {
    let eligible = || (0..map.endpoints()).filter(|&index| will_do(index));
    let count = eligible().count();
    let index = if count == 0 { None } else { eligible().nth(rng.usize(..count)) }?;
    map.persistent_key(index).map(|key| (index, key.to_owned()))
}

/// The first non-empty part of a cookie's value, and what follows its separator: `|`, which ingress-nginx writes raw,
/// or `%7C`, to which some clients turn it.
fn first_part(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut start = 0;
    for (at, &byte) in value.iter().enumerate() {
        let width = match byte {
            b'|' => 1,
            b'%' if value[at + 1..].get(..2).is_some_and(|hex| hex.eq_ignore_ascii_case(b"7c")) => 3,
            _ => continue,
        };
        if at > start {
            return Some((&value[start..at], &value[at + width..]));
        }
        start = at + width;
    }
    Some((&value[start..], &[][..])).filter(|(part, _)| !part.is_empty())
}

/// The longest path for a cookie that covers `path`: a `;` cannot be written in one (RFC 6265 section 4.1.1), so from
/// `/a/b;c` remains the folder, `/a/`.
fn expressible(path: &str) -> &str {
    match path.split_once(';') {
        Some((before, _)) => &before[..before.rfind('/').map_or(0, |slash| slash + 1)],
        None => path,
    }
}

/// Browsers that throw away a cookie with `SameSite=None`, by the rules of ingress-nginx's `same_site.lua` (after
/// chromium.org, "SameSite=None: Known Incompatible Clients").
fn refuses_none(user_agent: Option<&HeaderValue>) -> bool {
    let Some(agent) = user_agent.map(HeaderValue::as_bytes) else {
        return false;
    };
    let has = |text: &str| agent.windows(text.len()).any(|window| window == text.as_bytes());
    let always = ["Chrome/4", "Chrome/5", "Chrome/6", "CPU iPhone OS 12", "iPad; CPU OS 12"];
    let safari_on_mojave = ["Macintosh", "Intel Mac OS X 10_14", "Safari"];
    always.into_iter().any(has) || (safari_on_mojave.into_iter().all(has) && !has("Chrome"))
}

/// A clock before 1970 counts as 1970.
fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::SocketAddr};

    use proptest::prelude::*;

    use super::*;

    const BACKEND: &str = "5a881deec44117eee2efd3540198e203";
    const NOW: SystemTime = UNIX_EPOCH;

    fn map(mode: AffinityMode) -> StickyMap {
        let endpoints =
            ["10.0.0.1:8080", "10.0.0.2:8080", "10.244.3.17:80", "192.168.255.254:65535", "[fd00::1:2]:8443"];
        StickyMap::build("default-http-svc-80", &endpoints.map(|text| text.parse::<SocketAddr>().unwrap()), mode)
    }

    fn headers(cookies: &[&str]) -> HeaderMap {
        cookies.iter().map(|text| (COOKIE, HeaderValue::from_bytes(text.as_bytes()).unwrap())).collect()
    }

    fn choice(affinity: &CookieAffinity, map: &StickyMap, cookies: &[&str], failed: &[usize], seed: u64) -> Choice {
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_042);
        let mut rng = fastrand::Rng::with_seed(seed);
        choose(affinity, map, &headers(cookies), failed, |_| false, &mut KeySource { now, pid: 29, rng: &mut rng })
    }

    /// Where a request without a cookie goes, while some endpoints are left out.
    fn begins(map: &StickyMap, failed: &[usize], out: &[usize], seed: u64) -> Option<usize> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut source = KeySource { now: NOW, pid: 29, rng: &mut rng };
        let is_out = |index: usize| out.contains(&index);
        match choose(&moving(), map, &HeaderMap::new(), failed, is_out, &mut source) {
            Choice::New { index, .. } => Some(index),
            Choice::NoneLeft => None,
            Choice::Sticky { .. } => panic!("there is no session"),
        }
    }

    fn moving() -> CookieAffinity {
        CookieAffinity { change_on_failure: true, ..CookieAffinity::default() }
    }

    fn written(affinity: &CookieAffinity, https: bool, agent: Option<&str>) -> String {
        let agent = agent.map(|text| HeaderValue::from_str(text).unwrap());
        set_cookie(affinity, "k|b", "/foo", https, agent.as_ref(), NOW).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_cookie_is_found_however_it_is_written() {
        let exact = format!("INGRESSCOOKIE=1763938956.001.1.1|{BACKEND}");
        let cases: [&[&str]; 9] = [
            &[&exact],
            &[&format!("a=b; {exact}; c=d")],
            &["a=b", &exact],
            &[&exact.replace('|', "%7C")],
            &[&exact.replace('|', "%7c")],
            &[&format!("INGRESSCOOKIE=\"1763938956.001.1.1|{BACKEND}\"")],
            &[&format!("XINGRESSCOOKIE=x|y;ingresscookie=x|y;flag; {exact} ;")],
            &[&format!("INGRESSCOOKIE=; INGRESSCOOKIE=|; {exact}")],
            &[&exact, "INGRESSCOOKIE=later|cookie"],
        ];
        for cookies in cases {
            let headers = headers(cookies);
            let session = session(&headers, "INGRESSCOOKIE").unwrap_or_else(|| panic!("{cookies:?}"));
            assert_eq!(session.key, b"1763938956.001.1.1", "{cookies:?}");
            assert!(session.belongs_to(&map(AffinityMode::Balanced)), "{cookies:?}");
        }
    }

    #[test]
    fn a_value_without_a_backend_is_a_key_and_an_empty_one_is_no_session() {
        let found =
            |text| session(&headers(&[text]), "c").map(|session| (session.key.to_vec(), session.backend.is_some()));
        assert_eq!(found("c=key"), Some((b"key".to_vec(), false)));
        assert_eq!(found("c=|key"), Some((b"key".to_vec(), false)));
        assert_eq!(found("c=%7C%7ckey%|b|c"), Some((b"key%".to_vec(), true)));
        assert_eq!(found("c=a=b|c"), Some((b"a=b".to_vec(), true)));
        for none in ["", "c", "c=", "c=\"\"", "c=|", "c=%7C|", "d=key", "=", ";"] {
            assert_eq!(found(none), None, "{none}");
        }
    }

    #[test]
    fn a_session_stays_even_when_its_endpoint_failed() {
        let map = map(AffinityMode::Balanced);
        let cookie = [&*format!("INGRESSCOOKIE=1763938956.001.1.1|{BACKEND}")];
        for failed in [&[][..], &[2], &[2, 2, 0]] {
            let found = choice(&CookieAffinity::default(), &map, &cookie, failed, 1);
            assert_eq!(found, Choice::Sticky { index: 2 });
        }
        assert_eq!(choice(&moving(), &map, &cookie, &[], 1), Choice::Sticky { index: 2 });
    }

    #[test]
    fn with_change_on_failure_a_session_moves_and_its_new_cookie_leads_there() {
        for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
            let map = map(mode);
            let key = map.persistent_key(2).unwrap_or("1763938956.001.1.1");
            for seed in 0..50 {
                let cookie = format!("INGRESSCOOKIE={key}|{BACKEND}");
                let Choice::New { index, value } = choice(&moving(), &map, &[&cookie], &[2, 0], seed) else {
                    panic!("no new endpoint");
                };
                assert!(![2, 0].contains(&index));
                let next = choice(&moving(), &map, &[&format!("INGRESSCOOKIE={value}")], &[], seed);
                assert_eq!(next, Choice::Sticky { index });
            }
            assert_eq!(choice(&moving(), &map, &[], &[0, 1, 2, 3, 4], 1), Choice::NoneLeft);
        }
    }

    #[test]
    fn no_session_begins_on_an_endpoint_that_is_out_while_another_is_in_use() {
        for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
            let map = map(mode);
            for seed in 0..300 {
                assert_eq!(begins(&map, &[], &[0, 1, 2, 4], seed), Some(3));
                assert_eq!(begins(&map, &[1], &[0, 2, 4], seed), Some(3));
                // Where none is in use, one that is out is better than one that this request has seen fail.
                assert_eq!(begins(&map, &[1, 2, 3, 4], &[0], seed), Some(0));
                assert_eq!(begins(&map, &[0, 1, 2, 3, 4], &[], seed), None);
            }
            let reached: BTreeSet<_> = (0..300).filter_map(|seed| begins(&map, &[], &[0, 1, 2, 3, 4], seed)).collect();
            assert_eq!(reached.len(), 5, "all are out, so any will do");
        }
    }

    #[test]
    fn a_session_stays_on_an_endpoint_that_is_out() {
        for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
            let map = map(mode);
            let headers =
                headers(&[&format!("INGRESSCOOKIE={}", map.persistent_key(2).unwrap_or("1763938956.001.1.1"))]);
            let mut source = KeySource { now: NOW, pid: 1, rng: &mut fastrand::Rng::with_seed(1) };
            let found = choose(&moving(), &map, &headers, &[], |index| index == 2, &mut source);
            assert_eq!(found, Choice::Sticky { index: 2 });
        }
    }

    #[test]
    fn a_new_session_has_a_key_like_those_of_ingress_nginx() {
        let Choice::New { value, .. } = choice(&CookieAffinity::default(), &map(AffinityMode::Balanced), &[], &[], 7)
        else {
            panic!("no endpoint");
        };
        let random =
            value.strip_prefix("1700000001.042.29.").and_then(|rest| rest.strip_suffix(&format!("|{BACKEND}")));
        assert!((1..=999_999).contains(&random.unwrap().parse::<u32>().unwrap()), "{value}");
    }

    #[test]
    fn new_sessions_spread_over_all_endpoints() {
        for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
            let mut counts = [0; 5];
            for seed in 0..1000 {
                // In persistent mode a key nobody gave out opens a new session.
                let cookies: &[&str] = if mode == AffinityMode::Persistent { &["INGRESSCOOKIE=gone|x"] } else { &[] };
                let Choice::New { index, .. } = choice(&CookieAffinity::default(), &map(mode), cookies, &[], seed)
                else {
                    panic!("no new endpoint");
                };
                counts[index] += 1;
            }
            assert!(counts.iter().all(|&count| count > 120), "{mode:?}: {counts:?}");
        }
    }

    #[test]
    fn without_endpoints_there_is_no_choice() {
        for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
            let empty = StickyMap::build("default-http-svc-80", &[], mode);
            let found = choice(&CookieAffinity::default(), &empty, &["INGRESSCOOKIE=a|b"], &[], 1);
            assert_eq!(found, Choice::NoneLeft);
        }
    }

    #[test]
    fn attributes() {
        let plain = CookieAffinity::default();
        assert_eq!(written(&plain, false, None), "INGRESSCOOKIE=k|b; HttpOnly; Path=/foo");
        assert_eq!(written(&plain, true, None), "INGRESSCOOKIE=k|b; HttpOnly; Secure; Path=/foo");
        let full = CookieAffinity {
            name: "route".into(),
            expires: Some(86_400),
            max_age: Some(0),
            path: Some("/bar".into()),
            domain: Some("example.com".into()),
            samesite: Some(SameSite::Strict),
            secure: true,
            ..plain
        };
        assert_eq!(
            written(&full, false, None),
            "route=k|b; HttpOnly; SameSite=Strict; Secure; Path=/bar; Domain=example.com; Max-Age=0; \
             Expires=Fri, 02 Jan 1970 00:00:00 GMT"
        );
        // Plain HTTP stays without `Secure` even where the browser will want it, as in ingress-nginx.
        let none = CookieAffinity { samesite: Some(SameSite::None), ..CookieAffinity::default() };
        assert_eq!(written(&none, false, None), "INGRESSCOOKIE=k|b; HttpOnly; SameSite=None; Path=/foo");
    }

    #[test]
    fn dates_beyond_what_a_cookie_can_say_are_cut() {
        let expires = |seconds| {
            let affinity = CookieAffinity { expires: Some(seconds), ..CookieAffinity::default() };
            written(&affinity, false, None).split_once("Expires=").map(|(_, date)| date.to_owned())
        };
        assert_eq!(expires(i64::MAX).as_deref(), Some("Fri, 31 Dec 9999 23:59:59 GMT"));
        assert_eq!(expires(-5).as_deref(), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
        assert_eq!(expires(i64::MIN).as_deref(), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    }

    #[test]
    fn a_path_cannot_add_attributes() {
        let path = |rule| {
            let header = set_cookie(&CookieAffinity::default(), "k|b", rule, false, None, NOW);
            header.to_str().unwrap().split_once("Path=").unwrap().1.to_owned()
        };
        assert_eq!(path("/a/b;c/d"), "/a/");
        assert_eq!(path("/b; Domain=example.com"), "/");
        assert_eq!(path("/a\r\nX: y"), "/aX: y");
        assert_eq!(path(";"), "");
    }

    #[test]
    fn samesite_none_is_left_out_for_browsers_that_refuse_it() {
        let mut affinity = CookieAffinity { samesite: Some(SameSite::None), ..CookieAffinity::default() };
        affinity.conditional_samesite_none = true;
        let agents = [
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/51.0.2704.103 Safari/537.36", false),
            ("Mozilla/5.0 (X11; Linux x86_64) Chrome/66.0.3359.139 Safari/537.36", false),
            ("Mozilla/5.0 (Linux; Android 5.0) Chrome/43.0.2357.93 Mobile Safari/537.36", false),
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 12_2 like Mac OS X) Version/12.1 Mobile/15E148 Safari/604.1", false),
            ("Mozilla/5.0 (iPad; CPU OS 12_0 like Mac OS X) Version/12.0 Mobile/15E148 Safari/604.1", false),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Version/13.1 Safari/605.1.15", false),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_6) Chrome/80.0.3987.132 Safari/537.36", true),
            ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_4) Version/13.1 Safari/605.1.15", true),
            ("Mozilla/5.0 (iPhone; CPU iPhone OS 13_4 like Mac OS X) Version/13.1 Mobile/15E148 Safari/604.1", true),
            ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) Chrome/80.0.3987.132 Safari/537.36", true),
            ("", true),
        ];
        for (agent, expected) in agents {
            assert_eq!(written(&affinity, true, Some(agent)).contains("SameSite=None"), expected, "{agent}");
        }
        assert!(written(&affinity, true, None).contains("SameSite=None"));
        // The rule is about `None` alone, and only where the annotation asks for it.
        affinity.samesite = Some(SameSite::Lax);
        assert!(written(&affinity, true, Some(agents[0].0)).contains("SameSite=Lax"));
        affinity = CookieAffinity { samesite: Some(SameSite::None), ..CookieAffinity::default() };
        assert!(written(&affinity, true, Some(agents[0].0)).contains("SameSite=None"));
    }

    fn cookie_bytes() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            Just(&b"INGRESSCOOKIE="[..]),
            Just(&b";"[..]),
            Just(&b"|"[..]),
            Just(&b"%7C"[..]),
            Just(&b"%7"[..]),
            Just(&b"%"[..]),
            Just(&b"\""[..]),
            Just(&b"="[..]),
            Just(&b" "[..]),
            Just(&b"\xff"[..]),
            Just(&b"1.2.3"[..]),
        ];
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(token, 0..16).prop_map(|tokens| tokens.concat())
        ]
    }

    proptest! {
        #[test]
        fn any_cookie_header_is_read_without_panic(lines in prop::collection::vec(cookie_bytes(), 0..4)) {
            let values = lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok());
            let headers: HeaderMap = values.map(|value| (COOKIE, value)).collect();
            if let Some(session) = session(&headers, "INGRESSCOOKIE") {
                prop_assert!(!session.key.is_empty() && !session.key.contains(&b'|') && !session.key.contains(&b';'));
            }
            for mode in [AffinityMode::Balanced, AffinityMode::Persistent] {
                let mut rng = fastrand::Rng::with_seed(1);
                let mut source = KeySource { now: NOW, pid: 1, rng: &mut rng };
                let found = choose(&moving(), &map(mode), &headers, &[], |_| false, &mut source);
                prop_assert_ne!(found, Choice::NoneLeft);
            }
        }

        #[test]
        fn any_configuration_is_written_without_panic(
            (name, value, path, domain) in any::<(String, String, String, String)>(),
            (expires, max_age) in any::<(i64, i64)>(),
            agent in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let affinity = CookieAffinity {
                name: name.into(),
                domain: Some(domain.into()),
                expires: Some(expires),
                max_age: Some(max_age),
                ..CookieAffinity::default()
            };
            let agent = HeaderValue::from_bytes(&agent).ok();
            set_cookie(&affinity, &value, &path, true, agent.as_ref(), NOW);
        }
    }
}
