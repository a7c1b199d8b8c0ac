use std::time::Duration;

use tokio::{io::AsyncReadExt, net::TcpListener};

use super::*;
use crate::pod::{Listen, Pod, PodOptions};

fn http(path: &str) -> Probe {
    Probe::new(Question::Http { path: path.into() })
}

async fn pod() -> (Pod, SocketAddr) {
    let listens = [Listen::Http(([127, 0, 0, 1], 0).into())];
    let pod = Pod::start(PodOptions::new("probed", listens)).await.unwrap();
    let addr = pod.http_addrs()[0];
    (pod, addr)
}

/// A server that answers each connection with these bytes, whatever it hears.
async fn saying(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1_024]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    addr
}

#[tokio::test]
async fn a_status_from_200_to_399_is_good() {
    let (_pod, addr) = pod().await;
    for (path, expected) in [
        ("/", Ok(())),
        ("/?status=204", Ok(())),
        ("/?status=302", Ok(())),
        ("/?status=404", Err("status 404".to_owned())),
        ("/?status=503", Err("status 503".to_owned())),
    ] {
        assert_eq!(ask(addr, &http(path), b"").await, expected, "{path}");
    }
    assert_eq!(ask(addr, &Probe::new(Question::Tcp), b"").await, Ok(()));
}

#[tokio::test]
async fn an_early_hint_is_no_answer_and_garbage_is_a_bad_one() {
    let hints = saying(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(ask(hints, &http("/"), b"").await, Ok(()));
    assert!(ask(saying(b"SSH-2.0-OpenSSH_9.2\r\n").await, &http("/"), b"").await.is_err());
    assert!(ask(saying(b"").await, &http("/"), b"").await.is_err());
}

#[tokio::test]
async fn who_refuses_or_is_silent_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let impatient = Probe { timeout: Duration::from_millis(20), ..http("/") };
    assert_eq!(ask(addr, &impatient, b"").await, Err("no answer within 20ms".to_owned()));
    drop(listener);
    assert!(ask(addr, &Probe::new(Question::Tcp), b"").await.is_err());
    let (_pod, other) = pod().await;
    let elsewhere = Probe { port: Some(other.port()), ..http("/") };
    assert_eq!(ask(addr, &elsewhere, b"").await, Ok(()), "another port than its own");
}

#[tokio::test]
async fn who_wants_a_proxy_header_gets_one() {
    let listens = [Listen::Http(([127, 0, 0, 1], 0).into())];
    let options = PodOptions { proxy_protocol: true, ..PodOptions::new("behind", listens) };
    let pod = Pod::start(options).await.unwrap();
    for header in [LOCAL_V1, LOCAL_V2] {
        assert_eq!(ask(pod.http_addrs()[0], &http("/"), header).await, Ok(()));
    }
}
