//! Every limit of what is read of a cluster, and why.

use std::time::Duration;

/// How long the head of an answer may take: the API server itself gives up on a list after 60 s.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(65);

/// How long an answer may be silent in its middle. A watch ends sooner by itself.
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(90);

/// Requests of one watch, at least this far apart if both ask to watch: a server, or a proxy before it, that ends every watch at
/// once is not asked without a pause.
pub(super) const WATCH_PACE: Duration = Duration::from_millis(200);

/// How long the API server lets a watch go on: where it has gone without a word, it is noticed a few seconds after that.
pub(super) const WATCH_SECONDS: u32 = 60;

/// How often objects are listed anew that may be listed and not watched: how late a change is noticed, and what it costs.
pub(super) const RELIST: Duration = Duration::from_secs(30);

/// How often a kind is asked for that the cluster does not have: somebody may install it any time, and is not kept waiting for long.
pub(super) const MISSING_PAUSE: Duration = Duration::from_secs(10);

/// The first pause of a watch that failed: an API server that restarts drops everybody, and is back in a moment.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause of a watch: how late it is noticed that the API server is back.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A watch that did well for this long after a pause begins with the first again.
pub(super) const FORGIVEN: Duration = Duration::from_secs(10);

/// How long it must have been said that we may not, to be believed: an API server that begins answers before it has read its own
/// rules, and until then it forbids everything. That takes it a second; what is missing for longer is missing.
pub(super) const FORBIDDEN_SETTLE: Duration = Duration::from_secs(3);

/// How long a kind is waited for that fails and that one can do without, before the others are served: longer than most that goes by itself,
/// and short beside a replica that never becomes ready.
pub(super) const OPTIONAL_PATIENCE: Duration = Duration::from_secs(30);

/// Objects fetched at the same time: enough to have thousands within seconds, and few beside what a cluster asks its API server.
pub(super) const FETCHES_AT_ONCE: usize = 16;

/// When an object that we may not read is asked for again; at once if it changes. There may be thousands.
pub(super) const FORBIDDEN_PAUSE: Duration = Duration::from_secs(60);

/// How long a configuration waits for Secrets and ConfigMaps that it is the first to refer to: two answers of an API server that is well.
/// Whoever creates an Ingress with TLS shall not be shown a stand-in first; and no other change shall wait for long.
pub(super) const FETCH_PATIENCE: Duration = Duration::from_millis(250);

/// The same for the first configuration, which refers to thousands: nothing is served before it.
pub(super) const FIRST_FETCH_PATIENCE: Duration = Duration::from_secs(30);

/// How much may have been heard without having been taken in: a page of a list, and a few more.
pub(super) const MAX_WAITING: usize = 1_024;

/// How often it is looked whether anybody listens still.
pub(super) const LISTENER_LOOK: Duration = Duration::from_secs(5);

/// Findings on single objects, at most: where it is all of a kind, the first say what it is.
pub(super) const MAX_PROBLEMS: usize = 1_000;

/// The longest name of a field manager that the API server takes, in bytes.
pub(super) const MAX_FIELD_MANAGER: usize = 128;

/// ConfigMaps are read for header fields alone, and no client takes more of these than this.
pub(super) const MAX_CONFIG_MAP_BYTES: usize = 32 << 10;

/// How long the API server may take before what an earlier process remembered is served: longer than one that is well takes to list
/// everything, and short beside an outage.
pub(super) const CACHE_GRACE: Duration = Duration::from_secs(5);

/// How often the cache is written at most: what has changed since is not known to who begins while the API server is away.
pub(super) const CACHE_INTERVAL: Duration = Duration::from_secs(2);

/// How many bytes of the cache are written in a second, at most: a small cluster is written at once, one of 5,000 Services each minute.
pub(super) const CACHE_BYTES_PER_SECOND: u64 = 512 << 10;

/// A cache larger than this is neither written nor read: the largest cluster that is meant to be served takes a tenth of it.
pub(super) const MAX_CACHE_BYTES: u64 = 512 << 20;
