//! The choice of an endpoint: under 100 ns for five of them, whatever the rule of choice.

use std::{hint::black_box, net::IpAddr, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_l4::{
    affinity::UnixMillis,
    endpoints::{Client, EndpointIndex, EndpointSet},
    model::{
        Affinity, Balance, Conditions, ConnectionOptions, Endpoint, Hints, IpFamily, Place, Protocol, ServicePort,
        ServicePortName, TrafficPolicy,
    },
    policy::{Ejection, EndpointPolicy, Probe, Question},
    table::ServiceTable,
};

fn set(endpoints: u32, balance: Balance, policy: EndpointPolicy, affinity: Affinity) -> Arc<EndpointSet> {
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
        policy,
        connection: ConnectionOptions::default(),
        endpoints: (0..endpoints).map(endpoint).collect(),
    };
    let table = ServiceTable::build([Arc::new(port)], &[], &Place::default(), None);
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
        ("ewma", Balance::Ewma),
        ("weighted", Balance::Weighted),
        ("hash", Balance::Hash),
    ];
    // All that makes the choice look at the endpoints' state.
    let guarded = EndpointPolicy {
        ejection: Some(Ejection::default()),
        slow_start: Duration::from_secs(30),
        probe: Some(Probe::new(Question::Tcp).into()),
        ..EndpointPolicy::default()
    };
    let affinity = Affinity::ClientIp { timeout: Duration::from_secs(10_800) };
    for endpoints in [5, 1_000] {
        for (label, balance) in rules {
            for (suffix, policy) in [("", EndpointPolicy::default()), ("-guarded", guarded.clone())] {
                let set = set(endpoints, balance, policy, Affinity::None);
                for i in (0..endpoints as usize).map(EndpointIndex) {
                    set.state(i).observe(Duration::from_millis(5), UnixMillis(990_000));
                }
                group.bench_function(format!("{label}{suffix}/{endpoints}"), |bencher| {
                    bencher.iter(|| black_box(&set).candidates(black_box(client(7))).next());
                });
                // One of five is out, which costs a second draw now and then.
                if endpoints == 5 && set.policy().ejection.is_some() {
                    while !set.failed(EndpointIndex(2), UnixMillis(999_000)) {}
                    group.bench_function(format!("{label}-ejected/{endpoints}"), |bencher| {
                        bencher.iter(|| black_box(&set).candidates(black_box(client(7))).next());
                    });
                }
            }
        }
        let set = set(endpoints, Balance::Random, EndpointPolicy::default(), affinity);
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
    let ewma = set(5, Balance::Ewma, EndpointPolicy::default(), Affinity::None);
    let state = ewma.state(EndpointIndex(0));
    group.bench_function("observe", |bencher| {
        let mut now = 1_000_000;
        bencher.iter(|| {
            now += 1;
            black_box(state).observe(Duration::from_micros(black_box(700)), UnixMillis(now));
        });
    });
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
