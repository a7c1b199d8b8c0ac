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

use tidegate_l4::{
    limits::Limits,
    listen::{Opened, Socket},
    table::Frontend,
    worker::{HandedFlow, L4Worker},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
};

use crate::{
    access_log::{AccessLog, WorkerLog},
    http::{HttpLimits, HttpOptions, HttpStats, HttpWorker, Scheme},
    snapshot::Snapshot,
    tail::{Tail, TailWorker},
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
    OpenHttp(TcpListener, Scheme),
    /// Do not receive datagrams yet: the frontends that are opened wait for [`Command::TakeFlows`].
    HoldDatagrams,
    /// Continue these UDP flows of another process, and receive datagrams from now on.
    TakeFlows(Vec<HandedFlow>),
    /// Receive no more datagrams, and give away all UDP flows.
    GiveFlows(oneshot::Sender<Vec<HandedFlow>>),
    /// Say which sockets the frontends have.
    Lend(oneshot::Sender<io::Result<Vec<Opened>>>),
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
    /// Takes what was live before.
    pub retired: std::sync::mpsc::Sender<Arc<Snapshot>>,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // Workers do things in order, so announcements come in order too.
        let before = self.snapshots.send_replace(Some(self.snapshot.clone()));
        // Without anybody to take it, it is taken apart here.
        before.into_iter().for_each(|before| drop(self.retired.send(before)));
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
    pub fn start(
        clients: &HttpOptions,
        snapshot: &Arc<Snapshot>,
        stats: &[Arc<HttpStats>],
        log: Option<&AccessLog>,
        tail: &Arc<Tail>,
    ) -> io::Result<Self> {
        let mut senders = Vec::new();
        for (number, own) in stats.iter().enumerate() {
            let (sender, commands) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (snapshot, own, clients) = (snapshot.clone(), own.clone(), clients.clone());
            let (log, count, tail) = (log.cloned(), stats.len(), tail.clone());
            let serve = move || {
                let log = log.map(|log| Rc::new(log.worker(number, count)));
                LocalSet::new().block_on(&runtime, serve(commands, clients, snapshot, own, (log, tail)));
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

    /// Tells each worker something of its own; what is left over goes round again.
    pub fn tell_each(&self, commands: impl IntoIterator<Item = Command>) {
        for (worker, command) in self.senders.iter().cycle().zip(commands) {
            drop(worker.send(command));
        }
    }

    /// Handles to the sockets of all frontends, each with its number among those of its frontend: as [`Self::tell_each`]
    /// dealt them out. Blocks until all workers have answered.
    ///
    /// # Errors
    /// If the system has no more file descriptors.
    pub fn lend(&self) -> io::Result<Vec<(Frontend, usize, Socket)>> {
        let mut all = Vec::new();
        for (worker, lent) in self.ask(Command::Lend).into_iter().enumerate() {
            for Opened { frontend, sockets } in lent.transpose()?.unwrap_or_default() {
                let number = |nth| nth * self.count() + worker;
                all.extend(sockets.into_iter().enumerate().map(|(nth, socket)| (frontend, number(nth), socket)));
            }
        }
        Ok(all)
    }

    /// Every UDP flow, with the number of its socket as [`Self::lend`] has it; no worker receives datagrams afterwards.
    /// Blocks until all have answered.
    pub fn give_flows(&self) -> Vec<HandedFlow> {
        let given = self.ask(Command::GiveFlows).into_iter().enumerate();
        let numbered = given.flat_map(|(worker, flows)| {
            let number = move |nth| nth * self.count() + worker;
            flows.unwrap_or_default().into_iter().map(move |f| HandedFlow { number: number(f.number), ..f })
        });
        numbered.collect()
    }

    /// Continues flows of another process, each numbered as [`Self::lend`] does it, and lets datagrams be received.
    pub fn take_flows(&self, flows: Vec<HandedFlow>) {
        let mut shares: Vec<Vec<HandedFlow>> = self.senders.iter().map(|_| Vec::new()).collect();
        for flow in flows {
            let (worker, number) = (flow.number % self.count(), flow.number / self.count());
            shares[worker].push(HandedFlow { number, ..flow });
        }
        self.tell_each(shares.into_iter().map(Command::TakeFlows));
    }

    /// Asks every worker; one that is gone answers nothing. Blocks.
    fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<Option<T>> {
        let ask = |worker: &mpsc::UnboundedSender<Command>| {
            let (answer, answered) = oneshot::channel();
            drop(worker.send(question(answer)));
            answered
        };
        let answers: Vec<_> = self.senders.iter().map(ask).collect();
        answers.into_iter().map(|answer| answer.blocking_recv().ok()).collect()
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
    clients: HttpOptions,
    snapshot: Arc<Snapshot>,
    stats: Arc<HttpStats>,
    (log, tail): (Option<Rc<WorkerLog>>, Arc<Tail>),
) {
    let l4 = L4Worker::new(Limits::default(), snapshot.table.clone());
    let http = HttpWorker::with(HttpLimits::default(), clients, snapshot, stats, Some(l4.clone()));
    report(&l4, &http, log.as_ref(), tail);
    let mut draining = false;
    let mut held = Held::default();
    while let Some(command) = commands.recv().await {
        let result = match command {
            // A configuration on its way when the end came: what it opened would have to be cut.
            Command::OpenFrontend(..) | Command::OpenHttp(..) if draining => Ok(()),
            Command::Publish(snapshot) => {
                l4.publish(snapshot.table.clone());
                http.publish(snapshot);
                Ok(())
            }
            Command::Live(announcement) => {
                drop(announcement);
                Ok(())
            }
            Command::OpenFrontend(frontend, socket) => held.open(&l4, frontend, socket),
            Command::CloseFrontend(frontend) => {
                held.close(&frontend);
                l4.close(&frontend);
                Ok(())
            }
            Command::HoldDatagrams => {
                held = Held(Some(Vec::new()));
                Ok(())
            }
            Command::TakeFlows(flows) => {
                let opened = held.release(&l4);
                flows.into_iter().for_each(|flow| l4.take_flow(flow));
                opened
            }
            Command::GiveFlows(answer) => {
                drop(answer.send(l4.give_flows()));
                Ok(())
            }
            Command::Lend(answer) => {
                drop(answer.send(l4.lend()));
                Ok(())
            }
            Command::OpenHttp(listener, scheme) => http.open_as(listener, scheme),
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

/// What happens in both planes is told to the tail, and requests to the log.
fn report(l4: &L4Worker, http: &HttpWorker, log: Option<&Rc<WorkerLog>>, tail: Arc<Tail>) {
    let tail = Rc::new(TailWorker::new(tail));
    l4.tell(tail.clone());
    http.tell(tail);
    if let Some(log) = log {
        http.log_to(log.clone());
        tokio::task::spawn_local(log.keep_time());
    }
}

/// Drains both planes, and notes how that went.
async fn drain(timeout: Duration, l4: &L4Worker, http: &HttpWorker) {
    let begun = Instant::now();
    let connections = http.connections();
    tokio::join!(l4.drain(timeout), http.drain(timeout));
    let took = begun.elapsed();
    let worker = thread::current().name().unwrap_or_default().to_owned();
    let took_ms = took.as_millis() as u64;
    if took >= timeout {
        tracing::info!(worker, connections, took_ms, "worker cut what had not ended in time");
    } else {
        tracing::debug!(worker, connections, took_ms, "worker drained");
    }
}

/// The UDP frontends that do not receive yet, while there are any.
#[derive(Default)]
struct Held(Option<Vec<(Frontend, Socket)>>);

impl Held {
    fn open(&mut self, l4: &L4Worker, frontend: Frontend, socket: Socket) -> io::Result<()> {
        match (&mut self.0, socket) {
            (Some(held), socket @ Socket::Udp(_)) => {
                held.push((frontend, socket));
                Ok(())
            }
            (_, socket) => l4.open(frontend, socket),
        }
    }

    fn close(&mut self, frontend: &Frontend) {
        self.0.iter_mut().for_each(|held| held.retain(|(f, _)| f != frontend));
    }

    fn release(&mut self, l4: &L4Worker) -> io::Result<()> {
        self.0.take().into_iter().flatten().try_for_each(|(frontend, socket)| l4.open(frontend, socket))
    }
}
