//! Where a cluster keeps what it writes, and how to make sure that nothing is left of one.

use std::{
    env, fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Pid, Signal, getuid, kill_process},
};

use super::Failure;

/// In the environment of every process of a cluster: whose it is.
pub(super) const OWNER: &str = "TIDEGATE_CLUSTER_DIRECTORY";

/// Where cgroups are, in any of their versions.
const CGROUPS: &str = "/sys/fs/cgroup";

/// How long processes may take to die, and cgroups to be empty.
const END: Duration = Duration::from_secs(20);

/// A cluster's directory. Whoever holds its lock is its supervisor.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// That of the cluster of this name, whether there is one or not.
    ///
    /// # Errors
    /// If this is no name.
    pub fn named(name: &str) -> Result<Self, Failure> {
        // It is part of the names of cgroups and of a socket's path, which may not be long.
        let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 30 || !name.chars().all(is_fit) {
            return Err(format!("{name:?} is no name for a cluster: up to 30 of a-z, 0-9 and -").into());
        }
        Ok(Self { path: all().join(name) })
    }

    /// Every one that there is.
    pub fn every() -> Vec<Self> {
        let Ok(entries) = fs::read_dir(all()) else { return Vec::new() };
        let paths = entries.flatten().filter(|entry| !entry.file_name().as_bytes().starts_with(b"."));
        let mut every: Vec<Self> = paths.map(|entry| Self { path: entry.path() }).collect();
        every.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        every
    }

    /// Makes it, for its user alone, as there are keys in it; and makes this process its supervisor for as long as the answer lives.
    ///
    /// # Errors
    /// If it is there, or cannot be made.
    pub(super) fn create(&self) -> Result<fs::File, Failure> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(all())?;
        // It gets its name when it is locked: others take one without a lock for a leftover.
        let draft = all().join(format!(".{}-{}", self.name(), std::process::id()));
        builder.recursive(false).create(&draft).map_err(|error| format!("{}: {error}", draft.display()))?;
        fs::create_dir(draft.join("logs"))?;
        let lock = fs::File::create(draft.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        if let Err(error) = fs::rename(&draft, &self.path) {
            fs::remove_dir_all(&draft)?;
            return Err(match self.path.exists() {
                true => {
                    format!("there is a cluster {} already; end it with `cluster down --name {0}`", self.name()).into()
                }
                false => format!("{}: {error}", self.path.display()).into(),
            });
        }
        Ok(lock)
    }

    /// The cluster's name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where a program writes what it says.
    pub fn log(&self, program: &str) -> PathBuf {
        self.path.join("logs").join(format!("{program}.log"))
    }

    /// Takes the place of its supervisor, if that has ended.
    fn lock(&self) -> io::Result<fs::File> {
        let lock = fs::File::open(self.path.join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(lock)
    }

    /// Whether its supervisor is there.
    pub fn is_alive(&self) -> bool {
        self.lock().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Removes everything: processes, cgroups, files. Namespaces and mounts end with the processes that are in them.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(&self) -> Result<(), Failure> {
        let patience = Instant::now() + END;
        loop {
            let (processes, groups) = (self.processes(), self.cgroups());
            for &pid in &processes {
                // Who has ended meanwhile need not be killed.
                let _ = kill_process(pid, Signal::KILL);
            }
            groups.iter().for_each(|group| remove_cgroup(group));
            if processes.is_empty() && self.cgroups().is_empty() {
                break;
            }
            if Instant::now() > patience {
                return Err(format!("of cluster {} are left: {processes:?}, {groups:?}", self.name()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.remove_files().map_err(|error| format!("{}: {error}", self.path.display()).into())
    }

    /// The lock last, so that what an interrupted removal leaves is still somebody's to remove.
    fn remove_files(&self) -> io::Result<()> {
        let lock = self.path.join("lock");
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in entries.filter(|path| *path != lock) {
            missing_is_fine(if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            })?;
        }
        missing_is_fine(fs::remove_file(&lock))?;
        missing_is_fine(fs::remove_dir(&self.path))
    }

    /// Every process of it, but for the caller: those whose environment says so, and those in the cgroups of its nodes.
    pub fn processes(&self) -> Vec<Pid> {
        let mark = [OWNER.as_bytes(), b"=", self.path.as_os_str().as_bytes()].concat();
        let is_marked = |pid: &Pid| {
            let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == mark)
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
        let mut all: Vec<Pid> = pids.filter(is_marked).collect();
        all.extend(self.cgroups().iter().flat_map(|group| members(group)));
        all.retain(|&pid| pid != rustix::process::getpid());
        all.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        all.dedup();
        all
    }

    /// The cgroups of its nodes, in every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let prefix = self.cgroup("");
        let ours = |folder: &Path| -> Vec<PathBuf> {
            let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
            let is_ours =
                |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(prefix.as_bytes()));
            entries.flatten().map(|entry| entry.path()).filter(is_ours).collect()
        };
        let hierarchies = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
        hierarchies.flat_map(|hierarchy| ours(&hierarchy)).chain(ours(Path::new(CGROUPS))).collect()
    }

    /// The name of a node's cgroup.
    pub fn cgroup(&self, node: &str) -> String {
        format!("tidegate-{}.{node}", self.name())
    }
}

/// Where all of this user's clusters are. Short, as the path of a socket may have 107 bytes.
fn all() -> PathBuf {
    env::temp_dir().join(format!("tidegate-cluster-{}", getuid().as_raw()))
}

/// Removes what is left of clusters whose supervisor was killed.
///
/// # Errors
/// What could not be removed.
pub fn remove_leftovers() -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    for directory in Directory::every() {
        match directory.lock() {
            // Whoever has the lock is the only one who removes it.
            Ok(_lock) => {
                directory.remove()?;
                removed.push(directory.name());
            }
            // There was no time to remove the last of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => drop(fs::remove_dir(directory.path())),
            Err(_) => {}
        }
    }
    Ok(removed)
}

/// Whoever removes the same may have been quicker.
fn missing_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The processes in a cgroup and those below.
fn members(group: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<Pid> = text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
    below(group).for_each(|child| pids.extend(members(&child)));
    pids
}

/// Removes a cgroup and those below, if nobody is in them any more.
fn remove_cgroup(group: &Path) {
    below(group).for_each(|child| remove_cgroup(&child));
    let _ = fs::remove_dir(group);
}

fn below(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_plain() {
        for name in ["", "a/b", "..", "A", "a b", "a.b", "0123456789012345678901234567890"] {
            assert!(Directory::named(name).is_err(), "{name:?}");
        }
        let directory = Directory::named("dev-1").unwrap();
        assert_eq!((directory.name().as_str(), directory.cgroup("n1").as_str()), ("dev-1", "tidegate-dev-1.n1"));
    }

    #[test]
    fn whoever_has_the_lock_is_alone() {
        let directory = Directory::named(&format!("lock-{}", std::process::id())).unwrap();
        assert!(!directory.is_alive());
        let lock = directory.create().unwrap();
        assert!(directory.is_alive());
        let again = directory.create().unwrap_err().to_string();
        assert!(again.contains("down --name lock-"), "{again}");
        drop(lock);
        assert!(!directory.is_alive());
        directory.remove().unwrap();
        assert!(!directory.path().exists());
    }
}
