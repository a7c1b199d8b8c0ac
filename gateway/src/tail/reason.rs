//! Why an endpoint was chosen, in words.

use tidegate_l4::{model::Balance, watch};

/// Why an endpoint was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// For a connection.
    Connection(watch::Reason),
    /// For a request: there is no other.
    Only,
    /// Its session cookie named it.
    Cookie,
    /// A session began.
    NewSession,
    /// By a hash of what `upstream-hash-by` names, or of the client.
    Hash,
    /// By the rule of choice.
    Rule(Balance),
    /// Another one was tried before.
    AnotherFailed,
}

impl Reason {
    /// One word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection(watch::Reason::Only) | Self::Only => "Only",
            Self::Connection(watch::Reason::Affinity) => "Affinity",
            Self::Connection(watch::Reason::NewClient) => "NewClient",
            Self::Connection(watch::Reason::Hash) | Self::Hash => "Hash",
            Self::Connection(watch::Reason::NotReached) | Self::AnotherFailed => "AnotherFailed",
            Self::Cookie => "Cookie",
            Self::NewSession => "NewSession",
            Self::Connection(watch::Reason::Rule(rule)) | Self::Rule(rule) => match rule {
                Balance::Random => "Random",
                Balance::RoundRobin => "RoundRobin",
                Balance::LeastInFlight => "LeastInFlight",
                Balance::Ewma => "Ewma",
                Balance::Weighted => "Weighted",
                Balance::Hash => "Hash",
            },
        }
    }

    /// A sentence for people.
    pub fn why(self) -> &'static str {
        match self {
            Self::Connection(watch::Reason::Only) | Self::Only => "It is the only endpoint that may be used.",
            Self::Connection(watch::Reason::Affinity) => "ClientIP affinity: this client address was there before.",
            Self::Connection(watch::Reason::NewClient) => {
                "ClientIP affinity: no pod that may be used is remembered for this client address; a hash of it decided."
            }
            Self::Connection(watch::Reason::Hash) => "A hash of the client's address decided.",
            Self::Connection(watch::Reason::NotReached) => "The endpoint chosen first could not be reached.",
            Self::Cookie => "Cookie affinity: its session cookie names this pod.",
            Self::NewSession => "Cookie affinity: no cookie came that names a pod which is here, so a session began.",
            Self::Hash => "A hash of its key decided.",
            Self::AnotherFailed => "The endpoint tried before gave no good answer.",
            Self::Connection(watch::Reason::Rule(rule)) => match rule {
                Balance::Random => "Drawn by lot for this connection, from the endpoints in use.",
                Balance::RoundRobin => "The next in turn for this connection.",
                Balance::Weighted => "Drawn by lot for this connection, in proportion to the weights.",
                other => Self::Rule(other).why(),
            },
            Self::Rule(rule) => match rule {
                Balance::Random | Balance::Hash => "Drawn by lot for this request, from the endpoints in use.",
                Balance::RoundRobin => "The next in turn for this request.",
                Balance::LeastInFlight => "Of two drawn by lot, the one that carries less now.",
                Balance::Ewma => "Of two drawn by lot, the one that promises the shorter wait.",
                Balance::Weighted => "Drawn by lot for this request, in proportion to the weights.",
            },
        }
    }
}
