//! A real browser: headless Chromium, driven by WebDriver and, where that has no word for it, by Chromium's own protocol.

mod bed;
mod chapter;
mod dashboard;
mod driver;
mod navigation;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use fantoccini::{Client, ClientBuilder, Locator, elements::Element, wd::WebDriverCompatibleCommand};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tidegate_tests::PATIENCE;
use url::{ParseError, Url};

use driver::Driver;

/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(20);

/// Chromium's flags. Nothing but what a test does may use the network, and that ends on this machine: every name but
/// localhost's has no address, whoever asks.
const FLAGS: [&str; 15] = [
    "--headless=new",
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-domain-reliability",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*, EXCLUDE [::1], EXCLUDE localhost, EXCLUDE *.localhost",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
];

/// A browser with a profile of its own and one empty tab; it ends when dropped.
///
/// All of its methods wait until the browser has done what they say, and panic if it cannot.
#[derive(Debug)]
pub(crate) struct Browser {
    client: Client,
    // Below the client, as fields are dropped in this order.
    driver: Driver,
}

/// What the page is shown on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Screen {
    /// 1280 × 800.
    Desktop,
    /// 390 × 844, two pixels a point, as a phone in the hand.
    Phone,
}

/// What a page can ask about its reader's wishes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Scheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// How the page is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) screen: Screen,
    pub(crate) scheme: Scheme,
    pub(crate) reduced_motion: bool,
}

/// A line of the browser's console: what scripts write there, and what the browser has to say about a page, such as
/// what the Content-Security-Policy forbids.
#[derive(Clone, Debug)]
pub(crate) struct ConsoleLine {
    /// `SEVERE` (an error), `WARNING`, `INFO` or `DEBUG`.
    pub(crate) level: String,
    pub(crate) message: String,
}

impl Browser {
    /// Starts Chromium, on a desktop and light. `None` where it is not installed; CI must have it.
    pub(crate) async fn start() -> Option<Self> {
        let driver = tokio::task::spawn_blocking(Driver::start).await.expect("ChromeDriver starts")?;
        let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        flags.push(format!("--user-data-dir={}", driver.directory().join("profile").display()));
        // Chromium refuses to run as root within its own sandbox.
        if rustix::process::geteuid().is_root() {
            flags.push("--no-sandbox".to_owned());
        }
        let Value::Object(capabilities) = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": flags },
            "goog:loggingPrefs": { "browser": "ALL" },
        }) else {
            unreachable!("it is written as an object")
        };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let client = builder.capabilities(capabilities).connect(&driver.url()).await;
        let client = client.unwrap_or_else(|error| panic!("no session: {error}\n{}", driver.log()));
        let browser = Self { client, driver };
        browser.look(Look { screen: Screen::Desktop, scheme: Scheme::Light, reduced_motion: false }).await;
        Some(browser)
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) async fn goto(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Loads the page again.
    pub(crate) async fn reload(&self) {
        self.client.refresh().await.unwrap_or_else(|error| panic!("reload: {error}"));
    }

    /// Runs `body` in the page as that of an async function: it may `await`, and `return`s what JSON can hold.
    pub(crate) async fn run(&self, body: &str) -> Value {
        let script = format!("return (async () => {{ {body} }})()");
        self.client.execute(&script, Vec::new()).await.unwrap_or_else(|error| panic!("{body}: {error}"))
    }

    /// The value of an expression in the page.
    pub(crate) async fn eval(&self, expression: &str) -> Value {
        self.run(&format!("return ({expression})")).await
    }

    /// Clicks the middle of the first element of this CSS selector, as a mouse does: what lies above it gets the click.
    pub(crate) async fn click(&self, selector: &str) {
        self.find(selector).await.click().await.unwrap_or_else(|error| panic!("click {selector}: {error}"));
    }

    /// The visible text of the first element of this CSS selector.
    pub(crate) async fn text(&self, selector: &str) -> String {
        self.find(selector).await.text().await.unwrap_or_else(|error| panic!("text of {selector}: {error}"))
    }

    /// An attribute of the first element of this CSS selector.
    pub(crate) async fn attribute(&self, selector: &str, name: &str) -> Option<String> {
        let value = self.find(selector).await.attr(name).await;
        value.unwrap_or_else(|error| panic!("{name} of {selector}: {error}"))
    }

    async fn find(&self, selector: &str) -> Element {
        self.client.find(Locator::Css(selector)).await.unwrap_or_else(|error| panic!("{selector}: {error}"))
    }

    /// Waits until an expression is true in the page; one that throws is not true yet.
    pub(crate) async fn until(&self, expression: &str) {
        let begun = Instant::now();
        let body = format!("try {{ return Boolean({expression}) }} catch (error) {{ return String(error) }}");
        loop {
            let seen = self.run(&body).await;
            if seen == true {
                return;
            }
            if begun.elapsed() > PATIENCE {
                let text = self.eval("document.body.innerText").await;
                let text = text.as_str().unwrap_or_default();
                panic!("after {PATIENCE:?}, `{expression}` is {seen}; the page says:\n{text}");
            }
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Shows this and all later pages so.
    pub(crate) async fn look(&self, look: Look) {
        let (width, height, scale, mobile) = match look.screen {
            Screen::Desktop => (1280, 800, 1, false),
            Screen::Phone => (390, 844, 2, true),
        };
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile });
        self.cdp("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = match look.scheme {
            Scheme::Light => "light",
            Scheme::Dark => "dark",
        };
        let motion = if look.reduced_motion { "reduce" } else { "no-preference" };
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": motion },
        ]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// From now on lets no page load what is like this pattern (`*` stands for anything).
    pub(crate) async fn block(&self, pattern: &str) {
        self.cdp("Network.enable", json!({})).await;
        self.cdp("Network.setBlockedURLs", json!({ "urls": [pattern] })).await;
    }

    /// From now on takes every certificate, as a reader does who clicks on "Proceed".
    pub(crate) async fn accept_every_certificate(&self) {
        self.cdp("Security.setIgnoreCertificateErrors", json!({ "ignore": true })).await;
    }

    /// Writes a picture of the whole page to `target/screenshots/NAME.png`.
    pub(crate) async fn screenshot(&self, name: &str) -> PathBuf {
        self.screenshot_down_to(name, None).await
    }

    /// The same, of so many points of it from the top, if not of all.
    pub(crate) async fn screenshot_down_to(&self, name: &str, height: Option<u32>) -> PathBuf {
        let size = &self.cdp("Page.getLayoutMetrics", json!({})).await["cssContentSize"];
        let height = height.map_or_else(|| size["height"].clone(), Value::from);
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1 });
        let how = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.cdp("Page.captureScreenshot", how).await;
        let picture = BASE64.decode(picture["data"].as_str().expect("a picture").as_bytes()).expect("in Base64");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        fs::create_dir_all(&directory).expect("a directory for pictures");
        let path = directory.join(name).with_extension("png");
        fs::write(&path, picture).expect("the picture is written");
        path
    }

    /// What came to the console since this was last asked, all pages together.
    pub(crate) async fn console(&self) -> Vec<ConsoleLine> {
        let lines = self.command("se/log", json!({ "type": "browser" })).await;
        let lines = lines.as_array().expect("a list of lines").iter();
        let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        lines.map(|line| ConsoleLine { level: text(line, "level"), message: text(line, "message") }).collect()
    }

    /// Checks that no page had an error or a warning since the console was last asked: every violation of a
    /// Content-Security-Policy is one.
    pub(crate) async fn assert_no_complaint(&self) {
        let lines = self.console().await;
        let complaints: Vec<&ConsoleLine> =
            lines.iter().filter(|line| line.level == "SEVERE" || line.level == "WARNING").collect();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    /// A command of the Chrome DevTools Protocol.
    pub(crate) async fn cdp(&self, method: &str, params: Value) -> Value {
        self.command("goog/cdp/execute", json!({ "cmd": method, "params": params })).await
    }

    async fn command(&self, path: &'static str, body: Value) -> Value {
        let failed = |error| panic!("{path} {body}: {error}\n{}", self.driver.log());
        self.client.issue_cmd(Extension { path, body: body.to_string() }).await.unwrap_or_else(failed)
    }
}

/// Pictures of the page that is open, in each colour scheme and on each screen (`target/screenshots/NAME-….png`; `NAME-top.png` is of so many
/// points from its top, for the README), and what can be checked of it without eyes: nothing is wider than the screen, and whatever can be used has a name that can be read out.
pub(crate) async fn looks(browser: &Browser, name: &str, top: u32) {
    for (screen, scheme, suffix) in [
        (Screen::Desktop, Scheme::Light, "light"),
        (Screen::Desktop, Scheme::Dark, "dark"),
        (Screen::Phone, Scheme::Light, "phone"),
        (Screen::Phone, Scheme::Dark, "phone-dark"),
    ] {
        browser.look(Look { screen, scheme, reduced_motion: false }).await;
        let (inner, page) =
            (browser.eval("innerWidth").await, browser.eval("document.documentElement.scrollWidth").await);
        assert!(page.as_u64() <= inner.as_u64(), "{name}, {suffix}: {page} points wide on {inner}");
        browser.screenshot(&format!("{name}-{suffix}")).await;
    }
    let nameless = "[...document.querySelectorAll('button, a, input, select, [tabindex=\"0\"], table')].filter(e => !(e.textContent.trim() \
                    || e.ariaLabel || e.labels?.length || document.getElementById(e.getAttribute('aria-labelledby')))).map(e => e.outerHTML)";
    assert_eq!(browser.eval(nameless).await, json!([]), "each has a name");
    let ids = "[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)";
    assert_eq!(browser.eval(ids).await, json!([]), "each id is there once");
    browser.look(Look { screen: Screen::Desktop, scheme: Scheme::Light, reduced_motion: false }).await;
    browser.screenshot_down_to(&format!("{name}-top"), Some(top)).await;
}

/// A command of ChromeDriver's that WebDriver does not have.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: String,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _url: &Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.clone()))
    }
}
