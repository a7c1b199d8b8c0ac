//! Every pod of the cluster: one server on all addresses, which answers with the one that it was asked at.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    thread,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::objects::POD_PORT;

/// Starts it, in a thread of its own, for as long as this process lives.
pub(crate) fn start() -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, POD_PORT))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || runtime.block_on(async { serve(TcpListener::from_std(listener)?).await });
    thread::Builder::new().name("pods".to_owned()).spawn(serve)?;
    Ok(())
}

async fn serve(listener: TcpListener) -> io::Result<Infallible> {
    loop {
        // A connection that is gone before it is taken is no reason to stop.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let Ok(local) = stream.local_addr() else { continue };
        tokio::spawn(answer(stream, local));
    }
}

async fn answer(stream: TcpStream, local: SocketAddr) {
    let ip = Bytes::from(local.ip().to_string());
    let respond = move |_: Request<Incoming>| {
        let answer = Response::new(Full::new(ip.clone()));
        async { Ok::<_, Infallible>(answer) }
    };
    // Whoever asked has what it wanted, or has gone.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(respond)).await;
}
