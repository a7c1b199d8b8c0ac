//! Back ends that Tidegate's own pod is not: an HTTP/2 server that echoes gRPC streams, and a WebSocket that echoes messages.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// A running back end; dropping it cuts its connections.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub addr: SocketAddr,
    leaving: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Echo {
    /// An HTTP/2 back end (prior knowledge): `GET` is answered `You've hit NAME`, a `POST` with its own body, message by
    /// message, and `grpc-status: 0`.
    ///
    /// # Panics
    /// If the address cannot be bound.
    pub async fn grpc(name: &'static str, addr: SocketAddr) -> Self {
        Self::start(addr, move |stream, mut leaving| async move {
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(name, request)) });
            let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            let mut connection = pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = leaving.wait_for(|leaving| *leaving) => connection.as_mut().graceful_shutdown(),
            }
            drop(connection.await);
        })
        .await
    }

    /// Ends as a server does at SIGTERM: accepts nobody any more, says GOAWAY, and serves what is under way to its end. (Only
    /// [`Self::grpc`] knows how to; for the others this waits until their clients end.)
    pub async fn leave(mut self) {
        self.leaving.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }

    /// The same behind TLS, with a certificate of its own making; HTTP/1.1 for clients that ask for it.
    ///
    /// # Panics
    /// If the address cannot be bound.
    pub async fn tls(name: &'static str, addr: SocketAddr) -> Self {
        let made = rcgen::generate_simple_self_signed(["echo.example.com".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("they belong together");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start(addr, move |stream, _| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(name, request)) });
                let io = TokioIo::new(stream);
                if is_http2 {
                    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
                } else {
                    drop(http1::Builder::new().serve_connection(io, service).await);
                }
            }
        })
        .await
    }

    /// A back end that takes every connection for a WebSocket, and echoes its messages.
    ///
    /// # Panics
    /// If the address cannot be bound.
    pub async fn web_socket(addr: SocketAddr) -> Self {
        Self::start(addr, |stream, _| async { drop(web_socket(stream).await) }).await
    }

    async fn start<F>(addr: SocketAddr, serve: impl Fn(TcpStream, watch::Receiver<bool>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.expect("the address is free");
        let addr = listener.local_addr().expect("it is bound");
        let (leaving, mut left) = watch::channel(false);
        let theirs = left.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    biased;
                    Ok((stream, _)) = listener.accept() => connections.spawn(serve(stream, theirs.clone())),
                    _ = left.wait_for(|leaving| *leaving) => break,
                };
            }
            drop(listener);
            while connections.join_next().await.is_some() {}
        });
        Self { addr, leaving, tasks }
    }
}

fn answer(name: &str, request: Request<Incoming>) -> Response<EchoBody> {
    let is_stream = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/grpc");
    if !is_stream {
        return Response::new(EchoBody::Text(Some(format!("You've hit {name}\n").into())));
    }
    let mut response = Response::new(EchoBody::Stream(request.into_body()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

enum EchoBody {
    Text(Option<Bytes>),
    Stream(Incoming),
    Ended,
}

impl Body for EchoBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Stream(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                Some(frame) => Poll::Ready(Some(frame)),
                None => {
                    *self = Self::Ended;
                    let status = (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
                    Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::from_iter([status])))))
                }
            },
            Self::Ended => Poll::Ready(None),
        }
    }
}

async fn web_socket(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    // The answer to the one key that the client of the load generator sends (RFC 6455 1.3).
    stream
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )
        .await?;
    loop {
        let mut frame = [0; 6];
        stream.read_exact(&mut frame).await?;
        let (opcode, length, mask) = (frame[0] & 0x0f, frame[1] & 0x7f, [frame[2], frame[3], frame[4], frame[5]]);
        let mut payload = vec![0; usize::from(length)];
        stream.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        stream.write_all(&[&[0x80 | opcode, length][..], &payload].concat()).await?;
        if opcode == 0x8 {
            return Ok(());
        }
    }
}
