//! What is refused, with which status.
//!
//! Where an RFC allows leniency we refuse: a gateway gains nothing from guessing, and what two parties read differently
//! is how requests are smuggled. The rows of [`Refusal`] are what this gateway decides itself. The rest of the table is
//! decided below it, or is no refusal:
//!
//! | what | answer | by | rule |
//! |---|---|---|---|
//! | a head that is not HTTP: bytes that may not be in a method, target, name or value, a bare CR, a space before `:`, a folded line, `HTTP/1.2`, `HTTP/2.0` | 400, close | hyper | RFC 9112 2.2, 3, 5.1, 5.2 |
//! | a first line that names no HTTP version | silent close | sniffing | RFC 9113 3.4: nor is it a broken HTTP/2 preface |
//! | a head of more than `request_head_bytes`, or of more than 100 fields | 431, close | hyper | RFC 6585 5 |
//! | a last transfer coding that is not `chunked`; Transfer-Encoding in HTTP/1.0 | 400, close | hyper | RFC 9112 6.1, 6.3 |
//! | chunks, or their end, in bad form | 400, close | hyper, `head_guard` | RFC 9112 7.1 |
//! | HTTP/2: a pseudo-field that is unknown, repeated, missing or late; capitals, `Connection` and its like, a bad `TE`, control bytes; content of another length than it says | stream reset, PROTOCOL_ERROR | h2 | RFC 9113 8.1.1, 8.2, 8.3 |
//! | HTTP/2: a field section over the limit | 431 | h2 | RFC 9113 10.5.1 |
//! | HTTP/2: frames that break the protocol | GOAWAY | h2 | RFC 9113 5.4.1 |
//! | HTTP/2: floods of CONTINUATION, tiny DATA, and of resets faster than we look | GOAWAY, ENHANCE_YOUR_CALM | h2 | RFC 9113 10.5 |
//! | HTTP/2: floods of SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty and unknown frames, and of resets | GOAWAY, ENHANCE_YOUR_CALM | `h2_guard` | RFC 9113 10.5 |
//! | HTTP/2: an answer that its client does not take | stream reset, CANCEL | `h2_streams` | RFC 9113 10.5 |
//! | fields with underscores in their names; those of one hop; `Forwarded`; `Proxy` | dropped | `headers` | RFC 9110 7.6.1 |
//! | `Upgrade: h2c` | ignored | `headers` | RFC 9113 3.1: it is obsolete |
//! | `Expect` in HTTP/1.0 | ignored | `headers` | RFC 9110 10.1.1 |

use super::failure::Kind;
use crate::route::normalise::Malformed;

/// Why a request is refused by the gateway itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// A line of a head or of a trailer section ends in LF alone.
    BareLf,
    /// Content-Length twice, if only with the same value.
    RepeatedLength,
    /// A Content-Length that is no number of bytes.
    BadLength,
    /// Both Content-Length and Transfer-Encoding.
    LengthAndCoding,
    /// A chunk's size line that is too long, or holds control characters.
    ChunkLine,
    /// `chunked` twice, or a list with holes.
    BadCoding,
    /// A transfer coding besides `chunked`.
    UnknownCoding,
    /// CONNECT, or TRACE.
    Method,
    /// A method that is no word in capitals, or longer than any.
    UnknownMethod,
    /// An extended CONNECT to something unknown.
    UnknownProtocol,
    /// No Host.
    NoHost,
    /// Several Hosts.
    SeveralHosts,
    /// A Host that is not a host.
    BadHost,
    /// HTTP/2: `:authority` and Host name two hosts.
    TwoHosts,
    /// A target that is neither a path, nor a URL, nor `*` with OPTIONS.
    Target,
    /// A target that is a URL of another scheme than the connection's.
    TargetScheme,
    /// A target that is a URL whose host is not one.
    TargetHost,
    /// A target with bytes that are no characters of a URL.
    TargetBytes,
    /// A target longer than any honest one.
    TargetTooLong,
    /// A path that means nothing, or different things to different readers.
    Path(Malformed),
    /// A path that comes under one rule as we read it, and under another as some pods do.
    DisputedPath,
    /// HTTP/2: a value with white space at an end, which HTTP/1 would not tell from what is around it.
    PaddedValue,
    /// An expectation other than `100-continue`.
    Expectation,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) status: u16,
    /// For the client.
    pub(crate) text: &'static str,
    /// Whether what follows on the connection may be part of this request, and so is not read (HTTP/1 only: a stream of
    /// HTTP/2 ends by itself).
    pub(crate) closes: bool,
    /// Where the rule is written; the client is told, too.
    pub(crate) rule: &'static str,
}

impl Refusal {
    pub(crate) const fn row(self) -> Row {
        match self {
            Self::BareLf => close(400, "a line does not end in CR LF", "RFC 9112 2.2"),
            Self::RepeatedLength => close(400, "the request has several Content-Lengths", "RFC 9112 6.3"),
            Self::BadLength => close(400, "the request's Content-Length is not a number", "RFC 9112 6.3"),
            Self::LengthAndCoding => {
                close(400, "the request has Content-Length and Transfer-Encoding", "RFC 9112 6.1, 6.3")
            }
            Self::ChunkLine => close(400, "a chunk's size line is not proper", "RFC 9112 7.1.1"),
            Self::BadCoding => close(400, "the request's Transfer-Encoding is not proper", "RFC 9112 6.1"),
            Self::UnknownCoding => close(501, "a transfer coding other than chunked", "RFC 9112 6.1"),
            Self::Method => keep(405, "this method is not served here", "RFC 9110 9.3.6, 9.3.8"),
            Self::UnknownMethod => close(501, "this method is not known", "RFC 9110 9.1"),
            Self::UnknownProtocol => keep(501, "this protocol is not served here", "RFC 9220 3"),
            Self::NoHost => close(400, "the request has no Host", "RFC 9112 3.2"),
            Self::SeveralHosts => close(400, "the request has several Hosts", "RFC 9112 3.2"),
            Self::BadHost => close(400, "the request's Host is not a host", "RFC 9112 3.2"),
            Self::TwoHosts => close(400, "the request's Host is not its :authority", "RFC 9113 8.3.1"),
            Self::Target => close(400, "the request's target is not a path", "RFC 9112 3.2"),
            Self::TargetScheme => {
                close(400, "the request's target is not a URL of this scheme", "RFC 9110 7.4, RFC 9112 3.2.2")
            }
            Self::TargetHost => close(400, "the host in the request's target is not a host", "RFC 9110 4.2.4"),
            Self::TargetBytes => close(400, "the request's target has bytes that must be escaped", "RFC 3986 2"),
            Self::TargetTooLong => close(414, "the request's target is too long", "RFC 9110 15.5.15"),
            Self::Path(malformed) => path(malformed),
            Self::DisputedPath => close(400, "the request's path can be read in two ways", "RFC 3986 6.2.2, 7.3"),
            Self::PaddedValue => close(400, "a field's value begins or ends with white space", "RFC 9113 8.2.1"),
            Self::Expectation => close(417, "this expectation cannot be met", "RFC 9110 10.1.1"),
        }
    }

    /// As which kind of failure it counts.
    pub(crate) const fn kind(self) -> Kind {
        match self.row().status {
            405 => Kind::BadMethod,
            414 => Kind::TargetTooLong,
            417 => Kind::Expectation,
            501 => Kind::Unsupported,
            _ => Kind::BadRequest,
        }
    }
}

const fn path(malformed: Malformed) -> Row {
    match malformed {
        Malformed::Relative => close(400, "the request's path does not begin with /", "RFC 9112 3.2.1"),
        Malformed::Escape => close(400, "the request's path has a % without two digits", "RFC 3986 2.1"),
        Malformed::Control => close(400, "the request's path has control characters", "RFC 3986 7.3"),
        Malformed::Backslash => close(400, "the request's path has a backslash", "RFC 3986 3.3"),
        Malformed::AboveRoot => close(400, "the request's path leads above the root", "RFC 3986 5.4.2"),
        Malformed::Disguised => close(400, "the request's path can be read in several ways", "RFC 3986 7.3"),
    }
}

const fn close(status: u16, text: &'static str, rule: &'static str) -> Row {
    Row { status, text, closes: true, rule }
}

const fn keep(status: u16, text: &'static str, rule: &'static str) -> Row {
    Row { status, text, closes: false, rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Refusal; 28] = [
        Refusal::BareLf,
        Refusal::RepeatedLength,
        Refusal::BadLength,
        Refusal::LengthAndCoding,
        Refusal::ChunkLine,
        Refusal::BadCoding,
        Refusal::UnknownCoding,
        Refusal::Method,
        Refusal::UnknownMethod,
        Refusal::UnknownProtocol,
        Refusal::NoHost,
        Refusal::SeveralHosts,
        Refusal::BadHost,
        Refusal::TwoHosts,
        Refusal::Target,
        Refusal::TargetScheme,
        Refusal::TargetHost,
        Refusal::TargetBytes,
        Refusal::TargetTooLong,
        Refusal::Path(Malformed::Relative),
        Refusal::Path(Malformed::Escape),
        Refusal::Path(Malformed::Control),
        Refusal::Path(Malformed::Backslash),
        Refusal::Path(Malformed::AboveRoot),
        Refusal::Path(Malformed::Disguised),
        Refusal::DisputedPath,
        Refusal::PaddedValue,
        Refusal::Expectation,
    ];

    #[test]
    fn every_row_counts_as_its_own_status_and_says_why() {
        for refusal in ALL {
            let row = refusal.row();
            assert_eq!(refusal.kind().status(), row.status, "{refusal:?}");
            assert!(!row.text.is_empty() && (row.rule.contains("RFC")), "{refusal:?}");
            assert_eq!(ALL.iter().filter(|other| other.row().text == row.text).count(), 1, "{refusal:?}");
        }
    }
}
