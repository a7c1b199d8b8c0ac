//! Every limit and timeout of the pod program.

use std::time::Duration;

/// Open TCP connections of one pod; more wait in the kernel's queue. Twice the 10,000
/// idle connections that proxies are commonly measured with.
pub(super) const CONNECTIONS_MAX: usize = 20_000;

/// Connections the kernel completes before they are accepted: enough for a test that opens thousands at once.
/// Linux lowers it to `net.core.somaxconn`.
pub(super) const BACKLOG: u32 = 4_096;

/// Pause after an accept or receive that failed for want of something (file descriptors), instead of spinning.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection may be idle, or take to send a request head. Longer than the minute for which the proxies in
/// front keep an idle connection, so that it is they who close it and no request meets a closing connection.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Size of a request head, and of the read buffer: well above what proxies let through (8 to 32 KiB).
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long a client may pause within a request body that is being collected.
pub(super) const BODY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Size of a request body that is read and thrown away, and of what `/bytes/N` sends: one GiB is enough to measure with.
pub(super) const BODY_BYTES_MAX: u64 = 1 << 30;

/// Longest `delay` and `body-delay`: past the timeouts of the proxies under test, short enough to wait for.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(60);

/// Response headers one query may add.
pub(super) const ADDED_HEADERS_MAX: usize = 100;

/// How long the PROXY protocol header may take; the specification recommends at least 3 seconds (section 2).
pub(super) const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest version 1 header, line end included (PROXY protocol, section 2.1).
pub(super) const PROXY_V1_BYTES_MAX: usize = 107;

/// Longest version 2 header: the addresses take 52 bytes, a chain of TLVs with certificate names a few hundred.
pub(super) const PROXY_V2_BYTES_MAX: usize = 4_096;

/// How long requests in flight may take to finish after a shutdown began: a third of what Kubernetes grants a pod.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// Largest payload a UDP length field can announce, so no datagram is ever cut.
pub(super) const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Lines of the log that are kept, if there is one: as many as anybody reads.
pub(super) const LOG_LINES_MAX: usize = 1_000;

/// Length of such a line; the rest of a longer one is left out. Together with the above it keeps a log below 512 KiB.
pub(super) const LOG_LINE_BYTES_MAX: usize = 500;
