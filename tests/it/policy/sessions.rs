//! Session cookies: which are set, and where they lead.

use std::collections::BTreeSet;

use super::{scripted::Scripted, *};

const COOKIE: (&str, &str) = ("affinity", "cookie");

/// The `Set-Cookie` of a first answer: its value, and its attributes in order.
async fn first(bed: &Bed, host: &str, path: &str, fields: &str) -> (String, Vec<String>) {
    let response = ask(bed, host, path, fields).await;
    let cookie = response.header("set-cookie").unwrap_or_else(|| panic!("no session begins: {response:?}"));
    let mut parts = cookie.split("; ").map(str::to_owned);
    (parts.next().expect("there is a first part"), parts.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_the_cookie() {
    let many = [
        COOKIE,
        ("session-cookie-name", "route"),
        ("session-cookie-path", "/shop"),
        ("session-cookie-domain", "shop.com"),
        ("session-cookie-max-age", "60"),
        ("session-cookie-samesite", "Lax"),
        ("session-cookie-secure", "true"),
    ];
    let none = [COOKIE, ("session-cookie-samesite", "None")];
    let considerate = [&none[..], &[("session-cookie-conditional-samesite-none", "true")]].concat();
    // Options belong to the Service port, and so each host has one of its own.
    let (bed, _pods) = bed(&[
        ingress("default", "default.com", &[COOKIE], &[("/app", "Prefix", "web")]),
        ingress("many", "many.com", &many, &[("/", "Prefix", "beta")]),
        ingress("expires", "expires.com", &[COOKIE, ("session-cookie-expires", "3600")], &[("/", "Prefix", "w1")]),
        ingress("strict", "strict.com", &none, &[("/", "Prefix", "w2")]),
        ingress("considerate", "considerate.com", &considerate, &[("/", "Prefix", "w3")]),
        ["w1", "w2", "w3"].map(|name| service_manifest(name, "web", "")).concat(),
    ])
    .await;
    assert_eq!(bed.findings(), [""; 0]);
    let (value, attributes) = first(&bed, "default.com", "/app/x", "").await;
    assert!(value.starts_with("INGRESSCOOKIE="), "{value}");
    assert_eq!(attributes, ["HttpOnly", "Path=/app"]);
    let (value, mut attributes) = first(&bed, "many.com", "/", "").await;
    assert!(value.starts_with("route="), "{value}");
    attributes.sort();
    assert_eq!(attributes, ["Domain=shop.com", "HttpOnly", "Max-Age=60", "Path=/shop", "SameSite=Lax", "Secure"]);
    let (_, attributes) = first(&bed, "expires.com", "/", "").await;
    assert!(attributes.iter().any(|part| part.starts_with("Expires=") && part.ends_with(" GMT")), "{attributes:?}");
    // Safari on iOS 12 takes None for Strict, and so loses the session.
    let old =
        "User-Agent: Mozilla/5.0 (iPhone; CPU iPhone OS 12_0 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1\r\n";
    let says_none =
        async |host: &str, fields: &str| first(&bed, host, "/", fields).await.1.contains(&"SameSite=None".to_owned());
    assert!(says_none("strict.com", old).await && says_none("considerate.com", "").await);
    assert!(!says_none("considerate.com", old).await);
}

/// Two pods of `web` that are there from the beginning (or not), and how many of forty sessions of the first are where after the
/// second has come.
async fn moved(mode: &str) -> BTreeSet<String> {
    let net = Net::next();
    let _pods = (http_pod("a", net.ip(2)).await, http_pod("b", net.ip(3)).await);
    let rest = service_manifest("web", "web", "") + &ingress("a", "a.com", &[COOKIE, ("affinity-mode", mode)], ROOT);
    let bed = Bed::start(net, &(pod_manifest("a", "web", net.ip(2)) + &rest)).await;
    let mut sessions = Vec::new();
    for _ in 0..40 {
        sessions.push(first(&bed, "a.com", "/", "").await.0);
    }
    let both = pod_manifest("a", "web", net.ip(2)) + &pod_manifest("b", "web", net.ip(3));
    bed.apply("main.yaml", &(both + &rest)).await;
    let mut pods = BTreeSet::new();
    for session in &sessions {
        let once = pod(&bed, "a.com", &format!("Cookie: {session}\r\n")).await;
        assert_eq!(pod(&bed, "a.com", &format!("Cookie: {session}\r\n")).await, once);
        pods.insert(once);
    }
    pods
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_pod_takes_over_its_share_or_none() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(moved("persistent").await, names(&["a"]));
    assert_eq!(moved("balanced").await, names(&["a", "b"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_pod_fails_moves_if_it_may() {
    let net = Net::next();
    let (bad, _good) = (Scripted::start(net.ip(2)).await, http_pod("good", net.ip(3)).await);
    let may = [COOKIE, ("session-cookie-change-on-failure", "true")];
    let manifests = [
        pod_manifest("bad", "web", net.ip(2)) + &pod_manifest("good", "web", net.ip(3)),
        service_manifest("web", "web", "") + &service_manifest("same", "web", ""),
        ingress("may", "may.com", &may, ROOT),
        ingress("must-not", "must-not.com", &[COOKIE], &[("/", "Prefix", "same")]),
    ];
    let bed = Bed::start(net, &manifests.concat()).await;
    for (host, status) in [("may.com", 200), ("must-not.com", 502)] {
        let session = loop {
            let before = bad.requests();
            let (session, _) = first(&bed, host, "/", "").await;
            if bad.requests() > before {
                break session;
            }
        };
        let response = ask(&bed, host, "/closes", &format!("Cookie: {session}\r\n")).await;
        assert_eq!(response.status, status, "{host}");
        // A new session, on the pod that answered.
        assert_eq!(response.header("set-cookie").is_some(), status == 200, "{host}");
    }
}

/// With `legacy` the canary has no session cookie: each request is decided anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_without_sessions() {
    let rule = [("canary-by-header", "X-Beta"), ("affinity-canary-behavior", "legacy")];
    let (bed, _pods) = bed(&[canary("a.com", &rule, &[COOKIE])]).await;
    let response = ask(&bed, "a.com", "/", "X-Beta: always\r\n").await;
    assert_eq!((response.pod().as_deref(), response.header("set-cookie")), (Some("beta"), None));
    assert!(first(&bed, "a.com", "/", "").await.0.starts_with("INGRESSCOOKIE="));
}
