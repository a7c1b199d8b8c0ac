//! A client that repeats what was lost.

use std::{
    io,
    sync::PoisonError,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::sleep};

use super::{Failure, Losses, MESSAGE_PAUSE, Method, Worker, check, says_close, within};
use crate::{Client, PATIENCE};

/// Between two tries to connect: a refusal comes at once, and the next one would be the same.
const AGAIN: Duration = Duration::from_millis(50);

/// How long connections may be refused. The caller looks at when they were; this is to come to an end.
const REFUSED: Duration = Duration::from_secs(20);

/// Requests on one connection, which is replaced when it is lost, or an answer says that it was the last.
pub(super) async fn requests(worker: &Worker, host: &str, method: Method) -> Result<(), Failure> {
    let request = method.request(host, "");
    let mut kept = None;
    while worker.goes_on() {
        let begun = Instant::now();
        let mut was_lost = false;
        loop {
            let mut client = match kept.take() {
                Some(client) => client,
                None => connect(worker).await?,
            };
            match client.ask(&request).await {
                Ok(answer) => {
                    check(&answer)?;
                    kept = (!says_close(&answer)).then_some(client);
                    break;
                }
                Err(error) if was_lost => {
                    return Err(format!("lost twice in a row, {:?} after the first try: {error}", begun.elapsed()));
                }
                Err(_) => {
                    was_lost = true;
                    note(worker, |losses| losses.lost.push(Instant::now()));
                }
            }
        }
        note(worker, |losses| losses.longest = losses.longest.max(begun.elapsed()));
        worker.done();
        sleep(MESSAGE_PAUSE).await;
    }
    Ok(())
}

async fn connect(worker: &Worker) -> Result<Client, Failure> {
    let begun = Instant::now();
    loop {
        match within(PATIENCE, TcpStream::connect(worker.addr())).await? {
            Ok(stream) => return Ok(Client::new(stream)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && begun.elapsed() < REFUSED => {
                note(worker, |losses| losses.refused.push(Instant::now()));
                sleep(AGAIN).await;
            }
            Err(error) => return Err(format!("cannot connect for {:?}: {error}", begun.elapsed())),
        }
    }
}

fn note(worker: &Worker, what: impl FnOnce(&mut Losses)) {
    what(&mut worker.shared.losses.lock().unwrap_or_else(PoisonError::into_inner));
}
