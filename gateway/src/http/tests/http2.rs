//! HTTP/2 with clients and with pods.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    service::service_fn,
};
use hyper_util::rt::TokioIo;

use super::*;
use crate::{
    http::local::LocalExec,
    route::policy::{BackendProtocol, Transport},
};

type Content = BoxBody<Bytes, std::convert::Infallible>;

fn whole(text: &'static str) -> Content {
    Full::new(Bytes::from_static(text.as_bytes())).boxed()
}

/// Content that comes piece by piece through a channel.
struct Channel(tokio::sync::mpsc::UnboundedReceiver<Frame<Bytes>>);

impl hyper::body::Body for Channel {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// Pieces as they are sent, and perhaps trailers.
fn pieces() -> (tokio::sync::mpsc::UnboundedSender<Frame<Bytes>>, Content) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    (sender, Channel(receiver).boxed())
}

/// A client connection by prior knowledge.
async fn client(gateway: &Gateway) -> SendRequest<Content> {
    let io = TokioIo::new(TcpStream::connect(gateway.addr).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(LocalExec, io).await.unwrap();
    spawn_local(async { drop(connection.await) });
    sender
}

async fn text(response: Response<Incoming>) -> (StatusCode, String) {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head.status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn get(path: &str) -> Request<Content> {
    Request::get(format!("http://a.b{path}")).body(whole("")).unwrap()
}

fn h2_policy() -> Policy {
    Policy { transport: Transport { protocol: BackendProtocol::Http2, ..Transport::default() }, ..Policy::default() }
}

/// A pod that speaks HTTP/2 and answers with what it was asked; counts its connections.
async fn h2_pod(connections: &Rc<Cell<usize>>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (addr, connections) = (listener.local_addr().unwrap(), connections.clone());
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.set(connections.get() + 1);
            let service = service_fn(|request: Request<Incoming>| async {
                let (head, body) = request.into_parts();
                let (sender, answer) = pieces();
                spawn_local(async move {
                    let mut body = body;
                    let about = format!("{} {} {:?};", head.method, head.uri, head.headers.get("x-forwarded-for"));
                    sender.send(Frame::data(about.into())).ok();
                    while let Some(Ok(frame)) = body.frame().await {
                        sender.send(frame).ok();
                    }
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    sender.send(Frame::trailers(trailers)).ok();
                });
                Ok::<_, std::convert::Infallible>(Response::new(answer))
            });
            spawn_local(
                hyper::server::conn::http2::Builder::new(LocalExec).serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    addr
}

#[test]
fn many_requests_on_one_connection_reach_pods_that_know_no_http2() {
    run(async {
        let pod = Pod::named("kubia-a").await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let sender = client(&gateway).await;
        let mut asked = Vec::new();
        for n in 0..100 {
            let mut sender = sender.clone();
            asked.push(spawn_local(
                async move { text(sender.send_request(get(&format!("/{n}?x"))).await.unwrap()).await },
            ));
        }
        for asked in asked {
            assert_eq!(asked.await.unwrap(), (StatusCode::OK, "kubia-a".to_owned()));
        }
        let seen = pod.last_seen();
        assert_eq!((field(&seen, "host"), field(&seen, "x-forwarded-host")), (Some("a.b"), Some("a.b")), "{seen}");
        assert_eq!(gateway.stats.accepted.value(), 1);
    });
}

#[test]
fn contents_and_trailers_pass_between_the_versions() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while let Some(head) = pod.request().await {
                let end = if head.contains("chunked") { "0\r\nx-sum: 7\r\n\r\n" } else { "hello" };
                pod.wire.read_until(end).await;
                pod.wire
                    .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n3\r\nabc\r\n0\r\nX-End: 9\r\n\r\n")
                    .await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut sender = client(&gateway).await;
        let (frames, content) = pieces();
        let request = Request::post("http://a/").header("cookie", "a=1").header("cookie", "b=2").body(content).unwrap();
        frames.send(Frame::data("hello".into())).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        frames.send(Frame::trailers(trailers)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!((response.version(), response.headers().get("x-hop")), (Version::HTTP_2, None));
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["x-end"], "9");
        assert_eq!(collected.to_bytes(), "abc");
        let seen = pod.last_seen();
        assert_eq!(
            (field(&seen, "cookie"), field(&seen, "transfer-encoding")),
            (Some("a=1; b=2"), Some("chunked")),
            "{seen}"
        );
        let sized = Request::post("http://a/").body(whole("hello")).unwrap();
        sender.send_request(sized).await.unwrap();
        assert_eq!(field(&pod.last_seen(), "content-length"), Some("5"));
    });
}

#[test]
fn a_pod_that_speaks_http2_is_spoken_to_on_one_connection_in_both_directions_at_once() {
    run(async {
        let connections = Rc::default();
        let pod = h2_pod(&connections).await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod]).policy(h2_policy())]);
        let sender = client(&gateway).await;
        let mut streams = Vec::new();
        for n in 0..50 {
            let mut sender = sender.clone();
            streams.push(spawn_local(async move {
                let (frames, content) = pieces();
                let request = Request::post(format!("http://a.b/{n}")).header("te", "trailers").body(content).unwrap();
                let mut body = sender.send_request(request).await.unwrap().into_body();
                let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(first, format!("POST http://a.b/{n} Some(\"127.0.0.1\");"));
                for _ in 0..20 {
                    frames.send(Frame::data("ping".into())).unwrap();
                    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ping");
                }
                drop(frames);
                assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
            }));
        }
        for stream in streams {
            stream.await.unwrap();
        }
        assert_eq!(connections.get(), 1, "a burst opens one connection");
        // HTTP/1.1 clients too.
        let answer = gateway.connect().await;
        let mut answer = answer;
        answer.send("GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        let (answer, _) = answer.rest().await;
        assert!(answer.contains("GET http://h/x"), "{answer}");
        until("all are over", || gateway.stats.under_way() == 0).await;
    });
}

#[test]
fn a_websocket_over_http2_is_an_upgrade_for_the_pod() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire
                .send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello")
                .await;
            assert_eq!(pod.wire.read(4).await, "ping");
            pod.wire.send("pong").await;
            pod.wire.rest().await;
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut sender = client(&gateway).await;
        // The server must have said that it knows extended CONNECT.
        sender.send_request(get("/nothing")).await.ok();
        let mut request = Request::connect("http://a/chat").body(whole("")).unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        let gateway2 = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut sender = client(&gateway2).await;
        sleep(Duration::from_millis(30)).await;
        let mut response = sender.send_request(request).await.unwrap();
        assert_eq!((response.status(), !response.headers().is_empty()), (StatusCode::OK, true));
        assert!(
            !response.headers().contains_key("sec-websocket-accept") && !response.headers().contains_key("upgrade")
        );
        let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"hello");
        stream.write_all(b"ping").await.unwrap();
        stream.read_exact(&mut bytes[..4]).await.unwrap();
        assert_eq!(&bytes[..4], b"pong");
        let seen = pod.last_seen();
        assert!(seen.starts_with("GET /chat HTTP/1.1\r\n") && field(&seen, "sec-websocket-key").is_some(), "{seen}");
        stream.shutdown().await.unwrap();
        until("it is over", || gateway2.stats.under_way() == 0).await;
    });
}

#[test]
fn draining_lets_streams_end_and_says_goodbye() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while pod.request().await.is_some() {
                sleep(Duration::from_millis(100)).await;
                pod.wire.send(OK).await;
            }
        })
        .await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut sender = client(&gateway).await;
        let asked = sender.send_request(get("/"));
        let asked = spawn_local(asked);
        until("it is under way", || pod.seen.borrow().len() == 1).await;
        let worker = gateway.worker.clone();
        let drained = spawn_local(async move { worker.drain(PATIENCE).await });
        assert_eq!(text(asked.await.unwrap().unwrap()).await.1, "ok");
        drained.await.unwrap();
        assert!(sender.send_request(get("/")).await.is_err());
    });
}

#[test]
fn a_bad_host_is_refused_and_so_is_a_host_that_is_not_the_authority() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::start(&[Route::to("kubia", [pod.addr])]);
        let mut sender = client(&gateway).await;
        let other = Request::get("http://a/").header("host", "b").body(whole("")).unwrap();
        assert_eq!(text(sender.send_request(other).await.unwrap()).await.0, StatusCode::BAD_REQUEST);
        let connect = Request::connect("a:80").body(whole("")).unwrap();
        assert_eq!(text(sender.send_request(connect).await.unwrap()).await.0, StatusCode::METHOD_NOT_ALLOWED);
        assert!(pod.seen.borrow().is_empty());
    });
}

#[test]
fn more_streams_than_a_pod_may_have_on_a_connection_take_another_one() {
    run(async {
        for (limit, expected) in [(2, 3), (100, 1)] {
            let connections = Rc::default();
            let pod = h2_pod(&connections).await;
            let limits = HttpLimits { h2_streams_per_upstream: limit, ..HttpLimits::default() };
            let gateway = Gateway::with(&[Route::to("kubia", [pod]).policy(h2_policy())], limits);
            let sender = client(&gateway).await;
            let mut open = Vec::new();
            for _ in 0..6 {
                let (frames, content) = pieces();
                let request = Request::post("http://a.b/").body(content).unwrap();
                open.push((frames, sender.clone().send_request(request).await.unwrap()));
            }
            assert_eq!(connections.get(), expected, "at most {limit}");
        }
    });
}
