//! A watcher of our own, beside Tidegate's: when a change could be heard of.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::StreamExt;
use kube::{
    Api, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tidegate_crd::core::EndpointSlice;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, PATIENCE};

/// Changes that are remembered: those of some seconds.
const REMEMBERED: usize = 1_000;

/// Seconds of one watch.
const WATCH: u32 = 290;

/// What was heard lately: versions, and when.
type Heard = Arc<Mutex<VecDeque<(String, Instant)>>>;

/// It hears of every EndpointSlice, until it is dropped.
pub(crate) struct Watcher {
    heard: Heard,
    task: JoinHandle<()>,
}

impl Watcher {
    pub(crate) async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let slices: Api<EndpointSlice> = cluster.all();
        let heard = Heard::default();
        let version = now(&slices).await?;
        let hearing = heard.clone();
        let task = tokio::spawn(async move {
            let mut version = version;
            loop {
                if let Err(error) = follow(&slices, &mut version, &hearing).await {
                    eprintln!("  our own watcher: {error:#}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    version = now(&slices).await.unwrap_or(version);
                }
            }
        });
        Ok(Self { heard, task })
    }

    /// When a version was heard of.
    pub(crate) async fn when(&self, version: &str) -> anyhow::Result<Instant> {
        let patience = Instant::now() + PATIENCE;
        loop {
            let found = lock(&self.heard).iter().find(|(heard, _)| heard == version).map(|(_, when)| *when);
            if let Some(when) = found {
                return Ok(when);
            }
            anyhow::ensure!(Instant::now() < patience, "version {version} was not heard of");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The version of all that is there.
async fn now(slices: &Api<EndpointSlice>) -> anyhow::Result<String> {
    let list = slices.list_metadata(&ListParams::default().limit(1)).await?;
    list.metadata.resource_version.context("the API server names no version")
}

/// One watch.
async fn follow(slices: &Api<EndpointSlice>, version: &mut String, heard: &Heard) -> anyhow::Result<()> {
    let mut events = slices.watch_metadata(&WatchParams::default().timeout(WATCH), version).await?.boxed();
    while let Some(event) = events.next().await {
        match event? {
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) | WatchEvent::Deleted(slice) => {
                *version = slice.resource_version().unwrap_or_default();
                let mut heard = lock(heard);
                heard.push_back((version.clone(), Instant::now()));
                if heard.len() > REMEMBERED {
                    heard.pop_front();
                }
            }
            WatchEvent::Bookmark(bookmark) => *version = bookmark.metadata.resource_version,
            WatchEvent::Error(status) => anyhow::bail!("{}", status.message),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nobody panics while they have it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
