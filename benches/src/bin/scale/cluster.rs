//! A real API server, with etcd behind it, and what is written to it.

use std::{
    env, io,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use futures_util::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tidegate_crd::{core::EndpointSlice, ingress::Ingress};
use tidegate_tests::cluster::{Failure, Tier, directory::Directory, owner::Owner};

use crate::{
    addresses::Block,
    objects::{self, App, NAMESPACES},
};

/// Writes under way at once.
const AT_ONCE: usize = 16;

/// How often it is said how far it is.
const PROGRESS: usize = 1_000;

/// A cluster without nodes, which ends with this, or with this process.
pub(crate) struct Cluster {
    owner: Owner,
    client: Client,
}

/// What can be asked of a kind of object here.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static
{
}

impl Cluster {
    /// Starts one, with namespaces and a class, and no more. This program is its supervisor too.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let start = || -> Result<Owner, Failure> {
            let name = Directory::named(&format!("scale-{}", std::process::id()))?;
            Owner::start(&env::current_exe()?, name, Tier::ControlPlane, false, &mut |line| eprintln!("  {line}"))
        };
        let owner = tokio::task::spawn_blocking(start).await?.map_err(|error| anyhow!("the cluster: {error}"))?;
        let kubeconfig = Kubeconfig::read_from(owner.directory().file("admin.kubeconfig"))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let cluster = Self { owner, client: Client::try_from(config)? };
        Api::all(cluster.client.clone()).create(&PostParams::default(), &objects::class()?).await?;
        for number in 0..NAMESPACES {
            let namespaces = Api::all(cluster.client.clone());
            namespaces.create(&PostParams::default(), &objects::namespace(number)?).await?;
        }
        Ok(cluster)
    }

    /// A kubeconfig of an administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.owner.directory().file("admin.kubeconfig")
    }

    /// All objects of a kind.
    pub(crate) fn all<K: Kind>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    /// How many Ingresses show an address.
    pub(crate) async fn published(&self) -> anyhow::Result<usize> {
        let ingresses = self.all::<Ingress>().list(&ListParams::default()).await?.items;
        let address =
            |ingress: &Ingress| ingress.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first().cloned();
        Ok(ingresses.iter().filter_map(address).count())
    }

    fn of<K: Kind>(&self, app: &App) -> Api<K> {
        Api::namespaced(self.client.clone(), &app.namespace)
    }

    /// Creates an object of each of the first so many applications, several at once, and says how far it is.
    pub(crate) async fn fill<K: Kind>(
        &self,
        count: usize,
        make: impl Fn(usize, &App) -> anyhow::Result<K>,
    ) -> anyhow::Result<()> {
        let (begun, done) = (Instant::now(), AtomicUsize::new(0));
        let one = async |number: usize| {
            let app = App::new(number);
            self.create(&app, &make(number, &app)?).await?;
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(PROGRESS) || done == count {
                eprintln!("  {done} of {count} {} in {} s", K::plural(&()), begun.elapsed().as_secs());
            }
            anyhow::Ok(())
        };
        stream::iter(0..count).map(one).buffer_unordered(AT_ONCE).try_collect().await
    }

    /// Creates an object of an application.
    pub(crate) async fn create<K: Kind>(&self, app: &App, object: &K) -> anyhow::Result<()> {
        let created = self.of::<K>(app).create(&PostParams::default(), object).await;
        created.with_context(|| format!("creating a {} of {}", K::kind(&()), app.name)).map(drop)
    }

    /// Writes an application's EndpointSlice, which is there already; returns its new version.
    pub(crate) async fn replace_slice(&self, app: &App, block: Block) -> anyhow::Result<String> {
        let slices = self.of::<EndpointSlice>(app);
        let written = slices.replace(&app.slice_name(), &PostParams::default(), &app.slice(block)?).await;
        let written = written.with_context(|| format!("replacing the EndpointSlice of {}", app.name))?;
        written.metadata.resource_version.context("the API server names no version")
    }

    /// Changes something about an application's object.
    pub(crate) async fn merge<K: Kind>(&self, app: &App, change: &Value) -> anyhow::Result<()> {
        let patched = self.of::<K>(app).patch(&app.name, &PatchParams::default(), &Patch::Merge(change)).await;
        patched.with_context(|| format!("changing the {} of {}", K::kind(&()), app.name)).map(drop)
    }

    /// Deletes an application's object.
    pub(crate) async fn delete<K: Kind>(&self, app: &App, name: &str) -> anyhow::Result<()> {
        let deleted = self.of::<K>(app).delete(name, &DeleteParams::default()).await;
        deleted.with_context(|| format!("deleting the {} {name}", K::kind(&()))).map(drop)
    }
}

/// Runs a cluster until its owner ends.
pub(crate) fn supervise(name: &str) -> anyhow::Result<()> {
    // Its children die with the thread that started them: there is but this one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run =
        async { tidegate_tests::cluster::supervisor::run(Directory::named(name)?, Tier::ControlPlane, false).await };
    runtime.block_on(run).map_err(io::Error::other)?;
    Ok(())
}

/// How long anything may take that the cluster's own speed decides.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
