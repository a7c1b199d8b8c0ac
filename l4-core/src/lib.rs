//! A Kubernetes service proxy: which pod answers this connection.
//!
//! It knows Services, endpoints and sockets. It does *not* know HTTP, Kubernetes wire types, files or clusters:
//! whoever has those turns them into [`model::ServicePort`]s.
//!
//! Where to look: [`model`] is what a Service is; [`eligible`] says which endpoints may be used; [`endpoints`] makes
//! the choice (`candidates`), with [`affinity`], `balance` and what the [`policy`] adds (`health`, `latency`, `gate`, all in
//! the `state` of an endpoint); [`table`] leads from an address to the choice. [`listen`] opens the
//! sockets; a [`worker`] serves them, by `tcp` (with `copy`, `splice` and `proxy_protocol`) and `udp`, and ends by
//! `drain`. [`limits`] has every limit, [`stats`] every counter; who looks on is a [`watch`].
//!
//! One service with one pod, and one connection to it:
//!
//! ```
//! use std::{io::{Read, Write}, sync::Arc};
//! use tidegate_l4::{limits::Limits, listen, model::*, policy::EndpointPolicy, table::{Frontend, ServiceTable}, worker::L4Worker};
//!
//! # fn main() -> std::io::Result<()> {
//! let pod = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let listener = listen::bind_tcp("127.0.0.1:0".parse().unwrap(), 1)?.remove(0);
//! let vip = listener.local_addr()?;
//! let (protocol, conditions) = (Protocol::Tcp, Conditions::READY);
//! let (node, zone, hints) = (None, None, Hints::default());
//! let service = ServicePort {
//!     name: ServicePortName { namespace: "default".into(), service: "web".into(), port: "".into(), protocol },
//!     port: vip.port(), node_port: None,
//!     cluster_ips: vec![vip.ip()], load_balancer_ips: vec![], external_ips: vec![], source_ranges: vec![],
//!     internal_policy: TrafficPolicy::Cluster, external_policy: TrafficPolicy::Cluster,
//!     affinity: Affinity::None, balance: Balance::Random, policy: EndpointPolicy::default(), connection: ConnectionOptions::default(),
//!     endpoints: [Endpoint { addr: pod.local_addr()?, conditions, node, zone, hints, weight: 1, pod: None }].into(),
//! };
//! let table = ServiceTable::build([Arc::new(service)], &[], &Place::default(), None);
//!
//! let answer = std::thread::spawn(move || pod.accept()?.0.write_all(b"You've hit web-1"));
//! let client = std::thread::spawn(move || {
//!     let mut heard = String::new();
//!     std::net::TcpStream::connect(vip)?.read_to_string(&mut heard).map(|_| heard)
//! });
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! tokio::task::LocalSet::new().block_on(&runtime, async {
//!     let worker = L4Worker::new(Limits::default(), Arc::new(table));
//!     worker.open(Frontend { ip: vip.ip(), port: vip.port(), protocol }, listen::Socket::Tcp(listener))?;
//!     while !client.is_finished() {
//!         tokio::time::sleep(std::time::Duration::from_millis(1)).await;
//!     }
//!     worker.drain(std::time::Duration::from_secs(1)).await;
//!     std::io::Result::Ok(())
//! })?;
//! answer.join().unwrap()?;
//! assert_eq!(client.join().unwrap()?, "You've hit web-1");
//! # Ok(())
//! # }
//! ```

pub mod affinity;
mod balance;
mod candidates;
mod copy;
mod drain;
pub mod eligible;
pub mod endpoints;
mod gate;
mod health;
mod latency;
pub mod limits;
pub mod listen;
pub mod model;
pub mod policy;
pub mod proxy_protocol;
#[cfg(target_os = "linux")]
mod splice;
mod state;
pub mod stats;
pub mod table;
mod tcp;
mod udp;
pub mod watch;
pub mod worker;
