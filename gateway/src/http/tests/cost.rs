//! What a connection and a request cost, in bytes and allocations. Both are printed, and may only go down.

use std::{
    io::{Read, Write},
    net,
    sync::mpsc,
    thread,
};

use bytes::BytesMut;

use super::*;
use crate::http::{
    Scheme,
    arrival::Arrival,
    client::{Client, Ends},
    client_io::ClientStream,
    connection::serve_http1,
    handle::handle,
    worker::Listener,
};

/// The future of a connection that waits: what the runtime holds for it, next to the socket.
const FUTURE_BYTES: usize = 688;

/// The future of a connection on which requests are under way; made when bytes arrive.
const ACTIVE_BYTES: usize = 2224;

/// The future of a request, for each one under way. It is moved before it runs, so its size is time, too.
const REQUEST_BYTES: usize = 2664;

/// Allocations for a small request on a connection that is kept, to a pod whose connection is kept, over many of them.
const ALLOCATIONS: f64 = 3.01;

/// Requests before those that count: the pools and buffers are filled by them.
const WARM: usize = 50;

const REQUESTS: usize = 1000;

#[test]
fn the_future_of_a_connection_is_small() {
    run(async {
        let gateway = Gateway::start(&[Route::to("web", [nobody()])]);
        let (stream, peer) = (gateway.connect().await.stream, gateway.addr);
        let (worker, listener) =
            (gateway.worker.0.clone(), Rc::new(Listener { port: 80, port_value: 80.into(), scheme: Scheme::Http }));
        let arrival = Arrival { worker: worker.clone(), listener: listener.clone(), stream, peer };
        let waiting = size_of_val(&arrival.serve());
        let slot = worker.slots.insert();
        let ends = Ends { peer, local: peer, proxied: None };
        let client = Rc::new(Client::new(worker, listener, ends, None, None));
        let stream = ClientStream::Tcp(gateway.connect().await.stream);
        let active = size_of_val(&serve_http1(&client, &slot, stream, BytesMut::new()));
        println!("future bytes: {waiting}");
        let request = bytes_of(handle);
        println!("active future bytes: {active}");
        println!("request future bytes: {request}");
        assert!(waiting <= FUTURE_BYTES && active <= ACTIVE_BYTES && request <= REQUEST_BYTES);
    });
}

/// The size of what a function returns.
fn bytes_of<A, B, R>(_: impl Fn(A, B) -> R) -> usize {
    size_of::<R>()
}

/// The pod and the client have threads of their own, so that only the gateway allocates in this one.
#[test]
fn a_request_allocates_little() {
    let pod = pod();
    let (addr_in, addr) = mpsc::channel();
    let (step_in, mut step) = tokio::sync::mpsc::channel(1);
    let client = thread::spawn(move || {
        let mut client = net::TcpStream::connect(addr.recv().unwrap()).unwrap();
        for count in [WARM, REQUESTS] {
            for _ in 0..count {
                exchange(&mut client);
            }
            step_in.blocking_send(()).unwrap();
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    let mut next = || local.block_on(&runtime, async { step.recv().await.unwrap() });
    let gateway = local.block_on(&runtime, async { Gateway::start(&[Route::to("web", [pod])]) });
    addr_in.send(gateway.addr).unwrap();
    next();
    let counted = allocation_counter::measure(next);
    client.join().unwrap();
    let each = counted.count_total as f64 / REQUESTS as f64;
    println!("allocations per request: {each:.2}");
    println!("allocated bytes per request: {:.0}", counted.bytes_total as f64 / REQUESTS as f64);
    assert!(each <= ALLOCATIONS, "{each} allocations");
    assert!(counted.bytes_current.unsigned_abs() < REQUESTS as u64, "nothing is left of a request: {counted:?}");
}

fn exchange(client: &mut net::TcpStream) {
    client
        .write_all(
            b"GET /some/path?q=1 HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: test/1.0\r\nAccept: */*\r\n\
              Accept-Encoding: gzip, br\r\nCookie: a=b\r\n\r\n",
        )
        .unwrap();
    let (mut read, mut buffer) = (0, [0; 4096]);
    while !buffer[..read].ends_with(b"\r\n\r\nok") {
        read += client.read(&mut buffer[read..]).unwrap();
        assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..read]));
    }
}

/// A pod that says "ok" to everything, on threads of its own.
fn pod() -> SocketAddr {
    let listener = net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let (mut read, mut buffer) = (0, [0; 4096]);
                loop {
                    match stream.read(&mut buffer[read..]) {
                        Ok(n @ 1..) => read += n,
                        Ok(0) | Err(_) => return,
                    }
                    if buffer[..read].ends_with(b"\r\n\r\n") {
                        read = 0;
                        let answer = "HTTP/1.1 200 OK\r\nServer: pod\r\nContent-Type: text/plain\r\n\
                                      Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    addr
}
