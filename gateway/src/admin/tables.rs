//! The tables of `tidegate get`, column by column as kubectl prints them (`k8s.io/kubernetes/pkg/printers`).
//!
//! One thing differs: the column NAMESPACE is there whenever the objects are of more than one namespace. kubectl shows one
//! namespace at a time and has the column with `--all-namespaces`; a process that serves files has no current namespace.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::view::{ConfigView, EndpointView, IngressView, ServiceView};

/// Spaces between columns.
const PADDING: usize = 3;

/// How many endpoints or hosts are written out; the others are counted.
const SHOWN: usize = 3;

/// Bytes of a LoadBalancer's addresses beyond which they are cut, unless the table is wide.
const ADDRESS_WIDTH: usize = 16;

/// What kubectl prints when there is nothing to print.
const NOTHING: &str = "No resources found\n";

/// Which objects to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Services.
    Services,
    /// The endpoints of Services.
    Endpoints,
    /// Ingresses.
    Ingresses,
}

/// `kubectl get services`, with `-o wide` if `wide`.
pub fn services(view: &ConfigView, wide: bool) -> String {
    services_at(view, wide, now())
}

/// `kubectl get endpoints`, with those marked that are not chosen at present. If `wide`, a column says why; kubectl has nothing
/// more to say then. A Service that is an ExternalName has none.
pub fn endpoints(view: &ConfigView, wide: bool) -> String {
    endpoints_at(view, wide, now())
}

/// `kubectl get ingresses`, with `-o wide` if `wide`.
pub fn ingresses(view: &ConfigView, wide: bool) -> String {
    ingresses_at(view, wide, now())
}

/// The objects as `{"items": […]}`, with the fields of `/config`.
pub fn json(view: &ConfigView, table: Table) -> String {
    let endpoints =
        |service: &ServiceView| json!({ "namespace": service.namespace, "name": service.name, "ports": service.ports });
    let items: Value = match table {
        Table::Services => json!(view.services),
        Table::Endpoints => with_endpoints(view).map(endpoints).collect(),
        Table::Ingresses => json!(view.ingresses),
    };
    format!("{:#}\n", json!({ "items": items }))
}

fn services_at(view: &ConfigView, wide: bool, now: i64) -> String {
    let row = |service: &ServiceView| {
        let mut cells = vec![
            service.name.clone(),
            service.kind.clone(),
            cluster_ip(service),
            external_ip(service, wide),
            service_ports(service),
            age(service.created, now),
        ];
        cells.extend(wide.then(|| selector(service)));
        (service.namespace.clone(), cells)
    };
    let mut header = vec!["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"];
    header.extend(wide.then_some("SELECTOR"));
    render(&header, view.services.iter().map(row).collect())
}

fn endpoints_at(view: &ConfigView, wide: bool, now: i64) -> String {
    let row = |service: &ServiceView| {
        let mut cells = vec![service.name.clone(), endpoint_list(service), age(service.created, now)];
        cells.extend(wide.then(|| health(service)));
        (service.namespace.clone(), cells)
    };
    let mut header = vec!["NAME", "ENDPOINTS", "AGE"];
    header.extend(wide.then_some("HEALTH"));
    render(&header, with_endpoints(view).map(row).collect())
}

fn ingresses_at(view: &ConfigView, wide: bool, now: i64) -> String {
    let row = |ingress: &IngressView| {
        let cells = vec![
            ingress.name.clone(),
            ingress.class.clone().unwrap_or_else(|| "<none>".to_owned()),
            hosts(ingress),
            cut(ingress.addresses.join(","), wide),
            if ingress.tls { "80, 443" } else { "80" }.to_owned(),
            age(ingress.created, now),
        ];
        (ingress.namespace.clone(), cells)
    };
    render(&["NAME", "CLASS", "HOSTS", "ADDRESS", "PORTS", "AGE"], view.ingresses.iter().map(row).collect())
}

fn with_endpoints(view: &ConfigView) -> impl Iterator<Item = &ServiceView> {
    view.services.iter().filter(|service| service.kind != "ExternalName")
}

fn cluster_ip(service: &ServiceView) -> String {
    match service.cluster_ips.first() {
        Some(ip) => ip.clone(),
        None if service.kind == "ExternalName" => "<none>".to_owned(),
        None => "None".to_owned(),
    }
}

fn external_ip(service: &ServiceView, wide: bool) -> String {
    if service.external.is_empty() {
        return if service.pending { "<pending>" } else { "<none>" }.to_owned();
    }
    let joined = service.external.join(",");
    if service.kind == "LoadBalancer" { cut(joined, wide) } else { joined }
}

fn service_ports(service: &ServiceView) -> String {
    let port = |port: &super::view::PortView| match port.node_port {
        Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
        None => format!("{}/{}", port.port, port.protocol),
    };
    none_if_empty(&service.ports.iter().map(port).collect::<Vec<_>>())
}

fn selector(service: &ServiceView) -> String {
    none_if_empty(&service.selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>())
}

/// Ready endpoints, as an Endpoints object lists them.
fn endpoint_list(service: &ServiceView) -> String {
    let ready = service.ports.iter().flat_map(|port| port.endpoints.iter().filter(|endpoint| endpoint.ready));
    some_of(&ready.map(marked).collect::<Vec<_>>()).unwrap_or_else(|| "<none>".to_owned())
}

fn marked(endpoint: &EndpointView) -> String {
    let mark = match endpoint {
        EndpointView { ejected_seconds: Some(_), .. } => "(ejected)",
        endpoint if fails_its_check(endpoint) => "(failing)",
        EndpointView { slow_start_percent: Some(_), .. } => "(slow start)",
        _ => "",
    };
    format!("{}{mark}", endpoint.address)
}

/// Every endpoint that is not as usual, and how it does; none is left out of this list.
fn health(service: &ServiceView) -> String {
    let say = |endpoint: &EndpointView| {
        let address = &endpoint.address;
        match (endpoint.ejected_seconds, endpoint.slow_start_percent) {
            (Some(seconds), _) => Some(format!("{address} ejected for {seconds}s")),
            _ if fails_its_check(endpoint) => Some(format!("{address} fails its health check")),
            (None, Some(percent)) => Some(format!("{address} has {percent}% of its share")),
            (None, None) => None,
        }
    };
    let unusual: Vec<String> = service.ports.iter().flat_map(|port| port.endpoints.iter().filter_map(say)).collect();
    if unusual.is_empty() { "OK".to_owned() } else { unusual.join(", ") }
}

fn fails_its_check(endpoint: &EndpointView) -> bool {
    endpoint.health_check.as_deref() == Some("failing")
}

/// A rule for any host is not listed, but counted: so does kubectl.
fn hosts(ingress: &IngressView) -> String {
    let (mut named, mut more) = (Vec::new(), false);
    for host in &ingress.hosts {
        more |= named.len() == SHOWN;
        if !more && host != "*" {
            named.push(host.as_str());
        }
    }
    match named.join(",") {
        none if none.is_empty() => "*".to_owned(),
        list if more => format!("{list} + {} more...", ingress.hosts.len() - SHOWN),
        list => list,
    }
}

fn some_of(all: &[String]) -> Option<String> {
    match all.get(..SHOWN) {
        Some(shown) if all.len() > SHOWN => Some(format!("{} + {} more...", shown.join(","), all.len() - SHOWN)),
        _ if all.is_empty() => None,
        _ => Some(all.join(",")),
    }
}

fn none_if_empty(parts: &[String]) -> String {
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

fn cut(addresses: String, wide: bool) -> String {
    match addresses.get(..ADDRESS_WIDTH - 3) {
        Some(beginning) if !wide && addresses.len() > ADDRESS_WIDTH => format!("{beginning}..."),
        _ => addresses,
    }
}

/// Columns as wide as their widest cell and the padding; the last one is not padded.
fn render(header: &[&str], rows: Vec<(String, Vec<String>)>) -> String {
    let Some((first, _)) = rows.first() else { return NOTHING.to_owned() };
    let several = rows.iter().any(|(namespace, _)| namespace != first);
    let with_namespace = |namespace: String, cells: Vec<String>| {
        let mut line: Vec<String> = several.then_some(namespace).into_iter().collect();
        line.extend(cells);
        line
    };
    let mut lines =
        vec![with_namespace("NAMESPACE".to_owned(), header.iter().map(|cell| (*cell).to_owned()).collect())];
    lines.extend(rows.into_iter().map(|(namespace, cells)| with_namespace(namespace, cells)));
    let columns = lines[0].len();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0) + PADDING;
    let widths: Vec<usize> = (0..columns - 1).map(width).chain([0]).collect();
    let line = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<String>() + "\n"
    };
    lines.iter().map(line).collect()
}

fn now() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn age(created: Option<i64>, now: i64) -> String {
    created.map_or_else(|| "<unknown>".to_owned(), |created| human(now.saturating_sub(created)))
}

/// A duration as apimachinery's `HumanDuration` writes it: one unit, or two where the second still matters.
fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2_920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
