//! Datagrams: flows, and what ends them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tidegate_l4::{
    endpoints::EndpointIndex,
    limits::Limits,
    model::{Affinity, IpFamily, Protocol, ServicePort, TrafficPolicy},
};
use tokio::net::UdpSocket;

use crate::support::*;

fn udp_service(endpoints: &[SocketAddr]) -> ServicePort {
    let mut config = service(endpoints);
    config.name.protocol = Protocol::Udp;
    config
}

/// A client that hears the frontend's address alone.
async fn client(proxy: &Proxy) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(proxy.addr()).await.unwrap();
    socket
}

async fn ask(client: &UdpSocket, question: &str) -> String {
    client.send(question.as_bytes()).await.unwrap();
    let mut answer = [0; 100];
    let n = client.recv(&mut answer).await.unwrap();
    String::from_utf8(answer[..n].to_vec()).unwrap()
}

#[test]
fn each_client_has_a_flow_of_its_own() {
    run(async {
        let proxy = Proxy::start(udp_service(&[udp_pod("a").await, udp_pod("b").await]));
        let (one, two) = (client(&proxy).await, client(&proxy).await);
        for n in 0..3 {
            assert_eq!(ask(&one, &n.to_string()).await, format!("a{n}"));
            assert_eq!(ask(&two, &n.to_string()).await, format!("b{n}"));
        }
        let stats = proxy.stats();
        assert_eq!((proxy.worker.flows(), stats.active()), (2, 2));
        assert_eq!((stats.sum(|s| &s.bytes_in), stats.sum(|s| &s.bytes_out)), (6, 12));
    });
}

#[test]
fn the_largest_datagram_passes() {
    run(async {
        let proxy = Proxy::start(udp_service(&[udp_pod("a").await]));
        let client = client(&proxy).await;
        let sent: Vec<u8> = (0..65_507u32).map(|n| n as u8).collect();
        client.send(&sent).await.unwrap();
        let mut heard = vec![0; 65_536];
        let n = client.recv(&mut heard).await.unwrap();
        assert!(heard[..n] == sent[..]);
    });
}

#[test]
fn a_flow_leaves_an_endpoint_that_vanished_and_no_other() {
    run(async {
        let (a, b) = (udp_pod("a").await, udp_pod("b").await);
        let proxy = Proxy::start(udp_service(&[a, b]));
        let (one, two) = (client(&proxy).await, client(&proxy).await);
        assert_eq!((ask(&one, "1").await, ask(&two, "1").await), ("a1".into(), "b1".into()));
        proxy.publish(|service| service.affinity = Affinity::ClientIp { timeout: Duration::from_secs(60) });
        assert_eq!(proxy.worker.flows(), 2, "both endpoints still serve");
        proxy.publish_endpoints(|endpoints| endpoints.remove(0).addr.set_port(0));
        assert_eq!(proxy.worker.flows(), 1);
        assert_eq!((ask(&one, "2").await, ask(&two, "2").await), ("b2".into(), "b2".into()));
        proxy.publish_endpoints(|endpoints| endpoints.clear());
        assert_eq!(ask(&two, "3").await, "b3", "with nothing to take over, the flow is left alone");
    });
}

#[test]
fn an_endpoint_that_refuses_is_left_for_another_even_against_affinity() {
    run(async {
        // Connected to somebody else, so the kernel refuses what we send it, and nobody else gets the port.
        let refusing = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        refusing.connect("127.0.0.1:9").unwrap();
        let mut config = udp_service(&[refusing.local_addr().unwrap()]);
        config.affinity = Affinity::ClientIp { timeout: Duration::from_secs(60) };
        let proxy = Proxy::start(config);
        let client = client(&proxy).await;
        client.send(b"lost").await.unwrap();
        until(|| proxy.stats().sum(|s| &s.accepted) == 1).await;
        let other = udp_pod("b").await;
        proxy.publish_endpoints(|endpoints| endpoints.push(endpoint(other)));
        assert_eq!(ask(&client, "found").await, "bfound");
        assert_eq!(ask(&client, "again").await, "bagain");
        assert_eq!((proxy.worker.flows(), proxy.stats().sum(|s| &s.accepted)), (1, 2));
        let port = proxy.port();
        assert_eq!(port.set(IpFamily::V4, TrafficPolicy::Cluster).state(EndpointIndex(0)).connect_failures(), 1);
    });
}

#[test]
fn flows_end_with_silence_and_with_their_frontend() {
    run(async {
        let limits = Limits { flow_replied_timeout: Duration::from_millis(40), ..Limits::default() };
        let proxy = Proxy::with_limits(udp_service(&[udp_pod("a").await]), limits);
        let client = client(&proxy).await;
        assert_eq!(ask(&client, "1").await, "a1");
        until(|| proxy.stats().active() == 0).await;
        assert_eq!(proxy.worker.flows(), 0);
        assert_eq!(ask(&client, "2").await, "a2");
        proxy.worker.close(&proxy.frontend);
        assert_eq!(proxy.worker.flows(), 0);
        until(|| proxy.stats().active() == 0).await;
        until(|| std::net::UdpSocket::bind(proxy.addr()).is_ok()).await;
    });
}

#[test]
fn draining_ends_flows() {
    run(async {
        let proxy = Proxy::start(udp_service(&[udp_pod("a").await]));
        let client = client(&proxy).await;
        assert_eq!(ask(&client, "1").await, "a1");
        proxy.worker.drain(Duration::from_secs(3_600)).await;
        assert_eq!(proxy.worker.flows(), 0);
    });
}

#[test]
fn at_the_limit_an_unanswered_flow_gives_way() {
    run(async {
        let limits = Limits { max_flows: 8, ..Limits::default() };
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::with_limits(udp_service(&[udp_pod("a").await]), limits);
        let regular = client(&proxy).await;
        assert_eq!(ask(&regular, "1").await, "a1");
        proxy.publish_endpoints(|endpoints| endpoints.push(endpoint(silent.local_addr().unwrap())));
        proxy.publish_endpoints(|endpoints| endpoints[0].conditions.ready = false);
        // They stay: who got the port of an earlier one would be taken for it.
        let mut flood = Vec::new();
        for n in 0..50u64 {
            flood.push(client(&proxy).await);
            flood[n as usize].send(b"flood").await.unwrap();
            until(|| proxy.stats().sum(|s| &s.accepted) == n + 2).await;
            assert!(proxy.worker.flows() <= 8);
        }
        assert_eq!(ask(&regular, "2").await, "a2");
        assert_eq!(proxy.stats().sum(|s| &s.accepted), 51, "the regular client kept its flow");
    });
}

#[test]
fn without_an_endpoint_datagrams_are_dropped() {
    run(async {
        let proxy = Proxy::start(udp_service(&[]));
        client(&proxy).await.send(b"anybody?").await.unwrap();
        until(|| proxy.stats().sum(|s| &s.refused) == 1).await;
        assert_eq!(proxy.worker.flows(), 0);
    });
}
