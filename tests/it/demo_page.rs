//! What the page of `tidegate demo` asks for and does, against a real one.
#![cfg(target_os = "linux")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tidegate::admin::view::{DemoPodView, DemoView};
use tidegate_tests::{Bed, Client, Net, PATIENCE, Response, client::hit, demo::Demo};

/// Connections after which every pod has surely been hit: with eight of them, one in 10^10 runs is wrong.
const MANY: usize = 200;

async fn ask(addr: SocketAddr, method: &str, target: &str, fields: &str) -> Response {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {addr}\r\n{fields}\r\n");
    Client::connect(addr).await.ask(&request).await.unwrap()
}

async fn state(demo: &Demo) -> DemoView {
    let answer = ask(demo.addr("admin"), "GET", "/demo/state", "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Does something as the page does, and returns how things are then.
async fn act(demo: &Demo, target: &str) -> DemoView {
    let admin = demo.addr("admin");
    let fields = format!("Origin: http://{admin}\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 0\r\n");
    let answer = ask(admin, "POST", target, &fields).await;
    assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn names(pods: &[DemoPodView]) -> Vec<&str> {
    pods.iter().map(|pod| &*pod.name).collect()
}

fn addr_of(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").split('/').next().unwrap().parse().unwrap()
}

/// The pods that so many new connections hit, and how often.
async fn hits(url: &str, count: usize) -> BTreeMap<String, usize> {
    let mut pods = BTreeMap::new();
    for _ in 0..count {
        *pods.entry(hit(addr_of(url)).await.unwrap()).or_default() += 1;
    }
    pods
}

fn pods(hits: &BTreeMap<String, usize>) -> Vec<&str> {
    hits.keys().map(String::as_str).collect()
}

#[tokio::test]
async fn pods_are_killed_and_added_and_all_follow() {
    let demo = Demo::start();
    let begin = state(&demo).await;
    assert_eq!(names(&begin.pods), ["kubia-a", "kubia-b", "kubia-c", "quiz-0"]);
    let node_port = begin.lanes.node_port.clone();
    assert_eq!(pods(&hits(&node_port, MANY).await), ["kubia-a", "kubia-b", "kubia-c"]);

    // A connection of that pod is closed, and nobody else is sent there from the moment of the answer on.
    let mut kept = Client::connect(addr_of(&begin.lanes.client_ip)).await;
    let pinned = kept.get("a", "/").await.pod().unwrap();
    let after = act(&demo, &format!("/demo/kill?pod={pinned}")).await;
    assert_eq!(names(&after.gone), [&*pinned]);
    assert!(kept.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.is_err(), "the connection is closed");
    let left: Vec<&str> = ["kubia-a", "kubia-b", "kubia-c"].into_iter().filter(|name| *name != pinned).collect();
    assert_eq!(pods(&hits(&node_port, MANY).await), left);
    let moved = hits(&begin.lanes.client_ip, 20).await;
    assert!(moved.len() == 1 && left.contains(&pods(&moved)[0]), "{moved:?}");

    let more = ["kubia-d", "kubia-e", "kubia-f", "kubia-g", "kubia-h", "kubia-i"];
    for name in more {
        assert!(state(&demo).await.can_add);
        let after = act(&demo, "/demo/add").await;
        assert_eq!(after.pods.last().unwrap().name, name);
    }
    assert!(!state(&demo).await.can_add);
    let refused = ask(demo.addr("admin"), "POST", "/demo/add", "").await;
    assert_eq!((refused.status, &*refused.text()), (409, "there are 8 kubia pods: kill one first\n"));
    let all: Vec<&str> = left.iter().copied().chain(more).collect();
    assert_eq!(pods(&hits(&node_port, MANY).await), all);

    let unknown = ask(demo.addr("admin"), "POST", &format!("/demo/kill?pod={pinned}"), "").await;
    assert_eq!((unknown.status, unknown.text()), (409, format!("there is no pod {pinned}\n")));
    for name in all {
        act(&demo, &format!("/demo/kill?pod={name}")).await;
    }
    assert_eq!(names(&state(&demo).await.pods), ["quiz-0"]);
    hit(addr_of(&node_port)).await.unwrap_err();
    assert_eq!(ask(demo.addr("http"), "GET", "/kubia", "").await.status, 503);
    // And there is a way back.
    act(&demo, "/demo/add").await;
    assert_eq!(pods(&hits(&node_port, 3).await), ["kubia-j"]);
    assert_eq!(ask(demo.addr("http"), "GET", "/kubia", "").await.pod().as_deref(), Some("kubia-j"));
    let (status, log) = demo.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test]
async fn connections_feel_the_affinity_at_once() {
    let demo = Demo::start();
    let begin = state(&demo).await;
    assert_eq!(begin.affinity, "None");
    let node_port = &begin.lanes.node_port;
    for (to, expected) in [("ClientIP", 1), ("None", 3), ("ClientIP", 1)] {
        let view = act(&demo, &format!("/demo/affinity?service=kubia-nodeport&to={to}")).await;
        assert_eq!(view.affinity, to);
        let found = hits(node_port, MANY).await;
        assert_eq!(found.len(), expected, "{to}: {found:?}");
    }
    // Nobody else's affinity changed.
    assert_eq!(hits(&begin.lanes.client_ip, 20).await.len(), 1);
}

#[tokio::test]
async fn what_the_pods_have_logged_is_what_was_sent() {
    let demo = Demo::start();
    let begin = state(&demo).await;
    let mut sent: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut note = |answer: &Response, target: &str| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let peer = answer.header("x-peer").unwrap();
        let count = answer.header("x-connection-requests").unwrap();
        let line = format!("GET {target} from {peer}, request {count} of its connection");
        assert!(sent.entry(answer.header("x-pod").unwrap().to_owned()).or_default().insert(line));
    };
    let mut kept = Client::connect(addr_of(&begin.lanes.node_port)).await;
    for n in 0..20 {
        let target = format!("/?kept={n}");
        note(&kept.get("a", &target).await, &target);
    }
    let mut gateway = Client::connect(demo.addr("http")).await;
    for n in 0..40 {
        let target = format!("/kubia?n={n}");
        let answer = gateway.get("127.0.0.1", &target).await;
        note(&answer, &target);
        assert_eq!(answer.header("x-request-id").map(str::len), Some(32), "the gateway's own");
    }
    for n in 0..20 {
        let target = format!("/?close=1&n={n}");
        let answer = ask(addr_of(&begin.lanes.node_port), "GET", &target, "").await;
        assert_eq!(answer.header("x-connection-reused"), Some("false"));
        note(&answer, &target);
    }
    let killed = act(&demo, "/demo/kill?pod=kubia-b").await;
    for pod in killed.pods.iter().chain(&killed.gone) {
        let answer = ask(demo.addr("admin"), "GET", &format!("/demo/logs?pod={}", pod.name), "").await;
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        let text = answer.text();
        let logged: Vec<String> = text.lines().map(|line| line.split_once("Z ").unwrap().1.to_owned()).collect();
        assert_eq!(pod.requests, logged.len() as u64, "{}", pod.name);
        let first = logged.iter().filter(|line| line.contains(", request 1 of")).count();
        assert_eq!(pod.connections, first as u64, "{}", pod.name);
        let logged: BTreeSet<String> = logged.into_iter().collect();
        assert_eq!(logged, sent.remove(&pod.name).unwrap_or_default(), "{}", pod.name);
    }
    assert!(sent.is_empty(), "{sent:?}");
    let unknown = ask(demo.addr("admin"), "GET", "/demo/logs?pod=kubia-z", "").await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn only_the_page_may_act_and_only_it_may_read_the_pods() {
    let demo = Demo::start();
    let (view, admin) = (state(&demo).await, demo.addr("admin"));
    assert_eq!(view.page, format!("http://{admin}/demo"));
    assert!(demo.said().contains(&format!("Look at it in a browser: {}", view.page)), "{:?}", demo.said());
    let other = view.lanes.node_port.trim_end_matches('/');
    for fields in [
        format!("Origin: {other}\r\nContent-Length: 0\r\n"),
        format!("Origin: http://{admin}\r\nSec-Fetch-Site: same-site\r\nContent-Length: 0\r\n"),
        "Sec-Fetch-Site: cross-site\r\nContent-Length: 0\r\n".to_owned(),
    ] {
        for target in ["/demo/kill?pod=kubia-a", "/demo/add", "/demo/affinity?service=kubia-nodeport&to=ClientIP"] {
            assert_eq!(ask(admin, "POST", target, &fields).await.status, 403, "{target} {fields}");
        }
    }
    assert_eq!(ask(admin, "GET", "/demo/kill?pod=kubia-a", "").await.status, 405);
    let now = state(&demo).await;
    assert_eq!((names(&now.pods), now.affinity), (names(&view.pods), "None".to_owned()));

    act(&demo, "/demo/add").await;
    let lanes = &view.lanes;
    let ours = format!("http://{admin}");
    for (origin, allowed) in [(&*ours, Some(&*ours)), (other, None), ("null", None)] {
        let fields = format!("Origin: {origin}\r\n");
        // Every pod, also the one that was added.
        for n in 0..40 {
            let url = [&lanes.node_port, &lanes.client_ip, &lanes.ingress, &lanes.cookie][n % 4];
            let path = url.splitn(4, '/').nth(3).unwrap();
            let answer = ask(addr_of(url), "GET", &format!("/{path}"), &fields).await;
            assert_eq!(answer.header("access-control-allow-origin"), allowed, "{url} {origin}");
            assert_eq!(answer.header("access-control-allow-credentials"), allowed.map(|_| "true"));
        }
    }
    let answer = ask(addr_of(&lanes.cookie), "GET", "/sticky", "").await;
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with(&format!("{}=", lanes.cookie_name)), "{cookie}");
    assert!(cookie.split("; ").any(|part| part == format!("Path={}", lanes.cookie_path)), "{cookie}");
    for url in &lanes.hosts {
        let (host, path) = url.trim_start_matches("http://").split_once('/').unwrap();
        let answer = Client::connect(demo.addr("http")).await.get(host, &format!("/{path}")).await;
        let expected = if url.contains("quiz") { "quiz-0" } else { "kubia-" };
        assert!(answer.pod().unwrap().starts_with(expected), "{url}");
    }
}

#[tokio::test]
async fn without_a_demo_there_is_no_page() {
    let bed = Bed::start(Net::next(), "").await;
    for target in ["/demo", "/demo/state", "/demo/logs?pod=kubia-a"] {
        assert_eq!(ask(bed.app.admin(), "GET", target, "").await.status, 404, "{target}");
    }
    for target in ["/demo/kill?pod=kubia-a", "/demo/add", "/demo/affinity?service=kubia-nodeport&to=None"] {
        let status = ask(bed.app.admin(), "POST", target, "Content-Length: 0\r\n").await.status;
        assert!(matches!(status, 404 | 405), "{target}: {status}");
    }
}

/// A directory with a program that takes a browser's place and writes down what it is asked to open.
fn browser(name: &str, script: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("tidegate-browser-{name}-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    for opener in ["xdg-open", "gio", "gnome-open", "kde-open", "kde-open5", "wslview"] {
        let path = directory.join(opener);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

fn wait_for(what: impl Fn() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < patience, "it does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn the_page_is_opened_if_asked_and_if_that_fails_the_demo_goes_on() {
    let directory = browser("good", "echo \"$@\" > \"$0.asked\"");
    let asked = || fs::read_to_string(directory.join("xdg-open.asked")).unwrap_or_default();
    let open = |directory: &Path| {
        let path = format!("{}:/usr/bin:/bin", directory.display());
        Demo::start_with(|command| {
            command.arg("--open").env("PATH", path);
        })
    };
    let demo = open(&directory);
    wait_for(|| !asked().is_empty());
    assert_eq!(asked().trim(), state(&demo).await.page);
    drop(demo);
    fs::remove_dir_all(&directory).unwrap();

    let directory = browser("bad", "exit 3");
    let demo = open(&directory);
    let page = state(&demo).await.page;
    wait_for(|| demo.log().contains(&format!("cannot open {page} in a browser: ")));
    assert_eq!(state(&demo).await.pods.len(), 4);
    fs::remove_dir_all(&directory).unwrap();
}
