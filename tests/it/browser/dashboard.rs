//! The dashboard in a real browser.

use tidegate_tests::{Bed, Client, Net, client::hit, demo::Demo, http_pod, pod_manifest, service_manifest};

use super::Browser;

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_what_goes_on_and_why() {
    let Some(browser) = Browser::start().await else { return };
    let demo = tokio::task::spawn_blocking(Demo::start).await.expect("the demo starts");
    browser.goto(&format!("http://{}/", demo.addr("admin"))).await;
    browser.until("document.querySelector('#stream').textContent === 'Live'").await;
    browser.until("document.querySelector('#services').textContent.includes('kubia-nodeport')").await;
    browser.until("!document.querySelector('#demo').hidden").await;

    let mut gateway = Client::connect(demo.addr("http")).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("kubia.example.com", "/seen?secret=1").await.status, 200);
    }
    let pod = hit("127.0.0.1:30123".parse().unwrap()).await.unwrap();
    let tail = "document.querySelector('#tail').textContent";
    browser.until(&format!("{tail}.includes('GET http://kubia.example.com/seen HTTP/1.1')")).await;
    browser.until(&format!("{tail}.includes('NodePort default/kubia-nodeport') && {tail}.includes('{pod}')")).await;
    let all = browser.text("body").await;
    assert!(!all.contains("secret"), "no query is shown");

    // Why: as explain says it.
    browser.eval("document.querySelector('#tail button').click()").await;
    browser.until("document.querySelector('#trace').open && document.querySelector('#trace-body ol li')").await;
    let trace = browser.text("#trace-body").await;
    assert!(trace.contains("Endpoints") && trace.contains("Share"), "{trace}");
    let happened = browser.text("#trace-body .happened").await;
    let went =
        happened.strip_prefix("It went to ").and_then(|rest| rest.strip_suffix(". By the configuration of now:"));
    assert!(went.is_some_and(|went| went.starts_with(&format!("{pod} at "))), "{happened}");
    browser.click("#trace-close").await;
    browser.until("!document.querySelector('#trace').open").await;

    let routes = browser.text("#routes").await;
    assert!(routes.contains("kubia.example.com/") && routes.contains("default/kubia:8000"), "{routes}");
    let certificates = browser.text("#certificates").await;
    assert!(certificates.contains("secure.example.com") && certificates.contains("days"), "{certificates}");

    let names = "[...document.querySelectorAll('#tail button')].map(e => e.ariaLabel)";
    let names: Vec<String> = serde_json::from_value(browser.eval(names).await).unwrap();
    assert!(
        names.iter().any(|name| name.starts_with("Why? GET http://kubia.example.com/seen HTTP/1.1, ")),
        "{names:?}"
    );

    super::looks(&browser, "dashboard", 1000).await;

    // Only what is looked for.
    browser.run("const box = document.querySelector('#filter-text'); box.value = 'QUIZ'; box.dispatchEvent(new Event('input'))").await;
    browser
        .until("![...document.querySelectorAll('#services tr')].some(tr => tr.textContent.includes('kubia-nodeport'))")
        .await;
    browser.until("document.querySelector('#services').textContent.includes('quiz')").await;
    let buttons =
        browser.eval("document.querySelectorAll('button[id=add], [data-pod] button, input[type=radio]').length").await;
    assert_eq!(buttons, 0, "nothing can be done here");
    browser.assert_no_complaint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_operators_hands_it_follows_changes_and_has_no_way_to_the_demo() {
    let Some(browser) = Browser::start().await else { return };
    let net = Net::next();
    let _pod = http_pod("web-0", net.ip(2)).await;
    let good = format!("{}{}", service_manifest("web", "web", ""), pod_manifest("web-0", "web", net.ip(2)));
    let bed = Bed::start(net, &good).await;
    browser.goto(&format!("http://{}/", bed.app.admin())).await;
    browser.until("document.querySelector('#services').textContent.includes('web-0')").await;
    assert_eq!(browser.eval("document.querySelector('#demo').hidden").await, true);
    let broken = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: broken}\nspec:\n  ingressClassName: tidegate\n  rules:\n  \
                  - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: nobody, port: {number: 80}}}}]}\n";
    let nobody = service_manifest("nobody-home", "nobody-home", "");
    bed.write("main.yaml", &format!("{good}{nobody}{broken}"));
    browser
        .until("document.querySelector('#services').textContent.includes('no endpoints: connections are refused')")
        .await;
    browser.until("document.querySelector('#findings').textContent.includes('MissingService')").await;
    browser.until("document.querySelector('#findings').textContent.includes('Fix: ')").await;
    browser.assert_no_complaint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_goes_on_after_its_tab_was_hidden() {
    let Some(browser) = Browser::start().await else { return };
    let demo = tokio::task::spawn_blocking(Demo::start).await.expect("the demo starts");
    browser.goto(&format!("http://{}/", demo.addr("admin"))).await;
    let live = "document.querySelector('#stream').textContent === 'Live'";
    browser.until(live).await;
    let mut gateway = Client::connect(demo.addr("http")).await;
    let mut ask = async |path: &'static str| assert_eq!(gateway.get("kubia.example.com", path).await.status, 200);
    ask("/before").await;
    browser.until("document.querySelector('#tail').textContent.includes('/before')").await;
    // Twice: the first time it ended the stream, the second time it failed to.
    for after in ["/first", "/second"] {
        browser.hide(true).await;
        ask("/unseen").await;
        browser.hide(false).await;
        browser
            .until("document.querySelector('#gap').textContent.startsWith('Nothing has come since you came back')")
            .await;
        browser.until(live).await;
        ask(after).await;
        browser.until(&format!("document.querySelector('#tail').textContent.includes('{after}')")).await;
        let gap = browser.text("#gap").await;
        assert_eq!(gap, "What went on while this page was hidden is missing.");
    }
    let tail = browser.text("#tail").await;
    assert!(tail.contains("/before") && !tail.contains("/unseen"), "{tail}");
    browser.assert_no_complaint().await;
}
