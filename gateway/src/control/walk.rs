//! Which files under a directory are manifests.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::files::finding;
use crate::compile::finding::{Finding, Severity};

/// Files that are looked at, at most; a directory with more is a mistake (a home directory, say).
const MAX_FILES: usize = 100_000;

/// Directories within directories, at most; a deeper tree is no collection of manifests.
const MAX_DEPTH: usize = 32;

#[derive(Default)]
pub(super) struct Found {
    pub(super) files: BTreeSet<PathBuf>,
    /// Directories looked at, by their true names: a link may lead in a circle.
    seen: BTreeSet<PathBuf>,
    /// Directories that are there, or should be, and cannot be read.
    pub(super) lost: Vec<PathBuf>,
    pub(super) problems: Vec<Finding>,
}

impl Found {
    /// `named`: the user named this very path, so it is read whatever it is called.
    pub(super) fn visit(&mut self, path: &Path, depth: usize, named: bool) {
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
    pub(super) fn lose(&mut self, directory: &Path, error: &io::Error) {
        let message = format!("the directory cannot be read: {error}; what was read before is served on.");
        let fix = "Check that it exists and may be read.";
        self.problems.push(finding(Severity::Error, "UnreadableDirectory", directory, message, fix));
        self.lost.push(directory.to_owned());
    }
}

pub(super) fn is_manifest(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"))
}
