//! Each filter on a request or an answer.

use super::{
    fixture::{rule, rule_with},
    *,
};
use crate::{
    http::facts::fixture::Asked,
    route::{filter::PathRewrite, pattern::Pattern, policy::Policy, template::Template},
};

fn url(template: &str) -> RedirectTo {
    RedirectTo::Url(Text::of(Template::parse(template).unwrap()).unwrap())
}

fn redirect_to(to: RedirectTo) -> Filter {
    Filter::Redirect(Redirect { status: StatusCode::FOUND, to, only_path: None })
}

/// Status and `Location` of the answer; `None` if the request goes on.
fn answered(rule: &Rule, asked: &Asked) -> Option<(u16, String)> {
    match on_request(rule, &asked.facts()) {
        ControlFlow::Continue(_) => None,
        ControlFlow::Break(response) => {
            let location = response.headers().get(header::LOCATION).map_or("", |value| value.to_str().unwrap());
            Some((response.status().as_u16(), location.to_owned()))
        }
    }
}

fn edited(rule: &Rule, mut asked: Asked) -> Parts {
    let edits = on_request(rule, &asked.facts());
    let ControlFlow::Continue(edits) = edits else { panic!("answered") };
    edits.apply(&mut asked.parts);
    asked.parts
}

#[test]
fn a_plain_rule_changes_nothing() {
    let parts = edited(&rule([]), Asked::get("/a%2Fb//c?x", &[("host", "a"), ("x-a", "1")]));
    assert_eq!(parts.uri, "/a%2Fb//c?x");
    assert_eq!((parts.headers.len(), &parts.headers["x-a"]), (2, &HeaderValue::from_static("1")));
}

#[test]
fn redirects() {
    let asked = Asked::get("/a/b/?x=1", &[]);
    for (to, expected) in [
        (url("https://new.example.com"), "https://new.example.com"),
        (url("$scheme://new.example.com$request_uri"), "http://new.example.com/a/b/?x=1"),
        (RedirectTo::Path("/app".into()), "http://Shop.example.com:8080/app"),
        (RedirectTo::Host("www.example.com".into()), "http://www.example.com:8080/a/b/?x=1"),
        (
            RedirectTo::Rewrite(PathRewrite::Regex {
                pattern: Pattern::of_path("/a/(.*)").unwrap(),
                replacement: "https://x.y/$1".into(),
            }),
            "https://x.y/b/?x=1",
        ),
    ] {
        assert_eq!(answered(&rule([redirect_to(to)]), &asked), Some((302, expected.to_owned())));
    }
    let www = rule([redirect_to(RedirectTo::Host("b.com".into()))]);
    let mut plain = Asked::get("/p/", &[("host", "www.b.com")]);
    assert_eq!(answered(&www, &plain).unwrap().1, "http://b.com:80/p");
    plain.scheme = Scheme::Https;
    assert_eq!(answered(&www, &plain).unwrap().1, "https://b.com:443/p");
}

#[test]
fn app_root_is_for_the_root_only() {
    let root = Redirect { status: StatusCode::FOUND, to: RedirectTo::Path("/app".into()), only_path: Some("/".into()) };
    let rule = rule([Filter::Redirect(root)]);
    assert_eq!(answered(&rule, &Asked::get("/?a", &[])).unwrap(), (302, "http://Shop.example.com:8080/app".into()));
    assert_eq!(answered(&rule, &Asked::get("/app", &[])), None);
}

fn https_rule(when: HttpsWhen, preserve_trailing_slash: bool) -> Rule {
    let https = HttpsRedirect { when, status: StatusCode::PERMANENT_REDIRECT, preserve_trailing_slash };
    rule_with(Policy { https, ..Policy::default() })
}

#[test]
fn https_redirects() {
    let of = |target| Asked::get(target, &[]);
    let location = |rule: &Rule, asked: &Asked| answered(rule, asked).map(|(status, to)| format!("{status} {to}"));
    let (never, tls, always) = (
        https_rule(HttpsWhen::Never, false),
        https_rule(HttpsWhen::HostHasTls, false),
        https_rule(HttpsWhen::Always, false),
    );
    assert_eq!(location(&never, &of("/")), None);
    for rule in [&tls, &always] {
        assert_eq!(location(rule, &of("/")).unwrap(), "308 https://Shop.example.com");
        assert_eq!(location(rule, &of("/a/")).unwrap(), "308 https://Shop.example.com/a");
        assert_eq!(location(rule, &of("/a?b=/")).unwrap(), "308 https://Shop.example.com/a?b=", "the query's too");
        assert_eq!(location(rule, &of("/.well-known/acme-challenge/x")), None);
        assert_eq!(location(rule, &Asked { scheme: Scheme::Https, ..of("/") }), None);
        assert_eq!(
            location(rule, &Asked { https_port: Some(8443), ..of("/x") }).unwrap(),
            "308 https://Shop.example.com:8443/x"
        );
    }
    assert_eq!(location(&tls, &Asked { https_port: None, ..of("/x") }), None, "nobody serves https");
    assert_eq!(location(&always, &Asked { https_port: None, ..of("/x") }).unwrap(), "308 https://Shop.example.com/x");
    let preserving = https_rule(HttpsWhen::HostHasTls, true);
    assert_eq!(location(&preserving, &of("/a/")).unwrap(), "308 https://Shop.example.com/a/");
}

#[test]
fn a_configured_redirect_comes_before_https() {
    let mut policy = (*https_rule(HttpsWhen::Always, false).policy).clone();
    policy.filters = [redirect_to(url("http://x"))].into();
    assert_eq!(answered(&rule_with(policy), &Asked::get("/", &[])).unwrap().1, "http://x");
}

#[test]
fn answers_cannot_be_split() {
    let asked = Asked::get("/", &[]);
    let facts = Facts { path: "/a\r\nSet-Cookie: x", ..asked.facts() };
    for filter in
        [redirect_to(url("http://x$uri")), Filter::RewriteHost(Text::of(Template::parse("x$uri").unwrap()).unwrap())]
    {
        let rule = rule([filter]);
        let ControlFlow::Break(response) = on_request(&rule, &facts) else { panic!("passed on") };
        assert_eq!(response.status(), 400);
    }
}

#[test]
fn a_host_made_of_the_request_is_a_host_or_nothing() {
    let rule = rule([Filter::RewriteHost(Text::of(Template::parse("$http_x_site").unwrap()).unwrap())]);
    assert_eq!(edited(&rule, Asked::get("/", &[("x-site", "a.b:80")])).headers["host"], "a.b:80");
    for bad in ["", "a b", "a/b", "a@b", "a,b"] {
        assert_eq!(answered(&rule, &Asked::get("/", &[("x-site", bad)])).unwrap().0, 400, "{bad:?}");
    }
}

#[test]
fn the_path_is_rewritten_and_the_query_stays() {
    let rewrite =
        PathRewrite::Regex { pattern: Pattern::of_path("/something(/|$)(.*)").unwrap(), replacement: "/$2".into() };
    let rule = rule([Filter::RewritePath(rewrite)]);
    assert_eq!(edited(&rule, Asked::get("/something/new?b=2", &[])).uri, "/new?b=2");
    assert_eq!(edited(&rule, Asked::get("/else?b=2", &[])).uri, "/else?b=2", "no match, no change");
    let asked = Asked::get("/something/a%2Fb", &[]);
    let facts = Facts { path: "/something/a/b c", ..asked.facts() };
    let ControlFlow::Continue(edits) = on_request(&rule, &facts) else { panic!("answered") };
    assert_eq!(edits.target.unwrap().as_str(), "/a/b%20c", "of the normalised path, encoded again");
}

#[test]
fn fields_and_host_of_a_request() {
    let edit = HeaderEdit {
        remove: [header::USER_AGENT].into(),
        set: [(header::ACCEPT, HeaderValue::from_static("b"))].into(),
        add: [(header::VIA, HeaderValue::from_static("2"))].into(),
    };
    let host = Text::of(Template::parse("$service_name.internal").unwrap()).unwrap();
    let rule = rule([Filter::RequestHeaders(edit), Filter::RewriteHost(host)]);
    let parts = edited(
        &rule,
        Asked::get("/", &[("host", "a"), ("user-agent", "x"), ("accept", "a"), ("accept", "c"), ("via", "1")]),
    );
    let of = |name| parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        (of("user-agent"), of("accept"), of("via"), of("host")),
        (vec![], vec!["b"], vec!["1", "2"], vec!["web.internal"])
    );
}

fn on_answer(filter: Filter, fields: &[(&'static str, &str)]) -> Vec<String> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, value.parse().unwrap());
    }
    on_response(&rule([filter]), &mut headers);
    headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

#[test]
fn fields_of_an_answer() {
    let edit = HeaderEdit {
        remove: [header::ETAG].into(),
        set: [(header::SERVER, HeaderValue::from_static("x"))].into(),
        add: Box::default(),
    };
    assert_eq!(on_answer(Filter::ResponseHeaders(edit), &[("etag", "1"), ("server", "y")]), ["server: x"]);
}

#[test]
fn redirects_of_the_pod() {
    let filter = || Filter::RewriteLocation(Prefix { from: "http://pod/".into(), to: "https://shop/".into() });
    assert_eq!(on_answer(filter(), &[("location", "http://pod/a?b")]), ["location: https://shop/a?b"]);
    assert_eq!(on_answer(filter(), &[("location", "http://other/")]), ["location: http://other/"]);
    assert_eq!(on_answer(filter(), &[("refresh", "5; URL=http://pod/x")]), ["refresh: 5; URL=https://shop/x"]);
}

#[test]
fn cookies_of_the_pod() {
    let prefix = |from: &str, to: &str| Prefix { from: from.into(), to: to.into() };
    for (filter, cookie, expected) in [
        (Filter::CookieDomain(prefix("a.local", "b.com")), "x=1; Domain=.A.local; Path=/", "x=1; Domain=b.com; Path=/"),
        (Filter::CookieDomain(prefix(".a.local", "b.com")), "x=a.local; domain=a.local", "x=a.local; domain=b.com"),
        (Filter::CookieDomain(prefix("a.local", "b.com")), "x=1; Domain=c.a.local", "x=1; Domain=c.a.local"),
        (Filter::CookiePath(prefix("/app/", "/")), "x=/app/; Path=/app/v1; Secure", "x=/app/; Path=/v1; Secure"),
        (Filter::CookiePath(prefix("/app/", "/")), "x=1; Path=/other", "x=1; Path=/other"),
        (Filter::CookiePath(prefix("/app/", "/")), "x=1; Secure", "x=1; Secure"),
    ] {
        assert_eq!(on_answer(filter, &[("set-cookie", cookie)]), [format!("set-cookie: {expected}")]);
    }
}
