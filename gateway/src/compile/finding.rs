//! `Finding`: a verdict on one object. It becomes a line of `check`, a log line, a metric, and later a condition.

use std::{fmt, path::Path, sync::Arc};

use tidegate_crd::{Kind, ObjectRef, Origin, Problem};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Info,
    /// Works, but probably not as meant.
    Warning,
    /// This object, or the part of it that is named, is not served.
    Error,
}

impl Severity {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// One CamelCase word for programs, such as `MissingService`.
    pub reason: &'static str,
    /// The object it is about; `None` if the text did not get far enough to name one.
    pub object: Option<ObjectRef>,
    /// The file, or what the object came from.
    pub file: Arc<Path>,
    /// Line in that file, from 1; 0 where there are no lines.
    pub line: usize,
    /// The field, such as `spec.ports[0].nodePort`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        write!(f, " {}[{}]", self.severity.as_str(), self.reason)?;
        if let Some(object) = &self.object {
            write!(f, " {object}")?;
        }
        // What reads the file names the field in its message already.
        if let Some(field) = self.field.as_ref().filter(|field| !self.message.starts_with(field.as_str())) {
            write!(f, " {field}")?;
        }
        write!(f, ": {} Fix: {}", self.message, self.fix)
    }
}

impl From<Problem> for Finding {
    fn from(problem: Problem) -> Self {
        let severity = match problem.severity {
            // A Deployment beside a Service is nothing to warn of: it is another controller's to read.
            tidegate_crd::Severity::Warning if problem.reason == "UnknownKind" => Severity::Info,
            tidegate_crd::Severity::Warning => Severity::Warning,
            tidegate_crd::Severity::Error => Severity::Error,
        };
        Self {
            severity,
            reason: problem.reason,
            object: problem.object,
            file: problem.file,
            line: problem.line,
            field: problem.field,
            message: sentence(problem.message),
            fix: problem.fix,
        }
    }
}

/// A message that ends like a sentence, as all of them do.
fn sentence(mut message: String) -> String {
    if !message.ends_with(['.', '!', '?']) {
        message.push('.');
    }
    message
}

/// Collects the findings of one object.
#[derive(Debug)]
pub struct Report<'a> {
    kind: Kind,
    namespace: &'a str,
    name: &'a str,
    origin: &'a Origin,
    findings: Vec<Finding>,
}

impl<'a> Report<'a> {
    /// An empty report on an object that stands at `origin`.
    pub fn on(kind: Kind, namespace: &'a str, name: &'a str, origin: &'a Origin) -> Self {
        Self { kind, namespace, name, origin, findings: Vec::new() }
    }

    /// The part named by `field` is not served.
    pub fn error(&mut self, reason: &'static str, field: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.add(Severity::Error, reason, field, message.into(), fix.into());
    }

    /// It works, but probably not as meant.
    pub fn warning(&mut self, reason: &'static str, field: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.add(Severity::Warning, reason, field, message.into(), fix.into());
    }

    /// Nothing is wrong.
    pub fn info(&mut self, reason: &'static str, field: &str, message: impl Into<String>, fix: impl Into<String>) {
        self.add(Severity::Info, reason, field, message.into(), fix.into());
    }

    /// What was found.
    pub fn into_findings(self) -> Vec<Finding> {
        self.findings
    }

    fn add(&mut self, severity: Severity, reason: &'static str, field: &str, message: String, fix: String) {
        self.findings.push(Finding {
            severity,
            reason,
            object: Some(ObjectRef::new(self.kind, self.namespace, self.name)),
            file: Arc::from(self.origin.file()),
            line: self.origin.line_of(field),
            field: (!field.is_empty()).then(|| field.to_owned()),
            message,
            fix,
        });
    }
}
