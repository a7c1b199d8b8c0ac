//! Whose certificate a host is shown, and what is said about the others.

use std::collections::BTreeMap;

use super::*;
use crate::{
    compile::settings::TlsSettings,
    tls::{
        Source,
        tests::support::{Ca, World, ingress, secret, snapshot, tls_secret},
    },
};

/// Where the certificate of a host comes from, in short.
fn source(snapshot: &crate::snapshot::Snapshot, host: &str) -> String {
    match &snapshot.tls.find(host).source {
        Source::Ingress { ingress, secrets, listed } => {
            let secrets: Vec<&str> = secrets.iter().map(|secret| &*secret.name).collect();
            format!("{}: {}{}", ingress.name, secrets.join("+"), if *listed { "" } else { " (fits)" })
        }
        Source::Default { secret, .. } => format!("default {}", secret.name),
        Source::StandIn { .. } => "stand-in".to_owned(),
    }
}

fn reasons(snapshot: &crate::snapshot::Snapshot) -> Vec<String> {
    let serious = snapshot.findings.iter().filter(|finding| finding.severity > Severity::Info);
    serious.map(|f| format!("{} {}", f.reason, f.field.as_deref().unwrap_or_default())).collect()
}

#[test]
fn the_section_that_lists_the_host_else_one_that_fits() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("ab", &ca.leaf(&["a.com", "b.com"]))
        + &tls_secret("b", &ca.leaf(&["b.com"]))
        + &tls_secret("wild", &ca.leaf(&["*.w.com"]))
        + &tls_secret("b-rsa", &ca.rsa_leaf(&["b.com"]))
        + &ingress(
            "i",
            &[],
            "[{hosts: [x.com], secretName: ab}, {hosts: [B.com], secretName: b}, {hosts: [b.com], secretName: b-rsa}, {secretName: wild}]",
            &["a.com", "b.com", "c.w.com", "x.com", "y.com"],
        );
    let snapshot = snapshot(&manifests);
    for (host, expected) in [
        ("a.com", "i: ab (fits)"),
        ("b.com", "i: b+b-rsa"),
        ("c.w.com", "i: wild (fits)"),
        ("x.com", "stand-in"),
        ("y.com", "stand-in"),
        ("z.com", "stand-in"),
    ] {
        assert_eq!(source(&snapshot, host), expected, "{host}");
        assert_eq!(
            snapshot.tls.has_section(host),
            host != "z.com",
            "{host}: an Ingress with TLS has TLS for all its hosts"
        );
        assert_eq!(snapshot.routes.find(host, "/").host.is_some_and(|found| found.tls), host != "z.com", "{host}");
    }
    assert_eq!(reasons(&snapshot), ["CertificateMismatch spec.tls[0].secretName", "NoCertificate spec.rules[4].host"]);
}

#[test]
fn the_oldest_ingress_with_a_section_decides() {
    let ca = Ca::new("ca");
    let at = |year: u32, text: String| {
        text.replace("  annotations:\n", &format!("  creationTimestamp: \"{year}-01-01T00:00:00Z\"\n  annotations:\n"))
    };
    let manifests = tls_secret("a", &ca.leaf(&["a.com"]))
        + &tls_secret("b", &ca.leaf(&["a.com"]))
        + &at(2020, ingress("none", &[], "[]", &["a.com"]))
        + &at(2022, ingress("young", &[], "[{hosts: [a.com], secretName: b}]", &["a.com"]))
        + &at(2021, ingress("old", &[], "[{hosts: [a.com], secretName: a}]", &["a.com"]));
    assert_eq!(source(&snapshot(&manifests), "a.com"), "old: a");
}

#[test]
fn without_a_section_a_host_is_shown_what_its_wildcard_is() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("wild", &ca.leaf(&["*.foo.com"]))
        + &secret("clients", &[("ca.crt", &ca.pem)])
        + &ingress("wild", &[("auth-tls-secret", "clients")], "[{secretName: wild}]", &["*.foo.com"])
        + &ingress("a", &[], "[]", &["a.foo.com"]);
    let snapshot = snapshot(&manifests);
    assert_eq!(source(&snapshot, "a.foo.com"), "wild: wild (fits)");
    assert!(snapshot.tls.has_section("a.foo.com"));
    assert!(snapshot.tls.client_auth("b.foo.com").is_some());
    assert!(snapshot.tls.client_auth("a.foo.com").is_none(), "its rules are its own, and so is who may use them");
}

#[test]
fn what_is_the_same_without_an_entry_has_none() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("wild", &ca.leaf(&["*.foo.com"]))
        + &ingress("wild", &[], "[{secretName: wild}]", &["*.foo.com"])
        + &ingress("a", &[], "[]", &["a.foo.com", "b.com", "c.com"]);
    let snapshot = snapshot(&manifests);
    assert_eq!(snapshot.tls.hosts().count(), 2, "the wildcard and the default");
}

#[test]
fn a_section_may_name_hosts_for_a_rule_of_any_host() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("a", &ca.leaf(&["a.com"]))
        + &secret("clients", &[("ca.crt", &ca.pem)])
        + &ingress("any", &[("auth-tls-secret", "clients")], "[{hosts: [a.com], secretName: a}]", &[""]);
    let snapshot = snapshot(&manifests);
    assert_eq!(source(&snapshot, "a.com"), "any: a");
    assert_eq!(source(&snapshot, "b.com"), "stand-in");
    for host in ["a.com", "b.com"] {
        assert!(snapshot.tls.client_auth(host).is_some(), "{host} comes to the same rule");
        assert!(!snapshot.tls.has_section(host), "{host}");
    }
    assert_eq!(reasons(&snapshot), [""; 0]);
}

#[test]
fn the_default_certificate() {
    let ca = Ca::new("ca");
    let settings = |name: &str| Settings {
        tls: TlsSettings { default_certificate: Some(("default".into(), name.into())), ..TlsSettings::default() },
        ..Settings::default()
    };
    let manifests = tls_secret("all", &ca.leaf(&["*.com"])) + &ingress("a", &[], "[{hosts: [a.com]}]", &["a.com"]);
    let with = World::new(settings("all")).apply(&manifests);
    assert_eq!((source(&with, "a.com"), source(&with, "b.com")), ("default all".to_owned(), "default all".to_owned()));
    assert_eq!(reasons(&with), [""; 0]);
    assert_eq!(with.tls.certificates()[0].hosts, ["*".into()]);
    let without = World::new(settings("gone")).apply(&manifests);
    assert_eq!(source(&without, "a.com"), "stand-in");
    assert_eq!(reasons(&without), ["MissingSecret "]);
}

/// A broken Secret takes down no host but its own, and those go on with the stand-in.
#[test]
fn what_can_be_wrong_with_a_secret() {
    let ca = Ca::new("ca");
    let (good, other) = (ca.leaf(&["a.com"]), ca.leaf(&["a.com"]));
    let expired = ca.leaf_with(&["a.com"], |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let ends = ca.leaf_with(&["a.com"], |params| params.not_after = rcgen::date_time_ymd(2027, 1, 20));
    let early = ca.leaf_with(&["a.com"], |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let between = ca.intermediate("between");
    let chained = between.leaf(&["a.com"]);
    let [crt, key] = ["tls.crt", "tls.key"];
    let reversed = format!("{}{}", chained.chain, ca.pem);
    for (entries, expected, shown) in [
        (&[(crt, &*good.chain), (key, &*good.key)][..], "", true),
        (&[(key, &good.key)], "InvalidCertificate stringData[\"tls.crt\"]", false),
        (&[(crt, &good.chain)], "InvalidCertificate stringData[\"tls.key\"]", false),
        (&[(crt, "x"), (key, &good.key)], "InvalidCertificate stringData[\"tls.crt\"]", false),
        (&[(crt, &good.key), (key, &good.key)], "InvalidCertificate stringData[\"tls.crt\"]", false),
        (&[(crt, &good.chain), (key, "x")], "InvalidPrivateKey stringData[\"tls.key\"]", false),
        (&[(crt, &good.chain), (key, &good.chain)], "InvalidPrivateKey stringData[\"tls.key\"]", false),
        (&[(crt, &good.chain), (key, &other.key)], "KeyMismatch stringData[\"tls.key\"]", false),
        (&[(crt, &expired.chain), (key, &expired.key)], "CertificateExpired stringData[\"tls.crt\"]", true),
        (&[(crt, &ends.chain), (key, &ends.key)], "CertificateExpires stringData[\"tls.crt\"]", true),
        (&[(crt, &early.chain), (key, &early.key)], "CertificateNotYetValid stringData[\"tls.crt\"]", true),
        (&[(crt, &reversed), (key, &chained.key)], "ChainOrder stringData[\"tls.crt\"]", true),
        (
            &[(crt, &good.chain), (key, &good.key), ("tls.ocsp", "x")],
            "InvalidOcspResponse stringData[\"tls.ocsp\"]",
            true,
        ),
    ] {
        let manifests = secret("a", entries)
            + &tls_secret("b", &ca.leaf(&["b.com"]))
            + &ingress("a", &[], "[{hosts: [a.com], secretName: a}]", &["a.com"])
            + &ingress("b", &[], "[{hosts: [b.com], secretName: b}]", &["b.com"]);
        let snapshot = snapshot(&manifests);
        let expected: Vec<&str> = Some(expected).into_iter().filter(|text| !text.is_empty()).collect();
        assert_eq!(reasons(&snapshot), expected);
        assert_eq!(source(&snapshot, "a.com"), if shown { "a: a" } else { "stand-in" }, "{expected:?}");
        assert_eq!(source(&snapshot, "b.com"), "b: b");
        assert!(snapshot.tls.has_section("a.com"));
        assert!(!format!("{:?}", snapshot.findings).contains("PRIVATE"), "a key must not end in a log");
    }
}

#[test]
fn client_authentication_that_cannot_be_done_lets_nobody_in() {
    let ca = Ca::new("ca");
    let good = secret("clients", &[("ca.crt", &ca.pem)]);
    let field = |name: &str| format!("metadata.annotations[\"nginx.ingress.kubernetes.io/{name}\"]");
    for (secrets, annotations, expected) in [
        ("", &[("auth-tls-secret", "default/gone")][..], format!("MissingSecret {}", field("auth-tls-secret"))),
        (&*good, &[("auth-tls-secret", "other/clients")], format!("InvalidSecretName {}", field("auth-tls-secret"))),
        (&good, &[("auth-tls-secret", "a/b/c")], format!("InvalidSecretName {}", field("auth-tls-secret"))),
        (
            &good,
            &[("auth-tls-secret", "clients"), ("auth-tls-match-cn", "CN=(")],
            format!("InvalidAnnotation {}", field("auth-tls-match-cn")),
        ),
        (
            &good,
            &[("auth-tls-secret", "clients"), ("auth-tls-match-cn", "alice")],
            format!("InvalidAnnotation {}", field("auth-tls-match-cn")),
        ),
        (
            &*secret("clients", &[("x", "y")]),
            &[("auth-tls-secret", "clients")],
            "InvalidCa stringData[\"ca.crt\"]".to_owned(),
        ),
        (
            &*secret("clients", &[("ca.crt", "y")]),
            &[("auth-tls-secret", "clients")],
            "InvalidCa stringData[\"ca.crt\"]".to_owned(),
        ),
        (
            &*secret("clients", &[("ca.crt", &ca.pem), ("ca.crl", "y")]),
            &[("auth-tls-secret", "clients")],
            "InvalidCrl stringData[\"ca.crl\"]".to_owned(),
        ),
        (
            &*secret(
                "clients",
                &[("ca.crt", &ca.pem), ("ca.crl", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----")],
            ),
            &[("auth-tls-secret", "clients")],
            "InvalidCrl stringData[\"ca.crl\"]".to_owned(),
        ),
    ] {
        let snapshot = snapshot(&(secrets.to_owned() + &ingress("a", annotations, "[]", &["a.com"])));
        assert_eq!(reasons(&snapshot), [expected]);
        let auth = snapshot.tls.client_auth("a.com").expect("the guard stays");
        assert_eq!(crate::tls::check_client(auth, None).unwrap_err().status, 403);
    }
}

#[test]
fn annotations_without_their_secret_are_said_to_be_useless() {
    let manifests = ingress("a", &[("auth-tls-match-cn", "CN=x"), ("proxy-ssl-verify", "on")], "[]", &["a.com"]);
    assert_eq!(reasons(&snapshot(&manifests)), ["UnusedAnnotation metadata.annotations"; 2]);
}

#[test]
fn passthrough_needs_a_host_and_a_service() {
    let on = &[("ssl-passthrough", "true")];
    let field = "metadata.annotations[\"nginx.ingress.kubernetes.io/ssl-passthrough\"]";
    let text = ingress("a", on, "[]", &["a.com"]).replace("path: /,", "path: /deep,");
    let deep = snapshot(&text);
    assert_eq!(reasons(&deep), [format!("NoPassthroughBackend {field}")]);
    assert!(matches!(deep.tls.find("a.com").serve, crate::tls::Serve::Terminate(_)));
    assert_eq!(reasons(&snapshot(&ingress("a", on, "[]", &[""]))), [format!("UnusedAnnotation {field}")]);
    assert_eq!(reasons(&snapshot(&ingress("a", on, "[]", &["a.com"]))), [""; 0]);
    // Any Ingress of a host may ask for it, and any may have its path /.
    let two = text + &ingress("b", &[], "[]", &["a.com"]);
    assert!(matches!(snapshot(&two).tls.find("a.com").serve, crate::tls::Serve::Passthrough(_)));
}

#[test]
fn what_did_not_change_is_taken_over() {
    let ca = Ca::new("ca");
    let (a, b) = (ca.leaf(&["a.com"]), ca.leaf(&["b.com"]));
    let manifests = tls_secret("a", &a)
        + &tls_secret("b", &b)
        + &secret("clients", &[("ca.crt", &ca.pem)])
        + &ingress("a", &[("auth-tls-secret", "clients")], "[{secretName: a}]", &["a.com", "aa.a.com"])
        + &ingress("b", &[], "[{secretName: b}]", &["b.com"]);
    let configs = |snapshot: &crate::snapshot::Snapshot| -> BTreeMap<String, usize> {
        let hosts = snapshot.tls.hosts().map(|host| {
            let crate::tls::Serve::Terminate(config) = &host.serve else { panic!() };
            (host.name.to_string(), Arc::as_ptr(config) as usize)
        });
        hosts.collect()
    };
    let mut world = World::new(Settings::default());
    let first = world.apply(&manifests);
    let pods = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\nstatus: {podIP: 10.0.0.1}\n";
    assert!(Arc::ptr_eq(&first.tls, &world.apply(pods).tls), "Pods are no part of it");
    let other = world.apply(&ingress("c", &[], "[]", &["c.com"]));
    assert!(!Arc::ptr_eq(&first.tls, &other.tls));
    assert_eq!(configs(&first), configs(&other), "another Ingress changes no configuration");
    let renewed = configs(&world.apply(&tls_secret("b", &ca.leaf(&["b.com"]))));
    let mut same: Vec<&str> = Vec::new();
    for (host, config) in &renewed {
        same.extend((configs(&first)[host] == *config).then_some(host.as_str()));
    }
    assert_eq!(same, ["*", "a.com", "aa.a.com"]);
}

/// An alias must be no side door.
#[test]
fn an_alias_asks_what_its_host_asks() {
    let ca = Ca::new("ca");
    let manifests = tls_secret("a", &ca.leaf(&["a.com", "b.com"]))
        + &secret("clients", &[("ca.crt", &ca.pem)])
        + &ingress("a", &[("auth-tls-secret", "clients")], "[{secretName: a}]", &["a.com"])
        + &ingress("d", &[], "[]", &["d.com"]);
    let mut objects = Objects::default();
    for document in tidegate_crd::yaml::parse(Path::new("test.yaml"), &manifests).documents {
        objects.apply(document);
    }
    let settings = Settings::default();
    let mut compiler = TlsCompiler::new(&objects, &settings, TlsDefaults::default(), None);
    for (name, stored) in objects.ingresses.iter() {
        let mut report = Report::on(Kind::Ingress, "default", "a", &stored.origin);
        let options =
            crate::compile::annotations::IngressOptions::read(&stored.object, std::iter::empty(), &mut report);
        compiler.add(name, &stored.object, &options.tls, None, &mut report);
    }
    let exact = |name: &str| HostName::Exact(name.into());
    for alias in ["b.com", "c.com", "d.com"] {
        compiler.add_alias(exact(alias), exact("a.com"));
    }
    let table = compiler.finish().table;
    let identity = |host: &str| table.client_auth(host).map(|auth| auth.identity());
    assert_eq!(identity("b.com"), identity("a.com"));
    assert_eq!(identity("c.com"), identity("a.com"));
    assert_eq!(identity("d.com"), None, "it is a host itself");
    assert!(matches!(table.find("b.com").source, Source::Ingress { .. }));
    assert!(matches!(table.find("c.com").source, Source::StandIn { .. }), "the certificate is not for it");
}

#[test]
fn pods_are_spoken_to_as_the_annotations_say_or_not_at_all() {
    use crate::compile::{annotations::ProxySslOptions, tls_backend::for_ingress};
    let ca = Ca::new("pods");
    let mut objects = Objects::default();
    let manifest = secret("pods", &[("ca.crt", &ca.pem)]) + &secret("empty", &[("x", "y")]);
    for document in tidegate_crd::yaml::parse(Path::new("test.yaml"), &manifest).documents {
        objects.apply(document);
    }
    for (secret, verify, name, expected) in [
        (None, false, None, (Some(false), "UnverifiedBackend")),
        (None, true, Some("a.b"), (Some(false), "UnverifiedBackend")),
        (Some("pods"), false, None, (Some(false), "UnverifiedBackend")),
        (Some("default/pods"), true, Some("a.b"), (Some(true), "")),
        (Some("pods"), true, None, (None, "InvalidAnnotation")),
        (Some("empty"), true, Some("a.b"), (None, "InvalidCa")),
        (Some("gone"), false, None, (None, "MissingSecret")),
        (Some("other/pods"), false, None, (None, "InvalidSecretName")),
    ] {
        let options = ProxySslOptions {
            secret: secret.map(Into::into),
            verify,
            name: name.map(Into::into),
            ..ProxySslOptions::default()
        };
        let origin = Origin::synthetic("test");
        let mut report = Report::on(Kind::Ingress, "default", "a", &origin);
        let tls = for_ingress(&objects, &"default".into(), &options, false, &mut report);
        let findings = report.into_findings();
        let reason = findings.first().map_or("", |finding| finding.reason);
        assert_eq!((tls.map(|tls| tls.is_verified), reason), expected, "{options:?}");
        assert!(findings.len() <= 1);
    }
}

/// Everything a table says.
fn words(snapshot: &crate::snapshot::Snapshot) -> String {
    let mut hosts: Vec<String> = snapshot
        .tls
        .hosts()
        .map(|host| {
            let served = match &host.serve {
                crate::tls::Serve::Terminate(config) => format!("{:?}", config.identity()),
                crate::tls::Serve::Passthrough(service) => format!("{service:?}"),
            };
            let auth = host.client_auth.as_ref().map(|auth| auth.identity());
            format!("{} {served} {auth:?} {:?} {}", host.name, host.source, host.has_section)
        })
        .collect();
    hosts.sort();
    let rows = snapshot.tls.certificates().iter().map(|row| (&row.secret, row.certificate.identity));
    // Lines differ with what stands above in the file.
    let said =
        |finding: &Finding| format!("{:?} {} {:?} {}", finding.object, finding.reason, finding.field, finding.message);
    let mut findings: Vec<String> = snapshot.findings.iter().map(said).collect();
    findings.sort();
    format!("{hosts:#?} {:?} {findings:#?}", rows.collect::<Vec<_>>())
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]

    #[test]
    fn compiling_step_by_step_gives_what_compiling_at_once_gives(
        changes in proptest::collection::vec((0..5usize, 0..2usize), 1..20),
    ) {
        static MANIFESTS: std::sync::LazyLock<[[String; 2]; 5]> = std::sync::LazyLock::new(|| {
            let ca = Ca::new("ca");
            [
                [tls_secret("a", &ca.leaf(&["a.com", "*.w.com"])), secret("a", &[("tls.crt", "x")])],
                [tls_secret("b", &ca.leaf(&["a.com"])), tls_secret("b", &ca.rsa_leaf(&["b.com"]))],
                [secret("clients", &[("ca.crt", &ca.pem)]), secret("clients", &[("ca.crt", &ca.pem), ("ca.crl", &ca.crl(&[], 2100))])],
                [
                    ingress("i", &[], "[{secretName: a}]", &["a.com", "*.w.com"]),
                    ingress("i", &[("auth-tls-secret", "clients")], "[{hosts: [a.com], secretName: b}]", &["a.com", ""]),
                ],
                [
                    ingress("j", &[("ssl-passthrough", "true")], "[{secretName: b}]", &["x.w.com"]),
                    ingress("j", &[("auth-tls-secret", "clients"), ("ssl-ciphers", "HIGH")], "[{secretName: b}, {hosts: [c.com]}]", &["b.com", "x.w.com"]),
                ],
            ]
        });
        let mut steps = World::new(Settings::default());
        let mut last: BTreeMap<usize, usize> = BTreeMap::new();
        for (object, version) in changes {
            let stepwise = words(&steps.apply(&MANIFESTS[object][version]));
            last.insert(object, version);
            let mut at_once = World::new(Settings::default());
            let all: String = last.iter().map(|(&object, &version)| MANIFESTS[object][version].as_str()).collect();
            proptest::prop_assert_eq!(stepwise, words(&at_once.apply(&all)));
        }
    }
}
