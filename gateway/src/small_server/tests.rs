use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::*;

/// Nothing here waits longer; the limits under test are far below.
const PATIENCE: Duration = Duration::from_secs(30);

const LIMITS: Limits = Limits {
    connections: 4,
    head_bytes: 8 << 10,
    head_timeout: Duration::from_secs(5),
    connection_timeout: Duration::from_secs(1),
    client_stall: Duration::from_millis(300),
};

struct Server {
    addr: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    /// What was asked for: the other ends of the streams.
    asked: mpsc::UnboundedReceiver<Option<mpsc::Sender<Bytes>>>,
}

/// `/stream` is a stream, `/never` is not answered.
async fn start(limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (asks, asked) = mpsc::unbounded_channel();
    let answer = move |request: Request<Incoming>| {
        let asks = asks.clone();
        async move {
            match request.uri().path() {
                "/stream" => {
                    let (sender, receiver) = mpsc::channel(1);
                    asks.send(Some(sender)).unwrap();
                    Response::new(Content::Stream(receiver))
                }
                _ => {
                    asks.send(None).unwrap();
                    pending().await
                }
            }
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve("test", listener, limits, answer, async { drop(stopped.await) }));
    Server { addr, stop, server, asked }
}

impl Server {
    async fn ask(&self, path: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        // As little as the kernel allows, so that a reader who sleeps is soon behind.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(self.addr).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        stream
    }

    async fn asked(&mut self) -> Option<mpsc::Sender<Bytes>> {
        time::timeout(PATIENCE, self.asked.recv()).await.unwrap().unwrap()
    }

    async fn stream(&mut self) -> (TcpStream, mpsc::Sender<Bytes>) {
        let client = self.ask("/stream").await;
        (client, self.asked().await.unwrap())
    }
}

/// Reads until `what` has come.
async fn until(client: &mut TcpStream, what: &str) {
    let mut seen = Vec::new();
    while !seen.windows(what.len()).any(|part| part == what.as_bytes()) {
        assert!(time::timeout(PATIENCE, client.read_buf(&mut seen)).await.unwrap().unwrap() > 0, "{what} is missing");
    }
}

#[tokio::test]
async fn a_stream_outlives_the_deadline_of_other_answers() {
    let mut server = start(LIMITS).await;
    let mut late = server.ask("/never").await;
    assert!(server.asked().await.is_none());
    let (mut client, sender) = server.stream().await;
    sender.send("first".into()).await.unwrap();
    until(&mut client, "first").await;
    let nothing = time::timeout(PATIENCE, late.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(nothing, Ok(0) | Err(_)), "cut after the deadline, which the stream soon has behind it, too");
    time::sleep(LIMITS.connection_timeout).await;
    sender.send("second".into()).await.unwrap();
    until(&mut client, "second").await;
    drop(sender);
    until(&mut client, "0\r\n\r\n").await;
}

#[tokio::test]
async fn who_leaves_is_noticed_and_who_does_not_read_is_cut() {
    let mut server = start(LIMITS).await;
    let (client, sender) = server.stream().await;
    drop(client);
    time::timeout(PATIENCE, sender.closed()).await.expect("noticed that the client left");
    let (mut sleeper, sender) = server.stream().await;
    let (mut reader, other) = server.stream().await;
    let begun = Instant::now();
    let mut sent = 0;
    // What the sockets hold, and no more: then it waits, until the client is cut.
    while time::timeout(PATIENCE, sender.send(Bytes::from_static(&[b'x'; 16 << 10]))).await.unwrap().is_ok() {
        sent += 16 << 10;
    }
    assert!(begun.elapsed() >= LIMITS.client_stall && sent < 16 << 20, "{sent} bytes in {:?}", begun.elapsed());
    other.send("still here".into()).await.unwrap();
    until(&mut reader, "still here").await;
    let mut rest = Vec::new();
    drop(time::timeout(PATIENCE, sleeper.read_to_end(&mut rest)).await.expect("the connection was closed"));
    assert!(!rest.ends_with(b"0\r\n\r\n"), "cut, not ended");
}

#[tokio::test]
async fn streams_end_at_once_when_the_server_stops() {
    // Nothing but the stop can end what is tested here.
    let long = Limits { connection_timeout: PATIENCE, client_stall: PATIENCE, ..LIMITS };
    let mut server = start(long).await;
    let (mut idle, _kept) = server.stream().await;
    let (_sleeper, sender) = server.stream().await;
    while time::timeout(Duration::from_millis(50), sender.send(Bytes::from_static(&[b'x'; 16 << 10]))).await.is_ok() {}
    let begun = Instant::now();
    server.stop.send(()).unwrap();
    server.server.await.unwrap();
    assert!(begun.elapsed() < SHUTDOWN_GRACE / 2, "{:?}", begun.elapsed());
    drop(idle.read_to_end(&mut Vec::new()).await);
    // Who is not answered yet has the grace.
    let mut server = start(long).await;
    let _waiting = server.ask("/never").await;
    assert!(server.asked().await.is_none());
    let begun = Instant::now();
    server.stop.send(()).unwrap();
    server.server.await.unwrap();
    assert!(begun.elapsed() >= SHUTDOWN_GRACE, "{:?}", begun.elapsed());
}
