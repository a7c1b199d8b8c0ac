//! What each annotation does, and what becomes of a bad value.

use tidegate_crd::{Kind, Origin};

use super::*;
use crate::route::{
    filter::Text,
    policy::{LoadBalance, Timeouts},
    sticky::{AffinityMode, SameSite},
    template::Template,
};

fn read(annotations: &[(&str, &str)]) -> (IngressOptions, Vec<&'static str>) {
    let mut ingress = Ingress::default();
    let pairs = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
    ingress.metadata.annotations = Some(pairs.collect());
    let origin = Origin::synthetic("test");
    let mut report = Report::on(Kind::Ingress, "default", "test", &origin);
    let options = IngressOptions::read(&ingress, std::iter::empty(), &mut report);
    (options, report.into_findings().into_iter().map(|finding| finding.reason).collect())
}

#[test]
fn the_rows_are_sorted_and_each_name_stands_once() {
    for (title, _, rows) in FAMILIES {
        assert!(rows.windows(2).all(|pair| pair[0].name < pair[1].name), "{title}");
    }
    let all: usize = FAMILIES.iter().map(|(_, _, rows)| rows.len()).sum();
    assert_eq!(ROWS.len(), all);
}

#[test]
fn the_cookie_family() {
    let (options, findings) = read(&[
        ("affinity", "cookie"),
        ("affinity-mode", "persistent"),
        ("session-cookie-name", "route"),
        ("session-cookie-max-age", "60"),
        ("session-cookie-expires", "70"),
        ("session-cookie-path", "/x"),
        ("session-cookie-domain", "a.b"),
        ("session-cookie-samesite", "Lax"),
        ("session-cookie-secure", "true"),
        ("session-cookie-change-on-failure", "1"),
        ("session-cookie-conditional-samesite-none", "True"),
    ]);
    assert_eq!(findings, [""; 0]);
    let expected = CookieAffinity {
        name: "route".into(),
        mode: AffinityMode::Persistent,
        expires: Some(70),
        max_age: Some(60),
        path: Some("/x".into()),
        domain: Some("a.b".into()),
        samesite: Some(SameSite::Lax),
        conditional_samesite_none: true,
        secure: true,
        change_on_failure: true,
    };
    assert!(options.affinity);
    assert_eq!(options.cookie, expected);
}

#[test]
fn a_bad_value_is_reported_and_has_its_default() {
    for (name, value) in [
        ("affinity", "ip"),
        ("affinity-mode", "sticky"),
        ("session-cookie-max-age", "60s"),
        ("session-cookie-name", "a;b"),
        ("session-cookie-path", "x"),
        ("session-cookie-samesite", "lax"),
        ("session-cookie-secure", "on"),
    ] {
        let (options, findings) = read(&[("affinity", "cookie"), (name, value)]);
        assert_eq!(findings, ["InvalidAnnotation"], "{name}: {value}");
        assert_eq!(options.cookie, CookieAffinity::default(), "{name}: {value}");
    }
}

#[test]
fn a_guard_closes_and_the_unknown_is_reported() {
    assert!(read(&[("auth-url", "http://x")]).0.closed.is_some());
    assert!(read(&[("configuration-snippet", "x")]).0.closed.is_some());
    assert_eq!(read(&[("proxy-body-sise", "8m")]), (IngressOptions::default(), vec!["UnsupportedAnnotation"]));
    assert_eq!(read(&[("session-cookie-name", "x")]).1, ["UnusedAnnotation"]);
}

fn one(name: &str, value: &str) -> (IngressOptions, Vec<&'static str>) {
    let mut ingress = Ingress::default();
    ingress.metadata.annotations = Some([(name.to_owned(), value.to_owned())].into());
    let origin = Origin::synthetic("test");
    let mut report = Report::on(Kind::Ingress, "default", "test", &origin);
    let options = IngressOptions::read(&ingress, std::iter::empty(), &mut report);
    (options, report.into_findings().into_iter().map(|finding| finding.reason).collect())
}

/// Reads one annotation, which must be fine.
fn good(name: &str, value: &str) -> IngressOptions {
    let full = if name.contains('/') { name.to_owned() } else { format!("{PREFIX}{name}") };
    let (options, findings) = one(&full, value);
    assert_eq!(findings, [""; 0], "{name}: {value}");
    options
}

#[test]
fn every_honoured_annotation_has_a_good_value_that_changes_something_or_is_the_default() {
    // A row that is in no test is a row whose meaning nobody checked.
    let beside = include_str!("tls.rs").split("#[cfg(test)]").nth(1).unwrap();
    let text = [include_str!("tests.rs"), beside].concat();
    for (_, prefix, rows) in FAMILIES {
        for row in *rows {
            let is_ours = if *prefix == PREFIX { "" } else { OWN_PREFIX };
            let name = format!("\"{is_ours}{}\"", row.name);
            let tested = text.contains(&name) || matches!(row.support, Support::Guard | Support::Refused);
            assert!(tested, "{name} is not tested");
            assert!(row.doc.ends_with('.') && !row.doc.contains('\n'), "{name}: {}", row.doc);
        }
    }
}

#[test]
fn times_retries_and_sizes() {
    let secs = std::time::Duration::from_secs;
    let timeouts = |name, value| good(name, value).proxy.timeouts;
    assert_eq!(timeouts("proxy-connect-timeout", "7"), Timeouts { connect: secs(7), ..Timeouts::default() });
    assert_eq!(timeouts("proxy-send-timeout", "7"), Timeouts { send: secs(7), ..Timeouts::default() });
    assert_eq!(timeouts("proxy-read-timeout", "3600"), Timeouts { read: secs(3600), ..Timeouts::default() });
    assert_eq!(timeouts("tidegate.io/per-try-timeout", "2s").per_try, Some(secs(2)));
    assert_eq!(timeouts("tidegate.io/request-timeout", "1500ms").request, Some(secs(3) / 2));
    let retry = |name, value| good(name, value).proxy.retry;
    let all = retry("proxy-next-upstream", "http_503 error invalid_header  http_429 non_idempotent http_503");
    assert!(all.on_error && !all.on_timeout && all.on_invalid && all.non_idempotent);
    assert_eq!(all.on_status.iter().map(http::StatusCode::as_u16).collect::<Vec<_>>(), [429, 503]);
    let off = retry("proxy-next-upstream", "error http_502 off");
    assert!(!off.on_error && !off.on_timeout && off.on_status.is_empty());
    assert_eq!(retry("proxy-next-upstream-tries", "0").tries, 0);
    assert_eq!(retry("proxy-next-upstream-timeout", "9").within, Some(secs(9)));
    assert_eq!(retry("proxy-next-upstream-timeout", "0").within, None);
    assert_eq!(retry("tidegate.io/retry-budget", "35%").budget_percent, 35);
    assert_eq!(good("proxy-body-size", "8m").proxy.body_limit, Some(8 << 20));
    assert_eq!(good("proxy-body-size", "0").proxy.body_limit, None);
    assert!(!good("enable-access-log", "false").proxy.access_log);
    assert!(good("connection-proxy-header", "close").proxy.close);
    good("proxy-http-version", "1.1");
    for (protocol, expected) in [
        ("HTTP", Protocol::Http),
        ("https", Protocol::Https),
        ("AUTO_HTTP", Protocol::AsTheClient),
        ("GRPC", Protocol::Grpc),
        ("grpcs", Protocol::Grpcs),
    ] {
        assert_eq!(good("backend-protocol", protocol).proxy.protocol, Some(expected));
    }
    for (name, value) in [
        ("client-body-buffer-size", "1m"),
        ("proxy-buffer-size", "16k"),
        ("proxy-buffering", "on"),
        ("proxy-buffers-number", "8"),
        ("proxy-busy-buffers-size", "64k"),
        ("proxy-max-temp-file-size", "0"),
        ("proxy-request-buffering", "off"),
    ] {
        assert_eq!(good(name, value), IngressOptions::default(), "{name}");
    }
}

#[test]
fn redirects_and_rewrites() {
    assert_eq!(good("app-root", "/app").redirect.app_root.as_deref(), Some("/app"));
    assert!(good("force-ssl-redirect", "true").redirect.https_always);
    assert!(!good("ssl-redirect", "false").redirect.https);
    assert!(good("preserve-trailing-slash", "true").redirect.preserve_trailing_slash);
    assert!(good("from-to-www-redirect", "true").redirect.www);
    let url = |url: &str| Some(Text::of(Template::parse(url).unwrap()).unwrap());
    assert_eq!(good("permanent-redirect", "https://a.b/c").redirect.permanent, url("https://a.b/c"));
    assert_eq!(good("temporal-redirect", "https://a.b$request_uri").redirect.temporal, url("https://a.b$request_uri"));
    assert_eq!(good("permanent-redirect-code", "308").redirect.permanent_code, 308);
    assert_eq!(good("temporal-redirect-code", "307").redirect.temporal_code, 307);
    assert_eq!(good("rewrite-target", "/$2").rewrite.target.as_deref(), Some("/$2"));
    assert!(good("use-regex", "true").rewrite.use_regex);
    assert_eq!(good("x-forwarded-prefix", "/a").rewrite.forwarded_prefix.unwrap(), "/a");
    assert_eq!(good("tidegate.io/rewrite-prefix", "/v1").rewrite.prefix.as_deref(), Some("/v1"));
}

#[test]
fn canaries() {
    assert!(good("canary", "true").canary.enabled);
    let (options, findings) = read(&[
        ("canary", "true"),
        ("affinity-canary-behavior", "legacy"),
        ("canary-by-cookie", "beta"),
        ("canary-by-header", "X-Beta"),
        ("canary-by-header-pattern", "^a.c$"),
        ("canary-by-header-value", "yes"),
        ("canary-weight", "20"),
        ("canary-weight-total", "1000"),
    ]);
    assert_eq!(findings, [""; 0]);
    let canary = options.canary;
    assert!(canary.own_affinity && canary.header_pattern.unwrap().is_match("abc"));
    assert_eq!((canary.cookie.as_deref(), canary.header.unwrap().as_str()), (Some("beta"), "x-beta"));
    assert_eq!((canary.header_value.as_deref(), canary.weight, canary.total), (Some("yes"), 20, Some(1000)));
    let (small, findings) = read(&[("canary", "true"), ("canary-weight-total", "50")]);
    assert_eq!((small.canary.total, findings), (None, vec!["InvalidAnnotation"]), "at least 100");
    assert_eq!(read(&[("canary", "true"), ("canary-weight", "101")]).1, ["InvalidAnnotation"]);
    assert_eq!(read(&[("canary", "true"), ("canary-weight", "100")]).1, [""; 0]);
    assert_eq!(read(&[("canary-weight", "5")]).1, ["UnusedAnnotation"]);
    assert_eq!(read(&[("canary", "true"), ("canary-by-header-value", "5")]).1, ["UnusedAnnotation"]);
}

#[test]
fn fields() {
    let text = |name, value| good(name, value).headers;
    assert_eq!(text("tidegate.io/request-headers-set", "X-A: 1").request.set.len(), 1);
    assert_eq!(text("tidegate.io/request-headers-add", "X-A: 1\nX-B: 2").request.add.len(), 2);
    assert_eq!(text("tidegate.io/request-headers-remove", "X-A, X-B").request.remove.len(), 2);
    assert_eq!(text("tidegate.io/response-headers-set", "X-A: 1").response.set.len(), 1);
    assert_eq!(text("tidegate.io/response-headers-add", "X-A: 1").response.add.len(), 1);
    assert_eq!(text("tidegate.io/response-headers-remove", "Server").response.remove.len(), 1);
    assert_eq!(text("upstream-vhost", "a.internal").host.unwrap().to_string(), "a.internal");
    assert_eq!(text("custom-headers", "default/fields").config_map.as_deref(), Some("default/fields"));
    let domain = text("proxy-cookie-domain", "a.local b.com").cookie_domain.unwrap();
    assert_eq!((&*domain.from, &*domain.to), ("a.local", "b.com"));
    assert!(text("proxy-cookie-path", "/a/ /").cookie_path.is_some());
    assert!(text("proxy-cookie-path", "off").cookie_path.is_none());
    let (options, findings) = read(&[("proxy-redirect-from", "http://a/"), ("proxy-redirect-to", "http://b/")]);
    assert_eq!((options.headers.location_from.as_deref(), findings), (Some("http://a/"), vec![]));
    assert_eq!(read(&[("proxy-redirect-from", "http://a/")]).1, ["UnusedAnnotation"]);
    assert_eq!(read(&[("proxy-redirect-from", "off")]).1, [""; 0]);
}

#[test]
fn upstreams_and_names() {
    assert_eq!(good("load-balance", "ewma").upstream.load_balance, Some(LoadBalance::Ewma));
    assert_eq!(good("load-balance", "round_robin").upstream.load_balance, Some(LoadBalance::RoundRobin));
    assert!(good("service-upstream", "true").upstream.service_upstream);
    assert_eq!(good("upstream-hash-by", "$request_uri").upstream.hash_by.unwrap().to_string(), "$request_uri");
    let alias = |name: &str| HostName::Exact(name.into());
    assert_eq!(good("server-alias", "a.b, C.d").aliases, [alias("a.b"), alias("c.d")]);
    let (options, findings) = read(&[("server-alias", "a.b, ~^x")]);
    assert_eq!((options.aliases, findings), (vec![alias("a.b")], vec!["InvalidAnnotation"]));
}

#[test]
fn bad_values_have_their_default() {
    for (name, value) in [
        ("affinity-canary-behavior", "x"),
        ("app-root", "app"),
        ("backend-protocol", "SPDY"),
        ("canary", "yes"),
        ("canary-by-header", "a b"),
        ("canary-by-header-pattern", "("),
        ("canary-weight", "-1"),
        ("canary-weight-total", "x"),
        ("client-body-buffer-size", "big"),
        ("connection-proxy-header", "maybe"),
        ("enable-access-log", "off"),
        ("force-ssl-redirect", "yes"),
        ("from-to-www-redirect", "yes"),
        ("load-balance", "ip_hash"),
        ("permanent-redirect-code", "200"),
        ("preserve-trailing-slash", "x"),
        ("proxy-body-size", "8mb"),
        ("proxy-buffering", "true"),
        ("proxy-connect-timeout", "5s"),
        ("proxy-cookie-domain", "~x y"),
        ("proxy-cookie-path", "/a"),
        ("proxy-http-version", "1.0"),
        ("proxy-next-upstream", "always"),
        ("proxy-next-upstream-timeout", "x"),
        ("proxy-next-upstream-tries", "x"),
        ("proxy-read-timeout", "120s"),
        ("proxy-redirect-from", "~x"),
        ("proxy-redirect-to", "$x"),
        ("proxy-send-timeout", ""),
        ("rewrite-target", "/x?y=$1"),
        ("rewrite-target", "/$uri"),
        ("service-upstream", "x"),
        ("session-cookie-domain", "a;b"),
        ("ssl-redirect", "off"),
        ("temporal-redirect-code", "308"),
        ("upstream-hash-by", "$nobody"),
        ("upstream-vhost", "a/b"),
        ("use-regex", "on"),
        ("x-forwarded-prefix", "a"),
        ("tidegate.io/per-try-timeout", "2"),
        ("tidegate.io/request-headers-add", "x"),
        ("tidegate.io/request-headers-remove", "Host"),
        ("tidegate.io/request-headers-set", "Connection: x"),
        ("tidegate.io/request-timeout", "x"),
        ("tidegate.io/response-headers-set", "Content-Length: 1"),
        ("tidegate.io/retry-budget", "200%"),
        ("tidegate.io/rewrite-prefix", "v1"),
    ] {
        let full = if name.contains('/') { name.to_owned() } else { format!("{PREFIX}{name}") };
        let (options, mut findings) = one(&full, value);
        findings.retain(|reason| *reason != "UnusedAnnotation");
        let expected: &[&str] = if value.is_empty() { &[] } else { &["InvalidAnnotation"] };
        assert_eq!(findings, expected, "{name}: {value}");
        assert_eq!(options, IngressOptions::default(), "{name}: {value}");
    }
}

#[test]
fn a_bad_value_where_serving_would_be_wrong_closes() {
    for (name, value) in [
        ("permanent-redirect", "javascript:alert(1)"),
        ("permanent-redirect", "https://a b"),
        ("temporal-redirect", "https://$nobody/"),
        ("custom-headers", "a/b/c"),
        ("backend-protocol", "FCGI"),
    ] {
        let (options, findings) = one(&format!("{PREFIX}{name}"), value);
        assert_eq!(findings, ["InvalidAnnotation"], "{name}: {value}");
        assert!(options.closed.is_some(), "{name}: {value}");
    }
}

#[test]
fn a_typo_is_told_what_to_write() {
    for (name, value, message, fix) in [
        (
            "nginx.ingress.kubernetes.io/proxy-body-sise",
            "8m",
            "no effect",
            "Did you mean nginx.ingress.kubernetes.io/proxy-body-size?",
        ),
        ("nginx.ingress.kubernetes.io/limit-rps", "8", "no effect", "docs/annotations.md"),
        (
            "nginx.ingress.kubernetes.io/backend-protocol",
            "FCGI",
            "every request is answered 503",
            "HTTP, with a web server",
        ),
        ("nginx.ingress.kubernetes.io/backend-protocol", "H2C", "the default is used", "GRPC (in plain text)"),
        (
            "nginx.ingress.kubernetes.io/proxy-next-upstream",
            "eror timeout",
            "the default is used",
            "there is no \"eror\"",
        ),
        ("tidegate.io/retry-budgt", "1%", "no annotation", "Did you mean tidegate.io/retry-budget?"),
        ("tidegate.io/max-pending", "1", "no annotation", "Write it on the Service"),
        ("tidegate.io/x", "1", "no annotation", "per-try-timeout, "),
        ("tidegate.io/request-headers-set", "Host: x", "the default is used", "upstream-vhost"),
    ] {
        let mut ingress = Ingress::default();
        ingress.metadata.annotations = Some([(name.to_owned(), value.to_owned())].into());
        let origin = Origin::synthetic("test");
        let mut report = Report::on(Kind::Ingress, "default", "test", &origin);
        IngressOptions::read(&ingress, std::iter::empty(), &mut report);
        let [finding] = &report.into_findings()[..] else { panic!("{name}: {value}") };
        assert!(finding.message.contains(message) && finding.fix.contains(fix), "{name}: {value}: {finding}");
        assert_eq!(finding.field.as_deref(), Some(&*format!("metadata.annotations[{name:?}]")));
    }
}

#[test]
fn what_has_no_effect_is_reported() {
    for name in ["upstream-hash-by-subset", "upstream-hash-by-subset-size", "fastcgi-index", "fastcgi-params-configmap"]
    {
        assert_eq!(read(&[(name, "true")]), (IngressOptions::default(), vec!["UnsupportedAnnotation"]), "{name}");
    }
    assert_eq!(one("tidegate.io/rewrite-prefx", "/").1, ["UnknownAnnotation"]);
    assert_eq!(one("example.com/x", "/").1, [""; 0]);
}
