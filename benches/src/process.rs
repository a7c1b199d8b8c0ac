//! What the kernel knows about processes: CPU, memory, children, cores.

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

const SETPRIV: &str = "/usr/bin/setpriv";

/// A process and all below it.
pub fn tree(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children: String =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()).collect();
    let below = children.split_whitespace().filter_map(|child| child.parse().ok()).flat_map(tree);
    std::iter::once(pid).chain(below).collect()
}

/// CPU time of a process and all below it: the first field of each thread's `schedstat`, in nanoseconds.
pub fn cpu(pid: u32) -> Duration {
    let mut nanos = 0;
    for pid in tree(pid) {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            nanos += first_number(&thread.path().join("schedstat")).unwrap_or(0);
        }
    }
    Duration::from_nanos(nanos)
}

/// Memory of a process and all below it in bytes, each shared page divided among those who share it.
pub fn pss(pid: u32) -> u64 {
    tree(pid).into_iter().map(|pid| kilobytes(pid, "smaps_rollup", "Pss:") << 10).sum()
}

/// Memory of one process in bytes, shared pages included: what a container's limit and `kubectl top` go by, or nearly so.
pub fn rss(pid: u32) -> u64 {
    kilobytes(pid, "status", "VmRSS:") << 10
}

/// A line of one of a process's files; 0 if it is gone.
fn kilobytes(pid: u32, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// A command whose process is told to end when this one has: nothing is left running, however we end.
pub fn bound_to_us(program: &Path) -> Command {
    if !Path::new(SETPRIV).is_file() {
        return Command::new(program);
    }
    let mut command = Command::new(SETPRIV);
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// Sends a signal; a process that is gone needs none.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The core for the proxy and the core for the load; `None` if there is only one.
pub fn two_cores() -> Option<(usize, usize)> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    Some((cores.next()?, cores.next()?))
}

/// Moves this thread, and whatever it starts from now on, to one core.
pub fn pin(core: Option<usize>) {
    let Some(core) = core else { return };
    let mut set = CpuSet::new();
    set.set(core);
    if let Err(error) = sched_setaffinity(None, &set) {
        eprintln!("not pinned to core {core}: {error}");
    }
}

/// Raises the limit of open files as far as it goes, for the proxies too; returns it.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_file_limit() -> anyhow::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(1 << 20))
}

/// The three load averages, as the kernel writes them.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// What the kernel calls the processor: the price of a copy and of a wake-up differs much from one to the other.
pub fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, model)| model.to_owned())
}

fn first_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}
