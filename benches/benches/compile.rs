//! The compiler at the size of a large cluster: 10,000 Services with five endpoints each, 5,000 Ingresses.
//!
//! Goals: a full compile in less than 500 ms, and one changed object in far less than 20 ms, which is the time from the
//! change of a file until it is served (debouncing and publishing included).

use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use tidegate::compile::{Compiled, allocate::Allocations, compile, objects::Objects, settings::Settings};
use tidegate_benches::{ENDPOINTS, apply, ingress, ingresses, objects, services, slice};

const SERVICES: usize = 10_000;
const INGRESSES: usize = 5_000;

fn run(objects: &Objects, settings: &Settings, previous: Option<&Compiled>) -> Compiled {
    compile(objects, settings, &[], &Allocations::default(), previous)
}

/// One compile after another, each with one object changed; the change itself and the dropping of the old configuration
/// are not timed.
fn changes(mut objects: Objects, settings: &Settings, rounds: u64, change: impl Fn(u64) -> String) -> Duration {
    let mut compiled = run(&objects, settings, None);
    let mut took = Duration::ZERO;
    for round in 0..rounds {
        apply(&mut objects, &change(round));
        let begun = Instant::now();
        let next = run(&objects, settings, Some(&compiled));
        took += begun.elapsed();
        assert_eq!(next.snapshot.generation, compiled.snapshot.generation + 1);
        compiled = next;
    }
    took
}

fn compiler(criterion: &mut Criterion) {
    let settings = Settings { service_cidrs: vec!["127.96.0.0/14".parse().expect("a range")], ..Settings::default() };
    let plain = objects(&services(SERVICES));
    let mut routed = plain.clone();
    apply(&mut routed, &ingresses(INGRESSES, SERVICES));
    let check = run(&routed, &settings, None);
    assert_eq!(check.snapshot.upstreams.len(), INGRESSES);
    assert!(check.snapshot.findings.is_empty(), "{:?}", check.snapshot.findings.first());

    let mut group = criterion.benchmark_group("compile");
    group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(4));
    group
        .bench_function("full/10000-services", |bencher| bencher.iter_with_large_drop(|| run(&plain, &settings, None)));
    group.bench_function("full/10000-services-5000-ingresses", |bencher| {
        bencher.iter_with_large_drop(|| run(&routed, &settings, None));
    });
    // Even rounds take an endpoint away, odd rounds bring it back.
    let endpoints = |round: u64| slice(4_711, ENDPOINTS - ((round + 1) % 2) as usize);
    group.bench_function("one-slice/10000-services", |bencher| {
        bencher.iter_custom(|rounds| changes(plain.clone(), &settings, rounds, endpoints));
    });
    group.bench_function("one-slice/10000-services-5000-ingresses", |bencher| {
        bencher.iter_custom(|rounds| changes(routed.clone(), &settings, rounds, endpoints));
    });
    group.bench_function("one-ingress/10000-services-5000-ingresses", |bencher| {
        let change = |round: u64| ingress(4_711, 4_711, if round.is_multiple_of(2) { "/new" } else { "/" });
        bencher.iter_custom(|rounds| changes(routed.clone(), &settings, rounds, change));
    });
    group.finish();
}

criterion_group!(benches, compiler);
criterion_main!(benches);
