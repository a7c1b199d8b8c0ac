//! The one file that knows everybody: sources → control → planes, admin and DNS, until it is time to go.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::Context;
use tidegate_l4::{model::ServicePortName, worker::now};
use tokio::{
    sync::{mpsc as channel, oneshot, watch},
    task::AbortHandle,
};

pub use crate::control::source::Source;
use crate::{
    access_log::{AccessLog, LogOptions},
    admin::{
        self, AdminState, RuntimeStatus,
        demo::{Demo, Serving},
    },
    bind::{Addresses, Bound},
    compile::{
        allocate::Allocations,
        compile,
        finding::Finding,
        objects::Objects,
        settings::{Opens, Settings},
    },
    control::Change,
    controller::{Controller, ControllerOptions, Target},
    dns::{DnsServer, Zone},
    explain::{Question, explain},
    health_check::{self, Health},
    http::{HttpOptions, HttpStats, Scheme},
    local_addresses::LocalAddresses,
    planes::AppPlanes,
    probe,
    snapshot::Snapshot,
    tail::{Event, Tail},
    takeover::{
        self, Estate, Inherited, Predecessor,
        message::Remembered,
        server::{Door, wait_for_successor},
    },
    worker::{Command, Workers},
};

/// How long the end of the process waits for the access log to be written.
const LOG_GRACE: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// Where the objects come from.
    pub source: Source,
    /// The compiler's settings.
    pub settings: Settings,
    /// Where HTTP is served, if anywhere.
    pub http: Option<SocketAddr>,
    /// Where HTTPS is served, if anywhere.
    pub https: Option<SocketAddr>,
    /// How HTTP clients are met.
    pub clients: HttpOptions,
    /// Where health, metrics and configuration are served.
    pub admin: SocketAddr,
    /// Where health and metrics alone are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Where DNS is served, if anywhere.
    pub dns: Option<SocketAddr>,
    /// Whom to ask for names outside the cluster; nobody if empty.
    pub dns_forward: Vec<SocketAddr>,
    /// Worker threads.
    pub workers: usize,
    /// How long what is under way may take to end after the first signal.
    pub drain_timeout: Duration,
    /// Whether addresses handed out are remembered over a restart.
    pub remember: bool,
    /// Where a newer process asks this one for its sockets, and this one an older one.
    pub upgrade_socket: Option<PathBuf>,
    /// The access log, if there is to be one.
    pub access_log: Option<LogOptions>,
    /// Whether `/metrics` also has the names of ingress-nginx.
    pub nginx_metrics: bool,
    /// What is written to the cluster that the objects come from, if anything.
    pub controller: Option<ControllerOptions>,
    /// The demo, if this is one: its page may then change what is served.
    pub demo: Option<Arc<dyn Demo>>,
}

impl Options {
    fn addresses(&self) -> Addresses {
        let Self { http, https, admin, metrics, dns, .. } = *self;
        Addresses { http, https, admin, metrics, dns }
    }
}

/// A running Tidegate.
#[derive(Debug)]
pub struct App {
    workers: Workers,
    control: mpsc::Sender<Change>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    status: Arc<RuntimeStatus>,
    tail: Arc<Tail>,
    access_log: Option<AccessLog>,
    addresses: Option<LocalAddresses>,
    controller: Option<Controller>,
    stop_servers: watch::Sender<bool>,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    admin: SocketAddr,
    metrics: Option<SocketAddr>,
    dns: Option<SocketAddr>,
    /// What a successor gets.
    estate: Estate,
    superseded: watch::Sender<bool>,
    /// Waits for a successor.
    door: Option<AbortHandle>,
}

impl App {
    /// Binds what the operator asked for, starts everything, and returns when the first configuration is live. With an
    /// upgrade socket at which an older process answers, it takes over that one's sockets, and the older one leaves.
    ///
    /// # Errors
    /// If an address given on the command line cannot be bound, or a thread cannot be started. What a manifest asks for
    /// never stops anything: it becomes a finding. Only an older process is not replaced by one that cannot read all
    /// manifests: that is an error, and the older one goes on.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        raise_file_limit();
        let (mut inherited, predecessor) = ask_predecessor(options.upgrade_socket.as_deref()).await?;
        let tls = options.settings.tls.material.clone();
        tls.inherit(inherited.ticket_keys());
        let bound = Bound::new(options.addresses(), options.workers.max(1), &mut inherited).await?;
        let access_log = options.access_log.map(AccessLog::start).transpose().context("cannot open the access log")?;
        let stats = HttpStats::of_workers(options.workers.max(1));
        let empty = compile(&Objects::default(), &options.settings, &[], &Allocations::default(), None).snapshot;
        let clients = HttpOptions { https_port: bound.https_addr.map(|https| https.port()), ..options.clients };
        let tail = Arc::<Tail>::default();
        let workers = Workers::start(&clients, &empty, &stats, access_log.as_ref(), &tail)?;
        tokio::spawn(tail.clone().run());
        if predecessor.is_some() {
            workers.tell_all(|| Command::HoldDatagrams);
        }
        let (health_checks, health_commands) = channel::unbounded_channel();
        let opens = options.settings.opens();
        let planes = AppPlanes::new(&bound, &mut inherited, &workers, health_checks.clone(), empty, opens);
        let (snapshots, zones, status) = (planes.snapshots(), planes.zones(), planes.status().clone());
        let addresses = (opens == Opens::Node).then(|| LocalAddresses::start(status.clone())).transpose()?;
        let planes = planes.with_addresses(addresses.clone());
        if let Source::Kubernetes(cluster) = &options.source {
            status.set_kubernetes(cluster.status().clone());
        }
        let controller = controller(options.controller, &options.source, &snapshots, &status)?;
        let estate = Estate::new(workers.clone(), health_checks, snapshots.clone(), planes.freeze().clone(), tls);
        if options.upgrade_socket.is_some() {
            bound.keep(&estate.fixed).context("cannot keep a second handle to each listener")?;
        }
        let (refuse, refused) = oneshot::channel();
        let refuse = predecessor.is_some().then_some(refuse);
        let control = options.source.start(options.settings, options.remember, planes, refuse)?;
        let (http, admin, dns) = (bound.http_addr, bound.admin.local_addr()?, bound.dns.as_ref());
        let mut app = Self {
            workers,
            access_log,
            addresses,
            controller,
            control,
            snapshots,
            status,
            tail,
            stop_servers: watch::channel(false).0,
            http,
            https: bound.https_addr,
            admin,
            metrics: bound.metrics.as_ref().and_then(|metrics| metrics.local_addr().ok()),
            dns: dns.map(DnsServer::local_addr),
            estate,
            superseded: watch::channel(false).0,
            door: None,
        };
        let servers = Servers {
            stats,
            nginx_metrics: options.nginx_metrics,
            zones,
            health_commands,
            forward: options.dns_forward,
            demo: options.demo,
        };
        let is_successor = predecessor.is_some();
        app.serve(bound, servers, refused, predecessor, options.drain_timeout).await?;
        match app.open_door(options.upgrade_socket.as_deref()) {
            // There is no way back any more.
            Err(error) if is_successor => tracing::error!("no newer process will be able to take over: {error:#}"),
            opened => opened?,
        }
        Ok(app)
    }

    /// Serves on the sockets of the command line, once the first configuration is live; and then lets the process before
    /// this one go.
    async fn serve(
        &self,
        bound: Bound,
        servers: Servers,
        refused: oneshot::Receiver<Finding>,
        predecessor: Option<Predecessor>,
        drain_timeout: Duration,
    ) -> anyhow::Result<()> {
        let stopped = || stop(self.stop_servers.subscribe());
        let (snapshots, runtime) = (self.snapshots.clone(), self.status.clone());
        if let Some(demo) = &servers.demo {
            let (http, https, admin) = (self.http(), self.https, self.admin);
            demo.serving(Serving { http, https, admin, snapshots: snapshots.clone() });
        }
        let state = AdminState {
            snapshot: snapshots.clone(),
            runtime,
            http: servers.stats,
            tail: self.tail.clone(),
            access_log: self.access_log.as_ref().map(|log| log.stats().clone()),
            nginx_metrics: servers.nginx_metrics,
            explain: answer,
            demo: servers.demo,
            explain_event,
        };
        let state = Arc::new(state);
        let metrics = bound.metrics.map(|metrics| admin::serve_metrics(metrics, state.clone(), stopped()));
        let mut about_us = Some((admin::serve(bound.admin, state, stopped()), metrics));
        let begin = |(admin, metrics): (_, Option<_>)| {
            tokio::spawn(admin);
            metrics.map(tokio::spawn);
        };
        // It says that there is no configuration yet, unless somebody else answers there who has one.
        if predecessor.is_none() {
            about_us.take().map(begin);
        }
        let mut first = snapshots.clone();
        tokio::select! {
            Ok(problem) = refused => anyhow::bail!("the running process goes on, as this one cannot read all: {problem}"),
            live = first.wait_for(Option::is_some) => drop(live.context("the control thread ended")?),
        }
        // Only now: before the first configuration every request would be answered 404, every name be unknown and every
        // health check fail.
        about_us.take().map(begin);
        let health = Health { snapshot: snapshots, runtime: self.status.clone() };
        tokio::spawn(probe::run(health.snapshot.clone(), stopped()));
        tokio::spawn(health_check::serve(servers.health_commands, health, stopped()));
        if let Some(dns) = bound.dns {
            tokio::spawn(dns.run(servers.zones, servers.forward, stopped()));
        }
        self.workers.tell_each(bound.http.into_iter().map(|listener| Command::OpenHttp(listener, Scheme::Http)));
        self.workers.tell_each(bound.https.into_iter().map(|listener| Command::OpenHttp(listener, Scheme::Https)));
        let Some(predecessor) = predecessor else { return Ok(()) };
        match tokio::task::spawn_blocking(|| predecessor.leave()).await? {
            Ok(legacy) => {
                self.workers.take_flows(legacy.flows);
                self.remember(&legacy.affinity);
            }
            Err(error) => {
                // What this process has accepted meanwhile is served to its end.
                self.drain(drain_timeout).await;
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// What ClientIP affinity remembered in the process before this one.
    fn remember(&self, affinity: &[(ServicePortName, Vec<Remembered>)]) {
        let Some(snapshot) = self.snapshot() else { return };
        for (name, clients) in affinity {
            let Some(table) = snapshot.table.port(name).and_then(|port| port.affinity()) else { continue };
            clients.iter().for_each(|known| table.inherit(known.client, known.endpoint, known.last));
        }
    }

    /// Lets a successor in, if there is to be one.
    fn open_door(&mut self, path: Option<&Path>) -> anyhow::Result<()> {
        let Some(path) = path else { return Ok(()) };
        let door = Door::open(path).with_context(|| format!("cannot use --upgrade-socket {}", path.display()))?;
        let (estate, superseded) = (self.estate.clone(), self.superseded.clone());
        let wait = async move {
            wait_for_successor(door, estate).await;
            superseded.send_replace(true);
        };
        self.door = Some(tokio::spawn(wait).abort_handle());
        Ok(())
    }

    /// Completes when a newer process has taken over: it is time to drain.
    pub async fn superseded(&self) {
        drop(self.superseded.subscribe().wait_for(|superseded| *superseded).await);
    }

    /// Where HTTP is served; nowhere, which has no port, if it is not.
    pub fn http(&self) -> SocketAddr {
        self.http.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Where HTTPS is served.
    pub fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Where the admin server is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where health and metrics alone are served.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Where DNS is served.
    pub fn dns(&self) -> Option<SocketAddr> {
        self.dns
    }

    /// The configurations, as they become live.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.clone()
    }

    /// The configuration that is live.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow().clone()
    }

    /// What is open and what could not be opened.
    pub fn status(&self) -> &RuntimeStatus {
        &self.status
    }

    /// The access log, if there is one.
    pub fn access_log(&self) -> Option<&AccessLog> {
        self.access_log.as_ref()
    }

    /// One line for each listener.
    pub fn listening(&self) -> String {
        let mut lines: Vec<String> = self.http.iter().map(|http| format!("listening  http   {http}")).collect();
        lines.extend(self.https.map(|https| format!("listening  https  {https}")));
        lines.push(format!("listening  admin  {}", self.admin));
        lines.extend(self.metrics.map(|metrics| format!("listening  metrics {metrics}")));
        lines.extend(self.dns.map(|dns| format!("listening  dns    {dns}")));
        for open in self.status.listening().iter() {
            let protocol = open.frontend.protocol.to_string().to_lowercase();
            let addr = SocketAddr::new(open.frontend.ip, open.frontend.port);
            lines.push(format!("listening  {protocol}    {addr}  Service {} ({})", open.service, open.kind));
        }
        lines.extend(self.status.failed().iter().map(|failed| {
            format!("failed     {}  Service {}: {}. {}", failed.frontend, failed.service, failed.message, failed.fix)
        }));
        lines.join("\n")
    }

    /// Stops accepting, waits for what is under way, then cuts.
    pub async fn drain(&self, timeout: Duration) {
        if *self.superseded.borrow() {
            // Who asks on these addresses means the newer process, and is not told that this one is about to end. Sockets
            // are not touched any more, but what is under way follows changes of the endpoints still.
            self.stop_servers.send_replace(true);
        } else {
            self.status.set_draining();
            // Nothing is opened any more. But who is served still is served by the pods of now: in a cluster whose node is emptied they
            // end at the same time.
            self.estate.freeze.set(true);
        }
        self.close_door();
        // Another replica leads at once, and not when the last connection has ended.
        let leave = async {
            if let Some(controller) = &self.controller {
                controller.stop().await;
            }
        };
        tokio::join!(self.workers.drain(timeout), leave);
        // They are the successor's, if there is one.
        if let Some(addresses) = self.addresses.clone().filter(|_| !*self.superseded.borrow()) {
            drop(tokio::task::spawn_blocking(move || addresses.clear()).await);
        }
        if let Some(log) = self.access_log.clone() {
            // The workers have handed over what they had.
            drop(tokio::task::spawn_blocking(move || log.finish(LOG_GRACE)).await);
        }
    }

    /// No successor from now on: none shall be given sockets that are about to be closed.
    fn close_door(&self) {
        self.door.iter().for_each(AbortHandle::abort);
        self.estate.fixed.clear();
    }
}

/// Cuts what is still under way, and stops everything.
impl Drop for App {
    fn drop(&mut self) {
        drop(self.control.send(Change::Stop));
        self.close_door();
        self.workers.tell_all(|| Command::Cut);
        self.stop_servers.send_replace(true);
    }
}

/// Answers `/explain`: JSON, or with `output=text` what people read, as one JSON string.
fn answer(snapshot: &Snapshot, query: &str) -> Result<serde_json::Value, String> {
    let (query, as_text) = match query.strip_suffix("&output=text") {
        Some(rest) => (rest, true),
        None => (query, false),
    };
    let explanation = explain(snapshot, &Question::from_query(query)?, now());
    Ok(if as_text { explanation.to_text().into() } else { explanation.to_json() })
}

/// Answers `/explain` for something that happened: what it was, and where it would go under the configuration of now.
fn explain_event(snapshot: &Snapshot, event: &Event) -> Result<serde_json::Value, String> {
    let mut explained = explain(snapshot, &Question::of_event(event)?, now()).to_json();
    explained["event"] = event.to_json();
    Ok(explained)
}

/// Starts what writes to the cluster that the objects come from, if anything is to be written.
fn controller(
    options: Option<ControllerOptions>,
    source: &Source,
    snapshots: &watch::Receiver<Option<Arc<Snapshot>>>,
    status: &RuntimeStatus,
) -> anyhow::Result<Option<Controller>> {
    let (Some(options), Source::Kubernetes(cluster)) = (options, source) else { return Ok(None) };
    let (server, standings) = (cluster.server().clone(), cluster.standings().clone());
    let target = Target { server, standings, snapshots: snapshots.clone() };
    let controller = Controller::start(options, target).context("cannot write to the cluster")?;
    status.set_controller(controller.status().clone());
    Ok(Some(controller))
}

/// What the servers besides the workers need.
struct Servers {
    stats: Arc<[Arc<HttpStats>]>,
    nginx_metrics: bool,
    zones: watch::Receiver<Option<Arc<Zone>>>,
    health_commands: channel::UnboundedReceiver<health_check::Command>,
    forward: Vec<SocketAddr>,
    demo: Option<Arc<dyn Demo>>,
}

/// The sockets of the process that answers at the upgrade socket, if there is one.
async fn ask_predecessor(path: Option<&Path>) -> anyhow::Result<(Inherited, Option<Predecessor>)> {
    let Some(path) = path.map(Path::to_owned) else { return Ok(Default::default()) };
    let asked = tokio::task::spawn_blocking(move || takeover::client::inherit(&path)).await?;
    Ok(asked?.map_or_else(Default::default, |(inherited, predecessor)| (inherited, Some(predecessor))))
}

/// Completes when told to stop.
async fn stop(mut stopped: watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}

/// Every connection takes two file descriptors and every frontend one for each worker, so the limit is raised as far as the system lets us.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
}
