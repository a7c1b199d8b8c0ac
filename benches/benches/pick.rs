//! The choice of an endpoint: under 100 ns for five of them, whatever the rule of choice.

use std::{hint::black_box, net::IpAddr, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_l4::{
    affinity::UnixMillis,
    endpoints::{Client, EndpointSet},
    model::{
        Affinity, Balance, Conditions, ConnectionOptions, Endpoint, Hints, IpFamily, Place, Protocol, ServicePort,
        ServicePortName, TrafficPolicy,
    },
    table::ServiceTable,
};

fn set(endpoints: u32, balance: Balance, affinity: Affinity) -> Arc<EndpointSet> {
    let name = ServicePortName {
        namespace: "default".into(),
        service: "web".into(),
        port: "".into(),
        protocol: Protocol::Tcp,
    };
    let endpoint = |n: u32| Endpoint {
        addr: (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 8080).into(),
        conditions: Conditions::READY,
        node: None,
        zone: None,
        hints: Hints::default(),
        weight: 1 + n % 3,
        pod: None,
    };
    let port = ServicePort {
        name: name.clone(),
        port: 80,
        node_port: None,
        cluster_ips: vec![[127, 96, 0, 1].into()],
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity,
        balance,
        connection: ConnectionOptions::default(),
        endpoints: (0..endpoints).map(endpoint).collect(),
    };
    let (table, _) = ServiceTable::build([Arc::new(port)], &[], &Place::default(), None);
    table.port(&name).expect("it was just put in").set(IpFamily::V4, TrafficPolicy::Cluster).clone()
}

fn client(n: u32) -> Client {
    Client { ip: n.to_be_bytes().into(), now: UnixMillis(1_000_000) }
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    let rules = [
        ("random", Balance::Random),
        ("round-robin", Balance::RoundRobin),
        ("least-in-flight", Balance::LeastInFlight),
        ("weighted", Balance::Weighted),
    ];
    let affinity = Affinity::ClientIp { timeout: Duration::from_secs(10_800) };
    for endpoints in [5, 1_000] {
        for (label, balance) in rules {
            let set = set(endpoints, balance, Affinity::None);
            group.bench_function(format!("{label}/{endpoints}"), |bencher| {
                bencher.iter(|| black_box(&set).candidates(black_box(client(7))).next());
            });
        }
        let set = set(endpoints, Balance::Random, affinity);
        group.bench_function(format!("client-ip-miss/{endpoints}"), |bencher| {
            let mut n = 0;
            bencher.iter(|| {
                n += 1;
                black_box(&set).candidates(client(n)).next()
            });
        });
        // As many clients as a busy service sees, so that the table does not fit the nearest cache.
        for n in 0..10_000 {
            let first = set.candidates(client(n)).next().expect("the set is not empty");
            set.chosen(client(n), first);
        }
        group.bench_function(format!("client-ip-hit/{endpoints}"), |bencher| {
            let mut n = 0;
            bencher.iter(|| {
                n = (n + 7) % 10_000;
                black_box(&set).candidates(client(n)).next()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
