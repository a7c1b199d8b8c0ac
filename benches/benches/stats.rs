//! Counting, by one thread and by two at once: counters of each thread's own beside one that all share.

use std::{
    hint::black_box,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use http::Version;
use tidegate::route::stats::{Ended, RuleStats};
use tidegate_l4::stats::{Counter, Sharded};

/// Runs `count` so often on each of so many threads at once; the time of the slowest, from the common start.
fn together(threads: usize, rounds: u64, count: impl Fn() + Sync) -> Duration {
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        let run = || {
            start.wait();
            let begun = Instant::now();
            (0..rounds).for_each(|_| count());
            begun.elapsed()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().expect("it only counts")).max().unwrap_or_default()
    })
}

/// What a rule's counters were: one set for all workers.
#[derive(Default)]
struct SharedRule([AtomicU64; 5]);

fn stats(criterion: &mut Criterion) {
    for threads in [1, 2] {
        let mut group = criterion.benchmark_group(format!("stats/{threads}"));
        let (shared, sharded) = (AtomicU64::new(0), Sharded::<Counter>::default());
        group.bench_function("counter shared", |b| {
            b.iter_custom(|n| together(threads, n, || _ = shared.fetch_add(black_box(1), Ordering::Relaxed)));
        });
        group.bench_function("counter sharded", |b| {
            b.iter_custom(|n| together(threads, n, || sharded.mine().add(black_box(1))));
        });
        let (old, rule) = (SharedRule::default(), RuleStats::default());
        let took = Duration::from_micros(812);
        let ended = Ended {
            status: 200,
            version: Version::HTTP_11,
            took,
            first_byte: Some(took),
            bytes_in: 0,
            bytes_out: 1256,
        };
        group.bench_function("request shared", |b| {
            b.iter_custom(|n| {
                together(threads, n, || {
                    // Status, two buckets, two sums: the same work as below, less the size of the answer.
                    old.0.iter().for_each(|counter| _ = counter.fetch_add(black_box(812), Ordering::Relaxed));
                })
            });
        });
        group.bench_function("request sharded", |b| {
            b.iter_custom(|n| together(threads, n, || rule.count(black_box(&ended))));
        });
        group.finish();
    }
}

criterion_group!(benches, stats);
criterion_main!(benches);
