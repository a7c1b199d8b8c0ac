//! The three proxies: where they are, how an expert would set each up, and their processes.

use std::{
    env, fs,
    io::Read,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;

use crate::{load, process};

/// How long a proxy may take until it answers.
const START: Duration = Duration::from_secs(10);

/// How long a proxy may take to end after SIGTERM before it is killed.
const STOP: Duration = Duration::from_secs(1);

/// A ClusterIP of the default range, on loopback.
const CLUSTER_IP: [u8; 4] = [127, 96, 0, 10];

const MODULES: [&str; 3] = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"];

const INSTALL: &str = "on Debian and Ubuntu: apt-get install -y haproxy nginx-light libnginx-mod-stream";

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tidegate,
    HaProxy,
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Tidegate, Self::HaProxy, Self::Nginx];
}

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    tidegate: PathBuf,
    haproxy: PathBuf,
    nginx: PathBuf,
    /// `None` where nginx has the module built in.
    stream_module: Option<PathBuf>,
}

/// Finds the programs, or says how to get them.
pub(crate) fn find(tidegate: PathBuf) -> anyhow::Result<Programs> {
    let directories: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .collect();
    let program = |name: &str| {
        let mut paths = directories.iter().map(|directory| directory.join(name));
        paths.find(|path| path.is_file()).with_context(|| format!("{name} is not installed; {INSTALL}"))
    };
    let stream_module =
        MODULES.iter().map(|path| Path::new(path).join("ngx_stream_module.so")).find(|path| path.is_file());
    let programs = Programs { tidegate, haproxy: program("haproxy")?, nginx: program("nginx")?, stream_module };
    let built_in = output(&programs.nginx, "-V").contains("--with-stream ");
    if programs.stream_module.is_none() && !built_in {
        bail!("nginx has no stream module; {INSTALL}");
    }
    Ok(programs)
}

impl Programs {
    /// What each program says of its version.
    pub(crate) fn versions(&self) -> [String; 3] {
        let first = |program, flag| output(program, flag).lines().next().unwrap_or_default().to_owned();
        let (tidegate, haproxy) = (first(&self.tidegate, "--version"), first(&self.haproxy, "-v"));
        let haproxy = haproxy.split(" 20").next().unwrap_or_default().to_owned();
        [tidegate, haproxy, first(&self.nginx, "-v").trim_start_matches("nginx version: ").to_owned()]
    }
}

/// What a program says when asked by one flag, wherever it says it.
fn output(program: &Path, flag: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else { return String::new() };
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

/// A running proxy; it ends with this value, also in a panic.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) addr: SocketAddr,
    child: Child,
    directory: PathBuf,
}

impl Proxy {
    /// Starts a proxy to `backend` on a free port, on the first of the cores, and waits until it answers.
    pub(crate) fn start(
        kind: Kind,
        programs: &Programs,
        backend: SocketAddr,
        cores: Option<(usize, usize)>,
    ) -> anyhow::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("tidegate-compare-{}-{number}", std::process::id()));
        fs::create_dir(&directory)?;
        let ip = if kind == Kind::Tidegate { CLUSTER_IP } else { [127, 0, 0, 1] };
        let addr = free(ip)?;
        let mut command = match kind {
            Kind::Tidegate => tidegate(programs, &directory, addr, backend)?,
            Kind::HaProxy => haproxy(programs, &directory, addr, backend)?,
            Kind::Nginx => nginx(programs, &directory, addr, backend)?,
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(directory.join("stderr"))?);
        process::pin(cores.map(|(proxy, _)| proxy));
        let child = command.spawn();
        process::pin(cores.map(|(_, load)| load));
        let mut proxy = Self { kind, addr, child: child.with_context(|| format!("{kind:?}"))?, directory };
        proxy.wait_until_it_answers()?;
        Ok(proxy)
    }

    pub(crate) fn cpu(&self) -> Duration {
        process::cpu(self.child.id())
    }

    pub(crate) fn pss(&self) -> u64 {
        process::pss(self.child.id())
    }

    fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while load::idle(self.addr, 1).is_err() {
            if Instant::now() > deadline || self.child.try_wait()?.is_some() {
                let mut said = String::new();
                fs::File::open(self.directory.join("stderr"))?.read_to_string(&mut said)?;
                bail!("{:?} does not answer on {}: {said}", self.kind, self.addr);
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let all = process::tree(self.child.id());
        process::signal(self.child.id(), Signal::TERM);
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(10));
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            all.into_iter().for_each(|pid| process::signal(pid, Signal::KILL));
        }
        // Both are only tidying up.
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn free(ip: [u8; 4]) -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((std::net::IpAddr::from(ip), 0))?.local_addr()?)
}

fn tidegate(programs: &Programs, directory: &Path, addr: SocketAddr, backend: SocketAddr) -> anyhow::Result<Command> {
    let manifests = directory.join("service.yaml");
    let (ip, port) = (addr.ip(), addr.port());
    fs::write(
        &manifests,
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: bench}}\nspec:\n  clusterIP: {ip}\n  ports: [{{port: {port}}}]\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: bench-1\n  \
             labels: {{kubernetes.io/service-name: bench}}\naddressType: IPv4\nports: [{{name: \"\", port: {}}}]\n\
             endpoints: [{{addresses: [{}]}}]\n",
            backend.port(),
            backend.ip(),
        ),
    )?;
    let mut command = Command::new(&programs.tidegate);
    command.args(["run", "--workers", "1", "--http", "127.0.0.1:0", "--drain-timeout", "100ms", "--admin"]);
    command
        .arg(free([127, 0, 0, 1])?.to_string())
        .arg("--manifests")
        .arg(manifests)
        .env("TIDEGATE_STATE_DIR", directory);
    Ok(command)
}

/// `splice-auto` is what makes HAProxy fast at bulk; it also costs it nothing elsewhere.
fn haproxy(programs: &Programs, directory: &Path, addr: SocketAddr, backend: SocketAddr) -> anyhow::Result<Command> {
    let config = directory.join("haproxy.cfg");
    fs::write(
        &config,
        format!(
            "global\n nbthread 1\n maxconn 8000\n maxpipes 50\n tune.maxpollevents 512\ndefaults\n mode tcp\n timeout connect 5s\n \
             timeout client 300s\n timeout server 300s\n option splice-auto\nlisten bench\n bind {addr} backlog 4096\n server one {backend}\n"
        ),
    )?;
    let mut command = Command::new(&programs.haproxy);
    command.arg("-db").arg("-f").arg(config);
    Ok(command)
}

/// The large buffer is what makes nginx fast at bulk; it costs it memory for each connection.
fn nginx(programs: &Programs, directory: &Path, addr: SocketAddr, backend: SocketAddr) -> anyhow::Result<Command> {
    let config = directory.join("nginx.conf");
    let module =
        programs.stream_module.as_ref().map(|path| format!("load_module {};\n", path.display())).unwrap_or_default();
    let at = directory.display();
    fs::write(
        &config,
        format!(
            "{module}daemon off;\nworker_processes 1;\npid {at}/nginx.pid;\nerror_log {at}/error.log crit;\n\
             events {{ worker_connections 18000; multi_accept on; }}\nstream {{\n  proxy_buffer_size 64k;\n  proxy_half_close on;\n  tcp_nodelay on;\n  \
             server {{ listen {addr} reuseport backlog=4096; proxy_pass {backend}; }}\n}}\n"
        ),
    )?;
    let mut command = Command::new(&programs.nginx);
    command.arg("-p").arg(directory).arg("-c").arg(config);
    Ok(command)
}
