//! What is said about TLS, and which request may not use a connection.

use tidegate_l4::affinity::UnixMillis;

use super::{Outcome, Question, explain};
use crate::{
    snapshot::Snapshot,
    tls::tests::support::{Ca, ingress, secret, snapshot, tls_secret},
};

fn world() -> std::sync::Arc<Snapshot> {
    let ca = Ca::new("ca");
    let guard = &[("auth-tls-secret", "clients"), ("auth-tls-match-cn", "CN=x")];
    let manifests = tls_secret("a", &ca.leaf(&["a.com", "*.foo.com"]))
        + &secret("clients", &[("ca.crt", &ca.pem)])
        + &ingress("a", &[], "[{hosts: [a.com], secretName: a}]", &["a.com", "*.foo.com"])
        + &ingress("b", guard, "[{secretName: a}]", &["b.foo.com"])
        + &ingress("c", &[("ssl-passthrough", "true")], "[]", &["c.com"])
        + &ingress("d", &[("auth-tls-secret", "gone")], "[]", &["d.com"]);
    snapshot(&manifests)
}

/// The detail of one step, or what comes of it all for a title of "".
fn ask(snapshot: &Snapshot, target: &str, host: &str, title: &str) -> String {
    let headers = if host.is_empty() { vec![] } else { vec![format!("Host: {host}")] };
    let question = Question::parse(target, &headers, None).unwrap();
    let explanation = explain(snapshot, &question, UnixMillis(0));
    if let Some(step) = explanation.steps.iter().find(|step| step.title == title) {
        return step.detail.clone();
    }
    match explanation.outcome {
        _ if !title.is_empty() => String::new(),
        Outcome::Status { code, reason } => format!("{code} {reason}"),
        Outcome::Refused { reason } => reason,
        Outcome::Endpoints { .. } | Outcome::Dns { .. } => panic!("{explanation:?}"),
    }
}

#[test]
fn which_certificate_and_why() {
    let world = world();
    let until = "until Jan  1 00:00:00 2100 +00:00.";
    let of_a = format!("ECDSA, for a.com, *.foo.com, {until}");
    for (target, title, expected) in [
        ("GET https://a.com/", "TLS", "a.com is configured by name."),
        (
            "GET https://a.com/",
            "Certificate",
            &format!("of Secret default/a, as Ingress default/a lists the host in spec.tls: {of_a}"),
        ),
        ("https://a.com/", "Client certificate", ""),
        ("https://x.foo.com/", "TLS", "there is nothing for x.foo.com by name; *.foo.com takes it."),
        (
            "https://x.foo.com/",
            "Certificate",
            &format!("of Secret default/a, as it fits, among those in spec.tls of Ingress default/a: {of_a}"),
        ),
        ("https://e.com/", "TLS", "nothing is configured for e.com; it is served like any host."),
        (
            "https://e.com/",
            "Certificate",
            "of nobody: a stand-in that no client trusts, as it has no certificate of its own: ECDSA, for \
             stand-in.tidegate.invalid, until Jan  1 00:00:00 2050 +00:00.",
        ),
        ("https://127.0.0.1/", "TLS", "the client dials an address, so it names no host in the handshake."),
        (
            "https://b.foo.com/",
            "Client certificate",
            "one must be shown, of a CA that is trusted (400 otherwise); its subject must match CN=x (403 otherwise).",
        ),
    ] {
        assert_eq!(ask(&world, target, "", title), expected, "{target}");
    }
}

#[test]
fn what_comes_of_it() {
    let world = world();
    for (target, host, expected) in [
        ("https://a.com/", "", "503 no endpoint of default/web:80 is ready"),
        (
            "https://x.foo.com/",
            "b.foo.com",
            "421 the client asked for x.foo.com, and b.foo.com asks other things of its clients",
        ),
        (
            "https://a.com/",
            "e.com",
            "421 the client asked for a.com, and the certificate it was shown is not for e.com",
        ),
        ("https://a.com/", "c.com", "421 the client asked for a.com, and TLS of c.com ends at a pod"),
        ("https://c.com/", "", "Service default/web has no usable endpoint"),
        (
            "https://d.com/",
            "",
            "403 client certificates cannot be verified: the Secret of auth-tls-secret does not exist",
        ),
        ("http://d.com/", "", "403 client certificates cannot be verified here"),
    ] {
        assert_eq!(ask(&world, target, host, "").trim_end_matches('.'), expected, "{target} {host}");
    }
}
