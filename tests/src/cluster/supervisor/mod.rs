//! The process that a cluster belongs to: it starts everything, answers on a socket, and ends everything.

mod address;
mod control_plane;
mod daemon;
mod dns;
pub(super) mod network;
mod node;

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    thread,
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use self::{address::Claim, control_plane::Place, daemon::Daemon, network::Network, node::Node};
pub(super) use self::{control_plane::API_SERVER, daemon::PROXIES};
use super::{Failure, Tier, directory::Directory, images, machine, pki::Pki, programs::Programs};

/// How long a program may take to be ready: on a machine that compiles meanwhile, an API server takes a minute.
const READY: Duration = Duration::from_secs(180);

/// How often it is asked whether it is.
const ASK: Duration = Duration::from_millis(100);

/// How long a question may take: nobody else is answered meanwhile.
const QUESTION: Duration = Duration::from_secs(2);

/// How long an API server may take to answer, before it is asked again.
const ANSWER: Duration = Duration::from_secs(10);

/// Lines of a log that are shown when its program has ended.
const LAST_WORDS: usize = 20;

/// The socket's name in the cluster's directory.
pub(super) const SOCKET: &str = "socket";

/// What the supervisor says when all is there.
pub(super) const IS_READY: &str = "ready";

/// Runs a cluster until its owner ends, which it notices by the end of stdin; or, if it `stays`, until it is told to end.
/// Says on stdout how far it is.
///
/// # Errors
/// Why it could not start, or what could not be removed.
pub async fn run(directory: Directory, tier: Tier, stays: bool) -> Result<(), Failure> {
    // A terminal's Ctrl-C is for the owner, whose end is noticed.
    let _ = rustix::process::setsid();
    machine::check(tier)?;
    let programs = Programs::find(tier)?;
    let _lock = directory.create()?;
    let (gone, mut owner) = oneshot::channel();
    // It waits for as long as the process lives, and so is no task.
    thread::spawn(move || {
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        let _ = gone.send(());
    });
    let socket = directory.file(SOCKET);
    let mut world = World { directory, programs, tier, claim: None, daemons: Vec::new(), begun: Instant::now() };
    let mut terminated = signal(SignalKind::terminate())?;
    let started = tokio::select! {
        started = world.start() => started.and_then(|()| Ok(UnixListener::bind(socket)?)),
        _ = &mut owner => Err("whoever wanted it has ended".into()),
        _ = terminated.recv() => Err("it was told to end".into()),
    };
    let outcome = match started {
        Err(error) => Err(error),
        Ok(listener) => {
            world.tell(IS_READY);
            tokio::select! {
                outcome = world.serve(&listener) => outcome,
                _ = &mut owner, if !stays => Ok(()),
                _ = terminated.recv() => Ok(()),
            }
        }
    };
    let removed = world.end().await;
    outcome.and(removed)
}

/// The numbers of the nodes.
const NODES: [u8; 2] = [1, 2];

/// A request that makes an object.
fn post(path: &str, object: &Value) -> Result<http::Request<Vec<u8>>, Failure> {
    let request = http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json");
    Ok(request.body(object.to_string().into_bytes())?)
}

/// Whether a Node says that it is ready.
fn is_ready(node: &str) -> bool {
    let node: Value = serde_json::from_str(node).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// All that a cluster is.
struct World {
    directory: Directory,
    programs: Programs,
    tier: Tier,
    claim: Option<Claim>,
    daemons: Vec<Daemon>,
    begun: Instant,
}

impl World {
    async fn start(&mut self) -> Result<(), Failure> {
        let claim = Claim::find(&control_plane::PORTS)?;
        let from_here = claim.ip();
        self.claim = Some(claim);
        let pki = Pki::create(&self.directory)?;
        match self.tier {
            Tier::ControlPlane => {
                let place = Place { ip: from_here, from_here, prefix: Vec::new(), has_nodes: false };
                self.start_control_plane(&pki, &place).await?;
            }
            Tier::TwoNodes => {
                let (network, holder) = network::control_plane(&self.directory).await?;
                self.daemons.push(holder);
                network::forward(from_here, network, control_plane::API_SERVER)?;
                let ip = network::CONTROL_PLANE.into();
                let place = Place { ip, from_here, prefix: network.prefix(), has_nodes: true };
                self.start_control_plane(&pki, &place).await?;
                self.start_nodes(&pki, &place, network).await?;
            }
        }
        // It is what the controllers make last of all that a namespace needs.
        self.until("/api/v1/namespaces/default/serviceaccounts/default", |_| true).await?;
        self.tell("the controllers are ready");
        if self.tier == Tier::TwoNodes {
            for node in NODES {
                self.until(&format!("/api/v1/nodes/n{node}"), is_ready).await?;
            }
            self.tell("the nodes are ready");
        }
        Ok(())
    }

    async fn start_control_plane(&mut self, pki: &Pki, place: &Place) -> Result<(), Failure> {
        let [mut etcd, mut api_server, mut others @ ..] =
            control_plane::daemons(&self.programs, &self.directory, pki, place)?;
        etcd.start()?;
        api_server.start()?;
        self.daemons.extend([etcd, api_server]);
        self.until("/readyz", |_| true).await?;
        self.tell("the API server is ready");
        // They would give up on an API server that has not made their roles yet.
        for daemon in &mut others {
            daemon.start()?;
        }
        self.daemons.extend(others);
        Ok(())
    }

    async fn start_nodes(&mut self, pki: &Pki, place: &Place, control_plane: Network) -> Result<(), Failure> {
        images::write(&self.programs, &self.directory.file("images"))?;
        for number in NODES {
            let (network, holder) = Network::create(&self.directory, &format!("n{number}")).await?;
            self.daemons.push(holder);
            network.join(control_plane, number, &NODES).await?;
            let node = Node { number, network, directory: &self.directory, programs: &self.programs, pki, place };
            self.client().await?.request_text(post("/api/v1/nodes", &node.object())?).await?;
            for mut daemon in node.daemons()? {
                daemon.start()?;
                self.daemons.push(daemon);
            }
        }
        let mut dns = dns::daemon(&self.programs, &self.directory, place)?;
        dns.start()?;
        self.daemons.push(dns);
        for (path, object) in dns::objects(place) {
            self.client().await?.request_text(post(path, &object)?).await?;
        }
        Ok(())
    }

    async fn client(&self) -> Result<Client, Failure> {
        let kubeconfig = Kubeconfig::read_from(self.directory.file("admin.kubeconfig"))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Asks the API server until it answers with OK, and so.
    async fn until(&mut self, path: &str, is_it: impl Fn(&str) -> bool) -> Result<(), Failure> {
        let client = self.client().await?;
        let patience = Instant::now() + READY;
        loop {
            let request = client.request_text(http::Request::get(path).body(Vec::new())?);
            let answer = tokio::time::timeout(ANSWER, request).await;
            if matches!(&answer, Ok(Ok(text)) if is_it(text)) {
                return Ok(());
            }
            self.all_run()?;
            if Instant::now() > patience {
                let seconds = READY.as_secs();
                return Err(format!("{path} is not ready after {seconds} s, but says {answer:?}").into());
            }
            tokio::time::sleep(ASK).await;
        }
    }

    /// Fails if a program has ended by itself.
    fn all_run(&mut self) -> Result<(), Failure> {
        for daemon in &mut self.daemons {
            if let Some(status) = daemon.ended() {
                let log = fs::read_to_string(daemon.log()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
                return Err(format!("{} has ended ({status}):\n{last}", daemon.name()).into());
            }
        }
        Ok(())
    }

    /// Answers on the socket, until it is told to end.
    async fn serve(&mut self, listener: &UnixListener) -> Result<(), Failure> {
        loop {
            let (stream, _) = listener.accept().await?;
            // Whoever is gone before the answer misses only that.
            if self.answer(stream).await.unwrap_or(false) {
                return Ok(());
            }
        }
    }

    /// Answers one question. Whether it was the last.
    async fn answer(&mut self, mut stream: UnixStream) -> io::Result<bool> {
        let mut line = String::new();
        tokio::time::timeout(QUESTION, BufReader::new(&mut stream).read_line(&mut line)).await??;
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["down"] {
            // The end of the process is the answer.
            std::mem::forget(stream);
            return Ok(true);
        }
        let answer = match self.obey(&words).await {
            Ok(text) => format!("ok\n{text}"),
            Err(error) => format!("error\n{error}"),
        };
        stream.write_all(answer.as_bytes()).await?;
        Ok(false)
    }

    async fn obey(&mut self, words: &[&str]) -> Result<String, Failure> {
        match *words {
            ["status"] => Ok(self.status()),
            ["supervisor"] => Ok(std::process::id().to_string()),
            ["process", name] => {
                let id = self.daemon(name)?.id();
                id.map(|id| id.to_string()).ok_or_else(|| format!("{name} does not run").into())
            }
            ["stop", name] => self.daemon(name)?.stop().await.map(|()| String::new()),
            ["start", name] => {
                let daemon = self.daemon(name)?;
                if daemon.id().is_none() {
                    daemon.start()?;
                }
                if name == "kube-apiserver" {
                    self.until("/readyz", |_| true).await?;
                }
                Ok(String::new())
            }
            ["restore"] => {
                // The controllers would give up on an API server that has not read their roles yet.
                for is_first in [true, false] {
                    for daemon in &mut self.daemons {
                        if daemon.id().is_none() && is_first == ["etcd", "kube-apiserver"].contains(&daemon.name()) {
                            daemon.start()?;
                        }
                    }
                    self.until("/readyz", |_| true).await?;
                }
                Ok(String::new())
            }
            _ => Err(format!(
                "{words:?}: there are status, supervisor, process NAME, stop NAME, start NAME, restore, down"
            )
            .into()),
        }
    }

    fn daemon(&mut self, name: &str) -> Result<&mut Daemon, Failure> {
        let names: Vec<String> = self.daemons.iter().map(|daemon| daemon.name().to_owned()).collect();
        let daemon = self.daemons.iter_mut().find(|daemon| daemon.name() == name);
        daemon.ok_or_else(|| format!("{name}: there are {}", names.join(", ")).into())
    }

    fn status(&mut self) -> String {
        let mut text = format!("up for {} s\n", self.begun.elapsed().as_secs());
        for daemon in &mut self.daemons {
            let state = daemon.id().map_or_else(|| "does not run".to_owned(), |id| format!("process {id}"));
            let _ = writeln!(text, "{:<24} {state:<16} {}", daemon.name(), daemon.log().display());
        }
        text
    }

    /// Ends and removes everything.
    async fn end(mut self) -> Result<(), Failure> {
        for daemon in self.daemons.iter_mut().rev() {
            daemon.stop().await?;
        }
        self.directory.remove()
    }

    /// A line for the owner, who may have gone.
    fn tell(&self, line: &str) {
        let mut stdout = io::stdout();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}
