//! `docs/limits.md`, made of the files that hold the limits, so that it cannot go stale.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use regex::Regex;

/// Set it to write the page instead of comparing.
const WRITE: &str = "TIDEGATE_WRITE_DOCS";

const HEAD: &str = "\
# Limits and timeouts

This page is made of the files named below, where each limit has its name, its default and its reason; a test fails when it is stale, and says
how to make it anew. How long the pods of an Ingress may take, how often others are tried, and how large a request may be, each Ingress says for
itself: see [annotations.md](annotations.md).
";

const FILES: [(&str, &str); 5] = [
    ("HTTP, for each worker", "gateway/src/http/limits.rs"),
    ("TLS", "gateway/src/tls/limits.rs"),
    ("Connections and flows of Services, for each worker", "l4-core/src/limits.rs"),
    ("What is read of the cluster", "gateway/src/control/limits.rs"),
    ("What is written to the cluster", "gateway/src/controller/limits.rs"),
];

/// A limit as it stands in its file.
#[derive(Debug, PartialEq, Eq)]
struct Limit {
    name: String,
    value: String,
    reason: String,
}

#[test]
fn the_page_of_limits_is_what_the_files_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut page = HEAD.to_owned();
    for (title, file) in FILES {
        let limits = limits(&fs::read_to_string(root.join(file)).unwrap());
        assert!(limits.len() > 10, "{file}: {limits:?}");
        // Writing to a text cannot fail.
        let _ = write!(page, "\n## {title}\n\n`{file}`\n\n| limit | default | what, and why |\n|---|---|---|\n");
        for Limit { name, value, reason } in limits {
            let _ = writeln!(page, "| `{name}` | {value} | {reason} |");
        }
    }
    let path = root.join("docs/limits.md");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/limits.md is stale: run `{WRITE}=1 cargo test -p tidegate-tests --test it docs::`");
}

/// What is met in a test stands there with a value of its own.
#[test]
fn every_limit_of_http_is_met_in_a_test() {
    // What only a process without a file descriptor meets; figures of efficiency; and one that is met as it is, by the floods
    // in `hostile`.
    const OTHERS: [&str; 5] =
        ["accept_backoff", "send_buffer", "h2_connection_window", "h2_send_buffer", "h2_reset_streams"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tests = fs::read_to_string(root.join("gateway/src/http/tests.rs")).unwrap();
    for directory in ["gateway/src/http/tests", "tests/it", "tests/it/hostile"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            tests += &if path.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
        }
    }
    let text = fs::read_to_string(root.join("gateway/src/http/limits.rs")).unwrap();
    let is_met = |name: &str| [format!(" {name}: "), format!(".{name}")].iter().any(|used| tests.contains(used));
    let names = limits(&text).into_iter().map(|limit| limit.name).filter(|name| !OTHERS.contains(&name.as_str()));
    let unmet: Vec<String> = names.filter(|name| !is_met(name)).collect();
    assert_eq!(unmet, [""; 0]);
}

/// Every field of a struct that has a default, and every constant, with what its doc comment says. A field that only points to a
/// constant is left out.
fn limits(text: &str) -> Vec<Limit> {
    let field = Regex::new(r"^    pub(?:\(crate\))? (\w+): [\w<>]+,$").unwrap();
    let constant = Regex::new(r"^pub(?:\(\w+\))? const (\w+): \w+ = (.+);$").unwrap();
    let default = Regex::new(r"^            (\w+): (.+),$").unwrap();
    let defaults: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| default.captures(line))
        .map(|c| (c.get(1).unwrap().as_str(), c.get(2).unwrap().as_str()))
        .collect();
    let (mut limits, mut reason) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(doc) = line.trim_start().strip_prefix("///") {
            reason.push(doc.trim());
            continue;
        }
        let found = match (field.captures(line), constant.captures(line)) {
            (Some(field), _) => Some((field[1].to_owned(), defaults.get(&field[1]).copied().unwrap_or("?").to_owned())),
            (None, Some(constant)) => Some((constant[1].to_owned(), constant[2].to_owned())),
            (None, None) => None,
        };
        if let Some((name, value)) = found {
            let reason = reason.join(" ").replace("[`", "`").replace("`]", "`");
            assert!(!reason.is_empty(), "{name} has no reason");
            if !reason.starts_with("See `") || name.chars().all(|c| !c.is_lowercase()) {
                limits.push(Limit { name, value: plain(&value), reason });
            }
        }
        if !line.trim_start().starts_with("#[") {
            reason.clear();
        }
    }
    limits
}

/// `Duration::from_secs(6 * 60 * 60)` in words for people, `32 << 10` in bytes.
fn plain(value: &str) -> String {
    let number = |text: &str| -> u64 {
        text.split('*').map(|factor| factor.trim().replace('_', "").parse::<u64>().expect("a number")).product()
    };
    let time = Regex::new(r"^Duration::from_(secs|millis)\((.+)\)$").unwrap();
    if let Some(time) = time.captures(value) {
        return match (&time[1], number(&time[2])) {
            ("secs", secs) if secs >= 86_400 && secs % 86_400 == 0 => format!("{} days", secs / 86_400),
            ("secs", secs) if secs >= 3_600 && secs % 3_600 == 0 => format!("{} h", secs / 3_600),
            ("secs", secs) => format!("{secs} s"),
            (_, millis) => format!("{millis} ms"),
        };
    }
    match value.split_once(" << ") {
        Some((count, "10")) => format!("{} KiB", number(count)),
        Some((count, "20")) => format!("{} MiB", number(count)),
        Some((count, bits)) => format!("{} KiB", number(count) << (bits.parse::<u64>().expect("a number") - 10)),
        None => number(value).to_string(),
    }
}

#[test]
fn limits_are_read_with_their_defaults_and_reasons() {
    let text = "/// Of what\n/// it is.\npub const A: usize = 3 << 10;\n\npub struct L {\n    /// See [`A`].\n    pub a: usize,\n    /// Until [`A`].\n    \
                pub b: Duration,\n}\n        Self {\n            a: A,\n            b: Duration::from_millis(1_500),\n";
    let limit = |name: &str, value: &str, reason: &str| Limit {
        name: name.to_owned(),
        value: value.to_owned(),
        reason: reason.to_owned(),
    };
    assert_eq!(limits(text), [limit("A", "3 KiB", "Of what it is."), limit("b", "1500 ms", "Until `A`.")]);
    assert_eq!([plain("Duration::from_secs(6 * 60 * 60)"), plain("1 << 18")], ["6 h", "256 KiB"]);
}
