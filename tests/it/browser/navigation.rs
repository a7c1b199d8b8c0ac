//! The chapter's puzzle in a real browser: "why do I always see the same pod?"

use std::{collections::BTreeMap, net::SocketAddr};

use tidegate::pod::Pod;
use tidegate_tests::{Bed, Net, http_pod, pod_manifest, service_manifest};

use super::Browser;

/// That a choice for each request falls on one of three pods every time has probability 3^-19.
const LOADS: u64 = 20;

/// Of a connection (as the pod sees it): the pods that it led to, and how many requests it had carried at each load.
type Connections = BTreeMap<String, (Vec<String>, Vec<u64>)>;

/// Three pods behind a node port, and the address of a page on which the pod that answers says what it saw.
async fn world() -> (Bed, Vec<Pod>, String) {
    let net = Net::next();
    let mut pods = Vec::new();
    let mut manifests = service_manifest("web", "web", "type: NodePort, ");
    for (last, name) in (2..).zip(["a", "b", "c"]) {
        pods.push(http_pod(name, net.ip(last)).await);
        manifests += &pod_manifest(name, "web", net.ip(last));
    }
    let bed = Bed::start(net, &manifests).await;
    let node_port = bed.snapshot().services[0].ports[0].node_port.unwrap();
    (bed, pods, format!("http://{}/headers", SocketAddr::new(net.ip(1), node_port)))
}

/// Opens the page, and reloads it until it was loaded [`LOADS`] times.
async fn load(browser: &Browser, page: &str) -> Connections {
    let mut connections = Connections::new();
    for load in 1..=LOADS {
        if load == 1 {
            browser.goto(page).await;
        } else {
            browser.reload().await;
        }
        let seen = browser.eval("JSON.parse(document.body.innerText)").await;
        let (pods, requests) = connections.entry(seen["peer"].as_str().unwrap().to_owned()).or_default();
        pods.push(seen["pod"].as_str().unwrap().to_owned());
        requests.push(seen["connectionRequests"].as_u64().unwrap());
    }
    connections
}

#[tokio::test(flavor = "multi_thread")]
async fn reloading_a_node_port_stays_on_one_connection_and_so_on_one_pod() {
    let Some(browser) = Browser::start().await else { return };
    let (_bed, _pods, page) = world().await;
    browser.block("*/favicon.ico").await;
    let connections = load(&browser, &page).await;
    assert_eq!(connections.len(), 1, "{connections:?}");
    let (pods, requests) = connections.into_values().next().unwrap();
    assert!(pods.windows(2).all(|pair| pair[0] == pair[1]), "{pods:?}");
    assert_eq!(requests, Vec::from_iter(1..=LOADS));
}

/// Chromium opens a spare connection beside its first, and asks for the page's icon after each load: who reloads faster than that
/// may get the other connection, and with it another pod. That a connection has one pod stays true.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_uses_its_spare_connection_still_sees_one_pod_on_each() {
    let Some(browser) = Browser::start().await else { return };
    let (_bed, _pods, page) = world().await;
    let connections = load(&browser, &page).await;
    assert!(connections.len() <= 6, "six are the most that Chromium opens to one host: {connections:?}");
    for (pods, requests) in connections.values() {
        assert!(pods.windows(2).all(|pair| pair[0] == pair[1]), "{connections:?}");
        assert!(requests.is_sorted_by(|earlier, later| earlier < later), "{connections:?}");
    }
}
