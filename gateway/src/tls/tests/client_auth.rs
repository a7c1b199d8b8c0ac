//! Client certificates: who gets in, who does not, and what pods hear of it.

use http::{HeaderMap, HeaderValue, StatusCode};
use rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use tokio::io::AsyncReadExt;

use super::support::{Ca, Client, Pair, Server, ingress, secret, snapshot, tls_secret};
use crate::tls::{Terminated, check_client, write_headers};

/// One host with client authentication, and the CA of its clients.
struct Guarded {
    server: Server,
}

impl Guarded {
    async fn start(ca: &[(&str, &str)], annotations: &[(&str, &str)]) -> Self {
        let manifests = tls_secret("a", &Ca::new("ca").leaf(&["a.com"]))
            + &secret("clients", ca)
            + &ingress(
                "a",
                &[&[("auth-tls-secret", "default/clients")], annotations].concat(),
                "[{secretName: a}]",
                &["a.com"],
            );
        Self { server: Server::start(&snapshot(&manifests)).await }
    }

    async fn meet(&mut self, client: &Client) -> Box<Terminated> {
        self.server.meet(client, "a.com").await.1
    }

    /// The status for a client that shows this, or 200, and what pods hear.
    async fn ask(&mut self, shown: Option<&Pair>, version: &'static SupportedProtocolVersion) -> (u16, HeaderMap) {
        let client = shown.map_or_else(|| Client::of_version(version), |pair| Client::showing(pair, version));
        let terminated = self.meet(&client).await;
        let table = self.server.table();
        let auth = table.client_auth("a.com").unwrap();
        let status = match check_client(auth, terminated.client.as_deref()) {
            Ok(()) => 200,
            Err(refusal) => {
                assert_eq!(refusal.location.is_some(), refusal.status == StatusCode::FOUND);
                refusal.status.as_u16()
            }
        };
        let mut headers = HeaderMap::new();
        for name in ["ssl-client-verify", "ssl-client-cert", "ssl-client-subject-dn", "ssl-client-issuer-dn"] {
            headers.append(name, HeaderValue::from_static("forged"));
        }
        write_headers(&mut headers, auth, terminated.client.as_deref());
        assert!(headers.values().all(|value| value != "forged"));
        (status, headers)
    }
}

fn verify(headers: &HeaderMap) -> &str {
    headers["ssl-client-verify"].to_str().unwrap()
}

#[tokio::test]
async fn who_gets_in() {
    let (clients, others) = (Ca::new("clients"), Ca::new("others"));
    let shown = [
        ("nothing", None),
        ("good", Some(clients.leaf(&["alice"]))),
        ("of another CA", Some(others.leaf(&["alice"]))),
        ("expired", Some(clients.leaf_with(&["alice"], |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)))),
        (
            "for servers",
            Some(clients.leaf_with(&["alice"], |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
            })),
        ),
    ];
    let [none, success] = ["NONE", "SUCCESS"];
    let [unknown, expired, purpose] = [
        "FAILED:unable to verify the first certificate",
        "FAILED:certificate has expired",
        "FAILED:unsupported certificate purpose",
    ];
    let words = [none, success, unknown, expired, purpose];
    for (mode, statuses) in [
        ("on", [400, 200, 400, 400, 400]),
        ("optional", [200, 200, 400, 400, 400]),
        ("optional_no_ca", [200, 200, 200, 400, 400]),
    ] {
        let mut guarded = Guarded::start(&[("ca.crt", &clients.pem)], &[("auth-tls-verify-client", mode)]).await;
        for ((what, pair), (status, word)) in shown.iter().zip(statuses.into_iter().zip(words)) {
            for version in [&TLS12, &TLS13] {
                let (found, headers) = guarded.ask(pair.as_ref(), version).await;
                assert_eq!((found, verify(&headers)), (status, word), "{mode}: {what}");
            }
        }
    }
}

#[tokio::test]
async fn off_asks_nobody() {
    let clients = Ca::new("clients");
    let mut guarded = Guarded::start(&[("ca.crt", &clients.pem)], &[("auth-tls-verify-client", "off")]).await;
    assert!(guarded.meet(&Client::showing(&clients.leaf(&["alice"]), &TLS13)).await.client.is_none());
    assert!(guarded.server.table().client_auth("a.com").is_none());
}

#[tokio::test]
async fn pods_hear_who_it_is() {
    let clients = Ca::new("clients");
    let alice = clients.leaf_with(&["alice"], |params| {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Wonder, Land");
    });
    let mut quiet = Guarded::start(&[("ca.crt", &clients.pem)], &[]).await;
    let (_, headers) = quiet.ask(Some(&alice), &TLS13).await;
    assert_eq!(headers["ssl-client-subject-dn"], "O=Wonder\\, Land,CN=alice");
    assert_eq!(headers["ssl-client-issuer-dn"], "CN=clients");
    assert!(!headers.contains_key("ssl-client-cert"));
    let pass = [("auth-tls-pass-certificate-to-upstream", "true")];
    let mut telling = Guarded::start(&[("ca.crt", &clients.pem)], &pass).await;
    let (_, headers) = telling.ask(Some(&alice), &TLS13).await;
    let certificate = headers["ssl-client-cert"].to_str().unwrap();
    assert!(certificate.starts_with("-----BEGIN%20CERTIFICATE-----%0A"), "{certificate}");
    let decoded = percent_encoding::percent_decode_str(certificate).decode_utf8().unwrap();
    assert_eq!(decoded.replace('\r', ""), alice.chain.replace('\r', ""));
    let mut optional = Guarded::start(&[("ca.crt", &clients.pem)], &[("auth-tls-verify-client", "optional")]).await;
    let (_, headers) = optional.ask(None, &TLS13).await;
    assert_eq!(headers.len(), 1, "{headers:?}");
}

#[tokio::test]
async fn the_subject_must_match() {
    let clients = Ca::new("clients");
    let mut guarded = Guarded::start(&[("ca.crt", &clients.pem)], &[("auth-tls-match-cn", "CN=(alice|bob)$")]).await;
    let disguised = clients.leaf_with(&["mallory"], |params| {
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "x, CN=alice");
        params.distinguished_name.push(rcgen::DnType::LocalityName, "CN=alice");
    });
    for (pair, status) in [
        (clients.leaf(&["alice"]), 200),
        (clients.leaf(&["alice2"]), 403),
        (clients.leaf(&["malice"]), 403),
        (disguised, 403),
        (Ca::new("others").leaf(&["alice"]), 400),
    ] {
        assert_eq!(guarded.ask(Some(&pair), &TLS13).await.0, status);
    }
    let optional = [("auth-tls-match-cn", "CN=alice"), ("auth-tls-verify-client", "optional")];
    let mut optional = Guarded::start(&[("ca.crt", &clients.pem)], &optional).await;
    assert_eq!(optional.ask(None, &TLS13).await.0, 403, "who shows nothing is not alice");
}

#[tokio::test]
async fn an_error_page_instead_of_a_400() {
    let clients = Ca::new("clients");
    let page = [("auth-tls-error-page", "https://a.com/help"), ("auth-tls-match-cn", "CN=alice")];
    let mut guarded = Guarded::start(&[("ca.crt", &clients.pem)], &page).await;
    assert_eq!(guarded.ask(None, &TLS13).await.0, 302);
    assert_eq!(guarded.ask(Some(&clients.leaf(&["bob"])), &TLS13).await.0, 403, "that is no fault of the certificate");
}

#[tokio::test]
async fn revoked_certificates_are_refused() {
    let clients = Ca::new("clients");
    let numbered = |serial: u64| {
        clients.leaf_with(&["alice"], |params| params.serial_number = Some(rcgen::SerialNumber::from(serial)))
    };
    let (good, revoked) = (numbered(7), numbered(8));
    let lists = [("ca.crt", &*clients.pem), ("ca.crl", &*clients.crl(&[8, 9], 2100))];
    let mut guarded = Guarded::start(&lists, &[]).await;
    assert_eq!(guarded.ask(Some(&good), &TLS13).await.0, 200);
    let (status, headers) = guarded.ask(Some(&revoked), &TLS13).await;
    assert_eq!((status, verify(&headers)), (400, "FAILED:certificate revoked"));
    let old = [("ca.crt", &*clients.pem), ("ca.crl", &*clients.crl(&[], 2021))];
    let mut guarded = Guarded::start(&old, &[("auth-tls-verify-client", "optional_no_ca")]).await;
    let (status, headers) = guarded.ask(Some(&good), &TLS13).await;
    assert_eq!((status, verify(&headers)), (400, "FAILED:CRL has expired"));
    let others = [("ca.crt", &*clients.pem), ("ca.crl", &*Ca::new("others").crl(&[], 2100))];
    let mut guarded = Guarded::start(&others, &[]).await;
    let (status, headers) = guarded.ask(Some(&good), &TLS13).await;
    assert_eq!((status, verify(&headers)), (400, "FAILED:unable to get certificate CRL"));
}

/// A session that began before the certificate was revoked does not get round the list.
#[tokio::test]
async fn a_resumed_session_is_judged_anew() {
    let clients = Ca::new("clients");
    let alice = clients.leaf_with(&["alice"], |params| params.serial_number = Some(rcgen::SerialNumber::from(8)));
    let mut guarded = Guarded::start(&[("ca.crt", &clients.pem)], &[]).await;
    let client = Client::showing(&alice, &TLS13);
    guarded.meet(&client).await;
    let (met, mut terminated) = guarded.server.meet(&client, "a.com").await;
    assert!(met.resumed);
    let now = rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(8_000_000_000));
    let auth = guarded.server.table().client_auth("a.com").cloned().unwrap();
    let chain = terminated.stream.get_ref().1.peer_certificates().unwrap();
    let later = auth.judge(Some(chain), now);
    assert_eq!(check_client(&auth, Some(&later)).unwrap_err().status, 400, "by then it has expired");
    drop(met);
    drop(terminated.stream.read(&mut [0; 1]).await);
}

#[tokio::test]
async fn the_depth_of_a_chain() {
    let root = Ca::new("root");
    let (one, other) = (root.intermediate("one"), Ca::new("other"));
    let two = one.intermediate("two");
    let chain =
        |leaf: Pair, cas: &[&Ca]| Pair { chain: cas.iter().fold(leaf.chain, |all, ca| all + &ca.pem), key: leaf.key };
    let direct = root.leaf(&["a"]);
    let through_one = chain(one.leaf(&["a"]), &[&one]);
    let with_root = chain(one.leaf(&["a"]), &[&one, &root]);
    let through_two = chain(two.leaf(&["a"]), &[&two, &one]);
    let unrelated = chain(one.leaf(&["a"]), &[&other]);
    for (depth, statuses) in
        [("0", [200, 400, 400, 400, 400]), ("1", [200, 200, 200, 400, 400]), ("2", [200, 200, 200, 200, 400])]
    {
        let mut guarded = Guarded::start(&[("ca.crt", &root.pem)], &[("auth-tls-verify-depth", depth)]).await;
        for (pair, status) in [&direct, &through_one, &with_root, &through_two, &unrelated].into_iter().zip(statuses) {
            assert_eq!(guarded.ask(Some(pair), &TLS13).await.0, status, "depth {depth}");
        }
    }
}

/// The guard cannot be passed by coming for another host and then asking for this one.
#[tokio::test]
async fn another_hosts_connection_is_misdirected() {
    let clients = Ca::new("clients");
    let manifests = tls_secret("wild", &Ca::new("ca").leaf(&["*.foo.com", "foo.com"]))
        + &secret("clients", &[("ca.crt", &clients.pem)])
        + &ingress("open", &[], "[{secretName: wild}]", &["open.foo.com", "also.foo.com", "plain.com"])
        + &ingress("guarded", &[("auth-tls-secret", "clients")], "[{secretName: wild}]", &["guarded.foo.com"])
        + &ingress("guarded2", &[("auth-tls-secret", "clients")], "[{secretName: wild}]", &["guarded2.foo.com"])
        + &ingress("through", &[("ssl-passthrough", "true")], "[{secretName: wild}]", &["through.foo.com"]);
    let mut server = Server::start(&snapshot(&manifests)).await;
    let table = server.table();
    let [open, guarded, none, unknown] = [
        server.meet(&Client::new(), "open.foo.com").await.1,
        server.meet(&Client::new(), "guarded.foo.com").await.1,
        server.meet(&Client::new(), "").await.1,
        server.meet(&Client::new(), "unknown.com").await.1,
    ];
    for (connection, host, served) in [
        (&open, "open.foo.com", true),
        (&open, "OPEN.foo.com.:8443", true),
        (&open, "also.foo.com", true),
        (&open, "guarded.foo.com", false),
        (&open, "guarded.foo.com.", false),
        (&open, "through.foo.com", false),
        (&open, "plain.com", false),
        (&open, "unknown.com", false),
        (&guarded, "guarded.foo.com:443", true),
        (&guarded, "guarded2.foo.com", true),
        (&guarded, "open.foo.com", false),
        (&none, "open.foo.com", true),
        (&none, "127.0.0.1", true),
        (&none, "guarded.foo.com", false),
        (&unknown, "unknown.com", true),
        (&unknown, "other.com", true),
        (&unknown, "open.foo.com", false),
    ] {
        let sni = connection.sni.as_deref();
        assert_eq!(table.serves(&connection.config, sni, host), served, "{sni:?} {host}");
    }
}
