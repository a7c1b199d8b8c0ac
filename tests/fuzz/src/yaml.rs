//! Manifests, compiled and asked: whatever is in them, every finding says what and where, every rule is found by its own host
//! and path, it makes no difference in which order objects come or what was compiled before, and a good object beside bad ones
//! is served.

use std::{collections::BTreeSet, sync::Arc};

use tidegate::{
    compile::finding::{Finding, Severity},
    route::{PathMatch, Rule},
    snapshot::Snapshot,
};

use crate::manifests;

/// Larger texts only take longer.
const MAX_BYTES: usize = 8 << 10;

/// Put behind the input, as another document.
const GOOD: &str = "
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: zzgood, namespace: zzgood}
spec:
  rules:
  - host: zzgood.example
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: zzgood, port: {number: 80}}}}]}
";

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.len() > MAX_BYTES {
        return;
    }
    let with_good = format!("{text}{GOOD}");
    let (documents, problems) = manifests::read(&with_good);
    // To YAML, CR alone ends a line, too.
    let lines = 1 + with_good.matches(['\r', '\n']).count();
    let mut names = BTreeSet::new();
    let is_unique = documents.iter().all(|document| names.insert(document.object.object_ref().to_string()));

    let objects = manifests::objects(documents);
    let compiled = manifests::compiled(&objects, &problems, None);
    let snapshot = &compiled.snapshot;
    snapshot.findings.iter().for_each(|finding| check_finding(finding, lines));
    snapshot.routes.rules().for_each(|rule| check_rule(snapshot, rule));

    let again = manifests::compiled(&objects, &problems, Some(&compiled));
    assert_eq!(again.snapshot.findings, snapshot.findings, "what was compiled before makes a difference");
    assert_eq!(rules(&again.snapshot), rules(snapshot), "what was compiled before makes a difference");
    if is_unique {
        let (documents, _) = manifests::read(&with_good);
        let turned = manifests::compiled(&manifests::objects(documents.into_iter().rev()), &problems, None);
        assert_eq!(turned.snapshot.findings, snapshot.findings, "the order makes a difference");
        assert_eq!(rules(&turned.snapshot), rules(snapshot), "the order makes a difference");
    }
    // A class can be the default, and so take Ingresses without one.
    if !text.contains("zzgood") && !text.contains("IngressClass") {
        let rule = snapshot.routes.find("zzgood.example", "/").rule;
        assert!(rule.is_some_and(|rule| *rule.owner.name == *"zzgood"), "a good object went down with a bad one");
    }
}

fn check_finding(finding: &Finding, lines: usize) {
    assert!(!finding.message.is_empty() && !finding.reason.is_empty(), "{finding}");
    assert!(finding.line <= lines, "line {} of {lines}: {finding}", finding.line);
    assert!(finding.severity == Severity::Info || !finding.fix.is_empty(), "{finding}");
}

/// A request for a rule's own host and path comes to it, or to an Exact one for the same path.
fn check_rule(snapshot: &Snapshot, rule: &Arc<Rule>) {
    let Some(path) = &rule.path else { return };
    let host = rule.host.replacen('*', "some", 1);
    let found = snapshot.routes.find(&host, path.as_str()).rule.expect("a rule is found");
    let same = found.path.as_ref().map(|found| found.as_str().trim_end_matches('/'));
    assert!(Arc::ptr_eq(found, rule) || same == Some(path.as_str().trim_end_matches('/')), "{found:?} for {rule:?}");
    assert!(matches!(path, PathMatch::Prefix(_)) || Arc::ptr_eq(found, rule), "{found:?} for {rule:?}");
}

fn rules(snapshot: &Snapshot) -> Vec<String> {
    let line = |rule: &Arc<Rule>| format!("{} {:?} {:?} {}", rule.host, rule.path, rule.backend.service(), rule.owner);
    let mut lines: Vec<String> = snapshot.routes.rules().map(line).collect();
    lines.sort_unstable();
    lines
}
