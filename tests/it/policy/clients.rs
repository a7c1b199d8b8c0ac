//! Who asked: behind trusted proxies, and by a PROXY protocol header.

use tidegate::http::HttpOptions;
use tokio::io::AsyncWriteExt;

use super::*;

/// A bed with these options, and what its pod sees of one request that begins with this.
async fn seen_after(options: HttpOptions, beginning: &[u8], fields: &str) -> Option<Value> {
    let net = Net::next();
    let _pod = http_pod("web", net.ip(2)).await;
    let manifests =
        [pod_manifest("web", "web", net.ip(2)) + &service_manifest("web", "web", ""), ingress("a", "a.com", &[], ROOT)];
    let bed = Bed::start_with(net, &manifests.concat(), |all| all.clients = options).await;
    let mut client = Client::connect(bed.app.http()).await;
    client.stream.write_all(beginning).await.expect("it is read");
    let response = client.ask(&format!("GET /headers HTTP/1.1\r\nHost: a.com\r\n{fields}\r\n")).await.ok()?;
    assert_eq!(response.status, 200, "{}", response.text());
    Some(serde_json::from_slice(&response.body).expect("the pod says what it saw"))
}

fn trusting(proxies: &[&str]) -> HttpOptions {
    let trusted_proxies = proxies.iter().map(|cidr| cidr.parse().expect("a range")).collect();
    HttpOptions { trusted_proxies, ..HttpOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_proxies_are_believed() {
    const SAID: &str = "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.0.0.9\r\nX-Forwarded-Proto: https\r\n\
                        X-Forwarded-Port: 443\r\nX-Forwarded-Host: shop.com\r\n";
    let [nobody, wrong] = [trusting(&[]), trusting(&["10.0.0.0/8"])];
    for options in [nobody, wrong] {
        let what = format!("{options:?}");
        let seen = seen_after(options, b"", SAID).await.expect("an answer");
        assert_eq!(field(&seen, "x-forwarded-for"), ["127.0.0.1"], "{what}");
        assert_eq!(field(&seen, "x-real-ip"), ["127.0.0.1"], "{what}");
        assert_eq!(field(&seen, "x-forwarded-proto"), ["http"], "{what}");
        assert_eq!(field(&seen, "x-forwarded-host"), ["a.com"], "{what}");
        assert_eq!(field(&seen, "x-original-forwarded-for"), ["6.6.6.6, 203.0.113.7, 10.0.0.9"], "{what}");
    }
    for (proxies, client) in [
        // What the proxy before the last one says is its own word.
        (&["127.0.0.0/8"][..], "10.0.0.9"),
        (&["127.0.0.0/8", "10.0.0.0/8"], "203.0.113.7"),
        (&["0.0.0.0/0"], "6.6.6.6"),
    ] {
        let seen = seen_after(trusting(proxies), b"", SAID).await.expect("an answer");
        assert_eq!(field(&seen, "x-forwarded-for"), [client], "{proxies:?}");
        assert_eq!(field(&seen, "x-real-ip"), [client], "{proxies:?}");
        assert_eq!(field(&seen, "x-forwarded-proto"), ["https"], "{proxies:?}");
        assert_eq!(field(&seen, "x-forwarded-port"), ["443"], "{proxies:?}");
    }
    // What is no address, and all before it, is nobody's word.
    let seen = seen_after(trusting(&["0.0.0.0/0"]), b"", "X-Forwarded-For: 6.6.6.6, x, 203.0.113.7\r\n").await;
    assert_eq!(field(&seen.expect("an answer"), "x-real-ip"), ["203.0.113.7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_protocol_header_says_who_it_is() {
    let expecting = || HttpOptions { proxy_protocol: true, ..HttpOptions::default() };
    let v1 = b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 80\r\n";
    let v2 = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..],
        &[203, 0, 113, 7, 198, 51, 100, 1],
        &40_000_u16.to_be_bytes(),
        &80_u16.to_be_bytes(),
    ]
    .concat();
    for header in [&v1[..], &v2] {
        let seen = seen_after(expecting(), header, "X-Forwarded-For: 6.6.6.6\r\n").await.expect("an answer");
        assert_eq!(field(&seen, "x-real-ip"), ["203.0.113.7"], "{}", header.escape_ascii());
        assert_eq!(field(&seen, "x-forwarded-for"), ["203.0.113.7"], "{}", header.escape_ascii());
    }
    let local = b"PROXY UNKNOWN\r\n";
    let seen = seen_after(expecting(), local, "").await.expect("an answer");
    assert_eq!(field(&seen, "x-real-ip"), ["127.0.0.1"], "the proxy speaks for itself");
    assert_eq!(seen_after(expecting(), b"", "").await, None, "whoever says nothing of it is nobody");
    assert_eq!(seen_after(expecting(), b"PROXY TCP4 x\r\n", "").await, None);
    // Where none is expected, it is no request.
    let net = Net::next();
    let bed = Bed::start(net, "").await;
    let mut client = Client::connect(bed.app.http()).await;
    client.stream.write_all(v1).await.expect("it is read");
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 400), "{answer:?}");
}

/// Header, then `X-Forwarded-For`: the one who speaks is the one in the header, and it is he who must be trusted.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_trusted_goes_by_the_proxy_protocol_header() {
    let header = b"PROXY TCP4 10.0.0.9 198.51.100.1 40000 80\r\n";
    for (proxies, client) in [(&["10.0.0.0/8"][..], "203.0.113.7"), (&["127.0.0.0/8"], "10.0.0.9")] {
        let options = HttpOptions { proxy_protocol: true, ..trusting(proxies) };
        let seen = seen_after(options, header, "X-Forwarded-For: 203.0.113.7\r\n").await.expect("an answer");
        assert_eq!(field(&seen, "x-real-ip"), [client], "{proxies:?}");
    }
}
