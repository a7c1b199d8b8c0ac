//! Active health checks: asks endpoints whether they are well, where a Service wants that (`tidegate.io/health-check`).
//!
//! One task on the control side asks for all workers. What an answer means is told in the core
//! ([`EndpointState::set_probe`]); here is only who is asked, when, and how. Only endpoints that traffic may use are asked:
//! the others are the kubelet's.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    future::{Future, pending},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
};

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tidegate_l4::{
    endpoints::{EndpointIndex, EndpointState, Verdict},
    model::{IpFamily, ProxyProtocol, ServicePortName, TrafficPolicy},
    policy::{Probe, Question},
    table::{ServedPort, ServiceTable},
    worker::now,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::snapshot::Snapshot;

/// Questions under way at once: a descriptor each, for no longer than a probe's timeout. With more to ask they come late.
const MAX_ASKED: usize = 256;

/// What an interval may be shorter by, so that the replicas of Tidegate do not all ask at the same moment.
const JITTER: f64 = 0.1;

/// How we name ourselves, as `kube-probe/1.30` does.
const USER_AGENT: &str = concat!("tidegate-probe/", env!("CARGO_PKG_VERSION"));

/// PROXY protocol headers that say "this is the proxy itself": an endpoint that wants one gets it.
const LOCAL_V1: &[u8] = b"PROXY UNKNOWN\r\n";
const LOCAL_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Asks whom the snapshots say, until `shutdown` completes.
pub(crate) async fn run(mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut prober = Prober::default();
    snapshots.mark_changed();
    loop {
        prober.ask_due();
        let next = prober.next_turn();
        tokio::select! {
            () = &mut shutdown => return,
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
                let table = snapshots.borrow_and_update().as_ref().map(|snapshot| snapshot.table.clone());
                if let Some(table) = table {
                    prober.follow(&table);
                }
            }
            Some(answered) = prober.asked.join_next() => {
                if let Ok((id, answer)) = answered {
                    prober.take(id, answer);
                }
            }
            () = until(next) => {}
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

#[derive(Debug, Default)]
struct Prober {
    watched: BTreeMap<u64, Watched>,
    ids: AHashMap<(ServicePortName, SocketAddr), u64>,
    next_id: u64,
    /// When to ask whom; ids that are gone are passed over.
    turns: BinaryHeap<Reverse<(Instant, u64)>>,
    asked: JoinSet<(u64, Result<(), String>)>,
}

/// One endpoint that is asked.
#[derive(Debug)]
struct Watched {
    service: ServicePortName,
    addr: SocketAddr,
    state: Arc<EndpointState>,
    probe: Arc<Probe>,
    greeting: &'static [u8],
    /// When it was asked last; it is asked again when it has answered.
    asked: Instant,
}

impl Prober {
    /// Asks the endpoints of this table from now on, and no others.
    fn follow(&mut self, table: &ServiceTable) {
        let mut present = AHashSet::new();
        for port in table.ports() {
            let Some(probe) = &port.config.policy.probe else { continue };
            for (addr, state) in endpoints(port) {
                let id = self.watch(port, addr, state, probe);
                present.insert(id);
            }
        }
        let gone: Vec<u64> = self.watched.keys().filter(|id| !present.contains(id)).copied().collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    fn watch(&mut self, port: &ServedPort, addr: SocketAddr, state: &Arc<EndpointState>, probe: &Arc<Probe>) -> u64 {
        let greeting = greeting(port, probe);
        let key = (port.config.name.clone(), addr);
        if let Some(&id) = self.ids.get(&key) {
            let same =
                |held: &Watched| Arc::ptr_eq(&held.state, state) && held.probe == *probe && held.greeting == greeting;
            if self.watched.get(&id).is_some_and(same) {
                return id;
            }
            self.forget(id);
        }
        state.forget_probe();
        let id = self.next_id;
        self.next_id += 1;
        let (state, probe, asked) = (state.clone(), probe.clone(), Instant::now());
        self.turns.push(Reverse((asked, id)));
        let service = port.config.name.clone();
        self.watched.insert(id, Watched { service, addr, state, probe, greeting, asked });
        self.ids.insert(key, id);
        id
    }

    fn forget(&mut self, id: u64) {
        if let Some(watched) = self.watched.remove(&id) {
            watched.state.forget_probe();
            self.ids.remove(&(watched.service, watched.addr));
        }
    }

    /// Asks everybody whose turn has come, as far as there is room.
    fn ask_due(&mut self) {
        let now = Instant::now();
        while self.asked.len() < MAX_ASKED
            && let Some(Reverse((due, id))) = self.turns.peek().copied()
            && due <= now
        {
            self.turns.pop();
            if let Some(watched) = self.watched.get_mut(&id) {
                watched.asked = now;
                let (addr, probe, greeting) = (watched.addr, watched.probe.clone(), watched.greeting);
                self.asked.spawn(async move { (id, ask(addr, &probe, greeting).await) });
            }
        }
    }

    /// When somebody's turn comes next; `None` if first somebody else must answer.
    fn next_turn(&self) -> Option<Instant> {
        let next = self.turns.peek().map(|Reverse((due, _))| *due);
        next.filter(|_| self.asked.len() < MAX_ASKED)
    }

    fn take(&mut self, id: u64, answer: Result<(), String>) {
        // It may have gone while it was asked.
        let Some(watched) = self.watched.get(&id) else { return };
        let pause = watched.probe.interval.mul_f64(1.0 - JITTER * fastrand::f64());
        self.turns.push(Reverse((watched.asked + pause, id)));
        let (service, endpoint) = (&watched.service, watched.addr);
        match (watched.state.set_probe(answer.is_ok(), &watched.probe, now()), answer) {
            (Some(Verdict::Failing), Err(why)) => {
                tracing::warn!(%service, %endpoint, "the endpoint fails its health check and is left out: {why}");
            }
            (Some(Verdict::Passing), _) => tracing::info!(%service, %endpoint, "the endpoint passes its health check"),
            (Some(_) | None, _) => {}
        }
    }
}

/// The endpoints of `port` that some traffic may use, some of them more than once.
fn endpoints(port: &ServedPort) -> impl Iterator<Item = (SocketAddr, &Arc<EndpointState>)> {
    let families = [IpFamily::V4, IpFamily::V6].into_iter();
    let kinds = families.flat_map(|family| [TrafficPolicy::Cluster, TrafficPolicy::Local].map(|kind| (family, kind)));
    kinds.flat_map(|(family, kind)| {
        let set = port.set(family, kind);
        set.endpoints().iter().enumerate().map(|(i, endpoint)| (endpoint.addr, set.state(EndpointIndex(i))))
    })
}

/// What the endpoint wants to hear first. Another port than its own is another server, which knows nothing of it.
fn greeting(port: &ServedPort, probe: &Probe) -> &'static [u8] {
    match port.config.connection.send_proxy_protocol.filter(|_| probe.port.is_none()) {
        Some(ProxyProtocol::V1) => LOCAL_V1,
        Some(ProxyProtocol::V2) => LOCAL_V2,
        None => b"",
    }
}

/// One question; what was wrong with the answer, as the end of a sentence.
async fn ask(addr: SocketAddr, probe: &Probe, greeting: &[u8]) -> Result<(), String> {
    let target = SocketAddr::new(addr.ip(), probe.port.unwrap_or_else(|| addr.port()));
    let answer = async {
        let stream = connect(target, greeting).await.map_err(|error| error.to_string())?;
        match &probe.question {
            Question::Tcp => Ok(()),
            Question::Http { path } => get(stream, target, path).await,
        }
    };
    timeout(probe.timeout, answer).await.unwrap_or_else(|_| Err(format!("no answer within {:?}", probe.timeout)))
}

async fn connect(target: SocketAddr, greeting: &[u8]) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    // On a loopback address where nobody listens, a socket may by chance get that very port and connect to itself.
    if target.ip().is_loopback() && stream.local_addr()? == target {
        return Err(std::io::ErrorKind::ConnectionRefused.into());
    }
    stream.write_all(greeting).await?;
    Ok(stream)
}

async fn get(stream: TcpStream, target: SocketAddr, path: &str) -> Result<(), String> {
    let request = Request::get(path)
        .header(header::HOST, target.to_string())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection drives the request. Once it is over the answer waits, or none will come.
        _ = connection => answer.await,
    };
    let response = answer.map_err(|error| error.to_string())?;
    // The body is not read: the status says it all.
    match response.status().as_u16() {
        200..400 => Ok(()),
        status => Err(format!("status {status}")),
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
