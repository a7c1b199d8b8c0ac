//! HTTP/2 clients that use a connection heavily, and that flood it; frame by frame.

use super::*;
use crate::http::preface::PREFACE;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
pub(super) const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame that came.
pub(super) struct Frame {
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request, with or without content behind it (RFC 7541 A, C.2.2: fields by index, and a path as a literal).
pub(super) fn request(stream: u32, path: &str, ends: bool) -> Vec<u8> {
    let method = if ends { 0x82 } else { 0x83 };
    let path = [&[0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    let block = [&[method, 0x86], &path[..], b"\x41\x01a"].concat();
    frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, &block)
}

fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// The window of each stream at the beginning.
pub(super) fn hello(window: u32) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat())].concat()
}

/// Streams have odd numbers.
pub(super) fn stream(n: u32) -> u32 {
    2 * n + 1
}

impl Wire {
    pub(super) async fn put(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("it is taken in time").unwrap();
    }

    /// The next frame; `None` when the connection is over.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        timeout(PATIENCE, read).await.expect("a frame in time")
    }

    /// The next frame of this kind; PINGs are answered meanwhile.
    pub(super) async fn frame_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.unwrap_or_else(|| panic!("the connection ended before {kind}"));
            if frame.kind == kind {
                return frame;
            }
            if frame.kind == PING && frame.flags == 0 {
                self.put(&super::h2_clients::frame(PING, 1, 0, &frame.payload)).await;
            }
        }
    }

    /// Whether the connection ends, whatever comes before.
    pub(super) async fn ends(&mut self) -> bool {
        while self.frame().await.is_some() {}
        true
    }
}

/// A pod with long answers.
pub(super) async fn large(bytes: usize) -> Pod {
    Pod::answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n{}", "x".repeat(bytes))).await
}

#[test]
fn a_client_that_updates_windows_and_pings_for_each_frame_is_served() {
    const STREAMS: u32 = 100;
    run(async {
        let pod = large(512 << 10).await;
        let limits = HttpLimits { h2_idle_frames: 200, ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], limits);
        let mut client = gateway.connect().await;
        client.put(&hello(16 << 10)).await;
        for n in 0..STREAMS {
            client.put(&request(stream(n), "/", true)).await;
        }
        let (mut ended, mut updates) = (0, 0);
        while ended < STREAMS {
            let data = client.frame().await.expect("it goes on");
            assert_ne!(data.kind, GOAWAY, "after {updates} updates");
            if data.kind != DATA {
                continue;
            }
            ended += u32::from(data.flags & END_STREAM);
            // As a gRPC client does: room for what was read, on both levels, and a PING to measure the bandwidth.
            let by = u32::try_from(data.payload.len()).unwrap();
            let mut more = [window_update(0, by.max(1)), frame(PING, 0, 0, b"measured")].concat();
            if data.flags & END_STREAM == 0 {
                // Others open it in small steps.
                let step = (by / 8).max(1);
                more.extend(window_update(data.stream, step).repeat((by / step) as usize));
            }
            updates += 1;
            client.put(&more).await;
        }
        assert!(updates > 3_000, "{updates}");
        assert_eq!(gateway.stats.h2_floods.value(), 0);
    });
}

#[test]
fn large_uploads_are_taken() {
    const STREAMS: u32 = 8;
    const BYTES: usize = 4 << 20;
    run(async {
        let pod = Pod::start(|mut pod| async move {
            while pod.request().await.is_some() {
                pod.wire.stream.read_exact(&mut vec![0; BYTES]).await.unwrap();
                pod.wire.send(OK).await;
            }
        })
        .await;
        let limits = HttpLimits { h2_idle_frames: 100, ..HttpLimits::default() };
        let route = Route::to("web", [pod.addr]).policy(Policy { body_limit: None, ..Policy::default() });
        let gateway = Gateway::with(&[route], limits);
        let io = hyper_util::rt::TokioIo::new(TcpStream::connect(gateway.addr).await.unwrap());
        let (sender, connection) =
            hyper::client::conn::http2::handshake(crate::http::local::LocalExec, io).await.unwrap();
        spawn_local(async { drop(connection.await) });
        let uploads: Vec<_> = (0..STREAMS)
            .map(|_| {
                let mut sender = sender.clone();
                spawn_local(async move {
                    let content = http_body_util::Full::new(bytes::Bytes::from(vec![0; BYTES]));
                    let request = http::Request::post("http://a/").body(content).unwrap();
                    sender.send_request(request).await.unwrap().status()
                })
            })
            .collect();
        for upload in uploads {
            assert_eq!(upload.await.unwrap(), 200);
        }
        assert_eq!(gateway.stats.h2_floods.value(), 0);
    });
}

#[test]
fn requests_that_are_only_reset_are_a_flood_however_slowly_they_come() {
    run(async {
        let pod = Pod::start(|mut pod| async move { while pod.request().await.is_some() {} }).await;
        let limits = HttpLimits { h2_idle_frames: 200, ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], limits);
        let mut client = gateway.connect().await;
        client.put(&hello(65_535)).await;
        let mut count = 0;
        while gateway.stats.h2_floods.value() == 0 {
            let so_far = gateway.stats.requests.value();
            client.put(&request(stream(count), "/", true)).await;
            until("it is begun", || gateway.stats.requests.value() > so_far).await;
            client.put(&frame(RST_STREAM, 0, stream(count), &CANCEL.to_be_bytes())).await;
            until("it is over", || gateway.stats.under_way() == 0).await;
            count += 1;
            assert!(count < 20_000);
        }
        assert_eq!(client.frame_of(GOAWAY).await.number(4), ENHANCE_YOUR_CALM);
        assert!(client.ends().await && count >= 24, "{count}");
    });
}

/// hyper's own client, which measures bandwidth and delay with a PING for each round trip, and sets its windows anew.
#[test]
fn a_client_that_adapts_its_windows_is_served() {
    const BYTES: usize = 512 << 10;
    run(async {
        let pod = large(BYTES).await;
        let limits = HttpLimits { h2_idle_frames: 100, ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], limits);
        let io = hyper_util::rt::TokioIo::new(TcpStream::connect(gateway.addr).await.unwrap());
        let mut builder = hyper::client::conn::http2::Builder::new(crate::http::local::LocalExec);
        let (sender, connection) = builder.adaptive_window(true).handshake(io).await.unwrap();
        spawn_local(async { drop(connection.await) });
        let asked: Vec<_> = (0..100)
            .map(|_| {
                let mut sender = sender.clone();
                spawn_local(async move {
                    let content = http_body_util::Empty::<bytes::Bytes>::new();
                    let answer = sender.send_request(http::Request::get("http://a/").body(content).unwrap()).await;
                    http_body_util::BodyExt::collect(answer.unwrap().into_body()).await.unwrap().to_bytes().len()
                })
            })
            .collect();
        for answer in asked {
            assert_eq!(answer.await.unwrap(), BYTES);
        }
        assert_eq!(gateway.stats.h2_floods.value(), 0);
    });
}
