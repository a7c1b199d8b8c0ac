//! Every limit and timeout of the HTTP data plane, each with its reason.

use std::time::Duration;

/// What a stranger, a pod or a slow network may cost one worker.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Open client connections. Beyond it a worker stops accepting: clients wait in the kernel's queue, none is cut.
    pub connections: usize,
    /// From the end of one answer (or the connect) to the end of the next request head: a connection that idles longer
    /// is closed, and so is one that sends its head byte by byte. Longer than the 60 s for which load balancers in
    /// front keep idle connections, so that they close first; nginx's `keepalive_timeout` is the same.
    pub request_head: Duration,
    /// After so long without a request, a connection is parked: it gives back its buffers. Long enough that a busy connection
    /// never pays for it, short enough that a wave of connections gives its memory back at once.
    pub park_after: Duration,
    /// Bytes of a request head: nginx's `large_client_header_buffers`, 4 × 8 KiB.
    pub request_head_bytes: usize,
    /// What is held of an answer that an HTTP/1 client does not take, beside what the kernel holds: one read from a pod fits.
    pub send_buffer: usize,
    /// A client that takes not one byte of its answer for this long is gone (nginx's `send_timeout`); with HTTP/2, also one
    /// that takes nothing of any answer while it gives no room for this one.
    pub client_stall: Duration,
    /// How long to read on after an early answer, so that the client sees the answer and not a reset (RFC 9112 9.6).
    pub linger: Duration,
    /// Bytes read meanwhile: enough for what is under way on any usual path.
    pub linger_bytes: usize,
    /// How long `Expect: 100-continue` waits for a pod that ignores it; clients wait about as long (RFC 9110 10.1.1).
    pub expect: Duration,
    /// Bytes of an answer's head: more than any honest pod sends, little enough to hold for each connection.
    pub answer_head_bytes: usize,
    /// Idle connections kept to one endpoint. What a worker has in flight at once comes back at once: were they fewer, each wave of
    /// requests would open connections and close them again. What is not needed is closed after `idle_upstream`.
    pub idle_upstream_per_endpoint: usize,
    /// How long an idle connection to a pod is kept (ingress-nginx's `upstream-keepalive-timeout`).
    pub idle_upstream: Duration,
    /// For the PROXY protocol header to arrive, where one is expected (ingress-nginx's `proxy-protocol-header-timeout`).
    pub proxy_header: Duration,
    /// While draining: how long an idle connection is left open, so that its next request is answered, with the word that
    /// it was the last. To close it at once would lose the requests that are on their way at that moment (RFC 9112 9.5;
    /// nginx's `keepalive_min_timeout` and HAProxy's `idle-close-on-response` are there for it). Clients under load send
    /// again within this; who pauses for longer has a request on its way at the very end of it only by rare chance.
    pub drain_idle: Duration,
    /// Requests that one HTTP/2 connection may have under way (ingress-nginx's `http2-max-concurrent-streams`).
    pub h2_streams: u32,
    /// What a client may send on one HTTP/2 stream before it is passed on: a window that fills most paths, and what one stream
    /// can make us hold.
    pub h2_stream_window: u32,
    /// The same for all streams of a connection together.
    pub h2_connection_window: u32,
    /// What is held of an answer that an HTTP/2 client does not take.
    pub h2_send_buffer: usize,
    /// Streams that a client may have reset before we have looked at them, and that we have reset for its errors: beyond
    /// that, it is attacking ("rapid reset", CVE-2023-44487) and its connection is closed.
    pub h2_reset_streams: usize,
    /// Frames an HTTP/2 client may send at once, beyond what its requests and our answers account for, that ask for nothing:
    /// SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty and unknown ones; and half as many each second. Beyond that, it is
    /// flooding us and its connection is closed (`h2_guard`). Envoy allows 1,000 to 10,000 of each kind, nghttp2 1,000
    /// resets; reading so many takes some 0.2 ms.
    pub h2_idle_frames: u32,
    /// How long an HTTP/2 client may let the answer on one stream wait while it takes that of others; if it takes none, its
    /// `client_stall` holds (Envoy's `stream_idle_timeout`).
    pub h2_stream_stall: Duration,
    /// An HTTP/2 peer that has said nothing for so long is asked whether it is there; it has as long to answer.
    pub h2_ping: Duration,
    /// Requests under way on one HTTP/2 connection to a pod, before another one is opened: what servers commonly allow.
    pub h2_streams_per_upstream: u32,
    /// Pause after the process ran out of file descriptors, for others to close theirs.
    pub accept_backoff: Duration,
    /// Warnings a second; the rest is only counted, so that a broken pod cannot fill the disk.
    pub warnings_per_second: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            request_head: Duration::from_secs(75),
            park_after: Duration::from_secs(1),
            request_head_bytes: 32 << 10,
            send_buffer: 64 << 10,
            client_stall: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            linger_bytes: 4 << 20,
            expect: Duration::from_secs(1),
            answer_head_bytes: 64 << 10,
            idle_upstream_per_endpoint: 512,
            idle_upstream: Duration::from_secs(60),
            proxy_header: Duration::from_secs(5),
            drain_idle: Duration::from_secs(5),
            h2_streams: 128,
            h2_stream_window: 256 << 10,
            h2_connection_window: 1 << 20,
            h2_send_buffer: 128 << 10,
            h2_reset_streams: 32,
            h2_idle_frames: 2_000,
            h2_stream_stall: Duration::from_secs(300),
            h2_ping: Duration::from_secs(30),
            h2_streams_per_upstream: 100,
            accept_backoff: Duration::from_millis(100),
            warnings_per_second: 10,
        }
    }
}
