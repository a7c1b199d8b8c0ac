//! ChromeDriver and its Chromium as processes of their own, which end with the test whatever becomes of it.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tidegate_tests::PATIENCE;

/// What the tests with a browser need (Debian's packages are `chromium` and `chromium-driver`).
const TOOLS: [&str; 2] = ["chromium", "chromedriver"];

/// What ChromeDriver prints in front of the port that it chose.
const STARTED: &str = "ChromeDriver was started successfully on port ";

/// How long Chromium may take to end in good order before it is killed.
const END: Duration = Duration::from_secs(5);

/// A running ChromeDriver. When it is dropped, it, its Chromium and all that they wrote are gone.
#[derive(Debug)]
pub(super) struct Driver {
    child: Child,
    port: u16,
    directory: PathBuf,
}

impl Driver {
    /// Starts it on a port that the system chooses. `None` where it or Chromium is not installed; CI has both.
    pub(super) fn start() -> Option<Self> {
        let missing = missing();
        if !missing.is_empty() {
            assert!(env::var_os("CI").is_none(), "CI must have {missing:?}");
            println!("skipped: a test in a browser needs {missing:?}");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("tidegate-browser-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        let mut command = Command::new("chromedriver");
        // Chromium writes beside its profile too, wherever these point. The group is how to reach all of its processes.
        command.arg("--port=0").env("HOME", &directory).env("TMPDIR", &directory).process_group(0);
        for name in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "DISPLAY"] {
            command.env_remove(name);
        }
        let log = fs::File::create(directory.join("log")).expect("a file for the log");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().expect("ChromeDriver starts");
        let stdout = child.stdout.take().expect("it is piped");
        let mut driver = Self { child, port: 0, directory };
        let (send, ports) = mpsc::channel();
        // Reads on after the port, so that ChromeDriver can always write.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(port) = line.strip_prefix(STARTED) {
                    drop(send.send(port.trim_end_matches('.').parse()));
                }
            }
        });
        let port = ports.recv_timeout(PATIENCE);
        let Ok(Ok(port)) = port else { panic!("ChromeDriver did not start ({port:?}):\n{}", driver.log()) };
        driver.port = port;
        Some(driver)
    }

    /// Where it listens.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process group, to which Chromium's processes belong too.
    pub(super) fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Where all that it and Chromium write is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it has said on stderr, where Chromium says why it did not start.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Asks it to end its Chromium and itself, and waits for that: only so does it wait for its own children.
    fn shut_down(&mut self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(END))?;
        stream.write_all(b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let _ = stream.read(&mut [0; 1024])?;
        let patience = Instant::now() + END;
        while self.child.try_wait()?.is_none() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let group = self.group();
        drop(self.shut_down());
        // Whoever is left: no Chromium outlives its test.
        let _ = kill_process_group(group, Signal::KILL);
        drop(self.child.wait());
        remove(&self.directory);
    }
}

/// Chromium's last processes may still write while they die.
fn remove(directory: &Path) {
    let patience = Instant::now() + END;
    while fs::remove_dir_all(directory).is_err() && directory.exists() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(5));
    }
}

fn missing() -> &'static [&'static str] {
    static MISSING: OnceLock<Vec<&str>> = OnceLock::new();
    MISSING.get_or_init(|| {
        let is_missing = |tool: &&str| Command::new(tool).arg("--version").output().is_err();
        TOOLS.into_iter().filter(is_missing).collect()
    })
}
