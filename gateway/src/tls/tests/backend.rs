//! TLS to pods: verified by CA and name, or by nothing at all.

use std::{io, path::Path, sync::Arc};

use rustls::pki_types::ServerName;
use tidegate_crd::{Object, core::Secret};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;

use super::support::{Ca, Pair, Server, ingress, secret, snapshot, tls_secret};
use crate::{
    compile::tls_for_tests::{BackendTlsFault, ProxySslOptions, backend_tls},
    tls::BackendTls,
};

fn object(entries: &[(&str, &str)]) -> Secret {
    let parsed = tidegate_crd::yaml::parse(Path::new("test.yaml"), &secret("pods", entries));
    let Some(Object::Secret(secret)) = parsed.documents.into_iter().next().map(|document| document.object) else {
        panic!()
    };
    *secret
}

fn options(verify: bool, name: Option<&str>) -> ProxySslOptions {
    ProxySslOptions { verify, name: name.map(Into::into), send_name: true, ..ProxySslOptions::default() }
}

/// A pod for `pod.internal` that wants to see certificates of `clients`.
async fn pod(shown: &Pair, clients: &Ca) -> Server {
    let manifests = tls_secret("a", shown)
        + &secret("clients", &[("ca.crt", &clients.pem)])
        + &ingress(
            "a",
            &[("auth-tls-secret", "clients"), ("auth-tls-verify-client", "optional")],
            "[{secretName: a}]",
            &["pod.internal"],
        );
    Server::start(&snapshot(&manifests)).await
}

async fn connect(server: &mut Server, tls: &BackendTls) -> io::Result<(String, Option<String>)> {
    let tcp = TcpStream::connect(server.addr).await?;
    let name = tls.name.clone().unwrap_or_else(|| ServerName::from(server.addr.ip()));
    let mut stream = TlsConnector::from(tls.config.clone()).connect(name, tcp).await;
    if let Ok(stream) = &mut stream {
        stream.read_exact(&mut [0; 2]).await?;
    }
    let outcome = server.outcome().await;
    stream?;
    let Ok(crate::tls::Accepted::Terminated(terminated)) = outcome else {
        return Err(io::Error::other("not accepted"));
    };
    let client = terminated.client.as_ref().map(|client| client.subject.clone());
    Ok((terminated.sni.as_deref().unwrap_or_default().to_owned(), client))
}

#[tokio::test]
async fn a_pod_is_verified_if_that_is_asked_for() {
    let (ca, clients) = (Ca::new("pods"), Ca::new("clients"));
    let mut good = pod(&ca.leaf(&["pod.internal"]), &clients).await;
    let mut impostor = pod(&Ca::new("others").leaf(&["pod.internal"]), &clients).await;
    let mut stranger = pod(&ca.leaf(&["other.internal"]), &clients).await;
    let trusting = object(&[("ca.crt", &ca.pem)]);
    // A new one for each: the pods of this test have one process, and with it their ticket keys, in common.
    let verified = || backend_tls(Some(&trusting), &options(true, Some("pod.internal")), false).unwrap();
    assert!(verified().is_verified);
    assert_eq!(connect(&mut good, &verified()).await.unwrap().0, "pod.internal");
    assert!(connect(&mut impostor, &verified()).await.is_err());
    assert!(connect(&mut stranger, &verified()).await.is_err());
    for unverified in [
        backend_tls(Some(&trusting), &options(false, Some("pod.internal")), false).unwrap(),
        backend_tls(None, &options(true, Some("pod.internal")), false).unwrap(),
    ] {
        assert!(!unverified.is_verified);
        for server in [&mut good, &mut impostor, &mut stranger] {
            connect(server, &unverified).await.unwrap();
        }
    }
    let nameless = backend_tls(None, &ProxySslOptions::default(), false).unwrap();
    assert_eq!(connect(&mut good, &nameless).await.unwrap().0, "", "no SNI unless asked for");
}

#[tokio::test]
async fn a_pod_is_shown_our_certificate() {
    let (ca, clients) = (Ca::new("pods"), Ca::new("clients"));
    let mut server = pod(&ca.leaf(&["pod.internal"]), &clients).await;
    let us = clients.leaf(&["tidegate"]);
    let secret = object(&[("ca.crt", &ca.pem), ("tls.crt", &us.chain), ("tls.key", &us.key)]);
    let tls = backend_tls(Some(&secret), &options(true, Some("pod.internal")), true).unwrap();
    let (_, subject) = connect(&mut server, &tls).await.unwrap();
    assert_eq!(subject.as_deref(), Some("CN=tidegate"));
    assert_eq!(tls.config.alpn_protocols, [b"h2".to_vec()]);
}

#[tokio::test]
async fn the_depth_of_a_pods_chain() {
    let root = Ca::new("root");
    let between = root.intermediate("between");
    let leaf = between.leaf(&["pod.internal"]);
    let chained = Pair { chain: leaf.chain + &between.pem, key: leaf.key };
    let mut server = pod(&chained, &root).await;
    let secret = object(&[("ca.crt", &root.pem)]);
    for (depth, good) in [(0, false), (1, true)] {
        let options = ProxySslOptions { depth, ..options(true, Some("pod.internal")) };
        let tls = backend_tls(Some(&secret), &options, false).unwrap();
        assert_eq!(connect(&mut server, &tls).await.is_ok(), good, "depth {depth}");
    }
}

#[test]
fn what_cannot_be_verified_is_refused() {
    let ca = Ca::new("pods");
    let pair = ca.leaf(&["tidegate"]);
    let fault = |entries: &[(&str, &str)], name: Option<&str>| match backend_tls(
        Some(&object(entries)),
        &options(true, name),
        false,
    )
    .unwrap_err()
    {
        BackendTlsFault::Secret(fault) => fault.reason,
        BackendTlsFault::Annotation { name, .. } => name,
    };
    let name = Some("pod.internal");
    assert_eq!(fault(&[("ca.crt", &ca.pem)], None), "proxy-ssl-verify");
    assert_eq!(fault(&[("x", "y")], name), "InvalidCa");
    assert_eq!(fault(&[("ca.crt", "y")], name), "InvalidCa");
    assert_eq!(fault(&[("ca.crt", &ca.pem), ("tls.crt", &pair.chain)], name), "InvalidPrivateKey");
    assert_eq!(fault(&[("ca.crt", &ca.pem), ("tls.key", &pair.key)], name), "InvalidCertificate");
    let other = ca.leaf(&["other"]);
    assert_eq!(
        fault(&[("ca.crt", &ca.pem), ("tls.crt", &pair.chain), ("tls.key", &other.key)], name),
        "InvalidCertificate"
    );
}

#[test]
fn the_same_again_is_the_same() {
    let ca = Ca::new("pods");
    let secret = object(&[("ca.crt", &ca.pem)]);
    let tls = |name, h2| -> Arc<BackendTls> { backend_tls(Some(&secret), &options(true, Some(name)), h2).unwrap() };
    assert_eq!(tls("a.b", false), tls("a.b", false), "in the next configuration connections go on");
    assert_ne!(tls("a.b", false), tls("a.c", false));
    assert_ne!(tls("a.b", false), tls("a.b", true));
    let others = object(&[("ca.crt", &Ca::new("others").pem)]);
    assert_ne!(tls("a.b", false), backend_tls(Some(&others), &options(true, Some("a.b")), false).unwrap());
}
