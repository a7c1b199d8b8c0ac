//! When another pod is tried, and when not.

use super::{scripted::Scripted, *};

/// Service `web` with a pod whose manners the path names, and a good one.
async fn bed_of_two(manifests: &[String]) -> (Bed, Scripted, Pod) {
    let net = Net::next();
    let (bad, good) = (Scripted::start(net.ip(2)).await, http_pod("good", net.ip(3)).await);
    let pods = pod_manifest("bad", "web", net.ip(2)) + &pod_manifest("good", "web", net.ip(3));
    let bed = Bed::start(net, &(pods + &service_manifest("web", "web", "") + &manifests.concat())).await;
    (bed, bad, good)
}

/// The statuses of two requests, one of which comes to the bad pod first.
async fn two(bed: &Bed, host: &str, method: &str, path: &str) -> [u16; 2] {
    // One connection, and so one worker, whose turns alternate.
    let mut client = Client::connect(bed.app.http()).await;
    let mut statuses = [0; 2];
    for status in &mut statuses {
        // Content that nobody reads would end the connection.
        let content = if path == "/" { "" } else { "hello" };
        let length = content.len();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{content}");
        *status = client.ask(&request).await.expect("an answer").status;
    }
    statuses.sort_unstable();
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_tries_and_methods() {
    let next = |value: &'static str| vec![("proxy-next-upstream", value)];
    let (default, quick) = (vec![], ("proxy-read-timeout", "1"));
    let cases: &[(Annotations<'_>, &str, &str, u16)] = &[
        (default.clone(), "GET", "/closes", 200),
        (default.clone(), "PUT", "/closes", 200),
        // It might do harm to say it twice (RFC 9110 9.2.2).
        (default.clone(), "POST", "/closes", 502),
        (next("error non_idempotent"), "POST", "/closes", 200),
        (next("timeout"), "GET", "/closes", 502),
        (next("off"), "GET", "/closes", 502),
        (next("error off"), "GET", "/closes", 502),
        (vec![("proxy-next-upstream-tries", "1")], "GET", "/closes", 502),
        (vec![("proxy-next-upstream-tries", "0")], "GET", "/closes", 200),
        (default.clone(), "GET", "/garbage", 502),
        (next("invalid_header"), "GET", "/garbage", 200),
        (vec![quick], "GET", "/hangs", 200),
        (vec![quick, ("proxy-next-upstream", "error")], "GET", "/hangs", 504),
        // The try ends after a second, and then it is too late for another.
        (vec![quick, ("proxy-next-upstream-timeout", "1")], "GET", "/hangs", 504),
        (vec![quick, ("proxy-next-upstream-timeout", "30")], "GET", "/hangs", 200),
        (default.clone(), "GET", "/503", 503),
        (next("http_502"), "GET", "/503", 503),
        (next("http_503"), "POST", "/503", 503),
        (next("http_503 non_idempotent"), "POST", "/503", 200),
        (next("http_403"), "GET", "/403", 200),
        (next("http_404"), "GET", "/404", 200),
        (next("http_429"), "GET", "/429", 200),
        (next("http_500"), "GET", "/500", 200),
        (next("http_502"), "GET", "/502", 200),
        (next("http_503"), "GET", "/503", 200),
        (next("http_504"), "GET", "/504", 200),
    ];
    let host = |n: usize| format!("case-{n}.com");
    let manifests: Vec<String> =
        cases.iter().enumerate().map(|(n, case)| ingress(&format!("case-{n}"), &host(n), &case.0, ROOT)).collect();
    let (bed, bad, _good) = bed_of_two(&manifests).await;
    assert_eq!(bed.findings(), [""; 0]);
    for (n, (annotations, method, path, expected)) in cases.iter().enumerate() {
        let before = bad.requests();
        let statuses = two(&bed, &host(n), method, path).await;
        let mut want = [200, *expected];
        want.sort_unstable();
        assert_eq!(statuses, want, "{method} {path} {annotations:?}");
        // A repetition goes elsewhere, never to the pod that failed.
        assert_eq!(bad.requests() - before, 1, "{method} {path} {annotations:?}");
    }
}

/// Nothing was sent, so nothing can be done twice: it does not matter which method it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_cannot_be_reached_is_passed_over() {
    let manifests = [
        ingress("default", "default.com", &[], ROOT),
        ingress("never", "never.com", &[("proxy-next-upstream", "off")], ROOT),
    ];
    let (bed, bad, _good) = bed_of_two(&manifests).await;
    drop(bad);
    // The pod's task has to end for its port to be closed.
    while std::net::TcpStream::connect((bed.net.ip(2), 8080)).is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(two(&bed, "default.com", "POST", "/").await, [200, 200]);
    assert_eq!(two(&bed, "never.com", "POST", "/").await, [200, 502]);
}

/// Every worker may repeat thirty requests of a rule within ten seconds, and beyond that a share of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_is_the_rules() {
    let budget = |value| [("tidegate.io/retry-budget", value)];
    let manifests =
        [ingress("none", "none.com", &budget("0%"), ROOT), ingress("all", "all.com", &budget("100%"), ROOT)];
    let (bed, _bad, _good) = bed_of_two(&manifests).await;
    let failed = async |host: &str| {
        let mut client = Client::connect(bed.app.http()).await;
        let mut failed = 0;
        for _ in 0..200 {
            failed += u32::from(client.get(host, "/closes").await.status == 502);
        }
        failed
    };
    assert_eq!(failed("all.com").await, 0);
    // About a hundred come to the bad pod first.
    let failed = failed("none.com").await;
    assert!((1..=75).contains(&failed), "{failed} of 200");
}
