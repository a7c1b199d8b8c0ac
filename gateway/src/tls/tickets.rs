//! Session tickets: one rotation of keys for the whole process, and a scope for each kind of client authentication.
//!
//! A ticket lets a client skip the handshake, and with it the request for its certificate. So a ticket that was given under one
//! client authentication must be worthless under another: what is encrypted begins with the [`Identity`] of the client
//! authentication, and a ticket from elsewhere is no ticket. (That the host is the same is checked by rustls: a session is
//! resumed only under the SNI it began with.) Even so nothing that a ticket says about a client is believed: the certificate that
//! comes with it is judged anew, see [`ClientAuth::judge`](super::ClientAuth::judge).

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{crypto::aws_lc_rs::Ticketer, pki_types::UnixTime, server::ProducesTickets};

use super::{identity::Identity, limits::TICKET_KEY_PERIOD};

/// Encrypts and decrypts tickets with keys that change.
///
/// The lock is taken for reading twice in a handshake, which costs a hundred thousand times as much; for writing once in a period.
#[derive(Debug)]
pub struct TicketKeys {
    keys: RwLock<Keys>,
    /// Seconds since the Unix epoch.
    clock: fn() -> u64,
}

/// A key that encrypts, and the one before it.
#[derive(Debug)]
struct Keys {
    current: Arc<dyn ProducesTickets>,
    previous: Option<Arc<dyn ProducesTickets>>,
    /// When the current key began.
    since: u64,
}

impl TicketKeys {
    /// New random keys.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn new(clock: fn() -> u64) -> Result<Self, rustls::Error> {
        let keys = Keys { current: Ticketer::new()?, previous: None, since: clock() };
        Ok(Self { keys: RwLock::new(keys), clock })
    }

    /// New random keys that go by the system's clock.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn of_this_process() -> Result<Self, rustls::Error> {
        Self::new(|| UnixTime::now().as_secs())
    }

    /// Turns the keys on if it is time; then asks for what is wanted of them.
    fn with_keys<T>(&self, ask: impl FnOnce(&Keys) -> Option<T>) -> Option<T> {
        let (now, period) = ((self.clock)(), TICKET_KEY_PERIOD.as_secs());
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(keys.since) < period {
            return ask(&keys);
        }
        drop(keys);
        // Made outside the lock; if another worker was faster, its key stays. Without a new key there are no tickets.
        let new = Ticketer::new().ok()?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_sub(keys.since);
        if age >= period {
            let retired = std::mem::replace(&mut keys.current, new);
            // Nobody came for a whole period: then the key that was current is too old even to decrypt.
            keys.previous = (age < 2 * period).then_some(retired);
            keys.since = now;
        }
        ask(&keys)
    }
}

/// The tickets of the hosts that ask for client certificates in the same way, or not at all.
#[derive(Debug)]
pub(crate) struct ScopedTickets {
    keys: Arc<TicketKeys>,
    scope: Identity,
}

impl ScopedTickets {
    pub(crate) fn new(keys: Arc<TicketKeys>, scope: Identity) -> Self {
        Self { keys, scope }
    }
}

impl ProducesTickets for ScopedTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// What clients are told (RFC 8446 4.6.1): a ticket of the last second of a period is good for one period more.
    fn lifetime(&self) -> u32 {
        u32::try_from(2 * TICKET_KEY_PERIOD.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let scoped = [self.scope.as_bytes().as_slice(), plain].concat();
        self.keys.with_keys(|keys| keys.current.encrypt(&scoped))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.keys.with_keys(|keys| {
            let previous = || keys.previous.as_ref()?.decrypt(cipher);
            keys.current.decrypt(cipher).or_else(previous)
        })?;
        Some(plain.strip_prefix(self.scope.as_bytes())?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn tickets(keys: &Arc<TicketKeys>, scope: &str) -> ScopedTickets {
        ScopedTickets::new(keys.clone(), Identity::of([scope.as_bytes()]))
    }

    #[test]
    fn a_ticket_is_worthless_in_another_scope_and_under_other_keys() {
        let [keys, others] = [(), ()].map(|()| Arc::new(TicketKeys::of_this_process().unwrap()));
        let ticket = tickets(&keys, "a").encrypt(b"session").unwrap();
        assert_eq!(tickets(&keys, "a").decrypt(&ticket).as_deref(), Some(&b"session"[..]), "any worker's copy will do");
        assert_eq!(tickets(&keys, "b").decrypt(&ticket), None);
        assert_eq!(tickets(&others, "a").decrypt(&ticket), None);
        assert_eq!(tickets(&keys, "a").decrypt(&ticket[1..]), None);
        assert_eq!(tickets(&keys, "a").decrypt(&[]), None);
    }

    #[test]
    fn keys_change_and_old_ones_go() {
        static NOW: AtomicU64 = AtomicU64::new(1_000_000);
        let period = TICKET_KEY_PERIOD.as_secs();
        let pass = |seconds| NOW.fetch_add(seconds, Ordering::Relaxed);
        let keys = Arc::new(TicketKeys::new(|| NOW.load(Ordering::Relaxed)).unwrap());
        let tickets = tickets(&keys, "a");
        let good = |ticket: &[u8]| tickets.decrypt(ticket).is_some();
        let first = tickets.encrypt(b"1").unwrap();
        pass(period - 1);
        assert!(good(&first), "within its period");
        pass(1);
        let second = tickets.encrypt(b"2").unwrap();
        assert!(good(&first) && good(&second), "the key before still decrypts");
        pass(period);
        assert!(!good(&first) && good(&second));
        pass(2 * period);
        assert!(!good(&second), "nobody came for two periods");
    }
}
