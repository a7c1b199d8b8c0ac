//! The load: one thread that keeps many connections busy, each with one exchange at a time, either one after the other or
//! at a fixed rate. In the latter case an answer's time counts from when its request was due, sent late or not, so that a
//! proxy that stalls is not asked less (no "coordinated omission").
//!
//! An answer that is not what was expected is a failure, never a result.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
};

use crate::{
    http1::{self, Progress},
    stats::percentile,
};

/// What is under way at the end has so long to finish.
const GRACE: Duration = Duration::from_secs(3);

/// After so many failures there is nothing to measure.
const MAX_FAILURES: u64 = 1_000;

const BUFFER: usize = 256 << 10;

/// Events taken from the kernel at once.
const EVENTS: usize = 512;

/// What to send, how, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: usize,
    /// Sent in turn.
    pub(crate) requests: &'a [Vec<u8>],
    pub(crate) answer: Expected,
    pub(crate) opening: Opening<'a>,
    /// Whether each exchange has a connection of its own.
    pub(crate) reconnect: bool,
    /// Requests per second; `None`: as many as can be.
    pub(crate) rate: Option<f64>,
    pub(crate) time: Duration,
    /// Ends it before its time.
    pub(crate) stop: Option<&'a AtomicBool>,
}

/// What is sent first on each connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opening<'a> {
    Nothing,
    /// It is not answered.
    Order(u8),
    /// It must be answered by status 101.
    Handshake(&'a [u8]),
}

/// What each request is answered with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// 200 and so many bytes of content.
    Http(usize),
    /// So many bytes.
    Bytes(usize),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    pub(crate) seconds: f64,
    /// Microseconds that 50, 99 and 99.9 % of the answers took at most.
    pub(crate) latency: [f64; 3],
}

struct Connection {
    stream: TcpStream,
    exchange: Option<Exchange>,
    /// The other side has said it will send no more.
    ended: bool,
}

struct Exchange {
    request: usize,
    sent: usize,
    blocked: bool,
    begun: Instant,
    answer: Progress,
}

/// The load, connected and ready.
pub(crate) struct Load<'a> {
    plan: Plan<'a>,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    buffer: Vec<u8>,
    next_request: usize,
    end: Instant,
    /// Nanoseconds.
    latencies: Vec<u32>,
    outcome: Outcome,
}

impl<'a> Load<'a> {
    /// Opens the connections, so that their price is not in the measurement.
    pub(crate) fn connect(plan: Plan<'a>) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(plan.connections);
        for index in 0..plan.connections {
            connections.push(open(&plan, &epoll, index)?);
        }
        Ok(Self {
            plan,
            epoll,
            connections,
            idle: (0..plan.connections).collect(),
            buffer: vec![0; BUFFER],
            next_request: 0,
            end: Instant::now(),
            latencies: Vec::new(),
            outcome: Outcome::default(),
        })
    }

    /// Sends until the time is over, and waits for what is under way.
    pub(crate) fn run(mut self) -> anyhow::Result<Outcome> {
        let begun = Instant::now();
        self.end = begun + self.plan.time;
        let mut last = begun;
        match self.plan.rate {
            None => {
                while let Some(index) = self.idle.pop_front() {
                    self.start(index, Instant::now())?;
                }
                while self.is_time_left() {
                    self.wait(self.end)?;
                }
            }
            Some(rate) => self.send_at(rate, begun)?,
        }
        self.end = self.end.min(Instant::now());
        let deadline = Instant::now() + GRACE;
        while self.connections.iter().any(|connection| connection.exchange.is_some()) && Instant::now() < deadline {
            self.wait(deadline)?;
            last = Instant::now();
        }
        let unanswered = self.connections.iter().filter(|connection| connection.exchange.is_some()).count();
        if unanswered > 0 {
            self.outcome.failed += unanswered as u64;
            self.outcome.first_failure.get_or_insert_with(|| "no answer within the time".to_owned());
        }
        self.outcome.seconds = (last.max(self.end) - begun).as_secs_f64();
        self.latencies.sort_unstable();
        self.outcome.latency = [0.5, 0.99, 0.999].map(|share| f64::from(percentile(&self.latencies, share)) / 1e3);
        Ok(self.outcome)
    }

    fn is_time_left(&self) -> bool {
        Instant::now() < self.end && !self.plan.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// One request each time it is due, on whichever connection is idle; if none is, on the next that will be.
    fn send_at(&mut self, rate: f64, begun: Instant) -> anyhow::Result<()> {
        let total = (rate * self.plan.time.as_secs_f64()) as u64;
        let due = |number: u64| begun + Duration::from_secs_f64(number as f64 / rate);
        let mut sent = 0;
        while self.is_time_left() {
            while sent < total && due(sent) <= Instant::now() {
                let Some(index) = self.idle.pop_front() else { break };
                self.start(index, due(sent))?;
                sent += 1;
            }
            // With no connection idle the next thing to happen is an answer.
            let next = if sent < total && !self.idle.is_empty() { due(sent).min(self.end) } else { self.end };
            self.wait(next)?;
        }
        let stopped = self.plan.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        // What was due and could not even be sent has failed; without this an overloaded proxy would look good.
        let now = Instant::now();
        let unsent = if stopped { 0 } else { (sent..total).take_while(|number| due(*number) <= now).count() as u64 };
        if unsent > self.connections.len() as u64 {
            self.outcome.failed += unsent;
            self.outcome.first_failure.get_or_insert_with(|| format!("{unsent} requests were due and not sent"));
        }
        Ok(())
    }

    /// Sleeps until something arrives or the time has come, and handles what has arrived.
    fn wait(&mut self, until: Instant) -> anyhow::Result<()> {
        let left = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(50));
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut events = Vec::with_capacity(EVENTS);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let index = event.data.u64() as usize;
            let flags = event.flags;
            if flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                self.connections[index].ended = true;
            }
            if self.connections[index].exchange.as_ref().is_some_and(|exchange| exchange.blocked) {
                self.send(index)?;
            }
            self.receive(index)?;
        }
        Ok(())
    }

    fn start(&mut self, index: usize, due: Instant) -> anyhow::Result<()> {
        let answer = match self.plan.answer {
            Expected::Http(expected) => Progress::Http { expected, head: Vec::new(), left: None },
            Expected::Bytes(left) => Progress::Bytes { left },
        };
        let request = self.next_request;
        self.next_request = (request + 1) % self.plan.requests.len();
        self.connections[index].exchange = Some(Exchange { request, sent: 0, blocked: false, begun: due, answer });
        self.send(index)
    }

    /// Sends as much of the request as the socket takes, and asks to be told when it takes more.
    fn send(&mut self, index: usize) -> anyhow::Result<()> {
        let Connection { stream, exchange: Some(exchange), .. } = &mut self.connections[index] else { return Ok(()) };
        let request = &self.plan.requests[exchange.request];
        let was_blocked = exchange.blocked;
        exchange.blocked = false;
        while exchange.sent < request.len() {
            match stream.write(&request[exchange.sent..]) {
                Ok(n) => exchange.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    exchange.blocked = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // An early answer may be there; if not, reading says what is wrong.
                Err(_) => break,
            }
        }
        if exchange.blocked != was_blocked {
            let flags = if exchange.blocked { interest() | epoll::EventFlags::OUT } else { interest() };
            epoll::modify(&self.epoll, &*stream, epoll::EventData::new_u64(index as u64), flags)?;
        }
        Ok(())
    }

    /// Reads once; the kernel says again if there is more.
    fn receive(&mut self, index: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let n = match connection.stream.read(&mut self.buffer) {
            Ok(n) => n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return self.ended(index, &error.to_string()),
        };
        if n == 0 {
            return self.ended(index, "closed before the end of the answer");
        }
        let Some(exchange) = &mut connection.exchange else { return self.ended(index, "an answer unasked") };
        match exchange.answer.feed(&self.buffer[..n]) {
            Ok(false) => Ok(()),
            Ok(true) if exchange.sent < self.plan.requests[exchange.request].len() => {
                self.ended(index, "answered before the request was sent")
            }
            Ok(true) => self.finish(index),
            Err(why) => self.ended(index, &why),
        }
    }

    fn finish(&mut self, index: usize) -> anyhow::Result<()> {
        let now = Instant::now();
        let Some(exchange) = self.connections[index].exchange.take() else { return Ok(()) };
        let nanos = now.saturating_duration_since(exchange.begun).as_nanos();
        self.latencies.push(u32::try_from(nanos).unwrap_or(u32::MAX));
        self.outcome.done += 1;
        self.connections[index].ended |= self.plan.reconnect;
        self.go_on(index, now)
    }

    /// A connection that is over is replaced; if a request was under way on it, that has failed.
    fn ended(&mut self, index: usize, why: &str) -> anyhow::Result<()> {
        let was_busy = self.connections[index].exchange.is_some();
        if was_busy {
            self.outcome.failed += 1;
            self.outcome.first_failure.get_or_insert_with(|| why.to_owned());
            if self.outcome.failed > MAX_FAILURES {
                bail!("too many failures, the first: {}", self.outcome.first_failure.as_deref().unwrap_or_default());
            }
        }
        self.connections[index].ended = true;
        if was_busy || self.plan.rate.is_none() { self.go_on(index, Instant::now()) } else { self.reopen(index) }
    }

    /// The next exchange of a connection that has none: at once, or when one is due.
    fn go_on(&mut self, index: usize, now: Instant) -> anyhow::Result<()> {
        self.connections[index].exchange = None;
        if self.connections[index].ended {
            self.reopen(index)?;
        }
        if self.plan.rate.is_some() {
            self.idle.push_back(index);
        } else if now < self.end {
            self.start(index, now)?;
        }
        Ok(())
    }

    fn reopen(&mut self, index: usize) -> anyhow::Result<()> {
        self.connections[index] = open(&self.plan, &self.epoll, index)?;
        Ok(())
    }
}

fn interest() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::RDHUP
}

fn open(plan: &Plan<'_>, epoll: &OwnedFd, index: usize) -> anyhow::Result<Connection> {
    let mut stream = http1::connect(plan.addr).with_context(|| format!("connecting to {}", plan.addr))?;
    match plan.opening {
        Opening::Nothing => {}
        Opening::Order(order) => stream.write_all(&[order])?,
        Opening::Handshake(request) => {
            let answer = http1::exchange(&mut stream, request)?;
            ensure!(answer.status == 101, "the handshake was answered {}", answer.status);
        }
    }
    stream.set_nonblocking(true)?;
    epoll::add(epoll, &stream, epoll::EventData::new_u64(index as u64), interest())?;
    Ok(Connection { stream, exchange: None, ended: false })
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
