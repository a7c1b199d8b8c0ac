//! Idle and slow clients again, behind TLS and over HTTP/2, where each of them costs more and there are more ways to be slow.

use std::{
    fs, io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tidegate_tests::{
    Client, Net, PATIENCE, h2, http_pod,
    http2::Http2Client,
    load::{Load, Target, Traffic},
    pod_manifest, service_manifest,
    tls::{self, HTTP1, HTTP2, Made},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::client::TlsStream;

use crate::robust::{resident_bytes, start};

const HOST: &str = "web.example.com";

const IDLE: usize = 2_000;
const SLOW: usize = 400;

/// As in [`crate::robust`]; a session of TLS and one of HTTP/2 cost something.
const MAX_BYTES_A_CLIENT: u64 = 96 << 10;

/// How long a well-behaved client waits at the worst while the others are there.
const MAX_WAIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_slow_clients_behind_tls_leave_the_others_intact() {
    let net = Net::next();
    let _pod = http_pod("web", net.ip(2)).await;
    let directory = std::env::temp_dir().join(format!("tidegate-robust-tls-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a temporary directory");
    let ingress = format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: web, annotations: \
         {{nginx.ingress.kubernetes.io/proxy-body-size: \"0\"}}}}\n\
         spec: {{tls: [{{hosts: [{HOST}], secretName: web}}], rules: [{{host: {HOST}, http: {{paths: [{{path: /, \
         pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}]}}}}]}}\n"
    );
    let web = pod_manifest("web", "web", net.ip(2)) + &service_manifest("web", "web", "");
    fs::write(directory.join("main.yaml"), web + &ingress + &Made::new(&[HOST]).secret("web")).expect("it is written");
    let tidegate = start(net, &directory, SocketAddr::new(net.ip(1), 8080));
    let https = SocketAddr::new(net.ip(1), 8443);
    let before = resident_bytes(&tidegate);

    let mut idlers = Idlers::connect(https).await;
    let mut slow_ones = JoinSet::new();
    for n in 0..SLOW {
        slow_ones.spawn(dawdle(https, n));
    }
    let target = Target::tls(https, HOST);
    let kinds =
        [Traffic::Http1New { host: HOST }, Traffic::Http1KeepAlive { host: HOST }, Traffic::Http2 { host: HOST }];
    let load = Load::start(kinds.map(|kind| (kind, target)), 2).await;
    let begun = Instant::now();
    let mut worst = Duration::ZERO;
    // Long enough for the slow ones to be in the middle of what they do.
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let mut client = Client::new(tls::connect(https, HOST, HTTP1).await.expect("a handshake"));
        assert_eq!(client.get(HOST, "/").await.status, 200);
        worst = worst.max(asked.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    load.assert_nobody_reconnected();
    let each = resident_bytes(&tidegate).saturating_sub(before) / (IDLE + SLOW) as u64;
    println!("others were served within {worst:?} at the worst; each client took {each} bytes; {}", load.end().await);
    assert!(worst < MAX_WAIT, "{worst:?}");
    assert!(each < MAX_BYTES_A_CLIENT, "{each} bytes a client");

    idlers.each_goes_on().await;
    let ended = slow_ones.try_join_next();
    assert!(ended.is_none(), "a slow client was turned away: {ended:?}");
    drop((slow_ones, idlers));
    fs::remove_dir_all(&directory).expect("it is there");
    assert!(!tidegate.log().contains("panicked"), "{}", tidegate.log());
}

/// Clients that are connected, have asked once, and do nothing since.
struct Idlers {
    http1: Vec<Client<TlsStream<TcpStream>>>,
    http2: Vec<Http2Client>,
}

impl Idlers {
    async fn connect(https: SocketAddr) -> Self {
        let mut idlers = Self { http1: Vec::new(), http2: Vec::new() };
        let mut connecting = JoinSet::new();
        for _ in 0..IDLE / 2 {
            connecting.spawn(async move {
                let mut http1 = Client::new(tls::connect(https, HOST, HTTP1).await.expect("a handshake"));
                assert_eq!(http1.get(HOST, "/").await.status, 200);
                let http2 = tls::connect(https, HOST, HTTP2).await.expect("a handshake");
                let mut http2 = Http2Client::new(http2).await.expect("HTTP/2");
                assert!(is_served(&mut http2).await);
                (http1, http2)
            });
            while connecting.len() > 32 {
                idlers.add(connecting.join_next().await.expect("there are some").expect("they are served"));
            }
        }
        while let Some(pair) = connecting.join_next().await {
            idlers.add(pair.expect("they are served"));
        }
        idlers
    }

    fn add(&mut self, (http1, http2): (Client<TlsStream<TcpStream>>, Http2Client)) {
        self.http1.push(http1);
        self.http2.push(http2);
    }

    /// None of them was sacrificed.
    async fn each_goes_on(&mut self) {
        for client in self.http1.iter_mut().step_by(19) {
            assert_eq!(client.get(HOST, "/").await.status, 200);
        }
        for client in self.http2.iter_mut().step_by(19) {
            assert!(is_served(client).await);
        }
    }
}

async fn is_served(client: &mut Http2Client) -> bool {
    client.get(HOST).await.is_ok_and(|answer| answer.is_some_and(|(status, _)| status == 200))
}

/// A client that takes for ever: over its ClientHello, over a request head or content in either protocol, or over an answer that it
/// leaves no window for. Ends only when it is turned away.
async fn dawdle(https: SocketAddr, n: usize) -> io::Result<()> {
    let field = |path: &'static str, method: &'static str| {
        let more = [(":authority", HOST), (":scheme", "https")];
        h2::section([(":method", method), (":path", path)].into_iter().chain(more))
    };
    let slow = "slow".repeat(1_000);
    match n % 5 {
        0 => {
            let mut stream = TcpStream::connect(https).await?;
            // A record of 512 bytes with a ClientHello of 508.
            let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[0; 500]].concat();
            byte_by_byte(&mut stream, &hello).await
        }
        1 => {
            let mut stream = tls::connect(https, HOST, HTTP1).await?;
            let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: {slow}\r\n\r\n");
            byte_by_byte(&mut stream, head.as_bytes()).await
        }
        2 => {
            let mut stream = tls::connect(https, HOST, HTTP2).await?;
            stream.write_all(&h2::hello()).await?;
            let section = [field("/", "GET"), h2::section([("x-slow", &slow)])].concat();
            byte_by_byte(&mut stream, &h2::headers(1, true, &section)).await
        }
        3 => {
            let mut stream = tls::connect(https, HOST, HTTP2).await?;
            stream.write_all(&[h2::hello(), h2::headers(1, false, &field("/echo", "POST"))].concat()).await?;
            byte_by_byte(&mut stream, &h2::data(1, false, b"x").repeat(1_000)).await
        }
        _ => {
            let mut stream = tls::connect(https, HOST, HTTP2).await?;
            // A window of one byte for each stream, and no more when that is full.
            let hello = [h2::PREFACE, &h2::settings(&[(1, 0), (4, 1)])].concat();
            stream.write_all(&[hello, h2::headers(1, true, &field("/bytes/100000000", "GET"))].concat()).await?;
            while stream.read(&mut [0; 1_024]).await? > 0 {}
            Ok(())
        }
    }
}

async fn byte_by_byte(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(250);
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
        // The other side must have said nothing that ends this.
        if let Ok(read) = timeout(PAUSE, stream.read(&mut [0; 1_024])).await
            && read? == 0
        {
            return Ok(());
        }
    }
    sleep(PATIENCE).await;
    Ok(())
}
