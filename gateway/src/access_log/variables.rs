//! The variables of a format: nginx's names, those that ingress-nginx adds, and three of our own. Each is a row.

use std::io::Write;

use super::{
    escape::Escape,
    record::{Record, split_service},
};

/// What a variable is replaced by: `None` if there is no such thing for this request.
type Value = fn(&Record<'_>, &mut Text<'_>) -> Option<()>;

/// A variable. Headers, cookies and arguments are not among them: they begin with `http_`, `sent_http_`, `cookie_` and `arg_`.
#[derive(Debug)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    value: Value,
}

impl PartialEq for Variable {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Variable {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        VARIABLES.iter().find(|variable| variable.name == name)
    }

    /// Appends the value; says whether there is one.
    pub(super) fn write(&self, record: &Record<'_>, text: &mut Text<'_>) -> bool {
        (self.value)(record, text).is_some()
    }
}

/// Where values go, and how they are escaped.
#[derive(Debug)]
pub(super) struct Text<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) escape: Escape,
}

impl Text<'_> {
    /// What a stranger wrote.
    pub(super) fn value(&mut self, value: &[u8]) -> Option<()> {
        self.escape.write(value, self.out);
        Some(())
    }

    /// What we wrote: numbers, addresses.
    fn own(&mut self, value: std::fmt::Arguments<'_>) -> Option<()> {
        // Writing to memory does not fail.
        self.out.write_fmt(value).ok()
    }
}

const fn row(name: &'static str, value: Value) -> Variable {
    Variable { name, value }
}

/// All of them. An IP address or a number needs no escaping; everything else goes through [`Text::value`].
pub(super) static VARIABLES: [Variable; 61] = [
    // When.
    row("time_local", |r, t| t.own(format_args!("{}", r.clock.local()))),
    row("time_iso8601", |r, t| t.own(format_args!("{}+00:00", r.clock.date()))),
    row("msec", |r, t| {
        let (seconds, millis) = r.clock.unix();
        t.own(format_args!("{seconds}.{millis:03}"))
    }),
    row("request_time", |r, t| t.own(format_args!("{:.3}", r.end.took.as_secs_f64()))),
    // Who, and on which connection.
    row("remote_addr", |r, t| t.own(format_args!("{}", r.details.client?))),
    row("remote_port", |r, t| t.own(format_args!("{}", r.connection()?.peer.port()))),
    row("realip_remote_addr", |r, t| t.own(format_args!("{}", r.connection()?.peer.ip().to_canonical()))),
    row("realip_remote_port", |r, t| t.own(format_args!("{}", r.connection()?.peer.port()))),
    row("proxy_protocol_addr", |r, t| t.own(format_args!("{}", r.connection()?.proxied?.ip()))),
    row("proxy_protocol_port", |r, t| t.own(format_args!("{}", r.connection()?.proxied?.port()))),
    row("server_addr", |r, t| t.own(format_args!("{}", r.connection()?.local.ip().to_canonical()))),
    row("server_port", |r, t| t.own(format_args!("{}", r.connection()?.local.port()))),
    row("connection", |r, t| t.own(format_args!("{}", r.connection()?.number))),
    row("connection_requests", |r, t| t.own(format_args!("{}", r.details.request_number))),
    row("remote_user", |r, t| t.value(r.details.user()?)),
    row("scheme", |r, t| t.own(format_args!("{}", r.scheme()))),
    row("pass_access_scheme", |r, t| t.own(format_args!("{}", r.scheme()))),
    row("https", |r, t| r.tls().and_then(|_| t.own(format_args!("on")))),
    row("ssl_protocol", |r, t| t.own(format_args!("{}", r.tls()?.version))),
    row("ssl_cipher", |r, t| t.own(format_args!("{}", r.tls()?.cipher))),
    row("ssl_server_name", |r, t| t.value(r.tls()?.sni.as_ref()?.as_bytes())),
    row("ssl_session_reused", |r, t| t.own(format_args!("{}", if r.tls()?.resumed { 'r' } else { '.' }))),
    row("ssl_client_s_dn", |r, t| t.value(r.tls()?.client_subject.as_ref()?.as_bytes())),
    // What was asked.
    row("request", |r, t| {
        t.value(r.details.method()?)?;
        t.value(b" ")?;
        t.value(r.details.target()?)?;
        t.own(format_args!(" {}", r.protocol()?))
    }),
    row("request_method", |r, t| t.value(r.details.method()?)),
    row("request_uri", |r, t| t.value(r.details.target()?)),
    row("uri", |r, t| t.value(r.path()?)),
    row("document_uri", |r, t| t.value(r.path()?)),
    row("args", |r, t| t.value(r.query()?)),
    row("query_string", |r, t| t.value(r.query()?)),
    row("is_args", |r, t| r.query().and_then(|_| t.own(format_args!("?")))),
    row("escaped_request_uri", |r, t| {
        let target = std::str::from_utf8(r.details.target()?).ok()?;
        t.own(format_args!("{}", percent_encoding::utf8_percent_encode(target, percent_encoding::NON_ALPHANUMERIC)))
    }),
    row("server_protocol", |r, t| t.own(format_args!("{}", r.protocol()?))),
    row("host", |r, t| {
        let host = r.host()?;
        // Most clients write it so already.
        if host.iter().any(u8::is_ascii_uppercase) { t.value(&host.to_ascii_lowercase()) } else { t.value(host) }
    }),
    row("best_http_host", |r, t| t.value(r.details.host()?)),
    row("request_id", |r, t| t.value(r.details.id()?)),
    row("req_id", |r, t| t.value(r.details.id()?)),
    row("request_length", |r, t| t.own(format_args!("{}", r.details.heads.0 + r.end.bytes_in))),
    // What was answered.
    row("status", |r, t| t.own(format_args!("{}", r.end.status))),
    row("bytes_sent", |r, t| t.own(format_args!("{}", r.details.heads.1 + r.end.bytes_out))),
    row("body_bytes_sent", |r, t| t.own(format_args!("{}", r.end.bytes_out))),
    // By which rule.
    row("server_name", |r, t| t.value(r.rule?.host.as_bytes())),
    row("location_path", |r, t| t.value(r.rule_path()?.as_bytes())),
    row("namespace", |r, t| t.value(r.rule?.owner.namespace.as_bytes())),
    row("ingress_name", |r, t| t.value(r.rule?.owner.name.as_bytes())),
    row("service_name", |r, t| t.value(r.service()?.1.as_bytes())),
    row("service_port", |r, t| t.value(r.service()?.2.as_bytes())),
    row("proxy_upstream_name", |r, t| upstream_name(r.service()?, t)),
    row("proxy_host", |r, t| upstream_name(r.service()?, t)),
    row("proxy_alternative_upstream_name", |r, t| {
        upstream_name(split_service(std::str::from_utf8(r.details.alternative()?).ok()?), t)
    }),
    // By which pods, in the order they were tried.
    row("upstream_addr", |r, t| each(r, t, |tried, t| t.own(format_args!("{}", tried.endpoint)))),
    row("upstream_status", |r, t| each(r, t, |tried, t| t.own(format_args!("{}", tried.status?)))),
    row("upstream_connect_time", |r, t| {
        each(r, t, |tried, t| t.own(format_args!("{:.3}", tried.connect?.as_secs_f64())))
    }),
    row("upstream_header_time", |r, t| {
        each(r, t, |tried, t| t.own(format_args!("{:.3}", tried.header?.as_secs_f64())))
    }),
    row("upstream_response_time", |r, t| {
        each(r, t, |tried, t| t.own(format_args!("{:.3}", tried.response?.as_secs_f64())))
    }),
    row("upstream_response_length", |r, t| {
        // Only the last answer was taken to its end.
        let bytes = r.end.bytes_out;
        each(r, t, |tried, t| t.own(format_args!("{}", if tried.answered { bytes } else { 0 })))
    }),
    row("upstream_pod", |r, t| t.value(r.details.pod(r.last_try()?)?)),
    row("upstream_tries", |r, t| t.own(format_args!("{}", r.details.tries().len()))),
    row("failure", |r, t| t.own(format_args!("{}", r.end.failure?))),
    // Of this process.
    row("pid", |_, t| t.own(format_args!("{}", std::process::id()))),
    row("hostname", |_, t| t.value(HOSTNAME.as_bytes())),
];

static HOSTNAME: std::sync::LazyLock<String> =
    std::sync::LazyLock::new(|| rustix::system::uname().nodename().to_string_lossy().into_owned());

/// `namespace-service-port`, as ingress-nginx names upstreams.
fn upstream_name((namespace, service, port): (&str, &str, &str), text: &mut Text<'_>) -> Option<()> {
    text.value(namespace.as_bytes())?;
    text.value(b"-")?;
    text.value(service.as_bytes())?;
    text.value(b"-")?;
    text.value(port.as_bytes())
}

/// The values of all tries, separated by commas; `-` for those that have none.
fn each<'a>(
    record: &Record<'a>,
    text: &mut Text<'_>,
    value: impl Fn(&'a super::details::Try, &mut Text<'_>) -> Option<()>,
) -> Option<()> {
    for (n, tried) in record.details.tries().iter().enumerate() {
        if n > 0 {
            text.own(format_args!(", "))?;
        }
        if value(tried, text).is_none() {
            text.own(format_args!("-"))?;
        }
    }
    (!record.details.tries().is_empty()).then_some(())
}
