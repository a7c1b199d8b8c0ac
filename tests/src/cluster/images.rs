//! The images that are in every node: what a pod's namespaces are held with, and agnhost with what tests run in pods.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Failure, machine::find, programs::Programs};
use crate::oci::{File, Image};

/// The image that holds a pod's namespaces.
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10.1";

/// Kubernetes' own test image, by the name that its e2e tests of this release have for it.
pub const AGNHOST: &str = "registry.k8s.io/e2e-test-images/agnhost:2.59";

/// What is copied from this machine, with its libraries, if it is here; `dash` is the shell. Debian's static busybox cannot ask DNS.
const TOOLS: [&str; 6] = ["curl", "dash", "getent", "dig", "ss", "ip"];

/// What busybox does.
const APPLETS: [&str; 22] = [
    "cat", "cp", "date", "echo", "env", "false", "grep", "head", "hostname", "kill", "ls", "mkdir", "printf", "ps",
    "rm", "sed", "seq", "sleep", "sort", "true", "uniq", "wc",
];

/// Writes both to a directory.
///
/// # Errors
/// If it cannot be written.
pub(super) fn write(programs: &Programs, directory: &Path) -> Result<(), Failure> {
    fs::create_dir_all(directory)?;
    pause(programs).write(&directory.join("pause.tar"))?;
    agnhost(programs)?.write(&directory.join("agnhost.tar"))?;
    Ok(())
}

fn pause(programs: &Programs) -> Image {
    Image {
        name: PAUSE.to_owned(),
        entrypoint: vec!["/pause".to_owned()],
        files: vec![program("/pause", programs.path("pause"))],
        ..Image::default()
    }
}

fn agnhost(programs: &Programs) -> Result<Image, Failure> {
    let mut files = vec![program("/agnhost", programs.path("agnhost"))];
    let mut libraries = BTreeSet::new();
    for (tool, source) in TOOLS.iter().filter_map(|tool| Some((*tool, find(tool)?))) {
        libraries.extend(libraries_of(&source)?);
        files.push(program(&format!("/bin/{}", if tool == "dash" { "sh" } else { tool }), source));
    }
    files.extend(libraries.into_iter().map(|path| program(&path.display().to_string(), path)));
    if let Some(busybox) = find("busybox") {
        files.push(program("/bin/busybox", busybox));
        files.extend(APPLETS.map(|name| File::Link { path: format!("/bin/{name}"), target: "busybox".to_owned() }));
    }
    let text = |path: &str, text: &str| File::Bytes { path: path.to_owned(), bytes: text.into(), mode: 0o644 };
    files.extend([
        text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        text("/etc/group", "root:x:0:\n"),
        text("/etc/nsswitch.conf", "hosts: files dns\n"),
        File::Directory { path: "/tmp".to_owned(), mode: 0o1777 },
    ]);
    Ok(Image {
        name: AGNHOST.to_owned(),
        entrypoint: vec!["/agnhost".to_owned()],
        cmd: vec!["pause".to_owned()],
        env: vec!["PATH=/bin".to_owned()],
        files,
        ..Image::default()
    })
}

fn program(path: &str, source: PathBuf) -> File {
    File::Regular { path: path.to_owned(), source, mode: 0o755 }
}

/// The shared libraries that a program is linked with, and what loads them.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    let output = Command::new("ldd").arg(program).output()?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`; nothing for a static program.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
