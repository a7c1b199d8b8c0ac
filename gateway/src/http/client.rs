//! A client, as its requests see it.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    upgrade::Tunnel,
    worker::{Listener, Shared},
};
use crate::{
    access_log::{ConnectionFacts, TlsFacts},
    tls::{ClientCertificate, TlsConfig},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What TLS has come to for a connection.
#[derive(Debug)]
pub(crate) struct Secured {
    /// The name the client asked for.
    pub(crate) sni: Option<Arc<str>>,
    pub(crate) config: Arc<TlsConfig>,
    /// What it showed of itself.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
}

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Who a PROXY protocol header says it is.
    pub(crate) proxied: Option<SocketAddr>,
}

impl Ends {
    /// The client itself.
    pub(crate) fn client(&self) -> SocketAddr {
        self.proxied.unwrap_or(self.peer)
    }
}

/// One client connection, from its requests' side.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) worker: Rc<Shared>,
    /// Where it connected to.
    pub(crate) listener: Rc<Listener>,
    /// Its address …
    pub(crate) addr: IpAddr,
    /// … ready to be sent to pods …
    pub(crate) ip: HeaderValue,
    /// … and its port.
    pub(crate) port: u16,
    /// How it was secured, if it was.
    pub(crate) tls: Option<Secured>,
    /// What the access log says about the connection, if there is one.
    pub(crate) facts: Option<Rc<ConnectionFacts>>,
    /// A request was not read to its end.
    pub(crate) unread: Cell<bool>,
    /// The connection must end with a reset, because its proper end would look like the end of an answer.
    pub(crate) reset: Cell<bool>,
    /// What its connection becomes once 101 is sent.
    pub(crate) tunnel: RefCell<Option<Tunnel>>,
    /// Requests under way: begun, and not answered to the last byte.
    under_way: Cell<u32>,
    /// Requests begun.
    begun: Cell<u32>,
    /// A request has ended since the connection looked last.
    ended: Cell<bool>,
    /// hyper has nothing left to write: it has flushed since it wrote last.
    pub(crate) flushed: Cell<bool>,
    /// What hyper holds of an answer's content, which is what it was given and has not written; counted for HTTP/1 only.
    pub(crate) unsent: Cell<Option<usize>>,
    /// An answer waits until that is written.
    pub(crate) is_full: Cell<bool>,
    /// The tick at which content was written last (HTTP/2 only).
    pub(crate) content_sent: Cell<u32>,
}

impl Client {
    /// The certificate that the client showed, if it did.
    pub(crate) fn certificate(&self) -> Option<&ClientCertificate> {
        self.tls.as_ref()?.certificate.as_deref()
    }

    pub(crate) fn new(
        worker: Rc<Shared>,
        listener: Rc<Listener>,
        ends: Ends,
        tls: Option<Secured>,
        tls_facts: Option<TlsFacts>,
    ) -> Self {
        let addr = ends.client().ip().to_canonical();
        let facts = worker.log().map(|log| {
            let facts = log.connection(ends.peer, ends.local, tls_facts);
            Rc::new(ConnectionFacts { proxied: ends.proxied, ..facts })
        });
        let ip = written(addr);
        Self {
            worker,
            listener,
            addr,
            ip,
            port: ends.client().port(),
            tls,
            facts,
            unread: Cell::new(false),
            reset: Cell::new(false),
            tunnel: RefCell::default(),
            under_way: Cell::new(0),
            begun: Cell::new(0),
            ended: Cell::new(false),
            flushed: Cell::new(true),
            unsent: Cell::default(),
            is_full: Cell::default(),
            content_sent: Cell::default(),
        }
    }

    /// Whoever asks: this client, or the one that it speaks for if it is a trusted proxy. That is the last address in
    /// `X-Forwarded-For` that is no trusted proxy's own.
    pub(crate) fn asked_by(&self, headers: &HeaderMap) -> (IpAddr, Cow<'_, HeaderValue>) {
        let trusted = &self.worker.options.trusted_proxies;
        let is_trusted = |ip: &IpAddr| trusted.iter().any(|range| range.contains(ip));
        let itself = (self.addr, Cow::Borrowed(&self.ip));
        if trusted.is_empty() || !is_trusted(&self.addr) || !headers.contains_key(FORWARDED_FOR) {
            return itself;
        }
        let mut asked = None;
        let values: Vec<&HeaderValue> = headers.get_all(FORWARDED_FOR).iter().collect();
        for text in values.iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
            // What is no address, and all before it, is nobody's word.
            let Some(ip) = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<IpAddr>().ok()) else {
                break;
            };
            let ip = ip.to_canonical();
            asked = Some(ip);
            if !is_trusted(&ip) {
                break;
            }
        }
        let value = |ip: IpAddr| Some((ip, Cow::Owned(HeaderValue::try_from(ip.to_string()).ok()?)));
        asked.and_then(value).unwrap_or(itself)
    }

    /// Whether it is believed what it says of how it was asked itself.
    pub(crate) fn is_trusted(&self) -> bool {
        self.worker.options.trusted_proxies.iter().any(|range| range.contains(&self.addr))
    }

    /// Its HTTP/2 connection is closed because too many frames of this kind came for nothing.
    pub(crate) fn floods(&self, frame: &str) {
        self.worker.stats.h2_floods.add(1);
        if let Some(held_back) = self.worker.warnings.pass(Instant::now()) {
            let client = self.addr;
            tracing::warn!(%client, frame, held_back, "a client floods its HTTP/2 connection: it is closed");
        }
    }

    /// Requests begun.
    pub(crate) fn begun(&self) -> u32 {
        self.begun.get()
    }

    /// Requests under way.
    pub(crate) fn under_way(&self) -> u32 {
        self.under_way.get()
    }

    /// Whether a request has ended since this was asked last.
    pub(crate) fn take_ended(&self) -> bool {
        self.ended.replace(false)
    }

    /// A request begins; it is under way for as long as the receipt lives.
    pub(crate) fn begin(self: &Rc<Self>) -> UnderWay {
        self.under_way.set(self.under_way.get() + 1);
        self.begun.set(self.begun.get().saturating_add(1));
        UnderWay(self.clone())
    }
}

/// An address as it is sent to pods. Each connection needs it, so the usual kind is not left to the general formatter.
fn written(addr: IpAddr) -> HeaderValue {
    let mut text = String::with_capacity(15);
    match addr {
        IpAddr::V4(v4) => {
            for (n, octet) in v4.octets().into_iter().enumerate() {
                text.push_str(if n > 0 { "." } else { "" });
                text.push_str(itoa::Buffer::new().format(octet));
            }
        }
        IpAddr::V6(v6) => text = v6.to_string(),
    }
    HeaderValue::try_from(text).expect("an IP address is a valid value")
}

/// Receipt for one request under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Rc<Client>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Its last bytes are at best in a buffer.
        self.0.flushed.set(false);
        self.0.ended.set(true);
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_usual() {
        for text in ["0.0.0.0", "10.0.200.255", "255.255.255.255", "::1", "2001:db8::ff00:42:8329"] {
            assert_eq!(written(text.parse().unwrap()), text);
        }
    }
}
