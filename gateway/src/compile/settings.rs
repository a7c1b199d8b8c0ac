//! What the operator decided on the command line, as the compiler needs it.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use tidegate_l4::{model::ServicePortName, table::FrontendKind};

use crate::tls::{Material, MinVersion};

/// Settings of one process; they do not change while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The addresses that answer node ports; if there is none, the `InternalIP`s of our own Node.
    pub node_addresses: Vec<IpAddr>,
    /// Whether this is the service plane of a cluster's node: node ports and LoadBalancer IPs are opened here.
    pub serves_node: bool,
    /// Name of this node: what "local" means.
    pub node_name: Arc<str>,
    /// DNS suffix of the cluster.
    pub cluster_domain: Arc<str>,
    /// Whose addresses and node ports the Services have.
    pub addresses: AddressSource,
    /// ClusterIPs to hand out, one range per IP family; the first is the family of a Service that does not say.
    pub service_cidrs: Vec<IpNet>,
    /// LoadBalancer IPs to hand out where no LoadBalancerPool has any.
    pub load_balancer_pools: Vec<IpNet>,
    /// Whether LoadBalancer Services of a cluster that name no class are ours, too; on a laptop they are.
    pub default_load_balancer: bool,
    /// Whether `spec.externalIPs` is honoured. Off by default: anybody who may write a Service could take over any address
    /// (CVE-2020-8554), and Kubernetes is on its way to the same default (KEP-5707).
    pub allow_external_ips: bool,
    /// The backend of requests that no rule and no default backend of their host takes.
    pub default_backend: Option<DefaultBackend>,
    /// How TLS is spoken with clients.
    pub tls: TlsSettings,
    /// Which IngressClasses are ours.
    pub classes: ClassSettings,
}

/// Whose addresses and node ports the Services have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSource {
    /// What a Service does not name it is given from the ranges of the [`Settings`]: a laptop has nobody else to do it.
    Ranges,
    /// The API server and the cloud give them, and none is made up here: what is not in the object is not there (yet).
    Cluster,
}

/// Which frontends of Services are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// All of them: nobody else does it.
    All,
    /// Those by which the world comes to a node of a cluster. ClusterIPs are kube-proxy's.
    Node,
    /// None: all are kube-proxy's.
    Nothing,
}

impl Opens {
    /// Whether a frontend of this kind is opened.
    pub fn takes(self, kind: FrontendKind) -> bool {
        match (self, kind) {
            (Self::All, _) => true,
            (Self::Node, kind) => kind != FrontendKind::ClusterIp,
            (Self::Nothing, _) => false,
        }
    }

    /// Whether the addresses of such frontends are led to this machine from elsewhere, so that it need not have them (yet).
    pub fn is_led_here(self, kind: FrontendKind) -> bool {
        self == Self::Node && matches!(kind, FrontendKind::LoadBalancer | FrontendKind::ExternalIp)
    }
}

impl Settings {
    /// Which frontends of Services are opened here.
    pub fn opens(&self) -> Opens {
        match (self.addresses, self.serves_node) {
            (AddressSource::Ranges, _) => Opens::All,
            (AddressSource::Cluster, true) => Opens::Node,
            (AddressSource::Cluster, false) => Opens::Nothing,
        }
    }
}

/// Which IngressClasses are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSettings {
    /// Values of `IngressClass.spec.controller` that are ours.
    pub controllers: Vec<Arc<str>>,
    /// Names of classes that are ours where no IngressClass of that name exists.
    pub implied: Vec<Arc<str>>,
    /// Whether Ingresses that name no class are ours where no class is the default.
    pub without_class: bool,
    /// Whether others may serve some of the Ingresses, as in a cluster: whose class nobody knows here may well be theirs.
    pub among_others: bool,
}

/// Value of `IngressClass.spec.controller` that is ours.
const CONTROLLER: &str = "tidegate.io/ingress";

/// ingress-nginx's controller name: its classes are served too, so that a cluster can change over without changing an Ingress.
const NGINX_CONTROLLER: &str = "k8s.io/ingress-nginx";

impl Default for ClassSettings {
    /// For manifests, which nobody else serves.
    fn default() -> Self {
        let implied = vec!["tidegate".into(), "nginx".into()];
        let controllers = vec![CONTROLLER.into(), NGINX_CONTROLLER.into()];
        Self { controllers, implied, without_class: true, among_others: false }
    }
}

/// How TLS is spoken with clients.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// The Secret, by namespace and name, whose certificate is shown where none is configured.
    pub default_certificate: Option<(Arc<str>, Arc<str>)>,
    /// The oldest TLS that is spoken.
    pub min_version: MinVersion,
    /// The chance in it.
    pub material: Arc<Material>,
}

impl PartialEq for TlsSettings {
    fn eq(&self, other: &Self) -> bool {
        self.default_certificate == other.default_certificate
            && self.min_version == other.min_version
            && Arc::ptr_eq(&self.material, &other.material)
    }
}

impl Default for TlsSettings {
    fn default() -> Self {
        let (default_certificate, min_version) = (None, MinVersion::default());
        Self { default_certificate, min_version, material: Material::of_this_process() }
    }
}

/// A Service named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultBackend {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name; its first port is used.
    pub service: Arc<str>,
}

impl Default for Settings {
    fn default() -> Self {
        let range = |addr: [u8; 4], len| IpNet::new_assert(IpAddr::from(addr), len);
        Self {
            node_addresses: vec![IpAddr::from([127, 0, 0, 1])],
            serves_node: false,
            node_name: "localhost".into(),
            cluster_domain: "cluster.local".into(),
            addresses: AddressSource::Ranges,
            service_cidrs: vec![range([127, 96, 0, 0], 16)],
            load_balancer_pools: vec![range([127, 97, 0, 0], 24)],
            default_load_balancer: false,
            allow_external_ips: false,
            default_backend: None,
            tls: TlsSettings::default(),
            classes: ClassSettings::default(),
        }
    }
}

/// `namespace/service:port`, as people write it.
pub(crate) fn label(name: &ServicePortName, port: u16) -> Arc<str> {
    format!("{}/{}:{port}", name.namespace, name.service).into()
}
