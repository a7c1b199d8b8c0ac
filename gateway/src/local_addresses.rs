//! LoadBalancer IPs as addresses of this machine.
//!
//! Whatever leads packets for such an IP to a node, its kernel takes only those for addresses that are its own. So each that is not
//! gets a route of type `local`, as `ip route add local IP dev lo` makes it, which takes CAP_NET_ADMIN. The routes are marked: those that a
//! killed process left behind are taken away by the next. Nobody is told of the addresses here (ARP, NDP, BGP): that is for whoever leads
//! packets to the node.

#[cfg(target_os = "linux")]
mod linux;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, UdpSocket},
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use tidegate_crd::ObjectRef;
use tokio::sync::watch;

use crate::{
    admin::RuntimeStatus,
    compile::finding::{Finding, Severity},
};

/// How long the end of the process waits for its routes to be taken away: a few messages to the kernel.
const CLEAR_PATIENCE: Duration = Duration::from_secs(1);

/// Addresses, and the Service each is for.
type Owners = BTreeMap<IpAddr, Option<ObjectRef>>;

/// The addresses that this machine is to have, as long as the process runs.
#[derive(Clone, Debug)]
pub(crate) struct LocalAddresses {
    wanted: watch::Sender<Arc<Owners>>,
    /// Says that all are gone.
    cleared: Arc<std::sync::Mutex<mpsc::Receiver<()>>>,
}

impl LocalAddresses {
    /// None yet; those of an earlier process are taken away with the first that are wanted. What cannot be had is said to `status`.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(crate) fn start(status: Arc<RuntimeStatus>) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let wanted = watch::Sender::new(Arc::<Owners>::default());
        let mut changes = wanted.subscribe();
        let (clear, cleared) = mpsc::channel();
        let follow = async move {
            let mut said: Vec<Finding> = Vec::new();
            while changes.changed().await.is_ok() {
                let owners = changes.borrow_and_update().clone();
                let missing = make_local(&owners.keys().copied().collect()).await;
                let notes: Vec<Finding> = missing.iter().map(|(ip, why)| finding(*ip, why, &owners)).collect();
                notes.iter().filter(|note| !said.contains(note)).for_each(|note| tracing::warn!("{note}"));
                status.set_notes(notes.clone());
                said = notes;
                if owners.is_empty() {
                    let _ = clear.send(());
                }
            }
        };
        thread::Builder::new().name("addresses".to_owned()).spawn(move || runtime.block_on(follow))?;
        Ok(Self { wanted, cleared: Arc::new(std::sync::Mutex::new(cleared)) })
    }

    /// These and no others, from now on.
    pub(crate) fn want(&self, owners: Owners) {
        self.wanted.send_if_modified(|held| {
            let is_another = **held != owners;
            if is_another {
                *held = Arc::new(owners);
            }
            is_another
        });
    }

    /// Takes them all away, and waits for that: the process ends, and nobody takes over from it.
    pub(crate) fn clear(&self) {
        if self.wanted.borrow().is_empty() {
            return;
        }
        let cleared = self.cleared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while cleared.try_recv().is_ok() {}
        self.want(Owners::new());
        let _ = cleared.recv_timeout(CLEAR_PATIENCE);
    }
}

/// The verdict on an address that this machine does not have.
fn finding(ip: IpAddr, why: &str, owners: &Owners) -> Finding {
    Finding {
        severity: Severity::Warning,
        reason: "ForeignAddress",
        object: owners.get(&ip).cloned().flatten(),
        file: Path::new("listeners").into(),
        line: 0,
        field: Some("status.loadBalancer".to_owned()),
        message: format!(
            "{ip} is no address of this machine, and could not be made one ({why}): what is sent there does not arrive here."
        ),
        fix: format!("Grant the capability CAP_NET_ADMIN, or add it yourself: ip route add local {ip} dev lo."),
    }
}

/// Whether this machine has an address.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(not(target_os = "linux"))]
async fn make_local(wanted: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, String> {
    let foreign = wanted.iter().filter(|ip| !is_local(**ip));
    foreign.map(|ip| (*ip, "this can be done on Linux alone".to_owned())).collect()
}

#[cfg(target_os = "linux")]
use self::linux::make_local;
