//! One port of a Service as written: whether it can be served, and if not, what is wrong with it.

use tidegate_crd::core::{IntOrString, ServicePort as WirePort, ServiceSpec};
use tidegate_l4::model::{Protocol, ServicePort};

/// A port that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked<'a> {
    pub(crate) label: &'a str,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

/// Why a port cannot be served.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) reason: &'static str,
    /// The field within the port.
    pub(crate) field: &'static str,
    pub(crate) message: String,
    pub(crate) fix: &'static str,
}

/// Checks a port against the rules of the API server; `before` are the ports of the same Service that were accepted already.
pub(crate) fn check<'a>(wire: &'a WirePort, spec: &ServiceSpec, before: &[ServicePort]) -> Result<Checked<'a>, Fault> {
    let fault = |reason, field, message: String, fix| Err(Fault { reason, field, message, fix });
    let number = match u16::try_from(wire.port) {
        Ok(number) if number != 0 => number,
        _ => {
            let message = format!("{} is not a port number.", wire.port);
            return fault("InvalidPort", "port", message, "Write a number from 1 to 65535.");
        }
    };
    let protocol = protocol(wire)?;
    if let Some(IntOrString::Int(target)) = wire.target_port
        && !(0..=65_535).contains(&target)
    {
        let message = format!("{target} is not a port number.");
        let fix = "Write a number from 1 to 65535, or the name of a container's port.";
        return fault("InvalidPort", "targetPort", message, fix);
    }
    let label = wire.name.as_deref().unwrap_or_default();
    if label.is_empty() && spec.ports.as_ref().is_some_and(|ports| ports.len() > 1) {
        let message = "a Service with several ports must name each of them.".to_owned();
        return fault("UnnamedPort", "name", message, "Give the port a name.");
    }
    if before.iter().any(|port| !label.is_empty() && *port.name.port == *label) {
        let message = format!("another port is named {label:?} already.");
        return fault("DuplicatePort", "name", message, "Give the port another name.");
    }
    if before.iter().any(|port| port.port == number && port.name.protocol == protocol) {
        let message = format!("another port has number {number}/{protocol} already.");
        return fault("DuplicatePort", "port", message, "Remove one of them.");
    }
    Ok(Checked { label, number, protocol })
}

fn protocol(wire: &WirePort) -> Result<Protocol, Fault> {
    let fault = |reason, message| Err(Fault { reason, field: "protocol", message, fix: "Write TCP or UDP." });
    match wire.protocol.as_deref() {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => fault("UnsupportedProtocol", "a user-space proxy cannot carry SCTP.".to_owned()),
        Some(other) => fault("InvalidProtocol", format!("there is no protocol {other:?}.")),
    }
}
