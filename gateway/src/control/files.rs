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

use crate::compile::finding::{Finding, Severity};

/// A manifest larger than this is not read: no hand and no tool writes one, and it would have to fit in memory several times.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Files that are looked at, at most; a directory with more is a mistake (a home directory, say).
pub const MAX_FILES: usize = 100_000;

/// Directories within directories, at most; a deeper tree is no collection of manifests.
const MAX_DEPTH: usize = 32;

/// How long nothing must change before a batch is made of what did: an editor writes a file in several steps.
const QUIET: Duration = Duration::from_millis(5);

/// How long a batch may wait for quiet.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// How often everything is looked at anyway, where watching is not possible or an event was missed.
const RESCAN: Duration = Duration::from_secs(10);

/// What a source has to say.
#[derive(Debug, Default)]
pub struct Batch {
    /// Objects that are new or may have changed.
    pub apply: Vec<Document>,
    /// Objects that are gone.
    pub delete: Vec<ObjectRef>,
    /// All that is wrong with the files as they are now.
    pub problems: Vec<Finding>,
    /// How many files there are.
    pub files: usize,
}

/// Manifests on disk, as they were when last read.
#[derive(Debug)]
pub struct Files {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, FileState>,
    owners: BTreeMap<ObjectRef, PathBuf>,
    /// What is wrong with the roots and directories themselves.
    problems: Vec<Finding>,
}

#[derive(Debug)]
struct FileState {
    /// `None` if it could not be read: it is tried again the next time, without having to change.
    stamp: Option<Stamp>,
    documents: Vec<Document>,
    problems: Vec<Finding>,
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
        Self { roots, files: BTreeMap::new(), owners: BTreeMap::new(), problems: Vec::new() }
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
        for path in &gone {
            self.files.remove(path);
        }
        let changed = found.files.into_iter().filter(|path| self.read(path, told.contains(path))).collect();
        self.batch(&changed)
    }

    /// Looks at these files only; what is not a known file asks for a whole scan.
    fn scan_only(&mut self, paths: &BTreeSet<PathBuf>) -> Batch {
        if !paths.iter().all(|path| self.files.contains_key(path) && path.is_file()) {
            return self.scan_told(paths);
        }
        let changed = paths.iter().filter(|path| self.read(path, true)).cloned().collect();
        self.batch(&changed)
    }

    /// Reads a file if it has changed, and says whether it had. `told`: somebody says so, whatever time and size say: two writes
    /// within one tick of the file system's clock look the same.
    fn read(&mut self, path: &Path, told: bool) -> bool {
        let stamp = Stamp::of(path).ok();
        let held = self.files.remove(path);
        if let Some(held) = held {
            if !told && held.stamp == stamp && stamp.is_some() {
                self.files.insert(path.to_owned(), held);
                return false;
            }
            let mut state = load(path, stamp);
            keep_last_good(path, held.documents, &mut state);
            self.files.insert(path.to_owned(), state);
        } else {
            self.files.insert(path.to_owned(), load(path, stamp));
        }
        true
    }

    fn batch(&mut self, changed: &BTreeSet<PathBuf>) -> Batch {
        let mut batch = Batch { files: self.files.len(), problems: self.problems.clone(), ..Batch::default() };
        let mut owners: BTreeMap<ObjectRef, PathBuf> = BTreeMap::new();
        for (path, state) in &self.files {
            batch.problems.extend(state.problems.iter().cloned());
            for document in &state.documents {
                let object = document.object.object_ref();
                match owners.get(&object) {
                    Some(owner) => batch.problems.push(duplicate(&object, document, owner)),
                    None => {
                        let moved = self.owners.get(&object) != Some(path);
                        owners.insert(object, path.clone());
                        if moved || changed.contains(path) {
                            batch.apply.push(document.clone());
                        }
                    }
                }
            }
        }
        batch.delete = self.owners.keys().filter(|object| !owners.contains_key(object)).cloned().collect();
        self.owners = owners;
        batch
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
        if !send(self.scan()) {
            return;
        }
        loop {
            let batch = match inbox.recv_timeout(RESCAN) {
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
            if !send(batch) {
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
            FileState {
                stamp,
                documents: parsed.documents,
                problems: parsed.problems.into_iter().map(Finding::from).collect(),
            }
        }
        Err(error) => {
            let problem = finding(
                Severity::Error,
                "UnreadableFile",
                path,
                format!("the file cannot be read: {error}."),
                "Check that it exists, may be read, and is a manifest.",
            );
            FileState { stamp, documents: Vec::new(), problems: vec![problem] }
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
    let present: BTreeSet<ObjectRef> = state.documents.iter().map(|document| document.object.object_ref()).collect();
    for document in before {
        let object = document.object.object_ref();
        // An error that names another object says nothing about this one: it was removed on purpose.
        if present.contains(&object) || !broken.iter().any(|named| named.as_ref().is_none_or(|named| *named == object))
        {
            continue;
        }
        let message = format!("{object} is served as it was before the file broke.");
        state.problems.push(Finding {
            object: Some(object),
            ..finding(Severity::Warning, "LastGoodState", path, message, "Mend the errors of this file.")
        });
        state.documents.push(document);
    }
}

fn duplicate(object: &ObjectRef, document: &Document, owner: &Path) -> Finding {
    let message = format!("{object} stands in {} already, which is the one that is used.", owner.display());
    let fix = "Remove one of the two, or give it another name or namespace.";
    let origin = &document.origin;
    let base = finding(Severity::Error, "DuplicateObject", origin.file(), message, fix);
    Finding { object: Some(object.clone()), line: origin.line(), ..base }
}

fn finding(severity: Severity, reason: &'static str, path: &Path, message: String, fix: &str) -> Finding {
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

#[derive(Default)]
struct Found {
    files: BTreeSet<PathBuf>,
    /// Directories looked at, by their true names: a link may lead in a circle.
    seen: BTreeSet<PathBuf>,
    /// Directories that are there, or should be, and cannot be read.
    lost: Vec<PathBuf>,
    problems: Vec<Finding>,
}

impl Found {
    /// `named`: the user named this very path, so it is read whatever it is called.
    fn visit(&mut self, path: &Path, depth: usize, named: bool) {
        if self.files.len() >= MAX_FILES || depth > MAX_DEPTH {
            let message =
                format!("there are more than {MAX_FILES} files or {MAX_DEPTH} levels here; the rest is not read.");
            if !self.problems.iter().any(|problem| problem.reason == "TooManyFiles") {
                self.problems.push(finding(
                    Severity::Error,
                    "TooManyFiles",
                    path,
                    message,
                    "Name the directory that holds the manifests.",
                ));
            }
            return;
        }
        if !path.is_dir() {
            // A pipe that nobody writes to would be waited for; the user may still name one.
            let special = || fs::metadata(path).is_ok_and(|meta| !meta.is_file());
            if named || (is_manifest(path) && !special()) {
                self.files.insert(path.to_owned());
            } else if is_manifest(path) {
                let (message, fix) = ("it is a device or a pipe and not a file.", "Remove it, or name it itself.");
                self.problems.push(finding(Severity::Error, "UnreadableFile", path, message.to_owned(), fix));
            }
            return;
        }
        if !self.seen.insert(fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())) {
            return;
        }
        let read = fs::read_dir(path).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
        let mut paths: Vec<PathBuf> = match read {
            Ok(paths) => paths,
            Err(error) => return self.lose(path, &error),
        };
        paths.retain(|path| path.file_name().is_none_or(|name| !name.to_string_lossy().starts_with('.')));
        paths.sort_unstable();
        for path in paths {
            self.visit(&path, depth + 1, false);
        }
    }

    /// A directory that cannot be read, for want of file descriptors say, has not lost its files.
    fn lose(&mut self, directory: &Path, error: &io::Error) {
        let message = format!("the directory cannot be read: {error}; what was read before is served on.");
        let fix = "Check that it exists and may be read.";
        self.problems.push(finding(Severity::Error, "UnreadableDirectory", directory, message, fix));
        self.lost.push(directory.to_owned());
    }
}

fn is_manifest(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"))
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
