//! The Service ports that Ingresses send requests to, each once however many Ingresses use it.

use std::{collections::BTreeMap, sync::Arc};

use ahash::AHashMap;
use tidegate_crd::core::{IntOrString, Service};
use tidegate_l4::model::{Protocol, ServicePortName};

use super::super::{
    annotations::IngressOptions,
    objects::{Name, Objects},
    settings::label,
};
use crate::route::{Backend, UpstreamId, policy::UpstreamOptions, sticky::CookieAffinity};

/// An upstream by name, before its endpoints are known.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamSpec {
    /// `namespace-service-port`.
    pub(crate) name: Arc<str>,
    pub(crate) port: ServicePortName,
    /// Its Service port, for people.
    label: Arc<str>,
    pub(crate) cookie: Option<Arc<CookieAffinity>>,
    pub(crate) options: UpstreamOptions,
    /// The age, by rank, of the Ingress that the options are from: the oldest that uses it.
    decided_by: usize,
}

/// A port of a Service that was found.
pub(crate) struct Port<'a> {
    pub(crate) name: ServicePortName,
    pub(crate) number: u16,
    pub(crate) app_protocol: Option<&'a str>,
}

/// Upstreams by name.
#[derive(Default)]
pub(super) struct Upstreams {
    pub(super) specs: Vec<UpstreamSpec>,
    ids: AHashMap<Arc<str>, usize>,
}

impl Upstreams {
    /// The backend for a port; `written` is how the Ingress names it, `rank` its age among Ingresses. The second is whether an
    /// older Ingress says otherwise about the upstream than this one does.
    pub(super) fn backend(
        &mut self,
        service: &Name,
        written: &str,
        port: &Port<'_>,
        options: &IngressOptions,
        rank: usize,
    ) -> (Backend, bool) {
        let name = [&service.namespace, "-", &service.name, "-", written].concat();
        let id = self.ids.get(&*name).copied().unwrap_or_else(|| self.add(name, port, options, rank));
        let spec = &mut self.specs[id];
        if rank < spec.decided_by {
            (spec.options, spec.decided_by) = (options.upstream.clone(), rank);
        }
        let overruled = options.upstream != UpstreamOptions::default() && options.upstream != spec.options;
        if options.affinity {
            // The mode is the first Ingress's, everything else the last one's (ingress-nginx; see its reference, "scopes").
            let mode = spec.cookie.as_ref().map_or(options.cookie.mode, |held| held.mode);
            spec.cookie = Some(Arc::new(CookieAffinity { mode, ..options.cookie.clone() }));
        }
        let id = UpstreamId(u32::try_from(id).unwrap_or(u32::MAX));
        (Backend::Upstream { id, service: spec.label.clone() }, overruled)
    }

    fn add(&mut self, name: String, port: &Port<'_>, options: &IngressOptions, rank: usize) -> usize {
        let (name, id) = (Arc::<str>::from(name), self.specs.len());
        self.ids.insert(name.clone(), id);
        self.specs.push(UpstreamSpec {
            name,
            port: port.name.clone(),
            label: label(&port.name, port.number),
            cookie: None,
            options: options.upstream.clone(),
            decided_by: rank,
        });
        id
    }

    /// A canary has its main backend's session cookie, so that a session can be told from one of the other.
    pub(super) fn share_cookie(&mut self, main: &Backend, canary: &Backend) {
        if let (Backend::Upstream { id: main, .. }, Backend::Upstream { id: canary, .. }) = (main, canary)
            && let Some(cookie) = self.specs[main.0 as usize].cookie.clone()
        {
            self.specs[canary.0 as usize].cookie = Some(cookie);
        }
    }
}

/// Ports that Ingresses ask of Services by number: an ExternalName Service need not list its ports.
pub(crate) fn asked_ports(objects: &Objects) -> BTreeMap<Name, Vec<u16>> {
    let mut asked: BTreeMap<Name, Vec<u16>> = BTreeMap::new();
    let is_external = |service: &Service| service.spec.as_ref().is_some_and(|spec| spec.external_name.is_some());
    if !objects.services.iter().any(|(_, stored)| is_external(&stored.object)) {
        return asked;
    }
    for (name, stored) in objects.ingresses.iter() {
        let Some(spec) = &stored.object.spec else { continue };
        let paths = spec.rules.iter().flatten().flat_map(|rule| rule.http.iter().flat_map(|http| &http.paths));
        for backend in paths.map(|path| &path.backend).chain(&spec.default_backend) {
            let Some(service) = &backend.service else { continue };
            let service_name = Name { namespace: name.namespace.clone(), name: service.name.as_str().into() };
            let external = objects.services.get(&service_name).is_some_and(|stored| is_external(&stored.object));
            let number = service.port.as_ref().and_then(|port| u16::try_from(port.number?).ok()).filter(|n| *n != 0);
            if let (true, Some(number)) = (external, number) {
                asked.entry(service_name).or_default().push(number);
            }
        }
    }
    for ports in asked.values_mut() {
        ports.sort_unstable();
        ports.dedup();
    }
    asked
}

/// The TCP port of a Service that an Ingress means: by number, by target port, or by name (ingress-nginx's leniency).
pub(crate) fn find_port<'a>(objects: &'a Objects, service: &Name, written: &str) -> Option<Port<'a>> {
    let spec = objects.services.get(service)?.object.spec.as_ref()?;
    let tcp = spec.ports.iter().flatten().filter(|port| matches!(port.protocol.as_deref(), None | Some("" | "TCP")));
    let by_target = |target: &IntOrString| match target {
        IntOrString::Int(number) => number.to_string() == written,
        IntOrString::String(name) => name == written,
    };
    let name = |port: &str| ServicePortName {
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        port: port.into(),
        protocol: Protocol::Tcp,
    };
    let port = tcp.clone().find(|port| port.port.to_string() == written || port.name.as_deref() == Some(written));
    let port = port.or_else(|| tcp.clone().find(|port| port.target_port.as_ref().is_some_and(by_target)));
    if let Some(port) = port {
        let number = u16::try_from(port.port).ok()?;
        let app_protocol = port.app_protocol.as_deref();
        return Some(Port { name: name(port.name.as_deref().unwrap_or_default()), number, app_protocol });
    }
    let number: u16 = written.parse().ok().filter(|_| spec.external_name.is_some())?;
    Some(Port { name: name(written), number, app_protocol: None })
}

/// The ports of a Service, for people.
pub(crate) fn port_list(objects: &Objects, service: &Name) -> String {
    let spec = objects.services.get(service).and_then(|service| service.object.spec.as_ref());
    let ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let ports = ports.map(|port| match &port.name {
        Some(name) => format!("{} ({name})", port.port),
        None => port.port.to_string(),
    });
    ports.collect::<Vec<_>>().join(", ")
}
