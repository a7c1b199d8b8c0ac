//! `tidegate demo` as a process of its own. Its pods and node ports are always at the same addresses, so that only one can run.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{PATIENCE, process::program};

/// The addresses of `tidegate demo` as they are written; a test lets the system choose the ports.
const WRITTEN: [(&str, &str); 4] =
    [("http", "127.0.0.1:8080"), ("https", "127.0.0.1:8443"), ("admin", "127.0.0.1:9901"), ("dns", "127.0.0.1:10053")];

/// A running demo; killed when dropped.
#[derive(Debug)]
pub struct Demo {
    child: Child,
    addrs: BTreeMap<String, SocketAddr>,
    said: Vec<String>,
    log: PathBuf,
    /// Held so that no other test starts one meanwhile, whatever process it is in.
    _only: File,
}

impl Demo {
    /// Starts it, once no other test runs one, and waits until it serves.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// The same, with more arguments or another environment.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        let only = File::create(env::temp_dir().join("tidegate-demo.lock")).expect("a file to lock");
        only.lock().expect("it can be locked");
        let log = env::temp_dir().join(format!("tidegate-demo-{}.log", std::process::id()));
        let mut command = Command::new(program());
        command.arg("demo");
        for (what, _) in WRITTEN {
            command.args([&format!("--{what}"), "127.0.0.1:0"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log).expect("a file for the log"));
        change(&mut command);
        let mut child = command.spawn().expect("the demo starts");
        let stdout = child.stdout.take().expect("it is piped");
        let (send, lines) = mpsc::channel();
        // Reads on after the test has seen enough, so that the demo can always write.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(send.send(line));
            }
        });
        let mut demo = Self { child, addrs: BTreeMap::new(), said: Vec::new(), log, _only: only };
        loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else { demo.did_not_start() };
            assert!(!line.starts_with("failed"), "{line}");
            let mut words = line.split_whitespace();
            if words.next() == Some("listening")
                && let (Some(what), Some(addr), None) = (words.next(), words.next(), words.next())
            {
                demo.addrs.insert(what.to_owned(), addr.parse().expect("an address"));
            }
            let is_last = line.starts_with("Ctrl-C ends the demo");
            demo.said.push(line);
            if is_last {
                return demo;
            }
        }
    }

    fn did_not_start(&self) -> ! {
        let log = self.log();
        let hint = if log.contains("another demo") {
            "end the other `tidegate demo` first: the pods' addresses are fixed\n"
        } else {
            ""
        };
        panic!("the demo did not start: {hint}{log}");
    }

    /// Where it serves `http`, `https`, `admin` or `dns`.
    ///
    /// # Panics
    /// If there is nothing of that name.
    pub fn addr(&self, what: &str) -> SocketAddr {
        self.addrs[what]
    }

    /// The lines it has printed on its way.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    /// The directory of the program.
    pub fn directory(&self) -> &Path {
        program().parent().expect("a program is in a directory")
    }

    /// A command with the addresses of this demo instead of those of a demo that was started without arguments.
    pub fn adapt(&self, command: &str) -> String {
        let dns = self.addrs["dns"].port();
        let mut command = command.replace("-p 10053", &format!("-p {dns}"));
        for (what, written) in WRITTEN {
            command = command.replace(written, &self.addrs[what].to_string());
        }
        if command.contains("--manifests") {
            return command;
        }
        // Behind the subcommand, as a pipe may follow.
        for subcommand in ["tidegate get", "tidegate explain"] {
            if command.starts_with(subcommand) {
                command = command.replacen(subcommand, &format!("{subcommand} --admin {}", self.addrs["admin"]), 1);
            }
        }
        command
    }

    /// Ends it by SIGTERM: how it ended, and its log.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(mut self) -> (ExitStatus, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return (status, self.log());
            }
            assert!(Instant::now() < patience, "the demo did not end after SIGTERM:\n{}", self.log());
            thread::yield_now();
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.log));
    }
}
