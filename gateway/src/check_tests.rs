//! Every manifest in `tests/it/broken` is broken in one way, and says in its first line what is to be found.

use std::{fs, path::PathBuf};

use tidegate_crd::yaml;

use super::*;

/// What a broken manifest's first line promises.
#[derive(Debug)]
struct Expected {
    severity: String,
    reason: String,
    line: usize,
}

/// The broken manifests, by name.
fn broken() -> Vec<(PathBuf, String)> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/it/broken");
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|path| (PathBuf::from(path.file_name().unwrap()), fs::read_to_string(path).unwrap()))
        .collect()
}

fn expected(text: &str) -> Expected {
    let words: Vec<&str> = text.lines().next().unwrap().split(' ').collect();
    let ["#", "expect:", severity, reason, "line", line] = words[..] else { panic!("{words:?}") };
    Expected { severity: severity.to_owned(), reason: reason.to_owned(), line: line.parse().unwrap() }
}

fn check_files<'a>(files: impl IntoIterator<Item = &'a (PathBuf, String)>) -> CheckReport {
    let (mut documents, mut problems, mut count) = (Vec::new(), Vec::new(), 0);
    for (path, text) in files {
        let parsed = yaml::parse(path, text);
        documents.extend(parsed.documents);
        problems.extend(parsed.problems.into_iter().map(Finding::from));
        count += 1;
    }
    check(documents, &Settings::default(), &problems, count)
}

fn check_text(text: &str) -> CheckReport {
    check_files([&(PathBuf::from("file.yaml"), text.to_owned())])
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

const INGRESS: &str = r"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  tls: [{hosts: [a]}]
  defaultBackend: {service: {name: wep, port: {number: 80}}}
";

#[test]
fn each_broken_manifest_is_found_and_explained() {
    let files = broken();
    assert!(files.len() >= 20);
    let mut wrong = Vec::new();
    for file in &files {
        let (path, expected) = (file.0.display(), expected(&file.1));
        let report = check_files([file]);
        let seen: Vec<&Finding> = report.findings().iter().filter(|f| f.severity > Severity::Info).collect();
        let [finding] = seen[..] else {
            wrong.push(format!("{path}: {expected:?}, but found\n{}", report.to_text(false)));
            continue;
        };
        let as_expected = finding.severity.as_str() == expected.severity
            && finding.reason == expected.reason
            && finding.line == expected.line;
        if !as_expected {
            wrong.push(format!("{path}: {expected:?}, but found\n{}", report.to_text(false)));
        }
        assert!(!finding.message.is_empty() && !finding.fix.is_empty(), "{path}");
        assert_eq!(report.exit_code(), if expected.severity == "error" { 2 } else { 1 }, "{path}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn good_objects_beside_broken_ones_still_work() {
    let good = [
        (PathBuf::from("good/service.yaml"), SERVICE.to_owned()),
        (PathBuf::from("good/ingress.yaml"), INGRESS.replace("wep", "web").replace("  tls: [{hosts: [a]}]\n", "")),
    ];
    let files = broken();
    let report = check_files(good.iter().chain(&files));
    assert!(!report.findings().iter().any(|f| f.file.starts_with("good") && f.severity > Severity::Info));
    let parsed = good.iter().chain(&files).flat_map(|(path, text)| yaml::parse(path, text).documents);
    let mut objects = Objects::default();
    for document in parsed {
        objects.apply(document);
    }
    let compiled = compile(&objects, &Settings::default(), &[], &Allocations::default(), None);
    let snapshot = &compiled.snapshot;
    assert!(snapshot.services.iter().any(|row| &*row.name == "web" && !row.cluster_ips.is_empty()));
    let found = snapshot.routes.find("some.host", "/").rule.expect("the default backend");
    assert_eq!(found.owner.to_string(), "default/web");
    // The half that is good of a broken file works too: the first of two that claim one path.
    assert!(snapshot.routes.find("twice.example.com", "/").rule.is_some());
}

#[test]
fn the_report_for_people() {
    let report = check_text(&format!("{SERVICE}---{INGRESS}"));
    assert_eq!(
        report.to_text(false),
        "file.yaml:10: warning[NoCertificate] Ingress default/web spec.tls[0]: it names no Secret, and there is no default certificate; \
its hosts are shown a stand-in certificate, which no client trusts.
  fix: Write secretName, or start with --default-ssl-certificate NAMESPACE/NAME.
file.yaml:11: error[MissingService] Ingress default/web spec.defaultBackend.service.name: there is no Service default/wep; \
requests are answered 503.
  fix: Create the Service, or correct the name.
1 error, 1 warning in 2 objects (1 file)
"
    );
    assert!(report.to_text(true).contains("file.yaml:11: \x1b[1;31merror[MissingService]\x1b[0m Ingress"));
    assert_eq!(report.exit_code(), 2);
    let clean = check_text(SERVICE);
    assert_eq!((clean.to_text(true).as_str(), clean.exit_code()), ("nothing is wrong in 1 object (1 file)\n", 0));
}

#[test]
fn the_report_for_programs() {
    let report = check_text(INGRESS).to_json();
    assert_eq!(
        report["findings"][1],
        json!({
            "severity": "error",
            "reason": "MissingService",
            "object": { "kind": "Ingress", "namespace": "default", "name": "web" },
            "file": "file.yaml",
            "line": 7,
            "field": "spec.defaultBackend.service.name",
            "message": "there is no Service default/wep; requests are answered 503.",
            "fix": "Create the Service, or correct the name.",
        })
    );
    assert_eq!(report["summary"], json!({ "errors": 1, "warnings": 1, "infos": 0, "objects": 1, "files": 1 }));
    let unread = check_text("kind: [").to_json();
    assert_eq!(unread["findings"][0]["object"], Value::Null);
}
