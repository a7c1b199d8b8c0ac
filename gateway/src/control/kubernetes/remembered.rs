//! `Remembered`: how a configuration says that a part of it was heard by an earlier process, and not by this one yet; or by none.

use std::path::Path;

use super::mirror::LABEL;
use crate::compile::finding::{Finding, Severity};

const REASON: &str = "Remembered";

/// The reason of the verdict on a kind that cannot be listed and is done without.
pub(crate) const NOT_LISTED: &str = "NotListed";

/// The verdict on the resources `open`, of which this process has not heard: an earlier one did at `heard`, in seconds since the Unix
/// epoch.
pub(crate) fn finding(open: &[&str], heard: i64) -> Finding {
    Finding {
        severity: Severity::Warning,
        reason: REASON,
        object: None,
        file: Path::new(LABEL).into(),
        line: 0,
        field: None,
        message: format!(
            "the API server has not told of {} since this process began: what is served was heard by an earlier one, at {heard} \
             (seconds since 1970).",
            open.join(", ")
        ),
        fix: "See why the API server does not answer: /readyz says how it fails.".to_owned(),
    }
}

/// Whether a configuration with these findings is such a one. It is good enough to be served, and no reason to write anything.
pub(crate) fn is_remembered(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.reason == REASON)
}

/// Whether a kind is missing in a configuration with these findings. Then what looks as if it were not ours may be so all the same.
pub(crate) fn is_partial(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.reason == NOT_LISTED)
}
