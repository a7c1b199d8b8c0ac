//! The demo's page in a real browser: what the chapter says, seen by the page, by the pods' own logs and by Tidegate's counters, which
//! must agree. The page's sentences are held against what the logs say, not against what the page counted.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;
use tidegate_tests::{Client, PATIENCE, demo::Demo};
use tokio::time::timeout;

use super::{Browser, Look, Scheme, Screen};

impl Browser {
    /// Tells the page that its tab is hidden, or is not any more.
    pub(super) async fn hide(&self, hidden: bool) {
        let property = format!("Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }})");
        self.run(&format!("{property}; document.dispatchEvent(new Event('visibilitychange'))")).await;
    }
}

/// Requests of the button "Send 20".
const TWENTY: u64 = 20;

/// Sessions after which one has surely begun on another of three pods (but for one run in 10^19).
const SESSIONS: usize = 40;

/// A request in a pod's log.
#[derive(Clone, Debug)]
struct Logged {
    pod: String,
    /// The gateway's end of its connection to the pod.
    peer: String,
    /// Which request of that connection it was.
    nth: u64,
}

/// The demo, and its page in a browser.
struct Page {
    demo: Demo,
    browser: Browser,
    /// What tells this page's requests from others in the pods' logs.
    mark: String,
}

impl Page {
    async fn open() -> Option<Self> {
        let browser = Browser::start().await?;
        let demo = tokio::task::spawn_blocking(Demo::start).await.expect("the demo starts");
        browser.goto(&format!("http://{}/demo", demo.addr("admin"))).await;
        browser.until("document.querySelectorAll('.lane').length === 7").await;
        browser.until("document.querySelector('#stream').textContent === 'Live'").await;
        let mark = browser.text("#mark").await;
        let mark = mark.trim_start_matches("n=").trim_end_matches("-…").to_owned();
        Some(Self { demo, browser, mark })
    }

    async fn ask(&self, target: &str) -> String {
        let admin = self.demo.addr("admin");
        let request = format!("GET {target} HTTP/1.1\r\nHost: {admin}\r\n\r\n");
        Client::connect(admin).await.ask(&request).await.unwrap().text()
    }

    /// The page's requests in the pods' logs, by number.
    async fn logged(&self) -> BTreeMap<u64, Logged> {
        let line =
            Regex::new(&format!(r"(?m) GET \S*n={}-(\d+)\S* from (\S+), request (\d+) of its connection$", self.mark))
                .unwrap();
        let state: Value = serde_json::from_str(&self.ask("/demo/state").await).unwrap();
        let mut all = BTreeMap::new();
        for pod in state["pods"].as_array().unwrap().iter().chain(state["gone"].as_array().unwrap()) {
            let pod = pod["name"].as_str().unwrap();
            for found in line.captures_iter(&self.ask(&format!("/demo/logs?pod={pod}")).await) {
                let logged = Logged { pod: pod.to_owned(), peer: found[2].to_owned(), nth: found[3].parse().unwrap() };
                assert!(all.insert(found[1].parse().unwrap(), logged).is_none(), "a request is answered once");
            }
        }
        all
    }

    /// Clicks on a button of a lane, waits until all is answered, and returns what the pods have logged of it.
    async fn send(&self, lane: &str, button: &str) -> Vec<Logged> {
        let before = self.logged().await.last_key_value().map_or(0, |(last, _)| *last);
        let find =
            format!("[...document.querySelectorAll('#lane-{lane} button')].find(b => b.textContent === '{button}')");
        self.browser.eval(&format!("{find}.click()")).await;
        self.browser.until(&format!("document.querySelector('#lane-{lane}').ariaBusy === 'false'")).await;
        self.logged().await.into_iter().filter(|(number, _)| *number > before).map(|(_, logged)| logged).collect()
    }

    async fn clear(&self) {
        self.browser.click("#clear").await;
    }

    /// Requests, connections and pods that a lane has counted.
    async fn counted(&self, lane: &str) -> (u64, u64, BTreeSet<String>) {
        let data = self.browser.eval(&format!("({{...document.querySelector('#lane-{lane}').dataset}})")).await;
        let number = |name: &str| data[name].as_str().unwrap().parse().unwrap();
        let pods = data["pods"].as_str().unwrap().split_whitespace().map(str::to_owned).collect();
        (number("requests"), number("connections"), pods)
    }

    /// Checks that a lane has counted what the pods have logged, and returns its sentence. `connections` is what is known of the
    /// browser's connections.
    async fn agrees(&self, lane: &str, logged: &[Logged], connections: u64) -> String {
        let pods = pods(logged);
        assert_eq!(self.counted(lane).await, (logged.len() as u64, connections, pods.clone()), "lane {lane}");
        let histogram = format!(
            "Object.fromEntries([...document.querySelectorAll('#lane-{lane} .histogram [data-pod]')].map(e => [e.dataset.pod, +e.dataset.hits]))"
        );
        let histogram: BTreeMap<String, u64> = serde_json::from_value(self.browser.eval(&histogram).await).unwrap();
        for (pod, hits) in histogram {
            let expected = logged.iter().filter(|one| one.pod == pod).count() as u64;
            assert_eq!(hits, expected, "lane {lane}, {pod}");
        }
        let sentence = self.sentence(lane).await;
        let plural =
            |count: usize, what: &str| if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
        let begin = format!(
            "{}, {}, {}: {}.",
            plural(logged.len(), "request"),
            plural(connections as usize, "connection"),
            plural(pods.len(), "pod"),
            listed(&pods)
        );
        assert!(lane == "f" || sentence.starts_with(&begin), "lane {lane}: {sentence:?} should begin with {begin:?}");
        sentence
    }

    async fn sentence(&self, lane: &str) -> String {
        self.browser.text(&format!("#lane-{lane} .sentence")).await
    }

    /// The client ports in the rows of a lane, of all its last requests.
    async fn ports(&self, lane: &str) -> BTreeSet<String> {
        self.browser.until(&format!("!document.querySelector('#lane-{lane} .rows').textContent.includes('?')")).await;
        let cells = format!(
            "[...document.querySelectorAll('#lane-{lane} tbody tr td:nth-child(3)')].map(td => td.textContent)"
        );
        serde_json::from_value(self.browser.eval(&cells).await).unwrap()
    }

    /// HTTP connections that the gateway has accepted so far.
    async fn accepted(&self) -> u64 {
        let metrics = self.ask("/metrics").await;
        let value = metrics.lines().find_map(|line| line.strip_prefix("tidegate_http_connections_total "));
        value.unwrap().trim().parse().unwrap()
    }

    /// Checks that the page's counts of each pod are what the pods have logged, and that the page says so.
    async fn all_counters_agree(&self) {
        let mut logged: BTreeMap<String, u64> = BTreeMap::new();
        for one in self.logged().await.into_values() {
            *logged.entry(one.pod).or_default() += 1;
        }
        let hits = "Object.fromEntries([...document.querySelectorAll('#pods [data-pod]')].map(e => [e.dataset.pod, +e.dataset.hits]))";
        let mut hits: BTreeMap<String, u64> = serde_json::from_value(self.browser.eval(hits).await).unwrap();
        hits.retain(|_, hits| *hits > 0);
        assert_eq!(hits, logged);
        self.browser.click("#compare").await;
        self.browser
            .until("[...document.querySelectorAll('#agree tbody tr')].every(tr => tr.cells[3].textContent === 'Yes.')")
            .await;
    }

    /// Chooses an affinity, and waits until it is what the demo has.
    async fn set_affinity(&self, affinity: &str) {
        self.browser.click(&format!("input[name=affinity][value={affinity}]")).await;
        let state = async || -> Value { serde_json::from_str(&self.ask("/demo/state").await).unwrap() };
        let is_set = async { while state().await["affinity"] != affinity {} };
        timeout(PATIENCE, is_set).await.expect("the affinity is set");
    }

    /// Where on the page things are that somebody looks at while others change.
    async fn places(&self) -> Vec<f64> {
        let tops = "[...document.querySelectorAll('#lanes-title, .lane, .lane .rows, #logs-title')]\
                    .map(e => e.getBoundingClientRect().top + scrollY)";
        serde_json::from_value(self.browser.eval(tops).await).unwrap()
    }

    /// Checks that all are where they were, but for what the browser rounds.
    async fn nothing_moved(&self, before: &[f64], what: &str) {
        let after = self.places().await;
        assert_eq!(after.len(), before.len());
        let most = after.iter().zip(before).map(|(after, before)| (after - before).abs()).fold(0.0, f64::max);
        assert!(most < 2.0, "{what}: moved by {most} points");
    }

    async fn kill(&self, pod: &str) {
        self.browser.click(&format!("#pods [data-pod={pod}] button")).await;
        self.browser.until(&format!("document.querySelector('#done').textContent === '{pod} was killed.'")).await;
    }
}

fn pods(logged: &[Logged]) -> BTreeSet<String> {
    logged.iter().map(|one| one.pod.clone()).collect()
}

/// Connections to pods; of a Service each is one of the client's.
fn connections(logged: &[Logged]) -> u64 {
    logged.iter().map(|one| (&one.pod, &one.peer)).collect::<BTreeSet<_>>().len() as u64
}

fn only(pods: &BTreeSet<String>) -> &str {
    assert_eq!(pods.len(), 1, "{pods:?}");
    pods.first().unwrap()
}

/// "a, b and c", as the page lists names.
fn listed(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_chooses_for_each_connection_and_the_page_says_so() {
    let Some(page) = Page::open().await else { return };

    // The puzzle: affinity is None, and yet it is always the same pod.
    let logged = page.send("a", "Send 20").await;
    assert_eq!((logged.len() as u64, connections(&logged)), (TWENTY, 1), "{logged:?}");
    only(&pods(&logged));
    assert!(logged.iter().zip(1..).all(|(one, nth)| one.nth == nth), "all on that connection: {logged:?}");
    let sentence = page.agrees("a", &logged, 1).await;
    assert!(
        sentence.contains(
            "kept its connection, and a Service chooses once per connection; sessionAffinity (None) had no part."
        ),
        "{sentence}"
    );
    assert_eq!(page.ports("a").await.len(), 1, "all rows have the port of that connection");

    // The cause: without the connection, the habit is gone.
    page.browser.click("#close").await;
    page.clear().await;
    let logged = page.send("a", "Send 20").await;
    // The first one still came over the connection that was there, and ended it.
    assert_eq!((logged.len() as u64, connections(&logged)), (TWENTY, TWENTY), "{logged:?}");
    assert!(pods(&logged).len() >= 2, "{logged:?}");
    let sentence = page.agrees("a", &logged, TWENTY).await;
    assert!(sentence.contains("Each answer ended its connection, and each connection was a new choice."), "{sentence}");
    assert_eq!(page.ports("a").await.len() as u64, TWENTY);
    page.browser.click("#close").await;

    // So it is with curl, and with affinity it is not.
    let logged = page.send("b", "Send 20").await;
    assert!((connections(&logged), pods(&logged).len() >= 2) == (TWENTY, true), "{logged:?}");
    page.agrees("b", &logged, TWENTY).await;
    let logged = page.send("c", "Send 20").await;
    assert_eq!(connections(&logged), TWENTY);
    only(&pods(&logged));
    let sentence = page.agrees("c", &logged, TWENTY).await;
    assert!(
        sentence.contains("sessionAffinity was ClientIP: connections from one IP address get the same pod."),
        "{sentence}"
    );

    // Affinity can be had for the first Service, too.
    page.browser.click("input[name=affinity][value=ClientIP]").await;
    page.browser.until("document.querySelector('#done').textContent.includes('is ClientIP now')").await;
    page.clear().await;
    let logged = page.send("b", "Send 20").await;
    only(&pods(&logged));
    page.agrees("b", &logged, TWENTY).await;
    page.browser.click("input[name=affinity][value=None]").await;
    page.browser.until("document.querySelector('#done').textContent.includes('is None now')").await;

    // Several requests at once need several connections.
    page.clear().await;
    let logged = page.send("a", "20 at once").await;
    let used = connections(&logged);
    assert!((2..=6).contains(&used), "{used} connections: {logged:?}");
    let sentence = page.agrees("a", &logged, used).await;
    assert!(sentence.contains("once for each connection, not for each request"), "{sentence}");
    assert!(sentence.contains(&format!("the browser used {used} connections")), "{sentence}");

    // A pod that dies takes its connections along, and there may be one more.
    let logged = page.send("a", "Send 1").await;
    let dead = only(&pods(&logged)).to_owned();
    page.kill(&dead).await;
    page.browser.click("#add").await;
    page.browser.until("document.querySelector('#pods [data-pod=kubia-d]')").await;
    page.clear().await;
    let after = page.send("b", "Send 20").await;
    assert!(!pods(&after).contains(&dead), "{after:?}");
    page.agrees("b", &after, TWENTY).await;
    page.all_counters_agree().await;
    page.browser.assert_no_complaint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_chooses_for_each_request_and_can_go_by_a_cookie() {
    let Some(page) = Page::open().await else { return };

    let before = page.accepted().await;
    let logged = page.send("d", "Send 20").await;
    assert_eq!(page.accepted().await - before, 1, "one connection of the browser");
    assert!(logged.len() as u64 == TWENTY && pods(&logged).len() >= 2, "{logged:?}");
    let sentence = page.agrees("d", &logged, 1).await;
    assert!(sentence.contains("The Ingress chose for each request."), "{sentence}");
    assert_eq!(page.ports("d").await.len(), 1);

    // Whatever pods say about their connections is between them and the gateway.
    page.browser.click("#close").await;
    page.clear().await;
    let logged = page.send("d", "Send 20").await;
    assert_eq!(page.accepted().await - before, 1, "it is still that one");
    let sentence = page.agrees("d", &logged, 1).await;
    assert!(sentence.contains("The browser's stayed open"), "{sentence}");
    page.browser.click("#close").await;

    // With the cookie it is one pod, until the cookie is forgotten.
    let logged = page.send("e", "Send 20").await;
    let pinned = only(&pods(&logged)).to_owned();
    let sentence = page.agrees("e", &logged, 1).await;
    assert!(sentence.contains(&format!("19 of 20 brought the cookie, and all of these hit {pinned}.")), "{sentence}");
    let shown = page.browser.text("#lane-e .session").await;
    assert!(shown.contains("kubia-session="), "{shown}");
    let mut sessions = 0;
    loop {
        assert_eq!(only(&pods(&page.send("e", "Forget cookie").await)), pinned, "the cookie came once more");
        let first = page.send("e", "Send 1").await;
        let again = page.send("e", "Send 1").await;
        assert_eq!(pods(&first), pods(&again), "the new session stays, too");
        sessions += 1;
        if only(&pods(&first)) != pinned {
            break;
        }
        assert!(sessions < SESSIONS, "every session begins on {pinned}");
    }

    // When its pod dies, the session moves, and stays where it went.
    page.clear().await;
    let dead = only(&pods(&page.send("e", "Send 1").await)).to_owned();
    page.kill(&dead).await;
    let moved = page.send("e", "Send 20").await;
    assert_ne!(only(&pods(&moved)), dead);
    let sentence = page.sentence("e").await;
    assert!(sentence.contains(&format!("{dead} is gone and not chosen any more")), "{sentence}");

    // One address, two hosts, two paths.
    let logged = page.send("f", "Send 20").await;
    assert!(pods(&logged).contains("quiz-0") && pods(&logged).len() >= 2, "{logged:?}");
    let sentence = page.sentence("f").await;
    for route in
        ["kubia.localhost/quiz went to quiz-0", "quiz.localhost/ went to quiz-0", "kubia.localhost/ went to kubia-"]
    {
        assert!(sentence.contains(route), "{sentence}");
    }
    page.all_counters_agree().await;
    page.browser.assert_no_complaint().await;

    // HTTP/2 takes TLS, and TLS a certificate that the reader accepts.
    page.send("g", "Send 1").await;
    let problem = page.browser.text("#lane-g .problem").await;
    assert!(problem.contains("certificate is signed by itself"), "{problem}");
    page.browser.console().await;
    page.browser.accept_every_certificate().await;
    page.clear().await;
    let logged = page.send("g", "20 at once").await;
    assert_eq!(logged.len() as u64, TWENTY);
    let sentence = page.agrees("g", &logged, 1).await;
    assert!(sentence.contains("HTTP/2: all of them share one connection, even at once"), "{sentence}");
    page.browser.assert_no_complaint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_pods_the_page_tells_who_can_still_answer() {
    let Some(page) = Page::open().await else { return };
    for pod in ["kubia-a", "kubia-b", "kubia-c"] {
        page.kill(pod).await;
    }
    page.send("a", "Send 1").await;
    let sentence = page.sentence("a").await;
    let expected = "1 request was refused: no pod was left, and then a Service refuses connections.";
    assert_eq!(sentence, expected);
    page.send("d", "Send 1").await;
    page.browser.until("document.querySelector('#lane-d .sentence').textContent.includes('503')").await;
    let sentence = page.sentence("d").await;
    assert!(
        sentence
            .starts_with("1 request for kubia got 503: Service kubia had no pod. With no pod, an Ingress answers 503;"),
        "{sentence}"
    );
    page.kill("quiz-0").await;
    page.send("f", "Send 20").await;
    page.browser.until("document.querySelector('#lane-f .sentence').textContent.includes('quiz got')").await;
    let sentence = page.sentence("f").await;
    assert!(sentence.contains("requests for quiz got 503: Service quiz had no pod."), "{sentence}");
    assert!(sentence.contains("requests for kubia got 503: Service kubia had no pod."), "{sentence}");
    assert!(
        page.browser.eval("document.querySelector('#lane-f .problem').hidden").await == true,
        "the names are known"
    );
    assert_eq!(page.ports("f").await.len(), 2, "one connection for each host name");
    page.browser.click("#add").await;
    page.browser.until("document.querySelector('#pods [data-pod=kubia-d]')").await;
    page.clear().await;
    let logged = page.send("a", "Send 20").await;
    assert_eq!(only(&pods(&logged)), "kubia-d");
    page.agrees("a", &logged, 1).await;
    page.all_counters_agree().await;

    // What was answered before is told apart from what was refused after.
    page.kill("kubia-d").await;
    page.send("a", "Send 20").await;
    let sentence = page.sentence("a").await;
    assert!(sentence.contains("20 requests were refused: no pod was left"), "{sentence}");
    assert!(!sentence.contains("needs another one"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_every_screen_and_reader() {
    let Some(page) = Page::open().await else { return };
    for lane in ["a", "b", "c", "d", "e", "f"] {
        page.send(lane, "Send 20").await;
        page.ports(lane).await;
    }
    super::looks(&page.browser, "demo", 1520).await;
    page.browser.look(Look { screen: Screen::Desktop, scheme: Scheme::Light, reduced_motion: true }).await;
    page.send("d", "Send 1").await;
    let running = page.browser.eval("document.getAnimations().length").await;
    assert_eq!(running, 0, "who asked for no motion sees none");
    page.browser.assert_no_complaint().await;
}

/// Connections of before may have been opened under another setting: what the setting of now did is not seen on them.
#[tokio::test(flavor = "multi_thread")]
async fn affinity_is_not_blamed_for_connections_that_were_opened_before() {
    let Some(page) = Page::open().await else { return };
    let before = "opened before this lane began to count; a change of sessionAffinity concerns new connections only.";
    for (first, then) in [("ClientIP", "None"), ("None", "ClientIP")] {
        page.set_affinity(first).await;
        page.send("a", "20 at once").await;
        page.set_affinity(then).await;
        page.send("a", "20 at once").await;
        let sentence = page.sentence("a").await;
        assert!(!sentence.contains("in between"), "all connections are older than the change: {sentence}");
        page.clear().await;
        page.send("a", "20 at once").await;
        let sentence = page.sentence("a").await;
        assert!(sentence.contains(before), "{sentence}");
        for blamed in ["chance", "remembers", "same pod", "sessionAffinity was"] {
            assert!(!sentence.contains(blamed), "{first}, then {then}: {sentence}");
        }
        // Ends what is open, for the next round.
        page.browser.click("#close").await;
        page.send("a", "20 at once").await;
        page.browser.click("#close").await;
        page.clear().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_page_holds_no_connection_unless_it_sends() {
    let Some(page) = Page::open().await else { return };
    let stream = |text: &str| format!("document.querySelector('#stream').textContent === '{text}'");
    page.browser.hide(true).await;
    page.browser.until(&stream("Not listening while this page is hidden.")).await;
    let logged = page.send("a", "Send 1").await;
    page.agrees("a", &logged, 1).await;
    assert_eq!(page.ports("a").await.len(), 1, "it listened while it sent");
    page.browser.until(&stream("Not listening while this page is hidden.")).await;
    page.browser.hide(false).await;
    page.browser.until(&stream("Live")).await;
    page.browser.assert_no_complaint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_was_started_anew_begins_to_count_anew() {
    let Some(page) = Page::open().await else { return };
    page.send("a", "Send 20").await;
    page.browser
        .eval(
            "(window.real = fetch, window.fetch = async (url, options) => { const answer = await real(url, options); \
             if (url !== '/demo/state') return answer; const view = await answer.json(); view.started += 1; \
             return Response.json(view) }, 0)",
        )
        .await;
    page.browser.hide(true).await;
    page.browser.hide(false).await;
    page.browser
        .until("document.querySelector('#done').textContent === 'The demo was started anew: the counts begin again.'")
        .await;
    assert_eq!(page.counted("a").await, (0, 0, BTreeSet::new()));
    assert_ne!(page.browser.text("#mark").await, format!("n={}-…", page.mark), "old requests are not its own");
    page.browser.until("[...document.querySelectorAll('#pods li')].every(pod => pod.dataset.hits === '0')").await;
    page.browser
        .until("[...document.querySelectorAll('#agree tbody tr')].every(tr => tr.cells[3].textContent === 'Yes.')")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cookie_is_set_by_forgetting_none() {
    let Some(page) = Page::open().await else { return };
    // It cannot know yet, so it asks; what the Ingress sets then is forgotten, too.
    assert_eq!(page.send("e", "Forget cookie").await.len(), 2);
    assert_eq!(page.send("e", "Forget cookie").await.len(), 0);
    assert_eq!(page.browser.text("#lane-e .session").await, "There is no cookie to forget.");
    page.clear().await;
    page.send("e", "Send 1").await;
    let sentence = page.sentence("e").await;
    assert!(sentence.contains("No cookie kubia-session came with it"), "{sentence}");
    assert_eq!(page.send("e", "Forget cookie").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_tab_knows_which_connections_are_kept() {
    let Some(page) = Page::open().await else { return };
    page.send("d", "Send 1").await;
    page.send("a", "Send 1").await;
    let tab = page.browser.client.new_window(true).await.unwrap();
    page.browser.client.switch_to_window(tab.handle).await.unwrap();
    page.browser.goto(&format!("http://{}/demo", page.demo.addr("admin"))).await;
    page.browser.until("document.querySelector('#stream').textContent === 'Live'").await;
    let click = |lane: &str| format!("document.querySelector('#lane-{lane} button').click()");
    for lane in ["d", "a"] {
        page.browser.eval(&click(lane)).await;
        page.browser
            .until(&format!("document.querySelector('#lane-{lane} tbody td:nth-child(4)').textContent === 'kept'"))
            .await;
    }
    page.browser
        .until(
            "document.querySelector('#lane-a caption').textContent.includes('? = opened before this page listened.')",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_moves_while_lanes_send_pods_die_and_lanes_are_cleared() {
    let Some(page) = Page::open().await else { return };
    for screen in [Screen::Desktop, Screen::Phone] {
        page.browser.look(Look { screen, scheme: Scheme::Light, reduced_motion: true }).await;
        page.clear().await;
        let before = page.places().await;
        let find = "[...document.querySelectorAll('#lane-a button')].find(b => b.textContent === 'Send 20')";
        let sending = page
            .browser
            .eval(&format!("({find}.click(), document.querySelector('#lane-a .sentence').textContent)"))
            .await;
        assert_eq!(sending, "Sending…");
        page.browser.until("document.querySelector('#lane-a').ariaBusy === 'false'").await;
        for (lane, button) in [
            ("a", "20 at once"),
            ("b", "Send 20"),
            ("c", "Send 20"),
            ("d", "Send 20"),
            ("e", "Send 20"),
            ("f", "Send 20"),
            ("g", "Send 1"),
        ] {
            page.send(lane, button).await;
            page.nothing_moved(&before, &format!("{screen:?}, {}", page.sentence(lane).await)).await;
        }
        page.kill(if screen == Screen::Desktop { "kubia-a" } else { "kubia-b" }).await;
        page.nothing_moved(&before, &format!("{screen:?}, a pod died")).await;
        page.clear().await;
        page.nothing_moved(&before, &format!("{screen:?}, cleared")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_pods_are_the_most_and_each_looks_its_own_way() {
    let Some(page) = Page::open().await else { return };
    for pod in ["d", "e", "f", "g", "h"] {
        page.browser.click("#add").await;
        page.browser.until(&format!("document.querySelector('#agree').textContent.includes('kubia-{pod}')")).await;
    }
    page.browser.until("document.querySelector('#add').ariaDisabled === 'true'").await;
    page.browser.click("#add").await;
    let done = page.browser.text("#done").await;
    assert_eq!(done, "Eight kubia pods are the most here. Kill one first.");
    let looks =
        "new Set([...document.querySelectorAll('#pods .shape')].map(e => getComputedStyle(e).backgroundImage)).size";
    assert_eq!(page.browser.eval(looks).await, 9, "eight, and quiz-0");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_advice_about_names_or_certificates_once_tidegate_is_gone() {
    let Some(page) = Page::open().await else { return };
    let Page { demo, browser, .. } = page;
    demo.end();
    browser.until("document.querySelector('#stream').classList.contains('bad')").await;
    for lane in ["f", "g"] {
        browser.eval(&format!("document.querySelector('#lane-{lane} button').click()")).await;
        browser.until(&format!("document.querySelector('#lane-{lane}').ariaBusy === 'false'")).await;
        let said = browser.text(&format!("#lane-{lane} .said")).await;
        assert_eq!(said, "1 request failed: no answer came that this page may read.");
    }
    assert_eq!(browser.text("#problem").await, "Tidegate does not answer. Is the demo still running?");
}

/// The Ingress of lane D lets pods take turns: that all of its requests hit one is never chance.
#[tokio::test(flavor = "multi_thread")]
async fn turns_that_others_took_are_not_called_chance() {
    let Some(page) = Page::open().await else { return };
    let mut others = Client::connect(page.demo.addr("http")).await;
    let mut hit = BTreeSet::new();
    for _ in 0..3 {
        hit.extend(pods(&page.send("d", "Send 1").await));
        for _ in 0..2 {
            assert_eq!(others.get("127.0.0.1", "/kubia").await.status, 200);
        }
    }
    only(&hit);
    let expected =
        "The Ingress chose for each request. Pods take turns, and other requests took the turns in between. Send more.";
    let sentence = page.sentence("d").await;
    assert!(sentence.ends_with(expected), "{sentence}");
}
