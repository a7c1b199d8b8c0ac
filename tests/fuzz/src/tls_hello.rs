//! The first bytes on the TLS port: how they come makes no difference, what is passed through is passed as it came, and to the
//! host that a plain reading of the ClientHello names.

use std::{
    io::Write,
    net::{Shutdown, TcpListener, TcpStream},
};

use tidegate::{
    compile::Compiled,
    tls::{AcceptError, Accepted, Acceptor},
};
use tokio::runtime::Runtime;

use crate::{manifests, pieces};

const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: pass}
spec: {ports: [{port: 443}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: pass
  annotations: {nginx.ingress.kubernetes.io/ssl-passthrough: 'true'}
spec:
  rules:
  - host: pass.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: pass, port: {number: 443}}}}]}
";

/// What became of a connection.
#[derive(Debug, PartialEq)]
enum Outcome {
    Secured,
    Passed(Vec<u8>),
    Failed(&'static str),
}

struct World {
    runtime: Runtime,
    listener: TcpListener,
    compiled: Compiled,
}

thread_local! {
    static WORLD: World = World {
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
        listener: TcpListener::bind("127.0.0.1:0").expect("a listener"),
        compiled: manifests::good(MANIFESTS),
    };
}

pub fn run(data: &[u8]) {
    let (how, bytes) = pieces::take(data);
    let early = usize::from(how).min(bytes.len());
    let (mut outcome, mut other) = WORLD.with(|world| (accept(world, bytes, 0), accept(world, bytes, early)));
    let name = server_name(bytes);
    for outcome in [&mut outcome, &mut other] {
        if let Outcome::Passed(hello) = outcome {
            assert!(bytes.starts_with(hello), "other bytes than came");
            assert_eq!(name.as_deref(), Some("pass.example.com"));
            // How much was read beyond the hello depends on how it came.
            hello.clear();
        }
    }
    assert_eq!(outcome, other, "how it comes makes a difference");
    match (bytes.first(), &outcome) {
        (None, Outcome::Failed(why)) => assert_eq!(*why, "closed"),
        (Some(22), Outcome::Failed(why)) => assert!(["closed", "handshake", "hello_too_long"].contains(why), "{why}"),
        (Some(byte), Outcome::Failed(why)) if byte.is_ascii_alphabetic() => assert_eq!(*why, "plain_http"),
        (Some(_), Outcome::Failed(why)) => assert_eq!(*why, "not_tls"),
        (first, _) => assert_eq!(first, Some(&22)),
    }
}

/// `early` bytes were read before there was TLS; the others come over a socket, and then the end.
fn accept(world: &World, bytes: &[u8], early: usize) -> Outcome {
    let (early, rest) = bytes.split_at(early);
    let mut client = TcpStream::connect(world.listener.local_addr().expect("an address")).expect("it connects");
    let (stream, _) = world.listener.accept().expect("it is accepted");
    client.write_all(rest).expect("the kernel takes it");
    client.shutdown(Shutdown::Write).expect("it can be ended");
    stream.set_nonblocking(true).expect("it can be set");
    let accepted = world.runtime.block_on(async {
        let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
        Acceptor::default().accept_after(&world.compiled.snapshot.tls, stream, early.to_vec()).await
    });
    match accepted {
        Ok(Accepted::Terminated(_)) => Outcome::Secured,
        Ok(Accepted::Passthrough { hello, service, .. }) => {
            assert_eq!(&*service.service, "pass");
            Outcome::Passed(hello)
        }
        Err(AcceptError::TimedOut) => panic!("it hangs"),
        Err(error) => Outcome::Failed(error.as_str()),
    }
}

/// The name in a ClientHello (RFC 8446 4.1.2, RFC 6066 3), in lower case.
fn server_name(bytes: &[u8]) -> Option<String> {
    let mut handshake = Vec::new();
    let mut reader = Reader(bytes);
    while let Some([22, _, _]) = reader.take(3).and_then(|head| head.first_chunk::<3>().copied()) {
        handshake.extend_from_slice(reader.sized(2)?);
        let mut message = Reader(&handshake);
        message.take(1).filter(|kind| kind == &[1])?;
        if let Some(hello) = message.sized(3) {
            return name_in(hello);
        }
    }
    None
}

fn name_in(hello: &[u8]) -> Option<String> {
    let mut hello = Reader(hello);
    hello.take(2 + 32)?;
    hello.sized(1)?;
    hello.sized(2)?;
    hello.sized(1)?;
    let mut extensions = Reader(hello.sized(2)?);
    while let Some(kind) = extensions.take(2) {
        let extension = extensions.sized(2)?;
        if kind == [0, 0] {
            let mut names = Reader(Reader(extension).sized(2)?);
            names.take(1).filter(|kind| kind == &[0])?;
            return String::from_utf8(names.sized(2)?.to_ascii_lowercase()).ok();
        }
    }
    None
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// What has its length before it, in so many bytes.
    fn sized(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.take(width)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        self.take(length)
    }
}
