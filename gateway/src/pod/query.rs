//! What a client may ask for in the query of any path: `?delay=250ms&status=503`.

use std::borrow::Cow;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{self, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use super::limits;

/// How to answer, apart from what to answer.
#[derive(Debug, Default)]
pub(super) struct Instructions {
    /// `delay=250ms`: wait before the answer.
    pub(super) delay: Duration,
    /// `body-delay=1s`: send the head, then wait before the body.
    pub(super) body_delay: Duration,
    /// `status=503`: answer with this status.
    pub(super) status: Option<StatusCode>,
    /// `chunked=1`: do not say how long the body is.
    pub(super) chunked: bool,
    /// `close=1`: close the connection after the answer, and say so.
    pub(super) close: bool,
    /// `abort=1`: close the connection instead of answering.
    pub(super) abort: bool,
    /// `report=1`: answer what `/headers` does, whatever the path.
    pub(super) report: bool,
    /// `header=Name:Value`: add this header, in place of one of the pod's own of that name; repeatable.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Instructions {
    /// Reads the query. Options it does not know are left to whoever else reads the query, and only kept out of the way.
    /// The error is a sentence for the client.
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut instructions = Self::default();
        for option in query.split('&') {
            let (name, value) = option.split_once('=').unwrap_or((option, "1"));
            let value = Cow::from(percent_decode_str(value));
            match name {
                "delay" => instructions.delay = delay(name, &value)?,
                "body-delay" => instructions.body_delay = delay(name, &value)?,
                "status" => instructions.status = Some(status(&value)?),
                "chunked" => instructions.chunked = switch(name, &value)?,
                "close" => instructions.close = switch(name, &value)?,
                "abort" => instructions.abort = switch(name, &value)?,
                "report" => instructions.report = switch(name, &value)?,
                "header" => instructions.headers.push(added_header(&value)?),
                _ => {}
            }
        }
        if instructions.headers.len() > limits::ADDED_HEADERS_MAX {
            return Err(format!("at most {} headers can be added", limits::ADDED_HEADERS_MAX));
        }
        Ok(instructions)
    }

    /// Whether the status asked for allows content in the answer (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5).
    pub(super) fn allow_content(&self) -> bool {
        !matches!(self.status, Some(StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED))
    }
}

fn delay(name: &str, value: &[u8]) -> Result<Duration, String> {
    text(value)
        .and_then(|value| humantime::parse_duration(value).ok())
        .filter(|delay| *delay <= limits::DELAY_MAX)
        .ok_or_else(|| format!("{name} must be a time such as 250ms or 2s, at most {}s", limits::DELAY_MAX.as_secs()))
}

fn status(value: &[u8]) -> Result<StatusCode, String> {
    text(value)
        .and_then(|value| value.parse().ok())
        .filter(|code| (200..=599).contains(code))
        .and_then(|code: u16| StatusCode::from_u16(code).ok())
        .ok_or_else(|| "status must be a final status code, 200 to 599".to_owned())
}

fn switch(name: &str, value: &[u8]) -> Result<bool, String> {
    match value {
        b"1" | b"true" => Ok(true),
        b"0" | b"false" => Ok(false),
        _ => Err(format!("{name} must be 1 or 0")),
    }
}

fn added_header(value: &[u8]) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || "header must be Name:Value, percent-encoded where a URL needs it".to_owned();
    let colon = value.iter().position(|&byte| byte == b':').ok_or_else(wrong)?;
    let name = HeaderName::from_bytes(&value[..colon]).map_err(|_| wrong())?;
    let value = &value[colon + 1..];
    // `Name: Value`, as people write it; a line break is not trimmed but refused.
    let value = HeaderValue::from_bytes(value.strip_prefix(b" ").unwrap_or(value)).map_err(|_| wrong())?;
    if matches!(name, header::CONTENT_LENGTH | header::TRANSFER_ENCODING) {
        return Err(format!("{name} follows from the body and cannot be added: use chunked=1 or /bytes/N"));
    }
    Ok((name, value))
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_combine() {
        let parsed = Instructions::parse(
            "q=x&delay=250ms&body-delay=1s&status=503&chunked&close=1&abort=0&report=1&header=X-A:1&header=X-A%3A%20two%20words",
        )
        .unwrap();
        assert_eq!((parsed.delay, parsed.body_delay), (Duration::from_millis(250), Duration::from_secs(1)));
        assert_eq!(parsed.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        assert!(parsed.chunked && parsed.close && parsed.report && !parsed.abort);
        let headers: Vec<_> = parsed.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(headers, [("x-a", &b"1"[..]), ("x-a", b"two words")]);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for wrong in [
            "delay=61s",
            "delay=soon",
            "delay=%ff",
            "body-delay=2m",
            "status=99",
            "status=101",
            "status=600",
            "status=x",
            "close=yes",
            "header=X",
            "header=:1",
            "header=X A:1",
            "header=X:%0d%0aY:1",
            "header=Content-Length:5",
            "header=transfer-encoding:gzip",
        ] {
            assert!(Instructions::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Instructions::parse(&"header=A:1&".repeat(limits::ADDED_HEADERS_MAX)).is_ok());
        assert!(Instructions::parse(&"header=A:1&".repeat(limits::ADDED_HEADERS_MAX + 1)).is_err());
    }
}
