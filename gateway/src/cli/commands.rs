//! What each subcommand does, but for `demo`.

use std::{io::Write, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use tidegate_l4::worker::now;

use super::{
    CheckArgs, ClusterArgs, ControllerArgs, ExplainArgs, GetArgs, PodArgs, RunArgs, TableOutput, What, host_name,
};
use crate::{
    admin::{client, tables, view::ConfigView},
    app::{App, Options, Source},
    check,
    compile::{
        allocate::Allocations,
        compile,
        objects::Objects,
        settings::{AddressSource, Settings},
    },
    control::{
        files::read_all,
        kubernetes::{Cluster, api_server::ApiServer},
        unix_seconds,
    },
    controller::{ControllerOptions, publish::Publish},
    explain::{self, Question},
    http::HttpOptions,
    pod::{Pod, PodOptions},
};

/// Stands for a Lease that is not wanted.
const OFF: &str = "off";

const UNEXPECTED: &str = "the answer of the admin address is not what was expected; is it a Tidegate of this version?";

pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let mut settings = args.serve.settings(args.cluster.kubernetes);
    let (source, controller) = if args.cluster.kubernetes {
        settings.addresses = AddressSource::Cluster;
        settings.serves_node = args.cluster.node;
        settings.classes.without_class = args.cluster.watch_ingress_without_class;
        let cluster = runtime.block_on(cluster(args.cluster, &settings.node_name))?;
        // Where no Ingress is served there is nothing to say about any.
        let serves_ingresses = args.http.0.or(args.https.0).is_some();
        let writes = serves_ingresses && args.controller.leader_election_id != OFF;
        let controller = writes.then(|| controller(args.controller, cluster.server().default_namespace()));
        (Source::Kubernetes(Box::new(cluster)), controller)
    } else {
        (Source::Files(args.manifests), None)
    };
    let options = Options {
        access_log: args.see.access_log(),
        nginx_metrics: args.see.nginx_metrics,
        source,
        settings,
        http: args.http.0,
        https: args.https.0,
        clients: HttpOptions {
            trusted_proxies: args.trusted_proxies,
            proxy_protocol: args.proxy_protocol,
            https_port: None,
        },
        admin: args.admin,
        metrics: args.metrics,
        dns: args.dns,
        dns_forward: args.dns_forward,
        workers: args.workers.unwrap_or_else(default_workers),
        drain_timeout: args.drain_timeout,
        remember: true,
        upgrade_socket: args.upgrade_socket,
        controller,
        demo: None,
    };
    runtime.block_on(serve(options, |app| print(&app.listening())))
}

async fn cluster(args: ClusterArgs, node_name: &str) -> anyhow::Result<Cluster> {
    let server = ApiServer::find(args.kubeconfig, args.context).await?;
    tracing::info!("the objects come from the API server at {}", server.url());
    let cluster = Cluster::new(server, &args.watch_namespace, node_name);
    Ok(match &args.cache_dir {
        Some(directory) => cluster.remembered_in(directory),
        None => cluster,
    })
}

/// What is written to the cluster, and who we are there: our pod, as it is told by the downward API, if this is one.
fn controller(args: ControllerArgs, default_namespace: &str) -> ControllerOptions {
    let of_pod = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let namespace = args.leader_namespace.clone().or_else(|| of_pod("POD_NAMESPACE"));
    let namespace = namespace.map_or_else(|| default_namespace.into(), Arc::from);
    let identity = of_pod("POD_NAME").unwrap_or_else(|| format!("{}_{:08x}", host_name(), fastrand::u32(..)));
    let lease = args.leader_election_id.as_str().into();
    let publish = args.publish();
    if publish == Publish::Nothing {
        tracing::info!(
            "Ingresses will show no address: neither --publish-service nor --publish-status-address says which"
        );
    }
    ControllerOptions { namespace, lease, identity: identity.into(), publish }
}

/// Runs until a signal comes, drains, and gives up draining at the second signal.
pub(super) async fn serve(
    options: Options,
    ready: impl FnOnce(&App) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let drain_timeout = options.drain_timeout;
    let mut signals = Signals::new()?;
    let app = tokio::select! {
        app = App::start(options) => app?,
        () = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    if app.access_log().is_some() {
        signals.catch_hangup()?;
    }
    ready(&app)?;
    tokio::select! {
        () = signals.end(&app) => {}
        () = app.superseded() => {}
    }
    let seconds = drain_timeout.as_secs_f64();
    tracing::info!("draining: connections have {seconds} s to end; a second signal cuts them");
    let drained = tokio::select! {
        () = app.drain(drain_timeout) => true,
        () = signals.next() => false,
    };
    if !drained {
        // Cut connections are over at once; their requests are logged before the process ends.
        drop(tokio::time::timeout(CUT_GRACE, app.drain(Duration::ZERO)).await);
    }
    tracing::info!("{}", if drained { "drained" } else { "cut" });
    drop(app);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let batch = read_all(&args.paths);
    let settings = Settings { classes: args.classes.settings(false), ..Settings::default() };
    let report = check::check(batch.apply, &settings, &batch.problems, batch.files);
    if args.output.is_some() {
        print(&serde_json::to_string_pretty(&report.to_json())?)?;
    } else {
        print(report.to_text(std::io::IsTerminal::is_terminal(&std::io::stdout())).trim_end())?;
    }
    Ok(ExitCode::from(report.exit_code()))
}

pub(super) fn explain(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let question = Question::parse(&args.target, &args.header, args.from).map_err(anyhow::Error::msg)?;
    if args.manifests.is_empty() {
        let admin = args.admin.unwrap_or_else(|| ([127, 0, 0, 1], 9901).into());
        let output = if args.output.is_some() { "" } else { "&output=text" };
        let path = format!("/explain?{}{output}", question.to_query());
        let answer = runtime()?.block_on(client::fetch(&admin.to_string(), &path))?;
        let answer: serde_json::Value = serde_json::from_slice(&answer).context(UNEXPECTED)?;
        match answer.as_str() {
            Some(text) => print(text.trim_end())?,
            None => print(&serde_json::to_string_pretty(&answer)?)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let batch = read_all(&args.manifests);
    let mut objects = Objects::default();
    objects.now = Some(unix_seconds());
    for document in batch.apply {
        objects.apply(document);
    }
    let compiled = compile(&objects, &args.serve.settings(false), &batch.problems, &Allocations::default(), None);
    let explanation = explain::explain(&compiled.snapshot, &question, now());
    if args.output.is_some() {
        print(&serde_json::to_string_pretty(&explanation.to_json())?)?;
    } else {
        print(explanation.to_text().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn get(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let answer = runtime()?.block_on(client::fetch(&args.admin.to_string(), "/config"))?;
    let view: ConfigView = serde_json::from_slice(&answer).context(UNEXPECTED)?;
    let wide = args.output == Some(TableOutput::Wide);
    let table = match (args.output, args.what) {
        (Some(TableOutput::Json), What::Services) => tables::json(&view, tables::Table::Services),
        (Some(TableOutput::Json), What::Endpoints) => tables::json(&view, tables::Table::Endpoints),
        (Some(TableOutput::Json), What::Ingresses) => tables::json(&view, tables::Table::Ingresses),
        (_, What::Services) => tables::services(&view, wide),
        (_, What::Endpoints) => tables::endpoints(&view, wide),
        (_, What::Ingresses) => tables::ingresses(&view, wide),
    };
    print(table.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pod(args: PodArgs) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let mut options = PodOptions::new(args.name, args.listen);
        options.proxy_protocol = args.proxy_protocol;
        let pod = Pod::start(options).await?;
        for addr in pod.http_addrs() {
            print(&format!("listening  http  {addr}"))?;
        }
        for addr in pod.udp_addrs() {
            print(&format!("listening  udp   {addr}"))?;
        }
        signals.next().await;
        tokio::select! {
            () = pod.shutdown() => {}
            () = signals.next() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// One thread for everything that is not a worker: admin, DNS, signals.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

pub(super) fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Writes to stdout; a reader that has gone away (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// How long cutting connections may take.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// Ctrl-C and SIGTERM.
pub(super) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// Only where there is a log to open anew: else SIGHUP ends the process, as it does everywhere.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    #[cfg(unix)]
    pub(super) fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup: None })
    }

    #[cfg(unix)]
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(unix)]
    fn catch_hangup(&mut self) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        self.hangup = Some(signal(SignalKind::hangup())?);
        Ok(())
    }

    /// Waits for the end; meanwhile SIGHUP opens the access log anew.
    #[cfg(unix)]
    async fn end(&mut self, app: &App) {
        let Some((log, mut hangup)) = app.access_log().zip(self.hangup.take()) else { return self.next().await };
        loop {
            tokio::select! {
                () = self.next() => return,
                _ = hangup.recv() => {
                    log.reopen();
                    tracing::info!("access log opened anew");
                }
            }
        }
    }

    #[cfg(not(unix))]
    fn catch_hangup(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    #[cfg(not(unix))]
    async fn end(&mut self, _: &App) {
        self.next().await;
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How long `demo` waits for connections after the first Ctrl-C: nobody wants to wait for a demo, whose page keeps some open.
pub(super) const DEMO_DRAIN: Duration = Duration::from_millis(500);
