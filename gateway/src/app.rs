//! The one file that knows everybody: sources → control → planes, admin and DNS, until it is time to go.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use anyhow::Context;
use tidegate_crd::{Kind, ObjectRef};
use tidegate_l4::{
    listen::{BindFailure, Changes, Sockets, bind_tcp},
    model::Protocol,
    table::{Frontend, FrontendKind},
    worker::now,
};
use tokio::sync::{mpsc as channel, watch};

use crate::{
    access_log::{AccessLog, LogOptions},
    admin::{self, AdminState, BindFailed, Listening, RuntimeStatus},
    compile::{allocate::Allocations, compile, health_check::HealthCheck, objects::Objects, settings::Settings},
    control::{
        self, Change, Control, NameRequest, Planes,
        files::{Batch, Files},
        state::StateFile,
    },
    dns::{DnsServer, Zone},
    explain::{Question, explain},
    health_check::{self, Health},
    http::HttpStats,
    snapshot::Snapshot,
    worker::{Announcement, Command, Workers},
};

/// Where the objects come from.
#[derive(Debug)]
pub enum Source {
    /// Files and directories, watched.
    Files(Vec<PathBuf>),
    /// These, for ever.
    Given(Batch),
}

/// How long the end of the process waits for the access log to be written.
const LOG_GRACE: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug)]
pub struct Options {
    /// Where the objects come from.
    pub source: Source,
    /// The compiler's settings.
    pub settings: Settings,
    /// Where HTTP is served.
    pub http: SocketAddr,
    /// Where health, metrics and configuration are served.
    pub admin: SocketAddr,
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
    /// The access log, if there is to be one.
    pub access_log: Option<LogOptions>,
    /// Whether `/metrics` also has the names of ingress-nginx.
    pub nginx_metrics: bool,
}

/// A running Tidegate.
#[derive(Debug)]
pub struct App {
    workers: Workers,
    control: mpsc::Sender<Change>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    status: Arc<RuntimeStatus>,
    access_log: Option<AccessLog>,
    stop_servers: watch::Sender<bool>,
    http: SocketAddr,
    admin: SocketAddr,
    dns: Option<SocketAddr>,
}

impl App {
    /// Binds what the operator asked for, starts everything, and returns when the first configuration is live.
    ///
    /// # Errors
    /// If an address given on the command line cannot be bound, or a thread cannot be started. What a manifest asks for
    /// never stops anything: it becomes a finding.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        raise_file_limit();
        let http =
            bind_tcp(options.http, options.workers.max(1)).with_context(|| cannot_listen("--http", options.http))?;
        let http_addr = http.first().context("no worker")?.local_addr()?;
        let admin_listener = tokio::net::TcpListener::bind(options.admin)
            .await
            .with_context(|| cannot_listen("--admin", options.admin))?;
        let admin = admin_listener.local_addr()?;
        let dns = match options.dns {
            Some(addr) => Some(DnsServer::bind(addr).await.with_context(|| cannot_listen("--dns", addr))?),
            None => None,
        };
        let access_log = options.access_log.map(AccessLog::start).transpose().context("cannot open the access log")?;
        let stats = HttpStats::of_workers(options.workers.max(1));
        let empty = compile(&Objects::default(), &options.settings, &[], &Allocations::default(), None).snapshot;
        let workers = Workers::start(&empty, &stats, access_log.as_ref())?;
        let (snapshot_tx, mut snapshots) = watch::channel(None);
        let (zone_tx, zones) = watch::channel(None);
        let status = Arc::new(RuntimeStatus::default());
        status.set_http(http_addr);
        let (health_checks, health_commands) = channel::unbounded_channel();
        let planes = AppPlanes {
            sockets: Sockets::new(workers.count()).beside(http_addr),
            workers: workers.clone(),
            health_sockets: Sockets::new(1).beside(http_addr),
            health_checks,
            snapshots: snapshot_tx,
            zones: zone_tx,
            status: status.clone(),
            snapshot: empty,
            failed: BTreeMap::new(),
        };
        let control = start_control(options.source, options.settings, options.remember, planes)?;
        let (stop_servers, stopped) = watch::channel(false);
        let state = Arc::new(AdminState {
            snapshot: snapshots.clone(),
            runtime: status.clone(),
            http: stats,
            access_log: access_log.as_ref().map(|log| log.stats().clone()),
            nginx_metrics: options.nginx_metrics,
            explain: answer,
        });
        tokio::spawn(admin::serve(admin_listener, state, stop(stopped.clone())));
        let health = Health { snapshot: snapshots.clone(), runtime: status.clone() };
        tokio::spawn(health_check::serve(health_commands, health, stop(stopped.clone())));
        let dns_addr = dns.as_ref().map(DnsServer::local_addr);
        if let Some(dns) = dns {
            tokio::spawn(dns.run(zones, options.dns_forward, stop(stopped)));
        }
        snapshots.wait_for(Option::is_some).await.context("the control thread ended")?;
        // Only now: before the first configuration every request would be answered 404.
        workers.tell_each(http.into_iter().map(Command::OpenHttp));
        Ok(Self {
            workers,
            control,
            snapshots,
            status,
            access_log,
            stop_servers,
            http: http_addr,
            admin,
            dns: dns_addr,
        })
    }

    /// Where HTTP is served.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where the admin server is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
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
        let mut lines = vec![format!("listening  http   {}", self.http), format!("listening  admin  {}", self.admin)];
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
        self.status.set_draining();
        drop(self.control.send(Change::Stop));
        self.workers.drain(timeout).await;
        if let Some(log) = self.access_log.clone() {
            // The workers have handed over what they had.
            drop(tokio::task::spawn_blocking(move || log.finish(LOG_GRACE)).await);
        }
    }
}

/// Cuts what is still under way, and stops everything.
impl Drop for App {
    fn drop(&mut self) {
        drop(self.control.send(Change::Stop));
        self.workers.tell_all(|| Command::Cut);
        self.stop_servers.send_replace(true);
    }
}

fn start_control(
    source: Source,
    settings: Settings,
    remember: bool,
    mut planes: AppPlanes,
) -> io::Result<mpsc::Sender<Change>> {
    let (changes, inbox) = mpsc::channel();
    let (names_tx, names) = mpsc::channel::<NameRequest>();
    let (ranges, resolver) = (settings.service_cidrs.clone(), changes.clone());
    thread::Builder::new().name("names".to_owned()).spawn(move || control::watch_names(&names, &ranges, &resolver))?;
    let state = match &source {
        Source::Files(paths) if remember => StateFile::for_manifests(paths),
        Source::Files(_) | Source::Given(_) => None,
    };
    let control = Control::new(settings, state, names_tx);
    thread::Builder::new().name("control".to_owned()).spawn(move || control.run(&inbox, &mut planes))?;
    match source {
        Source::Given(batch) => drop(changes.send(Change::Files(batch))),
        Source::Files(paths) => {
            let source = changes.clone();
            let watch = move || Files::new(paths).watch(|batch| source.send(Change::Files(batch)).is_ok());
            thread::Builder::new().name("files".to_owned()).spawn(watch)?;
        }
    }
    Ok(changes)
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

/// Completes when told to stop.
async fn stop(mut stopped: watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}

fn cannot_listen(flag: &str, addr: SocketAddr) -> String {
    format!("cannot listen on {addr}: choose another address with {flag}")
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

/// The planes as the control loop sees them.
struct AppPlanes {
    sockets: Sockets,
    workers: Workers,
    health_sockets: Sockets,
    health_checks: channel::UnboundedSender<health_check::Command>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    zones: watch::Sender<Option<Arc<Zone>>>,
    status: Arc<RuntimeStatus>,
    /// What is served.
    snapshot: Arc<Snapshot>,
    failed: BTreeMap<Frontend, String>,
}

impl Planes for AppPlanes {
    fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        // The snapshot first: a socket opened now finds its frontend, and one closed now has nobody left to serve.
        self.workers.tell_all(|| Command::Publish(snapshot.clone()));
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        self.reconcile(!snapshot.table.same_frontends(&before.table));
        self.zones.send_replace(Some(snapshot.zone.clone()));
        let announcement = Arc::new(Announcement { snapshots: self.snapshots.clone(), snapshot: snapshot.clone() });
        self.workers.tell_all(|| Command::Live(announcement.clone()));
    }

    fn retry(&mut self) {
        if !self.failed.is_empty() {
            self.reconcile(false);
        }
    }
}

impl AppPlanes {
    /// Opens and closes what the snapshot asks for. `renamed`: frontends may belong to others than before.
    fn reconcile(&mut self, renamed: bool) {
        let (mut failed, frontends_moved) = self.reconcile_frontends();
        let (failed_checks, checks_moved) = self.reconcile_health_checks();
        failed.extend(failed_checks);
        // In a large cluster this is thousands of lines, and most changes are of endpoints alone.
        if renamed || frontends_moved || checks_moved || !failed.is_empty() || !self.failed.is_empty() {
            self.report(failed);
        }
    }

    /// The frontends of Services are the workers' to serve. What could not be opened, and whether anything opened or closed.
    fn reconcile_frontends(&mut self) -> (Vec<BindFailure>, bool) {
        let wanted = self.snapshot.table.listening().map(|(frontend, _)| frontend);
        let Changes { opened, closed, failed } = self.sockets.reconcile(wanted);
        let moved = !opened.is_empty() || !closed.is_empty();
        for frontend in closed {
            self.workers.tell_all(|| Command::CloseFrontend(frontend));
        }
        for opened in opened {
            let frontend = opened.frontend;
            self.workers.tell_each(opened.sockets.into_iter().map(|socket| Command::OpenFrontend(frontend, socket)));
        }
        (failed, moved)
    }

    /// Health checks are asked for seldom: one socket each, and the control side answers.
    fn reconcile_health_checks(&mut self) -> (Vec<BindFailure>, bool) {
        let addresses = self.snapshot.table.node_addresses();
        let wanted =
            self.snapshot.health_checks.iter().flat_map(|check| {
                addresses.iter().map(|&ip| Frontend { ip, port: check.port, protocol: Protocol::Tcp })
            });
        let Changes { opened, closed, failed } = self.health_sockets.reconcile(wanted);
        let moved = !opened.is_empty() || !closed.is_empty();
        let closed = closed.into_iter().map(health_check::Command::Close);
        let opened = opened.into_iter().flat_map(|opened| {
            opened.sockets.into_iter().map(move |socket| health_check::Command::Open(opened.frontend, socket))
        });
        for command in closed.chain(opened) {
            // A server that is gone has been told to stop.
            drop(self.health_checks.send(command));
        }
        (failed, moved)
    }

    /// Says what is open and what is not; a failure goes to the log once.
    fn report(&mut self, failed: Vec<BindFailure>) {
        let before = std::mem::take(&mut self.failed);
        let mut failures = Vec::new();
        for failure in failed {
            let (service, _) = self.describe(&failure.frontend);
            let message = failure.to_string();
            let failed = BindFailed {
                frontend: failure.frontend,
                service,
                object: self.owner(&failure.frontend),
                message: message.clone(),
                fix: failure.hint().to_owned(),
            };
            if before.get(&failure.frontend) != Some(&message) {
                tracing::warn!("{}", failed.finding());
            }
            failures.push(failed);
            self.failed.insert(failure.frontend, message);
        }
        let mut open: Vec<Frontend> = self.sockets.open().chain(self.health_sockets.open()).collect();
        open.sort_unstable();
        let listening = open.into_iter().map(|frontend| {
            let (service, kind) = self.describe(&frontend);
            Listening { frontend, service, kind }
        });
        self.status.set_listening(listening.collect(), failures);
    }

    /// The Service that a frontend belongs to.
    fn owner(&self, frontend: &Frontend) -> Option<ObjectRef> {
        let service = |namespace: &str, name: &str| ObjectRef::new(Kind::Service, namespace, name);
        let target = self.snapshot.table.find(frontend).map(|target| &target.port.config.name);
        let check = || self.snapshot.health_check(frontend.port).map(|check| service(&check.namespace, &check.service));
        target.map(|name| service(&name.namespace, &name.service)).or_else(check)
    }

    /// The Service behind a frontend, and what kind of frontend it is.
    fn describe(&self, frontend: &Frontend) -> (String, &'static str) {
        let Some(target) = self.snapshot.table.find(frontend) else {
            let check = self.snapshot.health_check(frontend.port).filter(|_| frontend.protocol == Protocol::Tcp);
            let name = |check: &Arc<HealthCheck>| (format!("{}/{}", check.namespace, check.service), "health check");
            return check.map_or_else(Default::default, name);
        };
        let kind = match target.kind {
            FrontendKind::ClusterIp => "ClusterIP",
            FrontendKind::NodePort => "NodePort",
            FrontendKind::LoadBalancer => "LoadBalancer",
            FrontendKind::ExternalIp => "external IP",
        };
        (target.port.config.name.to_string(), kind)
    }
}
