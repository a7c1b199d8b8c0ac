//! `Identity`: two things made of the same bytes have the same one, in this compile and the next, and nobody can make another.

use rustls::{SupportedCipherSuite, crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256};

/// SHA-256 of what something was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity([u8; Self::LENGTH]);

impl Identity {
    /// Bytes of an identity.
    pub(crate) const LENGTH: usize = 32;

    /// The identity of something made of these parts, in this order.
    pub(crate) fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let provider = match TLS13_AES_128_GCM_SHA256 {
            SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
            SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
        };
        let mut hash = provider.start();
        for part in parts {
            // Lengths first: otherwise "ab", "c" would be "a", "bc".
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut bytes = [0; Self::LENGTH];
        for (byte, of_hash) in bytes.iter_mut().zip(hash.finish().as_ref()) {
            *byte = *of_hash;
        }
        Self(bytes)
    }

    /// Its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let of = |parts: &[&str]| Identity::of(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
        assert_ne!(of(&[]), of(&[""]));
    }
}
