//! The browser itself: that it shows what it is told to show, tells what went wrong, and leaves nothing behind.

use std::{fs, net::Ipv4Addr, time::Instant};

use rustix::process::test_kill_process_group;
use serde_json::json;
use tidegate_tests::{Bed, Net, PATIENCE, http_pod, pod_manifest, service_manifest};
use tokio::{net::TcpListener, time::timeout};

use super::{Browser, Look, Scheme, Screen};

/// How a picture in PNG begins, up to its width and height (PNG, sections 5.2 and 11.2.1).
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_shown_clicked_and_photographed() {
    let Some(browser) = Browser::start().await else { return };
    let net = Net::next();
    let _pod = http_pod("shown", net.ip(2)).await;
    browser.goto(&format!("http://{}:8080/?header=Content-Type:text/html", net.ip(2))).await;
    assert_eq!(browser.text("body").await, "You've hit shown");

    let button = "document.body.innerHTML = '<button id=b onclick=\"setTimeout(() => this.title = 1)\">push</button>'";
    browser.eval(button).await;
    assert_eq!(browser.attribute("#b", "title").await, None);
    browser.click("#b").await;
    browser.until("document.getElementById('b').title === '1'").await;
    assert_eq!(browser.run("const answer = await fetch('/'); return answer.headers.get('X-Pod')").await, "shown");

    browser.eval("document.head.innerHTML = '<meta name=viewport content=\"width=device-width\">'").await;
    let wishes = "[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches, \
                  matchMedia('(prefers-reduced-motion: reduce)').matches]";
    assert_eq!(browser.eval(wishes).await, json!([1280, false, false]));
    browser.look(Look { screen: Screen::Phone, scheme: Scheme::Dark, reduced_motion: true }).await;
    assert_eq!(browser.eval(wishes).await, json!([390, true, true]));
    browser.look(Look { screen: Screen::Desktop, scheme: Scheme::Light, reduced_motion: false }).await;
    browser.eval("document.body.style = 'margin: 0; height: 3000px'").await;
    let picture = fs::read(browser.screenshot("bed").await).unwrap();
    let size = picture.strip_prefix(PNG).expect("a PNG");
    assert_eq!(u32::from_be_bytes(size[4..8].try_into().unwrap()), 3000, "the whole page, not what fits on the screen");
    browser.assert_no_complaint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_tells_of_errors_and_of_what_the_policy_forbids() {
    let Some(browser) = Browser::start().await else { return };
    let net = Net::next();
    let _pod = http_pod("strict", net.ip(2)).await;
    browser.goto(&format!("http://{}:8080/?header=Content-Security-Policy:default-src%20'none'", net.ip(2))).await;
    drop(browser.console().await);
    browser.eval("console.error('a mistake')").await;
    assert_eq!(browser.run("try { await fetch('/'); return 'went' } catch { return 'forbidden' }").await, "forbidden");
    let lines = browser.console().await;
    let severe = |text: &str| lines.iter().any(|line| line.level == "SEVERE" && line.message.contains(text));
    assert!(severe("a mistake") && severe("Content Security Policy"), "{lines:#?}");
    browser.assert_no_complaint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_nobody_is_taken_only_after_it_was_accepted() {
    let Some(browser) = Browser::start().await else { return };
    let net = Net::next();
    let _pod = http_pod("safe", net.ip(2)).await;
    let ingress = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: all}\n\
                   spec: {defaultBackend: {service: {name: safe, port: {number: 80}}}}\n";
    let manifests = pod_manifest("safe", "safe", net.ip(2)) + &service_manifest("safe", "safe", "") + ingress;
    let bed = Bed::start(net, &manifests).await;
    browser.goto(&format!("http://{}/", bed.app.http())).await;
    let page = format!("https://{}/", bed.app.https().unwrap());
    let ask =
        format!("try {{ await fetch('{page}', {{mode: 'no-cors'}}); return 'went' }} catch {{ return 'failed' }}");
    assert_eq!(browser.run(&ask).await, "failed");
    browser.accept_every_certificate().await;
    assert_eq!(browser.run(&ask).await, "went");
    browser.goto(&page).await;
    let protocols = "await Promise.all(Array.from({length: 20}, async (_, i) => (await fetch('/?' + i)).text())); \
                     return [...new Set(performance.getEntriesByType('resource').map(entry => entry.nextHopProtocol))]";
    assert_eq!(browser.run(protocols).await, json!(["h2"]));
}

/// What a page tries to reach is on this machine, or nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn no_page_gets_off_this_machine() {
    let Some(browser) = Browser::start().await else { return };
    let net = Net::next();
    let _pod = http_pod("far", net.ip(2)).await;
    browser.goto(&format!("http://{}:8080/", net.ip(2))).await;
    for host in ["tidegate.example", "192.0.2.1", "[2001:db8::1]"] {
        let body = format!("try {{ await fetch('http://{host}/', {{mode: 'no-cors'}}) }} catch {{ return 'failed' }}");
        assert_eq!(browser.run(&body).await, "failed", "{host}");
    }
    let lines = browser.console().await;
    let unknown = lines.iter().filter(|line| line.message.contains("ERR_NAME_NOT_RESOLVED")).count();
    assert_eq!(unknown, 3, "{lines:#?}");
    // Loopback has names of its own (RFC 6761, section 6.3), which the browser knows by itself.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    browser.run(&format!("fetch('http://kubia.localhost:{port}/', {{mode: 'no-cors'}}).catch(() => 0)")).await;
    timeout(PATIENCE, listener.accept()).await.expect("the browser connects").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_browser_whose_test_panics() {
    let Some(browser) = Browser::start().await else { return };
    let (group, directory) = (browser.driver.group(), browser.driver.directory().to_owned());
    assert!(directory.join("profile").is_dir(), "Chromium has its profile there");
    let test = tokio::spawn(async move {
        browser.until("true").await;
        panic!("as a test does, with the browser still open");
    });
    assert!(test.await.unwrap_err().is_panic());
    assert!(!directory.exists(), "{directory:?} is left");
    // Whoever inherits the last of them waits for it.
    let begun = Instant::now();
    while test_kill_process_group(group).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "a process of {group:?} is left");
        tokio::task::yield_now().await;
    }
}
