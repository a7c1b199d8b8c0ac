//! Which pod a connection reaches, and what becomes of its bytes.

use std::time::Duration;

use tidegate_l4::{
    endpoints::EndpointIndex,
    limits::Limits,
    model::{Affinity, IpFamily, TrafficPolicy},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use xxhash_rust::xxh3::Xxh3Default;

use crate::support::*;

#[test]
fn a_new_connection_is_a_new_choice() {
    run(async {
        let proxy = Proxy::start(service(&[pod("a").await, pod("b").await, pod("c").await]));
        let mut names = Vec::new();
        for _ in 0..6 {
            let (mut client, name) = proxy.greeted().await;
            client.write_all(b"ping\n").await.unwrap();
            assert_eq!(line(&mut client).await.unwrap(), "ping");
            names.push(name);
        }
        assert_eq!(names, ["a", "b", "c", "a", "b", "c"]);
        proxy.quiet().await;
        let stats = proxy.stats();
        assert_eq!((stats.sum(|s| &s.accepted), stats.sum(|s| &s.closed)), (6, 6));
        assert_eq!((stats.sum(|s| &s.bytes_in), stats.sum(|s| &s.bytes_out)), (6 * 5, 6 * 7));
    });
}

#[test]
fn client_ip_affinity_keeps_the_pod() {
    run(async {
        let mut config = service(&[pod("a").await, pod("b").await, pod("c").await]);
        config.affinity = Affinity::ClientIp { timeout: Duration::from_secs(10_800) };
        let proxy = Proxy::start(config);
        let (_, first) = proxy.greeted().await;
        for _ in 0..5 {
            assert_eq!(proxy.greeted().await.1, first);
        }
        let stats = proxy.stats();
        assert_eq!((stats.sum(|s| &s.affinity_hits), stats.sum(|s| &s.affinity_misses)), (5, 1));
    });
}

#[test]
fn another_pod_is_tried_before_the_client_sees_anything() {
    run(async {
        let dead = Dead::tcp();
        let proxy = Proxy::start(service(&[dead.addr(), pod("alive").await]));
        for _ in 0..4 {
            assert_eq!(proxy.greeted().await.1, "alive");
        }
        let port = proxy.port();
        let set = port.set(IpFamily::V4, TrafficPolicy::Cluster);
        let [dead, alive] = [0, 1].map(|i| set.state(EndpointIndex(i)));
        assert!(dead.connect_failures() >= 2 && dead.picks() == 0);
        assert_eq!((alive.connect_failures(), alive.picks()), (0, 4));
        assert_eq!(port.stats.sum(|s| &s.connect_failed), 0);
    });
}

#[test]
fn an_endpoint_that_does_not_answer_costs_one_try() {
    run(async {
        let stuck = Stuck::start();
        let limits = Limits { connect_try_timeout: Duration::from_millis(50), ..Limits::default() };
        let proxy = Proxy::with_limits(service(&[stuck.addr(), pod("alive").await]), limits);
        assert_eq!(proxy.greeted().await.1, "alive");
        let limits = Limits { connect_timeout: Duration::from_millis(50), ..limits };
        let proxy = Proxy::with_limits(service(&[stuck.addr()]), limits);
        assert_reset(proxy.connect().await.read_u8().await);
    });
}

#[test]
fn with_no_pod_to_reach_the_client_is_reset() {
    run(async {
        let (one, two) = (Dead::tcp(), Dead::tcp());
        let proxy = Proxy::start(service(&[one.addr(), two.addr()]));
        assert_reset(proxy.connect().await.read_u8().await);
        assert_eq!(proxy.stats().sum(|s| &s.connect_failed), 1);
        proxy.publish_endpoints(|endpoints| endpoints.clear());
        assert_reset(proxy.connect().await.read_u8().await);
        assert_eq!(proxy.stats().sum(|s| &s.refused), 1);
        proxy.quiet().await;
    });
}

#[test]
fn no_more_endpoints_are_tried_than_the_limit_says() {
    run(async {
        let (one, two) = (Dead::tcp(), Dead::tcp());
        let config = service(&[one.addr(), two.addr(), pod("third").await]);
        let proxy = Proxy::with_limits(config, Limits { connect_tries: 2, ..Limits::default() });
        assert_reset(proxy.connect().await.read_u8().await);
        assert_eq!(proxy.stats().sum(|s| &s.connect_failed), 1);
    });
}

#[test]
fn source_ranges_turn_strangers_away() {
    run(async {
        let mut config = service(&[pod("a").await]);
        config.load_balancer_ips = vec!["127.0.0.1".parse().unwrap()];
        config.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
        let proxy = Proxy::start(config);
        assert_reset(proxy.connect().await.read_u8().await);
        assert_eq!(proxy.stats().sum(|s| &s.refused), 1);
        proxy.publish(|service| service.source_ranges = vec!["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(proxy.greeted().await.1, "a");
    });
}

#[test]
fn ipv6_is_served_too() {
    run(async {
        let pod = Manual::bind("[::1]:0").await;
        let proxy = Proxy::at("::1".parse().unwrap(), service(&[pod.addr()]), Limits::default());
        let (mut client, mut upstream) = (proxy.connect().await, pod.accept().await);
        client.write_all(b"six").await.unwrap();
        let mut three = [0; 3];
        upstream.read_exact(&mut three).await.unwrap();
        assert_eq!(&three, b"six");
    });
}

#[test]
fn each_side_may_finish_first() {
    run(async {
        let pod = Manual::start().await;
        let proxy = Proxy::start(service(&[pod.addr()]));
        for client_first in [true, false] {
            let (client, upstream) = (proxy.connect().await, pod.accept().await);
            let (mut first, mut second) = if client_first { (client, upstream) } else { (upstream, client) };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            let mut heard = String::new();
            second.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "question");
            second.write_all(b"answer").await.unwrap();
            second.shutdown().await.unwrap();
            let mut heard = String::new();
            first.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "answer");
        }
        proxy.quiet().await;
    });
}

#[test]
fn a_reset_on_one_side_is_a_reset_on_the_other() {
    run(async {
        let pod = Manual::start().await;
        let proxy = Proxy::start(service(&[pod.addr()]));
        for client_fails in [true, false] {
            let (client, upstream) = (proxy.connect().await, pod.accept().await);
            let (failing, mut other) = if client_fails { (client, upstream) } else { (upstream, client) };
            failing.set_zero_linger().unwrap();
            drop(failing);
            assert_reset(other.read_u8().await);
        }
        proxy.quiet().await;
    });
}

#[test]
fn what_a_pod_said_before_it_stopped_listening_arrives() {
    run(async {
        let pod = Manual::start().await;
        let proxy = Proxy::start(service(&[pod.addr()]));
        let (mut client, mut upstream) = (proxy.connect().await, pod.accept().await);
        upstream.write_all(b"413 too large").await.unwrap();
        upstream.shutdown().await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "413 too large");
        drop(upstream);
        while client.write_all(&[0; 65_536]).await.is_ok() {}
        proxy.quiet().await;
    });
}

const BULK: usize = 64 << 20;

/// Sends pieces of uneven size, each with a beginning of its own; returns the checksum.
async fn send(mut to: impl tokio::io::AsyncWrite + Unpin, seed: u64) -> u64 {
    let (mut hash, mut random) = (Xxh3Default::new(), fastrand::Rng::with_seed(seed));
    let mut block = vec![0; 300_000];
    let mut left = BULK;
    while left > 0 {
        let n = random.usize(1..=block.len()).min(left);
        block[..n.min(4_096)].fill_with(|| random.u8(..));
        hash.update(&block[..n]);
        to.write_all(&block[..n]).await.unwrap();
        left -= n;
    }
    to.shutdown().await.unwrap();
    hash.digest()
}

async fn receive(mut from: impl tokio::io::AsyncRead + Unpin) -> (usize, u64) {
    let (mut hash, mut total, mut block) = (Xxh3Default::new(), 0, vec![0; 200_000]);
    loop {
        let n = from.read(&mut block).await.unwrap();
        if n == 0 {
            return (total, hash.digest());
        }
        hash.update(&block[..n]);
        total += n;
    }
}

#[test]
fn bulk_both_ways_at_once_arrives_whole() {
    run(async {
        let pod = Manual::start().await;
        let proxy = Proxy::start(service(&[pod.addr()]));
        let (client, upstream) = (proxy.connect().await, pod.accept().await);
        let ((client_read, client_write), (pod_read, pod_write)) = (client.into_split(), upstream.into_split());
        // Tasks of their own, so that each side waits for itself alone.
        let sent_up = tokio::task::spawn_local(send(client_write, 1));
        let sent_down = tokio::task::spawn_local(send(pod_write, 2));
        let got_up = tokio::task::spawn_local(receive(pod_read));
        let got_down = receive(client_read).await;
        assert_eq!(got_up.await.unwrap(), (BULK, sent_up.await.unwrap()));
        assert_eq!(got_down, (BULK, sent_down.await.unwrap()));
        proxy.quiet().await;
        let stats = proxy.stats();
        assert_eq!((stats.sum(|s| &s.bytes_in), stats.sum(|s| &s.bytes_out)), (BULK as u64, BULK as u64));
    });
}
