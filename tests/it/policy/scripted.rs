//! A pod of the test's own, whose manners the path names.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::sleep,
};

/// The pause that `/trickles` and `/slow` make.
pub(super) const PAUSE: Duration = Duration::from_millis(400);

/// Listens on port 8080 of an address until it is dropped. To `/closes` it answers by closing the connection, to `/garbage` with
/// what is no HTTP, to `/hangs` not at all; to `/503` (and so on) with this status; to `/trickles` byte by byte; to `/slow` after
/// a pause; to anything else with 200. The content of requests to `/unread` it does not read.
#[derive(Debug)]
pub(super) struct Scripted {
    counts: Arc<Counts>,
    listening: AbortHandle,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

impl Scripted {
    pub(super) async fn start(ip: IpAddr) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip, 8080)).await.expect("the pod listens");
        let counts = Arc::<Counts>::default();
        let counted = counts.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, counted.clone()));
            }
        });
        Self { counts, listening: listening.abort_handle() }
    }

    /// Connections so far.
    pub(super) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Until the connection ends, by whomever.
async fn serve(mut stream: TcpStream, counts: Arc<Counts>) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        if path == "/unread" {
            sleep(Duration::from_secs(3600)).await;
        }
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
        match path.as_str() {
            "/closes" => return Ok(()),
            "/garbage" => return stream.write_all(b"\x01garbage\r\n\r\n").await,
            "/hangs" => sleep(Duration::from_secs(3600)).await,
            "/trickles" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await?;
                for byte in b"slow" {
                    sleep(PAUSE).await;
                    stream.write_all(&[*byte]).await?;
                }
                continue;
            }
            "/slow" => sleep(PAUSE).await,
            _ => {}
        }
        let status = path.trim_start_matches('/').parse().unwrap_or(200);
        stream.write_all(format!("HTTP/1.1 {status} x\r\nContent-Length: 3\r\n\r\nbad").as_bytes()).await?;
    }
}
