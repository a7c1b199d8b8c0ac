//! What the process reports of itself, besides its configuration: which listeners are open, and whether it drains.
//!
//! The application writes it, the admin interface reads it. Both are on the control side, so a lock does no harm.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::SystemTime,
};

use tidegate_crd::ObjectRef;
use tidegate_l4::table::Frontend;

use crate::{
    compile::finding::{Finding, Severity},
    control::kubernetes::status::KubernetesStatus,
    controller::status::ControllerStatus,
};

/// The state of the process.
#[derive(Debug)]
pub struct RuntimeStatus {
    started: SystemTime,
    kubernetes: OnceLock<Arc<KubernetesStatus>>,
    controller: OnceLock<Arc<ControllerStatus>>,
    current: Mutex<Status>,
}

#[derive(Debug, Default)]
struct Status {
    listening: Arc<[Listening]>,
    failed: Arc<[BindFailed]>,
    notes: Arc<[Finding]>,
    http: Option<SocketAddr>,
    draining: bool,
    configured: Option<SystemTime>,
}

/// A frontend of a Service that is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Its address.
    pub frontend: Frontend,
    /// The Service port behind it, for people.
    pub service: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `external IP` or `health check`.
    pub kind: &'static str,
}

/// A frontend of a Service that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindFailed {
    /// Its address.
    pub frontend: Frontend,
    /// The Service port behind it, for people.
    pub service: String,
    /// The Service.
    pub object: Option<ObjectRef>,
    /// What the system said.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

impl BindFailed {
    /// The verdict on the Service: a finding like the compiler's, but one that only the running process can have.
    pub fn finding(&self) -> Finding {
        Finding {
            severity: Severity::Error,
            reason: "CannotListen",
            object: self.object.clone(),
            file: Path::new("listeners").into(),
            line: 0,
            field: None,
            message: format!("{}.", self.message),
            fix: format!("{}.", self.fix),
        }
    }
}

impl Default for RuntimeStatus {
    /// A process that begins now and has opened nothing yet.
    fn default() -> Self {
        let (kubernetes, controller) = (OnceLock::new(), OnceLock::new());
        Self { started: SystemTime::now(), kubernetes, controller, current: Mutex::default() }
    }
}

impl RuntimeStatus {
    /// Sets which frontends are open and which could not be opened.
    pub fn set_listening(&self, listening: Vec<Listening>, failed: Vec<BindFailed>) {
        let (listening, failed) = (listening.into(), failed.into());
        let mut status = self.lock();
        status.listening = listening;
        status.failed = failed;
    }

    /// What else is wrong that only the running process knows.
    pub fn set_notes(&self, notes: Vec<Finding>) {
        self.lock().notes = notes.into();
    }

    /// What was said with [`Self::set_notes`] last.
    pub fn notes(&self) -> Arc<[Finding]> {
        self.lock().notes.clone()
    }

    /// The objects come from a cluster, and this is how that goes. Said once.
    pub fn set_kubernetes(&self, status: Arc<KubernetesStatus>) {
        drop(self.kubernetes.set(status));
    }

    /// How it goes with the cluster, if the objects come from one.
    pub fn kubernetes(&self) -> Option<&KubernetesStatus> {
        self.kubernetes.get().map(|status| &**status)
    }

    /// The cluster is written to, and this is how that goes. Said once.
    pub fn set_controller(&self, status: Arc<ControllerStatus>) {
        drop(self.controller.set(status));
    }

    /// How it goes with what is written to the cluster, if anything is.
    pub fn controller(&self) -> Option<&ControllerStatus> {
        self.controller.get().map(|status| &**status)
    }

    /// Sets where Ingresses are served.
    pub fn set_http(&self, addr: SocketAddr) {
        self.lock().http = Some(addr);
    }

    /// The process is on its way out: it finishes what it has, and is not ready for more.
    pub fn set_draining(&self) {
        self.lock().draining = true;
    }

    pub(crate) fn set_configured(&self, at: SystemTime) {
        self.lock().configured = Some(at);
    }

    /// The frontends that are open.
    pub fn listening(&self) -> Arc<[Listening]> {
        self.lock().listening.clone()
    }

    /// The frontends that could not be opened.
    pub fn failed(&self) -> Arc<[BindFailed]> {
        self.lock().failed.clone()
    }

    /// Where Ingresses are served, once they are.
    pub fn http(&self) -> Option<SocketAddr> {
        self.lock().http
    }

    /// Whether the process is on its way out.
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// When the process began.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// When the admin interface saw the configuration in use for the first time.
    pub fn configured(&self) -> Option<SystemTime> {
        self.lock().configured
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        // Whoever holds the lock only assigns: nothing is ever half-written.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
