//! Programs: where they are, what they say of themselves, and how they are built.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

/// One program.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: String,
}

/// The directory this program was built into.
///
/// # Errors
/// If it was not built by Cargo.
pub fn target_directory() -> anyhow::Result<PathBuf> {
    Ok(env::current_exe()?.ancestors().nth(2).context("the target directory")?.to_owned())
}

/// Where a program is that is installed.
///
/// # Errors
/// If it is not.
pub fn in_path(name: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let mut paths = directories.map(|directory| directory.join(name));
    paths.find(|path| path.is_file()).with_context(|| format!("{name} is not installed"))
}

/// The program at a path, which says its version when it is given `flag`.
///
/// # Errors
/// If it says none.
pub fn found(path: PathBuf, flag: &str) -> anyhow::Result<Program> {
    let version = version(&said(&path, &[flag])).context("it does not start")?;
    Ok(Program { path, version })
}

/// The version in what a program says of itself: the first word, or part of one, of numbers with dots between.
fn version(text: &str) -> Option<String> {
    let words = text.split(|c: char| c.is_whitespace() || c == '/').map(|word| word.trim_start_matches('v'));
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    words.into_iter().find(is_version).map(str::to_owned)
}

/// What a program says, wherever it says it.
pub fn said(program: &Path, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).stdin(Stdio::null()).output() else { return String::new() };
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

/// Cargo: the one that runs us, if one does.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The Tidegate to measure: the one that is given, or one that is built where this program was built.
///
/// # Errors
/// If there is none, or it cannot be built.
pub fn tidegate(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().with_context(|| path.display().to_string());
    }
    let target = target_directory()?;
    let mut build = cargo();
    build.args(["build", "--release", "-p", "tidegate", "--target-dir"]).arg(&target);
    run(build.current_dir(env!("CARGO_MANIFEST_DIR"))).context("give --tidegate PATH")?;
    Ok(target.join("release/tidegate"))
}

/// Runs a command whose progress is shown.
///
/// # Errors
/// If it fails.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let status = command.stdin(Stdio::null()).status().with_context(|| program.display().to_string())?;
    ensure!(status.success(), "{} has failed", program.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn every_program_says_its_version_in_its_own_way() {
        for (text, expected) in [
            ("tidegate 0.1.0\n", "0.1.0"),
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\n", "2.6.12-1+deb12u4"),
            ("\nenvoy  version: 9e5580933739/1.40.0/Clean/RELEASE/BoringSSL\n", "1.40.0"),
            ("v2.6.2 h1:abc=\n", "2.6.2"),
            ("h2load nghttp2/1.52.0\n", "1.52.0"),
        ] {
            assert_eq!(version(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(version("no such thing\n"), None);
    }
}
