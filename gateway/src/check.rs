//! `check`: what is wrong with manifests, without serving them.
//!
//! It is the compiler and nothing else: what `check` finds, `run` finds too.

use std::fmt::Write;

use serde_json::{Value, json};
use tidegate_crd::Document;

use crate::compile::{
    allocate::Allocations,
    compile,
    finding::{Finding, Severity},
    objects::Objects,
    settings::Settings,
};
use crate::control::unix_seconds;

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;

/// What was found in some manifests.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// By file and line.
    findings: Vec<Finding>,
    objects: usize,
    files: usize,
}

/// Compiles `documents`. `problems` are what the files' reader found, and are reported with the rest.
/// `files` is how many files were read.
pub fn check(documents: Vec<Document>, settings: &Settings, problems: &[Finding], files: usize) -> CheckReport {
    let mut objects = Objects::default();
    objects.now = Some(unix_seconds());
    let count = documents.len();
    for document in documents {
        objects.apply(document);
    }
    let compiled = compile(&objects, settings, problems, &Allocations::default(), None);
    let mut findings = compiled.snapshot.findings.to_vec();
    findings.sort_by(|a, b| (&a.file, a.line, b.severity, a.reason).cmp(&(&b.file, b.line, a.severity, b.reason)));
    CheckReport { findings, objects: count, files }
}

impl CheckReport {
    /// What was found, by file and line.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What the process ends with: 0 if nothing is wrong, 1 for warnings, 2 for errors.
    pub fn exit_code(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Error) => 2,
            Some(Severity::Warning) => 1,
            Some(Severity::Info) | None => 0,
        }
    }

    /// For people, one finding after the other, and a summary.
    pub fn to_text(&self, color: bool) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            write_finding(&mut text, finding, color);
        }
        let _ = writeln!(text, "{}", self.summary());
        text
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let findings: Vec<Value> = self.findings.iter().map(finding_json).collect();
        let summary = json!({
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "infos": self.count(Severity::Info),
            "objects": self.objects,
            "files": self.files,
        });
        json!({ "findings": findings, "summary": summary })
    }

    fn summary(&self) -> String {
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        let found = match (errors, warnings) {
            (0, 0) => "nothing is wrong".to_owned(),
            (0, _) => plural(warnings, "warning"),
            (_, 0) => plural(errors, "error"),
            (_, _) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        };
        format!("{found} in {} ({})", plural(self.objects, "object"), plural(self.files, "file"))
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// `file:line: error[Reason] Kind namespace/name field: what is wrong`, and below it how to put it right.
fn write_finding(text: &mut String, finding: &Finding, color: bool) {
    let (on, off) = match (color, finding.severity) {
        (false, _) => ("", ""),
        (true, Severity::Error) => ("\x1b[1;31m", "\x1b[0m"),
        (true, Severity::Warning) => ("\x1b[1;33m", "\x1b[0m"),
        (true, Severity::Info) => ("\x1b[1;34m", "\x1b[0m"),
    };
    let (severity, reason) = (finding.severity.as_str(), finding.reason);
    let _ = write!(text, "{}: {on}{severity}[{reason}]{off}", place(finding));
    if let Some(object) = &finding.object {
        let _ = write!(text, " {object}");
    }
    if let Some(field) = &finding.field {
        let _ = write!(text, " {field}");
    }
    // The reader of manifests begins some messages with the field, which stands here already.
    let field = finding.field.as_deref().unwrap_or_default();
    let message = finding.message.strip_prefix(field).and_then(|rest| rest.strip_prefix(": "));
    let _ = writeln!(text, ": {}", message.unwrap_or(&finding.message));
    let _ = writeln!(text, "  fix: {}", finding.fix);
}

/// Line 0 is no line: the finding is about the file as a whole.
fn place(finding: &Finding) -> String {
    match finding.line {
        0 => finding.file.display().to_string(),
        line => format!("{}:{line}", finding.file.display()),
    }
}

fn finding_json(finding: &Finding) -> Value {
    let object = finding
        .object
        .as_ref()
        .map(|object| json!({ "kind": object.kind.as_str(), "namespace": &*object.namespace, "name": &*object.name }));
    json!({
        "severity": finding.severity.as_str(),
        "reason": finding.reason,
        "object": object,
        "file": finding.file.display().to_string(),
        "line": finding.line,
        "field": finding.field,
        "message": finding.message,
        "fix": finding.fix,
    })
}

fn plural(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
