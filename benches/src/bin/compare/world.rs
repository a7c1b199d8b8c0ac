//! What everything here happens in: the back end, the certificate, the cores, and the proxies' processes.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::{
    backend::order,
    http1,
    peers::{self, File, Plane, Reload, Setup},
    process,
    programs::{Kind, Programs},
    routes::{self, Host},
    tls::Certificate,
};

/// How long a proxy may take until it answers; ten thousand routes included.
const START: Duration = Duration::from_secs(60);

/// How long a proxy may take to end after SIGTERM before it is killed.
const STOP: Duration = Duration::from_secs(2);

/// A ClusterIP of the default range, on loopback.
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(127, 96, 0, 10);

/// Ports of proxies and back end: below those that clients get.
const FIRST_PORT: u16 = 7_000;
const LAST_PORT: u16 = 9_999;

/// What is the same for all proxies.
pub(crate) struct World {
    pub(crate) programs: Programs,
    pub(crate) certificate: Certificate,
    /// The core of the proxies and that of everything else; `None` if nothing is pinned.
    pub(crate) cores: Option<(usize, usize)>,
    pub(crate) workers: usize,
    /// Files each process may have open.
    pub(crate) files: u64,
    pub(crate) tidegate_args: Vec<String>,
    http: SocketAddr,
    tcp: SocketAddr,
    backend: Child,
    directory: PathBuf,
}

impl World {
    /// Starts the back end, which lives as long as this does.
    pub(crate) fn new(
        programs: Programs,
        workers: usize,
        key: crate::tls::KeyKind,
        tidegate_args: Vec<String>,
    ) -> anyhow::Result<Self> {
        let files = process::raise_file_limit()?;
        let directory = env::temp_dir().join(format!("tidegate-compare-{}", std::process::id()));
        fs::create_dir(&directory)?;
        let certificate = Certificate::make(&directory, key)?;
        let cores = if workers == 1 { process::two_cores() } else { None };
        // The load is this thread; back end and proxies are pinned as they are started.
        process::pin(cores.map(|(_, load)| load));
        let (http, tcp) = (free(Ipv4Addr::LOCALHOST)?, free(Ipv4Addr::LOCALHOST)?);
        let mut command = process::bound_to_us(&env::current_exe()?);
        command.args(["backend", &http.port().to_string(), &tcp.port().to_string()]).stdin(Stdio::null());
        let backend = command.spawn().context("the back end")?;
        let world = Self { programs, certificate, cores, workers, files, tidegate_args, http, tcp, backend, directory };
        until(START, || idle(tcp).is_ok() && http1::get(http, "backend", "/").is_ok_and(|answer| answer.status == 200))
            .context("the back end does not answer")?;
        Ok(world)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // All of this is only tidying up.
        let _ = self.backend.kill();
        let _ = self.backend.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A running proxy; it ends with this value, also in a panic.
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) setup: Setup,
    child: Child,
    /// What its files hold.
    held: BTreeMap<PathBuf, String>,
}

impl Proxy {
    /// Starts a proxy on free ports, on its core, and waits until it answers. Says why that is not possible.
    pub(crate) fn start(world: &World, kind: Kind, plane: Plane) -> Result<Self, String> {
        if let Some(reason) = peers::lacks(kind, plane) {
            return Err(reason.to_owned());
        }
        world.programs.of(kind)?;
        Self::try_start(world, kind, plane).map_err(|error| format!("{error:#}"))
    }

    fn try_start(world: &World, kind: Kind, plane: Plane) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = world.directory.join(format!("{}-{number}", kind.name().to_lowercase()));
        fs::create_dir_all(directory.join("tmp"))?;
        let is_service = kind == Kind::Tidegate && plane == Plane::Tcp;
        let setup = Setup {
            plane,
            addr: free(if is_service { CLUSTER_IP } else { Ipv4Addr::LOCALHOST })?,
            https: free(Ipv4Addr::LOCALHOST)?,
            admin: free(Ipv4Addr::LOCALHOST)?,
            backend: if plane == Plane::Tcp { world.tcp } else { world.http },
            certificate: world.certificate.clone(),
            workers: world.workers,
            files: world.files,
            tidegate_args: world.tidegate_args.clone(),
            directory,
        };
        let hosts = if plane == Plane::Many { routes::many(0) } else { routes::one() };
        let mut held = BTreeMap::new();
        put(&setup.directory, peers::files(kind, &setup, &hosts, &world.programs), &mut held)?;
        let mut command = peers::start(kind, &setup, &world.programs).map_err(anyhow::Error::msg)?;
        let log = fs::File::create(setup.directory.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(&setup.directory);
        let child = Self::spawn(&mut command, world.cores)?;
        let mut proxy = Self { kind, setup, child, held };
        proxy.wait_until_it_answers(hosts.last())?;
        Ok(proxy)
    }

    fn spawn(command: &mut Command, cores: Option<(usize, usize)>) -> anyhow::Result<Child> {
        process::pin(cores.map(|(proxy, _)| proxy));
        let child = command.spawn();
        process::pin(cores.map(|(_, load)| load));
        Ok(child?)
    }

    fn wait_until_it_answers(&mut self, host: Option<&Host>) -> anyhow::Result<()> {
        let addr = self.setup.addr;
        let (mut exited, mut last) = (false, Ok(()));
        let answers = until(START, || {
            exited = !matches!(self.child.try_wait(), Ok(None));
            last = match (self.setup.plane, host) {
                (Plane::One | Plane::Many, Some(host)) => {
                    let path = host.prefixes.last().map_or("/", String::as_str);
                    http1::get(addr, &host.name, path).and_then(|answer| match answer.status {
                        200 => Ok(()),
                        status => bail!("{}{path} is answered {status}", host.name),
                    })
                }
                _ => idle(addr).map(drop),
            };
            exited || last.is_ok()
        });
        if exited || answers.is_err() {
            let last = last.err().map_or_else(|| "exited".to_owned(), |error| format!("{error:#}"));
            bail!("it does not serve on {addr}: {last}; it said: {}", self.log());
        }
        Ok(())
    }

    /// The end of what it has said.
    fn log(&self) -> String {
        let mut said = String::new();
        let _ = fs::File::open(self.setup.directory.join("log")).and_then(|mut file| file.read_to_string(&mut said));
        let lines: Vec<&str> = said.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ").chars().take(600).collect()
    }

    pub(crate) fn cpu(&self) -> Duration {
        process::cpu(self.child.id())
    }

    pub(crate) fn pss(&self) -> u64 {
        process::pss(self.child.id())
    }

    /// Writes the configuration with so many changes and has it taken up; returns when that began, not when it is done.
    pub(crate) fn change(&mut self, changes: usize, programs: &Programs) -> anyhow::Result<Instant> {
        let reload = peers::reload(self.kind).map_err(anyhow::Error::msg)?;
        let files = peers::files(self.kind, &self.setup, &routes::many(changes), programs);
        let load = (reload == Reload::Load).then(|| files.iter().map(|file| file.text.as_str()).collect::<String>());
        let begun = Instant::now();
        put(&self.setup.directory, files, &mut self.held)?;
        match reload {
            Reload::Watches => {}
            Reload::Signal(signal) => process::signal(self.child.id(), signal),
            Reload::Load => {
                let body = load.unwrap_or_default().into_bytes();
                let fields = "Content-Type: application/json\r\nConnection: close\r\n";
                let host = self.setup.admin.to_string();
                let mut stream = http1::connect(self.setup.admin)?;
                // It says no length; when it has answered, the configuration is live.
                stream.write_all(&http1::request("POST", &host, "/load", fields, &body))?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer)?;
                anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "/load was answered {answer}");
            }
        }
        Ok(begun)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let all = process::tree(self.child.id());
        process::signal(self.child.id(), Signal::TERM);
        // Errors here change nothing: what is over need not be ended.
        let _ = until(STOP, || !matches!(self.child.try_wait(), Ok(None)));
        if matches!(self.child.try_wait(), Ok(None)) {
            all.into_iter().for_each(|pid| process::signal(pid, Signal::KILL));
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.setup.directory);
    }
}

/// Writes those files that are not as they should be, each at once under its name.
fn put(directory: &Path, files: Vec<File>, held: &mut BTreeMap<PathBuf, String>) -> anyhow::Result<()> {
    for File { path, text } in files {
        if held.get(&path) == Some(&text) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let new = directory.join("tmp/new");
        fs::write(&new, &text)?;
        fs::rename(&new, &path)?;
        held.insert(path, text);
    }
    Ok(())
}

/// A TCP connection that reaches the back end and stays.
pub(crate) fn idle(addr: SocketAddr) -> anyhow::Result<std::net::TcpStream> {
    let mut stream = http1::connect(addr)?;
    stream.write_all(&[order::IDLE])?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

fn until(time: Duration, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + time;
    while !done() {
        anyhow::ensure!(Instant::now() < deadline, "not within {time:?}");
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A port that nobody has. Each is given out once, so that two proxies never get the same.
fn free(ip: Ipv4Addr) -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(FIRST_PORT);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        anyhow::ensure!(port <= LAST_PORT, "there is no free port");
        if TcpListener::bind((ip, port)).is_ok() {
            return Ok((ip, port).into());
        }
    }
}
