//! What every process has, under the names that all Prometheus clients use. From `/proc`: elsewhere than on Linux there is less.

use std::{fmt, fs, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use rustix::process::{Resource, getrlimit};

use super::{Family, time};

/// The process, as it is now.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) started: SystemTime,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        time(encoder, "process_start_time_seconds", "When the process began.", self.started)?;
        if let Some(max) = getrlimit(Resource::Nofile).current {
            Family::gauge("process_max_fds", "File descriptors it may have open.").encode_one(encoder, max)?;
        }
        let Some(usage) = Usage::read() else { return Ok(()) };
        encoder
            .encode_descriptor(
                "process_cpu_seconds",
                "Time on a processor, user and system.",
                None,
                MetricType::Counter,
            )?
            .encode_counter::<NoLabelSet, _, f64>(&usage.cpu_seconds, None)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory in RAM.", usage.resident_bytes),
            ("process_virtual_memory_bytes", "Address space.", usage.virtual_bytes),
            ("process_open_fds", "File descriptors open now.", usage.open_fds),
            ("process_threads", "Threads.", usage.threads),
        ] {
            Family::gauge(name, help).encode_one(encoder, value)?;
        }
        Ok(())
    }
}

/// What the process uses.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    virtual_bytes: u64,
    open_fds: u64,
    threads: u64,
}

impl Usage {
    /// `None` where there is no `/proc`.
    pub(super) fn read() -> Option<Self> {
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        let usage = Self::parse(
            &fs::read_to_string("/proc/self/stat").ok()?,
            rustix::param::clock_ticks_per_second(),
            rustix::param::page_size() as u64,
        )?;
        // The directory was open itself.
        Some(Self { open_fds: open_fds.saturating_sub(1), ..usage })
    }

    /// Reads `/proc/PID/stat` (proc_pid_stat(5)).
    fn parse(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Option<Self> {
        // The name in parentheses may have anything in it; after it comes field 3.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks_per_second as f64,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_bytes,
            open_fds: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_whatever_the_name() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 5 6 20 0 9 0 100 4096000 250 18446744073709551615\n";
        let usage = Usage::parse(stat, 100, 4096).unwrap();
        let expected =
            Usage { cpu_seconds: 2.0, threads: 9, virtual_bytes: 4_096_000, resident_bytes: 250 * 4096, open_fds: 0 };
        assert_eq!(usage, expected);
        assert_eq!(Usage::parse("", 100, 4096), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_something() {
        let usage = Usage::read().unwrap();
        assert!(usage.resident_bytes > 1 << 20 && usage.threads > 0 && usage.open_fds > 2, "{usage:?}");
    }
}
