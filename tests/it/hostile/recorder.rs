//! A back end that writes down what it is sent, as a strict reader reads it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::strict::{Parsed, Request, parse};

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Request(Request),
    /// Bytes that are no request, and why.
    Malformed(String),
    /// A request that was broken off, by its target.
    Cut(String),
}

/// Listens on port 8080 of an address until it is dropped.
#[derive(Debug)]
pub(crate) struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    listening: tokio::task::JoinHandle<()>,
}

impl Recorder {
    pub(crate) async fn start(ip: IpAddr) -> Self {
        let listener = TcpListener::bind(SocketAddr::new(ip, 8080)).await.expect("the back end listens");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = seen.clone();
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, log.clone()));
            }
        });
        Self { seen, listening }
    }

    /// What came since this was asked last.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().expect("nobody panics with it"))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Answers each request with its own target, so that an answer to another request would be noticed.
async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Seen>>>) {
    let note = |what: Seen| seen.lock().expect("nobody panics with it").push(what);
    let mut buffer = Vec::new();
    loop {
        match parse(&buffer) {
            Parsed::Whole(request, taken) => {
                buffer.drain(..taken);
                let content = if request.method == "HEAD" { "" } else { "ok" };
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Target: {}\r\n\r\n{content}", request.target);
                note(Seen::Request(request));
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Parsed::Malformed(why) => return note(Seen::Malformed(format!("{why} in {}", buffer.escape_ascii()))),
            Parsed::Partial(target) => match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                Ok(0) | Err(_) if buffer.is_empty() => return,
                Ok(0) | Err(_) => return note(Seen::Cut(target.unwrap_or_default())),
            },
        }
    }
}
