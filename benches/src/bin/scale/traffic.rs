//! From a change of an EndpointSlice to the first response from a new pod: all ten pods of a Service are replaced by others, while
//! its Ingress is asked again and again, on a connection that stays and on a new one each time.

use std::{
    net::TcpStream,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tidegate_benches::http1;
use tokio::sync::oneshot;

use crate::{
    addresses::Block,
    changes::{Changes, World},
    cluster::PATIENCE,
    gateway::HTTP,
    objects::App,
    results::{Sample, Traffic},
    watcher::Watcher,
};

/// Between an answer and the next question.
const LOOK: Duration = Duration::from_micros(400);

/// Before each change things are quiet for so long: whatever the last one has woken is asleep again.
const QUIET: Duration = Duration::from_millis(100);

/// How many samples are taken of Services that are far apart.
const STEP: usize = 34;

/// Two ways to ask.
#[derive(Clone, Copy)]
enum Asking {
    /// On one connection.
    KeepAlive,
    /// On a new connection each time.
    Anew,
}

/// What one who asks has seen.
struct Seen {
    /// When the first response of a new pod was there.
    first: Instant,
    requests: u64,
    failed: u64,
}

/// So many changes, with others meanwhile or without.
pub(crate) async fn measure(world: &Arc<World>, samples: usize, others: u32) -> anyhow::Result<Traffic> {
    let watcher = Watcher::start(&world.cluster).await?;
    let changes = (others > 0).then(|| Changes::start(world, others));
    let mut traffic = Traffic::default();
    for number in 0..samples {
        // An even one.
        let service = number * STEP % world.services / 2 * 2;
        let (sample, seen) = one(world, &watcher, service).await?;
        traffic.samples.push(sample);
        traffic.requests += seen.iter().map(|seen| seen.requests).sum::<u64>();
        traffic.failed += seen.iter().map(|seen| seen.failed).sum::<u64>();
        if (number + 1).is_multiple_of(100) {
            eprintln!("  {} of {samples} samples", number + 1);
        }
    }
    if let Some(changes) = changes {
        traffic.others = changes.stop().await?;
    }
    Ok(traffic)
}

async fn one(world: &Arc<World>, watcher: &Watcher, service: usize) -> anyhow::Result<(Sample, [Seen; 2])> {
    tokio::time::sleep(QUIET).await;
    let app = App::new(service);
    let (old, new) = {
        let mut addresses = world.addresses();
        (addresses.of(service), addresses.renew(service)?)
    };
    let ask = |asking| {
        let (asked, began) = oneshot::channel();
        let host = app.host();
        let seen = tokio::task::spawn_blocking(move || ask(&host, asking, [old, new], asked));
        (began, seen)
    };
    let (kept, anew) = (ask(Asking::KeepAlive), ask(Asking::Anew));
    for began in [kept.0, anew.0] {
        // Whoever does not begin says why in the end.
        let _ = began.await;
    }
    let begun = Instant::now();
    let version = world.cluster.replace_slice(&app, new).await?;
    let written = Instant::now();
    let (kept, anew) = (kept.1.await??, anew.1.await??);
    let heard = watcher.when(&version).await?;
    let millis = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
    let sample = Sample {
        write: millis(begun, written),
        hearing: millis(begun, heard),
        keep_alive: [millis(written, kept.first), millis(heard, kept.first)],
        anew: [millis(written, anew.first), millis(heard, anew.first)],
    };
    Ok((sample, [kept, anew]))
}

/// Asks until a new pod answers. Anything but a pod's answer is a failure, which is said and counted.
fn ask(host: &str, asking: Asking, [old, new]: [Block; 2], asked: oneshot::Sender<()>) -> anyhow::Result<Seen> {
    let request = http1::request("GET", host, "/", "", &[]);
    let (mut kept, mut asked) = (None, Some(asked));
    let (begun, mut requests, mut failed) = (Instant::now(), 0, 0);
    loop {
        requests += 1;
        match once(&mut kept, &request) {
            Ok(block) if block == new => return Ok(Seen { first: Instant::now(), requests, failed }),
            Ok(block) if block == old => {}
            Ok(block) => bail!("{host} is answered by {}", block.ip(0)),
            Err(error) => {
                eprintln!("  {host}: {error:#}");
                (kept, failed) = (None, failed + 1);
            }
        }
        if let Asking::Anew = asking {
            kept = None;
        }
        if let Some(asked) = asked.take() {
            // Nobody waits for it if the other one has failed.
            let _ = asked.send(());
        }
        ensure!(begun.elapsed() < PATIENCE, "no new pod of {host} has answered within {PATIENCE:?}");
        sleep(LOOK);
    }
}

/// Asks once, on the connection of before if there is one. Whose pod has answered?
fn once(kept: &mut Option<TcpStream>, request: &[u8]) -> anyhow::Result<Block> {
    let stream = match kept {
        Some(stream) => stream,
        None => kept.insert(http1::connect(HTTP)?),
    };
    let answer = http1::exchange(stream, request)?;
    ensure!(answer.status == 200, "answered {}", answer.status);
    Block::of(&answer.body).with_context(|| format!("answered by {}", String::from_utf8_lossy(&answer.body)))
}
