//! A control plane as a test sees it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use super::{
    Failure, Tier,
    directory::Directory,
    machine,
    owner::{self, Owner},
    pki::token_kubeconfig,
    programs::Programs,
    supervisor::PROXIES,
};
use crate::process;

/// Control planes of a single test at once: each takes half a GiB, and two cores start no more in reasonable time.
const OWN: usize = 2;

/// How long a new namespace may take to have its service account.
const NAMESPACE: Duration = Duration::from_secs(60);

/// An API server with etcd, controller manager and scheduler, which end with this, or with this process.
#[derive(Debug)]
pub struct ControlPlane {
    owner: Owner,
    programs: Programs,
    config: Config,
    kubeconfig: PathBuf,
    /// Numbers for whatever has to have a name of its own.
    next: AtomicU32,
    _permit: Option<SemaphorePermit<'static>>,
}

impl ControlPlane {
    /// The one that all tests of this process have together: take a namespace of your own, and stop nothing. `None` where it
    /// cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// If it does not start; and in CI, if it cannot be had.
    pub async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<ControlPlane>> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(Tier::ControlPlane, None)).await.as_ref()
    }

    /// One for this test alone, which may be hurt. `None` where it cannot be had, which is said on stderr.
    ///
    /// # Panics
    /// As [`Self::shared`] does.
    pub async fn own() -> Option<Self> {
        static LEFT: Semaphore = Semaphore::const_new(OWN);
        let permit = LEFT.acquire().await.expect("nobody closes it");
        Self::start(Tier::ControlPlane, Some(permit)).await
    }

    pub(super) async fn start(tier: Tier, permit: Option<SemaphorePermit<'static>>) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let programs = match machine::check(tier).and_then(|()| Programs::find(tier)) {
            Ok(programs) => programs,
            Err(why) => return skipped(&why),
        };
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let start = move || -> Result<Owner, Failure> {
            let mut lines = Vec::new();
            let mut say = |line: &str| lines.push(line.to_owned());
            Owner::start(&process::beside("cluster"), Directory::named(&name)?, tier, false, &mut say)
        };
        let started = tokio::task::spawn_blocking(start).await.expect("it does not panic");
        let owner = started.unwrap_or_else(|error| panic!("the cluster does not start: {error}"));
        let kubeconfig = owner.directory().file("admin.kubeconfig");
        let read = Kubeconfig::read_from(&kubeconfig).expect("we wrote it");
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let config = config.expect("it has all that a client needs");
        Some(Self { owner, programs, config, kubeconfig, next: AtomicU32::new(0), _permit: permit })
    }

    /// A kubeconfig of an administrator, for processes of this machine.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with an administrator's rights. It belongs to the runtime that this is called in.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn client(&self) -> Client {
        Client::try_from(self.config.clone()).expect("the configuration is ours")
    }

    /// What `kubectl` prints. Like all that follows, it blocks the calling thread.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|error| panic!("kubectl {}: {error}", arguments.join(" ")))
    }

    /// The same.
    ///
    /// # Errors
    /// What it complains of.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        output(self.kubectl_command().args(arguments), "")
    }

    /// A `kubectl` that is to be given arguments, as an administrator.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.programs.path("kubectl"));
        for name in PROXIES {
            command.env_remove(name);
        }
        command.env("KUBECONFIG", self.kubeconfig());
        // It remembers what kinds there are by the server's address, which other clusters have had.
        command.env("KUBECACHEDIR", self.directory().file("kubectl"));
        command
    }

    /// Applies manifests, as `kubectl apply --server-side` does.
    ///
    /// # Panics
    /// If one is refused.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        self.try_apply(manifests, &[]).unwrap_or_else(|error| panic!("{error}\nin\n{manifests}"));
    }

    /// The same for objects that name no namespace of their own.
    ///
    /// # Panics
    /// If one is refused.
    #[track_caller]
    pub fn apply_in(&self, namespace: &str, manifests: &str) {
        self.try_apply(manifests, &["-n", namespace]).unwrap_or_else(|error| panic!("{error}\nin\n{manifests}"));
    }

    /// The same with more arguments, such as `--dry-run=server`.
    ///
    /// # Errors
    /// Why one is refused.
    pub fn try_apply(&self, manifests: &str, more: &[&str]) -> Result<String, String> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        output(self.kubectl_command().args(arguments).args(more), manifests)
    }

    /// A new namespace, with its service account.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    pub fn namespace(&self, prefix: &str) -> Namespace {
        let name = format!("{prefix}-{}", self.number());
        self.kubectl(&["create", "namespace", &name]);
        let timeout = format!("--timeout={}s", NAMESPACE.as_secs());
        self.kubectl(&["wait", "--for=create", "serviceaccount/default", "-n", &name, &timeout]);
        let mut delete = self.kubectl_command();
        delete.args(["delete", "namespace", &name, "--wait=false", "--ignore-not-found"]);
        Namespace { name, delete }
    }

    /// A new token of a service account, for an hour.
    ///
    /// # Panics
    /// If there is no such account.
    #[track_caller]
    pub fn token(&self, namespace: &str, service_account: &str) -> String {
        self.kubectl(&["create", "token", service_account, "-n", namespace]).trim().to_owned()
    }

    /// A kubeconfig of whoever has this token.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn user_kubeconfig(&self, token: &str) -> PathBuf {
        self.user_kubeconfig_at(&self.config.cluster_url.to_string(), token)
    }

    pub(super) fn user_kubeconfig_at(&self, server: &str, token: &str) -> PathBuf {
        let path = self.directory().file(&format!("user-{}.kubeconfig", self.number()));
        let text = token_kubeconfig(self.directory(), server, token);
        fs::write(&path, text.expect("the cluster has a CA")).expect("the directory is ours");
        path
    }

    /// Kills the API server.
    ///
    /// # Panics
    /// If this one is shared.
    pub async fn stop_api_server(&self) {
        self.order(&["stop kube-apiserver"]).await;
    }

    /// Starts it again, at the same address, and waits until it is ready.
    ///
    /// # Panics
    /// If this one is shared, or does not start.
    pub async fn start_api_server(&self) {
        self.order(&["start kube-apiserver"]).await;
    }

    /// Kills etcd and starts it again.
    ///
    /// # Panics
    /// If this one is shared, or does not start.
    pub async fn restart_etcd(&self) {
        self.order(&["stop etcd", "start etcd"]).await;
    }

    /// Where it keeps what it writes, such as `logs`.
    pub fn directory(&self) -> &Directory {
        self.owner.directory()
    }

    /// The supervisor's process.
    pub fn supervisor(&self) -> u32 {
        self.owner.id()
    }

    /// Tells the supervisor to do something.
    pub(super) async fn order(&self, orders: &[&str]) {
        for order in orders {
            let (directory, question) = (self.directory().clone(), (*order).to_owned());
            let asked = tokio::task::spawn_blocking(move || owner::ask(&directory, &question)).await;
            asked.expect("it does not panic").unwrap_or_else(|error| panic!("{order}: {error}"));
        }
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// A namespace, which is deleted in the background when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    delete: Command,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.delete.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The cluster may have gone already; then so has the namespace.
        if let Ok(mut child) = self.delete.spawn() {
            thread::spawn(move || drop(child.wait()));
        }
    }
}

/// What a command prints, given this.
pub(super) fn output(command: &mut Command, input: &str) -> Result<String, String> {
    let name = Path::new(command.get_program()).display().to_string();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    // Whoever does not read all of it says why.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{} {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Says why tests with a cluster do nothing here.
pub(crate) fn skipped<T>(why: &Failure) -> Option<T> {
    assert!(std::env::var_os("CI").is_none(), "CI must have a cluster: {why}");
    eprintln!("skipped: {why}");
    None
}
