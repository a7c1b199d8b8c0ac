//! What a Service is for, decided once.

use tidegate_crd::core::ServiceSpec;

/// `spec.type`, with headless Services told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceType {
    /// An address within the cluster.
    ClusterIp,
    /// Also a port on every node.
    NodePort,
    /// Also an address of its own for the outside.
    LoadBalancer,
    /// `clusterIP: None`: DNS alone, no proxying.
    Headless,
    /// A DNS alias for a name elsewhere.
    ExternalName,
}

impl ServiceType {
    /// The type of a Service; `None` if there is none of that name.
    pub(crate) fn of(spec: &ServiceSpec) -> Option<Self> {
        let headless = spec.cluster_ip.as_deref() == Some("None")
            || spec.cluster_ips.as_ref().is_some_and(|ips| ips.first().is_some_and(|ip| ip == "None"));
        Some(match spec.type_.as_deref() {
            Some("ExternalName") => Self::ExternalName,
            None | Some("" | "ClusterIP") if headless => Self::Headless,
            None | Some("" | "ClusterIP") => Self::ClusterIp,
            Some("NodePort") => Self::NodePort,
            Some("LoadBalancer") => Self::LoadBalancer,
            Some(_) => return None,
        })
    }

    /// As `kubectl` prints it: a headless Service is a ClusterIP Service.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp | Self::Headless => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}
