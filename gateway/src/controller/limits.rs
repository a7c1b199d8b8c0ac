//! Every limit of what is written to the cluster, and why.

use std::time::Duration;

/// For how long the Lease is good that nobody renews: the longest time without a leader after one has died. client-go's default.
pub(super) const LEASE_DURATION: Duration = Duration::from_secs(15);

/// For how long a leader goes on that cannot renew: less than the Lease is good for, by what clocks may run apart and what is under way may
/// take.
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// How often the leader renews, and the others look (and up to a fifth later, as those that began together shall not ask together): what
/// a clean handover takes.
pub(super) const LEASE_RETRY: Duration = Duration::from_secs(2);

/// How long one look at the Lease, or its renewal, may take: there is time for another before the deadline.
pub(super) const LEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the Lease to be given back.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long one write may take: the API server waits for admission webhooks for 30 s at most.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(35);

/// How often the Service of `--publish-service` is looked at, by the leader alone: how late its new address is noticed.
pub(super) const PUBLISH_LOOK: Duration = Duration::from_secs(5);

/// How long one look at it may take.
pub(super) const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Statuses written in a second, at most: those of 5,000 Ingresses take a new leader less than two minutes, and the API server does not
/// notice. controller-runtime's default is 20, ingress-nginx has no limit.
pub(super) const STATUS_RATE: u32 = 50;

/// Statuses that are being written at the same time, at most.
pub(super) const STATUS_AT_ONCE: usize = 10;

/// Of these, those that could not be written before, at most: where some hang, as behind an admission webhook that does not answer, there is
/// room for the others.
pub(super) const STATUS_RETRIED_AT_ONCE: usize = 5;

/// How often it is looked at most which statuses are to be written: one look goes over all Ingresses.
pub(super) const STATUS_LOOK: Duration = Duration::from_millis(100);

/// How long after a write the same is not written again: somebody else may be writing other addresses all the time, and then a quarrel
/// is at least a slow one.
pub(super) const STATUS_REWRITE: Duration = Duration::from_secs(30);

/// The first pause after a status that could not be written; each is twice as long as the one before.
pub(super) const STATUS_RETRY: Duration = Duration::from_secs(1);

/// The longest of these pauses.
pub(super) const STATUS_LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The longest time that nothing of a kind is written in a namespace where we may not, until one is tried; the first is [`STATUS_RETRY`].
pub(super) const FORBIDDEN_PAUSE: Duration = Duration::from_secs(60);

/// Objects of a kind in a namespace where others were written that may be forbidden one by one, as by an admission webhook, at most: where
/// there are more, it is forbidden there altogether.
pub(super) const MAX_DENIED: usize = 10;

/// How long it must have been said that we may not write, to be believed, as with what is read: an API server that has just begun forbids
/// everything for a moment.
pub(super) const FORBIDDEN_SETTLE: Duration = Duration::from_secs(3);

/// Events written in a second, at most: they are for people, and in no hurry.
pub(super) const EVENT_RATE: u32 = 5;

/// Events that are being written at the same time, at most.
pub(super) const EVENT_AT_ONCE: usize = 2;

/// How often it is looked at most which Events are to be written: one look goes over all findings.
pub(super) const EVENT_LOOK: Duration = Duration::from_secs(1);

/// How long something must have been wrong to become an Event: what one `kubectl apply` creates in a row is not complete before its end.
pub(super) const EVENT_SETTLE: Duration = Duration::from_secs(5);

/// How often an Event is said again while it is still so: an API server forgets Events after an hour.
pub(super) const EVENT_REPEAT: Duration = Duration::from_secs(30 * 60);

/// The pause after an Event that could not be written.
pub(super) const EVENT_RETRY: Duration = Duration::from_secs(60);

/// Findings of one object that become Events, at most; `/findings` has them all.
pub(super) const MAX_EVENTS_OF_OBJECT: usize = 10;

/// The longest note of an Event that the API server takes, in bytes.
pub(super) const MAX_EVENT_NOTE: usize = 1_024;

/// The longest part of an Event's name that is the name of its object, in bytes: all of it may have 253.
pub(super) const MAX_EVENT_NAME: usize = 230;
