//! The pods of the demo: starting those that the manifests describe, and one more.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
};

use anyhow::Context;
use http::HeaderValue;
use tidegate_crd::{Document, Object, core::Pod as WirePod};

use crate::pod::{Listen, Pod, PodOptions};

/// A pod that was started.
#[derive(Debug)]
pub(super) struct DemoPod {
    pub(super) pod: Pod,
    /// Its label `app`.
    pub(super) app: String,
    /// Its IP address.
    pub(super) ip: IpAddr,
    /// It is not where its manifest said: the system lacks that address.
    pub(super) is_elsewhere: bool,
}

/// Starts every Pod that the manifests describe, on the addresses they give it; where the system lacks these, on free ports of
/// 127.0.0.1, and the manifest is changed to say so. The scripts of `page` may read what they answer.
pub(super) async fn start_all(
    documents: &mut [Document],
    page: &Arc<OnceLock<HeaderValue>>,
) -> anyhow::Result<Vec<DemoPod>> {
    let mut pods = Vec::new();
    for document in documents {
        let Object::Pod(manifest) = &mut document.object else { continue };
        match start(manifest, page).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(error).context("another demo seems to be running");
            }
            started => pods.push(started?),
        }
    }
    let moved: Vec<&str> = pods.iter().filter(|pod| pod.is_elsewhere).map(|pod| pod.pod.name()).collect();
    if !moved.is_empty() {
        eprintln!(
            "this system lacks the addresses of {}, which run on ports of 127.0.0.1 instead. Linux answers on all of \
             127.0.0.0/8; elsewhere the ClusterIPs and LoadBalancer IPs cannot be shown, but node ports, Ingresses and DNS can",
            moved.join(", ")
        );
    }
    Ok(pods)
}

/// Starts one Pod, likewise.
pub(super) async fn start(manifest: &mut WirePod, page: &Arc<OnceLock<HeaderValue>>) -> io::Result<DemoPod> {
    let app = manifest.metadata.labels.as_ref().and_then(|labels| labels.get("app")).cloned().unwrap_or_default();
    let (ip, options) = options(manifest, page)?;
    match Pod::start(options).await {
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            let (ip, pod) = start_elsewhere(manifest, page).await?;
            Ok(DemoPod { pod, app, ip, is_elsewhere: true })
        }
        started => Ok(DemoPod { pod: started?, app, ip, is_elsewhere: false }),
    }
}

/// Starts a Pod on free ports of 127.0.0.1, and writes into its manifest where it is.
async fn start_elsewhere(manifest: &mut WirePod, page: &Arc<OnceLock<HeaderValue>>) -> io::Result<(IpAddr, Pod)> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    set_ip(manifest, here);
    let (_, mut options) = options(manifest, page)?;
    options.http.iter_mut().chain(&mut options.udp).for_each(|addr| addr.set_port(0));
    let pod = Pod::start(options).await?;
    let (mut http, mut udp) = (pod.http_addrs().iter(), pod.udp_addrs().iter());
    let containers = manifest.spec.iter_mut().flat_map(|spec| &mut spec.containers);
    for port in containers.flat_map(|container| container.ports.iter_mut().flatten()) {
        let addr = if port.protocol.as_deref() == Some("UDP") { udp.next() } else { http.next() };
        if let Some(addr) = addr {
            port.container_port = addr.port().into();
        }
    }
    Ok((here, pod))
}

/// Gives a Pod an address.
pub(super) fn set_ip(manifest: &mut WirePod, ip: IpAddr) {
    manifest.status.get_or_insert_default().pod_ip = Some(ip.to_string());
}

/// What the manifest of a Pod says, and what is the same for all.
fn options(manifest: &WirePod, page: &Arc<OnceLock<HeaderValue>>) -> io::Result<(IpAddr, PodOptions)> {
    let name = manifest.metadata.name.clone().unwrap_or_default();
    let ip = manifest.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
    let ip = ip.ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, format!("pod {name} has no address")))?;
    let ports =
        manifest.spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| container.ports.iter().flatten());
    let listens = ports.filter_map(|port| {
        let addr = SocketAddr::new(ip, u16::try_from(port.container_port).ok()?);
        Some(if port.protocol.as_deref() == Some("UDP") { Listen::Udp(addr) } else { Listen::Http(addr) })
    });
    let options = PodOptions::new(name, listens);
    Ok((ip, PodOptions { page: page.clone(), log: true, ..options }))
}
