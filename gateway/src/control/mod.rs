//! Where configuration comes from: the loop that turns what sources say into snapshots.
//!
//! One thread, no async: changes come in through a channel, everything that waits is compiled together, and the snapshot goes out through
//! `publish`. Nothing in here ever holds up a connection or a request.

pub mod files;
pub mod names;
pub mod state;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use self::{files::Batch, state::StateFile};
use crate::{
    compile::{
        Compiled,
        allocate::Allocations,
        compile, external_names,
        finding::{Finding, Severity},
        objects::Objects,
        settings::Settings,
    },
    dns::Zone,
    snapshot::Snapshot,
};

/// How often the planes are asked to try again what they could not open: a port is often free again soon.
const RETRY: Duration = Duration::from_secs(2);

/// Findings written to the log for one configuration, at most; `tidegate check` has them all.
const MAX_LOGGED_FINDINGS: usize = 20;

/// Something a source said.
#[derive(Debug)]
pub enum Change {
    /// Files were read.
    Files(Batch),
    /// Names were looked up.
    Resolved(BTreeMap<Arc<str>, Arc<[IpAddr]>>),
    /// The process ends: open nothing any more.
    Stop,
}

/// What serves the snapshots.
pub trait Planes {
    /// Serves this snapshot from now on.
    fn publish(&mut self, snapshot: &Arc<Snapshot>);
    /// Tries again to open what could not be opened.
    fn retry(&mut self);
}

/// What name lookups need to know; changes with every configuration.
#[derive(Clone, Debug, Default)]
pub struct NameRequest {
    /// The names.
    pub names: Vec<Arc<str>>,
    /// The zone that may know them.
    pub zone: Option<Arc<Zone>>,
}

/// The loop's state.
#[derive(Debug)]
pub struct Control {
    settings: Settings,
    objects: Objects,
    problems: Vec<Finding>,
    compiled: Option<Compiled>,
    held: Allocations,
    state: Option<StateFile>,
    state_failed: bool,
    names: tokio::sync::watch::Sender<NameRequest>,
}

impl Control {
    /// A loop that has heard nothing yet.
    pub fn new(settings: Settings, state: Option<StateFile>, names: tokio::sync::watch::Sender<NameRequest>) -> Self {
        let held = state.as_ref().map(StateFile::load).unwrap_or_default();
        let (objects, problems) = (Objects::default(), Vec::new());
        Self { settings, objects, problems, compiled: None, held, state, state_failed: false, names }
    }

    /// Runs until told to stop, or until no source is left.
    pub fn run(mut self, inbox: &mpsc::Receiver<Change>, planes: &mut dyn Planes) {
        loop {
            match inbox.recv_timeout(RETRY) {
                Ok(change) => {
                    let mut changed = self.compiled.is_none();
                    for change in std::iter::once(change).chain(inbox.try_iter()) {
                        match change {
                            Change::Stop => return,
                            Change::Files(batch) => changed |= self.take(batch),
                            Change::Resolved(resolved) => {
                                changed |= self.objects.resolved != resolved;
                                self.objects.resolved = resolved;
                            }
                        }
                    }
                    if changed {
                        self.compile(planes);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => planes.retry(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Takes over what changed; says whether anything did.
    fn take(&mut self, batch: Batch) -> bool {
        let mut changed = self.problems != batch.problems;
        self.problems = batch.problems;
        for object in &batch.delete {
            changed |= self.objects.delete(object);
        }
        for document in batch.apply {
            changed |= self.objects.apply(document);
        }
        changed
    }

    fn compile(&mut self, planes: &mut dyn Planes) {
        let begun = Instant::now();
        let compiled = compile(&self.objects, &self.settings, &self.problems, &self.held, self.compiled.as_ref());
        let took = begun.elapsed();
        planes.publish(&compiled.snapshot);
        let snapshot = &compiled.snapshot;
        tracing::info!(
            generation = snapshot.generation,
            services = snapshot.services.len(),
            ingresses = snapshot.ingresses.len(),
            findings = snapshot.findings.len(),
            compile_ms = took.as_millis(),
            live_ms = begun.elapsed().as_millis(),
            "configuration is live"
        );
        log_new_findings(self.compiled.as_ref().map(|before| &*before.snapshot.findings), &snapshot.findings);
        if self.compiled.as_ref().map(Compiled::allocations) != Some(compiled.allocations()) {
            self.save(compiled.allocations());
        }
        let request = NameRequest { names: external_names(&self.objects), zone: Some(snapshot.zone.clone()) };
        self.names.send_if_modified(|held| {
            let changed = held.names != request.names;
            *held = request;
            changed
        });
        self.compiled = Some(compiled);
    }

    fn save(&mut self, allocations: &Allocations) {
        let Some(state) = &self.state else { return };
        if let Err(error) = state.save(allocations)
            && !std::mem::replace(&mut self.state_failed, true)
        {
            tracing::warn!(
                "addresses handed out are not remembered over a restart: {}: {error}",
                state.path().display()
            );
        }
    }
}

fn log_new_findings(before: Option<&[Finding]>, now: &[Finding]) {
    let before = before.unwrap_or_default();
    let new: Vec<&Finding> =
        now.iter().filter(|finding| finding.severity > Severity::Info && !before.contains(finding)).collect();
    for finding in new.iter().take(MAX_LOGGED_FINDINGS) {
        tracing::warn!("{finding}");
    }
    if new.len() > MAX_LOGGED_FINDINGS {
        tracing::warn!("and {} more findings; `tidegate check` shows them all", new.len() - MAX_LOGGED_FINDINGS);
    }
}

/// Looks names up for ever, and again at once when other names are wanted. Ends when nobody listens.
pub fn watch_names(
    mut requests: tokio::sync::watch::Receiver<NameRequest>,
    own_ranges: &[ipnet::IpNet],
    changes: &mpsc::Sender<Change>,
) {
    let mut last = BTreeMap::new();
    let mut waited = Duration::ZERO;
    loop {
        match requests.has_changed() {
            Err(_) => return,
            Ok(false) if waited < names::LOOKUP_INTERVAL => {
                let step = Duration::from_millis(50);
                std::thread::sleep(step);
                waited += step;
                continue;
            }
            Ok(_) => waited = Duration::ZERO,
        }
        let request = requests.borrow_and_update().clone();
        let resolved = names::look_up(&request.names, request.zone.as_deref(), own_ranges, &last);
        if resolved != last {
            last.clone_from(&resolved);
            if changes.send(Change::Resolved(resolved)).is_err() {
                return;
            }
        }
    }
}
