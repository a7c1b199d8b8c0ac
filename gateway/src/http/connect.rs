//! WebSocket over HTTP/2: an extended CONNECT (RFC 8441) is for a pod the upgrade of an HTTP/1.1 connection.

use std::rc::Rc;

use bytes::BytesMut;
use http::{HeaderName, HeaderValue, Method, Version, request::Parts};
use hyper::{ext::Protocol, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::task::spawn_local;

use super::{client::Client, stats::ConnectionKind, upgrade::Tunnel};

const WEBSOCKET: &str = "websocket";
const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// A stream that is to become a WebSocket.
#[derive(Debug)]
pub(crate) struct Extended {
    pub(crate) protocol: HeaderValue,
    stream: OnUpgrade,
}

/// Makes of an extended CONNECT the GET that a pod understands. Any other CONNECT stays what it is, and is refused later.
pub(crate) fn take(parts: &mut Parts) -> Option<Extended> {
    if parts.method != Method::CONNECT || parts.version != Version::HTTP_2 {
        return None;
    }
    parts.extensions.get::<Protocol>().filter(|protocol| protocol.as_str() == WEBSOCKET)?;
    let stream = parts.extensions.remove::<OnUpgrade>()?;
    parts.method = Method::GET;
    parts.headers.insert(KEY, new_key());
    Some(Extended { protocol: HeaderValue::from_static(WEBSOCKET), stream })
}

/// Sixteen random bytes in base64 (RFC 6455 4.1). It proves nothing to us: what it guards against, a cache that answers instead
/// of the pod, does not stand between us and the pod.
fn new_key() -> HeaderValue {
    let mut key: String = (0..21).map(|_| fastrand::alphanumeric()).collect();
    key.push_str("A==");
    HeaderValue::try_from(key).expect("letters and digits are a valid value")
}

impl Extended {
    /// Takes out of the answer what HTTP/2 has no use for.
    pub(crate) fn strip(headers: &mut http::HeaderMap) {
        headers.remove(ACCEPT);
    }

    /// Carries bytes as soon as the client has been told.
    pub(crate) fn start(self, client: &Rc<Client>, tunnel: Tunnel) {
        let under_way = client.begin();
        let open = client.worker.stats.open(ConnectionKind::Upgraded);
        spawn_local(async move {
            if let Ok(stream) = self.stream.await {
                drop(tunnel.carry(TokioIo::new(stream), BytesMut::new()).await);
            }
            drop((under_way, open));
        });
    }
}
