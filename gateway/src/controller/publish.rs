//! `Publish`: the addresses at which clients reach Tidegate, which the status of Ingresses shows.

use std::{net::IpAddr, sync::Arc};

use kube::{
    Api, Client,
    api::{ListParams, ObjectList},
};
use tidegate_crd::{
    core::{EndpointSlice, LoadBalancerIngress, Service},
    ingress::{IngressLoadBalancerIngress, IngressPortStatus},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    limits::{PUBLISH_LOOK, PUBLISH_TIMEOUT},
    status::ControllerStatus,
};
use crate::control::kubernetes::failure::Failure;

/// Where the addresses come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Publish {
    /// None is known, and no status is written.
    #[default]
    Nothing,
    /// These: IP addresses and names.
    Addresses(Vec<Address>),
    /// Those of a Service.
    Service {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

/// An address to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name.
    Name(String),
}

impl Address {
    fn entry(&self) -> IngressLoadBalancerIngress {
        match self {
            Self::Ip(ip) => entry(Some(ip.to_string()), None),
            Self::Name(name) => entry(None, Some(name.clone())),
        }
    }
}

/// What is to be shown, in order; `None` while it is not known.
pub(super) type Published = Option<Arc<[IngressLoadBalancerIngress]>>;

/// Keeps `published` up to date while we lead.
pub(super) async fn run(
    client: Client,
    publish: Publish,
    published: watch::Sender<Published>,
    mut leads: watch::Receiver<bool>,
    status: Arc<ControllerStatus>,
) {
    let fixed = match &publish {
        Publish::Nothing => Some(Arc::default()),
        Publish::Addresses(addresses) => Some(in_order(addresses.iter().map(Address::entry).collect())),
        Publish::Service { .. } => None,
    };
    published.send_replace(fixed);
    let Publish::Service { namespace, name } = publish else { return published.closed().await };
    let what = format!("Service {namespace}/{name} of --publish-service");
    while leads.wait_for(|leads| *leads).await.is_ok() {
        let keep_looking = async {
            loop {
                let limited = timeout(PUBLISH_TIMEOUT, look(&client, &namespace, &name)).await;
                match limited.unwrap_or_else(|_| Err(format!("no answer within {} s", PUBLISH_TIMEOUT.as_secs()))) {
                    Ok(entries) => {
                        status.set_unpublished(None);
                        published.send_if_modified(|before| {
                            let changed = before.as_ref() != Some(&entries);
                            *before = Some(entries);
                            changed
                        });
                    }
                    Err(why) => status.set_unpublished(Some(format!("{what}: {why}"))),
                }
                sleep(PUBLISH_LOOK).await;
            }
        };
        tokio::select! {
            () = keep_looking => {}
            _ = leads.wait_for(|leads| !*leads) => {}
        }
        // Whoever leads next must not write what was so in an earlier term.
        published.send_replace(None);
        status.set_unpublished(None);
    }
}

/// The addresses of a Service now.
async fn look(client: &Client, namespace: &str, name: &str) -> Result<Arc<[IngressLoadBalancerIngress]>, String> {
    let (services, slices) = (
        Api::<Service>::namespaced(client.clone(), namespace),
        Api::<EndpointSlice>::namespaced(client.clone(), namespace),
    );
    let failed = |error: kube::Error| Failure::of_client("list", &error).to_string();
    // Listed, not read: that is a permission we have anyway.
    let named = ListParams::default().fields(&format!("metadata.name={name}"));
    let found: ObjectList<Service> = services.list(&named).await.map_err(failed)?;
    let Some(service) = found.items.into_iter().find(|service| service.metadata.name.as_deref() == Some(name)) else {
        return Err("there is none".to_owned());
    };
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let endpoints =
        if is_headless(&service) { slices.list(&of_service).await.map_err(failed)?.items } else { Vec::new() };
    Ok(addresses(&service, &endpoints))
}

/// What clients reach a Service at. As ingress-nginx has it, but that a headless Service has the addresses of its ready endpoints: with
/// `hostNetwork` these are the nodes'.
fn addresses(service: &Service, endpoints: &[EndpointSlice]) -> Arc<[IngressLoadBalancerIngress]> {
    let spec = service.spec.clone().unwrap_or_default();
    let of_ips = |ips: Vec<String>| ips.into_iter().map(|ip| entry(Some(ip), None)).collect::<Vec<_>>();
    let external = of_ips(spec.external_ips.clone().unwrap_or_default());
    let headless = is_headless(service);
    let in_cluster = || {
        let all = spec.cluster_ips.clone().unwrap_or_default();
        of_ips(if all.is_empty() { spec.cluster_ip.clone().into_iter().collect() } else { all })
    };
    let entries = match spec.type_.as_deref() {
        Some("ExternalName") => spec.external_name.clone().map(|name| entry(None, Some(name))).into_iter().collect(),
        Some("LoadBalancer") => {
            let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let given = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
            given.map(of_load_balancer).chain(external).collect()
        }
        _ if headless => of_ips(ready(endpoints)),
        Some("NodePort") if !external.is_empty() => external,
        _ => in_cluster(),
    };
    in_order(entries)
}

fn is_headless(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let is_none = |ip: &String| ip == "None";
    spec.is_some_and(|spec| {
        spec.cluster_ip.as_ref().is_some_and(is_none) && spec.type_.as_deref() != Some("ExternalName")
    })
}

fn ready(slices: &[EndpointSlice]) -> Vec<String> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    // Not to know counts as ready (reference: EndpointSlice, `conditions.ready`).
    let ready = endpoints
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    ready.flat_map(|endpoint| endpoint.addresses.clone()).collect()
}

fn of_load_balancer(given: &LoadBalancerIngress) -> IngressLoadBalancerIngress {
    let ports = given.ports.as_ref().map(|ports| {
        let port = |port: &tidegate_crd::core::PortStatus| IngressPortStatus {
            port: port.port,
            protocol: port.protocol.clone(),
            error: port.error.clone(),
        };
        ports.iter().map(port).collect()
    });
    IngressLoadBalancerIngress { ip: given.ip.clone(), hostname: given.hostname.clone(), ports }
}

fn entry(ip: Option<String>, hostname: Option<String>) -> IngressLoadBalancerIngress {
    IngressLoadBalancerIngress { ip, hostname, ports: None }
}

/// Sorted, each once: the same addresses are the same list.
fn in_order(mut entries: Vec<IngressLoadBalancerIngress>) -> Arc<[IngressLoadBalancerIngress]> {
    let key = |entry: &IngressLoadBalancerIngress| {
        let ip: Option<IpAddr> = entry.ip.as_ref().and_then(|ip| ip.parse().ok());
        (ip, entry.ip.clone(), entry.hostname.clone())
    };
    entries.sort_by_key(key);
    entries.dedup_by_key(|entry| key(entry));
    entries.into()
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        path::Path,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use http::{Request, Response};
    use kube::client::Body;
    use tidegate_crd::{Object, yaml};

    use super::*;

    fn of(spec: &str, status: &str, endpoints: &str) -> Vec<String> {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{{spec}}}, status: {{{status}}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: a-1}}, addressType: IPv4, \
             endpoints: [{endpoints}]}}"
        );
        let parsed = yaml::parse(Path::new("test.yaml"), &text);
        assert_eq!(parsed.problems, []);
        let [Object::Service(service), Object::EndpointSlice(slice)] =
            [0, 1].map(|at| parsed.documents[at].object.clone())
        else {
            panic!("a Service and its endpoints")
        };
        let entries = addresses(&service, &[*slice]);
        entries.iter().map(|entry| entry.ip.clone().or_else(|| entry.hostname.clone()).unwrap()).collect()
    }

    #[test]
    fn a_service_is_reached_at_what_its_type_says() {
        let balancer = "loadBalancer: {ingress: [{ip: 192.0.2.10}, {hostname: lb.example.com}, {ip: 192.0.2.9}]}";
        let external = "externalIPs: [198.51.100.1, 192.0.2.9]";
        let all = "type: LoadBalancer, clusterIP: 10.0.0.1";
        assert_eq!(of(all, balancer, ""), ["lb.example.com", "192.0.2.9", "192.0.2.10"]);
        let with_external = of(&format!("{all}, {external}"), balancer, "");
        assert_eq!(with_external, ["lb.example.com", "192.0.2.9", "192.0.2.10", "198.51.100.1"]);
        assert_eq!(of(all, "", ""), [] as [&str; 0], "it is pending");
        assert_eq!(of("clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, 'fd00::1']", "", ""), ["10.0.0.1", "fd00::1"]);
        assert_eq!(of("type: NodePort, clusterIP: 10.0.0.1", "", ""), ["10.0.0.1"]);
        let node_port = of(&format!("type: NodePort, clusterIP: 10.0.0.1, {external}"), "", "");
        assert_eq!(node_port, ["192.0.2.9", "198.51.100.1"]);
        assert_eq!(of("type: ExternalName, externalName: edge.example.com", "", ""), ["edge.example.com"]);
    }

    #[test]
    fn a_headless_service_is_reached_at_its_ready_endpoints() {
        let endpoints = "{addresses: [10.89.0.12]}, {addresses: [10.89.0.11], conditions: {ready: true}}, \
                         {addresses: [10.89.0.13], conditions: {ready: false}}, {addresses: [10.89.0.12]}";
        assert_eq!(of("clusterIP: None", "", endpoints), ["10.89.0.11", "10.89.0.12"]);
    }

    /// Between two terms nobody looks: the Service may have other addresses by then.
    #[tokio::test(start_paused = true)]
    async fn a_new_term_does_not_begin_with_what_the_last_one_knew() {
        const SERVICES: &str = r#"{"metadata": {}, "items": [{"metadata": {"name": "edge", "namespace": "n"},
            "spec": {"type": "ExternalName", "externalName": "old.example.com"}}]}"#;
        let answers = Arc::new(AtomicBool::new(true));
        let service = tower::service_fn({
            let answers = answers.clone();
            move |_: Request<Body>| {
                let answers = answers.load(Relaxed);
                async move {
                    if !answers {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, Infallible>(Response::new(Body::from(SERVICES.as_bytes().to_vec())))
                }
            }
        });
        let (lead, leads) = watch::channel(true);
        let (publishes, mut published) = watch::channel(None);
        let publish = Publish::Service { namespace: "n".into(), name: "edge".into() };
        tokio::spawn(run(Client::new(service, "default"), publish, publishes, leads, Arc::default()));
        let known = published.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert_eq!(known[0].hostname.as_deref(), Some("old.example.com"));
        answers.store(false, Relaxed);
        lead.send_replace(false);
        sleep(PUBLISH_LOOK).await;
        lead.send_replace(true);
        sleep(PUBLISH_LOOK).await;
        assert_eq!(*published.borrow(), None);
        answers.store(true, Relaxed);
        published.wait_for(Option::is_some).await.unwrap();
    }

    #[test]
    fn errors_of_ports_go_along() {
        let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer}, status: {loadBalancer: \
                    {ingress: [{ip: 192.0.2.1, ports: [{port: 80, protocol: TCP, error: NoQuota}]}]}}}";
        let Object::Service(service) = yaml::parse(Path::new("a.yaml"), text).documents.remove(0).object else {
            panic!("a Service")
        };
        let ports = addresses(&service, &[])[0].ports.clone().unwrap();
        assert_eq!((ports[0].port, ports[0].error.as_deref()), (80, Some("NoQuota")));
    }
}
