//! The `tidegate.io/…` annotations of a Service: a table, one row each.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use http::uri::PathAndQuery;
use tidegate_crd::{core::Service, suggest};
use tidegate_l4::{
    model::{Balance, ConnectionOptions, ProxyProtocol},
    policy::{Ejection, EndpointPolicy, Probe, Question},
};

use super::{annotations, finding::Report};

/// The prefix of our own annotations.
const PREFIX: &str = "tidegate.io/";

/// Asks for LoadBalancer IPs by name.
pub(crate) const LOAD_BALANCER_IPS: &str = "load-balancer-ips";

/// Asks for a LoadBalancer IP of one pool.
pub(crate) const LOAD_BALANCER_POOL: &str = "load-balancer-pool";

/// The same, with its prefix.
pub(crate) const LOAD_BALANCER_POOL_NAME: &str = "tidegate.io/load-balancer-pool";

/// What the annotations of one Service say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServiceOptions {
    pub(crate) balance: Balance,
    pub(crate) connection: ConnectionOptions,
    pub(crate) policy: EndpointPolicy,
    probe: ProbeOptions,
    /// By Pod name or IP; who is not listed has weight 1.
    pub(crate) weights: BTreeMap<String, u32>,
}

impl ServiceOptions {
    /// Reads the annotations; what cannot be read is reported and has its default.
    pub(crate) fn read(service: &Service, report: &mut Report<'_>) -> Self {
        let mut options = Self::default();
        for (name, value) in service.metadata.annotations.iter().flatten() {
            let Some(short) = name.strip_prefix(PREFIX) else { continue };
            let field = format!("metadata.annotations[{name:?}]");
            match ROWS.iter().find(|row| row.name == short) {
                Some(row) => {
                    if let Err(expected) = (row.apply)(&mut options, value.trim()) {
                        report.error(
                            "InvalidAnnotation",
                            &field,
                            format!("{value:?} is not a value of {name}."),
                            format!("Write {expected}."),
                        );
                    }
                }
                None => {
                    let meant = suggest::nearest(short, ROWS.iter().map(|row| row.name));
                    let fix = match meant {
                        _ if annotations::is_own(short) => {
                            "Write it on the Ingress instead: it is one of an Ingress.".to_owned()
                        }
                        Some(meant) => format!("Did you mean {PREFIX}{meant}?"),
                        None => {
                            let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
                            format!("Those of a Service are {PREFIX}… {}.", names.join(", "))
                        }
                    };
                    report.warning("UnknownAnnotation", &field, format!("there is no annotation {name}."), fix);
                }
            }
        }
        options.finish(report);
        options
    }

    /// What takes several annotations to say.
    fn finish(&mut self, report: &mut Report<'_>) {
        // Whoever says anything about ejection wants it, unless it is that nobody is to be ejected.
        self.policy.ejection = self.policy.ejection.filter(|ejection| ejection.max_failures > 0);
        let ProbeOptions { question, port, interval, timeout, healthy, unhealthy, named } = self.probe.clone();
        let Some(question) = question else {
            if let Some(name) = named {
                report.warning(
                    "UnusedHealthCheck",
                    &format!("metadata.annotations[{:?}]", format!("{PREFIX}{name}")),
                    "nothing is checked, as nothing says what to ask.",
                    "Add tidegate.io/health-check: tcp, or a path such as /healthz.",
                );
            }
            return;
        };
        let usual = Probe::new(question);
        self.policy.probe = Some(Arc::new(Probe {
            port,
            interval: interval.unwrap_or(usual.interval),
            timeout: timeout.unwrap_or(usual.timeout),
            healthy: healthy.unwrap_or(usual.healthy),
            unhealthy: unhealthy.unwrap_or(usual.unhealthy),
            ..usual
        }));
    }

    /// The weight of an endpoint.
    pub(crate) fn weight(&self, pod: &str, ip: IpAddr) -> u32 {
        if self.weights.is_empty() {
            return 1;
        }
        self.weights.get(pod).or_else(|| self.weights.get(&ip.to_string())).copied().unwrap_or(1)
    }
}

/// The value of an annotation of ours, by its name without the prefix; an empty one is none.
pub(crate) fn value<'a>(service: &'a Service, name: &str) -> Option<&'a str> {
    let annotations = service.metadata.annotations.iter().flatten();
    let mut ours = annotations.filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value.trim())));
    ours.find(|(short, value)| *short == name && !value.is_empty()).map(|(_, value)| value)
}

/// The field of an annotation of ours, by its name without the prefix.
pub(crate) fn field(name: &str) -> String {
    format!("metadata.annotations[\"{PREFIX}{name}\"]")
}

/// Addresses, apart by commas: at most one for each IP family.
pub(crate) fn ips(text: &str) -> Result<Vec<IpAddr>, &'static str> {
    const EXPECTED: &str = "one address such as 192.0.2.7, or one of each IP family, as in \"192.0.2.7,2001:db8::7\"";
    let ips: Result<Vec<IpAddr>, _> = text.split(',').map(|ip| ip.trim().parse()).collect();
    match ips.as_deref() {
        Ok([_]) => {}
        Ok([one, other]) if one.is_ipv4() != other.is_ipv4() => {}
        Ok(_) | Err(_) => return Err(EXPECTED),
    }
    ips.map_err(|_| EXPECTED)
}

/// The annotations `health-check…`, before it is known whether there is a check.
#[derive(Clone, Debug, Default, PartialEq)]
struct ProbeOptions {
    question: Option<Question>,
    port: Option<u16>,
    interval: Option<Duration>,
    timeout: Option<Duration>,
    healthy: Option<u32>,
    unhealthy: Option<u32>,
    /// One of those that say how, not what.
    named: Option<&'static str>,
}

/// One annotation.
struct Row {
    /// Its name without the prefix.
    name: &'static str,
    /// What it means, in a line of `docs/annotations.md`.
    #[cfg_attr(not(test), expect(dead_code, reason = "for readers, and the page that a test makes of the rows"))]
    doc: &'static str,
    /// Reads a value, or says what it should have been.
    apply: fn(&mut ServiceOptions, &str) -> Result<(), &'static str>,
}

const ROWS: &[Row] = &[
    Row {
        name: "accept-proxy-protocol",
        doc: "`true`: clients begin their connections with a PROXY protocol header, v1 or v2.",
        apply: |options, value| {
            options.connection.accept_proxy_protocol = value.parse().map_err(|_| "\"true\" or \"false\"")?;
            Ok(())
        },
    },
    Row {
        name: "balance",
        doc: "How an endpoint is chosen where affinity does not decide, for connections and for requests: `random` \
              (the default for connections), `round-robin` (the default for requests), `least-in-flight`, `ewma` (the \
              shorter wait by latency and load), `weighted` (see `weights`), or `hash` (by the client's IP, moving few \
              clients when endpoints change). For requests the client is whom `X-Forwarded-For` or the PROXY protocol \
              names where that is trusted, and an Ingress may name another rule (`load-balance`, `upstream-hash-by`, \
              session cookies), which then counts.",
        apply: |options, value| {
            options.balance = match value {
                "random" => Balance::Random,
                "round-robin" => Balance::RoundRobin,
                "least-in-flight" => Balance::LeastInFlight,
                "ewma" => Balance::Ewma,
                "weighted" => Balance::Weighted,
                "hash" => Balance::Hash,
                _ => return Err("random, round-robin, least-in-flight, ewma, weighted or hash"),
            };
            options.policy.request_balance = options.balance;
            Ok(())
        },
    },
    Row {
        name: "ejection-time",
        doc: "How long an endpoint that failed too often is left out the first time (`10s` by default); each time soon \
              after is twice as long, up to 5 minutes. Turns ejection on.",
        apply: |options, value| {
            ejection(options).time = duration(value).ok_or("a duration such as 10s or 1m")?;
            Ok(())
        },
    },
    Row {
        name: "health-check",
        doc: "Asks each endpoint whether it is well, and leaves out those that are not: `tcp` (it accepts a \
              connection), or a path, which an HTTP GET must find with a status of 200 to 399. For TCP ports, and UDP \
              ports with `health-check-port`.",
        apply: |options, value| {
            options.probe.question = Some(match value {
                "tcp" => Question::Tcp,
                path if is_path(path) => Question::Http { path: path.into() },
                _ => return Err("tcp, or a path such as /healthz"),
            });
            Ok(())
        },
    },
    Row {
        name: "health-check-healthy",
        doc: "Good answers in a row after which an endpoint is used again; 1 by default.",
        apply: |options, value| {
            options.probe.healthy = Some(threshold(value)?);
            options.probe.named = Some("health-check-healthy");
            Ok(())
        },
    },
    Row {
        name: "health-check-interval",
        doc: "From one question to the next; `10s` by default, `100ms` at least.",
        apply: |options, value| {
            let interval = duration(value).filter(|interval| *interval >= LEAST_INTERVAL);
            options.probe.interval = Some(interval.ok_or("a duration of 100ms or more, such as 10s")?);
            options.probe.named = Some("health-check-interval");
            Ok(())
        },
    },
    Row {
        name: "health-check-port",
        doc: "The port to ask, if it is not the endpoint's own.",
        apply: |options, value| {
            let port = value.parse().ok().filter(|port| *port != 0);
            options.probe.port = Some(port.ok_or("a port number from 1 to 65535")?);
            options.probe.named = Some("health-check-port");
            Ok(())
        },
    },
    Row {
        name: "health-check-timeout",
        doc: "How long an answer may take; `1s` by default.",
        apply: |options, value| {
            options.probe.timeout = Some(duration(value).ok_or("a duration such as 1s")?);
            options.probe.named = Some("health-check-timeout");
            Ok(())
        },
    },
    Row {
        name: "health-check-unhealthy",
        doc: "Bad answers in a row after which an endpoint is left out; 3 by default.",
        apply: |options, value| {
            options.probe.unhealthy = Some(threshold(value)?);
            options.probe.named = Some("health-check-unhealthy");
            Ok(())
        },
    },
    Row {
        name: "idle-timeout",
        doc: "Closes a TCP connection on which nothing moved for this long, such as `1h`; `0s` (default) for never.",
        apply: |options, value| {
            let timeout =
                humantime::parse_duration(value).map_err(|_| "a duration such as 90s or 1h, or 0s for none")?;
            options.connection.idle_timeout = (timeout > Duration::ZERO).then_some(timeout);
            Ok(())
        },
    },
    Row {
        name: LOAD_BALANCER_IPS,
        doc: "The address that a Service of type LoadBalancer is to have, or one of each IP family: `192.0.2.7,2001:db8::7`. \
              In a cluster a LoadBalancerPool must have it. Counts before `spec.loadBalancerIP`.",
        // The address is given where all Services are looked at together.
        apply: |_, value| if value.is_empty() { Ok(()) } else { ips(value).map(|_| ()) },
    },
    Row {
        name: LOAD_BALANCER_POOL,
        doc: "The LoadBalancerPool that a Service of type LoadBalancer is to have its address from, be it for everybody \
              (`autoAssign`) or not.",
        apply: |_, _| Ok(()),
    },
    Row {
        name: "max-ejected",
        doc: "Percent of the endpoints that may be left out at once for failing; `50%` by default. Turns ejection on.",
        apply: |options, value| {
            let share = value.strip_suffix('%').unwrap_or(value).trim_end().parse().ok();
            ejection(options).max_share = share.filter(|share| (1..=100).contains(share)).ok_or("1% to 100%")?;
            Ok(())
        },
    },
    Row {
        name: "max-failures",
        doc: "Failures in a row, with no success between them, after which an endpoint is left out for a while; 5 by \
              default, 0 for never. A failure is a connect that fails; for requests also one that gets no proper \
              answer. Turns ejection on: by default there is none, as readiness is the kubelet's to tell.",
        apply: |options, value| {
            ejection(options).max_failures = value.parse().map_err(|_| "a number, or 0 for never")?;
            Ok(())
        },
    },
    Row {
        name: "max-in-flight",
        doc: "Connections and requests that each port has at once, over the whole process. More are reset, or answered \
              503.",
        apply: |options, value| {
            options.policy.admission.max_in_flight = Some(threshold(value)?);
            Ok(())
        },
    },
    Row {
        name: "max-pending",
        doc: "Connections and requests of each port that wait for a connection to an endpoint. More are reset, or \
              answered 503.",
        apply: |options, value| {
            options.policy.admission.max_pending = Some(threshold(value)?);
            Ok(())
        },
    },
    Row {
        name: "proxy-protocol",
        doc: "`v1` or `v2`: connections to endpoints begin with a PROXY protocol header.",
        apply: |options, value| {
            options.connection.send_proxy_protocol = Some(match value {
                "v1" => ProxyProtocol::V1,
                "v2" => ProxyProtocol::V2,
                _ => return Err("v1 or v2"),
            });
            Ok(())
        },
    },
    Row {
        name: "slow-start",
        doc: "An endpoint that is new, or comes back, gets a share that grows to a full one over this time; `0s` \
              (default) for at once.",
        apply: |options, value| {
            let window = humantime::parse_duration(value).ok().filter(|window| *window <= LONGEST);
            options.policy.slow_start = window.ok_or("a duration such as 30s, or 0s for none")?;
            Ok(())
        },
    },
    Row {
        name: "weights",
        doc: "Shares under `balance: weighted`: pairs such as `kubia-a=3, 10.0.0.2=1`, of a Pod's name or IP and a \
              number; who is not named has 1.",
        apply: |options, value| {
            let expected = "pairs of a Pod's name or IP and a number, such as \"kubia-a=3, 10.0.0.2=1\"";
            for pair in value.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
                let (who, weight) = pair.split_once('=').ok_or(expected)?;
                options.weights.insert(who.trim().to_owned(), weight.trim().parse().map_err(|_| expected)?);
            }
            Ok(())
        },
    },
];

/// Whether there is one of this name, without the prefix.
pub(crate) fn has(name: &str) -> bool {
    ROWS.iter().any(|row| row.name == name)
}

/// Names and meanings, for the page.
#[cfg(test)]
pub(crate) fn docs() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROWS.iter().map(|row| (row.name, row.doc))
}

/// Questions at a shorter interval would be a load of their own.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Longer than anybody means; what is added to a time stays a time.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// More than nothing, and no longer than anybody means.
fn duration(value: &str) -> Option<Duration> {
    humantime::parse_duration(value).ok().filter(|duration| *duration > Duration::ZERO && *duration <= LONGEST)
}

fn threshold(value: &str) -> Result<u32, &'static str> {
    value.parse().ok().filter(|n| *n > 0).ok_or("a number from 1")
}

/// What goes into a request line as it is.
fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.is_ascii() && !path.contains('#') && PathAndQuery::try_from(path).is_ok()
}

fn ejection(options: &mut ServiceOptions) -> &mut Ejection {
    options.policy.ejection.get_or_insert_default()
}

#[cfg(test)]
#[path = "service_annotations_tests.rs"]
mod tests;
