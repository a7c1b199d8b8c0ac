//! HTTP/2 clients that use a connection heavily, that flood it, and that keep it waiting; frame by frame.

use super::*;
use crate::http::{Kind, preface::PREFACE};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame that came.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request, with or without content behind it (RFC 7541 A, C.2.2: fields by index, and a path as a literal).
fn request(stream: u32, path: &str, ends: bool) -> Vec<u8> {
    let method = if ends { 0x82 } else { 0x83 };
    let path = [&[0x04, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    let block = [&[method, 0x86], &path[..], b"\x41\x01a"].concat();
    frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, &block)
}

fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// The window of each stream at the beginning.
fn hello(window: u32) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat())].concat()
}

/// Streams have odd numbers.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

impl Wire {
    async fn put(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("it is taken in time").unwrap();
    }

    /// The next frame; `None` when the connection is over.
    async fn frame(&mut self) -> Option<Frame> {
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
    async fn frame_of(&mut self, kind: u8) -> Frame {
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
    async fn ends(&mut self) -> bool {
        while self.frame().await.is_some() {}
        true
    }
}

/// A pod with long answers.
async fn large(bytes: usize) -> Pod {
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

fn impatient() -> HttpLimits {
    HttpLimits {
        request_head: Duration::from_millis(500),
        client_stall: Duration::from_millis(500),
        linger: Duration::from_millis(250),
        ..HttpLimits::default()
    }
}

#[test]
fn answers_that_nobody_takes_are_given_up_and_so_are_their_pods() {
    run(async {
        let closed = Rc::new(Cell::new(0));
        let pod = Pod::start({
            let closed = closed.clone();
            move |mut pod| {
                let closed = closed.clone();
                async move {
                    pod.request().await;
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {0}\r\n\r\n{1}", 64 << 20, "x".repeat(64 << 20));
                    // The gateway closes before it has all.
                    assert!(pod.wire.stream.write_all(answer.as_bytes()).await.is_err());
                    closed.set(closed.get() + 1);
                }
            }
        })
        .await;
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], impatient());
        let mut client = gateway.connect().await;
        client.put(&hello(0)).await;
        for n in 0..5 {
            client.put(&request(stream(n), "/", true)).await;
        }
        for _ in 0..5 {
            assert_eq!(client.frame_of(RST_STREAM).await.number(0), CANCEL);
        }
        until("the pods are free", || closed.get() == 5 && gateway.stats.under_way() == 0).await;
        assert_eq!(gateway.failures(Kind::ClientSlow), 5);
        assert!(client.ends().await, "it is idle");
    });
}

#[test]
fn a_stream_that_stalls_beside_others_has_more_time_but_not_for_ever() {
    run(async {
        let slow = large(1 << 20).await;
        // Always at work, a little.
        let busy = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while pod.wire.stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let limits = HttpLimits { h2_stream_stall: Duration::from_secs(2), ..impatient() };
        let routes = [Route::to("slow", [slow.addr]).path("/slow"), Route::to("busy", [busy.addr])];
        let gateway = Gateway::with(&routes, limits);
        let mut client = gateway.connect().await;
        client.put(&[hello(1000), request(1, "/slow", true), request(3, "/busy", true)].concat()).await;
        let begun = std::time::Instant::now();
        let reset = client.frame_of(RST_STREAM).await;
        assert_eq!((reset.stream, reset.number(0)), (1, CANCEL));
        assert!(begun.elapsed() >= Duration::from_millis(1700), "{:?}", begun.elapsed());
        assert_eq!(client.frame_of(DATA).await.stream, 3, "the other goes on");
    });
}

#[test]
fn a_pod_that_is_silent_is_not_the_clients_fault() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            pod.wire.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await;
            sleep(Duration::from_secs(2)).await;
            pod.wire.send("cd").await;
        })
        .await;
        let limits = HttpLimits { h2_stream_stall: Duration::from_secs(1), ..impatient() };
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], limits);
        let mut client = gateway.connect().await;
        client.put(&[hello(65_535), request(1, "/", true)].concat()).await;
        assert_eq!(client.frame_of(DATA).await.payload, b"ab");
        assert_eq!(client.frame_of(DATA).await.payload, b"cd");
    });
}

#[test]
fn connections_without_requests_end() {
    run(async {
        let pod = Pod::answering(OK).await;
        let gateway = Gateway::with(&[Route::to("web", [pod.addr])], impatient());
        let get = request(1, "/", true);
        let beginnings = [
            ("half a preface", PREFACE[..20].to_vec()),
            ("a preface and no SETTINGS", PREFACE.to_vec()),
            ("SETTINGS and no request", hello(65_535)),
            ("half a HEADERS", [hello(65_535), get[..12].to_vec()].concat()),
            ("HEADERS without an end", [hello(65_535), frame(HEADERS, END_STREAM, 1, &get[9..])].concat()),
            ("one request", [hello(65_535), get.clone()].concat()),
            ("a request and half another", [hello(65_535), get.clone(), request(3, "/", true)[..12].to_vec()].concat()),
        ];
        let mut clients = Vec::new();
        for (name, bytes) in beginnings {
            let mut client = gateway.connect().await;
            client.put(&bytes).await;
            clients.push(spawn_local(async move { assert!(client.ends().await, "{name}") }));
        }
        for client in clients {
            client.await.unwrap();
        }
        // Byte by byte, for ever.
        let mut client = gateway.connect().await;
        client.put(&hello(65_535)).await;
        let endless = frame(HEADERS, END_STREAM, 1, &get[9..]);
        let endless = endless.iter().copied().chain([0, 0, 1, 9, 0, 0, 0, 0, 1, 0].into_iter().cycle());
        let begun = std::time::Instant::now();
        for byte in endless {
            if client.stream.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
            assert!(begun.elapsed() < PATIENCE, "it goes on for ever");
        }
        until("none is left", || gateway.worker.connections() == 0).await;
    });
}

#[test]
fn uploads_that_pods_do_not_read_leave_the_connection_its_window() {
    run(async {
        let pod = Pod::start(|mut pod| async move {
            pod.request().await;
            sleep(PATIENCE).await;
        })
        .await;
        let gap = Duration::from_millis(150);
        let timeouts = crate::route::policy::Timeouts { send: gap, read: gap, ..Default::default() };
        let policy = Policy { body_limit: None, timeouts, ..Policy::default() };
        let limits = HttpLimits { h2_connection_window: 512 << 10, ..HttpLimits::default() };
        let gateway = Gateway::with(&[Route::to("web", [pod.addr]).policy(policy)], limits);
        let mut client = gateway.connect().await;
        client.put(&[hello(65_535), frame(SETTINGS, 1, 0, &[])].concat()).await;
        let mut window = 65_535;
        for n in 0..4 {
            client.put(&request(stream(n), "/", false)).await;
            let mut stream_window = 256 << 10;
            // As much as there is room for, until the pod has kept it waiting for too long.
            loop {
                while let room @ 1.. = window.min(stream_window).min(16 << 10) {
                    client.put(&frame(DATA, 0, stream(n), &vec![0; room])).await;
                    (window, stream_window) = (window - room, stream_window - room);
                }
                let frame = client.frame().await.expect("it goes on");
                match (frame.kind, frame.stream) {
                    (WINDOW_UPDATE, 0) => window += frame.number(0) as usize,
                    (WINDOW_UPDATE, which) if which == stream(n) => stream_window += frame.number(0) as usize,
                    (RST_STREAM, which) => {
                        assert_eq!(which, stream(n));
                        assert_eq!(frame.number(0), 0, "the rest is not wanted (RFC 9113 8.1)");
                        break;
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(gateway.failures(Kind::Timeout), 4);
        until("all are over", || gateway.stats.under_way() == 0).await;
    });
}
