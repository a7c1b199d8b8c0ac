use std::collections::BTreeSet;

use http_body_util::BodyExt;

use super::*;

const PAGES: [(&str, &str); 2] = [("dashboard.html", DASHBOARD), ("demo.html", DEMO)];

/// Both pages with everything they load, uncompressed: they are read by people, and are part of the binary.
const BYTES_MAX: usize = 95 << 10;

fn demo() -> Option<DemoView> {
    let lanes = LanesView {
        node_port: "http://127.0.0.1:30123/".to_owned(),
        ingress: "http://127.0.0.1:8080/kubia".to_owned(),
        cookie: "http://127.0.0.1:8080/sticky".to_owned(),
        hosts: vec!["http://kubia.localhost:8080/quiz".to_owned()],
        http2: "https://127.0.0.1:8443/kubia".to_owned(),
        ..LanesView::default()
    };
    Some(DemoView { page: "http://127.0.0.1:9901/demo".to_owned(), lanes, ..DemoView::default() })
}

fn ask(path: &str, fields: &[(header::HeaderName, &'static str)]) -> Option<Response<Content>> {
    let headers = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
    respond(&path.parse().unwrap(), &headers, Some(demo))
}

async fn text(response: Response<Content>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// What stands between `before` and the next `after`, wherever `before` is.
fn between<'a>(text: &'a str, before: &str, after: char) -> Vec<&'a str> {
    text.split(before).skip(1).map(|rest| rest.split(after).next().unwrap()).collect()
}

#[tokio::test]
async fn whatever_a_page_loads_is_served_with_its_type_and_nothing_else_is() {
    let mut waiting: Vec<String> = Vec::new();
    for (name, page) in PAGES {
        let loads: Vec<_> = [" src=\"", " href=\""].iter().flat_map(|before| between(page, before, '"')).collect();
        assert!(loads.len() > 3, "{name}: {loads:?}");
        for path in loads.into_iter().filter(|path| !path.starts_with('#')) {
            match path.strip_prefix("/assets/") {
                Some(asset) => waiting.push(asset.to_owned()),
                None => assert!(["/", "/demo", "/config", "/metrics"].contains(&path), "{name} links to {path}"),
            }
        }
    }
    let mut served = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if !served.insert(name.clone()) {
            continue;
        }
        let response = ask(&format!("/assets/{name}"), &[]).unwrap_or_else(|| panic!("{name} is not served"));
        let expected = match name.rsplit_once('.').unwrap().1 {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("{other} is a type that browsers are told nothing about"),
        };
        assert_eq!(response.headers()[header::CONTENT_TYPE], expected, "{name}");
        waiting.extend(between(&text(response).await, " from \"./", '"').into_iter().map(str::to_owned));
    }
    assert_eq!(served, ASSETS.iter().map(|(name, ..)| (*name).to_owned()).collect());
    assert!(ask("/assets/", &[]).is_none() && ask("/assets/page.rs", &[]).is_none() && ask("/config", &[]).is_none());
}

#[test]
fn every_element_that_a_script_looks_up_is_on_its_page() {
    for ((name, page), script) in PAGES.into_iter().zip(["dashboard.js", "demo.js"]) {
        let ids: BTreeSet<_> = between(page, " id=\"", '"').into_iter().collect();
        assert_eq!(ids.len(), page.matches(" id=\"").count(), "an id of {name} is there twice");
        let text = ASSETS.iter().find(|(known, ..)| *known == script).unwrap().2;
        let used = between(text, "byId(\"", '"');
        assert!(used.len() > 5, "{script}");
        for id in used {
            assert!(ids.contains(id), "{script} uses #{id}, which {name} lacks");
        }
        let named =
            [" for=\"", " aria-labelledby=\"", " href=\"#"].iter().flat_map(|before| between(page, before, '"'));
        for id in named {
            assert!(ids.contains(id), "{name} names #{id}, which it lacks");
        }
    }
}

#[test]
fn nothing_comes_from_elsewhere_is_inline_or_becomes_markup() {
    let files = PAGES.into_iter().chain(ASSETS.map(|(name, _, text)| (name, text)));
    for (name, text) in files {
        let outside = text.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        let of_styles = if name.ends_with(".js") { &[][..] } else { &["url(", "@import"] };
        for word in ["http:", "https:", "\"//", "data:", "blob:", "import("].iter().chain(of_styles) {
            assert!(!outside.contains(*word), "{name} has {word}");
        }
        let markup =
            ["innerHTML =", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"];
        for word in markup.into_iter().chain(["setAttribute(\"style", "{ style:", "cssText", "setTimeout(\""]) {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
    for (name, page) in PAGES {
        assert!(!page.contains("<style") && !page.contains(" style=") && !page.contains("javascript:"), "{name}");
        for tag in between(page, "<", '>') {
            let on = tag.split_whitespace().skip(1).find(|word| word.starts_with("on") && word.contains('='));
            assert_eq!(on, None, "{name}: <{tag}>");
        }
        for script in page.split("<script").skip(1) {
            assert!(script.contains(" src=\"/assets/") && script.contains("\"></script>"), "{name}: {script}");
        }
    }
}

#[test]
fn both_pages_can_be_read_by_everybody() {
    for (name, page) in PAGES {
        for needed in [
            "<!doctype html>",
            "<html lang=\"en\">",
            "name=\"viewport\" content=\"width=device-width, initial-scale=1\"",
            "name=\"color-scheme\" content=\"light dark\"",
            "<title>",
            "class=\"skip\"",
            "<main>",
            "<noscript>",
            "role=\"status\"",
        ] {
            assert!(page.contains(needed), "{name} lacks {needed}");
        }
        assert_eq!(page.matches("<h1").count(), 1, "{name}");
        for table in page.split("<table").skip(1) {
            let table = table.split("</table>").next().unwrap();
            assert!(table.contains("<caption"), "{name}: {table}");
            assert!(!table.replace("<thead", "").replace("<th scope=\"col\"", "").contains("<th"), "{name}: {table}");
        }
    }
    let style = ASSETS.iter().find(|(name, ..)| *name == "style.css").unwrap().2;
    for needed in ["prefers-color-scheme: dark", ":focus-visible", "tabular-nums"] {
        assert!(style.contains(needed), "{needed}");
    }
}

#[test]
fn the_pages_stay_small() {
    let bytes: usize = PAGES.iter().map(|(_, text)| text.len()).sum::<usize>()
        + ASSETS.iter().map(|(_, _, text)| text.len()).sum::<usize>();
    assert!(bytes <= BYTES_MAX, "{bytes} bytes");
}

#[tokio::test]
async fn browsers_get_the_dashboard_and_others_the_list() {
    let browser = [(header::ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8")];
    let response = ask("/", &browser).unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], HTML);
    assert_eq!(
        response.headers()[header::CONTENT_SECURITY_POLICY],
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(text(response).await, DASHBOARD);
    assert!(ask("/", &[(header::ACCEPT, "*/*")]).is_none() && ask("/", &[]).is_none());
}

#[tokio::test]
async fn the_demo_page_is_at_one_address_and_may_ask_its_lanes() {
    let response = ask("/demo", &[(header::HOST, "127.0.0.1:9901")]).unwrap();
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    let connect = "connect-src 'self' http://127.0.0.1:30123 http://127.0.0.1:8080 \
         http://kubia.localhost:8080 https://127.0.0.1:8443; ";
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; ") && policy.contains(connect), "{policy}");
    for name in [header::X_CONTENT_TYPE_OPTIONS, header::CACHE_CONTROL, header::REFERRER_POLICY] {
        assert!(response.headers().contains_key(&name), "{name}");
    }
    assert_eq!(text(response).await, DEMO);

    let elsewhere = ask("/demo", &[(header::HOST, "localhost:9901")]).unwrap();
    assert_eq!(elsewhere.status(), StatusCode::FOUND);
    assert_eq!(elsewhere.headers()[header::LOCATION], "http://127.0.0.1:9901/demo");

    let uri = Uri::from_static("/demo");
    let none = respond(&uri, &HeaderMap::new(), None::<fn() -> Option<DemoView>>).unwrap();
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
    assert!(text(none).await.contains("`tidegate demo`"));
    let early = respond(&uri, &HeaderMap::new(), Some(|| None)).unwrap();
    assert_eq!(early.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn the_demos_page_is_for_the_machine_where_the_demo_runs() {
    for host in ["127.0.0.1:9901", "localhost", "LOCALHOST:1", "[::1]:9901", "127.1.2.3"] {
        assert!(is_this_machine(&HeaderValue::from_static(host)), "{host}");
    }
    for host in ["192.0.2.1:9901", "evil.example", "localhost.evil.example", "", "[2001:db8::1]"] {
        assert!(!is_this_machine(&HeaderValue::from_static(host)), "{host}");
    }
}
