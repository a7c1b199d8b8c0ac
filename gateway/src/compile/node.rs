//! Our own Node: where it is, and at which addresses it answers.

use std::{net::IpAddr, sync::Arc};

use tidegate_crd::{Kind, core::Node};
use tidegate_l4::model::Place;

use super::{
    finding::{Finding, Report},
    objects::{Name, Objects, Stored},
    settings::Settings,
    slices,
};

/// Where this node is: its zone is what its Node object says.
pub(super) fn place(objects: &Objects, settings: &Settings) -> Place {
    let zone = own(objects, settings)
        .and_then(|node| node.object.metadata.labels.as_ref()?.get(slices::ZONE_LABEL))
        .map(|zone| zone.as_str().into());
    Place { node: settings.node_name.clone(), zone }
}

/// The addresses that answer node ports: those of the command line, else the `InternalIP`s of our own Node, as with kube-proxy.
pub(super) fn addresses(objects: &Objects, settings: &Settings) -> Vec<IpAddr> {
    if !settings.node_addresses.is_empty() {
        return settings.node_addresses.clone();
    }
    let status = own(objects, settings).and_then(|node| node.object.status.as_ref());
    let addresses = status.into_iter().flat_map(|status| status.addresses.iter().flatten());
    let mut ips = Vec::new();
    for ip in addresses.filter(|one| one.type_ == "InternalIP").filter_map(|one| one.address.parse().ok()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips
}

/// Says so if node ports are to be opened here, and nothing says where.
pub(super) fn finding(addresses: &[IpAddr], objects: &Objects, settings: &Settings) -> Option<Finding> {
    if !settings.serves_node || !addresses.is_empty() {
        return None;
    }
    let name = &*settings.node_name;
    let origin = tidegate_crd::Origin::synthetic("--node");
    let mut report = Report::on(Kind::Node, "", name, &origin);
    let message = match own(objects, settings) {
        Some(_) => "it has no InternalIP, so no node port is open here.",
        None => "there is no such Node, or it may not be read; no node port is open here, and \"local\" means nothing.",
    };
    let fix = "Say which Node this is with --node-name (in a pod: NODE_NAME from spec.nodeName), or which addresses with --node-address.";
    report.error("NoNodeAddress", "status.addresses", message, fix);
    report.into_findings().pop()
}

fn own<'a>(objects: &'a Objects, settings: &Settings) -> Option<&'a Arc<Stored<Node>>> {
    objects.nodes.get(&Name::new("", &settings.node_name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn node_ports_are_at_the_internal_ips_of_our_own_node() {
        let text = "{apiVersion: v1, kind: Node, metadata: {name: here}, status: {addresses: [{type: Hostname, address: here}, \
                    {type: InternalIP, address: 10.0.0.1}, {type: ExternalIP, address: 192.0.2.1}, {type: InternalIP, address: \
                    'fd00::1'}, {type: InternalIP, address: 10.0.0.1}]}}\n---\n{apiVersion: v1, kind: Node, metadata: {name: bare}}";
        let mut objects = Objects::default();
        for document in tidegate_crd::yaml::parse(Path::new("test.yaml"), text).documents {
            objects.apply(document);
        }
        let of = |name: &str, given: &[&str]| {
            let node_addresses: Vec<IpAddr> = given.iter().map(|ip| ip.parse().unwrap()).collect();
            let settings =
                Settings { node_name: name.into(), node_addresses, serves_node: true, ..Settings::default() };
            let addresses = addresses(&objects, &settings);
            let finding = finding(&addresses, &objects, &settings);
            let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            (addresses, finding.map(|finding| finding.message))
        };
        assert_eq!(of("here", &[]), ("10.0.0.1 fd00::1".to_owned(), None));
        assert_eq!(of("here", &["10.9.9.9"]), ("10.9.9.9".to_owned(), None));
        assert!(of("bare", &[]).1.unwrap().starts_with("it has no InternalIP"));
        assert!(of("elsewhere", &[]).1.unwrap().starts_with("there is no such Node"));
    }
}
