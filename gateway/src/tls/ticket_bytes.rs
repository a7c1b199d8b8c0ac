//! The keys of session tickets as bytes, on their way from one process to the next.
//!
//! A version (one byte), then fields: kind (one byte), length of the value (two bytes, big endian), value. Fields of a kind that a
//! reader does not know are skipped, as are bytes at the end of a value beyond those it knows, and none need be there: so a newer
//! process can take over from an older one and the other way round. Only what an older reader would misunderstand asks for another
//! version. Keys of another construction of tickets are another kind of field.

use std::fmt;

/// Bytes of a key.
pub(super) const SECRET_BYTES: usize = 32;

/// The version of all this. Who reads another one begins with keys of its own.
const VERSION: u8 = 1;

/// A key for AES-256-GCM, as [`super::tickets`] uses it: when it began to encrypt (seconds since the Unix epoch, 8 bytes, big
/// endian), the key.
const AES_256_GCM: u8 = 1;

/// One key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TicketSecret {
    /// When it began to encrypt, in seconds since the Unix epoch.
    pub(super) since: u64,
    /// The key itself.
    pub(super) bytes: [u8; SECRET_BYTES],
}

/// A key is never shown.
impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketSecret").field("since", &self.since).finish_non_exhaustive()
    }
}

/// Why bytes are not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketBytesError {
    /// Of a version that this process does not know.
    #[error("they are of version {0}, and this process reads version {VERSION}")]
    Version(u8),
    /// Not whole.
    #[error("they end in the middle")]
    Cut,
}

/// These keys as bytes.
pub(super) fn encode<'a>(secrets: impl IntoIterator<Item = &'a TicketSecret>) -> Vec<u8> {
    let mut out = vec![VERSION];
    for secret in secrets {
        out.push(AES_256_GCM);
        out.extend(((8 + SECRET_BYTES) as u16).to_be_bytes());
        out.extend(secret.since.to_be_bytes());
        out.extend(secret.bytes);
    }
    out
}

/// The keys among these bytes; no bytes are no keys.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<TicketSecret>, TicketBytesError> {
    let (version, mut rest) = match bytes {
        [] => return Ok(Vec::new()),
        [version, rest @ ..] => (*version, rest),
    };
    if version != VERSION {
        return Err(TicketBytesError::Version(version));
    }
    let mut secrets = Vec::new();
    while let Some((&[kind, high, low], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, after) = after.split_at_checked(length).ok_or(TicketBytesError::Cut)?;
        rest = after;
        if kind == AES_256_GCM {
            let (since, value) = value.split_first_chunk().ok_or(TicketBytesError::Cut)?;
            let bytes = *value.first_chunk().ok_or(TicketBytesError::Cut)?;
            secrets.push(TicketSecret { since: u64::from_be_bytes(*since), bytes });
        }
    }
    if rest.is_empty() { Ok(secrets) } else { Err(TicketBytesError::Cut) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TWO: [TicketSecret; 2] =
        [TicketSecret { since: 2, bytes: [7; SECRET_BYTES] }, TicketSecret { since: 1, bytes: [8; SECRET_BYTES] }];

    /// Processes of other versions have written these bytes, or will read them: they may not change within a version.
    #[test]
    fn the_bytes_are_these() {
        let mut expected = vec![1];
        for (since, byte) in [(2, 7), (1, 8)] {
            expected.extend([1, 0, 40, 0, 0, 0, 0, 0, 0, 0, since]);
            expected.extend([byte; 32]);
        }
        assert_eq!(encode(&TWO), expected);
        assert_eq!(decode(&expected), Ok(TWO.to_vec()));
    }

    #[test]
    fn what_a_newer_process_adds_is_skipped_and_nothing_need_be_there() {
        let mut newer = vec![1, 9, 0, 3, 1, 2, 3, 1, 0, 42];
        newer.extend(2u64.to_be_bytes());
        newer.extend([7; 32]);
        newer.extend([1, 1, 200, 0, 0]);
        assert_eq!(decode(&newer), Ok(TWO[..1].to_vec()));
        assert_eq!(decode(&[]), Ok(Vec::new()));
        assert_eq!(decode(&[1]), Ok(Vec::new()));
        assert_eq!(decode(&[2, 1, 1]), Err(TicketBytesError::Version(2)));
    }

    #[test]
    fn no_log_shows_a_key() {
        assert_eq!(format!("{:?}", TWO[0]), "TicketSecret { since: 2, .. }");
    }

    proptest! {
        #[test]
        fn part_of_the_bytes_is_an_error_or_fewer_keys(cut in 1..86usize) {
            let whole = encode(&TWO);
            let read = decode(&whole[..whole.len() - cut]);
            prop_assert_eq!(read, if cut == 43 { Ok(TWO[..1].to_vec()) } else { Err(TicketBytesError::Cut) });
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(secrets) = decode(&bytes) {
                prop_assert!(secrets.len() * (3 + 8 + SECRET_BYTES) < bytes.len().max(1));
            }
        }
    }
}
