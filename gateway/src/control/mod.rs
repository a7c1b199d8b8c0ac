//! Where configuration comes from: the loop that turns what sources say into snapshots.
//!
//! One thread, no async: changes come in through a channel, everything that waits is compiled together, and the snapshot goes out through
//! `publish`. Nothing in here ever holds up a connection or a request.

pub mod cache;
pub mod files;
pub mod kubernetes;
mod limits;
pub mod names;
pub mod source;
pub mod state;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tidegate_crd::ObjectRef;
use tokio::sync::watch;

use self::{
    cache::CacheWriter,
    files::Batch,
    limits::{FETCH_PATIENCE, FIRST_FETCH_PATIENCE},
    state::StateFile,
};
use crate::{
    compile::{
        Compiled,
        allocate::Allocations,
        compile,
        finding::{Finding, Severity},
        objects::Objects,
        references::{self, references},
        settings::Settings,
    },
    dns::Zone,
    snapshot::Snapshot,
};

/// How often the planes are asked to try again what they could not open.
const RETRY: Duration = Duration::from_secs(2);

/// When they are asked first after a change, and then twice as late each time: a frontend that was closed a moment ago is in use
/// until the workers have heard of it.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Findings written to the log for one configuration, at most; `tidegate check` has them all.
const MAX_LOGGED_FINDINGS: usize = 20;

/// The time for what ends some day (certificates).
pub(crate) fn unix_seconds() -> i64 {
    i64::try_from(tidegate_l4::worker::now().0 / 1_000).unwrap_or(i64::MAX)
}

/// Something a source said.
#[derive(Debug)]
pub enum Change {
    /// Objects are new, changed or gone.
    Objects(Batch),
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
    pub names: Arc<[Arc<str>]>,
    /// The zone that may know them.
    pub zone: Option<Arc<Zone>>,
}

/// The Secrets and ConfigMaps that are referred to: a source that can be asked for them sends no others.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// Counts, from 1; 0 before anything was asked for.
    pub number: u64,
    /// Their names.
    pub names: BTreeSet<ObjectRef>,
}

/// What is asked of a source that can be asked.
#[derive(Debug)]
struct Asking {
    source: watch::Sender<Arc<References>>,
    /// What the references were made of.
    versions: Option<[u64; 3]>,
    answered: u64,
    /// How long a configuration waits for the answer.
    until: Option<Instant>,
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
    names: mpsc::Sender<NameRequest>,
    /// Whether names were wanted of late.
    asked: bool,
    asking: Option<Asking>,
    cache: Option<CacheWriter>,
    /// What is held was remembered, in part.
    is_remembered: bool,
}

impl Control {
    /// A loop that has heard nothing yet.
    pub fn new(settings: Settings, state: Option<StateFile>, names: mpsc::Sender<NameRequest>) -> Self {
        let held = state.as_ref().map(StateFile::load).unwrap_or_default();
        let (objects, problems) = (Objects::default(), Vec::new());
        Self {
            settings,
            objects,
            problems,
            compiled: None,
            held,
            state,
            state_failed: false,
            names,
            asked: false,
            asking: None,
            cache: None,
            is_remembered: false,
        }
    }

    /// What is heard is remembered over a restart.
    #[must_use]
    fn remembering(self, cache: CacheWriter) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// The source is asked for the Secrets and ConfigMaps that are referred to, and a configuration waits for them.
    #[must_use]
    pub fn asking(self, source: watch::Sender<Arc<References>>) -> Self {
        Self { asking: Some(Asking { source, versions: None, answered: 0, until: None }), ..self }
    }

    /// Runs until told to stop, or until no source is left.
    pub fn run(mut self, inbox: &mpsc::Receiver<Change>, planes: &mut dyn Planes) {
        let mut pause = RETRY;
        let mut retry_at = Instant::now() + pause;
        let mut changed = false;
        loop {
            let until = self.waits_until().map_or(retry_at, |until| until.min(retry_at));
            match inbox.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(change) => {
                    changed |= self.compiled.is_none();
                    for change in std::iter::once(change).chain(inbox.try_iter()) {
                        match change {
                            Change::Stop => return self.remember(CacheWriter::finish),
                            Change::Objects(batch) => changed |= self.take(batch),
                            Change::Resolved(resolved) => changed |= self.objects.set_resolved(resolved),
                        }
                    }
                    self.ask();
                }
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() >= retry_at => {
                    planes.retry();
                    self.remember(CacheWriter::offer);
                    pause = (pause * 2).min(RETRY);
                    retry_at = Instant::now() + pause;
                }
                // What was waited for did not come.
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if changed && self.waits_until().is_none() {
                self.compile(planes);
                self.cache.iter_mut().for_each(CacheWriter::changed);
                self.remember(CacheWriter::offer);
                changed = false;
                pause = FIRST_RETRY;
                retry_at = Instant::now() + pause;
            }
        }
    }

    /// Has what is held written to the cache, once it is what was heard.
    fn remember(&mut self, write: fn(&mut CacheWriter, &Objects)) {
        if let Some(cache) = self.cache.as_mut().filter(|_| self.compiled.is_some() && !self.is_remembered) {
            write(cache, &self.objects);
        }
    }

    /// Asks the source for what is referred to, if that is another than before.
    fn ask(&mut self) {
        let Some(asking) = &mut self.asking else { return };
        let versions = references::versions(&self.objects);
        if asking.versions.replace(versions) == Some(versions) {
            return;
        }
        let names = references(&self.objects, &self.settings);
        let before = asking.source.borrow().clone();
        if names == before.names {
            return;
        }
        if !names.is_subset(&before.names) {
            let patience = if self.compiled.is_none() { FIRST_FETCH_PATIENCE } else { FETCH_PATIENCE };
            asking.until = Some(Instant::now() + patience);
        }
        asking.source.send_replace(Arc::new(References { number: before.number + 1, names }));
    }

    /// Until when the next configuration waits for what was asked for; `None` if it does not.
    fn waits_until(&self) -> Option<Instant> {
        let asking = self.asking.as_ref()?;
        asking.until.filter(|until| asking.answered < asking.source.borrow().number && Instant::now() < *until)
    }

    /// Takes over what changed; says whether anything did.
    fn take(&mut self, batch: Batch) -> bool {
        if let Some((asking, answered)) = self.asking.as_mut().zip(batch.answers) {
            asking.answered = answered;
        }
        self.is_remembered = batch.is_remembered;
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
        // Whatever is logged on the way says which configuration it belongs to.
        let cycle = tracing::info_span!("configuration", generation = tracing::field::Empty).entered();
        let begun = Instant::now();
        self.objects.now = Some(unix_seconds());
        let compiled = tracing::debug_span!("compile")
            .in_scope(|| compile(&self.objects, &self.settings, &self.problems, &self.held, self.compiled.as_ref()));
        let took = begun.elapsed();
        cycle.record("generation", compiled.snapshot.generation);
        tracing::debug_span!("publish").in_scope(|| planes.publish(&compiled.snapshot));
        let snapshot = &compiled.snapshot;
        tracing::info!(
            services = snapshot.services.len(),
            ingresses = snapshot.ingresses.len(),
            findings = snapshot.findings.len(),
            compile_us = took.as_micros() as u64,
            live_us = begun.elapsed().as_micros() as u64,
            "configuration is live"
        );
        log_new_findings(self.compiled.as_ref().map(|before| &*before.snapshot.findings), &snapshot.findings);
        if !self.compiled.as_ref().is_some_and(|before| compiled.holds_the_same(before)) {
            self.save(compiled.allocations());
        }
        let request = NameRequest { names: compiled.external_names.clone(), zone: Some(snapshot.zone.clone()) };
        // Whoever never asked for a name needs no zone to look for it in.
        let asks = !request.names.is_empty();
        if asks || self.asked {
            drop(self.names.send(request));
            self.asked = asks;
        }
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

/// Looks names up for ever, and again at once when other names are wanted; sleeps while none are. Ends when nobody listens.
pub fn watch_names(
    requests: &mpsc::Receiver<NameRequest>,
    own_ranges: &[ipnet::IpNet],
    changes: &mpsc::Sender<Change>,
) {
    let mut last = BTreeMap::new();
    let mut request = NameRequest::default();
    let mut due = Instant::now();
    loop {
        let next = if request.names.is_empty() {
            requests.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            requests.recv_timeout(due.saturating_duration_since(Instant::now()))
        };
        match next {
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
            // Only the zone is another: it serves the next look-up.
            Ok(newer) if newer.names == request.names => {
                request = newer;
                continue;
            }
            Ok(newer) => request = newer,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        due = Instant::now() + names::LOOKUP_INTERVAL;
        let resolved = names::look_up(&request.names, request.zone.as_deref(), own_ranges, &last);
        if resolved != last {
            last.clone_from(&resolved);
            if changes.send(Change::Resolved(resolved)).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes when it was asked to try again.
    #[derive(Clone, Default)]
    struct Notes(Arc<Mutex<Vec<Instant>>>);

    impl Planes for Notes {
        fn publish(&mut self, _: &Arc<Snapshot>) {}

        fn retry(&mut self) {
            self.0.lock().unwrap().push(Instant::now());
        }
    }

    fn start() -> (mpsc::Sender<Change>, Notes, Instant) {
        let (changes, inbox) = mpsc::channel();
        let (notes, begun) = (Notes::default(), Instant::now());
        let control = Control::new(Settings::default(), None, mpsc::channel().0);
        let mut planes = notes.clone();
        std::thread::spawn(move || control.run(&inbox, &mut planes));
        changes.send(Change::Objects(Batch::default())).unwrap();
        (changes, notes, begun)
    }

    /// A frontend that was closed a moment ago is in use until the workers have heard of it.
    #[test]
    fn what_could_not_be_opened_is_tried_again_soon_after_a_change() {
        let (changes, notes, begun) = start();
        std::thread::sleep(RETRY / 2);
        let retries = notes.0.lock().unwrap();
        assert!(retries.first().is_some_and(|first| *first - begun < RETRY / 4), "{:?}", retries.len());
        drop(changes);
    }

    #[test]
    fn sources_with_nothing_new_do_not_put_off_the_next_try() {
        let (changes, notes, begun) = start();
        while begun.elapsed() < RETRY * 2 {
            changes.send(Change::Objects(Batch::default())).unwrap();
            std::thread::sleep(RETRY / 20);
        }
        let late = notes.0.lock().unwrap().iter().filter(|at| **at - begun > RETRY).count();
        assert!(late > 0, "no retry within {:?}", begun.elapsed());
    }
}
