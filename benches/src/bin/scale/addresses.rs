//! `Addresses`: which Service's pods have which addresses. They come in blocks, one for all pods of a Service, and a block that
//! was given back is the last to be taken again: nobody remembers it by then.

use std::{collections::VecDeque, net::Ipv4Addr};

use crate::objects::ENDPOINTS;

/// All of them: addresses that the API server takes for a pod's, which the kernel is told are ours.
pub(crate) const RANGE: &str = "10.200.0.0/16";

/// The first that is given out.
const FIRST: u32 = 0x0ac8_0000 + 10;

/// Blocks of the range.
const BLOCKS: u16 = (u16::MAX - 20) / ENDPOINTS as u16;

/// Services there may be: a fifth of the blocks is left for those that change.
pub(crate) const MOST: u16 = BLOCKS / 5 * 4;

/// The addresses of one Service's pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Block(u16);

impl Block {
    /// The address of one of them.
    pub(crate) fn ip(self, pod: usize) -> Ipv4Addr {
        Ipv4Addr::from(FIRST + u32::from(self.0) * ENDPOINTS as u32 + pod as u32)
    }

    /// The block that an address is in, as a pod tells it.
    pub(crate) fn of(said: &[u8]) -> Option<Self> {
        let ip: Ipv4Addr = std::str::from_utf8(said).ok()?.parse().ok()?;
        let number = u32::from(ip).checked_sub(FIRST)? / ENDPOINTS as u32;
        u16::try_from(number).ok().filter(|number| *number < BLOCKS).map(Self)
    }

    /// Part of its pods' names, which no other block's have.
    pub(crate) fn number(self) -> u16 {
        self.0
    }
}

/// Who has which.
#[derive(Debug)]
pub(crate) struct Addresses {
    of: Vec<Block>,
    free: VecDeque<Block>,
}

impl Addresses {
    /// Those of Services `0..services`.
    pub(crate) fn new(services: usize) -> Self {
        let mut free: VecDeque<Block> = (0..BLOCKS).map(Block).collect();
        let of = free.drain(..services.min(free.len())).collect();
        Self { of, free }
    }

    /// Those of a Service.
    pub(crate) fn of(&self, service: usize) -> Block {
        self.of[service]
    }

    /// Others for a Service.
    pub(crate) fn renew(&mut self, service: usize) -> anyhow::Result<Block> {
        let new = self.take()?;
        let old = std::mem::replace(&mut self.of[service], new);
        self.give_back(old);
        Ok(new)
    }

    /// Some that nobody has.
    pub(crate) fn take(&mut self) -> anyhow::Result<Block> {
        self.free.pop_front().ok_or_else(|| anyhow::anyhow!("all addresses of {RANGE} are taken"))
    }

    /// Some that nobody needs any more.
    pub(crate) fn give_back(&mut self, block: Block) {
        self.free.push_back(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_by_each_of_its_addresses_and_all_are_in_the_range() {
        let range = Ipv4Addr::new(10, 200, 0, 1)..Ipv4Addr::new(10, 200, 255, 255);
        for block in [0, 1, 77, BLOCKS - 1].map(Block) {
            for pod in 0..ENDPOINTS {
                assert!(range.contains(&block.ip(pod)));
                assert_eq!(Block::of(block.ip(pod).to_string().as_bytes()), Some(block));
            }
        }
        for other in ["10.199.0.1", "10.200.0.9", "10.201.0.1", "pod"] {
            assert_eq!(Block::of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn what_was_given_back_is_taken_last() {
        let mut addresses = Addresses::new(MOST.into());
        let (before, spare) = (addresses.of(3), addresses.free.len());
        assert!(spare > usize::from(MOST) / 5, "{spare}");
        assert_ne!(addresses.renew(3).unwrap(), before);
        let taken: Vec<Block> = (0..spare).map(|_| addresses.take().unwrap()).collect();
        assert_eq!(taken.last(), Some(&before));
        assert!(addresses.take().is_err());
    }
}
