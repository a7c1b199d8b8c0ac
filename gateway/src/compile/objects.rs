//! `Objects`: everything the sources have said, by kind and name. The order in which it arrived does not matter.

use std::{
    collections::{BTreeMap, VecDeque, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use ahash::AHashMap;
use tidegate_crd::{
    Document, Kind, Object, ObjectRef, Origin,
    core::{ConfigMap, EndpointSlice, Endpoints, Namespace, Node, Pod, Secret, Service},
    ingress::{Ingress, IngressClass},
    policy::{IngressClassParameters, LoadBalancerPool},
};

use super::{slice::Slice, words::Words};

/// Namespace and name; the namespace is empty for objects of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Name {
    /// The two as one.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One object and where it was written.
#[derive(Debug)]
pub struct Stored<T> {
    /// The object.
    pub object: T,
    /// Its place in a file.
    pub origin: Arc<Origin>,
}

macro_rules! created {
    ($($type:ty),*) => {
        $(impl Stored<$type> {
            /// `metadata.creationTimestamp`, in seconds since the Unix epoch.
            pub(crate) fn created(&self) -> Option<i64> {
                self.object.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second())
            }
        })*
    };
}

created!(Ingress, LoadBalancerPool, Service);

/// The objects of one kind.
#[derive(Clone, Debug)]
pub struct Store<T> {
    objects: BTreeMap<Name, Arc<Stored<T>>>,
    version: u64,
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), version: 0 }
    }
}

impl<T: PartialEq> Store<T> {
    /// The object of a name.
    pub fn get(&self, name: &Name) -> Option<&Arc<Stored<T>>> {
        self.objects.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<Stored<T>>)> {
        self.objects.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// A number that is another whenever anything in here has changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it changed anything: an object that reads the same keeps its `Arc`, so that what was compiled from it is kept too.
    fn apply(&mut self, name: Name, object: T, origin: Arc<Origin>) -> bool {
        if let Some(held) = self.objects.get(&name)
            && held.object == object
            && *held.origin == *origin
        {
            return false;
        }
        self.objects.insert(name, Arc::new(Stored { object, origin }));
        self.version += 1;
        true
    }

    fn delete(&mut self, name: &Name) -> bool {
        let deleted = self.objects.remove(name).is_some();
        self.version += u64::from(deleted);
        deleted
    }
}

/// Everything the sources have said.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// ConfigMaps.
    pub config_maps: Store<ConfigMap>,
    /// EndpointSlices.
    pub slices: Store<Slice>,
    /// Endpoints, the older form.
    pub endpoints: Store<Endpoints>,
    /// Ingresses.
    pub ingresses: Store<Ingress>,
    /// IngressClasses.
    pub classes: Store<IngressClass>,
    /// IngressClassParameters.
    pub parameters: Store<IngressClassParameters>,
    /// LoadBalancerPools.
    pub pools: Store<LoadBalancerPool>,
    /// Namespaces.
    pub namespaces: Store<Namespace>,
    /// Nodes.
    pub nodes: Store<Node>,
    /// Pods.
    pub pods: Store<Pod>,
    /// Secrets.
    pub secrets: Store<Secret>,
    /// Services.
    pub services: Store<Service>,
    /// When all this was so, in seconds since the Unix epoch, for what ends some day; `None` if that is of no interest.
    pub now: Option<i64>,
    /// Addresses of the names that ExternalName Services point to, and a number that is another whenever they have changed.
    resolved: (Resolved, u64),
    routed_services: u64,
    slices_of: AHashMap<Name, Arc<ServiceSlices>>,
    touched: Touched,
    words: Words,
}

/// Addresses by name.
pub type Resolved = BTreeMap<Arc<str>, Arc<[IpAddr]>>;

/// The Services whose EndpointSlices have changed, the latest of them at the end.
#[derive(Clone, Debug, Default)]
struct Touched {
    /// How many there ever were.
    count: u64,
    latest: VecDeque<Name>,
}

impl Touched {
    /// More than that are not told apart from all: looking at each Service is then as quick.
    const MOST: usize = 256;

    fn add(&mut self, service: Name) {
        if self.latest.len() == Self::MOST {
            self.latest.pop_front();
        }
        self.latest.push_back(service);
        self.count += 1;
    }
}

/// The EndpointSlices of one Service, by name. Another `Arc` whenever one of them has changed.
pub type ServiceSlices = BTreeMap<Name, Arc<Stored<Slice>>>;

impl Objects {
    /// Adds an object or replaces the one of its name; says whether that changed anything.
    pub fn apply(&mut self, document: Document) -> bool {
        let Document { object, origin } = document;
        let reference = object.object_ref();
        let name = Name { namespace: reference.namespace, name: reference.name };
        match object {
            Object::ConfigMap(object) => self.config_maps.apply(name, *object, origin),
            Object::EndpointSlice(object) => self.apply_slice(name, *object, origin),
            Object::Endpoints(object) => self.endpoints.apply(name, *object, origin),
            Object::Ingress(object) => self.ingresses.apply(name, *object, origin),
            Object::IngressClass(object) => self.classes.apply(name, *object, origin),
            Object::IngressClassParameters(object) => self.parameters.apply(name, *object, origin),
            Object::LoadBalancerPool(object) => self.pools.apply(name, *object, origin),
            Object::Namespace(object) => self.namespaces.apply(name, *object, origin),
            Object::Node(object) => self.nodes.apply(name, *object, origin),
            Object::Pod(object) => self.pods.apply(name, *object, origin),
            Object::Secret(object) => self.secrets.apply(name, *object, origin),
            Object::Service(object) => self.apply_service(name, *object, origin),
        }
    }

    /// Removes an object; says whether it was there.
    pub fn delete(&mut self, object: &ObjectRef) -> bool {
        let name = Name { namespace: object.namespace.clone(), name: object.name.clone() };
        match object.kind {
            Kind::ConfigMap => self.config_maps.delete(&name),
            Kind::EndpointSlice => {
                self.forget_slice(&name);
                self.slices.delete(&name)
            }
            Kind::Endpoints => self.endpoints.delete(&name),
            Kind::Ingress => self.ingresses.delete(&name),
            Kind::IngressClass => self.classes.delete(&name),
            Kind::IngressClassParameters => self.parameters.delete(&name),
            Kind::LoadBalancerPool => self.pools.delete(&name),
            Kind::Namespace => self.namespaces.delete(&name),
            Kind::Node => self.nodes.delete(&name),
            Kind::Pod => self.pods.delete(&name),
            Kind::Secret => self.secrets.delete(&name),
            Kind::Service => {
                let deleted = self.services.delete(&name);
                self.routed_services += u64::from(deleted);
                deleted
            }
        }
    }

    /// The addresses of a name that an ExternalName Service points to.
    pub(crate) fn resolved(&self, name: &str) -> Option<&Arc<[IpAddr]>> {
        self.resolved.0.get(name)
    }

    /// Takes over the addresses of all such names; says whether they are others than before.
    pub fn set_resolved(&mut self, resolved: Resolved) -> bool {
        let changed = self.resolved.0 != resolved;
        if changed {
            self.resolved = (resolved, self.resolved.1 + 1);
        }
        changed
    }

    /// A number that is another whenever any such address has changed.
    pub(crate) fn resolved_version(&self) -> u64 {
        self.resolved.1
    }

    /// A number that is another whenever Services have come or gone, or what rules are made of has changed in one.
    pub(crate) fn routed_services(&self) -> u64 {
        self.routed_services
    }

    fn apply_service(&mut self, name: Name, service: Service, origin: Arc<Origin>) -> bool {
        let routed =
            |service: &Service| service.spec.as_ref().map(|spec| (spec.external_name.clone(), spec.ports.clone()));
        let now = routed(&service);
        let same = self.services.get(&name).is_some_and(|held| routed(&held.object) == now);
        let changed = self.services.apply(name, service, origin);
        self.routed_services += u64::from(changed && !same);
        changed
    }

    /// How often EndpointSlices of Services have changed.
    pub(crate) fn touched(&self) -> u64 {
        self.touched.count
    }

    /// The Services whose EndpointSlices have changed since [`Self::touched`] was `before`; `None` if that is not known, as
    /// there were too many.
    pub(crate) fn touched_since(&self, before: u64) -> Option<impl Iterator<Item = &Name>> {
        let latest = &self.touched.latest;
        let count = usize::try_from(self.touched.count.checked_sub(before)?).ok()?;
        Some(latest.iter().skip(latest.len().checked_sub(count)?))
    }

    /// The EndpointSlices that name a Service as theirs, if there is one.
    pub fn slices_of(&self, service: &Name) -> Option<&Arc<ServiceSlices>> {
        self.slices_of.get(service)
    }

    fn apply_slice(&mut self, name: Name, slice: EndpointSlice, origin: Arc<Origin>) -> bool {
        let before = self.slices.get(&name).and_then(|held| owner(&name, &held.object));
        let slice = Slice::new(slice, &mut self.words);
        if !self.slices.apply(name.clone(), slice, origin) {
            return false;
        }
        let Some(slice) = self.slices.get(&name).cloned() else { return true };
        let service = owner(&name, &slice.object);
        if let Some(before) = before.filter(|before| service.as_ref() != Some(before)) {
            self.disown_slice(before, &name);
        }
        if let Some(service) = service {
            self.touched.add(service.clone());
            Arc::make_mut(self.slices_of.entry(service).or_default()).insert(name, slice);
        }
        true
    }

    fn forget_slice(&mut self, name: &Name) {
        if let Some(service) = self.slices.get(name).and_then(|held| owner(name, &held.object)) {
            self.disown_slice(service, name);
        }
    }

    fn disown_slice(&mut self, service: Name, name: &Name) {
        self.touched.add(service.clone());
        if let Entry::Occupied(mut entry) = self.slices_of.entry(service) {
            let slices = Arc::make_mut(entry.get_mut());
            slices.remove(name);
            if slices.is_empty() {
                entry.remove();
            }
        }
    }
}

fn owner(name: &Name, slice: &Slice) -> Option<Name> {
    Some(Name { namespace: name.namespace.clone(), name: slice.service.as_deref()?.into() })
}
