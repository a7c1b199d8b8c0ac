//! What can be done with the demo while it runs, and how it looks to its page.

use std::{
    collections::VecDeque,
    iter,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use anyhow::{Context, bail};
use http::HeaderValue;
use tidegate_crd::{Document, Kind, Object, ObjectRef};

use super::pods::{self, DemoPod};
use crate::{
    admin::{
        demo::{AFFINITY_SERVICE, Acting, Action, Demo, Serving},
        view::{DemoPodView, DemoView, LanesView},
    },
    compile::rows::ServiceRow,
    control::files::Batch,
    snapshot::Snapshot,
};

/// Those of which there may be more.
const APP: &str = "kubia";

/// Living kubia pods: what can still be told apart at a glance.
const KUBIA_PODS_MAX: usize = 8;

/// Killed pods whose counters and logs are kept: nobody looks for older ones.
const GONE_MAX: usize = 20;

/// For a change to be live. It takes milliseconds; a machine may be busy.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The running demo.
#[derive(Debug)]
pub(super) struct Play {
    /// To the control loop.
    changes: mpsc::Sender<Batch>,
    /// The origin of the demo's page, as the pods know it.
    page: Arc<OnceLock<HeaderValue>>,
    serving: OnceLock<Serving>,
    /// Whoever acts holds it: one thing is done after the other.
    acting: tokio::sync::Mutex<()>,
    cast: Mutex<Cast>,
    /// In milliseconds since the Unix epoch.
    started: u64,
    /// The Pod that new ones are made after.
    template: Document,
    /// The Service whose affinity can be changed.
    service: Document,
}

/// All pods that are or were.
#[derive(Debug)]
struct Cast {
    living: Vec<DemoPod>,
    /// The oldest first.
    gone: VecDeque<DemoPod>,
    /// The number of the next one: 0 is kubia-a.
    next: u32,
    /// The address of kubia-a; who is added lives in the network after its own.
    first: Ipv4Addr,
}

impl Play {
    /// Starts the pods of the manifests. What is done later goes to `changes`.
    pub(super) async fn start(documents: &mut [Document], changes: mpsc::Sender<Batch>) -> anyhow::Result<Self> {
        let find = |kind: Kind, name: &str| {
            let reference = ObjectRef::new(kind, "", name);
            let found = documents.iter().find(|document| document.object.object_ref() == reference);
            found.cloned().with_context(|| format!("the examples lack {reference}"))
        };
        let (template, service) = (find(Kind::Pod, &pod_name(0))?, find(Kind::Service, AFFINITY_SERVICE)?);
        let Object::Pod(pod) = &template.object else { bail!("the template is no Pod") };
        let first = pod.status.iter().find_map(|status| status.pod_ip.as_ref()?.parse().ok());
        let first = first.context("the template has no address")?;
        let page = Arc::default();
        let living = pods::start_all(documents, &page).await?;
        let next = living.iter().filter(|pod| pod.app == APP).count() as u32;
        let cast = Mutex::new(Cast { living, gone: VecDeque::new(), next, first });
        Ok(Self {
            changes,
            page,
            serving: OnceLock::new(),
            acting: Default::default(),
            cast,
            started: tidegate_l4::worker::now().0,
            template,
            service,
        })
    }

    /// The names of the pods that live.
    pub(super) fn living(&self) -> Vec<String> {
        self.cast().living.iter().map(|pod| pod.pod.name().to_owned()).collect()
    }

    fn cast(&self) -> MutexGuard<'_, Cast> {
        self.cast.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn do_it(&self, action: Action) -> Result<(), String> {
        let _acting = self.acting.lock().await;
        match action {
            Action::Kill(name) => self.kill(&name).await,
            Action::Add => self.add().await,
            Action::Affinity { client_ip } => self.set_affinity(client_ip).await,
        }
    }

    async fn kill(&self, name: &str) -> Result<(), String> {
        let mut pod = self.cast().take(name).ok_or_else(|| format!("there is no pod {name}"))?;
        pod.pod.kill().await;
        let app = pod.app.clone();
        self.cast().bury(pod);
        self.change(Batch { delete: vec![ObjectRef::new(Kind::Pod, "", name)], ..Batch::default() })?;
        self.until(|snapshot| !is_endpoint(snapshot, &app, name)).await
    }

    async fn add(&self) -> Result<(), String> {
        let (name, ip) = self.cast().newcomer()?;
        let mut document = self.template.clone();
        let Object::Pod(manifest) = &mut document.object else { return Err("the template is no Pod".to_owned()) };
        manifest.metadata.name = Some(name.clone());
        pods::set_ip(manifest, ip);
        let pod = pods::start(manifest, &self.page).await.map_err(|error| error.to_string())?;
        self.cast().living.push(pod);
        self.change(Batch { apply: vec![document], ..Batch::default() })?;
        self.until(|snapshot| is_endpoint(snapshot, APP, &name)).await
    }

    async fn set_affinity(&self, client_ip: bool) -> Result<(), String> {
        let mut document = self.service.clone();
        let Object::Service(service) = &mut document.object else { return Err("there is no such Service".to_owned()) };
        service.spec.get_or_insert_default().session_affinity = Some(affinity(client_ip).to_owned());
        self.change(Batch { apply: vec![document], ..Batch::default() })?;
        self.until(|snapshot| has_affinity(snapshot) == client_ip).await
    }

    fn change(&self, batch: Batch) -> Result<(), String> {
        self.changes.send(batch).map_err(|_| "the demo is about to end".to_owned())
    }

    /// Waits for a configuration of which `is_so` is true.
    async fn until(&self, is_so: impl Fn(&Snapshot) -> bool) -> Result<(), String> {
        let Some(serving) = self.serving.get() else { return Err("the demo is about to begin".to_owned()) };
        let mut snapshots = serving.snapshots.clone();
        let so = async { snapshots.wait_for(|snapshot| snapshot.as_deref().is_some_and(&is_so)).await.map(drop) };
        match tokio::time::timeout(LIVE_TIMEOUT, so).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the demo is about to end".to_owned()),
            Err(_) => Err(format!("that is done, but not live after {} seconds", LIVE_TIMEOUT.as_secs())),
        }
    }
}

impl Demo for Play {
    fn serving(&self, serving: Serving) {
        if let Ok(origin) = HeaderValue::from_str(&at("http", reachable(serving.admin), "")) {
            // Both are set once, as this is called once.
            let _ = self.page.set(origin);
        }
        let _ = self.serving.set(serving);
    }

    fn view(&self) -> Option<DemoView> {
        let serving = self.serving.get()?;
        let snapshot = serving.snapshots.borrow().clone()?;
        let [admin, http] = [serving.admin, serving.http].map(reachable);
        let https = serving.https.map(reachable);
        let cast = self.cast();
        Some(DemoView {
            started: self.started,
            page: at("http", admin, "/demo"),
            admin: at("http", admin, "/"),
            http: http.to_string(),
            https: https.map(|https| https.to_string()).unwrap_or_default(),
            pods: cast.living.iter().map(pod_view).collect(),
            gone: cast.gone.iter().map(pod_view).collect(),
            can_add: cast.has_room(),
            affinity: affinity(has_affinity(&snapshot)).to_owned(),
            lanes: lanes(&snapshot, http, https),
        })
    }

    fn log(&self, pod: &str) -> Option<String> {
        let cast = self.cast();
        cast.living.iter().chain(&cast.gone).find(|known| known.pod.name() == pod).map(|known| known.pod.log())
    }

    fn act(self: Arc<Self>, action: Action) -> Acting {
        Box::pin(async move { self.do_it(action).await })
    }
}

impl Cast {
    fn has_room(&self) -> bool {
        self.living.iter().filter(|pod| pod.app == APP).count() < KUBIA_PODS_MAX
    }

    /// Whoever is taken is to be buried.
    fn take(&mut self, name: &str) -> Option<DemoPod> {
        let at = self.living.iter().position(|pod| pod.pod.name() == name)?;
        Some(self.living.remove(at))
    }

    fn bury(&mut self, pod: DemoPod) {
        if self.gone.len() == GONE_MAX {
            self.gone.pop_front();
        }
        self.gone.push_back(pod);
    }

    /// The name and address of one more kubia pod: none that another had.
    fn newcomer(&mut self) -> Result<(String, IpAddr), String> {
        if !self.has_room() {
            return Err(format!("there are {KUBIA_PODS_MAX} {APP} pods: kill one first"));
        }
        let is_free = |ip: &IpAddr| self.living.iter().all(|pod| pod.ip != *ip);
        let numbers = iter::successors(Some(self.next), |number| Some(number + 1));
        // As few live, one of the next few is free.
        let free = numbers.map(|number| (number, address(self.first, number))).find(|(_, ip)| is_free(ip));
        let (number, ip) = free.ok_or("there is no address for one more pod")?;
        self.next = number + 1;
        Ok((pod_name(number), ip))
    }
}

/// kubia-a, …, kubia-z, kubia-aa, …
fn pod_name(number: u32) -> String {
    let mut letters = Vec::new();
    let mut rest = Some(number);
    while let Some(number) = rest {
        letters.push(char::from(b'a' + (number % 26) as u8));
        rest = (number / 26).checked_sub(1);
    }
    letters.reverse();
    format!("{APP}-{}", letters.into_iter().collect::<String>())
}

/// The address of a pod that was added: in 127.10.1.0/24 if the first is in 127.10.0.0/24. After 254 of them they come again.
fn address(first: Ipv4Addr, number: u32) -> IpAddr {
    let [a, b, c, _] = first.octets();
    IpAddr::V4(Ipv4Addr::new(a, b, c.wrapping_add(1), 1 + (number % 254) as u8))
}

fn pod_view(pod: &DemoPod) -> DemoPodView {
    DemoPodView {
        name: pod.pod.name().to_owned(),
        app: pod.app.clone(),
        address: pod.ip.to_string(),
        requests: pod.pod.requests(),
        connections: pod.pod.used_connections(),
    }
}

fn affinity(client_ip: bool) -> &'static str {
    if client_ip { "ClientIP" } else { "None" }
}

fn row<'a>(snapshot: &'a Snapshot, service: &str) -> Option<&'a ServiceRow> {
    snapshot.services.iter().map(|row| &**row).find(|row| &*row.name == service)
}

fn has_affinity(snapshot: &Snapshot) -> bool {
    row(snapshot, AFFINITY_SERVICE).is_some_and(|row| row.affinity_seconds.is_some())
}

/// Whether a Service that selects pods by the label `app` has this one. (What was written by hand as an endpoint remains one.)
fn is_endpoint(snapshot: &Snapshot, app: &str, pod: &str) -> bool {
    let selects = |service: &str| {
        let selects = |(key, value): &(Box<str>, Box<str>)| (&**key, &**value) == ("app", app);
        row(snapshot, service).is_some_and(|row| row.selector.iter().any(selects))
    };
    let mut ports = snapshot.table.ports().filter(|port| selects(&port.config.name.service));
    ports.any(|port| port.config.endpoints.iter().any(|endpoint| endpoint.pod.as_deref() == Some(pod)))
}

/// What `examples/browser.yaml` and `examples/node-port.yaml` offer to a browser.
fn lanes(snapshot: &Snapshot, http: SocketAddr, https: Option<SocketAddr>) -> LanesView {
    let node_port = |service: &str| {
        let number = row(snapshot, service).and_then(|row| row.ports.first()?.node_port);
        number.map(|number| at("http", SocketAddr::new(super::NODE_ADDRESSES[0], number), "/")).unwrap_or_default()
    };
    let host = |name: &str, path: &str| url("http", name, http.port(), path);
    LanesView {
        node_port: node_port(AFFINITY_SERVICE),
        client_ip: node_port("kubia-clientip"),
        ingress: at("http", http, "/kubia"),
        cookie: at("http", http, "/sticky"),
        cookie_name: "kubia-session".to_owned(),
        cookie_path: "/sticky".to_owned(),
        hosts: vec![host("kubia.localhost", "/"), host("kubia.localhost", "/quiz"), host("quiz.localhost", "/")],
        http2: https.map(|https| at("https", https, "/kubia")).unwrap_or_default(),
    }
}

/// An address as a browser of this machine reaches it.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), addr.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), addr.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => addr,
    }
}

fn at(scheme: &str, addr: SocketAddr, path: &str) -> String {
    let ip = addr.ip();
    let host = if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    url(scheme, &host, addr.port(), path)
}

/// As browsers write it, who leave out the port that everybody knows.
fn url(scheme: &str, host: &str, port: u16, path: &str) -> String {
    match (scheme, port) {
        ("http", 80) | ("https", 443) => format!("{scheme}://{host}{path}"),
        _ => format!("{scheme}://{host}:{port}{path}"),
    }
}

#[cfg(test)]
#[path = "play_tests.rs"]
mod tests;
