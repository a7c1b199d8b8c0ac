//! Session tickets: one rotation of keys for the whole process, and a scope for each kind of client authentication.
//!
//! A ticket lets a client skip the handshake, and with it the request for its certificate. So a ticket that was given under one
//! client authentication must be worthless under another: the [`Identity`] of the client authentication is authenticated with what
//! is encrypted, and a ticket from elsewhere is no ticket. (That the host is the same is checked by rustls: a session is
//! resumed only under the SNI it began with.) Even so nothing that a ticket says about a client is believed: the certificate that
//! comes with it is judged anew, see [`ClientAuth::judge`](super::ClientAuth::judge).
//!
//! The keys are our own and not rustls's, because a process that takes over from another goes on with that one's: else each
//! upgrade would be a wave of full handshakes. They go from memory to memory and are written nowhere.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use rustls::{pki_types::UnixTime, server::ProducesTickets};

use super::{
    identity::Identity,
    limits::TICKET_KEY_PERIOD,
    ticket_bytes::{self, SECRET_BYTES, TicketBytesError, TicketSecret},
};

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
    current: Key,
    previous: Option<Key>,
}

impl TicketKeys {
    /// New random keys.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn new(clock: fn() -> u64) -> Result<Self, rustls::Error> {
        let current = Key::random(clock()).ok_or(rustls::Error::FailedToGetRandomBytes)?;
        Ok(Self { keys: RwLock::new(Keys { current, previous: None }), clock })
    }

    /// New random keys that go by the system's clock.
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn of_this_process() -> Result<Self, rustls::Error> {
        Self::new(|| UnixTime::now().as_secs())
    }

    /// The keys for a successor, to be kept as secret as they are here.
    pub fn hand_over(&self) -> Vec<u8> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        ticket_bytes::encode([&keys.current].into_iter().chain(&keys.previous).map(|key| &key.secret))
    }

    /// Goes on with what the process before this one has [handed over](Self::hand_over), in the place of keys of its own. They
    /// become no younger by it. Without a key among the bytes all stays as it is.
    ///
    /// # Errors
    /// If the bytes are not understood. All stays as it is.
    pub fn inherit(&self, bytes: &[u8]) -> Result<(), TicketBytesError> {
        let now = (self.clock)();
        // One that begins in the future, by a clock that was set meanwhile, would never end.
        let secrets = ticket_bytes::decode(bytes)?.into_iter();
        let secrets = secrets.map(|secret| TicketSecret { since: secret.since.min(now), ..secret });
        let mut inherited: Vec<Key> = secrets.filter_map(Key::new).collect();
        inherited.sort_by_key(|key| std::cmp::Reverse(key.secret.since));
        let mut inherited = inherited.into_iter();
        if let Some(current) = inherited.next() {
            let keys = Keys { current, previous: inherited.next() };
            *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        Ok(())
    }

    /// Turns the keys on if it is time; then asks for what is wanted of them.
    fn with_keys<T>(&self, ask: impl FnOnce(&Keys) -> Option<T>) -> Option<T> {
        let (now, period) = ((self.clock)(), TICKET_KEY_PERIOD.as_secs());
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(keys.current.secret.since) < period {
            return ask(&keys);
        }
        drop(keys);
        // Made outside the lock; if another worker was faster, its key stays. Without a new key there are no tickets.
        let new = Key::random(now)?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_sub(keys.current.secret.since);
        if age >= period {
            let retired = std::mem::replace(&mut keys.current, new);
            // Nobody came for a whole period: then the key that was current is too old even to decrypt.
            keys.previous = (age < 2 * period).then_some(retired);
        }
        ask(&keys)
    }
}

/// One key. A ticket is what it has encrypted, the tag, and the nonce. Nonces are random, as several processes may have the key
/// and cannot count together; a key is good for 2³² of them, which is 200,000 a second until it retires.
struct Key {
    secret: TicketSecret,
    cipher: RandomizedNonceKey,
}

impl Key {
    fn random(since: u64) -> Option<Self> {
        let mut bytes = [0; SECRET_BYTES];
        rand::fill(&mut bytes).ok()?;
        Self::new(TicketSecret { since, bytes })
    }

    fn new(secret: TicketSecret) -> Option<Self> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &secret.bytes).ok()?;
        Some(Self { secret, cipher })
    }

    fn encrypt(&self, scope: &Identity, plain: &[u8]) -> Option<Vec<u8>> {
        let mut ticket = Vec::with_capacity(plain.len() + MAX_TAG_LEN + NONCE_LEN);
        ticket.extend(plain);
        let nonce = self.cipher.seal_in_place_append_tag(Aad::from(scope.as_bytes()), &mut ticket).ok()?;
        ticket.extend(nonce.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, scope: &Identity, ticket: &[u8]) -> Option<Vec<u8>> {
        let (sealed, nonce) = ticket.split_last_chunk::<NONCE_LEN>()?;
        let mut plain = sealed.to_vec();
        let length = self.cipher.open_in_place(Nonce::from(nonce), Aad::from(scope.as_bytes()), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.secret.fmt(f)
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
        self.keys.with_keys(|keys| keys.current.encrypt(&self.scope, plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.keys.with_keys(|keys| {
            let previous = || keys.previous.as_ref()?.decrypt(&self.scope, cipher);
            keys.current.decrypt(&self.scope, cipher).or_else(previous)
        })
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
    #[test]
    fn a_successor_reads_the_tickets_of_its_predecessor_and_the_keys_become_no_younger() {
        static NOW: AtomicU64 = AtomicU64::new(1_000_000);
        let period = TICKET_KEY_PERIOD.as_secs();
        let pass = |seconds| NOW.fetch_add(seconds, Ordering::Relaxed);
        let process = || Arc::new(TicketKeys::new(|| NOW.load(Ordering::Relaxed)).unwrap());
        let old = process();
        let before = tickets(&old, "a").encrypt(b"before").unwrap();
        pass(period);
        let last = tickets(&old, "a").encrypt(b"last").unwrap();
        pass(period / 2);
        let new = process();
        assert_eq!(tickets(&new, "a").decrypt(&last), None);
        new.inherit(&old.hand_over()).unwrap();
        assert_eq!(tickets(&new, "a").decrypt(&before).as_deref(), Some(&b"before"[..]));
        assert_eq!(tickets(&new, "a").decrypt(&last).as_deref(), Some(&b"last"[..]));
        assert_eq!(tickets(&new, "b").decrypt(&last), None, "scopes are kept apart");
        let of_new = tickets(&new, "a").encrypt(b"new").unwrap();
        assert!(tickets(&old, "a").decrypt(&of_new).is_some(), "both serve for a while");
        pass(period / 2);
        assert!(tickets(&new, "a").decrypt(&last).is_some() && tickets(&new, "a").decrypt(&before).is_none());
        pass(period);
        assert_eq!(tickets(&new, "a").decrypt(&last), None, "two periods after it began");
    }

    #[test]
    fn what_is_not_understood_or_comes_from_the_future_does_no_harm() {
        static NOW: AtomicU64 = AtomicU64::new(1_000_000);
        let keys = Arc::new(TicketKeys::new(|| NOW.load(Ordering::Relaxed)).unwrap());
        let own = tickets(&keys, "a").encrypt(b"own").unwrap();
        assert_eq!(keys.inherit(&[9, 9]), Err(TicketBytesError::Version(9)));
        assert_eq!(keys.inherit(&[1, 1, 0]), Err(TicketBytesError::Cut));
        assert_eq!((keys.inherit(&[]), keys.inherit(&[1])), (Ok(()), Ok(())));
        assert!(tickets(&keys, "a").decrypt(&own).is_some(), "its own keys stay");
        let future = TicketSecret { since: u64::MAX, bytes: [1; SECRET_BYTES] };
        keys.inherit(&ticket_bytes::encode([&future])).unwrap();
        let ticket = tickets(&keys, "a").encrypt(b"1").unwrap();
        NOW.fetch_add(2 * TICKET_KEY_PERIOD.as_secs(), Ordering::Relaxed);
        assert_eq!(tickets(&keys, "a").decrypt(&ticket), None, "it ends like any other");
    }

    #[test]
    fn no_log_shows_a_key() {
        let key = Key::random(5).unwrap();
        assert_eq!(format!("{key:?}"), "TicketSecret { since: 5, .. }");
    }
}
