//! Whoever has a cluster: starts its supervisor, asks it, and ends it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    thread,
};

use super::{
    Failure, Tier,
    directory::{Directory, OWNER, remove_leftovers},
    supervisor::{IS_READY, SOCKET},
};

/// A supervisor that ends with this, or with this process.
#[derive(Debug)]
pub struct Owner {
    child: Child,
    directory: Directory,
}

impl Owner {
    /// Removes what is left of clusters that were killed, starts one, and waits until it is ready; `say` is told how far it is. `program` is the `cluster` of
    /// `tests/src/bin`.
    ///
    /// # Errors
    /// Why it did not start.
    pub fn start(
        program: &std::path::Path,
        directory: Directory,
        tier: Tier,
        stays: bool,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self, Failure> {
        for removed in remove_leftovers()? {
            say(&format!("removed what was left of {removed}"));
        }
        let mut command = Command::new(program);
        command.args(["supervise", "--name", &directory.name()]).env(OWNER, directory.path());
        command.args((tier == Tier::ControlPlane).then_some("--control-plane")).args(stays.then_some("--stays"));
        // Nobody inherits what the owner has: who reads its output need not wait for the end of the cluster.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stderr = child.stderr.take().expect("it is piped");
        let complaint = thread::spawn(move || {
            let mut text = String::new();
            drop(stderr.read_to_string(&mut text));
            text
        });
        for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
            match line?.as_str() {
                IS_READY => return Ok(Self { child, directory }),
                line => say(line),
            }
        }
        let status = child.wait()?;
        let complaint = complaint.join().unwrap_or_default();
        Err(match complaint.trim().trim_start_matches("cluster: ") {
            "" => format!("its supervisor was ended ({status})").into(),
            why => why.to_owned().into(),
        })
    }

    /// Leaves it to itself.
    pub fn leave(mut self) -> Directory {
        drop(self.child.stdin.take());
        let directory = self.directory.clone();
        std::mem::forget(self);
        directory
    }

    /// Where it keeps what it writes.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The supervisor's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

/// Asks a cluster's supervisor something, and waits for the answer.
///
/// # Errors
/// What it says.
pub fn ask(directory: &Directory, question: &str) -> Result<String, Failure> {
    let socket = directory.file(SOCKET);
    let mut stream = UnixStream::connect(&socket)
        .map_err(|error| format!("cluster {} does not answer: {}: {error}", directory.name(), socket.display()))?;
    writeln!(stream, "{question}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once('\n') {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some((_, error)) => Err(error.to_owned().into()),
        None => Ok(String::new()),
    }
}

/// Ends a cluster, whoever has it, and removes what is left of it.
///
/// # Errors
/// If something is left.
pub fn down(directory: &Directory) -> Result<(), Failure> {
    if directory.is_alive() {
        // One that is still starting has no socket yet, and goes by force.
        let _ = ask(directory, "down");
    }
    directory.remove()
}
