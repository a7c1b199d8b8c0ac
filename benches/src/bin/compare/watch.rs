//! What it costs to be looked at: the same Tidegate in the same rounds, with nobody at its dashboard and with somebody, in an
//! order that is shuffled each time.

use std::{
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::ensure;

use crate::{
    http1,
    programs::Kind,
    results::{Cell, Sample, Watched},
    speed::Pace,
    workload::{Shape, WORKLOADS, Workload},
    world::{Proxy, World},
};

/// A request is told of when it is over, a connection when it begins and when it ends: one workload of each.
const LOADS: [Shape; 2] = [Shape::Small { reconnect: false }, Shape::Connections];

/// The pools and caches are filled, and whoever looks has seen something.
const WARM_UP: Duration = Duration::from_millis(400);

/// How often somebody who looks looks up.
const BLINK: Duration = Duration::from_millis(50);

/// The rows.
pub(crate) fn measure(world: &World, pace: Pace) -> Vec<Watched> {
    let rows = LOADS.into_iter().filter_map(|load| WORKLOADS.into_iter().find(|workload| workload.load == load));
    rows.map(|workload| Watched { label: workload.label.to_owned(), samples: row(world, workload, pace).into() })
        .collect()
}

/// Samples without and with somebody who looks.
fn row(world: &World, workload: Workload, pace: Pace) -> anyhow::Result<[Vec<Sample>; 2]> {
    let proxy = Proxy::start(world, Kind::Tidegate, workload.plane).map_err(anyhow::Error::msg)?;
    let mut samples = [Vec::new(), Vec::new()];
    for round in 1..=pace.rounds {
        let mut turns = [false, true];
        fastrand::shuffle(&mut turns);
        for is_watched in turns {
            let watcher = is_watched.then(|| Watcher::start(proxy.setup.admin)).transpose()?;
            workload.measure(&proxy, world, 0, WARM_UP, None)?;
            samples[usize::from(is_watched)].push(workload.measure(&proxy, world, round, pace.time, None)?);
            if let Some(watcher) = watcher {
                ensure!(watcher.seen() > 0, "nothing was seen of it");
            }
        }
    }
    Ok(samples)
}

/// Somebody at the dashboard; they leave with this value.
struct Watcher {
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watcher {
    fn start(admin: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = http1::connect(admin)?;
        stream.write_all(
            format!("GET /live HTTP/1.1\r\nHost: {admin}\r\nAccept: text/event-stream\r\n\r\n").as_bytes(),
        )?;
        stream.set_read_timeout(Some(BLINK))?;
        let (seen, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counter, stopped) = (seen.clone(), stop.clone());
        let look = move || {
            let mut buffer = vec![0; 64 << 10];
            while !stopped.load(Ordering::Relaxed) {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    // Each event of the tail has an id.
                    Ok(n) => {
                        let ids = buffer[..n].windows(5).filter(|bytes| bytes == b"\"id\":").count();
                        counter.fetch_add(ids as u64, Ordering::Relaxed);
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(_) => break,
                }
            }
        };
        Ok(Self { seen, stop, thread: Some(thread::spawn(look)) })
    }

    /// Events so far.
    fn seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One that panicked has seen nothing, which is said already.
        drop(self.thread.take().map(thread::JoinHandle::join));
    }
}

impl Watched {
    /// The ratio of the CPU with somebody to that with nobody, round by round.
    pub(crate) fn ratios(&self) -> Vec<f64> {
        let Cell::Measured([nobody, somebody]) = &self.samples else { return Vec::new() };
        let one = |with: &Sample| {
            let without = nobody.iter().find(|without| without.round == with.round)?;
            Some(with.cpu() / without.cpu())
        };
        somebody.iter().filter_map(one).collect()
    }
}
