//! Tidegate as a process of its own: for what only a process can do, such as to end.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::PATIENCE;

/// A running `tidegate`; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `tidegate` with these arguments, in an environment of its own (`TIDEGATE_STATE_DIR` is `state`), and waits until
    /// it says where it listens.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn start(state: &Path, args: &[String]) -> Self {
        let (process, lines) = Self::spawn(state, args);
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("listening  http") => return process,
                Ok(_) => {}
                Err(error) => panic!("tidegate {args:?} did not start ({error}):\n{}", process.log()),
            }
        }
    }

    /// The same, for one that must end by itself: how it ended, and its log.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run_to_its_end(state: &Path, args: &[String]) -> (ExitStatus, String) {
        let (mut process, _lines) = Self::spawn(state, args);
        (process.ended(), process.log())
    }

    fn spawn(state: &Path, args: &[String]) -> (Self, mpsc::Receiver<String>) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = env::temp_dir().join(format!("tidegate-process-{}-{number}.log", std::process::id()));
        let mut command = Command::new(program());
        command.args(args).env("TIDEGATE_STATE_DIR", state).env_remove("TIDEGATE_LOG").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(fs::File::create(&log).expect("a file for the log"));
        let mut child = command.spawn().expect("tidegate starts");
        let stdout = child.stdout.take().expect("it is piped");
        let (send, lines) = mpsc::channel();
        // Reads on after the test has seen enough, so that the process can always write.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(send.send(line));
            }
        });
        (Self { child, log }, lines)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM.
    ///
    /// # Panics
    /// If it has ended.
    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn ended(&mut self) -> ExitStatus {
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < patience, "the process does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_file(&self.log));
    }
}

/// The program beside this test, built first (quick if there is nothing to do).
///
/// # Panics
/// If it cannot be built.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| beside("tidegate"))
}

/// Where cargo has built this test.
///
/// # Panics
/// Elsewhere than in a test.
pub fn target_directory() -> PathBuf {
    let test = env::current_exe().expect("this test has a path");
    test.ancestors().nth(3).expect("target/PROFILE/deps/it-…").to_owned()
}

/// The same for any program of the workspace.
pub(crate) fn beside(name: &str) -> PathBuf {
    let test = env::current_exe().expect("this test has a path");
    let directory = test.ancestors().nth(2).expect("target/PROFILE/deps/it-…");
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--bin", name, "--profile", profile, "--target-dir"]);
    cargo.arg(target_directory()).current_dir(root);
    // With the features of this test's own build, which are those of the whole workspace and of what only tests need: otherwise nearly
    // everything would be built a second time. That test is there, so nothing else is built.
    let test = test.file_name().and_then(|name| name.to_str()?.rsplit_once('-')).map(|(name, _)| name);
    if let Some(test) = test.filter(|test| ["in_cluster", "it"].contains(test)) {
        cargo.args(["--test", test]);
    }
    assert!(cargo.status().expect("cargo runs").success(), "the program cannot be built");
    directory.join(name)
}
