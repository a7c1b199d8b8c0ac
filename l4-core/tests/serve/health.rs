//! Endpoints that fail, begin or are too busy, as clients of the plane see it.

use std::time::Duration;

use tidegate_l4::{
    endpoints::{EndpointIndex, EndpointSet, Standing},
    limits::Limits,
    model::{Balance, IpFamily, Protocol, ServicePort, TrafficPolicy},
    policy::{Admission, Ejection},
    worker::now,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
};

use crate::support::*;

/// Turned on, with few failures and for longer than the test runs.
fn ejecting(mut config: ServicePort) -> ServicePort {
    let time = Duration::from_secs(600);
    config.policy.ejection = Some(Ejection { max_failures: 2, time, ..Ejection::default() });
    config
}

fn set(proxy: &Proxy) -> std::sync::Arc<EndpointSet> {
    proxy.port().set(IpFamily::V4, TrafficPolicy::Cluster).clone()
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_asked_no_more() {
    run(async {
        let dead = Dead::tcp();
        let proxy = Proxy::start(ejecting(service(&[dead.addr(), pod("alive").await])));
        for _ in 0..20 {
            assert_eq!(proxy.greeted().await.1, "alive");
        }
        let set = set(&proxy);
        let state = set.state(EndpointIndex(0));
        assert_eq!((state.connect_failures(), state.ejections()), (2, 1));
        assert!(matches!(set.standing(EndpointIndex(0), now()), Standing::Ejected { .. }));
    });
}

#[test]
fn an_endpoint_that_hangs_costs_its_clients_time_only_until_it_is_ejected() {
    run(async {
        let stuck = Stuck::start();
        let limits = Limits { connect_try_timeout: Duration::from_millis(20), ..Limits::default() };
        let proxy = Proxy::with_limits(ejecting(service(&[stuck.addr(), pod("alive").await])), limits);
        for _ in 0..8 {
            assert_eq!(proxy.greeted().await.1, "alive");
        }
        assert_eq!(set(&proxy).state(EndpointIndex(0)).connect_failures(), 2);
    });
}

#[test]
fn the_only_endpoint_is_never_ejected_and_the_last_is_tried_when_the_others_fail() {
    run(async {
        let dead = Dead::tcp();
        let proxy = Proxy::start(ejecting(service(&[dead.addr()])));
        for _ in 0..5 {
            assert_reset(proxy.connect().await.read_u8().await);
        }
        assert_eq!(set(&proxy).state(EndpointIndex(0)).connect_failures(), 5, "each client had its try");

        // One is ejected and becomes reachable; the other, in use, cannot be reached any more.
        let (gone, back) = (Dead::tcp(), Dead::tcp());
        let proxy = Proxy::start(ejecting(service(&[gone.addr(), back.addr()])));
        let set = set(&proxy);
        set.failed(EndpointIndex(1), now());
        assert!(set.failed(EndpointIndex(1), now()));
        let addr = back.addr();
        drop(back);
        let back = Manual::bind(&addr.to_string()).await;
        let mut client = proxy.connect().await;
        back.accept().await.write_all(b"b").await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'b');
    });
}

#[test]
fn an_endpoint_that_becomes_ready_again_is_in_use_again() {
    run(async {
        let dead = Dead::tcp();
        let (alive, addr) = (pod("alive").await, dead.addr());
        let proxy = Proxy::start(ejecting(service(&[addr, alive])));
        while !set(&proxy).is_out(EndpointIndex(0), now()) {
            assert_eq!(proxy.greeted().await.1, "alive");
        }
        drop(dead);
        let back = Manual::bind(&addr.to_string()).await;
        proxy.publish_endpoints(|endpoints| endpoints[0].conditions.ready = false);
        proxy.publish_endpoints(|endpoints| endpoints[0].conditions.ready = true);
        assert!(!set(&proxy).is_out(EndpointIndex(0), now()));
        let clients = [proxy.connect().await, proxy.connect().await];
        back.accept().await.write_all(b"b").await.unwrap();
        drop(clients);
    });
}

#[test]
fn a_flow_that_is_refused_counts_and_an_answer_clears_it() {
    run(async {
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = closed.local_addr().unwrap();
        drop(closed);
        let mut config = ejecting(service(&[addr, udp_pod("alive").await]));
        config.name.protocol = Protocol::Udp;
        let proxy = Proxy::start(config);
        for _ in 0..10 {
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            client.connect(proxy.addr()).await.unwrap();
            let mut answer = [0; 16];
            loop {
                client.send(b"!").await.unwrap();
                let heard = tokio::time::timeout(Duration::from_millis(20), client.recv(&mut answer)).await;
                if let Ok(Ok(n)) = heard {
                    assert_eq!(&answer[..n], b"alive!");
                    break;
                }
            }
        }
        let set = set(&proxy);
        assert_eq!(set.state(EndpointIndex(0)).ejections(), 1);
        assert_eq!(set.state(EndpointIndex(1)).failures(), 0);
    });
}

#[test]
fn who_comes_when_it_is_full_is_reset_and_the_next_finds_the_place_that_became_free() {
    run(async {
        let mut config = service(&[pod("a").await]);
        config.policy.admission = Admission { max_in_flight: Some(2), max_pending: None };
        let proxy = Proxy::start(config);
        let (one, two) = (proxy.greeted().await, proxy.greeted().await);
        assert_reset(proxy.connect().await.read_u8().await);
        assert_eq!((proxy.port().turned_away(), proxy.stats().sum(|s| &s.accepted)), (1, 2));
        drop(one);
        until(|| proxy.stats().active() == 1).await;
        assert_eq!(proxy.greeted().await.1, "a");
        drop(two);
    });
}

#[test]
fn few_may_wait_for_a_connection_while_many_have_one() {
    run(async {
        let mut config = service(&[pod("a").await]);
        config.policy.admission = Admission { max_in_flight: None, max_pending: Some(1) };
        let proxy = Proxy::start(config);
        let established = [proxy.greeted().await, proxy.greeted().await, proxy.greeted().await];
        let stuck = Stuck::start();
        proxy.publish_endpoints(|endpoints| *endpoints = vec![endpoint(stuck.addr())]);
        let waiting = proxy.connect().await;
        until(|| proxy.stats().active() == 4).await;
        assert_reset(proxy.connect().await.read_u8().await);
        assert_eq!(proxy.port().turned_away(), 1);
        drop((established, waiting));
    });
}

#[test]
fn a_hash_keeps_a_client_on_its_pod_without_remembering_it() {
    run(async {
        let mut config = service(&[pod("a").await, pod("b").await, pod("c").await]);
        config.balance = Balance::Hash;
        let proxy = Proxy::start(config);
        let first = proxy.greeted().await.1;
        for _ in 0..5 {
            assert_eq!(proxy.greeted().await.1, first);
        }
        proxy.publish_endpoints(|endpoints| endpoints.rotate_left(1));
        assert_eq!(proxy.greeted().await.1, first);
    });
}

#[test]
fn ewma_learns_from_connects() {
    run(async {
        let mut config = service(&[pod("a").await, pod("b").await]);
        config.balance = Balance::Ewma;
        let proxy = Proxy::start(config);
        for _ in 0..10 {
            proxy.greeted().await;
        }
        let set = set(&proxy);
        let latencies = [0, 1].map(|i| set.state(EndpointIndex(i)).expected_latency(now()));
        assert!(latencies.iter().flatten().all(|latency| *latency < Duration::from_secs(10)) && latencies[0].is_some());
    });
}
