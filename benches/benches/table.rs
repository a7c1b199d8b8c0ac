//! From a frontend to its service: the same time for ten services as for ten thousand, but for the cache misses.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_l4::{
    model::{Affinity, Balance, ConnectionOptions, Place, Protocol, ServicePort, ServicePortName, TrafficPolicy},
    policy::EndpointPolicy,
    table::{Frontend, ServiceTable},
};

fn frontend(n: u32) -> Frontend {
    Frontend { ip: (0x7f60_0000 + n).to_be_bytes().into(), port: 80, protocol: Protocol::Tcp }
}

fn table(services: u32) -> ServiceTable {
    let port = |n: u32| ServicePort {
        name: ServicePortName {
            namespace: "default".into(),
            service: format!("service-{n}").into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        node_port: None,
        cluster_ips: vec![frontend(n).ip],
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        balance: Balance::Random,
        policy: EndpointPolicy::default(),
        connection: ConnectionOptions::default(),
        endpoints: [].into(),
    };
    ServiceTable::build((0..services).map(|n| Arc::new(port(n))), &[], &Place::default(), None)
}

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table");
    for services in [10, 1_000, 10_000] {
        let table = table(services);
        // One hot frontend shows the algorithm alone, all of them in turn show the caches too.
        group.bench_function(format!("one/{services}"), |bencher| {
            bencher.iter(|| black_box(&table).find(&black_box(frontend(3))).is_some());
        });
        group.bench_function(format!("all/{services}"), |bencher| {
            let mut n = 0;
            bencher.iter(|| {
                n = (n + 7_919) % services;
                black_box(&table).find(&frontend(n)).is_some()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, find);
criterion_main!(benches);
