//! The exchange with pods: times, retries, sizes, protocol.

use http::StatusCode;

use super::{
    Row,
    Scope::Location,
    accepted, ignored,
    values::{Expected, boolean, duration, number, on_off, seconds, size},
    yes,
};
use crate::route::policy::{Retry, Timeouts};

/// The exchange with pods.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProxyOptions {
    pub(crate) timeouts: Timeouts,
    pub(crate) retry: Retry,
    pub(crate) body_limit: Option<u64>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) close: bool,
    pub(crate) access_log: bool,
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self {
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            body_limit: Some(crate::route::policy::DEFAULT_BODY_LIMIT),
            protocol: None,
            close: false,
            access_log: true,
        }
    }
}

/// `backend-protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Https,
    /// TLS to pods for clients that use TLS.
    AsTheClient,
    Grpc,
    Grpcs,
}

pub(super) const ROWS: &[Row] = &[
    yes(
        "backend-protocol",
        "`HTTP` (default), `HTTPS`, `AUTO_HTTP` (as the client does), `GRPC` or `GRPCS`. `FCGI` is not served: 503.",
        Location,
        |options, value| {
            options.proxy.protocol = Some(match value.to_ascii_uppercase().as_str() {
                "HTTP" => Protocol::Http,
                "HTTPS" => Protocol::Https,
                "AUTO_HTTP" => Protocol::AsTheClient,
                "GRPC" => Protocol::Grpc,
                "GRPCS" => Protocol::Grpcs,
                "FCGI" => {
                    options.closed = Some("FastCGI is not spoken".to_owned());
                    return Err(
                        "HTTP, with a web server in the pod: FastCGI is not spoken and every request gets 503".into()
                    );
                }
                _ => {
                    return Err("HTTP, HTTPS, AUTO_HTTP, or for HTTP/2 GRPC (in plain text) or GRPCS (with TLS)".into());
                }
            });
            Ok(())
        },
    ),
    accepted(
        "client-body-buffer-size",
        "Requests are streamed: nothing is held back in memory or files.",
        Location,
        |value| size(value).map(drop),
    ),
    yes(
        "connection-proxy-header",
        "`close`: each request to a pod has a connection of its own; `keep-alive` (default): connections are kept.",
        Location,
        |options, value| {
            options.proxy.close = match value {
                "keep-alive" => false,
                "close" => true,
                _ => return Err("keep-alive or close".into()),
            };
            Ok(())
        },
    ),
    yes("enable-access-log", "`false`: requests are not in the access log.", Location, |options, value| {
        boolean(value).map(|value| options.proxy.access_log = value)
    }),
    ignored("fastcgi-index", "FastCGI is not spoken.", Location),
    ignored("fastcgi-params-configmap", "FastCGI is not spoken.", Location),
    yes(
        "proxy-body-size",
        "Largest content of a request, `1m` by default, `0` for any; beyond it 413.",
        Location,
        |options, value| {
            let limit = size(value)?;
            options.proxy.body_limit = (limit > 0).then_some(limit);
            Ok(())
        },
    ),
    accepted(
        "proxy-buffer-size",
        "Heads of answers may be larger than nginx's default always; no buffer is set aside for them.",
        Location,
        |value| size(value).map(drop),
    ),
    accepted("proxy-buffering", "Answers are streamed, as fast as the client reads.", Location, |value| {
        on_off(value).map(drop)
    }),
    accepted("proxy-buffers-number", "Answers are streamed: there are no buffers to count.", Location, |value| {
        number(value).map(drop)
    }),
    accepted("proxy-busy-buffers-size", "Answers are streamed: there are no buffers to be busy.", Location, |value| {
        size(value).map(drop)
    }),
    yes(
        "proxy-connect-timeout",
        "Seconds until a pod has accepted a connection; 5 by default.",
        Location,
        |options, value| seconds(value).map(|value| options.proxy.timeouts.connect = value),
    ),
    yes("proxy-http-version", "`1.1`, which is what pods are asked in.", Location, |_, value| {
        if value == "1.1" {
            Ok(())
        } else {
            Err("1.1: pods are not asked in HTTP/1.0, and in HTTP/2 with backend-protocol: GRPC".into())
        }
    }),
    accepted("proxy-max-temp-file-size", "Answers are streamed: there are no files.", Location, |value| {
        size(value).map(drop)
    }),
    yes(
        "proxy-next-upstream",
        "When another pod is tried: `error`, `timeout`, `invalid_header`, `http_500`, `http_502`, `http_503`, `http_504`, `http_403`, \
         `http_404`, `http_429`, `non_idempotent`, or `off`; `error timeout` by default.",
        Location,
        |options, value| next_upstream(&mut options.proxy.retry, value),
    ),
    yes(
        "proxy-next-upstream-timeout",
        "No new try so many seconds after the first; 0 (default) for no limit.",
        Location,
        |options, value| {
            let within = if value == "0" { None } else { Some(seconds(value)?) };
            options.proxy.retry.within = within;
            Ok(())
        },
    ),
    yes(
        "proxy-next-upstream-tries",
        "Pods tried in all; 3 by default, 0 for all there are.",
        Location,
        |options, value| number(value).map(|value| options.proxy.retry.tries = value),
    ),
    yes(
        "proxy-read-timeout",
        "Seconds a pod may pause before and within its answer; 60 by default. Also for upgraded connections.",
        Location,
        |options, value| seconds(value).map(|value| options.proxy.timeouts.read = value),
    ),
    accepted("proxy-request-buffering", "Requests are streamed to the pod as they come.", Location, |value| {
        on_off(value).map(drop)
    }),
    yes(
        "proxy-send-timeout",
        "Seconds a pod may take to accept a piece of the request; 60 by default.",
        Location,
        |options, value| seconds(value).map(|value| options.proxy.timeouts.send = value),
    ),
];

pub(super) const OWN: &[Row] = &[
    yes("per-try-timeout", "Until one pod's answer begins; then another pod is tried.", Location, |options, value| {
        duration(value).map(|value| options.proxy.timeouts.per_try = Some(value))
    }),
    yes("request-timeout", "Until an answer begins, all tries included; then 504.", Location, |options, value| {
        duration(value).map(|value| options.proxy.timeouts.request = Some(value))
    }),
    yes(
        "retry-budget",
        "Repetitions allowed per hundred requests, such as `20%`: a broken Service must not get a multiple of its load.",
        Location,
        |options, value| {
            let percent = value.trim_end_matches('%').trim_end().parse::<u8>().ok().filter(|percent| *percent <= 100);
            options.proxy.retry.budget_percent = percent.ok_or("a percentage from 0% to 100%")?;
            Ok(())
        },
    ),
];

fn next_upstream(retry: &mut Retry, value: &str) -> Result<(), Expected> {
    let mut new = Retry { on_error: false, on_timeout: false, ..retry.clone() };
    let mut statuses = Vec::new();
    let mut off = false;
    for word in value.split_whitespace() {
        match word {
            "error" => new.on_error = true,
            "timeout" => new.on_timeout = true,
            "invalid_header" => new.on_invalid = true,
            "non_idempotent" => new.non_idempotent = true,
            "off" => off = true,
            "http_403" => statuses.push(StatusCode::FORBIDDEN),
            "http_404" => statuses.push(StatusCode::NOT_FOUND),
            "http_429" => statuses.push(StatusCode::TOO_MANY_REQUESTS),
            "http_500" => statuses.push(StatusCode::INTERNAL_SERVER_ERROR),
            "http_502" => statuses.push(StatusCode::BAD_GATEWAY),
            "http_503" => statuses.push(StatusCode::SERVICE_UNAVAILABLE),
            "http_504" => statuses.push(StatusCode::GATEWAY_TIMEOUT),
            _ => {
                let known =
                    "error, timeout, invalid_header, non_idempotent, http_403, _404, _429, _500, _502, _503 and _504";
                return Err(format!("off, or some of {known}, apart by spaces; there is no {word:?}").into());
            }
        }
    }
    if off {
        new = Retry { on_error: false, on_timeout: false, on_invalid: false, non_idempotent: false, ..new };
        statuses.clear();
    }
    statuses.sort_unstable();
    statuses.dedup();
    new.on_status = statuses.into();
    *retry = new;
    Ok(())
}
