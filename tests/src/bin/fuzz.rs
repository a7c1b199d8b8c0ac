//! Builds the fuzz targets of `tests/fuzz` and runs them, as CI does. Stable Rust and a C++ compiler (`c++`) are all it takes.
//!
//! ```console
//! $ cargo run -p tidegate-tests --bin fuzz                              # all of them, 60 s each, two at a time
//! $ cargo run -p tidegate-tests --bin fuzz -- --seconds 600 yaml        # one of them, for longer
//! $ cargo run -p tidegate-tests --bin fuzz -- yaml --input FILE         # one input, as after a finding
//! $ cargo run -p tidegate-tests --bin fuzz -- yaml --minimise FILE      # a smaller one that fails, too
//! $ cargo run -p tidegate-tests --bin fuzz -- --build                   # only builds, which takes minutes the first time
//! ```
//!
//! What is learnt stays in `target/fuzz/corpus` and is where the next run begins, beside the seeds in `tests/fuzz/corpus`.

use std::{
    collections::VecDeque,
    env,
    error::Error,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

/// What makes rustc put in what libFuzzer counts by. It is LLVM's pass, and needs no nightly; the sanitizers would.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Longer inputs take longer and find no more: the limits of the code that is fuzzed are below, or are lowered for it.
const MAX_INPUT_BYTES: usize = 4 << 10;

/// An input that takes longer is a finding. Usual ones take less than a millisecond, but a busy machine may be slow.
const INPUT_TIMEOUT: Duration = Duration::from_secs(25);

/// A target that takes more memory is a finding.
const MEMORY_MIB: usize = 2048;

/// How often it is said how far a target is.
const PROGRESS: Duration = Duration::from_secs(20);

/// Lines of a target's last words that are shown.
const LAST_WORDS: usize = 40;

type Failure = Box<dyn Error + Send + Sync>;

struct Options {
    only_build: bool,
    seconds: u64,
    jobs: usize,
    targets: Vec<String>,
    /// For the engine, instead of a usual run.
    single: Option<Vec<String>>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, Failure> {
    let options = options(env::args().skip(1))?;
    let binary = build()?;
    if options.only_build {
        return Ok(true);
    }
    if let Some(arguments) = &options.single {
        let [target] = &options.targets[..] else { return Err("one input is for one target: name it".into()) };
        return Ok(Command::new(binary).env("TIDEGATE_FUZZ", target).args(arguments).status()?.success());
    }
    let waiting = Mutex::new(VecDeque::from(options.targets.clone()));
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while let Some(target) = { waiting.lock().expect("nobody panics").pop_front() } {
                    let result = fuzz(&binary, &target, options.seconds);
                    results.lock().expect("nobody panics").push((target, result));
                }
            });
        }
    });
    let results = results.into_inner()?;
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    for (target, result) in &results {
        if let Err(error) = result {
            eprintln!("\n{target}: {error}");
        }
    }
    println!("fuzz: {} passed, {failed} failed", results.len() - failed);
    Ok(failed == 0)
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, Failure> {
    let mut options = Options { only_build: false, seconds: 60, jobs: 2, targets: Vec::new(), single: None };
    let all = targets()?;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--build" => options.only_build = true,
            "--seconds" => options.seconds = value()?.parse()?,
            "--jobs" => options.jobs = value()?.parse()?,
            "--input" => options.single = Some(vec![value()?]),
            "--minimise" => {
                options.single = Some(vec!["-minimize_crash=1".into(), "-max_total_time=60".into(), value()?]);
            }
            target if all.iter().any(|known| known == target) => options.targets.push(argument),
            other => {
                return Err(format!(
                    "{other}: there are {}, --seconds, --jobs, --input, --minimise, --build",
                    all.join(", ")
                )
                .into());
            }
        }
    }
    if options.targets.is_empty() {
        options.targets = all;
    }
    Ok(options)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// Every target has seeds.
fn targets() -> Result<Vec<String>, Failure> {
    let folders = fs::read_dir(root().join("tests/fuzz/corpus"))?.collect::<Result<Vec<_>, _>>()?;
    let mut targets: Vec<String> = folders.iter().map(|folder| folder.file_name().to_string_lossy().into()).collect();
    targets.sort_unstable();
    Ok(targets)
}

/// The program with all targets in it.
fn build() -> Result<PathBuf, Failure> {
    let started = Instant::now();
    println!("fuzz: building");
    let host = String::from_utf8(Command::new("rustc").args(["--print", "host-tuple"]).output()?.stdout)?;
    let (host, directory) = (host.trim(), root().join("target/fuzz"));
    // With a target of its own, even if it is the host, the flags are not for build scripts.
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--target", host, "--target-dir"])
        .arg(&directory)
        .arg("--manifest-path")
        .arg(root().join("tests/fuzz/Cargo.toml"))
        .env("RUSTFLAGS", COVERAGE)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()?;
    if !built.success() {
        return Err("the targets cannot be built; is there a C++ compiler (`c++`)?".into());
    }
    println!("fuzz: built in {} s", started.elapsed().as_secs());
    Ok(directory.join(host).join("debug/tidegate-fuzz"))
}

/// Runs one target for so long.
fn fuzz(binary: &Path, target: &str, seconds: u64) -> Result<(), Failure> {
    let (learnt, found) = (root().join("target/fuzz/corpus").join(target), root().join("target/fuzz/findings"));
    fs::create_dir_all(&learnt)?;
    fs::create_dir_all(&found)?;
    let given = root().join("tests/fuzz");
    let dictionary = given.join("dictionaries").join(target);
    let mut command = Command::new(binary);
    command
        .env("TIDEGATE_FUZZ", target)
        .env("RUST_BACKTRACE", "1")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_INPUT_BYTES}"))
        .arg(format!("-timeout={}", INPUT_TIMEOUT.as_secs()))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-artifact_prefix={}/{target}-", found.display()))
        .args(["-print_final_stats=1", "-verbosity=1"])
        .args(dictionary.exists().then(|| format!("-dict={}", dictionary.display())))
        .arg(&learnt)
        .arg(given.join("corpus").join(target));
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut report = Report::default();
    let mut said_at = Instant::now();
    for line in BufReader::new(child.stderr.take().expect("it is piped")).split(b'\n') {
        report.take(&String::from_utf8_lossy(&line?));
        if said_at.elapsed() >= PROGRESS {
            println!("fuzz: {target:<18} … {}", report.figures(started.elapsed()));
            said_at = Instant::now();
        }
    }
    let ended = child.wait()?;
    println!("fuzz: {target:<18} {}", report.figures(started.elapsed()));
    if ended.success() && report.is_guided() {
        return Ok(());
    }
    let last_words: Vec<&str> = report.last.iter().map(String::as_str).collect();
    let advice = match &report.finding {
        Some(input) => format!(
            "it fails on {input}\n  again:   cargo run -p tidegate-tests --bin fuzz -- {target} --input {input}\n  \
             smaller: cargo run -p tidegate-tests --bin fuzz -- {target} --minimise {input}"
        ),
        None => format!("it ended with {ended}, or learnt nothing"),
    };
    Err(format!("{}\n{advice}", last_words.join("\n")).into())
}

/// What a target has said.
#[derive(Default)]
struct Report {
    executions: u64,
    coverage: u64,
    features: u64,
    corpus: String,
    finding: Option<String>,
    last: VecDeque<String>,
}

impl Report {
    fn take(&mut self, line: &str) {
        // `#1024 pulse  cov: 510 ft: 1200 corp: 45/1234b lim: 100 exec/s: 512 rss: 60Mb`
        let is_event = line.starts_with('#') && line.contains(" cov: ");
        if is_event {
            let words: Vec<&str> = line.split_whitespace().collect();
            let after = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1));
            let number = |name: &str| after(name).and_then(|word| word.parse().ok());
            self.executions = words[0].trim_start_matches('#').parse().unwrap_or(self.executions);
            self.coverage = number("cov:").unwrap_or(self.coverage);
            self.features = number("ft:").unwrap_or(self.features);
            self.corpus = after("corp:").map_or_else(String::new, ToString::to_string);
        }
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
        }
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.finding = Some(path.trim().to_owned());
        }
        // What has happened, without the news of every step and the input in three spellings.
        if !is_event && !line.is_empty() && !line.starts_with("stat::") {
            self.last.push_back(line.to_owned());
            if self.last.len() > LAST_WORDS {
                self.last.pop_front();
            }
        }
    }

    /// Whether the engine has seen where inputs lead, and so was no dice.
    fn is_guided(&self) -> bool {
        self.coverage > 0 && self.features > self.coverage / 2
    }

    fn figures(&self, time: Duration) -> String {
        let Self { executions, coverage, features, corpus, .. } = self;
        format!(
            "{executions:>9} executions in {:>3} s, coverage {coverage}, features {features}, corpus {corpus}",
            time.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_understood() {
        let mut report = Report::default();
        for line in [
            "INFO: seed corpus: files: 5",
            "#1024\tpulse  cov: 510 ft: 1200 corp: 45/1234b lim: 100 exec/s: 512 rss: 60Mb",
            "thread '<unnamed>' panicked at src/yaml.rs:7:9:",
            "artifact_prefix='/x/yaml-'; Test unit written to /x/yaml-crash-0a",
            "stat::number_of_executed_units: 1030",
        ] {
            report.take(line);
        }
        assert_eq!((report.executions, report.coverage, report.features), (1030, 510, 1200));
        assert_eq!((&report.corpus[..], report.finding.as_deref()), ("45/1234b", Some("/x/yaml-crash-0a")));
        assert_eq!(report.last.len(), 3);
        assert!(report.is_guided() && !Report::default().is_guided());
    }

    #[test]
    fn what_is_asked_for() {
        let read = |words: &[&str]| options(words.iter().map(ToString::to_string));
        let all = read(&[]).unwrap();
        assert!(all.targets.len() > 10 && all.single.is_none() && all.seconds == 60);
        let one = read(&["yaml", "--seconds", "5"]).unwrap();
        assert_eq!((one.targets, one.seconds), (vec!["yaml".to_owned()], 5));
        assert!(read(&["--build"]).unwrap().only_build && !read(&[]).unwrap().only_build);
        assert_eq!(read(&["yaml", "--input", "x"]).unwrap().single, Some(vec!["x".to_owned()]));
        for wrong in [&["nothing"][..], &["--seconds"], &["--seconds", "x"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
