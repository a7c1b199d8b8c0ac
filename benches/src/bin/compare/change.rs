//! A change of the configuration at ten thousand routes: one host gets one more path, while requests to the others go on at
//! a fixed rate. Live is when a new connection is answered by the new route, and from then on always.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use crate::{
    backend, http1,
    load::{Expected, Load, Opening, Outcome, Plan},
    peers::{self, Plane},
    programs::Kind,
    results::{Cell, Changes},
    routes,
    world::{Proxy, World},
};

/// Requests per second meanwhile: enough for a failure to show, little enough to leave the proxy its core.
const RATE: f64 = 1_000.0;
const CONNECTIONS: usize = 32;

/// A change that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// All changes together, for the load.
const ALL: Duration = Duration::from_secs(120);

/// Between two looks: more would take the proxy's core from what it is doing.
const LOOK: Duration = Duration::from_millis(1);

/// So many answers in a row by the new route, and it is live: an old process may still take some connections.
const IN_A_ROW: usize = 30;

/// Before each change things are quiet for so long.
const QUIET: Duration = Duration::from_millis(500);

/// Changes one after the other in one process.
pub(crate) fn measure(world: &World, kind: Kind, changes: usize) -> Cell<Changes> {
    if let Err(reason) = peers::reload(kind) {
        return Cell::Missing(reason.to_owned());
    }
    let proxy = Proxy::start(world, kind, Plane::Many).map_err(anyhow::Error::msg);
    proxy.and_then(|mut proxy| all(world, &mut proxy, changes)).into()
}

fn all(world: &World, proxy: &mut Proxy, changes: usize) -> anyhow::Result<Changes> {
    let (requests, stop) = (routes::mix(), AtomicBool::new(false));
    let load = Load::connect(Plan {
        addr: proxy.setup.addr,
        connections: CONNECTIONS,
        requests: &requests,
        answer: Expected::Http(backend::SMALL),
        opening: Opening::Nothing,
        reconnect: false,
        rate: Some(RATE),
        time: ALL,
        stop: Some(&stop),
    })?;
    let (live, outcome) = thread::scope(|scope| {
        let load = scope.spawn(|| load.run());
        let live: anyhow::Result<Vec<f64>> = (1..=changes).map(|number| one(world, proxy, number)).collect();
        sleep(QUIET);
        stop.store(true, Ordering::Relaxed);
        let outcome = load.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the load panicked")));
        (live, outcome)
    });
    let Outcome { done, failed, first_failure, .. } = outcome?;
    Ok(Changes { live: live?, requests: done, failed, first_failure })
}

/// Milliseconds until change `number` is live.
fn one(world: &World, proxy: &mut Proxy, number: usize) -> anyhow::Result<f64> {
    sleep(QUIET);
    let (addr, host, path) = (proxy.setup.addr, routes::host_name(0), routes::added(number));
    let before = http1::get(addr, &host, &path)?;
    ensure!(before.status == 404, "the path is answered {} before it is there", before.status);
    let begun = proxy.change(number, &world.programs)?;
    let mut first: Option<Instant> = None;
    let mut in_a_row = 0;
    while in_a_row < IN_A_ROW {
        ensure!(begun.elapsed() < PATIENCE, "change {number} is not live within {PATIENCE:?}");
        // A connection that a process on its way out has dropped is no answer of the new one.
        if http1::get(addr, &host, &path).is_ok_and(|answer| answer.status == 200) {
            first.get_or_insert_with(Instant::now);
            in_a_row += 1;
        } else {
            (first, in_a_row) = (None, 0);
        }
        sleep(LOOK);
    }
    let live = first.context("there was a first answer")?;
    Ok(live.duration_since(begun).as_secs_f64() * 1e3)
}
