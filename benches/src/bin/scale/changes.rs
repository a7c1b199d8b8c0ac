//! Changes of other Services' EndpointSlices, at a fixed rate: each gets ten new pods.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use crate::{addresses::Addresses, cluster::Cluster, objects::App};

/// Writes under way at once.
const AT_ONCE: u32 = 32;

/// What all who write know.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    /// Services with an Ingress, `0..services`.
    pub(crate) services: usize,
    addresses: Mutex<Addresses>,
}

impl World {
    pub(crate) fn new(cluster: Cluster, services: usize) -> Self {
        Self { cluster, services, addresses: Mutex::new(Addresses::new(services)) }
    }

    /// Who has which addresses.
    pub(crate) fn addresses(&self) -> MutexGuard<'_, Addresses> {
        // Nobody panics while they have it.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a Service ten new pods.
    pub(crate) async fn renew(&self, service: usize) -> anyhow::Result<()> {
        let block = self.addresses().renew(service)?;
        self.cluster.replace_slice(&App::new(service), block).await.map(drop)
    }
}

/// They go on until this is stopped.
pub(crate) struct Changes {
    begun: Instant,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Changes {
    /// Of Services with odd numbers, one after the other: the even ones are the measurements'.
    pub(crate) fn start(world: &Arc<World>, per_second: u32) -> Self {
        let (done, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn(change(world.clone(), per_second, done.clone(), stop.clone()));
        Self { begun: Instant::now(), done, stop, task }
    }

    /// How many there were so far.
    pub(crate) fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// How many there were, each second.
    pub(crate) async fn stop(self) -> anyhow::Result<f64> {
        let rate = self.done() as f64 / self.begun.elapsed().as_secs_f64();
        self.stop.store(true, Relaxed);
        self.task.await??;
        Ok(rate)
    }
}

async fn change(world: Arc<World>, per_second: u32, done: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let permits = Arc::new(Semaphore::new(AT_ONCE as usize));
    let mut ticks = interval(Duration::from_secs(1) / per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut writes = tokio::task::JoinSet::new();
    for service in (1..world.services).step_by(2).cycle() {
        ticks.tick().await;
        if stop.load(Relaxed) {
            break;
        }
        let permit = permits.clone().acquire_owned().await.context("nobody closes it")?;
        let (world, done) = (world.clone(), done.clone());
        writes.spawn(async move {
            let _permit = permit;
            done.fetch_add(1, Relaxed);
            world.renew(service).await
        });
        while let Some(written) = writes.try_join_next() {
            written??;
        }
    }
    while let Some(written) = writes.join_next().await {
        written??;
    }
    Ok(())
}
