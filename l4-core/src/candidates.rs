//! Endpoints in order of preference: the choice, and who is next if it cannot be reached.

use std::{cmp::Reverse, net::IpAddr};

use crate::{
    affinity::UnixMillis,
    balance,
    endpoints::{EndpointIndex, EndpointSet},
    health::Standing,
    model::Balance,
};

/// Endpoints in order of preference, each once; see [`EndpointSet::candidates`]. Those that are ejected or fail their
/// probe come after the others: left out of the choice, but better than nothing.
///
/// The first is decided at once. Retries are rare, so each looks at all endpoints again rather than sorting them for a
/// case that seldom comes: this is for a few tries, not for lists.
#[derive(Clone, Debug)]
pub struct Candidates<'a> {
    pub(crate) set: &'a EndpointSet,
    pub(crate) order: Order,
    pub(crate) balance: Balance,
    pub(crate) now: UnixMillis,
    first: Option<usize>,
    is_first: bool,
    /// Those after the first.
    given: Vec<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// After the first, the rest in their own order.
    Rotation,
    /// By score, best first.
    Ranked(Ranking),
}

/// What a score is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ranking {
    Key(u64),
    Client { ip: IpAddr, epoch: u64 },
}

impl Ranking {
    fn score(self, endpoint_hash: u64) -> u64 {
        match self {
            Self::Key(key) => balance::key_score(key, endpoint_hash),
            Self::Client { ip, epoch } => balance::rendezvous_score(ip, epoch, endpoint_hash),
        }
    }
}

/// How good an endpoint is at present, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    InUse,
    /// Its share still grows, and this choice is not in it.
    NotYet,
    /// Ejected, or failing its probe.
    Out,
    /// Of weight 0: the user wants it left alone.
    Weightless,
}

impl<'a> Candidates<'a> {
    pub(crate) fn rotation(set: &'a EndpointSet, first: Option<usize>, balance: Balance, now: UnixMillis) -> Self {
        Self { set, order: Order::Rotation, balance, now, first, is_first: true, given: Vec::new() }
    }

    /// Begins with `first`, or with the best by the ranking.
    pub(crate) fn ranked(
        set: &'a EndpointSet,
        ranking: Ranking,
        first: Option<usize>,
        balance: Balance,
        now: UnixMillis,
    ) -> Self {
        let order = Order::Ranked(ranking);
        let mut this = Self { set, order, balance, now, first, is_first: true, given: Vec::new() };
        if first.is_none() {
            // Mostly the best by score is in use, and the standing of the others need not be looked at.
            let best = match ranking {
                Ranking::Key(key) => best(set.hashes(), |hash| balance::key_score(key, hash)),
                Ranking::Client { ip, epoch } => best(set.hashes(), |hash| balance::rendezvous_score(ip, epoch, hash)),
            };
            let in_use = best.filter(|&(score, i)| this.tier(i, score) == Tier::InUse).map(|(_, i)| i);
            this.first = in_use.or_else(|| this.best_left());
        }
        this
    }

    /// The same, with who is left out told by this time: for an order that was made without one.
    #[must_use]
    pub fn at(mut self, now: UnixMillis) -> Self {
        self.now = now;
        self
    }

    /// Puts the best of all in the place of the first.
    pub(crate) fn settle(&mut self) {
        let start = self.first.take();
        let n = self.set.len();
        let from = |i: usize| (start.unwrap_or(0) + i) % n;
        self.first = (0..n).map(from).min_by_key(|&i| self.tier(i, u64::MAX));
    }

    fn best_left(&self) -> Option<usize> {
        let n = self.set.len();
        let left = |i: &usize| self.first != Some(*i) && !self.given.contains(i);
        match self.order {
            Order::Rotation => {
                let start = self.first.unwrap_or(0);
                let mut rest = (0..n).map(|i| (start + i) % n).filter(left);
                let tier = |i: &usize| self.tier(*i, u64::MAX);
                rest.clone().find(|i| tier(i) == Tier::InUse).or_else(|| rest.by_ref().min_by_key(tier))
            }
            Order::Ranked(ranking) => {
                let ranked = |i| {
                    let score = ranking.score(self.set.hashes()[i]);
                    (Reverse(self.tier(i, score)), score, i)
                };
                (0..n).filter(left).map(ranked).max().map(|(_, _, i)| i)
            }
        }
    }

    fn tier(&self, i: usize, score: u64) -> Tier {
        let set = self.set;
        if self.balance == Balance::Weighted && set.endpoints()[i].weight == 0 {
            return Tier::Weightless;
        }
        if !set.is_guarded() {
            return Tier::InUse;
        }
        match set.standing(EndpointIndex(i), self.now) {
            Standing::InUse => Tier::InUse,
            Standing::SlowStart { share } => {
                set.state(EndpointIndex(i)).health.begin(self.now);
                // The same keys at all times, and more of them with every moment. Without keys the dice have decided already.
                let is_ranked = matches!(self.order, Order::Ranked(_));
                if is_ranked && fraction(score) < share { Tier::InUse } else { Tier::NotYet }
            }
            Standing::Ejected { .. } | Standing::ProbeFails => Tier::Out,
        }
    }
}

/// The best score and whose it is; of equal ones the last. What a choice by rank costs is this loop.
fn best(hashes: &[u64], score: impl Fn(u64) -> u64) -> Option<(u64, usize)> {
    let mut best = None;
    for (i, &hash) in hashes.iter().enumerate() {
        let score = score(hash);
        if best.is_none_or(|(held, _)| score >= held) {
            best = Some((score, i));
        }
    }
    best
}

/// A number from 0 to 1 that follows from a score, but not as the rank does: the best scores are all near the largest.
fn fraction(score: u64) -> f32 {
    (score as u32) as f32 / (u32::MAX as f32)
}

impl Iterator for Candidates<'_> {
    type Item = EndpointIndex;

    fn next(&mut self) -> Option<EndpointIndex> {
        if std::mem::take(&mut self.is_first) {
            return self.first.map(EndpointIndex);
        }
        let next = self.best_left()?;
        self.given.push(next);
        Some(EndpointIndex(next))
    }
}
