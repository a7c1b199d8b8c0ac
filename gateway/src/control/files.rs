//! The `files` source: Kubernetes YAML and JSON from files and directories, watched.
//!
//! It runs in a thread of its own and speaks in batches: what is new or changed, what is gone, and everything that could not be
//! read. A file that breaks while Tidegate runs keeps its last good objects, and a finding says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};

use notify::{Event, RecursiveMode, Watcher};
use tidegate_crd::{Document, ObjectRef, yaml};

use super::walk::{Found, is_manifest};
use crate::compile::finding::{Finding, Severity};

/// A manifest larger than this is not read: no hand and no tool writes one, and it would have to fit in memory several times.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// How long nothing must change before a batch is made of what did: an editor writes a file in several steps.
const QUIET: Duration = Duration::from_millis(5);

/// How long a batch may wait for quiet.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// How often everything is looked at anyway, where watching is not possible or an event was missed.
const RESCAN: Duration = Duration::from_secs(10);

/// What a source has to say.
#[derive(Debug, Default)]
pub struct Batch {
    /// Objects that are new or may have changed, by name.
    pub apply: Vec<Document>,
    /// Objects that are gone.
    pub delete: Vec<ObjectRef>,
    /// All that is wrong with the files as they are now.
    pub problems: Vec<Finding>,
    /// How many files there are.
    pub files: usize,
    /// The [`References`](super::References) that have been answered, by their number, in this batch or before; of a source that is
    /// asked for what is referred to.
    pub answers: Option<u64>,
    /// It is, in part, what was remembered of a cluster that has not been heard yet.
    pub is_remembered: bool,
}

/// Manifests on disk, as they were when last read.
#[derive(Debug)]
pub struct Files {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, FileState>,
    /// The files each object stands in; the first is the one that counts.
    holders: BTreeMap<ObjectRef, BTreeSet<Arc<Path>>>,
    /// Objects that stand in several files.
    contested: BTreeSet<ObjectRef>,
    /// What is wrong with the roots and directories themselves.
    problems: Vec<Finding>,
}

#[derive(Debug)]
struct FileState {
    /// `None` if it could not be read: it is tried again the next time, without having to change.
    stamp: Option<Stamp>,
    documents: Vec<Document>,
    /// Where in `documents` each object stands; of two of one name the first counts.
    positions: BTreeMap<ObjectRef, usize>,
    problems: Vec<Finding>,
}

impl FileState {
    fn new(path: &Path, stamp: Option<Stamp>, documents: Vec<Document>, problems: Vec<Finding>) -> Self {
        let mut state = Self { stamp, documents: Vec::new(), positions: BTreeMap::new(), problems };
        for document in documents {
            state.add(path, document);
        }
        state
    }

    fn add(&mut self, path: &Path, document: Document) {
        let object = document.object.object_ref();
        if self.positions.contains_key(&object) {
            self.problems.push(duplicate(&object, &document, path));
        } else {
            self.positions.insert(object, self.documents.len());
            self.documents.push(document);
        }
    }

    fn objects(&self) -> Vec<ObjectRef> {
        self.positions.keys().cloned().collect()
    }
}

/// What tells one state of a file from another. Time and size alone do not: package stores give every file the same time, and
/// `cp -p` keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
    /// Inode, and when it changed; these nobody can set.
    #[cfg(unix)]
    inode: (u64, i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        let meta = fs::metadata(path)?;
        Ok(Self {
            modified: meta.modified()?,
            bytes: meta.len(),
            #[cfg(unix)]
            inode: (meta.ino(), meta.ctime(), meta.ctime_nsec()),
        })
    }
}

impl Files {
    /// The files under `roots`, none of them read yet.
    pub fn new(roots: impl IntoIterator<Item = PathBuf>) -> Self {
        let roots = roots.into_iter().collect();
        Self {
            roots,
            files: BTreeMap::new(),
            holders: BTreeMap::new(),
            contested: BTreeSet::new(),
            problems: Vec::new(),
        }
    }

    /// Looks at everything and reads what has changed.
    pub fn scan(&mut self) -> Batch {
        self.scan_told(&BTreeSet::new())
    }

    fn scan_told(&mut self, told: &BTreeSet<PathBuf>) -> Batch {
        let mut found = Found::default();
        for root in &self.roots {
            let was_directory = || self.files.keys().any(|path| path != root && path.starts_with(root));
            match fs::metadata(root) {
                Err(error) if was_directory() => found.lose(root, &error),
                _ => found.visit(root, 0, true),
            }
        }
        self.problems = found.problems;
        // What is in a directory that cannot be read is not gone: it is served as it was.
        let lost = |path: &&PathBuf| found.lost.iter().any(|directory| path.starts_with(directory));
        let gone: Vec<PathBuf> =
            self.files.keys().filter(|path| !found.files.contains(*path) && !lost(path)).cloned().collect();
        let mut changed = BTreeMap::new();
        for path in gone {
            let held = self.files.remove(&path).map(|state| state.objects()).unwrap_or_default();
            changed.insert(path, held);
        }
        for path in found.files {
            if let Some(held) = self.read(&path, told.contains(&path)) {
                changed.insert(path, held);
            }
        }
        self.batch(&changed)
    }

    /// Looks at these files only, unless one of them asks for a whole scan.
    fn scan_only(&mut self, paths: &BTreeSet<PathBuf>) -> Batch {
        let known = |path: &Path| self.files.contains_key(path) && path.is_file();
        if paths.iter().any(|path| !known(path) && self.may_matter(path)) {
            return self.scan_told(paths);
        }
        let known: Vec<PathBuf> = paths.iter().filter(|path| known(path)).cloned().collect();
        let mut changed = BTreeMap::new();
        for path in known {
            if let Some(held) = self.read(&path, true) {
                changed.insert(path, held);
            }
        }
        self.batch(&changed)
    }

    /// Whether something that happened at a path that is no known file can concern one: not the drafts and swap files that
    /// editors leave beside it.
    fn may_matter(&self, path: &Path) -> bool {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        // `..data` is how a mounted ConfigMap changes all its files at once.
        let hidden = name.starts_with('.') && !name.starts_with("..");
        let above_known = || self.files.range(path.to_owned()..).next().is_some_and(|(file, _)| file.starts_with(path));
        path.is_dir() || above_known() || (!hidden && (name.starts_with("..") || is_manifest(path)))
    }

    /// Reads a file if it has changed, and then says what it held before. `told`: somebody says that it has, whatever time and size
    /// say: two writes within one tick of the file system's clock look the same.
    fn read(&mut self, path: &Path, told: bool) -> Option<Vec<ObjectRef>> {
        let stamp = Stamp::of(path).ok();
        let Some(held) = self.files.remove(path) else {
            self.files.insert(path.to_owned(), load(path, stamp));
            return Some(Vec::new());
        };
        if !told && held.stamp == stamp && stamp.is_some() {
            self.files.insert(path.to_owned(), held);
            return None;
        }
        let before = held.objects();
        let mut state = load(path, stamp);
        keep_last_good(path, held.documents, &mut state);
        self.files.insert(path.to_owned(), state);
        Some(before)
    }

    /// What it means for objects that files changed or went; `changed` says what each held before. It costs what these files hold,
    /// not what all of them do.
    fn batch(&mut self, changed: &BTreeMap<PathBuf, Vec<ObjectRef>>) -> Batch {
        let mut affected: BTreeMap<ObjectRef, Option<Arc<Path>>> = BTreeMap::new();
        for (path, before) in changed {
            let now = self.files.get(path).map(FileState::objects).unwrap_or_default();
            for object in before.iter().chain(&now) {
                let owner = || self.holders.get(object).and_then(BTreeSet::first).cloned();
                affected.entry(object.clone()).or_insert_with(owner);
            }
        }
        for (path, before) in changed {
            let now = self.files.get(path).map(FileState::objects).unwrap_or_default();
            let path: Arc<Path> = Arc::from(path.as_path());
            for object in before {
                if let Some(holders) = self.holders.get_mut(object) {
                    holders.remove(&path);
                }
            }
            for object in now {
                self.holders.entry(object).or_default().insert(path.clone());
            }
        }
        let mut batch = Batch { files: self.files.len(), ..Batch::default() };
        for (object, owner_before) in &affected {
            let holders = self.holders.get(object).map_or(0, BTreeSet::len);
            if holders > 1 {
                self.contested.insert(object.clone());
            } else {
                self.contested.remove(object);
            }
            let Some(owner) = self.holders.get(object).and_then(BTreeSet::first).cloned() else {
                self.holders.remove(object);
                if owner_before.is_some() {
                    batch.delete.push(object.clone());
                }
                continue;
            };
            if changed.contains_key(&*owner) || owner_before.as_ref() != Some(&owner) {
                batch.apply.extend(self.document(&owner, object).cloned());
            }
        }
        batch.problems = self.problems();
        batch
    }

    /// All that is wrong with the files as they are.
    fn problems(&self) -> Vec<Finding> {
        let mut problems = self.problems.clone();
        problems.extend(self.files.values().flat_map(|state| state.problems.iter().cloned()));
        for object in &self.contested {
            let mut holders = self.holders.get(object).into_iter().flatten();
            let Some(owner) = holders.next() else { continue };
            let documents = holders.filter_map(|path| self.document(path, object));
            problems.extend(documents.map(|document| duplicate(object, document, owner)));
        }
        problems
    }

    /// An object as a file has it.
    fn document(&self, path: &Path, object: &ObjectRef) -> Option<&Document> {
        let state = self.files.get(path)?;
        state.positions.get(object).and_then(|&position| state.documents.get(position))
    }

    /// Watches the files for ever, and sends a batch whenever something has changed. Ends when nobody listens.
    pub fn watch(mut self, mut send: impl FnMut(Batch) -> bool) {
        let (events, inbox) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event| drop(events.send(event))).inspect_err(no_watch).ok();
        if let Some(watcher) = &mut watcher {
            for root in &self.roots {
                // A file is watched through its directory: editors replace files, and the watch would stay with the old one.
                let (place, mode) = if root.is_dir() {
                    (root.as_path(), RecursiveMode::Recursive)
                } else {
                    let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
                    (parent.unwrap_or_else(|| Path::new(".")), RecursiveMode::NonRecursive)
                };
                if let Err(error) = watcher.watch(place, mode) {
                    no_watch(&error);
                }
            }
        }
        let mut read = |begun: Instant, batch: Batch| {
            // Most of the regular looks find nothing.
            if !batch.apply.is_empty() || !batch.delete.is_empty() {
                let (objects, gone, problems) = (batch.apply.len(), batch.delete.len(), batch.problems.len());
                let took_us = begun.elapsed().as_micros() as u64;
                tracing::debug!(files = batch.files, objects, gone, problems, took_us, "manifests read");
            }
            send(batch)
        };
        let _span = tracing::info_span!("files").entered();
        let begun = Instant::now();
        if !read(begun, self.scan()) {
            return;
        }
        loop {
            let event = inbox.recv_timeout(RESCAN);
            let begun = Instant::now();
            let batch = match event {
                Ok(first) => match gather(first, &inbox) {
                    Some(paths) => self.scan_only(&paths),
                    None => self.scan(),
                },
                Err(mpsc::RecvTimeoutError::Timeout) => self.scan(),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(RESCAN);
                    self.scan()
                }
            };
            if !read(begun, batch) {
                return;
            }
        }
    }
}

/// Reads everything once; for `check` and `explain`.
pub fn read_all(paths: &[PathBuf]) -> Batch {
    Files::new(paths.iter().cloned()).scan()
}

/// The files that events name, after waiting for quiet; `None` if everything must be looked at.
fn gather(first: notify::Result<Event>, inbox: &mpsc::Receiver<notify::Result<Event>>) -> Option<BTreeSet<PathBuf>> {
    let begun = Instant::now();
    let mut paths = Some(BTreeSet::new());
    let mut add = |event: notify::Result<Event>| match event {
        Ok(event) if event.need_rescan() => paths = None,
        Ok(event) if event.kind.is_access() => {}
        Ok(event) => {
            if let Some(paths) = &mut paths {
                paths.extend(event.paths);
            }
        }
        Err(_) => paths = None,
    };
    add(first);
    while begun.elapsed() < MAX_WAIT {
        match inbox.recv_timeout(QUIET) {
            Ok(event) => add(event),
            Err(_) => break,
        }
    }
    paths
}

fn no_watch(error: &notify::Error) {
    tracing::warn!("cannot watch for changes ({error}); looking every {} s instead", RESCAN.as_secs());
}

fn load(path: &Path, stamp: Option<Stamp>) -> FileState {
    let read = read_bounded(path);
    let stamp = stamp.filter(|_| read.is_ok());
    let text = read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text")));
    match text {
        Ok(text) => {
            let parsed = yaml::parse(path, &text);
            FileState::new(path, stamp, parsed.documents, parsed.problems.into_iter().map(Finding::from).collect())
        }
        Err(error) => {
            let problem = finding(
                Severity::Error,
                "UnreadableFile",
                path,
                format!("the file cannot be read: {error}."),
                "Check that it exists, may be read, and is a manifest.",
            );
            FileState::new(path, stamp, Vec::new(), vec![problem])
        }
    }
}

/// What stands in a file. Its length is not asked for: a device has none and never ends.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Adds to a file that has an error the objects it had before and no longer shows: they are served as they were.
fn keep_last_good(path: &Path, before: Vec<Document>, state: &mut FileState) {
    let broken: Vec<Option<ObjectRef>> =
        state.problems.iter().filter(|p| p.severity == Severity::Error).map(|p| p.object.clone()).collect();
    if broken.is_empty() {
        return;
    }
    for document in before {
        let object = document.object.object_ref();
        // An error that names another object says nothing about this one: it was removed on purpose.
        if state.positions.contains_key(&object)
            || !broken.iter().any(|named| named.as_ref().is_none_or(|named| *named == object))
        {
            continue;
        }
        let message = format!("{object} is served as it was before the file broke.");
        state.problems.push(Finding {
            object: Some(object),
            ..finding(Severity::Warning, "LastGoodState", path, message, "Mend the errors of this file.")
        });
        state.add(path, document);
    }
}

fn duplicate(object: &ObjectRef, document: &Document, owner: &Path) -> Finding {
    let message = format!("{object} stands in {} already, which is the one that is used.", owner.display());
    let fix = "Remove one of the two, or give it another name or namespace.";
    let origin = &document.origin;
    let base = finding(Severity::Error, "DuplicateObject", origin.file(), message, fix);
    Finding { object: Some(object.clone()), line: origin.line(), ..base }
}

pub(super) fn finding(severity: Severity, reason: &'static str, path: &Path, message: String, fix: &str) -> Finding {
    Finding {
        severity,
        reason,
        object: None,
        file: Arc::from(path),
        line: 0,
        field: None,
        message,
        fix: fix.to_owned(),
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
