//! Workers: one thread each, one runtime each, nothing shared.
//!
//! A worker serves both planes. It is told what to do through a channel, in order: first the snapshot, then the sockets
//! that need it.

use std::{
    io,
    net::TcpListener,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tidegate_l4::{limits::Limits, listen::Socket, table::Frontend, worker::L4Worker};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
};

use crate::{
    access_log::{AccessLog, WorkerLog},
    http::{HttpLimits, HttpStats, HttpWorker},
    snapshot::Snapshot,
};

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Serve this from now on.
    Publish(Arc<Snapshot>),
    /// All that came before has been done.
    Live(Arc<Announcement>),
    /// Accept connections for a frontend.
    OpenFrontend(Frontend, Socket),
    /// Stop accepting them; what is established lives on.
    CloseFrontend(Frontend),
    /// Accept HTTP connections.
    OpenHttp(TcpListener),
    /// Stop accepting, wait for what is under way, then cut; answer when done.
    Drain(Duration, oneshot::Sender<()>),
    /// Cut everything now.
    Cut,
}

/// Announces a snapshot when the last worker has let go of it: only then does all of it serve.
#[derive(Debug)]
pub struct Announcement {
    /// Who listens.
    pub snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    /// What is live.
    pub snapshot: Arc<Snapshot>,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Workers do things in order, so announcements come in order too.
        self.snapshots.send_replace(Some(self.snapshot.clone()));
    }
}

/// The channels to all workers.
#[derive(Clone, Debug)]
pub struct Workers {
    senders: Vec<mpsc::UnboundedSender<Command>>,
}

impl Workers {
    /// Starts a worker for each of `stats`, which serve nothing until they are told to.
    ///
    /// # Errors
    /// If a thread or its runtime cannot be made.
    pub fn start(snapshot: &Arc<Snapshot>, stats: &[Arc<HttpStats>], log: Option<&AccessLog>) -> io::Result<Self> {
        let mut senders = Vec::new();
        for (number, own) in stats.iter().enumerate() {
            let (sender, commands) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (snapshot, own, log, count) = (snapshot.clone(), own.clone(), log.cloned(), stats.len());
            let serve = move || {
                let log = log.map(|log| Rc::new(log.worker(number, count)));
                LocalSet::new().block_on(&runtime, serve(commands, snapshot, own, log));
            };
            thread::Builder::new().name(format!("worker-{number}")).spawn(serve)?;
            senders.push(sender);
        }
        Ok(Self { senders })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.senders.len()
    }

    /// Tells every worker.
    pub fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.senders {
            // A worker that is gone has been told to go.
            drop(worker.send(command()));
        }
    }

    /// Tells each worker something of its own.
    pub fn tell_each(&self, commands: impl IntoIterator<Item = Command>) {
        for (worker, command) in self.senders.iter().zip(commands) {
            drop(worker.send(command));
        }
    }

    /// Drains all workers and waits for them.
    pub async fn drain(&self, timeout: Duration) {
        let mut done = Vec::new();
        for worker in &self.senders {
            let (sender, receiver) = oneshot::channel();
            drop(worker.send(Command::Drain(timeout, sender)));
            done.push(receiver);
        }
        for receiver in done {
            drop(receiver.await);
        }
    }
}

async fn serve(
    mut commands: mpsc::UnboundedReceiver<Command>,
    snapshot: Arc<Snapshot>,
    stats: Arc<HttpStats>,
    log: Option<Rc<WorkerLog>>,
) {
    let l4 = L4Worker::new(Limits::default(), snapshot.table.clone());
    let http = HttpWorker::new(HttpLimits::default(), snapshot, stats);
    if let Some(log) = &log {
        http.log_to(log.clone());
        tokio::task::spawn_local(log.keep_time());
    }
    let mut draining = false;
    while let Some(command) = commands.recv().await {
        let result = match command {
            // A configuration on its way when the end came: what it opened would have to be cut.
            Command::OpenFrontend(..) | Command::OpenHttp(_) if draining => Ok(()),
            Command::Publish(snapshot) => {
                l4.publish(snapshot.table.clone());
                http.publish(snapshot);
                Ok(())
            }
            Command::Live(announcement) => {
                drop(announcement);
                Ok(())
            }
            Command::OpenFrontend(frontend, socket) => l4.open(frontend, socket),
            Command::CloseFrontend(frontend) => {
                l4.close(&frontend);
                Ok(())
            }
            Command::OpenHttp(listener) => http.open(listener),
            Command::Drain(timeout, done) => {
                draining = true;
                let (l4, http, log) = (l4.clone(), http.clone(), log.clone());
                tokio::task::spawn_local(async move {
                    drain(timeout, &l4, &http).await;
                    if let Some(log) = log {
                        log.flush();
                    }
                    let _ = done.send(());
                });
                Ok(())
            }
            Command::Cut => {
                l4.cut();
                http.cut();
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::error!("a worker cannot use a socket it was given: {error}");
        }
    }
}

/// Lets everything end, and says how that went.
async fn drain(timeout: Duration, l4: &L4Worker, http: &HttpWorker) {
    let (begun, connections) = (Instant::now(), l4.connections() + http.connections());
    tokio::join!(l4.drain(timeout), http.drain(timeout));
    let took = begun.elapsed();
    let worker = thread::current().name().unwrap_or_default().to_owned();
    if took >= timeout {
        tracing::info!(worker, connections, took_ms = took.as_millis() as u64, "worker cut what had not ended in time");
    } else {
        tracing::debug!(worker, connections, took_ms = took.as_millis() as u64, "worker drained");
    }
}
