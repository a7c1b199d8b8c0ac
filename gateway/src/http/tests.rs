//! The data plane over real sockets: raw bytes in, raw bytes out, pods that follow a script.

mod connections;
mod cookies;
mod cost;
mod failures;
mod h2_clients;
mod h2_stalls;
mod http2;
mod life;
mod limits;
mod log;
mod messages;
mod parking;
mod retries;
mod routing;
mod streaming;
mod tail;
mod upgrades;

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tidegate_l4::{
    model::{
        Affinity, Balance, Conditions, ConnectionOptions, Endpoint, Hints, IpFamily, Place, Protocol, ServicePort,
        ServicePortName, TrafficPolicy,
    },
    policy::EndpointPolicy,
    table::ServiceTable,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
    time::{sleep, timeout},
};

use super::{HttpLimits, HttpOptions, HttpStats, HttpWorker};
use crate::{
    dns::Zone,
    route::{
        Backend, HostName, Owner, PathMatch, RouteTable, Rule, UpstreamId,
        policy::{Policy, Timeouts, UpstreamOptions},
        sticky::{AffinityMode, CookieAffinity, StickyMap},
    },
    snapshot::{CookieUpstream, Snapshot, Upstream},
};

/// Long enough for anything that should happen at all.
const PATIENCE: Duration = Duration::from_secs(10);

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(PATIENCE * 3, test).await.expect("the test hangs") });
}

/// What a request may be routed to.
struct Route<'a> {
    host: HostName,
    path: PathMatch,
    pods: Option<Vec<SocketAddr>>,
    cookie: Option<CookieAffinity>,
    policy: Policy,
    name: &'a str,
}

impl<'a> Route<'a> {
    fn to(name: &'a str, pods: impl IntoIterator<Item = SocketAddr>) -> Self {
        let pods = Some(pods.into_iter().collect());
        Self {
            host: HostName::Any,
            path: PathMatch::Prefix("/".into()),
            pods,
            cookie: None,
            policy: Policy::default(),
            name,
        }
    }

    fn host(mut self, host: &str) -> Self {
        self.host = HostName::Exact(host.into());
        self
    }

    fn path(mut self, path: &str) -> Self {
        self.path = PathMatch::Prefix(path.into());
        self
    }

    fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    fn cookie(mut self, mode: AffinityMode, change_on_failure: bool) -> Self {
        self.cookie = Some(CookieAffinity { mode, change_on_failure, ..CookieAffinity::default() });
        self
    }
}

fn upstream(route: &Route<'_>) -> Upstream {
    let pods = route.pods.iter().flatten().enumerate();
    let endpoints = pods.map(|(n, addr)| Endpoint {
        addr: *addr,
        conditions: Conditions::READY,
        node: None,
        zone: None,
        hints: Hints::default(),
        weight: 1,
        pod: Some(format!("{}-{n}", route.name).into()),
    });
    let name = ServicePortName {
        namespace: "default".into(),
        service: route.name.into(),
        port: "".into(),
        protocol: Protocol::Tcp,
    };
    let port = ServicePort {
        name: name.clone(),
        port: 80,
        node_port: None,
        cluster_ips: vec![],
        load_balancer_ips: vec![],
        external_ips: vec![],
        source_ranges: vec![],
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        balance: Balance::RoundRobin,
        policy: EndpointPolicy::default(),
        connection: ConnectionOptions::default(),
        endpoints: endpoints.collect(),
    };
    let table = ServiceTable::build([Arc::new(port)], &[], &Place::default(), None);
    let endpoints = table.port(&name).unwrap().set(IpFamily::V4, TrafficPolicy::Cluster).clone();
    let addrs: Vec<SocketAddr> = endpoints.endpoints().iter().map(|e| e.addr).collect();
    let name: Arc<str> = format!("default-{}-80", route.name).into();
    let cookie = route.cookie.as_ref().map(|affinity| CookieUpstream {
        map: StickyMap::build(&name, &addrs, affinity.mode),
        affinity: Arc::new(affinity.clone()),
    });
    Upstream { name, endpoints, cookie, options: UpstreamOptions::default() }
}

/// A configuration with one upstream for each route.
fn snapshot(routes: &[Route<'_>]) -> Arc<Snapshot> {
    let mut table = RouteTable::default();
    for (id, route) in (0..).zip(routes) {
        let service: Arc<str> = format!("default/{}:80", route.name).into();
        let backend = match route.pods {
            Some(_) => Backend::Upstream { id: UpstreamId(id), service },
            None => Backend::Missing { service, reason: "there is no such Service".into() },
        };
        let rule = Arc::new(Rule {
            owner: Owner { namespace: "default".into(), name: "test".into() },
            host: route.host.to_string().into(),
            path: Some(route.path.clone()),
            backend,
            split: None,
            policy: Arc::new(Policy { access_log: route.name != "silent", ..route.policy.clone() }),
            issues_cookie: route.cookie.is_some(),
            stats: Arc::default(),
        });
        table.host_mut(&route.host).paths.insert(&route.path, rule).unwrap();
    }
    Arc::new(Snapshot {
        generation: 1,
        table: Arc::default(),
        tls: Arc::default(),
        routes: Arc::new(table),
        upstreams: routes.iter().map(|route| Arc::new(upstream(route))).collect(),
        zone: Arc::new(Zone::build("cluster.local", [], [])),
        services: Arc::default(),
        health_checks: Arc::default(),
        ingresses: Arc::default(),
        load_balancers: Arc::default(),
        class_parameters: Arc::from([]),
        findings: Arc::from([]),
    })
}

/// A worker that listens.
struct Gateway {
    worker: HttpWorker,
    stats: Arc<HttpStats>,
    snapshot: Arc<Snapshot>,
    addr: SocketAddr,
}

impl Gateway {
    fn start(routes: &[Route<'_>]) -> Self {
        Self::with(routes, HttpLimits::default())
    }

    fn with(routes: &[Route<'_>], limits: HttpLimits) -> Self {
        Self::with_options(routes, limits, HttpOptions::default())
    }

    fn with_options(routes: &[Route<'_>], limits: HttpLimits, options: HttpOptions) -> Self {
        let (stats, snapshot) = (Arc::<HttpStats>::default(), snapshot(routes));
        let worker = HttpWorker::with(limits, options, snapshot.clone(), stats.clone(), None);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        worker.open(listener).unwrap();
        Self { worker, stats, snapshot, addr }
    }

    async fn connect(&self) -> Wire {
        Wire { stream: TcpStream::connect(self.addr).await.unwrap() }
    }

    /// One request on a connection of its own, and all that came back.
    async fn ask(&self, request: &str) -> String {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer().await
    }

    fn failures(&self, kind: super::Kind) -> u64 {
        self.stats.failures().find(|(found, _)| *found == kind).unwrap().1
    }
}

/// A connection, spoken by hand.
struct Wire {
    stream: TcpStream,
}

impl Wire {
    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    async fn read(&mut self, n: usize) -> String {
        let mut bytes = vec![0; n];
        timeout(PATIENCE, self.stream.read_exact(&mut bytes)).await.expect("bytes in time").expect("that many bytes");
        String::from_utf8(bytes).unwrap()
    }

    /// Up to and including `end`.
    async fn read_until(&mut self, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text += &self.read(1).await;
        }
        text
    }

    async fn head(&mut self) -> String {
        self.read_until("\r\n\r\n").await
    }

    /// A whole answer with a Content-Length.
    async fn answer(&mut self) -> String {
        let head = self.head().await;
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        head + &self.read(length).await
    }

    /// All that comes before the connection ends, and whether it ended properly.
    async fn rest(&mut self) -> (String, bool) {
        let mut bytes = Vec::new();
        let ended = timeout(PATIENCE, self.stream.read_to_end(&mut bytes)).await.expect("an end in time");
        (String::from_utf8(bytes).unwrap(), ended.is_ok())
    }
}

/// The value of a field in a head.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

/// A pod that follows a script on each of its connections.
struct Pod {
    addr: SocketAddr,
    connections: Rc<Cell<usize>>,
    /// The heads of the requests it saw.
    seen: Rc<RefCell<Vec<String>>>,
}

/// A connection to a pod, as its script sees it.
struct PodWire {
    wire: Wire,
    seen: Rc<RefCell<Vec<String>>>,
    /// Counts the connections of the pod, from 0.
    number: usize,
}

impl PodWire {
    /// The head of the next request; `None` when the gateway closes.
    async fn request(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.wire.stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        self.seen.borrow_mut().push(head.clone());
        Some(head)
    }
}

impl Pod {
    async fn start<F: Future<Output = ()> + 'static>(script: impl Fn(PodWire) -> F + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, seen) = (Rc::new(Cell::new(0)), Rc::<RefCell<Vec<String>>>::default());
        let pod = Self { addr, connections: connections.clone(), seen: seen.clone() };
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = connections.replace(connections.get() + 1);
                spawn_local(script(PodWire { wire: Wire { stream }, seen: seen.clone(), number }));
            }
        });
        pod
    }

    /// Answers every request without content with these bytes.
    async fn answering(answer: impl Into<String>) -> Self {
        let answer: String = answer.into();
        Self::start(move |mut pod| {
            let answer = answer.clone();
            async move {
                while pod.request().await.is_some() {
                    pod.wire.send(&answer).await;
                }
            }
        })
        .await
    }

    /// Answers every request with its name.
    async fn named(name: &str) -> Self {
        Self::answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len())).await
    }

    fn last_seen(&self) -> String {
        self.seen.borrow().last().cloned().unwrap_or_default()
    }
}

/// An address nobody listens on.
fn nobody() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Waits until something is true.
async fn until(what: &str, is_true: impl Fn() -> bool) {
    let wait = async {
        while !is_true() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}
