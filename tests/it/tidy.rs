//! The rules of the house: which part may know which, formatting, lints. CONTRIBUTING says why.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tidegate_tests::process::target_directory;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The Rust files under a directory of the workspace, with their text.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut waiting = vec![root().join(directory)];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!files.is_empty(), "{directory} has moved; so must this rule");
    files.sort();
    files
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs") || name.contains("/tests/")
}

/// The lines of code: no comments, nothing below `#[cfg(test)] mod`.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..tests]
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Fails with every line of code under `directory` that contains one of `words`, but for the files in `except`.
#[track_caller]
fn never(directory: &str, words: &[&str], except: &[&str], why: &str) {
    let mut found = Vec::new();
    for (name, text) in
        sources(directory).iter().filter(|(name, _)| !is_test(name) && !except.iter().any(|e| name.ends_with(e)))
    {
        for (number, line) in code(text) {
            found.extend(
                words.iter().filter(|word| line.contains(*word)).map(|word| format!("{name}:{number}: {word}")),
            );
        }
    }
    assert!(found.is_empty(), "{why}:\n{}", found.join("\n"));
}

fn dependencies(package: &str) -> Vec<String> {
    let manifest: toml::Table = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap().parse().unwrap();
    manifest["dependencies"].as_table().unwrap().keys().cloned().collect()
}

#[test]
fn the_l4_core_knows_no_http_no_kubernetes_and_no_files() {
    let forbidden = ["http", "hyper", "kube", "k8s-openapi", "serde", "tidegate", "tidegate-crd"];
    assert_eq!(dependencies("l4-core").iter().filter(|name| forbidden.contains(&name.as_str())).count(), 0);
    never("l4-core/src", &["std::fs", "tokio::fs"], &[], "the L4 core reads no file");
    let clocks = [
        "limits.rs",
        "clock.rs",
        "worker.rs",
        "tcp.rs",
        "udp.rs",
        "copy.rs",
        "drain.rs",
        "listen.rs",
        "splice.rs",
        "proxy_protocol.rs",
    ];
    never("l4-core/src", &["Instant::now", "SystemTime"], &clocks, "time comes in as an argument");
    never("l4-core/src", &["tokio::"], &clocks, "only the plane waits; the core is pure");
}

#[test]
fn crd_has_no_behaviour() {
    let forbidden = ["tokio", "hyper", "kube", "tidegate", "tidegate-l4"];
    assert_eq!(dependencies("crd").iter().filter(|name| forbidden.contains(&name.as_str())).count(), 0);
    never("crd/src", &["async ", ".await", "std::net::Tcp", "std::fs"], &[], "crd only reads text");
    for package in ["l4-core", "gateway", "examples", "tests", "benches"] {
        assert!(!dependencies(package).contains(&"k8s-openapi".to_owned()), "{package} takes the types from crd");
    }
}

#[test]
fn compile_and_route_are_pure() {
    let words =
        ["async ", ".await", "tokio", "SystemTime", "Instant::now", "std::fs", "std::env", "std::thread", "fastrand"];
    for directory in ["gateway/src/compile", "gateway/src/route"] {
        never(directory, &words, &[], "the compiler and the router see no clock, no dice and no world");
    }
}

#[test]
fn the_data_plane_cannot_see_kubernetes() {
    never(
        "gateway/src/http",
        &["tidegate_crd", "crate::compile", "crate::control", "crate::admin", "crate::app"],
        &[],
        "http serves snapshots",
    );
    never(
        "gateway/src/route",
        &["tidegate_crd", "crate::compile", "crate::http", "crate::control"],
        &[],
        "route is below everything",
    );
    never(
        "gateway/src/compile",
        &["crate::http", "crate::control", "crate::admin", "crate::app", "crate::worker"],
        &[],
        "compile is below the planes",
    );
}

#[test]
fn only_what_is_sent_or_kept_has_a_wire_form() {
    let derives =
        ["derive(Serialize", "derive(Deserialize", ", Serialize", ", Deserialize", "derive(serde", ", serde::"];
    let forms = ["view/mod.rs", "view/live.rs", "view/demo.rs", "control/cache.rs", "kubernetes/wire.rs"];
    never("gateway/src", &derives, &forms, "other types are free to change");
    never("l4-core/src", &["serde"], &[], "the core has no wire form");
}

#[test]
fn only_the_top_knows_all_and_may_give_up() {
    let top = [
        "app.rs",
        "main.rs",
        "cli/mod.rs",
        "cli/commands.rs",
        "cli/demo/mod.rs",
        "cli/demo/pods.rs",
        "cli/demo/play.rs",
    ];
    never("gateway/src", &["anyhow"], &top, "below the top, errors have types");
    never("gateway/src", &["crate::app"], &top, "nobody else knows the app");
    never(
        "gateway/src",
        &["println!"],
        &["main.rs", "cli/demo/mod.rs", "cli/demo/pods.rs"],
        "stdout belongs to the command line",
    );
    never("l4-core/src", &["println!", "eprintln!"], &[], "the core logs");
}

#[test]
fn nothing_unwraps_without_a_reason() {
    for directory in ["l4-core/src", "crd/src", "gateway/src"] {
        never(
            directory,
            &[".unwrap()", "panic!(", "todo!(", "unimplemented!(", "dbg!("],
            &[],
            "say why it cannot be, or handle it",
        );
    }
}

#[test]
fn every_allow_has_a_reason() {
    for directory in ["l4-core/src", "crd/src", "gateway/src"] {
        for (name, text) in sources(directory) {
            for (number, line) in
                code(&text).filter(|(_, line)| line.contains("#[allow(") || line.contains("#[expect("))
            {
                assert!(
                    line.contains("reason") || text.lines().skip(number).take(3).any(|l| l.contains("reason")),
                    "{name}:{number}"
                );
            }
        }
    }
}

#[test]
fn the_readmes_table_tells_the_truth() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let table = readme.split("## Where is…?").nth(1).expect("the table").split("\n## ").next().unwrap();
    let paths: Vec<&str> = table.split('`').skip(1).step_by(2).filter(|path| path.contains('/')).collect();
    assert!(paths.len() >= 10, "{paths:?}");
    for path in paths {
        let file = path.split("::").next().unwrap();
        assert!(root().join(file).exists(), "README names {path}, which is not there");
        if let Some((_, item)) = path.split_once("::") {
            assert!(
                fs::read_to_string(root().join(file)).unwrap().contains(item),
                "README names {path}, which is not there"
            );
        }
    }
}

/// The longest files and functions, for people to look at; long is a hint, not an error (clippy counts functions).
#[test]
fn prints_the_longest_files() {
    let mut lengths: Vec<(usize, String)> = Vec::new();
    for directory in ["l4-core/src", "crd/src", "gateway/src"] {
        lengths.extend(sources(directory).into_iter().map(|(name, text)| (code(&text).count(), name)));
    }
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    for (length, name) in lengths.iter().take(8) {
        println!("{length:5} {name}");
    }
}

#[test]
fn formatting() {
    for manifest in ["Cargo.toml", "tests/fuzz/Cargo.toml"] {
        let output = Command::new(env!("CARGO"))
            .args(["fmt", "--all", "--check", "--manifest-path", manifest])
            .current_dir(root())
            .output()
            .expect("cargo fmt runs");
        let diff = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "run `cargo fmt --manifest-path {manifest}`:\n{diff}");
    }
}

/// The fuzz targets are a workspace of their own, and what ours comes to depend on, they do too.
#[test]
fn the_fuzz_targets_are_locked() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1", "--manifest-path", "tests/fuzz/Cargo.toml"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let update = "cargo update --workspace --manifest-path tests/fuzz/Cargo.toml";
    assert!(output.status.success(), "run `{update}`:\n{said}");
}

#[test]
fn lints() {
    let mut cargo = Command::new(env!("CARGO"));
    // Where this test was built: what the build scripts of our libraries made, minutes of C among it, is there.
    cargo
        .args(["clippy", "--workspace", "--all-targets", "--features", "tidegate/fuzzing", "--quiet", "--target-dir"])
        .arg(target_directory())
        .args(["--", "-D", "warnings"]);
    let output = cargo.current_dir(root()).output().expect("cargo clippy runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
