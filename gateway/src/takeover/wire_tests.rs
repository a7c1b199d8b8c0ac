use std::{
    net::TcpListener,
    os::fd::{AsFd, AsRawFd},
    thread,
};

use tidegate_l4::model::Protocol;

use super::*;
use crate::takeover::message::{Purpose, SocketName};

const SOON: Duration = Duration::from_secs(5);

fn pair() -> (Wire, Wire) {
    let (a, b) = UnixStream::pair().unwrap();
    (Wire::new(a).unwrap(), Wire::new(b).unwrap())
}

fn name(listener: &TcpListener, number: u16) -> SocketName {
    SocketName { purpose: Purpose::Frontend, protocol: Protocol::Tcp, addr: listener.local_addr().unwrap(), number }
}

#[test]
fn sockets_arrive_with_their_names_and_in_order() {
    let (mut old, mut new) = pair();
    let listeners: Vec<TcpListener> = (0..MAX_SOCKETS).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let names: Vec<SocketName> = listeners.iter().map(|listener| name(listener, 0)).collect();
    let sent = names.clone();
    let sender = thread::spawn(move || {
        let sockets: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        for _ in 0..2 {
            old.send(&Message::Sockets(sent.clone()), &sockets).unwrap();
            assert_eq!(old.receive(SOON).unwrap().0, Message::Next);
        }
        old.send(&Message::End, &[]).unwrap();
        sockets.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>()
    });
    for _ in 0..2 {
        let (message, sockets) = new.receive(SOON).unwrap();
        assert_eq!(message, Message::Sockets(names.clone()));
        for (name, socket) in names.iter().zip(sockets) {
            assert_eq!(TcpListener::from(socket).local_addr().unwrap(), name.addr);
        }
        new.send(&Message::Next, &[]).unwrap();
    }
    assert_eq!(new.receive(SOON).unwrap().0, Message::End);
    assert!(matches!(new.receive(SOON), Err(WireError::Closed)));
    sender.join().unwrap();
}

#[test]
fn names_without_sockets_are_not_believed() {
    let (mut old, mut new) = pair();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let names = vec![name(&listener, 0), name(&listener, 1)];
    old.send(&Message::Sockets(names), &[listener.as_fd()]).unwrap();
    assert!(matches!(new.receive(SOON), Err(WireError::SocketsLost)));
}

#[test]
fn more_sockets_than_anybody_asked_for_are_refused() {
    let (mut old, mut new) = pair();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = vec![listener.as_fd(); MAX_SOCKETS];
    for _ in 0..2 {
        old.send(&Message::Sockets(Vec::new()), &sockets).unwrap();
    }
    assert!(new.receive(SOON).is_ok());
    assert!(matches!(new.receive(SOON), Err(WireError::Decode(DecodeError::TooLong))));
}

#[test]
fn silence_nonsense_and_half_a_message_end_in_time() {
    let (mut old, mut new) = pair();
    let begun = Instant::now();
    assert!(matches!(new.receive(Duration::from_millis(20)), Err(WireError::Io(_))));
    assert!(begun.elapsed() < SOON);
    old.stream.write_all(&[2, 0, 0]).unwrap();
    assert!(matches!(new.receive(Duration::from_millis(20)), Err(WireError::Io(_))));
    old.stream.write_all(&[0, 6, 0, 1]).unwrap();
    drop(old);
    assert!(matches!(new.receive(SOON), Err(WireError::Closed)));
    let (mut old, mut new) = pair();
    old.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(matches!(new.receive(SOON), Err(WireError::Decode(DecodeError::TooLong))));
}
