//! Pods, and a worker with one service in front of them.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tidegate_l4::{
    limits::Limits,
    listen::{self, Socket},
    model::{
        Affinity, Balance, Conditions, ConnectionOptions, Endpoint, Hints, Place, Protocol, ServicePort,
        ServicePortName, TrafficPolicy,
    },
    policy::EndpointPolicy,
    stats::PortStats,
    table::{Frontend, ServedPort, ServiceTable},
    worker::L4Worker,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::{LocalSet, spawn_local, yield_now},
    time::timeout,
};

/// Runs a test as a worker's thread runs; one that hangs fails.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { timeout(Duration::from_secs(60), test).await.expect("the test hangs") };
    LocalSet::new().block_on(&runtime, test);
}

/// Lets everybody else run until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) fn endpoint(addr: SocketAddr) -> Endpoint {
    let hints = Hints::default();
    Endpoint { addr, conditions: Conditions::READY, node: None, zone: None, hints, weight: 1, pod: None }
}

/// A service that takes its endpoints in turn; its address is filled in when it is started.
pub(crate) fn service(endpoints: &[SocketAddr]) -> ServicePort {
    ServicePort {
        name: ServicePortName {
            namespace: "default".into(),
            service: "web".into(),
            port: "".into(),
            protocol: Protocol::Tcp,
        },
        port: 0,
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
        endpoints: endpoints.iter().copied().map(endpoint).collect(),
    }
}

/// A worker that serves one service.
pub(crate) struct Proxy {
    pub(crate) worker: L4Worker,
    pub(crate) frontend: Frontend,
    config: RefCell<ServicePort>,
    table: RefCell<Arc<ServiceTable>>,
}

impl Proxy {
    pub(crate) fn start(config: ServicePort) -> Self {
        Self::with_limits(config, Limits::default())
    }

    pub(crate) fn with_limits(config: ServicePort, limits: Limits) -> Self {
        Self::at("127.0.0.1".parse().unwrap(), config, limits)
    }

    pub(crate) fn at(ip: IpAddr, mut config: ServicePort, limits: Limits) -> Self {
        let protocol = config.name.protocol;
        let (socket, port) = match protocol {
            Protocol::Tcp => {
                let listener = listen::bind_tcp((ip, 0).into(), 1).unwrap().remove(0);
                let port = listener.local_addr().unwrap().port();
                (Socket::Tcp(listener), port)
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::bind((ip, 0)).unwrap();
                socket.set_nonblocking(true).unwrap();
                let port = socket.local_addr().unwrap().port();
                (Socket::Udp(socket), port)
            }
        };
        config.port = port;
        if config.load_balancer_ips.is_empty() {
            config.cluster_ips = vec![ip];
        }
        let table = build(&config, None);
        let worker = L4Worker::new(limits, table.clone());
        let frontend = Frontend { ip, port, protocol };
        worker.open(frontend, socket).unwrap();
        Self { worker, frontend, config: RefCell::new(config), table: RefCell::new(table) }
    }

    pub(crate) fn publish(&self, change: impl FnOnce(&mut ServicePort)) {
        change(&mut self.config.borrow_mut());
        let table = build(&self.config.borrow(), Some(&self.table.borrow()));
        self.table.replace(table.clone());
        self.worker.publish(table);
    }

    pub(crate) fn publish_endpoints(&self, change: impl FnOnce(&mut Vec<Endpoint>)) {
        self.publish(|service| {
            let mut endpoints = service.endpoints.to_vec();
            change(&mut endpoints);
            service.endpoints = endpoints.into();
        });
    }

    pub(crate) fn table(&self) -> Arc<ServiceTable> {
        self.table.borrow().clone()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        (self.frontend.ip, self.frontend.port).into()
    }

    pub(crate) fn port(&self) -> Arc<ServedPort> {
        self.table.borrow().ports().next().unwrap().clone()
    }

    pub(crate) fn stats(&self) -> Arc<PortStats> {
        self.port().stats.clone()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr()).await.unwrap()
    }

    /// A connection and the name of the pod it reached.
    pub(crate) async fn greeted(&self) -> (TcpStream, String) {
        let mut client = self.connect().await;
        let name = line(&mut client).await.unwrap();
        (client, name)
    }

    /// Waits until nothing is open any more.
    pub(crate) async fn quiet(&self) {
        until(|| self.worker.connections() == 0 && self.stats().active() == 0).await;
    }
}

fn build(config: &ServicePort, previous: Option<&ServiceTable>) -> Arc<ServiceTable> {
    Arc::new(ServiceTable::build([Arc::new(config.clone())], &[], &Place::default(), previous))
}

/// One line, without its end.
pub(crate) async fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(line).unwrap()),
            byte => line.push(byte),
        }
    }
}

/// A pod that says its name and then echoes.
pub(crate) async fn pod(name: &'static str) -> SocketAddr {
    serve(move |mut stream| async move {
        stream.write_all(format!("{name}\n").as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

/// A pod that does `with` each connection what it is told.
pub(crate) async fn serve<F: Future<Output = ()> + 'static>(with: impl Fn(TcpStream) -> F + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(with(stream));
        }
    });
    addr
}

/// A pod that takes one connection and gives it to the test.
pub(crate) struct Manual(TcpListener);

impl Manual {
    pub(crate) async fn start() -> Self {
        Self::bind("127.0.0.1:0").await
    }

    pub(crate) async fn bind(addr: &str) -> Self {
        Self(TcpListener::bind(addr).await.unwrap())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        self.0.accept().await.unwrap().0
    }
}

/// An address where nobody listens: bound, so that nobody else gets it, and refusing.
pub(crate) struct Dead(socket2::Socket);

impl Dead {
    pub(crate) fn tcp() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// An address that neither accepts nor refuses: its backlog is full, so the kernel drops who comes next.
pub(crate) struct Stuck(socket2::Socket, Vec<socket2::Socket>);

impl Stuck {
    pub(crate) fn start() -> Self {
        let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let fill = |_| {
            let client = socket();
            client.set_nonblocking(true).unwrap();
            let _ = client.connect(&listener.local_addr().unwrap());
            client
        };
        let clients = (0..4).map(fill).collect();
        Self(listener, clients)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        assert!(!self.1.is_empty());
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}

/// A UDP pod that answers with its name and the datagram.
pub(crate) async fn udp_pod(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    spawn_local(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), &buffer[..n]].concat();
            let _ = socket.send_to(if n > 60_000 { &buffer[..n] } else { &answer }, from).await;
        }
    });
    addr
}

pub(crate) fn assert_reset<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.expect_err("a reset").kind(), io::ErrorKind::ConnectionReset);
}
