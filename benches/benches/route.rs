//! From host and path to the rule: under 1 µs at 10,000 rules, however they are spread over hosts.
//!
//! Beside it `matchit`, with the patterns an Ingress Prefix needs (`p`, `p/`, `p/{*rest}`), on the paths of one host: the
//! reason why `route/paths.rs` is two hash maps and not a radix tree.

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use tidegate::route::{Backend, HostName, Owner, PathMatch, RouteTable, Rule};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn host(n: usize) -> String {
    format!("host-{n}.example.com")
}

fn path(n: usize) -> String {
    format!("/team-{}/service-{n}", n % 10)
}

fn table(hosts: usize, paths: usize) -> RouteTable {
    let mut table = RouteTable::default();
    for h in 0..hosts {
        let host = host(h);
        let name = HostName::Exact(host.as_str().into());
        for p in 0..paths {
            let matcher = PathMatch::Prefix(path(p).into());
            let rule = Rule {
                owner: Owner { namespace: "default".into(), name: format!("ingress-{h}-{p}").into() },
                host: host.as_str().into(),
                path: Some(matcher.clone()),
                backend: Backend::Missing { service: "default/web:80".into(), reason: "a bench".into() },
                split: None,
                policy: Arc::default(),
                issues_cookie: false,
                stats: Arc::default(),
            };
            assert!(table.host_mut(&name).paths.insert(&matcher, Arc::new(rule)).is_ok());
        }
    }
    table
}

fn requests(hosts: usize, paths: usize) -> Vec<(String, String)> {
    // A prime step: neighbours in this list are no neighbours in the table.
    let numbers = (0..1_024).map(|n| n * 7_919 % (hosts * paths));
    numbers.map(|n| (host(n / paths), format!("{}/api/v1/items?", path(n % paths)))).collect()
}

/// Asks for all `requests` in turn.
fn ask(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: String,
    requests: &[(String, String)],
    find: impl Fn(&str, &str) -> bool,
) {
    assert!(requests.iter().all(|(host, path)| find(host, path)), "{id}: every request has a rule");
    group.bench_function(id, |bencher| {
        let mut requests = requests.iter().cycle();
        bencher.iter(|| requests.next().is_some_and(|(host, path)| find(black_box(host), black_box(path))));
    });
}

fn route(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for paths in SIZES {
        let table = table(1, paths);
        ask(&mut group, format!("one-host/{paths}"), &requests(1, paths), |h, p| table.find(h, p).rule.is_some());
    }
    let table = table(1_000, 10);
    ask(&mut group, "1000-hosts-x-10".to_owned(), &requests(1_000, 10), |h, p| table.find(h, p).rule.is_some());
    for paths in SIZES {
        let mut tree = matchit::Router::new();
        for n in 0..paths {
            let path = path(n);
            for pattern in [path.clone(), format!("{path}/"), format!("{path}/{{*rest}}")] {
                tree.insert(pattern, n).expect("the patterns differ");
            }
        }
        ask(&mut group, format!("matchit-one-host/{paths}"), &requests(1, paths), |_, p| tree.at(p).is_ok());
    }
    group.finish();
}

criterion_group!(benches, route);
criterion_main!(benches);
