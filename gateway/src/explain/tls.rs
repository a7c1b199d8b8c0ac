//! Which certificate a client is shown, what it must show itself, and whether its request may use the connection.

use tidegate_crd::Kind;
use tidegate_l4::{affinity::UnixMillis, model::ServicePortName, table::Decision};

use super::{
    Outcome, Steps,
    endpoints::{balanced, candidates},
    listed,
    question::Request,
};
use crate::{
    route::{HostName, Owner},
    snapshot::Snapshot,
    tls::{Certificate, ClientAuth, Demand, Serve, Source, TlsConfig, TlsHost},
};

/// What happens before a request is looked at; an outcome if that is all. A request without TLS is of interest only where a host
/// asks for client certificates.
pub(super) fn explain(snapshot: &Snapshot, request: &Request, now: UnixMillis, steps: &mut Steps) -> Option<Outcome> {
    let Some(sni) = request.sni.as_deref() else { return without_tls(snapshot, request, steps) };
    let host = if sni.is_empty() { snapshot.tls.default_host() } else { snapshot.tls.find(sni) };
    let config = match &host.serve {
        Serve::Terminate(config) => config,
        Serve::Passthrough(service) => {
            let detail =
                format!("{} is passed through: its bytes go to Service {service}, and TLS ends at a pod.", host.name);
            steps.add("TLS", detail);
            return Some(passed_through(snapshot, service, now));
        }
    };
    steps.add("TLS", found(sni, host));
    steps.add("Certificate", certificate(host, config));
    if let Source::Ingress { secrets, .. } = &host.source {
        for secret in secrets {
            steps.add_findings(snapshot, Kind::Secret, &secret.namespace, &secret.name);
        }
    }
    if let Some(auth) = &host.client_auth {
        steps.add("Client certificate", client_certificate(auth));
    }
    if !snapshot.tls.serves(config, Some(sni).filter(|sni| !sni.is_empty()), &request.host) {
        let wanted = snapshot.tls.find(&request.host);
        let reason = misdirected(sni, &request.host, config, wanted);
        return Some(Outcome::Status { code: 421, reason });
    }
    closed(host)
}

fn passed_through(snapshot: &Snapshot, service: &ServicePortName, now: UnixMillis) -> Outcome {
    let port = snapshot.table.port(service);
    match port.map(|port| port.decide()) {
        Some(Decision::Choose(set)) => {
            let (rule, shares) = balanced(set, set.balance(), now);
            Outcome::Endpoints { rule, candidates: candidates(set, &shares, None), sticky: false }
        }
        Some(Decision::Refuse(_)) => Outcome::Refused { reason: format!("Service {service} has no usable endpoint") },
        None => Outcome::Refused { reason: format!("there is no Service {service}") },
    }
}

fn without_tls(snapshot: &Snapshot, request: &Request, steps: &mut Steps) -> Option<Outcome> {
    let host = snapshot.tls.find(&request.host);
    let auth = host.client_auth.as_ref()?;
    let detail = format!("{} A request without TLS shows none.", client_certificate(auth));
    steps.add("Client certificate", detail);
    let refused = crate::tls::check_client(auth, None).err()?;
    // A host with a TLS section sends its plain requests to https, unless told not to; that is for the rule to say.
    let reason = refused.text.to_owned();
    (!host.has_section).then(|| Outcome::Status { code: refused.status.as_u16(), reason })
}

fn closed(host: &TlsHost) -> Option<Outcome> {
    let reason = host.client_auth.as_ref()?.closed()?;
    Some(Outcome::Status { code: 403, reason: format!("client certificates cannot be verified: {reason}") })
}

fn found(sni: &str, host: &TlsHost) -> String {
    match &host.name {
        _ if sni.is_empty() => "the client dials an address, so it names no host in the handshake.".to_owned(),
        HostName::Any => format!("nothing is configured for {sni}; it is served like any host."),
        HostName::Wildcard(suffix) => format!("there is nothing for {sni} by name; *.{suffix} takes it."),
        HostName::Exact(name) => format!("{name} is configured by name."),
    }
}

fn certificate(host: &TlsHost, config: &TlsConfig) -> String {
    let names = |owners: &[Owner]| owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let (of, why) = match &host.source {
        Source::Ingress { ingress, secrets, listed: true } => {
            (format!("Secret {}", names(secrets)), format!("Ingress {ingress} lists the host in spec.tls"))
        }
        Source::Ingress { ingress, secrets, listed: false } => {
            (format!("Secret {}", names(secrets)), format!("it fits, among those in spec.tls of Ingress {ingress}"))
        }
        Source::Default { secret, why } => (format!("Secret {secret}, the default one"), why.to_string()),
        Source::StandIn { why } => ("nobody: a stand-in that no client trusts".to_owned(), why.to_string()),
    };
    let choice = match config.certificates.len() {
        0 | 1 => "",
        _ => "; the client's signature algorithms decide which",
    };
    let all: Vec<String> = config.certificates.iter().map(|certificate| described(certificate)).collect();
    format!("of {of}, as {why}{choice}: {}.", all.join("; "))
}

fn described(certificate: &Certificate) -> String {
    let time = x509_parser::time::ASN1Time::from_timestamp(certificate.not_after);
    let until = time.map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string());
    let kind = certificate.key_type.as_str();
    let stapled = if certificate.is_stapled() { ", with an OCSP response" } else { "" };
    format!("{kind}, for {}, until {until}{stapled}", listed(certificate.names.iter()))
}

fn client_certificate(auth: &ClientAuth) -> String {
    let demand = match (auth.closed(), auth.demand) {
        (Some(_), _) => return "one should be asked for, but cannot be verified: nobody is let in.".to_owned(),
        (None, Demand::Required) => "one must be shown, of a CA that is trusted (400 otherwise)",
        (None, Demand::Optional) => "one may be shown, of a CA that is trusted (400 otherwise)",
        (None, Demand::OptionalNoCa) => "one may be shown, of any CA; the pods decide",
    };
    match &auth.match_cn {
        Some(pattern) => format!("{demand}; its subject must match {} (403 otherwise).", pattern.as_str()),
        None => format!("{demand}."),
    }
}

fn misdirected(sni: &str, host: &str, config: &TlsConfig, wanted: &TlsHost) -> String {
    let sni = if sni.is_empty() { "no name" } else { sni };
    match &wanted.serve {
        Serve::Passthrough(_) => format!("the client asked for {sni}, and TLS of {host} ends at a pod"),
        Serve::Terminate(wanted) if !config.is_as_secure_as(wanted) => {
            format!("the client asked for {sni}, and {host} asks other things of its clients")
        }
        Serve::Terminate(_) => {
            format!("the client asked for {sni}, and the certificate it was shown is not for {host}")
        }
    }
}
