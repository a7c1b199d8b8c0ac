//! Every limit and timeout of TLS, in one place, each with its reason.

use std::time::Duration;

/// Longest ClientHello, in bytes as they come over the wire. The largest that browsers send (post-quantum key shares, a ticket
/// with a client certificate in it) is below 6 KiB; rustls would take 64.
pub const MAX_HELLO_BYTES: usize = 16 << 10;

/// Room made at once for a ClientHello: nearly all of them fit.
pub(crate) const HELLO_READ_BYTES: usize = 2 << 10;

/// From the accept to the end of the handshake: two round trips and, on a bad line, three lost packets. nginx allows 60 s
/// (`client_header_timeout`), which is a gift to whoever opens connections and says nothing.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long is read on after a plain request was answered on the TLS port, so that the answer is not destroyed by a reset.
pub const PLAIN_LINGER: Duration = Duration::from_secs(1);

/// How much is read on at most: a request's head.
pub(crate) const PLAIN_LINGER_BYTES: usize = 16 << 10;

/// How long one key encrypts session tickets; for as long again it still decrypts them, and then it is gone. A session can be
/// resumed for 6 to 12 hours, as with rustls's own ticketer. An upgrade in place makes keys no younger. RFC 8446 4.6.1 allows seven days, but whoever steals a key can
/// read what was resumed with its tickets in TLS 1.2 (RFC 5077 5.6), so less is better.
pub const TICKET_KEY_PERIOD: Duration = Duration::from_secs(6 * 60 * 60);

/// A certificate that ends sooner than this is warned of: cert-manager renews 30 days before the end by default, so one that
/// has only 10 days left was forgotten by somebody.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(10 * 24 * 60 * 60);

/// Most certificates of a chain that is read, in a Secret: real ones have four.
pub(crate) const MAX_CHAIN: usize = 16;

/// Longest chain that `auth-tls-verify-depth` and `proxy-ssl-verify-depth` may allow: what webpki follows at most.
pub(crate) const MAX_VERIFY_DEPTH: u8 = 6;

/// Longest `auth-tls-match-cn`, and largest program it may compile to: patterns come from whoever may write an Ingress.
pub(crate) const MAX_PATTERN_BYTES: usize = 1 << 10;

/// See [`MAX_PATTERN_BYTES`].
pub(crate) const MAX_PATTERN_PROGRAM_BYTES: usize = 1 << 18;

/// The limits a worker accepts TLS connections with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsLimits {
    /// See [`MAX_HELLO_BYTES`].
    pub hello_bytes: usize,
    /// See [`HANDSHAKE_TIMEOUT`].
    pub handshake: Duration,
    /// See [`PLAIN_LINGER`].
    pub plain_linger: Duration,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self { hello_bytes: MAX_HELLO_BYTES, handshake: HANDSHAKE_TIMEOUT, plain_linger: PLAIN_LINGER }
    }
}
