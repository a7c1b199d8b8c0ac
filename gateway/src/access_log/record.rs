//! One finished request, as a line of the log sees it.

use std::time::Duration;

use http::Version;

use super::{
    clock::Clock,
    details::{ConnectionFacts, Details, TlsFacts, Try},
};
use crate::route::Rule;

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The status it was answered with; 499 if it was not.
    pub status: u16,
    /// What went wrong, if anything did.
    pub failure: Option<&'static str>,
    /// From the end of its head to the end of its answer.
    pub took: Duration,
    /// Bytes of its content.
    pub bytes_in: u64,
    /// Bytes of its answer's content.
    pub bytes_out: u64,
}

/// A version as nginx writes it.
pub(crate) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 | Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

/// All that can be said about a request. Borrowed: making one costs nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) clock: &'a Clock,
    pub(super) details: &'a Details,
    pub(super) rule: Option<&'a Rule>,
    pub(super) end: End,
}

impl<'a> Record<'a> {
    pub(super) fn connection(&self) -> Option<&'a ConnectionFacts> {
        self.details.connection.as_deref()
    }

    pub(super) fn tls(&self) -> Option<&'a TlsFacts> {
        self.connection()?.tls.as_ref()
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls().is_some() { "https" } else { "http" }
    }

    pub(super) fn protocol(&self) -> Option<&'static str> {
        self.details.version.map(protocol)
    }

    /// The host that was asked for, without its port.
    pub(super) fn host(&self) -> Option<&'a [u8]> {
        let host = self.details.host()?;
        let port =
            host.iter().rposition(|byte| *byte == b':').filter(|at| host[at + 1..].iter().all(u8::is_ascii_digit));
        // The last colon of `[::1]` is not before a port: what follows has a bracket.
        Some(port.map_or(host, |at| &host[..at]))
    }

    pub(super) fn path(&self) -> Option<&'a [u8]> {
        let target = self.details.target()?;
        Some(target.split(|byte| *byte == b'?').next().unwrap_or(target))
    }

    pub(super) fn query(&self) -> Option<&'a [u8]> {
        let target = self.details.target()?;
        target.iter().position(|byte| *byte == b'?').map(|at| &target[at + 1..])
    }

    pub(super) fn rule_path(&self) -> Option<&'a str> {
        Some(self.rule?.path.as_ref().map_or("/", |path| path.as_str()))
    }

    /// Namespace, Service and port of the rule.
    pub(super) fn service(&self) -> Option<(&'a str, &'a str, &'a str)> {
        Some(split_service(self.rule?.backend.service()))
    }

    pub(super) fn last_try(&self) -> Option<&'a Try> {
        self.details.tries().last()
    }
}

/// The parts of `namespace/service:port`.
pub(super) fn split_service(backend: &str) -> (&str, &str, &str) {
    let (namespace, rest) = backend.split_once('/').unwrap_or(("", backend));
    let (service, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
    (namespace, service, port)
}
