//! The examples and the README tell the truth: every manifest loads without a finding, and every command is run against
//! `tidegate demo` and prints what is written below it.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use clap::Parser;
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process_group};
use tidegate::{
    cli::Cli,
    compile::{allocate::Allocations, compile, objects::Objects, settings::Settings},
};
use tidegate_tests::{PATIENCE, demo::Demo};

/// What the commands use that may not be installed.
const TOOLS: [&str; 3] = ["curl", "dig", "python3"];

#[test]
fn every_example_loads_without_a_finding() {
    let manifests = manifests();
    let findings = |names: &[&str]| {
        let mut objects = Objects::default();
        for name in names {
            let parsed = tidegate_crd::yaml::parse(Path::new(name), &manifests[*name]);
            assert!(parsed.problems.is_empty(), "{name}: {:?}", parsed.problems);
            for document in parsed.documents {
                objects.apply(document);
            }
        }
        let settings = Settings { node_name: "laptop".into(), ..Settings::default() };
        compile(&objects, &settings, &[], &Allocations::default(), None).snapshot.findings.to_vec()
    };
    let all: Vec<&str> = manifests.keys().map(String::as_str).collect();
    assert_eq!(findings(&all), [], "all of them together");
    for name in all {
        let mut names = vec!["pods.yaml", name];
        names.extend(manifests[name].lines().filter_map(|line| line.strip_prefix("# Needs ")?.strip_suffix('.')));
        assert_eq!(findings(&names), [], "{names:?}");
    }
}

#[test]
fn the_demo_knows_every_example() {
    let demo = fs::read_to_string(root().join("gateway/src/cli/demo/mod.rs")).unwrap();
    for name in manifests().keys() {
        assert!(demo.contains(&format!("\"{name}\",")), "gateway/src/cli/demo/mod.rs does not list {name}");
    }
}

#[test]
fn every_command_line_that_is_written_down_is_one_we_understand() {
    let texts = manifests().into_iter().chain([("README.md".to_owned(), readme())]);
    let quoted = Regex::new(r"`((?:tidegate|cargo run .*?--) [a-z][^`]*)`").unwrap();
    let mut count = 0;
    for (name, text) in texts {
        let spans = quoted.captures_iter(&text).map(|captures| captures[1].to_owned());
        let sessions =
            text.lines().filter_map(|line| Some(line.trim_start_matches("# ").strip_prefix("$ ")?.to_owned()));
        for command in spans.chain(sessions) {
            let Some(words) = tidegate_words(&command) else { continue };
            count += 1;
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{name}: {command}\n{error}");
            }
        }
    }
    assert!(count >= 8, "only {count} command lines were recognised");
}

#[test]
#[cfg(target_os = "linux")]
fn every_command_prints_what_is_written_below_it() {
    let mut steps: Vec<Step> = Vec::new();
    for (name, text) in manifests() {
        let header = text.lines().take_while(|line| line.starts_with('#'));
        let found = steps_in(&name, header.map(|line| line.strip_prefix("# ")));
        assert!(!found.is_empty(), "{name} says nothing to run");
        steps.extend(found);
    }
    let session = readme_steps();
    assert!(session.len() >= 10, "the README shows {} commands only", session.len());
    steps.extend(session);

    let demo = Demo::start();
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| !installed(tool)).collect();
    let (mut failures, mut skipped) = (Vec::new(), 0);
    for step in &steps {
        if missing.iter().any(|tool| step.command.contains(tool)) {
            println!("skipped: {}: {}", step.place, step.command);
            skipped += 1;
        } else if let Err(failure) = step.run(&demo) {
            failures.push(failure);
        }
    }
    let (status, log) = demo.end();
    assert!(failures.is_empty(), "{}\n\nlog of the demo:\n{log}", failures.join("\n\n"));
    assert_eq!(status.code(), Some(0), "after SIGTERM; log of the demo:\n{log}");
    println!("{} commands, of which {skipped} were skipped for want of {missing:?}", steps.len());
    assert!(skipped == 0 || env::var_os("CI").is_none(), "CI must have {missing:?}");
}

/// A command, and what is written below it.
struct Step {
    place: String,
    command: String,
    expected: Vec<String>,
}

impl Step {
    fn run(&self, demo: &Demo) -> Result<(), String> {
        let command = demo.adapt(&self.command);
        let path = format!("{}:{}", demo.directory().display(), env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).current_dir(root()).env("PATH", path).process_group(0);
        let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh runs");
        let group = Pid::from_child(&child);
        let (done, output) = mpsc::channel();
        thread::spawn(move || done.send(child.wait_with_output()));
        let Ok(output) = output.recv_timeout(PATIENCE) else {
            let _ = kill_process_group(group, Signal::KILL);
            return Err(format!("{}: {command}\ndid not end within {PATIENCE:?}", self.place));
        };
        let output = output.expect("its output can be read");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let lines: Vec<&str> = stdout.lines().collect();
        let same = lines.len() == self.expected.len()
            && lines.iter().zip(&self.expected).all(|(line, expected)| is_like(line, expected));
        if same {
            return Ok(());
        }
        let expected = self.expected.join("\n");
        Err(format!("{}: {command}\nis said to print\n{expected}\nbut printed\n{stdout}{stderr}", self.place))
    }
}

/// `$ command` lines, and what is below them up to the next one or a line that is `None`.
fn steps_in<'a>(name: &str, lines: impl Iterator<Item = Option<&'a str>>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut within = false;
    for (i, line) in lines.enumerate() {
        if let Some(command) = line.and_then(|line| line.strip_prefix("$ ")) {
            steps.push(Step { place: format!("{name}:{}", i + 1), command: command.to_owned(), expected: Vec::new() });
            within = true;
        } else if let Some(line) = line
            && within
            && let Some(step) = steps.last_mut()
        {
            step.expected.push(line.to_owned());
        } else {
            within = false;
        }
    }
    for step in &mut steps {
        step.expected.truncate(step.expected.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1));
    }
    steps
}

/// What the README's `console` blocks show, but for the programs that serve until they are stopped.
///
/// Which of the three pods answers is a matter of chance; the README shows what somebody really saw.
fn readme_steps() -> Vec<Step> {
    let (text, pod) = (readme(), Regex::new(r"\bkubia-[abc]\b").unwrap());
    let mut open = false;
    let lines = text.lines().map(|line| {
        let inside = open && !line.starts_with("```");
        open = if open { inside } else { line == "```console" };
        inside.then_some(line)
    });
    let mut steps = steps_in("README.md", lines);
    steps.retain(|step| !serves(&step.command));
    for line in steps.iter_mut().flat_map(|step| &mut step.expected) {
        *line = pod.replace_all(line, "kubia-…").into_owned();
    }
    steps
}

fn serves(command: &str) -> bool {
    ["cargo ", "tidegate run ", "tidegate demo", "tidegate pod "].iter().any(|prefix| command.starts_with(prefix))
}

/// Whether a line is what was expected: `…` is anything, and any space is like any other (`uniq -c` and tables).
fn is_like(line: &str, expected: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts: Vec<String> = words(expected).split('…').map(regex::escape).collect();
    Regex::new(&format!("^{}$", parts.join(".*"))).unwrap().is_match(&words(line))
}

/// The arguments of Tidegate in a command line, if it is one.
fn tidegate_words(command: &str) -> Option<Vec<String>> {
    let arguments = match command.strip_prefix("cargo run ") {
        Some(rest) => rest.split_once("-- ")?.1,
        None => command.strip_prefix("tidegate ")?,
    };
    let word = Regex::new(r#""([^"]*)"|'([^']*)'|(\S+)"#).unwrap();
    let words = word.captures_iter(arguments).map(|captures| {
        let text = captures.iter().skip(1).flatten().next().expect("one of the three");
        text.as_str().to_owned()
    });
    let ours = words.take_while(|word| word != "|" && !word.starts_with('#'));
    Some(["tidegate".to_owned()].into_iter().chain(ours).collect())
}

fn installed(tool: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

fn manifests() -> BTreeMap<String, String> {
    let paths = tidegate_examples::manifests().expect("the examples can be listed");
    let named = paths.into_iter().map(|path| {
        let text = fs::read_to_string(&path).expect("an example can be read");
        (path.file_name().expect("it has one").to_string_lossy().into_owned(), text)
    });
    named.collect()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("there is a README")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}
