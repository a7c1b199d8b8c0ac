//! The back end and the clients: plain blocking threads, cheap enough to leave most of their core to the kernel.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// The first byte a client sends says what the back end shall do.
const SINK: u8 = b'S';
const ECHO: u8 = b'E';
const ONCE: u8 = b'C';
const IDLE: u8 = b'I';

/// Clients at once in the small measurements.
const CLIENTS: usize = 16;

/// Threads of the back end: one for each client, and some for what has not noticed its end yet.
const BACKEND_THREADS: usize = CLIENTS * 2;

/// One write or read of the bulk transfer.
const CHUNK: usize = 256 << 10;

/// Bytes of a small message.
const MESSAGE: usize = 64;

/// Nothing here takes so long unless the proxy has lost a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the proxies send their connections to.
pub(crate) struct Backend {
    addr: SocketAddr,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Backend {
    pub(crate) fn start() -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind(("127.0.0.1", 0))?);
        let (addr, idle) = (listener.local_addr()?, Arc::new(Mutex::new(Vec::new())));
        for _ in 0..BACKEND_THREADS {
            let (listener, idle) = (listener.clone(), idle.clone());
            thread::spawn(move || {
                let mut buffer = vec![0; CHUNK];
                while let Ok((stream, _)) = listener.accept() {
                    // A connection that fails is its client's to report.
                    if let Ok(Some(stream)) = answer(stream, &mut buffer) {
                        idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
                    }
                }
            });
        }
        Ok(Self { addr, idle })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes the idle connections of a measurement.
    pub(crate) fn forget_idle(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Serves one connection; gives it back if it is to stay open.
fn answer(mut stream: TcpStream, buffer: &mut [u8]) -> io::Result<Option<TcpStream>> {
    prepare(&stream)?;
    let mut order = [0];
    stream.read_exact(&mut order)?;
    match order[0] {
        SINK => {
            let mut total = 0u64;
            loop {
                match stream.read(buffer)? {
                    0 => break,
                    n => total += n as u64,
                }
            }
            stream.write_all(&total.to_be_bytes())?;
        }
        ECHO => loop {
            match stream.read(buffer)? {
                0 => break,
                n => stream.write_all(&buffer[..n])?,
            }
        },
        IDLE => {
            stream.write_all(&order)?;
            return Ok(Some(stream));
        }
        _ => stream.write_all(&order)?,
    }
    Ok(None)
}

/// Sends as much as goes through within `time`, in one connection; the bytes that arrived, and when the last had.
pub(crate) fn stream(proxy: SocketAddr, time: Duration) -> anyhow::Result<(u64, Duration)> {
    let mut stream = connect(proxy, SINK)?;
    let (begun, chunk) = (Instant::now(), vec![0x5a; CHUNK]);
    while begun.elapsed() < time {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    Ok((u64::from_be_bytes(total), begun.elapsed()))
}

/// Connections with one byte each way, one after the other in each client.
pub(crate) fn connections(proxy: SocketAddr, time: Duration) -> anyhow::Result<(u64, Duration)> {
    clients(time, |until| {
        let mut count = 0;
        while Instant::now() < until {
            let mut answer = Vec::new();
            connect(proxy, ONCE)?.read_to_end(&mut answer)?;
            anyhow::ensure!(answer == [ONCE], "a connection without an answer");
            count += 1;
        }
        Ok(count)
    })
}

/// Small messages to and fro, in one connection for each client.
pub(crate) fn round_trips(proxy: SocketAddr, time: Duration) -> anyhow::Result<(u64, Duration)> {
    clients(time, |until| {
        let mut stream = connect(proxy, ECHO)?;
        let (mut count, mut message) = (0, [0x5a; MESSAGE]);
        while Instant::now() < until {
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            count += 1;
        }
        Ok(count)
    })
}

/// Connections that went to the back end and then do nothing.
pub(crate) fn idle(proxy: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let one = |_| {
        let mut stream = connect(proxy, IDLE)?;
        stream.read_exact(&mut [0])?;
        anyhow::Ok(stream)
    };
    (0..count).map(one).collect()
}

fn clients(time: Duration, one: impl Fn(Instant) -> anyhow::Result<u64> + Sync) -> anyhow::Result<(u64, Duration)> {
    let begun = Instant::now();
    let until = begun + time;
    let count = thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| one(until))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        };
        threads.into_iter().map(join).sum::<anyhow::Result<u64>>()
    })?;
    Ok((count, begun.elapsed()))
}

fn connect(proxy: SocketAddr, order: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&proxy, PATIENCE)?;
    prepare(&stream)?;
    stream.write_all(&[order])?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}
