//! `Writer`: what all that is written has in common: a pace, a time limit, and a place in the status.

use std::{fmt, sync::Arc, time::Duration};

use kube::{Client, api::PatchParams};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, timeout},
};

use super::{
    limits::WRITE_TIMEOUT,
    status::{ControllerStatus, Writing},
};
use crate::control::kubernetes::failure::Failure;

/// How fast something is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// In a second.
    pub(super) rate: u32,
    /// Without an answer yet.
    pub(super) at_once: usize,
}

/// Writes one kind of thing.
pub(super) struct Writer {
    client: Client,
    writing: Writing,
    /// Who writes: this installation.
    manager: Arc<str>,
    status: Arc<ControllerStatus>,
    every: Duration,
    at_once: Semaphore,
    /// When the next may begin.
    next: Mutex<Instant>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("writing", &self.writing).finish_non_exhaustive()
    }
}

impl Writer {
    /// `manager`: who we are, as [`field_manager`](crate::control::kubernetes::standing::field_manager) has it.
    pub(super) fn new(
        client: Client,
        writing: Writing,
        manager: Arc<str>,
        pace: Pace,
        status: Arc<ControllerStatus>,
    ) -> Self {
        let (every, next) = (Duration::from_secs(1) / pace.rate.max(1), Mutex::new(Instant::now()));
        Self { client, writing, manager, status, every, at_once: Semaphore::new(pace.at_once.max(1)), next }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Who writes.
    pub(super) fn manager(&self) -> &str {
        &self.manager
    }

    /// How a status is written: as this installation, and by force, as whoever else wrote the same fields of an object of ours is wrong.
    pub(super) fn apply(&self) -> PatchParams {
        PatchParams::apply(&self.manager).force()
    }

    /// Does a request to an object of a namespace when it is its turn, and takes note of what comes of it.
    pub(super) async fn write<T>(
        &self,
        verb: &'static str,
        namespace: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        let Ok(_permit) = self.at_once.acquire().await else {
            return Err(Failure::Unreachable { message: "the controller ends".to_owned() });
        };
        self.turn().await;
        let done = match timeout(WRITE_TIMEOUT, request).await {
            Ok(done) => done.map_err(|error| Failure::of_client(verb, &error)),
            Err(_) => {
                let message = format!("no answer within {} s", WRITE_TIMEOUT.as_secs());
                Err(Failure::Unreachable { message })
            }
        };
        match &done {
            // Somebody was quicker, or it is gone, or its namespace is about to be: there is nothing wrong with that.
            Err(Failure::Refused { code: 403 | 404 | 409, .. }) => {
                self.status.conflicted(self.writing, namespace);
            }
            done => self.status.done(self.writing, namespace, done.as_ref().err()),
        }
        done
    }

    async fn turn(&self) {
        let mut next = self.next.lock().await;
        let at = (*next).max(Instant::now());
        tokio::time::sleep_until(at).await;
        *next = at + self.every;
    }
}

/// Completes then; never, if that is not known.
pub(super) async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
