//! The ports of the nodes: node ports and health check node ports, which share one range as at the API server.

use tidegate_crd::core::Service;
use tidegate_l4::model::Protocol;

use super::{Desk, Wish};
use crate::compile::{objects::Stored, service_type::ServiceType};

/// Node ports the API server accepts (`--service-node-port-range`'s default).
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// Where handing out begins: the band below is left to those who choose for themselves (KEP-3668).
const FIRST_DYNAMIC_NODE_PORT: u16 = 30_086;

/// Field of the port on which load balancers ask whether this node has endpoints.
const HEALTH_CHECK_FIELD: &str = "spec.healthCheckNodePort";

impl Wish<'_> {
    fn wants_node_ports(&self) -> bool {
        let spec = self.stored.object.spec.as_ref();
        match self.kind {
            ServiceType::NodePort => true,
            ServiceType::LoadBalancer => spec.and_then(|s| s.allocate_load_balancer_node_ports).unwrap_or(true),
            ServiceType::ClusterIp | ServiceType::Headless | ServiceType::ExternalName => false,
        }
    }

    /// The API server gives one to a LoadBalancer that keeps to local endpoints, whether or not it has other node ports.
    fn wants_health_check_port(&self) -> bool {
        let policy = self.stored.object.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref());
        self.kind == ServiceType::LoadBalancer && policy == Some("Local")
    }

    fn explicit_health_check_port(&self) -> Option<i32> {
        self.stored.object.spec.as_ref()?.health_check_node_port.filter(|number| *number != 0)
    }
}

impl Desk<'_> {
    pub(super) fn grant_node_ports(&mut self, wish: &mut Wish<'_>) {
        if !matches!(wish.kind, ServiceType::NodePort | ServiceType::LoadBalancer) {
            return;
        }
        for (i, (protocol, port, explicit)) in ports(wish.stored) {
            let Some(number) = explicit else { continue };
            let field = format!("spec.ports[{i}].nodePort");
            if let Some(number) = self.take_explicit(wish, &field, protocol, number) {
                self.give_node_port(wish, i, (protocol, port), number);
            }
        }
    }

    pub(super) fn grant_health_check_port(&mut self, wish: &mut Wish<'_>) {
        let Some(number) = wish.explicit_health_check_port() else { return };
        if !wish.wants_health_check_port() {
            let fix = "Leave it out, or write type: LoadBalancer and externalTrafficPolicy: Local.";
            let message =
                "only a LoadBalancer with externalTrafficPolicy Local is health-checked; the port is not used.";
            return wish.report.warning("UnusedHealthCheckNodePort", HEALTH_CHECK_FIELD, message, fix);
        }
        if let Some(number) = self.take_explicit(wish, HEALTH_CHECK_FIELD, Protocol::Tcp, number) {
            self.give_health_check_port(wish, number);
        }
    }

    /// An explicit number, if it can be had.
    fn take_explicit(&mut self, wish: &mut Wish<'_>, field: &str, protocol: Protocol, number: i32) -> Option<u16> {
        let (low, high) = (NODE_PORTS.start(), NODE_PORTS.end());
        let Some(number) = u16::try_from(number).ok().filter(|number| NODE_PORTS.contains(number)) else {
            let fix = format!("Choose one of {low}-{high}, or leave it out to be given one.");
            let message = format!("{number} is outside the node port range {low}-{high}.");
            wish.report.error("NodePortOutOfRange", field, message, fix);
            return None;
        };
        if !self.taken_ports.insert((protocol, number)) {
            let fix = "Choose another, or leave it out to be given one.";
            let message =
                format!("node port {number}/{protocol} belongs to {} already.", self.holder(protocol, number));
            wish.report.error("NodePortConflict", field, message, fix);
            return None;
        }
        Some(number)
    }

    /// Who has a port. Conflicts are rare, so it is looked for only then.
    fn holder(&self, protocol: Protocol, number: u16) -> String {
        let held = &self.out.allocations;
        let node_ports = held.node_ports.iter().map(|((name, protocol, _), port)| (name, *protocol, *port));
        let health_checks = held.health_check_ports.iter().map(|(name, port)| (name, Protocol::Tcp, *port));
        let holder = node_ports.chain(health_checks).find(|(_, p, n)| (*p, *n) == (protocol, number));
        holder.map_or_else(|| "another port".to_owned(), |(name, ..)| format!("Service {name}"))
    }

    /// What a Service had before, it keeps.
    pub(super) fn keep_ports(&mut self, wish: &mut Wish<'_>) {
        if wish.wants_node_ports() {
            for (i, (protocol, port, explicit)) in ports(wish.stored) {
                let Some(&number) = self.previous.node_ports.get(&(wish.name.clone(), protocol, port)) else {
                    continue;
                };
                if explicit.is_none() && NODE_PORTS.contains(&number) && self.taken_ports.insert((protocol, number)) {
                    self.give_node_port(wish, i, (protocol, port), number);
                }
            }
        }
        if wish.wants_health_check_port()
            && wish.explicit_health_check_port().is_none()
            && let Some(&number) = self.previous.health_check_ports.get(wish.name)
            && NODE_PORTS.contains(&number)
            && self.taken_ports.insert((Protocol::Tcp, number))
        {
            self.give_health_check_port(wish, number);
        }
    }

    pub(super) fn hand_out_ports(&mut self, wish: &mut Wish<'_>, seed: u64) {
        if wish.wants_node_ports() {
            for (i, (protocol, port, explicit)) in ports(wish.stored) {
                if wish.granted.node_ports[i].is_none() && explicit.is_none() {
                    match self.free_port(protocol, seed.wrapping_add(u64::from(port))) {
                        Some(number) => self.give_node_port(wish, i, (protocol, port), number),
                        None => no_node_port(wish, &format!("spec.ports[{i}]")),
                    }
                }
            }
        }
        if wish.wants_health_check_port()
            && wish.granted.health_check_port.is_none()
            && wish.explicit_health_check_port().is_none()
        {
            // Port 0 is no port of a Service: the place to begin is this port's own.
            match self.free_port(Protocol::Tcp, seed) {
                Some(number) => self.give_health_check_port(wish, number),
                None => no_node_port(wish, "spec.externalTrafficPolicy"),
            }
        }
    }

    fn free_port(&mut self, protocol: Protocol, seed: u64) -> Option<u16> {
        let dynamic = u64::from(NODE_PORTS.end() - FIRST_DYNAMIC_NODE_PORT) + 1;
        let upper = (0..dynamic).map(|i| FIRST_DYNAMIC_NODE_PORT + ((seed + i) % dynamic) as u16);
        let number = upper
            .chain(*NODE_PORTS.start()..FIRST_DYNAMIC_NODE_PORT)
            .find(|n| !self.taken_ports.contains(&(protocol, *n)))?;
        self.taken_ports.insert((protocol, number));
        Some(number)
    }

    fn give_node_port(&mut self, wish: &mut Wish<'_>, index: usize, (protocol, port): (Protocol, u16), number: u16) {
        wish.granted.node_ports[index] = Some(number);
        self.out.allocations.node_ports.insert((wish.name.clone(), protocol, port), number);
    }

    fn give_health_check_port(&mut self, wish: &mut Wish<'_>, number: u16) {
        wish.granted.health_check_port = Some(number);
        self.out.allocations.health_check_ports.insert(wish.name.clone(), number);
    }
}

fn no_node_port(wish: &mut Wish<'_>, field: &str) {
    let fix = "Delete a Service of type NodePort or LoadBalancer.";
    wish.report.error("NoNodePort", field, "every node port is taken.", fix);
}

/// Index, protocol, port and explicit node port of the ports that make sense; the others are reported elsewhere.
fn ports(stored: &Stored<Service>) -> impl Iterator<Item = (usize, (Protocol, u16, Option<i32>))> {
    let ports = stored.object.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.enumerate().filter_map(|(i, port)| {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(_) => return None,
        };
        Some((i, (protocol, u16::try_from(port.port).ok()?, port.node_port.filter(|n| *n != 0))))
    })
}
