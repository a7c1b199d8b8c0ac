//! `Failure`: what went wrong with a watch, and what to do about it.

use std::{error::Error as _, fmt};

use kube::{core::Status, runtime::watcher};

/// The cause of a 403 that is no missing permission: nothing new is created in a namespace that is being deleted (apiserver, plugin
/// `NamespaceLifecycle`).
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// We may not do this (403, unless that is because a namespace is about to be gone).
    Forbidden {
        /// `list`, `watch` or `get`.
        verb: &'static str,
        /// The API server's own words.
        message: String,
    },
    /// What was to be continued is too old (410): the watch begins with a list again.
    Gone {
        /// The watch has to be told to: it was refused before it began.
        at_start: bool,
    },
    /// Another answer than was asked for.
    Refused {
        /// The status code; 0 if it is not known.
        code: u16,
        /// The API server's own words.
        message: String,
    },
    /// No answer, or half of one.
    Unreachable {
        /// What the system said.
        message: String,
    },
}

impl Failure {
    /// Every kind of failure, as the metrics call them.
    pub const REASONS: [&'static str; 4] = ["forbidden", "gone", "refused", "unreachable"];

    /// Which of [`Self::REASONS`] this is.
    pub(crate) fn reason(&self) -> usize {
        match self {
            Self::Forbidden { .. } => 0,
            Self::Gone { .. } => 1,
            Self::Refused { .. } => 2,
            Self::Unreachable { .. } => 3,
        }
    }

    /// Whether the API server is away, as far as can be told, or not itself.
    pub(super) fn is_of_server(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Unreachable { .. } => true,
            Self::Forbidden { .. } | Self::Gone { .. } => false,
        }
    }

    /// Whether the cluster has no such kind: its CustomResourceDefinition is not installed.
    pub(super) fn is_missing_kind(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// What a watch says.
    pub(super) fn of(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error) => Self::of_client("list", error),
            watcher::Error::WatchStartFailed(error) => Self::of_client("watch", error),
            watcher::Error::WatchFailed(error) => match Self::of_client("watch", error) {
                Self::Gone { .. } => Self::Gone { at_start: false },
                other => other,
            },
            watcher::Error::WatchError(status) => match Self::of_status("watch", status) {
                Self::Gone { .. } => Self::Gone { at_start: false },
                other => other,
            },
            watcher::Error::NoResourceVersion => {
                Self::Refused { code: 0, message: "an answer without a resourceVersion".to_owned() }
            }
        }
    }

    /// What the answer to one request says.
    pub(crate) fn of_client(verb: &'static str, error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::of_status(verb, status);
        }
        // The outermost error says little: "client error (Connect)". The innermost says it: "Connection refused".
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        match error {
            kube::Error::SerdeError(_) => Self::Refused { code: 200, message },
            _ => Self::Unreachable { message },
        }
    }

    fn of_status(verb: &'static str, status: &Status) -> Self {
        let is_terminating = status
            .details
            .as_ref()
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == NAMESPACE_TERMINATING));
        match status.code {
            403 if !is_terminating => Self::Forbidden { verb, message: status.message.clone() },
            410 => Self::Gone { at_start: true },
            code => Self::Refused { code, message: status.message.clone() },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden { verb, message } => write!(f, "not permitted to {verb} ({message})"),
            Self::Gone { .. } => f.write_str("what was to be continued is too old"),
            Self::Refused { code: 0, message } => f.write_str(message),
            Self::Refused { code, message } => write!(f, "answered {code} ({message})"),
            Self::Unreachable { message } => f.write_str(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Box<Status> {
        Box::new(Status { code, ..Status::failure("in its words", "Reason") })
    }

    #[test]
    fn each_failure_is_what_it_is() {
        let api = |code| kube::Error::Api(status(code));
        let words = || "in its words".to_owned();
        let cases = [
            (watcher::Error::InitialListFailed(api(403)), Failure::Forbidden { verb: "list", message: words() }),
            (watcher::Error::WatchStartFailed(api(403)), Failure::Forbidden { verb: "watch", message: words() }),
            (watcher::Error::WatchStartFailed(api(410)), Failure::Gone { at_start: true }),
            (watcher::Error::WatchError(status(410)), Failure::Gone { at_start: false }),
            (watcher::Error::InitialListFailed(api(500)), Failure::Refused { code: 500, message: words() }),
        ];
        for (error, expected) in cases {
            assert_eq!(Failure::of(&error), expected, "{error}");
        }
    }

    #[test]
    fn a_namespace_that_is_about_to_be_gone_is_no_missing_permission() {
        let answer = r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "in its words",
            "reason": "Forbidden", "details": {"name": "a.1", "causes": [{"reason": "NamespaceTerminating", "message":
            "namespace shop is being terminated", "field": "metadata.namespace"}]}, "code": 403}"#;
        let status: Box<Status> = serde_json::from_str(answer).unwrap();
        let failure = Failure::of_client("create", &kube::Error::Api(status));
        assert_eq!(failure, Failure::Refused { code: 403, message: "in its words".to_owned() });
    }

    #[test]
    fn the_innermost_error_is_named() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let failure = Failure::of(&watcher::Error::InitialListFailed(kube::Error::Service(Box::new(refused))));
        assert!(failure.to_string().contains("connection refused"), "{failure}");
        assert_eq!(Failure::REASONS[failure.reason()], "unreachable");
    }
}
