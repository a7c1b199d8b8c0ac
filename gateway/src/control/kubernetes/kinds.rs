//! `Kinds`: which kinds of objects are watched, where, and what is missing without one of them.

use std::{fmt::Debug, sync::Arc};

use kube::{
    Api, Client, Resource,
    core::{ClusterResourceScope, NamespaceResourceScope},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use tidegate_crd::{
    Kind, Object, ObjectRef,
    core::{ConfigMap, EndpointSlice, Namespace, Node, Secret, Service},
    ingress::{Ingress, IngressClass},
    policy::{IngressClassParameters, LoadBalancerPool},
};
use tokio::sync::mpsc;

use super::{
    api_server::watching,
    failure::Failure,
    fetches::Fetched,
    mirror::{Heard, Item},
    status::{KubernetesStatus, WatchStatus},
    trim,
    watch::Watch,
    wire::{Named, Read},
};
use crate::control::limits::WATCH_SECONDS;

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
    /// Whether only names are listed and watched, and an object is read when something refers to it.
    pub is_fetched: bool,
    /// What is missing without it.
    pub without: &'static str,
}

/// Pods and Endpoints are not among them: the cluster makes EndpointSlices of both.
pub(super) const WATCHED: [Watched; 10] = [
    Watched {
        kind: Kind::ConfigMap,
        resource: "configmaps",
        is_needed: false,
        is_fetched: true,
        without: "Ingresses with custom-headers are answered 503",
    },
    Watched {
        kind: Kind::EndpointSlice,
        resource: "endpointslices",
        is_needed: true,
        is_fetched: false,
        without: "no Service has endpoints",
    },
    Watched {
        kind: Kind::Ingress,
        resource: "ingresses",
        is_needed: true,
        is_fetched: false,
        without: "nothing is routed",
    },
    Watched {
        kind: Kind::IngressClass,
        resource: "ingressclasses",
        is_needed: false,
        is_fetched: false,
        without: "classes are known by the names in --ingress-class alone",
    },
    Watched {
        kind: Kind::IngressClassParameters,
        resource: "ingressclassparameters",
        is_needed: false,
        is_fetched: false,
        without: "the parameters of IngressClasses have no effect",
    },
    Watched {
        kind: Kind::LoadBalancerPool,
        resource: "loadbalancerpools",
        is_needed: false,
        is_fetched: false,
        without: "LoadBalancer Services are given no address",
    },
    Watched {
        kind: Kind::Namespace,
        resource: "namespaces",
        is_needed: false,
        is_fetched: false,
        without: "DNS knows only namespaces with Services in them",
    },
    Watched {
        kind: Kind::Node,
        resource: "nodes",
        is_needed: false,
        is_fetched: false,
        without: "the zone of this node is not known, nor its addresses",
    },
    Watched {
        kind: Kind::Secret,
        resource: "secrets",
        is_needed: true,
        is_fetched: true,
        without: "hosts are shown a stand-in certificate, and Ingresses that ask for client certificates let nobody in",
    },
    Watched {
        kind: Kind::Service,
        resource: "services",
        is_needed: true,
        is_fetched: false,
        without: "requests are answered 503",
    },
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

    /// The only namespaces that are looked at; all, if there is none.
    pub(super) fn namespaces(&self) -> Vec<String> {
        self.namespaces.iter().map(ToString::to_string).collect()
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
                Kind::ConfigMap => start.names::<ConfigMap>(config(), Kind::ConfigMap),
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
                Kind::Secret => start.names::<Secret>(config().fields(SECRETS), Kind::Secret),
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
    fn namespaced<K>(self, config: watcher::Config, trim: fn(&mut K), wrap: fn(Box<K>) -> Object)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Wire,
    {
        let api = self.api();
        self.objects(api, config, trim, wrap);
    }

    fn cluster_wide<K>(self, config: watcher::Config, trim: fn(&mut K), wrap: fn(Box<K>) -> Object)
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Wire,
    {
        let api = Api::all(self.client.clone());
        self.objects(api, config, trim, wrap);
    }

    fn objects<K: Resource<DynamicType = ()> + Wire>(
        self,
        api: Api<Read<K>>,
        config: watcher::Config,
        trim: fn(&mut K),
        wrap: fn(Box<K>) -> Object,
    ) {
        let item = move |read| match read {
            Read::Object(mut object) => {
                trim(&mut object);
                Item::Object(wrap(object))
            }
            Read::Unreadable { name, finding, .. } => Item::Unreadable(name, finding),
        };
        self.watch(api, config, item);
    }

    /// Only which there are.
    fn names<K>(self, config: watcher::Config, kind: Kind)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Wire,
    {
        let api = self.api();
        self.watch(api, config, move |named: Named<K>| named.item(kind));
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        match self.status.namespace() {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn watch<W: Resource<DynamicType = ()> + Wire>(
        self,
        api: Api<W>,
        config: watcher::Config,
        item: impl Fn(W) -> Item + Send + Sync + 'static,
    ) {
        let Self { index, status, heard, .. } = self;
        tokio::spawn(Watch { api, config, item, index, status, heard }.run());
    }
}

/// Fetches one object of a kind of which only names are listed.
pub(super) async fn fetch(client: Client, name: &ObjectRef) -> Fetched {
    match name.kind {
        Kind::ConfigMap => fetch_as::<ConfigMap>(client, name, trim::config_map, Object::ConfigMap).await,
        Kind::Secret => fetch_as::<Secret>(client, name, trim::secret, Object::Secret).await,
        // Theirs are listed whole.
        _ => Fetched::Nothing,
    }
}

async fn fetch_as<K>(client: Client, name: &ObjectRef, trim: fn(&mut K) -> bool, wrap: fn(Box<K>) -> Object) -> Fetched
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Wire,
{
    match Api::<Read<K>>::namespaced(client, &name.namespace).get(&name.name).await {
        Ok(Read::Object(mut object)) => {
            let version = object.meta().resource_version.clone().unwrap_or_default();
            if trim(&mut object) { Fetched::Object { object: wrap(object), version } } else { Fetched::Nothing }
        }
        Ok(Read::Unreadable { finding, .. }) => Fetched::Unreadable(*finding),
        // Its watch is about to say so.
        Err(kube::Error::Api(status)) if status.code == 404 => Fetched::Nothing,
        Err(error) => Fetched::Failed(Failure::of_client("get", &error)),
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
