//! Counts a request, however it ends.

use std::{sync::Arc, time::Instant};

use super::{failure::Kind, stats::HttpStats};
use crate::route::stats::RuleStats;

/// One request in the books. It goes with the answer's body, and dropping it closes the entry: after the last byte, or
/// whenever somebody gave up.
#[derive(Debug)]
pub(crate) struct Account {
    stats: Arc<HttpStats>,
    /// The counters of the rule, once it is known.
    pub(crate) rule: Option<Arc<RuleStats>>,
    /// The status; until there is an answer, that of a client that leaves without one.
    pub(crate) status: u16,
    started: Instant,
}

impl Account {
    pub(crate) fn open(stats: Arc<HttpStats>) -> Self {
        stats.requests.add(1);
        Self { stats, rule: None, status: Kind::ClientGone.status(), started: Instant::now() }
    }

    /// Something went wrong after the status was sent.
    pub(crate) fn note(&self, kind: Kind) {
        self.stats.count_failure(kind);
    }

    /// Bytes that were carried outside any message, once the protocol has changed.
    pub(crate) fn carried(&self, sent: u64, received: u64) {
        self.stats.bytes_in.add(sent);
        self.stats.bytes_out.add(received);
    }

    /// The request is answered with an error of ours.
    pub(crate) fn fail(&mut self, kind: Kind, status: u16) {
        self.status = status;
        self.stats.count_failure(kind);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.status == Kind::ClientGone.status() {
            self.stats.count_failure(Kind::ClientGone);
        }
        let rule = self.rule.as_deref().unwrap_or(&self.stats.unmatched);
        rule.count(self.status, self.started.elapsed());
        self.stats.ended.add(1);
    }
}
