//! Hours of a cluster's life: pods are replaced all the time, Services and Ingresses change, applications come and go. Memory is
//! noted once a minute, and requests are sent meanwhile.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_benches::http1;
use tidegate_crd::{
    core::{EndpointSlice, Service},
    ingress::Ingress,
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    addresses::Block,
    changes::World,
    gateway::{Gateway, HTTP},
    objects::App,
    results::{Churn, Look, Memory},
};

/// How often memory is noted, and how often it is looked at for that: what comes and goes with each change is left out by taking the least.
const NOTE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(2);

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(20);

/// After all that nothing happens for so long: connections to pods that nobody uses have been closed, and the allocator has given back
/// what it will.
const REST: Duration = Duration::from_secs(120);

/// Applications that came and have not gone yet.
const LATEST: usize = 20;

/// Goes on for so long.
pub(crate) async fn measure(
    world: &Arc<World>,
    gateway: &mut Gateway,
    time: Duration,
    per_second: u32,
) -> anyhow::Result<Churn> {
    let requests = Requests::start(world.services)?;
    let mut life = Life { world, step: 0, latest: VecDeque::new() };
    let mut ticks = interval(Duration::from_secs(1) / per_second.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let begun = Instant::now();
    let (cpu, mut due, mut note) = (gateway.cpu(), LOOK, NOTE);
    let mut looks: Vec<Memory> = Vec::new();
    let mut churn = Churn::default();
    while begun.elapsed() < time {
        ticks.tick().await;
        churn.changes += life.step().await?;
        if begun.elapsed() >= due {
            due += LOOK;
            gateway.runs()?;
            looks.push(gateway.memory());
        }
        if begun.elapsed() >= note {
            note += NOTE;
            let of = |memory: Option<&Memory>| memory.copied().unwrap_or_else(|| gateway.memory());
            let memory = of(looks.iter().min_by_key(|memory| memory.pss));
            let most = of(looks.iter().max_by_key(|memory| memory.pss)).pss;
            looks.clear();
            let look = Look { minutes: begun.elapsed().as_secs_f64() / 60.0, memory, most };
            let mebibytes = |bytes: u64| bytes as f64 / 1_048_576.0;
            eprintln!("  {:.0} min: {:.1} to {:.1} MiB", look.minutes, mebibytes(memory.pss), mebibytes(most));
            churn.looks.push(look);
        }
    }
    churn.seconds = begun.elapsed().as_secs_f64();
    churn.cpu_seconds = (gateway.cpu() - cpu).as_secs_f64();
    (churn.requests, churn.failed) = requests.stop();
    tokio::time::sleep(REST).await;
    churn.rested = Some(gateway.memory());
    Ok(churn)
}

/// What happens in the cluster.
struct Life<'a> {
    world: &'a World,
    step: usize,
    latest: VecDeque<(App, Block)>,
}

impl Life<'_> {
    /// The next thing that happens; returns how many objects it has changed.
    async fn step(&mut self) -> anyhow::Result<u64> {
        self.step += 1;
        let (step, cluster) = (self.step, &self.world.cluster);
        // Primes: sooner or later everything happens to every application.
        let (service, app) = (step * 7 % self.world.services, App::new(step * 11 % self.world.services));
        match step % 10 {
            0 => return self.come_and_go().await,
            1 => {
                let change = json!({"metadata": {"labels": {"version": format!("v{step}")}}});
                cluster.merge::<Service>(&app, &change).await?;
            }
            2 => {
                let change = json!({"spec": {"sessionAffinity": if step % 20 == 2 { "ClientIP" } else { "None" }}});
                cluster.merge::<Service>(&app, &change).await?;
            }
            3 => {
                let annotation = "nginx.ingress.kubernetes.io/proxy-read-timeout";
                let change = json!({"metadata": {"annotations": {annotation: (30 + step % 90).to_string()}}});
                cluster.merge::<Ingress>(&app, &change).await?;
            }
            _ => self.world.renew(service).await?,
        }
        Ok(1)
    }

    /// An application comes, with a name that was never there before; the oldest of those that came goes.
    async fn come_and_go(&mut self) -> anyhow::Result<u64> {
        let (cluster, block) = (&self.world.cluster, self.world.addresses().take()?);
        let app = App::named(&format!("visitor-{}", self.step), self.step / 10);
        cluster.create(&app, &app.service()?).await?;
        cluster.create(&app, &app.slice(block)?).await?;
        cluster.create(&app, &app.ingress()?).await?;
        self.latest.push_back((app, block));
        if self.latest.len() <= LATEST {
            return Ok(3);
        }
        if let Some((app, block)) = self.latest.pop_front() {
            cluster.delete::<Ingress>(&app, &app.name).await?;
            cluster.delete::<EndpointSlice>(&app, &app.slice_name()).await?;
            cluster.delete::<Service>(&app, &app.name).await?;
            self.world.addresses().give_back(block);
        }
        Ok(6)
    }
}

/// Somebody who asks one application after the other.
struct Requests {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Requests {
    fn start(services: usize) -> anyhow::Result<Self> {
        let (stop, done, failed) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted, missed) = (stop.clone(), done.clone(), failed.clone());
        let ask = move || {
            for number in (0..services).cycle() {
                if stopped.load(Relaxed) {
                    return;
                }
                // Primes again: neighbours change together.
                let host = App::new(number * 13 % services).host();
                let is_answered = http1::get(HTTP, &host, "/").is_ok_and(|answer| answer.status == 200);
                counted.fetch_add(1, Relaxed);
                missed.fetch_add(u64::from(!is_answered), Relaxed);
                sleep(PAUSE);
            }
        };
        Ok(Self { stop, done, failed, thread: thread::Builder::new().spawn(ask)? })
    }

    /// How many there were, and how many were not answered by a pod.
    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Relaxed);
        // One that panicked has asked no more, which shows.
        drop(self.thread.join());
        (self.done.load(Relaxed), self.failed.load(Relaxed))
    }
}
