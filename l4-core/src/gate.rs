//! How many connections or requests a port has at once, and who is turned away beyond that (circuit breaking).
//!
//! A queue that grows without bound helps nobody: who waits in it gives up before it is served. A clear "no" at once
//! lets a client go elsewhere, and leaves what there is to those who are served.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::policy::Admission;

/// The counts of one port, shared by all its sets and both planes; they outlive configurations.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    in_flight: AtomicU32,
    pending: AtomicU32,
    turned_away: AtomicU64,
}

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many are under way as may be.
    InFlight,
    /// As many wait for a connection as may.
    Pending,
}

impl Gate {
    pub(crate) fn admit(self: &Arc<Self>, admission: Admission) -> Result<Permit, Full> {
        let mut permit = Permit { in_flight: None, pending: None };
        if let Some(max) = admission.max_in_flight {
            if !enter(&self.in_flight, max) {
                return Err(self.turn_away(Full::InFlight));
            }
            permit.in_flight = Some(self.clone());
        }
        if let Some(max) = admission.max_pending {
            if !enter(&self.pending, max) {
                // The permit gives back the other place.
                return Err(self.turn_away(Full::Pending));
            }
            permit.pending = Some(self.clone());
        }
        Ok(permit)
    }

    fn turn_away(&self, why: Full) -> Full {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        why
    }

    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }
}

fn enter(count: &AtomicU32, max: u32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then(|| n + 1)).is_ok()
}

/// A place for one connection or request; dropping it gives the place back.
#[derive(Debug)]
#[must_use = "dropping it at once admits nobody"]
pub struct Permit {
    in_flight: Option<Arc<Gate>>,
    pending: Option<Arc<Gate>>,
}

impl Permit {
    /// There is a connection now: it waits no longer. Harmless when it is said again.
    pub fn connected(&mut self) {
        if let Some(gate) = self.pending.take() {
            gate.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.connected();
        if let Some(gate) = &self.in_flight {
            gate.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_limits_nothing_is_counted() {
        let gate = Arc::new(Gate::default());
        let permits: Vec<_> = (0..100).map(|_| gate.admit(Admission::default()).unwrap()).collect();
        assert_eq!((gate.in_flight.load(Ordering::Relaxed), gate.turned_away()), (0, 0));
        drop(permits);
    }

    #[test]
    fn who_finds_it_full_leaves_no_trace_but_the_count() {
        let gate = Arc::new(Gate::default());
        let admission = Admission { max_in_flight: Some(2), max_pending: Some(1) };
        let mut first = gate.admit(admission).unwrap();
        assert_eq!(gate.admit(admission).unwrap_err(), Full::Pending);
        first.connected();
        first.connected();
        let second = gate.admit(admission).unwrap();
        assert_eq!(gate.admit(admission).unwrap_err(), Full::InFlight);
        drop(second);
        let _third = gate.admit(admission).unwrap();
        assert_eq!(gate.turned_away(), 2);
    }

    proptest! {
        /// Whoever comes and goes in whatever order, never more are in than may be, and none is left behind.
        #[test]
        fn counts_exactly(max_in_flight in 0..5u32, max_pending in 0..5u32, events in prop::collection::vec(0..8usize, 0..80)) {
            let gate = Arc::new(Gate::default());
            let admission = Admission { max_in_flight: Some(max_in_flight), max_pending: Some(max_pending) };
            let mut inside: Vec<(Permit, bool)> = Vec::new();
            for event in events {
                let pending = inside.iter().filter(|(_, connected)| !connected).count() as u32;
                match event {
                    0..4 => match gate.admit(admission) {
                        Ok(permit) => {
                            prop_assert!((inside.len() as u32) < max_in_flight && pending < max_pending);
                            inside.push((permit, false));
                        }
                        Err(Full::InFlight) => prop_assert_eq!(inside.len() as u32, max_in_flight),
                        Err(Full::Pending) => prop_assert_eq!(pending, max_pending),
                    },
                    4..6 => if let Some((permit, connected)) = inside.iter_mut().find(|(_, connected)| !connected) {
                        permit.connected();
                        *connected = true;
                    },
                    _ => drop(inside.pop()),
                }
            }
            drop(inside);
            prop_assert_eq!(gate.in_flight.load(Ordering::Relaxed) + gate.pending.load(Ordering::Relaxed), 0);
        }
    }
}
