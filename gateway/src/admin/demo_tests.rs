use std::sync::Mutex;

use http::Request;
use http_body_util::BodyExt;

use super::*;

/// Notes what it is told to do; there is one pod, and it cannot be killed.
#[derive(Debug, Default)]
struct Fake {
    is_ready: bool,
    done: Mutex<Vec<Action>>,
}

impl Demo for Fake {
    fn serving(&self, _: Serving) {}

    fn view(&self) -> Option<DemoView> {
        self.is_ready.then(|| DemoView { affinity: "None".to_owned(), ..DemoView::default() })
    }

    fn log(&self, pod: &str) -> Option<String> {
        (pod == "kubia-a").then(|| "a line\n".to_owned())
    }

    fn act(self: Arc<Self>, action: Action) -> Acting {
        Box::pin(async move {
            let is_kill = matches!(action, Action::Kill(_));
            self.done.lock().unwrap().push(action);
            if is_kill { Err("it is immortal".to_owned()) } else { Ok(()) }
        })
    }
}

/// The status, the field `Allow` and the content of an answer.
async fn ask(demo: &Arc<Fake>, method: &str, target: &str, fields: &[(&str, &str)]) -> (u16, String, String) {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let demo: Arc<dyn Demo> = demo.clone();
    let (head, body) = respond(&demo, &request.body(()).unwrap().into_parts().0).await.into_parts();
    let allow = head.headers.get(header::ALLOW).map(|allow| allow.to_str().unwrap().to_owned());
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), allow.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

fn answer(status: u16, text: &str) -> (u16, String, String) {
    (status, String::new(), text.to_owned())
}

#[tokio::test]
async fn it_tells_how_things_are() {
    let demo = Arc::new(Fake::default());
    assert_eq!(ask(&demo, "GET", "/demo/state", &[]).await, answer(503, NO_CONFIGURATION));
    let demo = Arc::new(Fake { is_ready: true, ..Fake::default() });
    let (status, _, text) = ask(&demo, "GET", "/demo/state", &[]).await;
    let view: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &view["canAdd"], &view["lanes"]["nodePort"]), (200, &false.into(), &"".into()));
    assert_eq!(ask(&demo, "GET", "/demo/logs?pod=kubia-a", &[]).await, answer(200, "a line\n"));
    assert_eq!(ask(&demo, "GET", "/demo/logs?x=y&pod=z", &[]).await, answer(404, "there is no pod z\n"));
    assert_eq!(ask(&demo, "GET", "/demo/logs", &[]).await, answer(400, "say which: ?pod=NAME\n"));
    assert_eq!(ask(&demo, "GET", "/demo/nothing", &[]).await, answer(404, "there is no /demo/nothing here\n"));
    assert!(demo.done.lock().unwrap().is_empty());
}

#[tokio::test]
async fn it_does_what_can_be_done() {
    let demo = Arc::new(Fake { is_ready: true, ..Fake::default() });
    for (target, status) in [
        ("/demo/add", 200),
        ("/demo/kill?pod=kubia-a", 409),
        ("/demo/affinity?service=kubia-nodeport&to=ClientIP", 200),
        ("/demo/affinity?to=None&service=kubia-nodeport", 200),
        ("/demo/kill", 400),
        ("/demo/affinity?service=kubia&to=None", 400),
        ("/demo/affinity?service=kubia-nodeport&to=cookie", 400),
        ("/demo/affinity?service=kubia-nodeport", 400),
    ] {
        let (found, _, text) = ask(&demo, "POST", target, &[]).await;
        assert_eq!(found, status, "{target}: {text}");
        assert_eq!(text.contains("\"affinity\":\"None\""), status == 200, "{text}");
        assert_eq!(text == "it is immortal\n", status == 409, "{text}");
    }
    let done = [
        Action::Add,
        Action::Kill("kubia-a".to_owned()),
        Action::Affinity { client_ip: true },
        Action::Affinity { client_ip: false },
    ];
    assert_eq!(*demo.done.lock().unwrap(), done);
}

#[tokio::test]
async fn nothing_is_done_by_a_get_and_nothing_is_told_by_a_post() {
    let demo = Arc::new(Fake { is_ready: true, ..Fake::default() });
    for target in ["/demo/add", "/demo/kill?pod=a", "/demo/affinity?service=kubia-nodeport&to=None"] {
        for method in ["GET", "HEAD", "PUT", "OPTIONS"] {
            let (status, allow, _) = ask(&demo, method, target, &[]).await;
            assert_eq!((status, &*allow), (405, "POST"), "{method} {target}");
        }
    }
    for target in ["/demo/state", "/demo/logs?pod=kubia-a"] {
        let (status, allow, _) = ask(&demo, "POST", target, &[]).await;
        assert_eq!((status, &*allow), (405, "GET, HEAD"), "{target}");
        assert_eq!(ask(&demo, "HEAD", target, &[]).await.0, 200);
    }
    assert!(demo.done.lock().unwrap().is_empty());
}

#[tokio::test]
async fn only_its_own_page_may_act() {
    let demo = Arc::new(Fake { is_ready: true, ..Fake::default() });
    let host = ("Host", "127.0.0.1:9901");
    for (fields, is_own) in [
        (&[host][..], true),
        (&[host, ("Origin", "http://127.0.0.1:9901")], true),
        (&[host, ("Origin", "http://127.0.0.1:9901"), ("Sec-Fetch-Site", "same-origin")], true),
        (&[host, ("Origin", "http://127.0.0.1:8080")], false),
        (&[host, ("Origin", "https://127.0.0.1:9901")], false),
        (&[host, ("Origin", "http://evil.example")], false),
        (&[host, ("Origin", "null")], false),
        (&[host, ("Origin", "http://127.0.0.1:9901"), ("Origin", "http://evil.example")], false),
        (&[("Origin", "http://127.0.0.1:9901")], false),
        (&[host, ("Sec-Fetch-Site", "same-site")], false),
        (&[host, ("Sec-Fetch-Site", "cross-site")], false),
        (&[host, ("Sec-Fetch-Site", "none")], false),
    ] {
        let (status, _, text) = ask(&demo, "POST", "/demo/add", fields).await;
        assert_eq!(status, if is_own { 200 } else { 403 }, "{fields:?}: {text}");
        // Reading is another matter: without CORS no other page sees what is answered.
        assert_eq!(ask(&demo, "GET", "/demo/state", fields).await.0, 200);
    }
    assert_eq!(demo.done.lock().unwrap().len(), 3);
}
