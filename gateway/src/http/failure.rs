//! What can go wrong with a request, who is to blame, and what the client is told.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use tidegate_l4::endpoints::Full;

use super::{decision::Unavailable, refusals::Refusal};
use crate::tls;

/// Who is to blame; the only place where an error becomes a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No rule takes the request.
    NoRule,
    /// The rule's Service does not exist, or none of its pods is ready.
    Unavailable,
    /// The client's request is not one that may be passed on.
    BadRequest,
    /// A method that no gateway should pass on.
    BadMethod,
    /// A method or a coding that is not understood.
    Unsupported,
    /// The request's host is not served on this TLS connection (RFC 9110 15.5.20).
    Misdirected,
    /// The client did not show the certificate that its host demands.
    ClientCertificate,
    /// The request's content is larger than its rule allows.
    TooLarge,
    /// The client stopped sending in the middle of its request, or taking its answer (HTTP/2).
    ClientSlow,
    /// The client went away before it was answered.
    ClientGone,
    /// No pod accepted a connection.
    Connect,
    /// The pod closed the connection instead of answering, or answered what is not HTTP.
    BadAnswer,
    /// The pod did not answer in time.
    Timeout,
    /// The pod broke off in the middle of its answer: the client's connection is broken off, too.
    Truncated,
    /// A target longer than any honest one.
    TargetTooLong,
    /// A head that is too large, or has too many fields.
    HeadTooLarge,
    /// An expectation that nobody can meet.
    Expectation,
}

impl Kind {
    /// Every kind, in the order of its numbers.
    pub const ALL: [Self; 17] = [
        Self::NoRule,
        Self::Unavailable,
        Self::BadRequest,
        Self::BadMethod,
        Self::Unsupported,
        Self::Misdirected,
        Self::ClientCertificate,
        Self::TooLarge,
        Self::ClientSlow,
        Self::ClientGone,
        Self::Connect,
        Self::BadAnswer,
        Self::Timeout,
        Self::Truncated,
        Self::TargetTooLong,
        Self::HeadTooLarge,
        Self::Expectation,
    ];

    /// The status it is answered with. Nobody receives nginx's 499: it only counts.
    pub fn status(self) -> u16 {
        match self {
            Self::NoRule => 404,
            Self::Unavailable => 503,
            Self::BadRequest => 400,
            Self::BadMethod => 405,
            Self::TargetTooLong => 414,
            Self::Expectation => 417,
            Self::HeadTooLarge => 431,
            Self::Unsupported => 501,
            Self::Misdirected => 421,
            Self::ClientCertificate => 400,
            Self::TooLarge => 413,
            Self::ClientSlow => 408,
            Self::ClientGone => 499,
            Self::Connect | Self::BadAnswer | Self::Truncated => 502,
            Self::Timeout => 504,
        }
    }

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::Unavailable => "unavailable",
            Self::BadRequest => "bad_request",
            Self::BadMethod => "bad_method",
            Self::Unsupported => "unsupported",
            Self::Misdirected => "misdirected",
            Self::ClientCertificate => "client_certificate",
            Self::TooLarge => "too_large",
            Self::ClientSlow => "client_slow",
            Self::ClientGone => "client_gone",
            Self::Connect => "connect",
            Self::BadAnswer => "bad_answer",
            Self::Timeout => "timeout",
            Self::Truncated => "truncated",
            Self::TargetTooLong => "target_too_long",
            Self::HeadTooLarge => "head_too_large",
            Self::Expectation => "expectation",
        }
    }
}

/// A request that failed before a pod's answer could be passed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// For the client: names of Services at most, never of pods or addresses.
    text: Cow<'static, str>,
    /// What the client believes to be its next request may be part of this one.
    closes: bool,
    /// What is answered instead of the kind's own status, and where the client is sent.
    instead: Option<Box<(StatusCode, Option<HeaderValue>)>>,
}

impl Failure {
    pub(crate) const NO_RULE: Self = Self::new(Kind::NoRule, "no rule for this host and path");
    pub(crate) const CLIENT_GONE: Self = Self::new(Kind::ClientGone, "the client is gone");
    pub(crate) const CLIENT_SLOW: Self = Self::new(Kind::ClientSlow, "the request was not sent to its end in time");
    pub(crate) const TOO_LARGE: Self =
        Self::new(Kind::TooLarge, "the request's content is larger than is allowed here");
    pub(crate) const MISDIRECTED: Self =
        Self::new(Kind::Misdirected, "this host is not served on this connection: connect to it anew");
    pub(crate) const BAD_BODY: Self = Self::new(Kind::BadRequest, "the request's content is not properly framed");

    pub(crate) const fn new(kind: Kind, text: &'static str) -> Self {
        let closes = matches!(kind, Kind::BadRequest | Kind::ClientSlow | Kind::TooLarge);
        Self { kind, text: Cow::Borrowed(text), closes, instead: None }
    }

    /// As the table of refusals says.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let row = refusal.row();
        let text = Cow::Owned(format!("{} ({})", row.text, row.rule));
        Self { kind: refusal.kind(), text, closes: row.closes, instead: None }
    }

    /// The client has not shown that it may come in.
    pub(crate) fn not_let_in(refusal: tls::Refusal) -> Self {
        let tls::Refusal { status, text, location } = refusal;
        Self { instead: Some(Box::new((status, location))), ..Self::new(Kind::ClientCertificate, text) }
    }

    pub(crate) fn unavailable(service: &str, reason: Unavailable<'_>) -> Self {
        Self { kind: Kind::Unavailable, text: Cow::Owned(reason.describe(service)), closes: false, instead: None }
    }

    /// As many requests of a Service are under way, or wait, as it allows.
    pub(crate) fn full(service: &str, why: Full) -> Self {
        let what = match why {
            Full::InFlight => "as many requests as it allows are under way",
            Full::Pending => "as many requests as it allows wait for a connection",
        };
        Self { kind: Kind::Unavailable, text: Cow::Owned(format!("{service}: {what}")), closes: false, instead: None }
    }

    /// `service` is whose pod failed, `what` completes the sentence "the pod …".
    pub(crate) fn pod(kind: Kind, service: &Arc<str>, what: &str) -> Self {
        Self { kind, text: Cow::Owned(format!("a pod of {service} {what}")), closes: false, instead: None }
    }

    /// The status that the client sees.
    pub(crate) fn status(&self) -> StatusCode {
        let own = || StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::BAD_GATEWAY);
        self.instead.as_ref().map_or_else(own, |instead| instead.0)
    }

    /// The whole answer.
    pub(crate) fn response(&self) -> Response<Bytes> {
        let text = format!("{}: {}\n", self.status().as_u16(), self.text);
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if let Some(location) = self.instead.as_ref().and_then(|instead| instead.1.clone()) {
            headers.insert(header::LOCATION, location);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.kind == Kind::BadMethod {
            // RFC 9110 15.5.6: a 405 says what else may be tried.
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
        }
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_numbered_in_order_and_have_a_status() {
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, n);
            assert!(StatusCode::from_u16(kind.status()).is_ok());
        }
    }
}
