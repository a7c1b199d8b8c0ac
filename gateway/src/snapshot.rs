//! One configuration, whole and immutable: everything the planes need to serve it.
//!
//! It is swapped in one piece; a connection or request sees one snapshot from beginning to end. What must survive a
//! change (counters, affinity, pools) sits in cells that the compiler carries over.

use std::sync::Arc;

use tidegate_l4::{endpoints::EndpointSet, model::Balance, table::ServiceTable};

use crate::{
    compile::{
        class_parameters::ParametersStatus,
        finding::Finding,
        health_check::HealthCheck,
        load_balancer::LoadBalancers,
        rows::{IngressRow, ServiceRow},
    },
    dns::Zone,
    route::{
        RouteTable,
        policy::{LoadBalance, UpstreamOptions},
        sticky::{CookieAffinity, StickyMap},
        template::Template,
    },
    tls::TlsTable,
};

/// One configuration.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the configurations of this process, from 1.
    pub generation: u64,
    /// L4: from addresses to endpoints.
    pub table: Arc<ServiceTable>,
    /// L7: from hosts and paths to rules.
    pub routes: Arc<RouteTable>,
    /// TLS: from names to certificates.
    pub tls: Arc<TlsTable>,
    /// Where the rules send their requests, by [`UpstreamId`](crate::route::UpstreamId).
    pub upstreams: Vec<Arc<Upstream>>,
    /// DNS records of the services.
    pub zone: Arc<Zone>,
    /// The Services, as people see them, by namespace and name.
    pub services: Arc<[Arc<ServiceRow>]>,
    /// The health check node ports, by number.
    pub health_checks: Arc<[Arc<HealthCheck>]>,
    /// The Ingresses, as people see them.
    pub ingresses: Arc<[Arc<IngressRow>]>,
    /// What a cluster's leader writes about load balancers.
    pub load_balancers: Arc<LoadBalancers>,
    /// What it writes about the parameters of our classes.
    pub class_parameters: Arc<[ParametersStatus]>,
    /// What is wrong with the objects it was made of.
    pub findings: Arc<[Finding]>,
}

impl Snapshot {
    /// What is asked on a health check node port.
    pub fn health_check(&self, port: u16) -> Option<&Arc<HealthCheck>> {
        let at = self.health_checks.binary_search_by_key(&port, |check| check.port).ok()?;
        Some(&self.health_checks[at])
    }
}

/// The endpoints of one service port as the gateway uses them. Rules of several Ingresses share one.
#[derive(Debug)]
pub struct Upstream {
    /// `namespace-service-port`, the name ingress-nginx derives its cookie values from.
    pub name: Arc<str>,
    /// What can be chosen from.
    pub endpoints: Arc<EndpointSet>,
    /// Cookie affinity, if an Ingress asks for it.
    pub cookie: Option<CookieUpstream>,
    /// What else the Ingresses say about it.
    pub options: UpstreamOptions,
}

impl Upstream {
    /// What requests have in common that go to the same pod (`upstream-hash-by`). Where there are session cookies they count,
    /// and this does not, as in ingress-nginx.
    pub fn hash_by(&self) -> Option<&Template> {
        self.options.hash_by.as_ref().filter(|_| self.cookie.is_none())
    }

    /// By which rule a pod is chosen for a request, where no session decides. `hash`: the key of the request, if it has one.
    pub fn balance(&self, hash: Option<u64>) -> Balance {
        match (hash, self.options.load_balance) {
            (Some(_), _) => Balance::Hash,
            (None, Some(LoadBalance::RoundRobin)) => Balance::RoundRobin,
            (None, Some(LoadBalance::Ewma)) => Balance::Ewma,
            (None, None) => self.endpoints.policy().request_balance,
        }
    }
}

/// Cookie affinity of one upstream.
#[derive(Debug)]
pub struct CookieUpstream {
    /// What the annotations say.
    pub affinity: Arc<CookieAffinity>,
    /// From cookie values to endpoints.
    pub map: StickyMap,
}
