//! Every limit and timeout of the service proxy, in one place, each with its reason.

use std::time::Duration;

/// TCP connections one worker carries at once. Beyond it nothing more is accepted: clients wait in the kernel's
/// backlog. Each takes two descriptors and about 1.5 KiB, so a full worker stays below 64 MiB.
pub const MAX_CONNECTIONS: usize = 32_768;

/// UDP flows one worker carries at once, one descriptor each. Beyond it an old one gives way to the new one.
pub const MAX_FLOWS: usize = 8_192;

/// Endpoints tried for one connection before the client is turned away. A second endpoint that fails right after the
/// first means trouble in the network; a third look is worth its price, a tenth is not.
pub const CONNECT_TRIES: usize = 3;

/// Time for one endpoint while there are others to try: long enough for one lost SYN, which is sent again after 1 s
/// (RFC 6298), and far longer than any healthy pod takes.
pub const CONNECT_TRY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Time for all tries together. The last endpoint gets what is left of it: with one endpoint that is time for a SYN
/// sent three times. Clients commonly give up after 5 to 10 s themselves.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a client to send its PROXY protocol header. The sender is a load balancer that sends it at once; the
/// specification asks for at least 3 s, so that one lost packet does no harm.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest PROXY protocol header accepted, the optional fields of version 2 included.
pub const MAX_PROXY_HEADER: usize = 4_096;

/// How long a UDP flow lives on when the endpoint never answered (Linux `nf_conntrack_udp_timeout`).
pub const FLOW_UNREPLIED_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a silent UDP flow lives on once the endpoint has answered (Linux `nf_conntrack_udp_timeout_stream`).
pub const FLOW_REPLIED_TIMEOUT: Duration = Duration::from_secs(120);

/// Failures in a row after which an endpoint is ejected, where that is asked for: more than the tries of one connection, so
/// that one unlucky client takes nobody out (Envoy's `consecutive_5xx` is 5 as well).
pub const MAX_FAILURES: u32 = 5;

/// How long an endpoint is ejected the first time: a few times what a container needs to start again.
pub const EJECTION_TIME: Duration = Duration::from_secs(10);

/// How long an endpoint is ejected at most, however often it failed. One that is mended waits no longer than this.
pub const EJECTION_MAX_TIME: Duration = Duration::from_secs(300);

/// Percent of a port's endpoints that may be ejected at once. With more than half in trouble the fault is more likely
/// common to them (a database, the network), and the rest could not bear their load.
pub const EJECTION_MAX_SHARE: u8 = 50;

/// From one probe to the next, where probes are asked for (a kubelet's `periodSeconds`).
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Time for the answer to a probe (a kubelet's `timeoutSeconds`).
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Good answers in a row that bring an endpoint back (a kubelet's `successThreshold`).
pub const PROBE_HEALTHY: u32 = 1;

/// Bad answers in a row that take an endpoint out (a kubelet's `failureThreshold`).
pub const PROBE_UNHEALTHY: u32 = 3;

/// Time after which an endpoint's latency weighs 1/e of what it did (ingress-nginx's `DECAY_TIME`).
pub(crate) const EWMA_DECAY: Duration = Duration::from_secs(10);

/// Draws for one choice before every endpoint is looked at: with half of them ejected all are in vain once in 256 times.
pub(crate) const DRAWS: usize = 8;

/// How many flows are looked at to find one that may give way: a bounded price for a good guess.
pub(crate) const FLOW_EVICTION_SAMPLE: usize = 16;

/// Clients the kernel lets wait for us to accept; it lowers this to `net.core.somaxconn`.
pub(crate) const LISTEN_BACKLOG: i32 = 4_096;

/// Rest after an accept that failed, so that a process out of descriptors neither spins nor gives up.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Least time between two log lines of one worker about trouble that clients can cause again and again.
pub(crate) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Silence after which the kernel asks a peer whether it still exists, so that machines which vanished do not hold
/// connections for ever.
pub(crate) const KEEPALIVE_IDLE: Duration = Duration::from_secs(600);

/// The buffer of a worker, shared by all its connections. Also the largest possible datagram.
pub(crate) const BUFFER_SIZE: usize = 65_536;

/// Bytes one direction of a connection may move before the worker's other connections get their turn: well below a
/// millisecond of copying.
pub(crate) const BYTES_PER_TURN: u64 = 1 << 20;

/// Reads in a row that fill the buffer before a direction is taken for a bulk transfer, and moved inside the kernel.
pub(crate) const FULL_READS_BEFORE_SPLICE: u8 = 4;

/// Capacity asked for a pipe: 128 of them fit what Linux grants an ordinary user (`pipe-user-pages-soft`, 64 MiB).
#[cfg(target_os = "linux")]
pub(crate) const PIPE_SIZE: usize = 512 << 10;

/// Pipes one worker may use at once; further bulk transfers go through the buffer, which is slower but as correct.
#[cfg(target_os = "linux")]
pub(crate) const MAX_PIPES: usize = 64;

/// Pipes a worker keeps for the next bulk transfer.
#[cfg(target_os = "linux")]
pub(crate) const MAX_IDLE_PIPES: usize = 16;

/// The limits a worker is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// See [`MAX_CONNECTIONS`].
    pub max_connections: usize,
    /// See [`MAX_FLOWS`].
    pub max_flows: usize,
    /// See [`CONNECT_TRIES`].
    pub connect_tries: usize,
    /// See [`CONNECT_TRY_TIMEOUT`].
    pub connect_try_timeout: Duration,
    /// See [`CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// See [`PROXY_HEADER_TIMEOUT`].
    pub proxy_header_timeout: Duration,
    /// See [`FLOW_UNREPLIED_TIMEOUT`].
    pub flow_unreplied_timeout: Duration,
    /// See [`FLOW_REPLIED_TIMEOUT`].
    pub flow_replied_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            max_flows: MAX_FLOWS,
            connect_tries: CONNECT_TRIES,
            connect_try_timeout: CONNECT_TRY_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            proxy_header_timeout: PROXY_HEADER_TIMEOUT,
            flow_unreplied_timeout: FLOW_UNREPLIED_TIMEOUT,
            flow_replied_timeout: FLOW_REPLIED_TIMEOUT,
        }
    }
}
