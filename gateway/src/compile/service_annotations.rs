//! The `tidegate.io/…` annotations of a Service: a table, one row each.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tidegate_crd::core::Service;
use tidegate_l4::model::{Balance, ConnectionOptions, ProxyProtocol};

use super::finding::Report;

/// The prefix of our own annotations.
const PREFIX: &str = "tidegate.io/";

/// What the annotations of one Service say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServiceOptions {
    pub(crate) balance: Balance,
    pub(crate) connection: ConnectionOptions,
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
                    let names: Vec<String> = ROWS.iter().map(|row| format!("{PREFIX}{}", row.name)).collect();
                    report.warning(
                        "UnknownAnnotation",
                        &field,
                        format!("there is no annotation {name}."),
                        format!("Those of a Service are {}.", names.join(", ")),
                    );
                }
            }
        }
        options
    }

    /// The weight of an endpoint.
    pub(crate) fn weight(&self, pod: &str, ip: IpAddr) -> u32 {
        if self.weights.is_empty() {
            return 1;
        }
        self.weights.get(pod).or_else(|| self.weights.get(&ip.to_string())).copied().unwrap_or(1)
    }
}

/// One annotation.
struct Row {
    /// Its name without the prefix.
    name: &'static str,
    /// Reads a value, or says what it should have been.
    apply: fn(&mut ServiceOptions, &str) -> Result<(), &'static str>,
}

const ROWS: &[Row] = &[
    // Clients begin their connections with a PROXY protocol header, v1 or v2.
    Row {
        name: "accept-proxy-protocol",
        apply: |options, value| {
            options.connection.accept_proxy_protocol = value.parse().map_err(|_| "\"true\" or \"false\"")?;
            Ok(())
        },
    },
    // How an endpoint is chosen where affinity does not decide.
    Row {
        name: "balance",
        apply: |options, value| {
            options.balance = match value {
                "random" => Balance::Random,
                "round-robin" => Balance::RoundRobin,
                "least-in-flight" => Balance::LeastInFlight,
                "weighted" => Balance::Weighted,
                _ => return Err("random, round-robin, least-in-flight or weighted"),
            };
            Ok(())
        },
    },
    // Close a TCP connection on which nothing moved for this long.
    Row {
        name: "idle-timeout",
        apply: |options, value| {
            let timeout =
                humantime::parse_duration(value).map_err(|_| "a duration such as 90s or 1h, or 0s for none")?;
            options.connection.idle_timeout = (timeout > Duration::ZERO).then_some(timeout);
            Ok(())
        },
    },
    // Begin connections to endpoints with a PROXY protocol header.
    Row {
        name: "proxy-protocol",
        apply: |options, value| {
            options.connection.send_proxy_protocol = Some(match value {
                "v1" => ProxyProtocol::V1,
                "v2" => ProxyProtocol::V2,
                _ => return Err("v1 or v2"),
            });
            Ok(())
        },
    },
    // Shares under `balance: weighted`.
    Row {
        name: "weights",
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
