//! One coarse clock for all connections of a worker, instead of a timer for each.
//!
//! A connection has a slot: its waker and a deadline. Once a tick, one scan wakes those whose deadline has passed. That is all
//! an idle connection costs besides its socket.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};

use slab::Slab;

/// How exact deadlines are. A scan of 5,000 connections takes some 20 µs.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// The slots of one worker.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    now: Cell<u32>,
    entries: RefCell<Slab<Entry>>,
}

#[derive(Debug)]
struct Entry {
    waker: Option<Waker>,
    deadline: u32,
}

/// So long in whole ticks, rounded up.
pub(crate) fn ticks(within: Duration) -> u32 {
    u32::try_from(within.as_millis().div_ceil(TICK.as_millis())).unwrap_or(u32::MAX)
}

/// The slot of one connection.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Rc<Slots>,
    key: usize,
}

impl Slots {
    /// A slot without a deadline.
    pub(crate) fn insert(self: &Rc<Self>) -> Slot {
        let key = self.entries.borrow_mut().insert(Entry { waker: None, deadline: u32::MAX });
        Slot { slots: self.clone(), key }
    }

    /// Ticks so far.
    pub(crate) fn now(&self) -> u32 {
        self.now.get()
    }

    /// A tick has passed.
    pub(crate) fn tick(&self) {
        self.now.set(self.now.get().saturating_add(1));
        self.wake(|entry| entry.deadline <= self.now.get());
    }

    /// Wakes every connection.
    pub(crate) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, which: impl Fn(&Entry) -> bool) {
        for (_, entry) in self.entries.borrow().iter().filter(|(_, entry)| which(entry)) {
            entry.waker.iter().for_each(Waker::wake_by_ref);
        }
    }
}

impl Slot {
    /// The task that polls is woken when the deadline has passed, and when the worker has something to say.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut entries = self.slots.entries.borrow_mut();
        let waker = &mut entries[self.key].waker;
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Sets the deadline, rounded up to whole ticks.
    pub(crate) fn set(&self, within: Duration) {
        self.slots.entries.borrow_mut()[self.key].deadline = self.slots.now.get().saturating_add(ticks(within));
    }

    /// There is no deadline.
    pub(crate) fn clear(&self) {
        self.slots.entries.borrow_mut()[self.key].deadline = u32::MAX;
    }

    /// Whether the deadline has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.slots.entries.borrow()[self.key].deadline <= self.slots.now.get()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let entry = self.slots.entries.borrow_mut().remove(self.key);
        // Only after the borrow has ended: dropping a waker may drop a task.
        drop(entry);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_deadline_wakes_its_own_connection_and_nobody_else() {
        let slots = Rc::new(Slots::default());
        let (one, other) = (slots.insert(), slots.insert());
        let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
        let wakers = counts.clone().map(Waker::from);
        one.register(&Context::from_waker(&wakers[0]));
        other.register(&Context::from_waker(&wakers[1]));
        one.set(TICK * 2);
        let woken = |n: usize| counts[n].0.load(Ordering::Relaxed);
        slots.tick();
        assert_eq!((woken(0), one.is_over()), (0, false));
        slots.tick();
        assert_eq!((woken(0), woken(1), one.is_over(), other.is_over()), (1, 0, true, false));
        one.clear();
        slots.tick();
        assert_eq!((woken(0), one.is_over()), (1, false));
        slots.wake_all();
        assert_eq!((woken(0), woken(1)), (2, 1));
        drop(one);
        assert_eq!(slots.entries.borrow().len(), 1);
    }
}
