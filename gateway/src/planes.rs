//! The planes of the process: gives each a new configuration, and opens and closes the sockets that it asks for.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc as std_mpsc},
    thread,
};

use tidegate_crd::{Kind, ObjectRef};
use tidegate_l4::{
    listen::{BindFailure, Changes, Sockets, Wanted},
    model::Protocol,
    table::Frontend,
};
use tokio::sync::{mpsc, watch};

use crate::{
    admin::{BindFailed, Listening, RuntimeStatus},
    bind::Bound,
    compile::{health_check::HealthCheck, settings::Opens},
    control::Planes,
    dns::Zone,
    health_check,
    local_addresses::LocalAddresses,
    snapshot::Snapshot,
    takeover::{Freeze, Inherited, Purpose},
    worker::{Announcement, Command, Workers},
};

/// All that serves, as the control loop sees it.
pub(crate) struct AppPlanes {
    sockets: Sockets,
    workers: Workers,
    health_sockets: Sockets,
    health_checks: mpsc::UnboundedSender<health_check::Command>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    zones: watch::Sender<Option<Arc<Zone>>>,
    retired: std_mpsc::Sender<Arc<Snapshot>>,
    status: Arc<RuntimeStatus>,
    /// What is served.
    snapshot: Arc<Snapshot>,
    /// Which frontends of Services are opened here.
    opens: Opens,
    failed: BTreeMap<Frontend, String>,
    /// Where LoadBalancer IPs are made addresses of this machine.
    addresses: Option<LocalAddresses>,
    /// Held while a successor has been told of the sockets there are.
    freeze: Freeze,
    /// Sockets have not been opened and closed as the snapshot asks for, because of that.
    postponed: bool,
}

impl AppPlanes {
    /// They serve nothing yet. Sockets of `inherited` are not opened anew.
    pub(crate) fn new(
        bound: &Bound,
        inherited: &mut Inherited,
        workers: &Workers,
        health_checks: mpsc::UnboundedSender<health_check::Command>,
        empty: Arc<Snapshot>,
        opens: Opens,
    ) -> Self {
        let status = Arc::new(RuntimeStatus::default());
        bound.http_addr.into_iter().for_each(|addr| status.set_http(addr));
        Self {
            sockets: bound.beside(workers.count()).inheriting(inherited.frontends(Purpose::Frontend)),
            workers: workers.clone(),
            health_sockets: bound.beside(1).inheriting(inherited.frontends(Purpose::HealthCheck)),
            health_checks,
            snapshots: watch::channel(None).0,
            zones: watch::channel(None).0,
            retired: retire(),
            status,
            snapshot: empty,
            opens,
            failed: BTreeMap::new(),
            addresses: None,
            freeze: Freeze::default(),
            postponed: false,
        }
    }

    /// Makes the LoadBalancer IPs that are open addresses of this machine.
    pub(crate) fn with_addresses(self, addresses: Option<LocalAddresses>) -> Self {
        Self { addresses, ..self }
    }

    /// The configurations, as they become live.
    pub(crate) fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.subscribe()
    }

    /// What DNS answers from, likewise.
    pub(crate) fn zones(&self) -> watch::Receiver<Option<Arc<Zone>>> {
        self.zones.subscribe()
    }

    /// What is open and what could not be opened.
    pub(crate) fn status(&self) -> &Arc<RuntimeStatus> {
        &self.status
    }

    /// Keeps them from opening and closing sockets.
    pub(crate) fn freeze(&self) -> &Freeze {
        &self.freeze
    }
}

/// Takes apart what was live before, in a thread of its own: of ten thousand routes that takes milliseconds, which requests would
/// wait for if a worker did it.
fn retire() -> std_mpsc::Sender<Arc<Snapshot>> {
    let (retired, inbox) = std_mpsc::channel();
    let run = move || inbox.into_iter().for_each(drop::<Arc<Snapshot>>);
    if let Err(error) = thread::Builder::new().name("retire".to_owned()).spawn(run) {
        tracing::warn!(%error, "a change of the configuration may delay requests for a moment");
    }
    retired
}

impl Planes for AppPlanes {
    fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        // The snapshot first: a socket opened now finds its frontend, and one closed now has nobody left to serve.
        self.workers.tell_all(|| Command::Publish(snapshot.clone()));
        let before = std::mem::replace(&mut self.snapshot, snapshot.clone());
        self.reconcile(!snapshot.table.same_frontends(&before.table));
        self.zones.send_replace(Some(snapshot.zone.clone()));
        let announcement = Arc::new(Announcement {
            snapshots: self.snapshots.clone(),
            snapshot: snapshot.clone(),
            retired: self.retired.clone(),
        });
        self.workers.tell_all(|| Command::Live(announcement.clone()));
    }

    fn retry(&mut self) {
        if !self.failed.is_empty() || self.postponed {
            self.reconcile(self.postponed);
        }
    }
}

impl AppPlanes {
    /// Opens and closes what the snapshot asks for. `renamed`: frontends may belong to others than before.
    fn reconcile(&mut self, renamed: bool) {
        let freeze = self.freeze.clone();
        let Some(_changing) = freeze.change() else {
            self.postponed = true;
            return;
        };
        self.postponed = false;
        let (mut failed, frontends_moved) = self.reconcile_frontends();
        let (failed_checks, checks_moved) = self.reconcile_health_checks();
        failed.extend(failed_checks);
        self.sockets.disinherit();
        self.health_sockets.disinherit();
        if let Some(addresses) = self.addresses.as_ref().filter(|_| renamed || frontends_moved) {
            let led_here = |frontend: &Frontend| {
                self.snapshot.table.find(frontend).is_some_and(|target| self.opens.is_led_here(target.kind))
            };
            let led_here = self.sockets.open().filter(led_here);
            addresses.want(led_here.map(|frontend| (frontend.ip, self.owner(&frontend))).collect());
        }
        // In a large cluster this is thousands of lines, and most changes are of endpoints alone.
        if renamed || frontends_moved || checks_moved || !failed.is_empty() || !self.failed.is_empty() {
            self.report(failed);
        }
    }

    /// The frontends of Services are the workers' to serve. What could not be opened, and whether anything opened or closed.
    fn reconcile_frontends(&mut self) -> (Vec<BindFailure>, bool) {
        let opens = self.opens;
        let wanted = self.snapshot.table.listening().filter(|(_, kind)| opens.takes(*kind));
        let wanted = wanted.map(|(frontend, kind)| Wanted { frontend, is_led_here: opens.is_led_here(kind) });
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
            self.snapshot.health_checks.iter().filter(|_| self.opens != Opens::Nothing).flat_map(|check| {
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
        (target.port.config.name.to_string(), target.kind.as_str())
    }
}
