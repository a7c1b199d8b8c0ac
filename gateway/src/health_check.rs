//! `healthCheckNodePort`: tells load balancers outside whether this node has endpoints of a Service.
//!
//! Under `externalTrafficPolicy: Local` a node without any turns clients away, so a load balancer must leave it out. It asks
//! on a port that belongs to the Service, any path; 200 is yes and 503 is no (KEP-1669 for pods that terminate).

use std::{
    collections::BTreeMap, future::Future, net::TcpListener as StdTcpListener, pin::pin, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tidegate_l4::{listen::Socket, model::IpFamily, table::Frontend};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    admin::RuntimeStatus,
    compile::health_check::HealthCheck,
    small_server::{self, Content, Limits},
    snapshot::Snapshot,
};

/// How many endpoints there are; load balancers may send a node its share by it (kube-proxy, since 1.30).
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// These ports are open to strangers. A load balancer asks from a handful of places every few seconds, in a few hundred bytes.
const LIMITS: Limits = Limits {
    connections: 32,
    head_bytes: 8 << 10,
    head_timeout: Duration::from_secs(5),
    connection_timeout: Duration::from_secs(10),
    client_stall: Duration::from_secs(10),
};

/// What the server is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Answer on this socket.
    Open(Frontend, Socket),
    /// Answer there no more.
    Close(Frontend),
    /// Say which sockets there are, for another process to serve them too.
    Lend(oneshot::Sender<Vec<(Frontend, StdTcpListener)>>),
}

/// What the answers are made of.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    /// The configuration in use.
    pub(crate) snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Whether the process drains.
    pub(crate) runtime: Arc<RuntimeStatus>,
}

/// Answers where it is told to, until `shutdown` completes; also while nobody is left to tell it more.
pub(crate) async fn serve(
    mut commands: mpsc::UnboundedReceiver<Command>,
    health: Health,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let mut servers = JoinSet::new();
    let mut open: BTreeMap<Frontend, Open> = BTreeMap::new();
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            Some(_) = servers.join_next() => {}
            Some(command) = commands.recv() => match command {
                Command::Open(frontend, socket) => match listener(socket) {
                    Ok((listener, handle)) => {
                        let (stop, stopped) = oneshot::channel();
                        open.insert(frontend, Open { handle, _stop: stop });
                        servers.spawn(serve_one(frontend, listener, health.clone(), stopped));
                    }
                    Err(error) => tracing::error!("the health check on {frontend} cannot use its socket: {error}"),
                },
                Command::Close(frontend) => drop(open.remove(&frontend)),
                Command::Lend(answer) => {
                    let lend = |(frontend, open): (&Frontend, &Open)| Some((*frontend, open.handle.try_clone().ok()?));
                    drop(answer.send(open.iter().filter_map(lend).collect()));
                }
            }
        }
    }
}

/// A port that is answered on, until this is dropped.
struct Open {
    /// A second handle to the socket.
    handle: StdTcpListener,
    _stop: oneshot::Sender<()>,
}

fn listener(socket: Socket) -> std::io::Result<(TcpListener, StdTcpListener)> {
    match socket {
        Socket::Tcp(listener) => {
            let handle = listener.try_clone()?;
            Ok((TcpListener::from_std(listener)?, handle))
        }
        Socket::Udp(_) => Err(std::io::ErrorKind::Unsupported.into()),
    }
}

async fn serve_one(frontend: Frontend, listener: TcpListener, health: Health, stopped: oneshot::Receiver<()>) {
    let answer = move |_request| {
        let response = health.answer(&frontend);
        async move { response }
    };
    small_server::serve("health check", listener, LIMITS, answer, async { drop(stopped.await) }).await;
}

impl Health {
    fn answer(&self, frontend: &Frontend) -> Response<Content> {
        let snapshot = self.snapshot.borrow().clone();
        let check = snapshot.as_ref().and_then(|snapshot| snapshot.health_check(frontend.port));
        match check {
            Some(check) => answer(check, IpFamily::of(frontend.ip), !self.runtime.is_draining()),
            // The port was just opened or is about to be closed: nothing is known of its Service.
            None => response(StatusCode::SERVICE_UNAVAILABLE, 0, Bytes::from_static(b"{}")),
        }
    }
}

/// The answer for clients of one IP family; a process that is not `healthy` is about to end, and wants no more clients.
fn answer(check: &HealthCheck, family: IpFamily, healthy: bool) -> Response<Content> {
    let count = check.local_ready(family);
    let body = json!({
        "service": { "namespace": &*check.namespace, "name": &*check.service },
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    });
    let status = if healthy && count > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    response(status, count, body.to_string().into())
}

fn response(status: StatusCode, weight: usize, body: Bytes) -> Response<Content> {
    let mut response = Response::new(Content::whole(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(WEIGHT, HeaderValue::from(weight));
    response
}
