//! A connection that was accepted, until requests can be read from it: PROXY protocol, then TLS.

use std::{
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::Poll,
};

use bytes::BytesMut;
use rustls::{HandshakeKind, ProtocolVersion, ServerConnection};
use tidegate_l4::proxy_protocol;
use tokio::{net::TcpStream, time::timeout};

use super::{
    client::{Client, Ends, Secured},
    client_io::ClientStream,
    connection,
    facts::Scheme,
    slots::Slot,
    stats::ConnectionKind,
    worker::{Listener, Phase, Shared},
};
use crate::{
    access_log::TlsFacts,
    tls::{Accepted, ClientCertificate, Terminated},
};

/// A client at the door.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) worker: Rc<Shared>,
    pub(crate) listener: Rc<Listener>,
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
}

/// A client whose requests can be read.
struct Met {
    client: Rc<Client>,
    stream: ClientStream,
    /// What was read of them already.
    read: BytesMut,
    h2: bool,
}

impl Arrival {
    /// Serves it to its end. What only the beginning needs is boxed, and gone when requests come.
    pub(crate) async fn serve(self) {
        let slot = self.worker.slots.insert();
        let is_secure = self.listener.scheme == Scheme::Https;
        let _open = self.worker.stats.open(if is_secure { ConnectionKind::Https } else { ConnectionKind::Http });
        if !self.worker.options.proxy_protocol && self.listener.scheme == Scheme::Http {
            let ends = Ends { peer: self.peer, local: local(&self.worker, &self.stream), proxied: None };
            let client = Client::new(self.worker, self.listener, ends, None, None);
            let stream = ClientStream::Tcp(self.stream);
            return connection::serve(Rc::new(client), slot, stream, BytesMut::new(), false).await;
        }
        let worker = self.worker.clone();
        let Some(Some(met)) = unless_cut(&worker, &slot, Box::pin(self.meet())).await else { return };
        let Met { client, stream, read, h2 } = met;
        connection::serve(client, slot, stream, read, h2).await;
    }

    /// Hears who it is, and shakes hands. `None` if that comes to nothing, or if the connection goes elsewhere.
    async fn meet(mut self) -> Option<Met> {
        let (mut head, mut proxied) = (Vec::new(), None);
        if self.worker.options.proxy_protocol {
            let header = timeout(self.worker.limits.proxy_header, proxy_protocol::read(&mut self.stream)).await;
            let Ok(Ok((header, rest))) = header else {
                self.worker.stats.bad_proxy_header.add(1);
                return None;
            };
            proxied = header.addresses.map(|addresses| addresses.client);
            head = rest;
        }
        let Self { worker, listener, stream, peer } = self;
        let ends = Ends { peer, local: local(&worker, &stream), proxied };
        if listener.scheme == Scheme::Http {
            let client = Rc::new(Client::new(worker, listener, ends, None, None));
            return Some(Met { client, stream: ClientStream::Tcp(stream), read: head[..].into(), h2: false });
        }
        // The configuration of this moment: a host that changes later is asked about with each request.
        let table = worker.snapshot().tls.clone();
        match worker.tls.accept_after(&table, stream, head).await {
            Ok(Accepted::Terminated(terminated)) => {
                let Terminated { stream, sni, h2, config, client: certificate } = *terminated;
                worker.stats.tls_accepted.add(1);
                let facts = worker.log().map(|_| tls_facts(stream.get_ref().1, sni.as_deref(), certificate.as_deref()));
                let secured = Secured { sni, config, certificate };
                let client = Rc::new(Client::new(worker, listener, ends, Some(secured), facts));
                Some(Met { client, stream: ClientStream::Tls(Box::new(stream)), read: BytesMut::new(), h2 })
            }
            Ok(Accepted::Passthrough { stream, hello, service }) => {
                if let Some(l4) = &worker.l4 {
                    l4.carry(stream, ends.client(), &service, hello);
                }
                None
            }
            Err(error) => {
                worker.stats.tls_failed.add(1);
                tracing::debug!(%peer, "{error}");
                None
            }
        }
    }
}

/// What the access log says about a TLS session.
fn tls_facts(session: &ServerConnection, sni: Option<&str>, certificate: Option<&ClientCertificate>) -> TlsFacts {
    TlsFacts {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(_) | None => "TLSv1.2",
        },
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default(),
        sni: sni.map(Box::from),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        client_subject: certificate.and_then(ClientCertificate::subject).map(Box::from),
    }
}

/// Where a client connected to; unspecified if it is gone already, or if there is no log that would say so.
fn local(worker: &Shared, stream: &TcpStream) -> SocketAddr {
    let known = worker.log().and_then(|_| stream.local_addr().ok());
    let known = known.map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port()));
    known.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
}

/// Runs to the end, or until everything is cut.
async fn unless_cut<T>(worker: &Shared, slot: &Slot, mut running: Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    poll_fn(|cx| {
        slot.register(cx);
        if worker.phase() == Phase::Cut {
            return Poll::Ready(None);
        }
        running.as_mut().poll(cx).map(Some)
    })
    .await
}
