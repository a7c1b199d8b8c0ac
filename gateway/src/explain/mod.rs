//! `explain`: why a connection or request goes where it goes, step by step.
//!
//! A pure function of a snapshot. It decides nothing itself: it asks the same functions as the data plane
//! ([`Target::decide`](tidegate_l4::table::Target::decide), [`EndpointSet::candidates`](tidegate_l4::endpoints::EndpointSet::candidates),
//! [`http::decide`](crate::http::decide)) and puts the way to their answer into words. It changes nothing either: no
//! counter moves and no affinity is refreshed by asking.
//!
//! `question` is what is asked and how people write it, `event` the same of what happened; `connection` answers for L4, `request` for HTTP, with `tls` for what comes
//! before it and `policy` for what a rule does besides choosing a pod; `endpoints` is what both say about endpoints; `text` shows
//! the answer to people and programs.

mod connection;
mod endpoints;
mod event;
mod policy;
mod question;
mod request;
mod text;
mod tls;

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;

use std::{net::SocketAddr, sync::Arc};

pub use question::Question;
use question::Subject;
use tidegate_crd::{Kind, ObjectRef};
use tidegate_l4::affinity::UnixMillis;

use crate::{compile::finding::Severity, snapshot::Snapshot};

/// How many things of one kind a step lists; people read no further.
const LISTED: usize = 5;

/// An answer, and how it was come by.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What was asked.
    pub question: String,
    /// What was looked at, in the order in which the data plane does.
    pub steps: Vec<Step>,
    /// What comes of it.
    pub outcome: Outcome,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is, in a word or two.
    pub title: &'static str,
    /// What was found.
    pub detail: String,
}

/// Where a connection or request ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// At one of these endpoints.
    Endpoints {
        /// How one of them is chosen, in words.
        rule: String,
        /// All that can be chosen, in the order of the set.
        candidates: Vec<Candidate>,
        /// Whether the same client or session comes to the same endpoint again.
        sticky: bool,
    },
    /// Nowhere: the connection is refused or reset.
    Refused {
        /// Why.
        reason: String,
    },
    /// At Tidegate itself, which answers with an error.
    Status {
        /// The status code.
        code: u16,
        /// Why.
        reason: String,
    },
    /// Beyond Tidegate: clients learn an address or name from DNS and connect to it themselves.
    Dns {
        /// What DNS answers.
        answer: String,
    },
}

/// An endpoint that can be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The pod behind it, if known.
    pub pod: Option<Arc<str>>,
    /// How likely it is to be chosen, 0 to 1.
    pub share: f64,
    /// Whether it is certain to be tried first.
    pub first: bool,
}

/// Why the connection or request of `question` goes where it goes under `snapshot` at the time `now`.
pub fn explain(snapshot: &Snapshot, question: &Question, now: UnixMillis) -> Explanation {
    let (steps, outcome) = match &question.subject {
        Subject::Request(request) => request::explain(snapshot, request, question.from, now),
        Subject::Connection(frontend) => connection::explain(snapshot, frontend, question.from, now),
        Subject::Service(service) => connection::explain_service(snapshot, service, question.from, now),
    };
    Explanation { question: question.to_string(), steps, outcome }
}

/// What happened so far.
#[derive(Debug, Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, title: &'static str, detail: impl Into<String>) {
        self.0.push(Step { title, detail: detail.into() });
    }

    /// What the compiler has to say about an object that was met on the way.
    fn add_findings(&mut self, snapshot: &Snapshot, kind: Kind, namespace: &str, name: &str) {
        let object = ObjectRef::new(kind, namespace, name);
        let of_object = |severity| {
            let object = &object;
            snapshot.findings.iter().filter(move |f| f.severity == severity && f.object.as_ref() == Some(object))
        };
        let worst_first = of_object(Severity::Error).chain(of_object(Severity::Warning));
        for finding in worst_first.take(LISTED) {
            self.add("Finding", finding.to_string());
        }
    }
}

/// The first few of a list, and how many more there are.
fn listed(items: impl IntoIterator<Item = String>) -> String {
    let mut items = items.into_iter();
    let mut text = items.by_ref().take(LISTED).collect::<Vec<_>>().join(", ");
    match items.count() {
        0 => {}
        more => text.push_str(&format!(" and {more} more")),
    }
    text
}
