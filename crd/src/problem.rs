//! `Problem`: what is wrong with a file, where, and what to write instead.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::object::ObjectRef;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object is used, or was never meant for us; a look is worth it.
    Warning,
    /// The object, or the document it stands in, is not used.
    Error,
}

/// Something wrong with one place of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether the object is used all the same.
    pub severity: Severity,
    /// One CamelCase word for programs, such as `UnknownField`.
    pub reason: &'static str,
    /// The object concerned, if the document got far enough to name one.
    pub object: Option<ObjectRef>,
    /// The file as the caller named it.
    pub file: Arc<Path>,
    /// Line in that file, from 1.
    pub line: usize,
    /// The field concerned, such as `spec.ports[0].nodePort`.
    pub field: Option<String>,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it, in one sentence.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file.display(), self.line, self.reason, self.message)
    }
}

/// A problem before it is known whose it is: what the steps of reading hand to `yaml.rs`.
#[derive(Debug)]
pub(crate) struct Complaint {
    pub(crate) severity: Severity,
    pub(crate) reason: &'static str,
    pub(crate) line: usize,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
    pub(crate) fix: String,
}

impl Complaint {
    pub(crate) fn error(reason: &'static str, line: usize, message: String, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Error, reason, line, field: None, message, fix: fix.into() }
    }

    pub(crate) fn warning(reason: &'static str, line: usize, message: String, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(reason, line, message, fix) }
    }

    pub(crate) fn on(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }
}
