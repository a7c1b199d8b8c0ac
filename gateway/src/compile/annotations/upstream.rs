//! How a pod is chosen, and other names of a host.

use super::{
    Row,
    Scope::{Host, Upstream},
    ignored,
    values::boolean,
    yes,
};
use crate::{compile::ingress::host, route::policy::LoadBalance, route::template::Template};

pub(super) const ROWS: &[Row] = &[
    yes(
        "load-balance",
        "`round_robin`, or `ewma` (the faster of two drawn at random); session cookies and `upstream-hash-by` come first.",
        Upstream,
        |options, value| {
            options.upstream.load_balance = Some(match value {
                "round_robin" => LoadBalance::RoundRobin,
                "ewma" => LoadBalance::Ewma,
                _ => return Err("round_robin or ewma".into()),
            });
            Ok(())
        },
    ),
    yes(
        "server-alias",
        "More names of the host, apart by commas. Regular expressions are not supported.",
        Host,
        |options, value| {
            let mut result = Ok(());
            for alias in value.split(',').map(str::trim).filter(|alias| !alias.is_empty()) {
                match host::parse(alias) {
                    Ok(name) => options.aliases.push(name),
                    Err(_) => result = Err("host names; regular expressions are not supported".into()),
                }
            }
            result
        },
    ),
    yes(
        "service-upstream",
        "`true`: the Service's ClusterIP is the only endpoint, and kube-proxy chooses the pod.",
        Upstream,
        |options, value| boolean(value).map(|value| options.upstream.service_upstream = value),
    ),
    yes(
        "upstream-hash-by",
        "Requests with the same text go to the same pod, such as `$request_uri` or `$http_x_user`.",
        Upstream,
        |options, value| {
            let template = Template::parse(value).map_err(|error| format!("a text of known variables: {error}"))?;
            options.upstream.hash_by = Some(template);
            Ok(())
        },
    ),
    ignored("upstream-hash-by-subset", "Requests with the same text go to one pod, not to one of a few.", Upstream),
    ignored(
        "upstream-hash-by-subset-size",
        "Requests with the same text go to one pod, not to one of a few.",
        Upstream,
    ),
];
