//! The controller: what is written to the cluster. Whoever reads it is [`control::kubernetes`](crate::control::kubernetes).
//!
//! It has a thread of its own, and nothing that serves waits for it. All replicas serve; one of them writes, the leader. Whatever is
//! written comes of the configuration that is live and of how its objects stand in the cluster, and where both agree nothing is written.
//! While the API server is away it is tried again and again; where a permission is missing that is said in the log, in `/findings`
//! and by `/readyz`, and the rest goes on.
//!
//! | question | answer |
//! |---|---|
//! | which replica writes | `leader` |
//! | the addresses that Ingresses show | [`publish`]; who gets them, and when: `ingress_status` |
//! | the addresses of LoadBalancer Services; the state of LoadBalancerPools and IngressClassParameters | `statuses` |
//! | what is wrong with objects, in `kubectl describe` | `events` |
//! | when a status is written, how fast, and for how long it is tried | `upkeep`, `writer`, `attempts` |
//! | limits and timeouts | `limits` |
//! | log, metrics, readiness | [`status`] |

mod attempts;
mod events;
mod ingress_status;
mod leader;
mod limits;
pub mod publish;
pub mod status;
mod statuses;
mod upkeep;
mod writer;

use std::{io, sync::Arc, thread};

use kube::Client;
use tokio::sync::watch;

use self::{
    events::Events,
    ingress_status::IngressStatuses,
    leader::Election,
    publish::Publish,
    status::{ControllerStatus, Writing},
    statuses::Statuses,
    writer::{Pace, Writer},
};
use crate::{
    control::kubernetes::{
        api_server::ApiServer,
        standing::{FIELD_MANAGER, Standings, field_manager},
    },
    snapshot::Snapshot,
};

/// What the operator decided.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// The namespace of the Lease: that of our pods.
    pub namespace: Arc<str>,
    /// The name of the Lease. Those that serve other classes have another.
    pub lease: Arc<str>,
    /// Who we are: no other replica is called so.
    pub identity: Arc<str>,
    /// The addresses that Ingresses show.
    pub publish: Publish,
}

/// A cluster to be written to.
#[derive(Debug)]
pub struct Target {
    /// Its API server.
    pub server: ApiServer,
    /// How its objects stand.
    pub standings: Arc<Standings>,
    /// The configurations, as they become live.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
}

/// A controller that runs.
#[derive(Debug)]
pub struct Controller {
    status: Arc<ControllerStatus>,
    stop: watch::Sender<bool>,
    /// Ends when it has.
    ended: watch::Receiver<()>,
}

impl Controller {
    /// Starts it in a thread of its own.
    ///
    /// # Errors
    /// If the API server cannot be spoken to whatever it answers, or a thread cannot be started.
    pub fn start(options: ControllerOptions, target: Target) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = {
            let _context = runtime.enter();
            target.server.client().map_err(io::Error::other)?
        };
        let (stop, stopped) = watch::channel(false);
        let (alive, ended) = watch::channel(());
        let status = Arc::<ControllerStatus>::default();
        let run = {
            let status = status.clone();
            move || {
                runtime.block_on(run(options, target, client, status, stopped));
                drop(alive);
            }
        };
        thread::Builder::new().name("controller".to_owned()).spawn(run)?;
        Ok(Self { status, stop, ended })
    }

    /// How it does.
    pub fn status(&self) -> &Arc<ControllerStatus> {
        &self.status
    }

    /// Writes no more, and leaves the lead to another replica; completes when that is done.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        // It says nothing but that it ends.
        drop(self.ended.clone().changed().await);
    }
}

/// It goes with whoever holds it, and gives back the lead on its own.
impl Drop for Controller {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn run(
    options: ControllerOptions,
    target: Target,
    client: Client,
    status: Arc<ControllerStatus>,
    stopped: watch::Receiver<bool>,
) {
    let ControllerOptions { namespace, lease, identity, publish } = options;
    let Target { standings, snapshots, .. } = target;
    let manager: Arc<str> = field_manager(&namespace, &lease).into();
    let election = Election::new(client.clone(), namespace, lease, identity.clone(), status.clone());
    let (leads, (publishes, published)) = (election.leads(), watch::channel(None));
    let writer = |writing, pace| Writer::new(client.clone(), writing, manager.clone(), pace, status.clone());
    let pace = Pace { rate: limits::STATUS_RATE, at_once: limits::STATUS_AT_ONCE };
    let ingresses = IngressStatuses {
        snapshots: snapshots.clone(),
        standings: standings.clone(),
        published,
        leads: leads.clone(),
        writer: writer(Writing::IngressStatus, pace),
        status: status.clone(),
    };
    let statuses = Statuses {
        snapshots: snapshots.clone(),
        standings: standings.clone(),
        leads: leads.clone(),
        services: writer(Writing::ServiceStatus, pace),
        pools: writer(Writing::PoolStatus, pace),
        parameters: writer(Writing::ParametersStatus, pace),
        status: status.clone(),
    };
    let events = Events {
        snapshots,
        standings,
        leads: leads.clone(),
        writer: writer(Writing::Event, Pace { rate: limits::EVENT_RATE, at_once: limits::EVENT_AT_ONCE }),
        status: status.clone(),
        instance: identity,
    };
    let publish = publish::run(client.clone(), publish, publishes, leads, status.clone());
    let write = async {
        tokio::join!(publish, ingresses.run(), statuses.run(), events.run());
        // There are no more configurations; but the lead is given back in order.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = election.run(stopped) => {}
        () = write => {}
    }
}
