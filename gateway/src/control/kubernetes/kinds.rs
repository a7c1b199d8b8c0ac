//! `Kinds`: which kinds of objects are watched, where, and what is missing without one of them.

use std::{fmt::Debug, sync::Arc};

use kube::{
    Api, Client, Resource,
    core::{ClusterResourceScope, NamespaceResourceScope},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use tidegate_crd::{
    Kind, Object,
    core::{ConfigMap, EndpointSlice, Namespace, Node, Secret, Service},
    ingress::{Ingress, IngressClass},
    policy::{IngressClassParameters, LoadBalancerPool},
};
use tokio::sync::mpsc;

use super::{
    api_server::watching,
    mirror::Heard,
    status::{KubernetesStatus, WatchStatus},
    trim,
    watch::Watch,
};

/// How long the API server lets a watch go on: where it has gone without a word, it is noticed a few seconds after that.
const WATCH_SECONDS: u32 = 60;

/// Secrets that hold no certificate for us: those of Helm alone may be most of a cluster's.
const SECRETS: &str = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,\
                       type!=kubernetes.io/dockercfg,type!=kubernetes.io/dockerconfigjson,\
                       type!=bootstrap.kubernetes.io/token,type!=kubernetes.io/basic-auth,type!=kubernetes.io/ssh-auth";

/// A kind that is watched.
#[derive(Debug)]
pub struct Watched {
    /// The kind.
    pub kind: Kind,
    /// Its name in permissions.
    pub resource: &'static str,
    /// Whether this process is ready without it.
    pub is_needed: bool,
    /// What is missing without it.
    pub without: &'static str,
}

/// Pods and Endpoints are not among them: the cluster makes EndpointSlices of both.
const WATCHED: [Watched; 10] = [
    Watched {
        kind: Kind::ConfigMap,
        resource: "configmaps",
        is_needed: false,
        without: "Ingresses with custom-headers are answered 503",
    },
    Watched {
        kind: Kind::EndpointSlice,
        resource: "endpointslices",
        is_needed: true,
        without: "no Service has endpoints",
    },
    Watched { kind: Kind::Ingress, resource: "ingresses", is_needed: true, without: "nothing is routed" },
    Watched {
        kind: Kind::IngressClass,
        resource: "ingressclasses",
        is_needed: false,
        without: "classes are known by the names in --ingress-class alone",
    },
    Watched {
        kind: Kind::IngressClassParameters,
        resource: "ingressclassparameters",
        is_needed: false,
        without: "the parameters of IngressClasses have no effect",
    },
    Watched {
        kind: Kind::LoadBalancerPool,
        resource: "loadbalancerpools",
        is_needed: false,
        without: "LoadBalancer Services are given no address",
    },
    Watched {
        kind: Kind::Namespace,
        resource: "namespaces",
        is_needed: false,
        without: "DNS knows only namespaces with Services in them",
    },
    Watched { kind: Kind::Node, resource: "nodes", is_needed: false, without: "the zone of this node is not known" },
    Watched {
        kind: Kind::Secret,
        resource: "secrets",
        is_needed: true,
        without: "hosts are shown a stand-in certificate, and Ingresses that ask for client certificates let nobody in",
    },
    Watched { kind: Kind::Service, resource: "services", is_needed: true, without: "requests are answered 503" },
];

/// The kinds to watch in one cluster.
#[derive(Debug)]
pub(super) struct Kinds {
    /// None for all.
    namespaces: Vec<Arc<str>>,
    node_name: Arc<str>,
}

impl Kinds {
    pub(super) fn new(namespaces: &[String], node_name: &str) -> Self {
        let mut namespaces: Vec<Arc<str>> = namespaces.iter().map(|namespace| namespace.as_str().into()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        Self { namespaces, node_name: node_name.into() }
    }

    /// Every watch there is to be: a kind, and a namespace if it is to be one only.
    pub(super) fn watches(&self) -> Vec<(&'static Watched, Option<Arc<str>>)> {
        let mut watches = Vec::new();
        for watched in &WATCHED {
            if !watched.kind.is_namespaced() || self.namespaces.is_empty() {
                // Whoever is kept to some namespaces has no business with the list of all.
                if watched.kind != Kind::Namespace || self.namespaces.is_empty() {
                    watches.push((watched, None));
                }
            } else {
                watches.extend(self.namespaces.iter().map(|namespace| (watched, Some(namespace.clone()))));
            }
        }
        watches
    }

    /// Starts every watch of `status` on the runtime of now.
    pub(super) fn start(&self, client: &Client, status: &KubernetesStatus, heard: &mpsc::Sender<Heard>) {
        for (index, watch) in status.watches().iter().enumerate() {
            let start = Start { client: watching(client, watch), index, status: watch.clone(), heard: heard.clone() };
            let config = || watcher::Config::default().timeout(WATCH_SECONDS);
            match watch.watched().kind {
                Kind::ConfigMap => start.namespaced::<ConfigMap>(config(), trim::config_map, Object::ConfigMap),
                Kind::EndpointSlice => {
                    start.namespaced::<EndpointSlice>(config(), trim::endpoint_slice, Object::EndpointSlice);
                }
                Kind::Ingress => start.namespaced::<Ingress>(config(), trim::ingress, Object::Ingress),
                Kind::IngressClass => {
                    start.cluster_wide::<IngressClass>(config(), trim::ingress_class, Object::IngressClass);
                }
                Kind::IngressClassParameters => start.cluster_wide::<IngressClassParameters>(
                    config(),
                    trim::ingress_class_parameters,
                    Object::IngressClassParameters,
                ),
                Kind::LoadBalancerPool => {
                    start.cluster_wide::<LoadBalancerPool>(
                        config(),
                        trim::load_balancer_pool,
                        Object::LoadBalancerPool,
                    );
                }
                Kind::Namespace => start.cluster_wide::<Namespace>(config(), trim::namespace, Object::Namespace),
                Kind::Node => {
                    // The others' are thousands, and change all the time.
                    let own = config().fields(&format!("metadata.name={}", self.node_name));
                    start.cluster_wide::<Node>(own, trim::node, Object::Node);
                }
                Kind::Secret => start.namespaced::<Secret>(config().fields(SECRETS), trim::secret, Object::Secret),
                Kind::Service => start.namespaced::<Service>(config(), trim::service, Object::Service),
                // Not in the table.
                Kind::Endpoints | Kind::Pod => {}
            }
        }
    }
}

/// What a watch needs to start, but for its kind.
struct Start {
    client: Client,
    index: usize,
    status: Arc<WatchStatus>,
    heard: mpsc::Sender<Heard>,
}

impl Start {
    fn namespaced<K>(self, config: watcher::Config, trim: fn(&mut K) -> bool, wrap: fn(Box<K>) -> Object)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Wire,
    {
        let api = match self.status.namespace() {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        self.watch(api, config, trim, wrap);
    }

    fn cluster_wide<K>(self, config: watcher::Config, trim: fn(&mut K) -> bool, wrap: fn(Box<K>) -> Object)
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Wire,
    {
        let api = Api::all(self.client.clone());
        self.watch(api, config, trim, wrap);
    }

    fn watch<K: Resource<DynamicType = ()> + Wire>(
        self,
        api: Api<K>,
        config: watcher::Config,
        trim: fn(&mut K) -> bool,
        wrap: fn(Box<K>) -> Object,
    ) {
        let Self { index, status, heard, .. } = self;
        tokio::spawn(Watch { api, config, trim, wrap, index, status, heard }.run());
    }
}

/// What a type must be to be read from the API server.
pub(super) trait Wire: Clone + Debug + DeserializeOwned + Send + 'static {}

impl<K: Clone + Debug + DeserializeOwned + Send + 'static> Wire for K {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_for_each_kind_and_namespace() {
        assert_eq!(Kinds::new(&[], "here").watches().len(), WATCHED.len());
        let two = Kinds::new(&["b".to_owned(), "a".to_owned(), "b".to_owned()], "here").watches();
        let of = |kind| {
            let of_kind = two.iter().filter(move |(watched, _)| watched.kind == kind);
            of_kind.map(|(_, namespace)| namespace.as_deref()).collect::<Vec<_>>()
        };
        assert_eq!(of(Kind::Secret), [Some("a"), Some("b")]);
        assert_eq!(of(Kind::IngressClass), [None]);
        assert_eq!(of(Kind::Namespace), []);
    }
}
