//! TLS, to clients and to pods.

use std::{net::SocketAddr, sync::Arc};

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion, crypto::aws_lc_rs::cipher_suite as suite, version::TLS12,
};
use tidegate_tests::certificates::{Ca, Pair, TlsClient, secret_manifest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::*;

const CHACHA: SupportedCipherSuite = suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
const AES: SupportedCipherSuite = suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;

const ONLY_12: &[&SupportedProtocolVersion] = &[&TLS12];

/// The same Ingress with TLS for its host, whose certificate is in Secret `site`.
fn with_tls(ingress: &str) -> String {
    ingress.replace("spec: {rules:", "spec: {tls: [{secretName: site}], rules:")
}

fn tls_secret(name: &str, pair: &Pair) -> String {
    secret_manifest(name, &[("tls.crt", &pair.chain), ("tls.key", &pair.key)])
}

/// The status of `/headers` and what the pod saw, if it was asked.
async fn headers(bed: &Bed, client: &TlsClient<'_>, host: &str) -> (Response, Value) {
    let mut client = client.connect(bed.app.https().expect("it is served"), host).await.expect("a handshake");
    let response = client.get(host, "/headers").await;
    let seen = serde_json::from_slice(&response.body).unwrap_or_default();
    (response, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_without_tls_is_sent_to_it() {
    let ca = Ca::new("ca");
    let pair = ca.leaf(&["a.com", "b.com", "c.com"]);
    let slash = [("preserve-trailing-slash", "true")];
    let (bed, _pods) = bed(&[
        tls_secret("site", &pair),
        with_tls(&ingress("a", "a.com", &[], ROOT)),
        with_tls(&ingress("b", "b.com", &[("ssl-redirect", "false")], ROOT)),
        with_tls(&ingress("c", "c.com", &slash, ROOT)),
        ingress("d", "d.com", &[("permanent-redirect", "https://x.com"), ("permanent-redirect-code", "308")], ROOT),
    ])
    .await;
    assert_eq!(bed.findings(), [""; 0]);
    for (host, target, status, location) in [
        ("a.com", "/x?y", 308, "https://a.com/x?y"),
        ("a.com", "/x/", 308, "https://a.com/x"),
        ("b.com", "/x/", 200, ""),
        ("c.com", "/x/", 308, "https://c.com/x/"),
        ("d.com", "/", 308, "https://x.com"),
    ] {
        assert_eq!(redirect(&bed, host, target).await, (status, location.to_owned()), "{host}{target}");
    }
    for host in ["a.com", "b.com", "c.com"] {
        assert_eq!(headers(&bed, &TlsClient::new(&ca), host).await.0.status, 200, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn suites_and_whose_order_counts() {
    let ca = Ca::new("ca");
    let hosts = ["any.com", "chacha.com", "ours.com"];
    let list = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384";
    let ours = [("ssl-ciphers", list), ("ssl-prefer-server-ciphers", "true")];
    let theirs = [("ssl-ciphers", list), ("ssl-prefer-server-ciphers", "false")];
    let (bed, _pods) = bed(&[
        tls_secret("site", &ca.leaf(&hosts)),
        with_tls(&ingress("any", hosts[0], &theirs, ROOT)),
        with_tls(&ingress("chacha", hosts[1], &[("ssl-ciphers", "ECDHE-ECDSA-CHACHA20-POLY1305")], ROOT)),
        with_tls(&ingress("ours", hosts[2], &ours, ROOT)),
    ])
    .await;
    assert_eq!(bed.findings(), [""; 0]);
    let chosen = async |host: &str, suites: &[SupportedCipherSuite]| {
        let client = TlsClient { versions: ONLY_12, suites: suites.to_vec(), ..TlsClient::new(&ca) };
        let client = client.connect(bed.app.https().expect("it is served"), host).await.ok()?;
        client.stream.get_ref().1.negotiated_cipher_suite()
    };
    for (host, expected) in [("any.com", AES), ("chacha.com", CHACHA), ("ours.com", CHACHA)] {
        assert_eq!(chosen(host, &[AES, CHACHA]).await, Some(expected), "{host}");
    }
    assert_eq!(chosen("chacha.com", &[AES]).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates() {
    let (ca, clients, others) = (Ca::new("ca"), Ca::new("clients"), Ca::new("others"));
    let between = clients.intermediate("between");
    let shown =
        [clients.leaf(&["alice"]), clients.leaf(&["mallory"]), others.leaf(&["alice"]), between.leaf(&["alice"])];
    let [alice, mallory, foreign, distant] = shown.each_ref().map(Some);
    let secret = ("auth-tls-secret", "default/clients");
    let cases: &[(&str, Annotations<'_>, Option<&Pair>, u16)] = &[
        ("on", vec![secret], alice, 200),
        ("on", vec![secret], None, 400),
        ("on", vec![secret], foreign, 400),
        ("on", vec![secret], distant, 200),
        ("shallow", vec![secret, ("auth-tls-verify-depth", "0")], distant, 400),
        ("shallow", vec![secret, ("auth-tls-verify-depth", "0")], alice, 200),
        ("optional", vec![secret, ("auth-tls-verify-client", "optional")], None, 200),
        ("optional", vec![secret, ("auth-tls-verify-client", "optional")], foreign, 400),
        ("no-ca", vec![secret, ("auth-tls-verify-client", "optional_no_ca")], foreign, 200),
        ("off", vec![secret, ("auth-tls-verify-client", "off")], None, 200),
        ("match", vec![secret, ("auth-tls-match-cn", "CN=alice")], alice, 200),
        ("match", vec![secret, ("auth-tls-match-cn", "CN=alice")], mallory, 403),
        ("page", vec![secret, ("auth-tls-error-page", "https://help.com/cert")], None, 302),
        ("pass", vec![secret, ("auth-tls-pass-certificate-to-upstream", "true")], alice, 200),
    ];
    let mut manifests = vec![secret_manifest("clients", &[("ca.crt", &clients.pem)])];
    let mut hosts: Vec<&str> = cases.iter().map(|case| case.0).collect();
    hosts.dedup();
    let names: Vec<String> = hosts.iter().map(|host| format!("{host}.com")).collect();
    manifests.push(tls_secret("site", &ca.leaf(&names.iter().map(String::as_str).collect::<Vec<_>>())));
    for host in hosts {
        let annotations = &cases.iter().find(|case| case.0 == host).expect("it is one of them").1;
        manifests.push(with_tls(&ingress(&format!("auth-{host}"), &format!("{host}.com"), annotations, ROOT)));
    }
    let (bed, _pods) = bed(&manifests).await;
    assert_eq!(bed.findings(), [""; 0]);
    for (n, (host, _, shows, status)) in cases.iter().enumerate() {
        let client = TlsClient { shows: *shows, ..TlsClient::new(&ca) };
        let (response, seen) = headers(&bed, &client, &format!("{host}.com")).await;
        assert_eq!(response.status, *status, "{n}: {host}");
        match *host {
            "page" => assert_eq!(response.header("location"), Some("https://help.com/cert")),
            "on" if *status == 200 => {
                assert_eq!(field(&seen, "ssl-client-verify"), ["SUCCESS"], "{n}");
                assert_eq!(field(&seen, "ssl-client-subject-dn"), ["CN=alice"], "{n}");
                assert_eq!(field(&seen, "ssl-client-cert"), [""; 0], "{n}");
            }
            "pass" => assert!(field(&seen, "ssl-client-cert")[0].starts_with("-----BEGIN%20CERTIFICATE"), "{n}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_passed_through_shows_the_pods_own_certificate() {
    let net = Net::next();
    let (ca, own) = (Ca::new("ca"), Ca::new("own"));
    let _pod = tls_pod(SocketAddr::new(net.ip(2), 8080), &own.leaf(&["through.com"]), None).await;
    let manifests = [
        pod_manifest("web", "web", net.ip(2)) + &service_manifest("web", "web", ""),
        tls_secret("site", &ca.leaf(&["through.com"])),
        with_tls(&ingress("through", "through.com", &[("ssl-passthrough", "true")], ROOT)),
    ];
    let bed = Bed::start(net, &manifests.concat()).await;
    let addr = bed.app.https().expect("it is served");
    let mut client = TlsClient::new(&own).connect(addr, "through.com").await.expect("the pod's certificate");
    assert!(client.get("through.com", "/").await.text().contains("sni=through.com"));
    assert!(TlsClient::new(&ca).connect(addr, "through.com").await.is_err(), "ours is not shown");
}

/// A pod that speaks TLS, and answers with what it was shown: the name that was asked for, version, suite, certificate.
async fn tls_pod(addr: SocketAddr, shown: &Pair, clients: Option<&Ca>) -> tokio::task::JoinSet<()> {
    let acceptor = TlsAcceptor::from(Arc::new(shown.server(clients)));
    let listener = TcpListener::bind(addr).await.expect("the pod listens");
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_tls(acceptor.clone(), stream));
        }
    });
    tasks
}

async fn answer_tls(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let session = stream.get_ref().1;
        let said = format!(
            "sni={} version={:?} suite={:?} certificate={}",
            session.server_name().unwrap_or("none"),
            session.protocol_version().expect("there is one"),
            session.negotiated_cipher_suite().expect("there is one").suite(),
            session.peer_certificates().is_some(),
        );
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        stream.write_all(answer.as_bytes()).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_speak_tls() {
    let net = Net::next();
    let (pods, others, clients) = (Ca::new("pods"), Ca::new("others"), Ca::new("clients"));
    let between = pods.intermediate("between");
    let port = |last| SocketAddr::new(net.ip(last), 8080);
    let _near = tls_pod(port(2), &pods.leaf(&["web.internal"]), Some(&clients)).await;
    let _distant = tls_pod(port(3), &between.leaf(&["web.internal"]), None).await;
    let secret = ("proxy-ssl-secret", "default/pods");
    let foreign = ("proxy-ssl-secret", "default/others");
    let (verify, name) = (("proxy-ssl-verify", "on"), ("proxy-ssl-name", "web.internal"));
    let tls12 = ("proxy-ssl-protocols", "TLSv1.2");
    let chacha = ("proxy-ssl-ciphers", "ECDHE-ECDSA-CHACHA20-POLY1305");
    let cases: &[(&str, Annotations<'_>, u16, &str)] = &[
        ("near", vec![secret], 200, "sni=none version=TLSv1_3"),
        ("near", vec![secret, verify, name], 200, "certificate=true"),
        ("near", vec![secret, verify, ("proxy-ssl-name", "other.internal")], 502, ""),
        ("near", vec![foreign, verify, name], 502, ""),
        ("near", vec![foreign, ("proxy-ssl-verify", "off"), name], 200, "certificate=false"),
        ("near", vec![secret, verify, name, ("proxy-ssl-server-name", "on")], 200, "sni=web.internal"),
        ("near", vec![secret, verify, name, ("proxy-ssl-server-name", "off")], 200, "sni=none"),
        ("near", vec![secret, tls12], 200, "version=TLSv1_2"),
        ("near", vec![secret, ("proxy-ssl-protocols", "TLSv1.3")], 200, "version=TLSv1_3"),
        ("near", vec![secret, tls12, chacha], 200, "suite=TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("distant", vec![secret, verify, name], 200, ""),
        ("distant", vec![secret, verify, name, ("proxy-ssl-verify-depth", "0")], 502, ""),
    ];
    let ours = clients.leaf(&["tidegate"]);
    let mut manifests =
        secret_manifest("pods", &[("ca.crt", &pods.pem), ("tls.crt", &ours.chain), ("tls.key", &ours.key)])
            + &secret_manifest("others", &[("ca.crt", &others.pem)]);
    for (last, service) in (2..).zip(["near", "distant"]) {
        manifests += &(pod_manifest(service, service, net.ip(last)) + &service_manifest(service, service, ""));
    }
    for (n, (service, annotations, ..)) in cases.iter().enumerate() {
        let annotations = [&[("backend-protocol", "HTTPS")], &annotations[..]].concat();
        manifests +=
            &ingress(&format!("case-{n}"), &format!("case-{n}.com"), &annotations, &[("/", "Prefix", service)]);
    }
    let bed = Bed::start(net, &manifests).await;
    for (n, (service, annotations, status, words)) in cases.iter().enumerate() {
        let response = bed.get(&format!("case-{n}.com"), "/").await;
        assert_eq!(response.status, *status, "{service} {annotations:?}");
        assert!(response.text().contains(words), "{service} {annotations:?}: {}", response.text());
    }
}

/// `AUTO_HTTP`: TLS to pods for clients that use TLS. The pod knows none.
#[tokio::test(flavor = "multi_thread")]
async fn as_the_client_does() {
    let ca = Ca::new("ca");
    let automatic = [("backend-protocol", "AUTO_HTTP"), ("ssl-redirect", "false")];
    let (bed, _pods) =
        bed(&[tls_secret("site", &ca.leaf(&["auto.com"])), with_tls(&ingress("auto", "auto.com", &automatic, ROOT))])
            .await;
    assert_eq!(bed.get("auto.com", "/").await.status, 200);
    assert_eq!(headers(&bed, &TlsClient::new(&ca), "auto.com").await.0.status, 502);
}
