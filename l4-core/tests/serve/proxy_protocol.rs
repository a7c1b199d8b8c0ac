//! PROXY protocol headers, taken and given.

use std::{net::SocketAddr, time::Duration};

use tidegate_l4::{limits::Limits, model::ProxyProtocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x0f\xa0\x01\xbb";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

async fn accepting(config: impl FnOnce(&mut tidegate_l4::model::ServicePort), limits: Limits) -> (Manual, Proxy) {
    let pod = Manual::start().await;
    let mut service = service(&[pod.addr()]);
    service.connection.accept_proxy_protocol = true;
    config(&mut service);
    (pod, Proxy::with_limits(service, limits))
}

/// What the pod hears after `sent`, which ends with `hello`.
async fn heard(pod: &Manual, proxy: &Proxy, sent: &[&[u8]]) -> (Vec<u8>, SocketAddr) {
    let mut client = proxy.connect().await;
    for part in sent {
        client.write_all(part).await.unwrap();
    }
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    pod.accept().await.read_to_end(&mut heard).await.unwrap();
    (heard, client.local_addr().unwrap())
}

#[test]
fn headers_are_taken_off_and_the_rest_goes_through() {
    run(async {
        let (pod, proxy) = accepting(|_| {}, Limits::default()).await;
        for header in [V1, V2, V2_LOCAL, b"PROXY UNKNOWN\r\n"] {
            assert_eq!(heard(&pod, &proxy, &[header, b"hello"]).await.0, b"hello");
            let together = [header, b"hello"].concat();
            assert_eq!(heard(&pod, &proxy, &[&together]).await.0, b"hello");
            let (start, end) = together.split_at(9);
            assert_eq!(heard(&pod, &proxy, &[start, end]).await.0, b"hello");
        }
        proxy.quiet().await;
        assert_eq!(proxy.stats().sum(|s| &s.bytes_in), 12 * 5);
    });
}

#[test]
fn the_header_names_the_client_that_source_ranges_judge() {
    run(async {
        let guarded = |service: &mut tidegate_l4::model::ServicePort| {
            service.load_balancer_ips = vec!["127.0.0.1".parse().unwrap()];
            service.source_ranges = vec!["192.0.2.0/24".parse().unwrap()];
        };
        let (pod, proxy) = accepting(guarded, Limits::default()).await;
        assert_eq!(heard(&pod, &proxy, &[V1, b"hello"]).await.0, b"hello");
        let mut client = proxy.connect().await;
        client.write_all(V2_LOCAL).await.unwrap();
        assert_reset(client.read_u8().await);
        assert_eq!(proxy.stats().sum(|s| &s.refused), 1);
    });
}

#[test]
fn garbage_and_silence_are_reset() {
    run(async {
        let limits = Limits { proxy_header_timeout: Duration::from_millis(50), ..Limits::default() };
        let (_pod, proxy) = accepting(|_| {}, limits).await;
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 5_000]].concat();
        let beginnings = [&b"GET / HTTP/1.1\r\n\r\n"[..], &endless, &V2[..20], b"PROXY ", b""];
        for sent in beginnings {
            let mut client = proxy.connect().await;
            client.write_all(sent).await.unwrap();
            assert_reset(client.read_u8().await);
        }
        assert_eq!(proxy.stats().sum(|s| &s.bad_proxy_header), beginnings.len() as u64);
        assert_eq!(proxy.stats().sum(|s| &s.accepted), 0);
    });
}

#[test]
fn endpoints_are_told_the_client() {
    run(async {
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let pod = Manual::start().await;
            let mut config = service(&[pod.addr()]);
            config.connection.send_proxy_protocol = Some(version);
            let proxy = Proxy::start(config);
            let (heard, client) = heard(&pod, &proxy, &[b"hello"]).await;
            let port = proxy.addr().port();
            let header = match version {
                ProxyProtocol::V1 => {
                    format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {port}\r\n", client.port()).into_bytes()
                }
                ProxyProtocol::V2 => [
                    &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01"[..],
                    &client.port().to_be_bytes(),
                    &port.to_be_bytes(),
                ]
                .concat(),
            };
            assert_eq!(heard, [&header[..], b"hello"].concat());
        }
    });
}

#[test]
fn what_a_load_balancer_said_is_passed_on() {
    run(async {
        let send_v2 = |service: &mut tidegate_l4::model::ServicePort| {
            service.connection.send_proxy_protocol = Some(ProxyProtocol::V2);
        };
        let (pod, proxy) = accepting(send_v2, Limits::default()).await;
        assert_eq!(heard(&pod, &proxy, &[V1, b"hello"]).await.0, [V2, b"hello"].concat());
    });
}
