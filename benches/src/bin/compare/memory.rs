//! Memory of new processes: idle, with idle connections, during and after a wave of busy ones, with many routes.

use std::{
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, sleep},
    time::Duration,
};

use anyhow::Context;

use crate::{
    backend, http1,
    load::{Expected, Load, Opening, Plan},
    peers::Plane,
    programs::Kind,
    results::{Cell, Memory, MemoryTcp},
    routes,
    world::{Proxy, World, idle},
};

/// Idle connections: fewer and more, so that what is allocated in blocks shows.
const CONNECTIONS: [usize; 2] = [1_000, 5_000];

/// Connections that are left alone so long are idle; allocators and proxies that give back late have done so.
const SETTLE: Duration = Duration::from_secs(4);

/// After a wave, the same for more.
const SETTLE_AFTER_WAVE: Duration = Duration::from_secs(10);

/// How long the wave lasts.
const WAVE: Duration = Duration::from_secs(2);

/// How often memory is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(200);

/// Connections of the requests that fill pools and caches.
const WARM: usize = 64;

/// Files of a process that are not connections.
const SPARE_FILES: u64 = 600;

/// HTTP: one process for connections, one for routes.
pub(crate) fn measure(world: &World, kind: Kind) -> Cell<Memory> {
    let one = Proxy::start(world, kind, Plane::One).map_err(anyhow::Error::msg);
    one.and_then(|proxy| connections(world, &proxy))
        .map(|memory| Memory { many_routes: many(world, kind), ..memory })
        .into()
}

fn connections(world: &World, proxy: &Proxy) -> anyhow::Result<Memory> {
    load(proxy, WARM, Duration::from_millis(500))?;
    sleep(SETTLE);
    let idle = proxy.pss();
    let mut held = Vec::new();
    let mut stages = [(0, 0); 2];
    for (count, stage) in CONNECTIONS.into_iter().zip(&mut stages) {
        let count = count.min(most(world));
        while held.len() < count {
            held.push(asked(proxy).with_context(|| format!("after {} connections", held.len()))?);
        }
        sleep(SETTLE);
        *stage = (count, proxy.pss());
    }
    drop(held);
    sleep(SETTLE);
    let closed = proxy.pss();
    let wave = wave(proxy, CONNECTIONS[1].min(most(world)));
    Ok(Memory {
        idle,
        connections: stages,
        closed,
        wave: wave.into(),
        many_routes: Cell::Missing("not yet".to_owned()),
    })
}

/// Connections that all ask at once: how many, most memory meanwhile, and memory some time after.
fn wave(proxy: &Proxy, count: usize) -> anyhow::Result<(usize, u64, u64)> {
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(proxy.pss(), Ordering::Relaxed);
                sleep(LOOK);
            }
        });
        let outcome = load(proxy, count, WAVE);
        done.store(true, Ordering::Relaxed);
        outcome
    })?;
    sleep(SETTLE_AFTER_WAVE);
    Ok((count, most.into_inner(), proxy.pss()))
}

fn many(world: &World, kind: Kind) -> Cell<u64> {
    let many = Proxy::start(world, kind, Plane::Many).map_err(anyhow::Error::msg);
    many.map(|proxy| {
        sleep(SETTLE);
        proxy.pss()
    })
    .into()
}

/// TCP: a connection has gone to the back end, and then does nothing.
pub(crate) fn measure_tcp(world: &World, kind: Kind) -> Cell<MemoryTcp> {
    let tcp = Proxy::start(world, kind, Plane::Tcp).map_err(anyhow::Error::msg);
    tcp.and_then(|proxy| {
        let open = |count| (0..count).map(|_| idle(proxy.setup.addr)).collect::<anyhow::Result<Vec<TcpStream>>>();
        // What is allocated once for all connections is not the price of one.
        drop(open(WARM)?);
        sleep(SETTLE);
        let idle = proxy.pss();
        let count = CONNECTIONS[1].min(most(world));
        let held = open(count)?;
        sleep(SETTLE);
        let connections = (count, proxy.pss());
        drop(held);
        Ok(MemoryTcp { idle, connections })
    })
    .into()
}

/// A connection that has been used once.
fn asked(proxy: &Proxy) -> anyhow::Result<TcpStream> {
    let mut stream = http1::connect(proxy.setup.addr)?;
    let answer = http1::exchange(&mut stream, &http1::request("GET", routes::HOST, "/", "", &[]))?;
    anyhow::ensure!(answer.status == 200, "answered {}", answer.status);
    Ok(stream)
}

fn load(proxy: &Proxy, connections: usize, time: Duration) -> anyhow::Result<()> {
    let requests = [http1::request("GET", routes::HOST, "/", "", &[])];
    let outcome = Load::connect(Plan {
        addr: proxy.setup.addr,
        connections,
        requests: &requests,
        answer: Expected::Http(backend::SMALL),
        opening: Opening::Nothing,
        reconnect: false,
        rate: None,
        time,
        stop: None,
    })?
    .run()?;
    anyhow::ensure!(outcome.failed <= outcome.done / 20, "{} failed: {:?}", outcome.failed, outcome.first_failure);
    Ok(())
}

/// Connections for which the proxy has files: each takes one to the client and may take one to the back end.
fn most(world: &World) -> usize {
    usize::try_from(world.files.saturating_sub(SPARE_FILES) / 2).unwrap_or(usize::MAX)
}
