//! One value for each thread that writes.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    sync::{Mutex, OnceLock, PoisonError},
};

/// How many threads each chunk is for. A value nobody has counted in yet is this many empty pointers; one that a few workers
/// use has the first chunk. All chunks together are for more threads than a process has.
const CHUNKS: [usize; 4] = [8, 64, 512, 4096];

/// The number of a thread beyond all chunks, which it shares with others like it: they may lose counts.
const LAST: usize = CHUNKS[0] + CHUNKS[1] + CHUNKS[2] + CHUNKS[3] - 1;

/// A `T` for each thread that writes, made on its first use, far enough from the others' to share no cache line with them.
///
/// Threads are told apart by numbers that are handed out again when a thread ends; its successor counts on from where it
/// stopped. So no two threads that live at the same time ever have the same `T`, and nothing that was counted is lost.
pub struct Sharded<T> {
    chunks: [OnceLock<Chunk<T>>; CHUNKS.len()],
}

type Chunk<T> = Box<[OnceLock<Box<Apart<T>>>]>;

/// Two lines of 64 bytes, because processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T: Default> Sharded<T> {
    /// The calling thread's own.
    pub fn mine(&self) -> &T {
        let (mut chunk, mut at) = (0, number());
        while at >= CHUNKS[chunk] {
            at -= CHUNKS[chunk];
            chunk += 1;
        }
        let empty = || std::iter::repeat_with(OnceLock::new).take(CHUNKS[chunk]).collect();
        &self.chunks[chunk].get_or_init(empty)[at].get_or_init(Box::default).0
    }

    /// Every thread's, also of threads that have ended.
    pub fn each(&self) -> impl Iterator<Item = &T> {
        let chunks = self.chunks.iter().filter_map(OnceLock::get);
        chunks.flat_map(|chunk| chunk.iter().filter_map(OnceLock::get)).map(|shard| &shard.0)
    }
}

impl<T> Default for Sharded<T> {
    fn default() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS.len()] }
    }
}

impl<T: Default + fmt::Debug> fmt::Debug for Sharded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.each()).finish()
    }
}

/// No number yet, or none any more.
const NONE: usize = usize::MAX;

thread_local! {
    static NUMBER: Cell<usize> = const { Cell::new(NONE) };
    static HELD: Held = const { Held };
}

/// The numbers nobody has. The lock orders a thread's last count before the first of its successor.
static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { next: 0, free: BinaryHeap::new() });

struct Numbers {
    next: usize,
    free: BinaryHeap<Reverse<usize>>,
}

/// Gives the thread's number back when the thread ends.
struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        let number = NUMBER.replace(NONE);
        if number < LAST {
            NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).free.push(Reverse(number));
        }
    }
}

/// The number of the calling thread: the lowest that no other has.
fn number() -> usize {
    match NUMBER.get() {
        NONE => new_number(),
        number => number,
    }
}

#[cold]
fn new_number() -> usize {
    let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
    let number = numbers.free.pop().map_or_else(
        || {
            numbers.next += 1;
            numbers.next - 1
        },
        |Reverse(number)| number,
    );
    let number = number.min(LAST);
    NUMBER.set(number);
    // Makes it be dropped with the thread. One that counts while its thread-locals are being dropped keeps its number.
    let _ = HELD.try_with(|_| ());
    number
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use proptest::prelude::*;

    use super::*;
    use crate::stats::Counter;

    fn sum(counters: &Sharded<Counter>) -> u64 {
        counters.each().map(Counter::value).sum()
    }

    #[test]
    fn concurrent_writers_lose_nothing() {
        let counters = Sharded::<Counter>::default();
        let (threads, each) = (12, 100_000);
        let together = Barrier::new(threads);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    together.wait();
                    (0..each).for_each(|_| counters.mine().add(1));
                });
            }
        });
        assert_eq!(sum(&counters), threads as u64 * each);
    }

    #[test]
    fn threads_that_live_at_the_same_time_never_share_and_successors_count_on() {
        let counters = Sharded::<Counter>::default();
        let own = || std::ptr::from_ref(counters.mine()).addr();
        let mine = own();
        let other = thread::scope(|scope| scope.spawn(own).join().unwrap());
        assert_ne!(mine, other);
        assert!(mine.abs_diff(other) >= 128 && mine.is_multiple_of(128) && other.is_multiple_of(128));
        for _ in 0..1_000 {
            thread::scope(|scope| scope.spawn(|| counters.mine().add(1)).join().unwrap());
        }
        assert_eq!(sum(&counters), 1_000);
        // Other tests of this process hold numbers too, but far fewer than a thousand.
        assert!(counters.each().count() < 200, "numbers are handed out again: {}", counters.each().count());
    }

    #[test]
    fn what_nobody_counts_in_is_small() {
        assert!(size_of::<Sharded<[u64; 100]>>() <= 96);
        assert_eq!(Sharded::<Counter>::default().each().count(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_sum_is_that_of_all_that_was_added(work in prop::collection::vec(prop::collection::vec(0u64..1000, 0..20), 0..12)) {
            let counters = Sharded::<Counter>::default();
            thread::scope(|scope| {
                for adds in &work {
                    scope.spawn(|| adds.iter().for_each(|n| counters.mine().add(*n)));
                }
            });
            prop_assert_eq!(sum(&counters), work.iter().flatten().sum::<u64>());
        }
    }
}
