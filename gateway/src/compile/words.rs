//! `Words`: what many objects repeat, such as the names of nodes, held once.

use std::sync::Arc;

use ahash::AHashSet;

/// Fewer than this are not worth a look at who still uses them.
const FEW: usize = 1_024;

/// Every word that somebody uses, and some that nobody does any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    held: AHashSet<Arc<str>>,
    /// How many were used when that was looked at.
    used: usize,
}

impl Words {
    /// The word as everybody has it.
    pub(crate) fn share(&mut self, word: &str) -> Arc<str> {
        if let Some(held) = self.held.get(word) {
            return held.clone();
        }
        if self.held.len() >= FEW.max(self.used * 2) {
            self.held.retain(|word| Arc::strong_count(word) > 1);
            self.used = self.held.len();
        }
        let word: Arc<str> = word.into();
        self.held.insert(word.clone());
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_held_once_and_for_as_long_as_somebody_uses_it() {
        let mut words = Words::default();
        let node = words.share("node");
        assert!(Arc::ptr_eq(&node, &words.share("node")));
        for number in 0..FEW * 10 {
            words.share(&number.to_string());
        }
        assert!(words.held.len() <= FEW, "{}", words.held.len());
        assert!(Arc::ptr_eq(&node, &words.share("node")));
    }
}
